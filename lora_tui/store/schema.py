"""SQL schema of the store: the tables, and the migrations that bring an older file to the current version.

`MIGRATIONS[n]` takes a file from version n to n + 1; ``PRAGMA user_version`` holds the version. A migration that has
been released is never edited: a new one is appended. Columns declared ``JSON`` are decoded when they are read.
"""

from lora_tui.store.initial_schema import INITIAL

_WHAT_PEOPLE_DO = """
CREATE TABLE pair_edits (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    pair_id INTEGER NOT NULL REFERENCES pairs(id) ON DELETE CASCADE,
    question TEXT NOT NULL,
    answer TEXT NOT NULL,
    question_key TEXT NOT NULL,
    at REAL NOT NULL,
    undone_at REAL
);
CREATE INDEX edits_of_pair ON pair_edits(pair_id, id);
CREATE INDEX edits_in_force ON pair_edits(at) WHERE undone_at IS NULL;

ALTER TABLE decisions ADD COLUMN cause TEXT NOT NULL DEFAULT '';
ALTER TABLE decisions ADD COLUMN feedback_id INTEGER;
ALTER TABLE decisions ADD COLUMN undone_at REAL;
UPDATE decisions SET cause = (SELECT cause FROM pairs WHERE pairs.id = pair_id)
    WHERE id IN (SELECT MAX(id) FROM decisions GROUP BY pair_id);
CREATE INDEX overrides_in_force ON decisions(at) WHERE decided_by = 'person' AND undone_at IS NULL;

CREATE INDEX feedback_of_subject ON feedback(subject, subject_id) WHERE undone_at IS NULL;
CREATE INDEX live_runs ON runs(state) WHERE state IN ('queued', 'running', 'stopping');
CREATE INDEX pairs_of_source ON pairs(run_id, source, state, score);
CREATE INDEX events_of_kind ON events(run_id, kind, id);
CREATE INDEX evaluations_by_score ON evaluations(run_id, model, score);
CREATE INDEX attempts_by_end ON attempts(run_id, ended_at);
DROP INDEX attempts_of_run;
CREATE INDEX attempts_of_run ON attempts(
    run_id, status, http_status, prompt_tokens, completion_tokens, cached_tokens, estimated_tokens
);
"""
"""Human review (edits, overrides, ratings), and the indexes that summaries are read from.

`pair_edits` holds a pair's text as it was before an edit. A decision's `feedback_id` is the feedback that a person's
override gave; its `cause` is what the pair's was, so that taking back a later one restores it. Of older decisions only
each pair's last is known to have had the pair's cause; earlier ones were superseded and are never restored.
"""

_HELD_OUT_LOSS = "ALTER TABLE evaluations ADD COLUMN held_out_loss REAL;"
"""The loss on the examples that a run does not train on, beside the score; older runs held none out."""

_WRITTEN = "ALTER TABLE runs ADD COLUMN written JSON;"
"""The dotted keys of a run's settings that somebody wrote; older runs took all as they were."""

_ASKED = "ALTER TABLE feedback ADD COLUMN asked TEXT NOT NULL DEFAULT 'free';"
"""How a rating came about: ``audit`` (asked for at random), ``active`` (asked for because it teaches), or ``free``."""

_JUDGEMENTS = """
CREATE TABLE judgements (
    task_id INTEGER NOT NULL REFERENCES tasks(id) ON DELETE CASCADE,
    judge TEXT NOT NULL,
    subject TEXT NOT NULL,
    metrics JSON NOT NULL,
    note TEXT NOT NULL,
    mode TEXT NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (task_id, judge, subject)
) WITHOUT ROWID;
"""
"""What each of several judges, or a judge that is being checked, has answered about a text; `subject` is its hash."""

_CONTROLS = """
ALTER TABLE evaluations ADD COLUMN controls INTEGER;
ALTER TABLE evaluations ADD COLUMN controls_kept INTEGER;
ALTER TABLE evaluations ADD COLUMN overall REAL;
"""
"""Controls apart from the score, and the mean of both; older evaluations have one score over all prompts."""

_OWNERS = """
ALTER TABLE runs ADD COLUMN owner TEXT;
ALTER TABLE runs ADD COLUMN ticks INTEGER;
ALTER TABLE runs ADD COLUMN place TEXT;
"""
"""The token of a run's owner, and its process in terms that no step of the clock moves (`lora_tui.store.owner`)."""

_RESULTS = """
CREATE TABLE results (
    path TEXT PRIMARY KEY,
    digest TEXT NOT NULL,
    at REAL NOT NULL
) WITHOUT ROWID;
"""
"""The files that were written as results, by absolute path, with the SHA-256 of what was written last."""

