"""A harness in an empty folder for each test; nothing of the developer's own is read."""

from pathlib import Path

import pytest
from textual.widgets import Input, TextArea

from tests.tui.app_harness import AppHarness


@pytest.fixture
def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AppHarness:
    """A harness whose store does not exist yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("LORA_TUI_CONFIG", str(tmp_path / "config"))
    return AppHarness(tmp_path / "store.db")


@pytest.fixture(autouse=True)
def _steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cursors that do not blink: a snapshot must not depend on the moment."""
    monkeypatch.setattr(Input, "cursor_blink", False, raising=False)
    monkeypatch.setattr(TextArea, "cursor_blink", False, raising=False)
