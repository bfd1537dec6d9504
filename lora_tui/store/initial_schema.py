"""The tables of the store's first version; `schema` has what was added since."""

INITIAL = """
CREATE TABLE runs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    mode TEXT NOT NULL,
    name TEXT NOT NULL DEFAULT '',
    state TEXT NOT NULL,
    settings JSON NOT NULL,
    options JSON NOT NULL,
    folder TEXT,
    device TEXT,
    created_at REAL NOT NULL,
    started_at REAL,
    ended_at REAL,
    heartbeat REAL NOT NULL,
    pid INTEGER NOT NULL,
    pid_started REAL NOT NULL,
    host TEXT NOT NULL,
    result JSON,
    error TEXT
);

CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
    at REAL NOT NULL,
    kind TEXT NOT NULL,
    payload JSON NOT NULL
);
CREATE INDEX events_of_run ON events(run_id, id);

CREATE TABLE commands (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
    kind TEXT NOT NULL,
    payload JSON NOT NULL,
    created_at REAL NOT NULL,
    done_at REAL,
    outcome TEXT
);
CREATE INDEX open_commands ON commands(run_id, id) WHERE done_at IS NULL;

CREATE TABLE device_locks (
    device TEXT PRIMARY KEY,
    run_id INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
    taken_at REAL NOT NULL
) WITHOUT ROWID;

CREATE TABLE documents (
    id TEXT PRIMARY KEY,
    characters INTEGER NOT NULL,
    encoding TEXT NOT NULL,
    read_at REAL NOT NULL
) WITHOUT ROWID;

CREATE TABLE run_documents (
    run_id INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
    path TEXT NOT NULL,
    document_id TEXT REFERENCES documents(id),
    bytes INTEGER NOT NULL,
    chunks INTEGER NOT NULL,
    skipped TEXT,
    PRIMARY KEY (run_id, path)
) WITHOUT ROWID;

CREATE TABLE chunks (
    id TEXT PRIMARY KEY,
    document_id TEXT NOT NULL REFERENCES documents(id),
    chunking TEXT NOT NULL,
    position INTEGER NOT NULL,
    first_character INTEGER NOT NULL,
    last_character INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    heading TEXT NOT NULL,
    text TEXT NOT NULL
);
CREATE INDEX chunks_of_document ON chunks(document_id, chunking, position);

CREATE TABLE tasks (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    chunk_id TEXT REFERENCES chunks(id),
    pair_id INTEGER,
    round INTEGER NOT NULL DEFAULT 0,
    source TEXT NOT NULL DEFAULT '',
    slot JSON NOT NULL,
    state TEXT NOT NULL,
    reason TEXT,
    refused INTEGER NOT NULL DEFAULT 0,
    created_at REAL NOT NULL,
    ended_at REAL,
    UNIQUE (run_id, kind, key)
);
CREATE INDEX open_tasks ON tasks(run_id, kind, id) WHERE state = 'pending';

CREATE TABLE attempts (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    task_id INTEGER NOT NULL REFERENCES tasks(id) ON DELETE CASCADE,
    run_id INTEGER NOT NULL,
    sent_at REAL NOT NULL,
    ended_at REAL,
    status TEXT NOT NULL,
    http_status INTEGER,
    request_id TEXT,
    estimated_tokens INTEGER NOT NULL DEFAULT 0,
    prompt_tokens INTEGER NOT NULL DEFAULT 0,
    completion_tokens INTEGER NOT NULL DEFAULT 0,
    cached_tokens INTEGER NOT NULL DEFAULT 0,
    reply TEXT,
    error TEXT
);
CREATE INDEX attempts_of_run ON attempts(run_id, status);
CREATE INDEX attempts_of_task ON attempts(task_id);

CREATE TABLE pairs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
    task_id INTEGER NOT NULL REFERENCES tasks(id) ON DELETE CASCADE,
    ordinal INTEGER NOT NULL,
    chunk_id TEXT REFERENCES chunks(id),
    source TEXT NOT NULL,
    question TEXT NOT NULL,
    answer TEXT NOT NULL,
    evidence TEXT NOT NULL,
    topic TEXT NOT NULL,
    slot JSON NOT NULL,
    question_key TEXT NOT NULL,
    state TEXT NOT NULL,
    score REAL,
    cause TEXT NOT NULL DEFAULT '',
    reason TEXT NOT NULL DEFAULT '',
    analysis_version INTEGER NOT NULL DEFAULT 0,
    created_at REAL NOT NULL,
    decided_at REAL,
    UNIQUE (task_id, ordinal)
);
CREATE INDEX pairs_of_run ON pairs(run_id, id);
CREATE INDEX pairs_by_state ON pairs(run_id, state, id);
CREATE INDEX pairs_by_question ON pairs(run_id, question_key);
CREATE INDEX pairs_of_chunk ON pairs(chunk_id, run_id);

CREATE TABLE pair_metrics (
    pair_id INTEGER NOT NULL REFERENCES pairs(id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    value REAL NOT NULL,
    detail TEXT,
    PRIMARY KEY (pair_id, name)
) WITHOUT ROWID;

CREATE TABLE decisions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    pair_id INTEGER NOT NULL REFERENCES pairs(id) ON DELETE CASCADE,
    verdict TEXT NOT NULL,
    score REAL,
    threshold REAL,
    weights_version INTEGER NOT NULL,
    decided_by TEXT NOT NULL,
    reason TEXT NOT NULL,
    at REAL NOT NULL
);
CREATE INDEX decisions_of_pair ON decisions(pair_id, id);

CREATE TABLE analyses (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
    version INTEGER NOT NULL,
    at_accepted INTEGER NOT NULL,
    statistics JSON NOT NULL,
    directives JSON NOT NULL,
    text TEXT NOT NULL,
    at REAL NOT NULL,
    UNIQUE (run_id, version)
);

CREATE TABLE feedback (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    scope TEXT NOT NULL,
    run_id INTEGER REFERENCES runs(id) ON DELETE SET NULL,
    subject TEXT NOT NULL,
    subject_id INTEGER NOT NULL,
    metrics JSON NOT NULL,
    target REAL NOT NULL,
    given_by TEXT NOT NULL,
    at REAL NOT NULL,
    undone_at REAL
);
CREATE INDEX feedback_in_force ON feedback(scope, id) WHERE undone_at IS NULL;

CREATE TABLE weight_versions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    scope TEXT NOT NULL,
    version INTEGER NOT NULL,
    weights JSON NOT NULL,
    at REAL NOT NULL
);
CREATE INDEX weight_versions_of_scope ON weight_versions(scope, id);

CREATE TABLE steps (
    run_id INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
    step INTEGER NOT NULL,
    epoch REAL NOT NULL,
    loss REAL,
    lr REAL NOT NULL,
    grad_norm REAL,
    tokens INTEGER NOT NULL,
    tokens_per_s REAL NOT NULL,
    seconds REAL NOT NULL,
    memory_mb REAL NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (run_id, step)
) WITHOUT ROWID;

CREATE TABLE evaluations (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
    step INTEGER NOT NULL,
    model TEXT NOT NULL,
    score REAL NOT NULL,
    metrics JSON NOT NULL,
    weights JSON NOT NULL,
    weights_version INTEGER NOT NULL,
    at REAL NOT NULL,
    UNIQUE (run_id, step, model)
);

CREATE TABLE samples (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    evaluation_id INTEGER NOT NULL REFERENCES evaluations(id) ON DELETE CASCADE,
    ordinal INTEGER NOT NULL,
    prompt TEXT NOT NULL,
    kind TEXT NOT NULL,
    reference TEXT NOT NULL,
    answer TEXT NOT NULL,
    metrics JSON NOT NULL,
    score REAL NOT NULL
);
CREATE INDEX samples_of_evaluation ON samples(evaluation_id, ordinal);

CREATE TABLE checkpoints (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
    step INTEGER NOT NULL,
    kind TEXT NOT NULL,
    path TEXT NOT NULL,
    score REAL,
    at REAL NOT NULL
);
CREATE INDEX checkpoints_of_run ON checkpoints(run_id, id);

CREATE TABLE conversations (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id INTEGER REFERENCES runs(id) ON DELETE SET NULL,
    model TEXT NOT NULL,
    adapter TEXT,
    created_at REAL NOT NULL
);

CREATE TABLE turns (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    conversation_id INTEGER NOT NULL REFERENCES conversations(id) ON DELETE CASCADE,
    role TEXT NOT NULL,
    text TEXT NOT NULL,
    statistics JSON NOT NULL,
    at REAL NOT NULL
);
CREATE INDEX turns_of_conversation ON turns(conversation_id, id);
"""
