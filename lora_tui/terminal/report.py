"""Writer of messages (stderr), of JSON lines and other data (stdout), and of every failure.

With ``--json`` stdout is one JSON object a line, ASCII only. Each has ``event``, ``run`` (null when there is no run),
``at`` (UTC, ISO 8601 with milliseconds: ``2026-01-31T12:00:00.000Z``) and the event's own fields; the last is ``done``.
The text in them is the original: escaped control characters cannot act on a terminal.
"""

import json
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lora_tui.errors import LoraTuiError
from lora_tui.logs import set_up_logging
from lora_tui.secrets import redact
from lora_tui.system_errors import explain
from lora_tui.terminal.signals import BROKEN_PIPE_STATUS
from lora_tui.terminal.streams import Streams
from lora_tui.text import clean

log = logging.getLogger(__name__)

PREFIX = "lora-tui: "

_ENCODER = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":"))
_COMMON_FIELDS = ("event", "run", "at")
_LINES = 2
_LINE_LENGTH = 500


class Report:
    """Writer of messages, data lines and failures. `run_id` is the run at hand, once there is one."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self.json_lines = False
        self.run_id: int | None = None
        self.log_file: Path | None = None
        self.is_done = False

    def message(self, text: str) -> None:
        """Write a message to stderr, behind the program's name and without keys."""
        self._streams.err.write(PREFIX + clean(redact(text)) + "\n")
        self._streams.err.flush()

    def data(self, text: str) -> None:
        """Write lines to stdout."""
        self._streams.out.write(text + "\n")
        self._streams.out.flush()

    def fail(self, message: str, exit_status: int) -> int:
        """Say why there is no result, close the data with a ``done`` line, and return the exit status."""
        error = redact(message)
        with suppress(OSError):  # what is to be told may be that nothing more can be written there
            self.done("failed", exit_status, {}, error)
        with suppress(OSError):
            self.message(shortened(error))
        return exit_status

    def fail_with(self, problem: BaseException) -> int:
        """Say in one or two lines what went wrong, and return the exit status that follows.

        The traceback of a bug of ours goes to the log. Raises what is no error at all, such as `GeneratorExit`.
        """
        if isinstance(problem, LoraTuiError):
            log.info("%s", problem, exc_info=problem)
            return self.fail(str(problem), problem.exit_status)
        if isinstance(problem, SystemExit):  # a signal has ended a chat
            status = problem.code if isinstance(problem.code, int) else 1
            self.done("interrupted", status, {})
            return status
        if isinstance(problem, KeyboardInterrupt):
            return self.fail("interrupted before anything had begun.", 130)
        if isinstance(problem, BrokenPipeError):
            self._streams.survive(problem)
            return BROKEN_PIPE_STATUS
        if not isinstance(problem, Exception):
            raise problem
        if self.log_file is None:
            self.log_file = set_up_logging()
        if (explained := explain(problem)) is not None:
            log.warning("%s", explained, exc_info=problem)
            return self.fail(str(explained), explained.exit_status)
        log.error("unexpected", exc_info=problem)
        return self.fail(self.unexpected(f"{type(problem).__name__}: {problem}"), 1)

    def done(self, status: str, exit_status: int, result: dict[str, object], error: str | None = None) -> None:
        """Write the closing ``done`` line, with ``--json`` and unless it has been written."""
        if self.json_lines and not self.is_done:
            self.is_done = True
            self.data(done_line(self.run_id, time.time(), status, exit_status, result, error))

    def unexpected(self, problem: str) -> str:
        """Return the message for a bug of ours."""
        kept = self.log_file is not None and self.log_file.is_file()
        where = (
            f"The log has the details: {self.log_file}" if kept else "There is no log: its folder cannot be written."
        )
        return f"something went wrong that is not your doing: {shortened(problem, lines=1)}\n{where}"


def shortened(message: str, lines: int = _LINES) -> str:
    """Return a message made safe for a terminal and cut to its first lines."""
    kept = [line.strip() for line in clean(message).splitlines() if line.strip()][:lines]
    return "\n".join(line if len(line) <= _LINE_LENGTH else line[: _LINE_LENGTH - 1] + "…" for line in kept)


def json_line(kind: str, run_id: int | None, at: float, payload: Mapping[str, Any]) -> str:
    """Return one event as a line without its line end. `at` is in seconds since the epoch."""
    common = {"event": kind, "run": run_id, "at": timestamp(at)}
    fields = {key: value for key, value in payload.items() if key not in _COMMON_FIELDS}
    return _ENCODER.encode(common | fields)


def done_line(
    run_id: int | None, at: float, status: str, exit_status: int, result: Mapping[str, Any], error: str | None
) -> str:
    """Return the last line of every ``--json`` output."""
    payload = {"status": status, "exit_status": exit_status, "result": dict(result), "error": error}
    return json_line("done", run_id, at, payload)


def timestamp(at: float) -> str:
    """Return seconds since the epoch as ``2026-01-31T12:00:00.000Z``."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
