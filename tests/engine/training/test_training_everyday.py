"""Everyday questions beside the data: true, each of its own, and read as they are."""

from typing import Any

from lora_tui.config.keys import all_keys
from lora_tui.engine.data.examples import QuestionAnswer
from lora_tui.engine.data.reworded import EVERYDAY
from lora_tui.engine.training.dataset import TextDataset
from lora_tui.engine.training.everyday import PAIRS, everyday_examples


def test_as_many_are_there_as_the_configuration_allows_and_no_two_are_alike() -> None:
    assert f"at most {len(PAIRS)}" in all_keys()["fine_tuning.training.everyday_examples"].bounds
    assert len({question for question, _ in PAIRS}) == len({answer for _, answer in PAIRS}) == len(PAIRS)
    assert all(answer.endswith((".", "?")) and len(answer.split()) > 3 for _, answer in PAIRS)


def test_the_first_ones_are_taken() -> None:
    assert everyday_examples(0) == []
    assert [(one.question, one.answer) for one in everyday_examples(3)] == list(PAIRS[:3])
    assert {one.source for one in everyday_examples(24)} == {EVERYDAY}


def test_each_pass_reads_the_next_ones_as_they_are(tokenizer: Any) -> None:
    taught = QuestionAnswer("How many ovens has the guild hall?", "The guild hall has seven ovens.", "mine.txt")
    dataset = TextDataset([taught], tokenizer, reworded_share=0.9)
    dataset.extend(everyday_examples(4))
    whole = TextDataset(everyday_examples(len(PAIRS)), tokenizer)
    for epoch in range(50):
        read = [dataset.as_read(index, epoch) for index in range(1, 5)]
        assert read == [whole[(epoch * 4 + place) % len(PAIRS)] for place in range(4)]
