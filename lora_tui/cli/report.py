"""Telling the user what went wrong: one or two lines on stderr, and with ``--json`` the closing ``done`` line."""

import logging
import time
from pathlib import Path

from lora_tui.cli.lines import done_line
from lora_tui.cli.streams import Streams
from lora_tui.secrets import redact
from lora_tui.text import clean

log = logging.getLogger(__name__)

PREFIX = "lora-tui: "

_LINES = 2
_LINE_LENGTH = 500


class Report:
    """Says things that do not come from a run's events. `run_id` is the run at hand, once there is one."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self.json_lines = False
        self.run_id: int | None = None
        self.log_file: Path | None = None
        self.is_done = False

    def say(self, text: str) -> None:
        """Write a line of narration."""
        self._streams.err.write(PREFIX + clean(text) + "\n")
        self._streams.err.flush()

    def warn(self, text: str) -> None:
        """Write a warning."""
        self.say(f"warning: {redact(text)}")

    def data(self, text: str) -> None:
        """Write lines of data."""
        self._streams.out.write(text + "\n")
        self._streams.out.flush()

    def fail(self, message: str, exit_status: int) -> int:
        """Say why there is no result, close the data with a ``done`` line, and return the exit status."""
        error = redact(message)
        self.done("failed", exit_status, {}, error)
        self.say(shortened(error))
        return exit_status

    def done(self, status: str, exit_status: int, result: dict[str, object], error: str | None = None) -> None:
        """Write the closing ``done`` line, with ``--json`` and unless it has been written."""
        if self.json_lines and not self.is_done:
            self.is_done = True
            self.data(done_line(self.run_id, time.time(), status, exit_status, result, error))

    def unexpected(self, problem: BaseException | str) -> str:
        """Return the message for a mistake of ours."""
        what = problem if isinstance(problem, str) else f"{type(problem).__name__}: {problem}"
        kept = self.log_file is not None and self.log_file.is_file()
        where = (
            f"The log has the details: {self.log_file}" if kept else "There is no log: its folder cannot be written."
        )
        return f"something went wrong that is not your doing: {shortened(what, lines=1)}\n{where}"


def shortened(message: str, lines: int = _LINES) -> str:
    """Return a message made safe for a terminal and cut to its first lines."""
    kept = [line.strip() for line in clean(message).splitlines() if line.strip()][:lines]
    return "\n".join(line if len(line) <= _LINE_LENGTH else line[: _LINE_LENGTH - 1] + "…" for line in kept)
