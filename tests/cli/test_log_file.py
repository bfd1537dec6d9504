"""The log: private, without keys, and the only place where libraries and tracebacks speak."""

import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_tui import logs


@pytest.fixture
def log_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Logging of this process into a folder of its own, put back afterwards."""
    root = logging.getLogger()
    handlers, level = [*root.handlers], root.level
    monkeypatch.setenv("LORA_TUI_LOGS", str(tmp_path / "logs"))
    yield tmp_path / "logs"
    for handler in [*root.handlers]:
        root.removeHandler(handler)
        if handler not in handlers:
            handler.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(False)


def test_the_file_belongs_to_its_owner_alone(log_folder: Path) -> None:
    path = logs.set_up_logging()
    logging.getLogger("lora_tui.x").info("hello")
    assert path == log_folder / "lora-tui.log"
    assert path.stat().st_mode & 0o777 == 0o600
    assert log_folder.stat().st_mode & 0o777 == 0o700
    assert "hello" in path.read_text()


def test_what_a_terminal_would_act_on_is_shown_instead(log_folder: Path) -> None:
    path = logs.set_up_logging()
    try:
        raise ValueError("\x1b]52;c;ZXZpbA==\x07 in a name")
    except ValueError:
        logging.getLogger("lora_tui.x").exception("of a file: \x1b[31m\x9b")
    assert not set(path.read_text(encoding="utf-8")) & set("\x1b\x07\x9b")
    assert "in a name" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "text",
    [
        "the key is a-secret-of-mine.",
        "headers: {'Authorization': 'Bearer abc.DEF-123_x'}",
        "key sk-proj-abcdefABCDEF123456 was refused",
        "token hf_abcdefghijKLMNOP",
    ],
)
def test_keys_are_blotted_out_of_messages_and_tracebacks(
    log_folder: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "a-secret-of-mine")
    path = logs.set_up_logging()
    logging.getLogger("lora_tui.x").warning("said: %s", text)
    try:
        raise ValueError(text)
    except ValueError:
        logging.getLogger("lora_tui.x").exception("failed")
    written = path.read_text()
    assert "Traceback" in written
    assert written.count("[redacted]") >= 2
    for secret in ("a-secret-of-mine", "abc.DEF-123_x", "sk-proj-abc", "hf_abcdef"):
        assert secret not in written


def test_warnings_go_to_the_file(log_folder: Path) -> None:
    path = logs.set_up_logging()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("mind the gap", stacklevel=1)
    assert "mind the gap" in path.read_text()


def test_a_folder_that_cannot_be_written_costs_the_log_and_not_the_run(
    log_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LORA_TUI_LOGS", "/dev/null/logs")
    logs.set_up_logging()
    logging.getLogger("lora_tui.x").error("nobody hears this")
    said = capsys.readouterr().err
    assert said.startswith("lora-tui: warning: no log is kept, /dev/null/logs/lora-tui.log cannot be written")
    assert "nobody hears this" not in said


def test_a_library_that_brings_its_own_handler_stays_off_the_terminal(tmp_path: Path) -> None:
    code = (
        "import logging, sys\n"
        "from lora_tui import logs\n"
        "path = logs.set_up_logging()\n"
        "library = logging.getLogger('transformers')\n"  # what transformers does when it is imported
        "library.addHandler(logging.StreamHandler())\n"
        "library.propagate = False\n"
        "library.setLevel(logging.WARNING)\n"
        "logging.getLogger('transformers.modeling').warning('weights are tied')\n"
        "print(path.read_text())\n"
    )
    environment = {**os.environ, "LORA_TUI_LOGS": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "weights are tied" in done.stdout
    assert done.stderr == ""
