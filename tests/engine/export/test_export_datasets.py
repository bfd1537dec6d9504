"""Datasets in other tools' forms, read back by ourselves and by the tools."""

from pathlib import Path
from typing import Any

import pytest

from lora_tui.engine.data.examples import Conversation, Example, Message, PlainText, PromptCompletion, QuestionAnswer
from lora_tui.engine.data.read import read_examples
from lora_tui.engine.export.datasets import FORMS, dataset_text
from lora_tui.errors import LoraTuiError
from tests.engine.tiny import PAIRS
from tests.extras import needed

TRICKY = [
    *PAIRS,
    ("what is «ü»?", 'a letter, "quoted" — 日本 \U0001f984\nwith a second line\n\nand a third after a blank one'),
    ("a | b?", "tab\there, back\\slash"),
]


def pairs() -> list[Example]:
    return [QuestionAnswer(question, answer, f"f:{n}") for n, (question, answer) in enumerate(TRICKY)]


def read_back(tmp_path: Path, form: str, examples: list[Example]) -> list[Example]:
    file = tmp_path / ("data.txt" if form == "text" else "data.jsonl")
    file.write_text(dataset_text(examples, form), encoding="utf-8")
    result = read_examples(file)
    assert not result.skipped
    return list(result.examples)


def as_pair(example: Example) -> tuple[str, str]:
    match example:
        case QuestionAnswer(question, answer):
            return question, answer
        case PromptCompletion(prompt, completion):
            assert prompt.startswith("Question: ")
            assert prompt.endswith("\nAnswer:")
            assert completion.startswith(" ")
            return prompt.removeprefix("Question: ").removesuffix("\nAnswer:"), completion[1:]
        case Conversation((Message("user", question), Message("assistant", answer))):
            return question, answer
    raise AssertionError(example)


@pytest.mark.parametrize("form", FORMS)
def test_pairs_come_back_from_every_form_as_they_were(tmp_path: Path, form: str) -> None:
    assert [as_pair(example) for example in read_back(tmp_path, form, pairs())] == TRICKY


def test_prompts_and_completions_train_on_the_very_same_tokens(tmp_path: Path, tokenizer: Any) -> None:
    from lora_tui.engine.training.dataset import TextDataset

    original = TextDataset(pairs(), tokenizer)
    exported = TextDataset(read_back(tmp_path, "prompt-completion", pairs()), tokenizer)
    assert exported.fingerprint() == original.fingerprint()


@pytest.mark.parametrize("form", ["messages", "sharegpt"])
def test_conversations_come_back_with_all_their_turns(tmp_path: Path, form: str) -> None:
    turns = (
        Message("system", "be brief"),
        Message("user", "hi"),
        Message("assistant", "hello"),
        Message("user", "bye"),
        Message("assistant", "so long"),
    )
    (found,) = read_back(tmp_path, form, [Conversation(turns, "f")])
    assert isinstance(found, Conversation)
    assert found.messages == turns


def test_a_prompt_with_its_completion_comes_back_to_the_character(tmp_path: Path) -> None:
    example = PromptCompletion("  once upon\n", " a time ", "f")
    (found,) = read_back(tmp_path, "prompt-completion", [example])
    assert isinstance(found, PromptCompletion)
    assert (found.prompt, found.completion) == (example.prompt, example.completion)


@pytest.mark.parametrize("form", FORMS)
def test_plain_text_has_no_place_in_a_form_of_pairs(form: str) -> None:
    with pytest.raises(LoraTuiError, match=rf"f:7 .*{form}"):
        dataset_text([PlainText("text", "f:7")], form)


@pytest.mark.parametrize("form", ["prompt-completion", "alpaca", "text"])
def test_a_longer_conversation_has_no_place_in_a_form_of_pairs(form: str) -> None:
    turns = tuple(Message(role, "x") for role in ("user", "assistant", "user", "assistant"))  # type: ignore[arg-type]
    with pytest.raises(LoraTuiError, match=rf"f:7 .*{form}"):
        dataset_text([Conversation(turns, "f:7")], form)


def test_the_datasets_library_and_trl_read_prompts_and_completions(tmp_path: Path) -> None:
    datasets = needed("datasets")
    trl = needed("trl")
    file = tmp_path / "data.jsonl"
    file.write_text(dataset_text(pairs(), "prompt-completion"), encoding="utf-8")
    rows = datasets.load_dataset("json", data_files=str(file), split="train", cache_dir=str(tmp_path / "cache"))
    assert sorted(rows.column_names) == ["completion", "prompt"]
    assert [(row["prompt"], row["completion"]) for row in rows] == [
        (f"Question: {question}\nAnswer:", f" {answer}") for question, answer in TRICKY
    ]
    assert not trl.is_conversational(rows[0])
    file.write_text(dataset_text(pairs(), "messages"), encoding="utf-8")
    rows = datasets.load_dataset("json", data_files=str(file), split="train", cache_dir=str(tmp_path / "cache"))
    assert trl.is_conversational(rows[0])
