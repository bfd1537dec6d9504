"""Steering against a model that repeats itself: at as many tokens, more of the text is asked about."""

from pathlib import Path

import pytest

from tests.bench.generation_diversity import RepeatingServer, compare
from tests.engine.generation.conftest import KEY
from tests.openai_server import MODEL, made_up_text


def test_more_of_the_text_is_asked_about_at_as_many_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("LORA_TUI_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "input"
    folder.mkdir()
    (folder / "one.md").write_text("# First\n\n" + made_up_text(1, 3) + "\n# Second\n\n" + made_up_text(2, 3))
    with RepeatingServer(follow=0.9, seed=1) as server:
        values = {"base_url": server.url, "model": MODEL, "total_examples": 500, "budget_tokens": 50_000}
        found = compare(folder, values)
    off, on = found["off"], found["on"]
    assert 0 < on["tokens"] <= 50_000
    assert on["sentences"] > off["sentences"]
    assert on["repeated_share"] < off["repeated_share"]
    assert on["question_entropy"] > off["question_entropy"]
