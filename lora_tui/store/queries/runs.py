"""Lists of runs and of conversations, one line each, and whether there is anything new to look at."""

from dataclasses import dataclass, replace

from lora_tui.store.connection import Store

_FIRST_LINE = 200


@dataclass(frozen=True, slots=True)
class RunLine:
    """A run without its settings: what it works with and on, and how good its tuned model became.

    Of its evaluations, `best_score` (0-1) is the highest, `held_out_loss` (nats a label token) the lowest. `model` and
    `data` are empty where its mode has none. Times are seconds since the epoch.
    """

    id: int
    mode: str
    name: str
    state: str
    device: str | None
    folder: str | None
    created_at: float
    started_at: float | None
    ended_at: float | None
    heartbeat: float
    pid: int
    host: str
    error: str | None
    model: str
    data: str
    best_score: float | None
    held_out_loss: float | None


@dataclass(frozen=True, slots=True)
class ConversationLine:
    """A conversation: who was talked to, how it began, and how many messages each side has."""

    id: int
    run_id: int | None
    model: str
    adapter: str | None
    created_at: float
    first_line: str
    user_turns: int
    assistant_turns: int
    last_at: float


# An evaluation and an export take their model from the adapter, not from the configuration.
_MODEL = """
CASE mode
    WHEN 'generate' THEN json_extract(settings, '$.data_generation.model')
    WHEN 'format' THEN ''
    WHEN 'evaluate' THEN json_extract(result, '$.base_model')
    WHEN 'export' THEN json_extract(result, '$.base_model')
    ELSE json_extract(settings, '$.fine_tuning.model_name')
END"""

_DATA = """
CASE mode
    WHEN 'generate' THEN json_extract(settings, '$.data_generation.input_folder')
    WHEN 'format' THEN json_extract(options, '$.raw')
    WHEN 'train' THEN COALESCE(
        NULLIF(json_extract(options, '$.train_data_file'), ''),
        NULLIF(json_extract(settings, '$.fine_tuning.train_data_file'), ''),
        json_extract(settings, '$.data_generation.output_file'))
END"""

# A run that has not ended, or ended badly, has no result; its evaluations tell how good it was.
_BEST_SCORE = """
CASE
    WHEN json_type(result, '$.best_score') IN ('integer', 'real') THEN json_extract(result, '$.best_score')
    WHEN json_type(result, '$.tuned_score') IN ('integer', 'real') THEN json_extract(result, '$.tuned_score')
    WHEN mode IN ('train', 'quickstart', 'evaluate')
        THEN (SELECT MAX(score) FROM evaluations WHERE run_id = runs.id AND model = 'tuned')
END"""

_RUN_LINES = f"""
SELECT id, mode, name, state, device, folder, created_at, started_at, ended_at, heartbeat, pid, host, error,
    COALESCE({_MODEL}, '') AS model, COALESCE({_DATA}, '') AS data, CAST({_BEST_SCORE} AS REAL) AS best_score,
    (SELECT MIN(held_out_loss) FROM evaluations WHERE run_id = runs.id AND model = 'tuned') AS held_out_loss
FROM runs ORDER BY id DESC LIMIT ?"""

_CONVERSATIONS = """
SELECT id, run_id, model, adapter, created_at,
    COALESCE((SELECT substr(text, 1, ?) FROM turns WHERE conversation_id = conversations.id AND role = 'user'
        ORDER BY id LIMIT 1), '') AS first_line,
    (SELECT COUNT(*) FROM turns WHERE conversation_id = conversations.id AND role = 'user') AS user_turns,
    (SELECT COUNT(*) FROM turns WHERE conversation_id = conversations.id AND role = 'assistant') AS assistant_turns,
    (SELECT at FROM turns WHERE conversation_id = conversations.id ORDER BY id DESC LIMIT 1) AS last_at
FROM conversations WHERE EXISTS (SELECT 1 FROM turns WHERE conversation_id = conversations.id)
ORDER BY id DESC LIMIT ?"""


async def data_version(store: Store) -> int:
    """Return a number that is another one once any *other* connection has written; what this one writes does not show.

    It costs a few microseconds, whatever the size of the store.
    """
    return int(await store.value("PRAGMA data_version"))


async def run_lines(store: Store, limit: int = 1000) -> list[RunLine]:
    """Return the newest runs, the newest first; every run where `limit` is negative."""
    return await store.all(RunLine, _RUN_LINES, (limit,))


async def conversations(store: Store, limit: int = 100) -> list[ConversationLine]:
    """Return the newest conversations in which something was said, the newest first, each with how the user began."""
    rows = await store.all(ConversationLine, _CONVERSATIONS, (_FIRST_LINE, limit))
    return [replace(row, first_line=(row.first_line.strip().splitlines() or [""])[0]) for row in rows]
