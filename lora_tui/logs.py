"""Logging set-up: one rotating, private log file without secrets, and quiet libraries.

Tracebacks, warnings and what libraries have to say go to one file in the user's log folder. Nothing of it reaches the
terminal, save with ``--log-level DEBUG``. Secrets are redacted on the way in, in messages and tracebacks alike.
"""

import faulthandler
import logging
import os
import sys
from contextlib import suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, TextIO

from lora_tui.config.paths import log_folder, private_folder
from lora_tui.outputs import protect
from lora_tui.secrets import redact
from lora_tui.text import clean

FILE_NAME = "lora-tui.log"

_MAX_BYTES = 2_000_000
_OLD_FILES = 3
_FORMAT = "%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"

# httpx, aiosqlite and the like log every request or statement at INFO or DEBUG; aiosqlite's hold the user's data.
_CHATTY = ("aiosqlite", "asyncio", "filelock", "httpcore", "httpx", "httpx2", "openai", "peft", "urllib3")
_WITH_OWN_HANDLERS = ("huggingface_hub", "transformers")

_crash_file: TextIO | None = None


def set_up_logging(level: str = "INFO", *, on_stderr: bool = False) -> Path:
    """Send all logging to the log file and return its path; call once, before any heavy import.

    `on_stderr` shows records and tracebacks on stderr as well. A log folder that cannot be written costs the log, with
    a warning, not the run.
    """
    _quieten_libraries()
    path = log_folder() / FILE_NAME
    handlers: list[logging.Handler] = []
    try:
        private_folder(path.parent)
        for old in ("", *(f".{number}" for number in range(1, _OLD_FILES + 1))):
            protect(path.with_name(path.name + old), "the log")
        handlers.append(_PrivateRotatingFile(path))
        _log_crashes(path)
    except OSError as problem:
        handlers.append(logging.NullHandler())
        sys.stderr.write(f"lora-tui: warning: no log is kept, {path} cannot be written: {problem.strerror}\n")
    if on_stderr:
        handlers.append(logging.StreamHandler())
    for handler in handlers:
        handler.setFormatter(_RedactingFormatter(_FORMAT))
    logging.basicConfig(handlers=handlers, force=True)
    logging.captureWarnings(True)
    set_level(level)
    return path


def set_level(level: str) -> None:
    """Set the level of our loggers; those of chatty libraries stay at WARNING or above."""
    ours = logging.getLevelNamesMapping()[level.upper()]
    logging.getLogger().setLevel(ours)
    for name in (*_CHATTY, *_WITH_OWN_HANDLERS):
        logging.getLogger(name).setLevel(max(ours, logging.WARNING))


class _RedactingFormatter(logging.Formatter):
    """Formatter that redacts secrets in the whole record, traceback included, and leaves no active character in it.

    Somebody will print the file on a terminal.
    """

    def format(self, record: logging.LogRecord) -> str:
        return clean(redact(super().format(record)), _MAX_BYTES)


class _PrivateRotatingFile(RotatingFileHandler):
    """A rotating file that only its owner can read."""

    def __init__(self, path: Path) -> None:
        self.is_full = False
        super().__init__(path, maxBytes=_MAX_BYTES, backupCount=_OLD_FILES, encoding="utf-8", errors="backslashreplace")

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # the library's name
        """Do without a record that cannot be written, such as on a full disk: a log must not end or disturb a run."""
        problem = sys.exc_info()[1]
        if not isinstance(problem, OSError | ValueError):  # ValueError: closed by a rotation that failed
            super().handleError(record)
        elif not self.is_full:
            self.is_full = True
            reason = getattr(problem, "strerror", None) or problem
            with suppress(OSError, ValueError):
                sys.stderr.write(f"lora-tui: warning: {self.baseFilename} cannot be written: {reason}\n")

    def _open(self) -> Any:
        os.close(os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        Path(self.baseFilename).chmod(0o600)
        return super()._open()


class _FileOnlyLogger(logging.Logger):
    """A library's logger that keeps to our handlers.

    transformers and huggingface_hub give theirs a handler on stderr when they are imported, and stop propagation.
    """

    def addHandler(self, hdlr: logging.Handler) -> None:  # noqa: N802  # the library's name
        """Take no handler."""

    @property
    def propagate(self) -> bool:
        """Always."""
        return True

    @propagate.setter
    def propagate(self, value: bool) -> None:
        pass


def _quieten_libraries() -> None:
    """Keep progress bars, advice and handlers of libraries that are not imported yet off the terminal."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    before = logging.getLoggerClass()
    logging.setLoggerClass(_FileOnlyLogger)
    try:
        for name in _WITH_OWN_HANDLERS:
            logging.getLogger(name)
    finally:
        logging.setLoggerClass(before)


def _log_crashes(path: Path) -> None:
    """Have the interpreter write where it was to the log when native code brings the process down."""
    global _crash_file
    if _crash_file is not None:
        _crash_file.close()
    _crash_file = path.open("a", encoding="utf-8")
    faulthandler.enable(_crash_file)
