"""Everyday questions beside the data: the base model's own answers, kept with the run."""

import json
from pathlib import Path
from typing import Any

import pytest

from lora_tui.engine.data.reworded import EVERYDAY
from lora_tui.engine.training import everyday
from lora_tui.engine.training.dataset import TextDataset
from tests.engine.tiny import make_model


@pytest.fixture
def replies(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the model answers, one reply a question; the last is said again and again."""
    said: list[str] = ["Madrid. It is large.", "", "seven days", "He did!\nAnd more", "In the south."]
    monkeypatch.setattr(
        everyday, "answers", lambda _m, _t, prompts, _d: [said[min(n, len(said) - 1)] for n in range(len(prompts))]
    )
    return said


@pytest.mark.usefixtures("replies")
def test_an_answer_is_the_first_whole_sentence_and_one_without_an_end_is_left_out(tokenizer: Any) -> None:
    found = everyday.everyday_examples(make_model(tokenizer), tokenizer, 5)
    assert [(one.question, one.answer) for one in found] == [
        (everyday.QUESTIONS[0], "Madrid."),
        (everyday.QUESTIONS[3], "He did!"),
        (everyday.QUESTIONS[4], "In the south."),
    ]
    assert {one.source for one in found} == {EVERYDAY}


def test_a_resumed_run_finds_what_was_answered(tokenizer: Any, tmp_path: Path, replies: list[str]) -> None:
    model = make_model(tokenizer)
    first = everyday.everyday_examples(model, tokenizer, 3, tmp_path / "run")
    replies[:] = ["Something else."]
    assert everyday.everyday_examples(model, tokenizer, 3, tmp_path / "run") == first
    assert json.loads((tmp_path / "run" / "everyday.json").read_text())[0] == [everyday.QUESTIONS[0], "Madrid."]


def test_the_model_itself_is_asked(tokenizer: Any) -> None:
    found = everyday.everyday_examples(make_model(tokenizer), tokenizer, 2)
    assert all(one.answer for one in found)
    assert everyday.everyday_examples(make_model(tokenizer), tokenizer, 0) == []


def test_everyday_questions_are_read_as_they_are(tokenizer: Any) -> None:
    example = everyday.QuestionAnswer(everyday.QUESTIONS[0], "Madrid.", EVERYDAY)
    dataset = TextDataset([example], tokenizer, reworded_share=0.9)
    assert all(dataset.as_read(0, epoch) is dataset[0] for epoch in range(9))
