"""Everyday questions beside the data: the base model's own answers, kept with the run."""

import json
from pathlib import Path
from typing import Any

import pytest

from lora_tui.engine.data.examples import QuestionAnswer
from lora_tui.engine.data.reworded import EVERYDAY
from lora_tui.engine.training import everyday
from lora_tui.engine.training.dataset import TextDataset
from tests.engine.tiny import make_model, make_tokenizer


@pytest.fixture
def replies(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the model answers, one reply a question; the last is said again and again."""
    said: list[str] = ["It is Madrid. It is large.", "", "A:", "He did!\nAnd more", "In the south"]
    monkeypatch.setattr(
        everyday, "answers", lambda _m, _t, prompts, _d: [said[min(n, len(said) - 1)] for n in range(len(prompts))]
    )
    return said


@pytest.mark.usefixtures("replies")
def test_an_answer_is_the_first_sentence_or_line_of_more_than_a_word(tokenizer: Any) -> None:
    found = everyday.everyday_examples(make_model(tokenizer), tokenizer, 5)
    assert [(one.question, one.answer) for one in found] == [
        (everyday.QUESTIONS[0], "It is Madrid."),
        (everyday.QUESTIONS[3], "He did!"),
        (everyday.QUESTIONS[4], "In the south"),
    ]
    assert {one.source for one in found} == {EVERYDAY}


def test_a_resumed_run_finds_what_was_answered(tokenizer: Any, tmp_path: Path, replies: list[str]) -> None:
    model = make_model(tokenizer)
    first = everyday.everyday_examples(model, tokenizer, 3, tmp_path / "run")
    replies[:] = ["Something else."]
    assert everyday.everyday_examples(model, tokenizer, 3, tmp_path / "run") == first
    assert json.loads((tmp_path / "run" / "everyday.json").read_text())[0] == [everyday.QUESTIONS[0], "It is Madrid."]


@pytest.mark.parametrize("by_template", [True, False])
def test_the_model_is_asked_as_it_was_taught(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch, by_template: bool
) -> None:
    asked: list[str] = []

    def answer(_model: Any, _tokenizer: Any, prompts: list[str], _decoding: Any) -> list[str]:
        asked.extend(prompts)
        return ["no"] * 2

    monkeypatch.setattr(everyday, "answers", answer)
    own = tokenizer if by_template else make_tokenizer(chat_template=None)
    assert everyday.everyday_examples(make_model(own), own, 2) == []
    ending = "<|im_start|>assistant\n" if by_template else "\nAnswer:"
    assert [prompt.endswith(ending) for prompt in asked] == [True, True]


def test_the_model_itself_is_asked(tokenizer: Any) -> None:
    found = everyday.everyday_examples(make_model(tokenizer), tokenizer, 2)
    assert all(len(one.answer.split()) > 1 for one in found)
    assert everyday.everyday_examples(make_model(tokenizer), tokenizer, 0) == []


def test_everyday_questions_are_read_as_they_are(tokenizer: Any) -> None:
    example = QuestionAnswer(everyday.QUESTIONS[0], "Madrid.", EVERYDAY)
    dataset = TextDataset([example], tokenizer, reworded_share=0.9)
    assert all(dataset.as_read(0, epoch) is dataset[0] for epoch in range(9))


def test_what_was_cut_off_before_its_end_is_no_answer() -> None:
    cut = "the river that flows through the"
    assert everyday._first_sentence(cut, cut_off=True) == ""
    assert everyday._first_sentence(cut, cut_off=False) == cut
    assert everyday._first_sentence(f"It is one. {cut}", cut_off=True) == "It is one."
