"""A harness in an empty folder for each test; nothing of the developer's own is read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.css.stylesheet import Stylesheet
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


def _parsed_once(parse: Callable[..., Any]) -> Callable[..., Any]:
    """Style sheets parsed once for all apps of this process: a fifth of the processor time of a test."""
    parsed: dict[Any, Any] = {}

    def parse_rules(sheet: Stylesheet, css: str, *args: Any, **more: Any) -> Any:
        key = (css, args, *sorted(more.items()), *sorted(sheet._variables.items()))
        if key not in parsed:
            parsed[key] = parse(sheet, css, *args, **more)
        return parsed[key]

    return parse_rules


Stylesheet._parse_rules = _parsed_once(Stylesheet._parse_rules)  # type: ignore[method-assign]
