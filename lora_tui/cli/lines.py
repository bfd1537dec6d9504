"""JSON lines: what ``--json`` writes to stdout, one object a line, ASCII only.

Each has ``event``, ``run`` (null when there is no run), ``at`` (UTC, ISO 8601 with milliseconds:
``2026-01-31T12:00:00.000Z``) and the event's own fields. The text in them is the original: escaped control characters
cannot act on a terminal.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

_OWN = ("event", "run", "at")


def json_line(kind: str, run_id: int | None, at: float, payload: Mapping[str, Any]) -> str:
    """Return one event as a line without its line end. `at` is in seconds since the epoch."""
    own = {"event": kind, "run": run_id, "at": timestamp(at)}
    own.update({key: value for key, value in payload.items() if key not in _OWN})
    return json.dumps(own, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def timestamp(at: float) -> str:
    """Return seconds since the epoch as ``2026-01-31T12:00:00.000Z``."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def done_line(
    run_id: int | None, at: float, status: str, exit_status: int, result: Mapping[str, Any], error: str | None
) -> str:
    """Return the last line of every ``--json`` output."""
    payload = {"status": status, "exit_status": exit_status, "result": dict(result), "error": error}
    return json_line("done", run_id, at, payload)