_TEXTS = """
CREATE TABLE texts (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
    task_id INTEGER NOT NULL REFERENCES tasks(id) ON DELETE CASCADE,
    ordinal INTEGER NOT NULL,
    form TEXT NOT NULL,
    chunk_id TEXT REFERENCES chunks(id),
    pair_id INTEGER REFERENCES pairs(id) ON DELETE CASCADE,
    source TEXT NOT NULL,
    title TEXT NOT NULL,
    body TEXT NOT NULL,
    messages JSON NOT NULL,
    state TEXT NOT NULL,
    score REAL,
    cause TEXT NOT NULL DEFAULT '',
    reason TEXT NOT NULL DEFAULT '',
    metrics JSON NOT NULL DEFAULT '{}',
    note TEXT NOT NULL DEFAULT '',
    created_at REAL NOT NULL,
    decided_at REAL,
    UNIQUE (task_id, ordinal)
);
CREATE INDEX texts_of_run ON texts(run_id, state, id);
"""
"""What is written beside pairs: documents (`body`), conversations (`messages`), further wordings (`title`, `body`)."""

_CONTENT_IDS = """
ALTER TABLE chunks ADD COLUMN context TEXT NOT NULL DEFAULT '';
ALTER TABLE chunks ADD COLUMN content_id TEXT NOT NULL DEFAULT '';
CREATE INDEX chunks_by_content ON chunks(content_id);
CREATE INDEX runs_of_document ON run_documents(document_id);
"""
"""What a passage is shown with, and the identity that it keeps when its document is edited elsewhere."""

_TOPICS = """
CREATE TABLE topics (
    run_id INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    key TEXT NOT NULL,
    parent INTEGER,
    name TEXT NOT NULL,
    origin TEXT NOT NULL,
    passages INTEGER NOT NULL,
    weight REAL NOT NULL,
    PRIMARY KEY (run_id, number)
) WITHOUT ROWID;
"""
"""The topic tree of a run's folder; a pair's slot has the number of its topic (`area`)."""

_PRICED_CALLS = """
ALTER TABLE attempts ADD COLUMN reasoning_tokens INTEGER NOT NULL DEFAULT 0;
ALTER TABLE attempts ADD COLUMN model TEXT NOT NULL DEFAULT '';
DROP INDEX attempts_of_run;
CREATE INDEX attempts_of_run ON attempts(
    run_id, status, http_status, model, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens,
    estimated_tokens
);
"""
"""Which model a call asked, since models differ in price; of older calls that is not known."""

_BATCHES = """
CREATE TABLE batches (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
    name TEXT NOT NULL UNIQUE,
    batch_id TEXT NOT NULL DEFAULT '',
    state TEXT NOT NULL,
    requests INTEGER NOT NULL,
    answered INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    error TEXT NOT NULL DEFAULT '',
    created_at REAL NOT NULL,
    changed_at REAL NOT NULL
);
CREATE INDEX batches_of_run ON batches(run_id, id);
CREATE TABLE batch_calls (
    attempt_id INTEGER PRIMARY KEY REFERENCES attempts(id) ON DELETE CASCADE,
    batch INTEGER NOT NULL REFERENCES batches(id) ON DELETE CASCADE,
    model TEXT NOT NULL
);
CREATE INDEX calls_of_batch ON batch_calls(batch);
"""
"""Batches of calls that an endpoint answers in its own time (`name` is ours, `batch_id` the endpoint's), and whose."""

_QUEUE = """
CREATE TABLE run_groups (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    plan JSON NOT NULL,
    created_at REAL NOT NULL
);
CREATE TABLE queue (
    run_id INTEGER PRIMARY KEY REFERENCES runs(id) ON DELETE CASCADE,
    position REAL NOT NULL,
    group_id INTEGER REFERENCES run_groups(id),
    point JSON NOT NULL,
    folder TEXT NOT NULL,
    device TEXT NOT NULL DEFAULT '',
    begun INTEGER NOT NULL DEFAULT 0,
    tries INTEGER NOT NULL DEFAULT 0,
    progress INTEGER NOT NULL DEFAULT 0,
    goes_on INTEGER NOT NULL DEFAULT 0,
    added_at REAL NOT NULL
);
CREATE INDEX queue_by_position ON queue(position);
CREATE INDEX queue_by_group ON queue(group_id);
CREATE INDEX waiting_runs ON runs(state) WHERE state IN ('waiting', 'interrupted', 'stopped');
"""
"""The queue of runs (`lora_tui.store.queue`), and the groups of those that a sweep adds; `point` is what one sets."""

_IDLE = "ALTER TABLE runs ADD COLUMN idle_seconds REAL NOT NULL DEFAULT 0;"
"""The seconds from a run's ends to its resumptions, in which nobody worked on it; of older runs they are not known."""

MIGRATIONS: tuple[str, ...] = (
    INITIAL,
    _WHAT_PEOPLE_DO,
    _HELD_OUT_LOSS,
    _WRITTEN,
    _ASKED,
    _JUDGEMENTS,
    _CONTROLS,
    _OWNERS,
    _RESULTS,
    _TEXTS,
    _CONTENT_IDS,
    _TOPICS,
    _PRICED_CALLS,
    _BATCHES,
    _QUEUE,
    _IDLE,
)
"""SQL scripts; entry n takes a file from version n to n + 1."""

VERSION = len(MIGRATIONS)
"""The version this program reads and writes."""
