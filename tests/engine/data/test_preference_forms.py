"""Files of preferences and verdicts as other tools write them."""

import json
from pathlib import Path
from typing import Any

import pytest

from lora_tui.engine.data.examples import (
    Conversation,
    Example,
    JudgedAnswer,
    Preference,
    PromptCompletion,
    QuestionAnswer,
)
from lora_tui.engine.data.read import read_examples, read_judgements
from lora_tui.errors import UsageError

USER, GOOD, BAD = (
    {"role": role, "content": text} for role, text in (("user", "q"), ("assistant", "g"), ("assistant", "b"))
)
SYSTEM = {"role": "system", "content": "s"}
HUMAN, GPT, OTHER = ({"from": who, "value": text} for who, text in (("human", "q"), ("gpt", "g"), ("gpt", "b")))


def told(example: Example) -> tuple[Any, ...]:
    match example:
        case QuestionAnswer(question, answer):
            return ("question", question, answer)
        case PromptCompletion(prompt, completion):
            return ("prompt", prompt, completion)
        case Conversation(messages):
            learned = [turn.content for turn in messages if turn.role == "assistant" and turn.learned]
            return ("turns", "".join(f"<{turn.role}>{turn.content}" for turn in messages), *learned)
        case _:
            raise AssertionError(example)


def written(folder: Path, *records: Any) -> Path:
    path = folder / "judged.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize(
    ("record", "chosen", "rejected"),
    [
        ({"prompt": "The sky is", "chosen": " blue.", "rejected": " green."},
         ("prompt", "The sky is", " blue."), ("prompt", "The sky is", " green.")),
        ({"prompt": [SYSTEM, USER], "chosen": [GOOD], "rejected": [BAD]},
         ("turns", "<system>s<user>q<assistant>g", "g"), ("turns", "<system>s<user>q<assistant>b", "b")),
        ({"prompt": "q", "chosen": [USER, GOOD], "rejected": [USER, BAD], "score_chosen": 7.5, "messages": []},
         ("turns", "<user>q<assistant>g", "g"), ("turns", "<user>q<assistant>b", "b")),
        ({"chosen": [USER, BAD, USER, GOOD], "rejected": [USER, BAD, USER, BAD]},
         ("turns", "<user>q<assistant>b<user>q<assistant>g", "g"),
         ("turns", "<user>q<assistant>b<user>q<assistant>b", "b")),
        ({"chosen": "The capital is Paris.", "rejected": "The capital is Prague."},
         ("prompt", "The capital is", " Paris."), ("prompt", "The capital is", " Prague.")),
        ({"conversations": [HUMAN], "chosen": GPT, "rejected": OTHER, "system": "s"},
         ("turns", "<system>s<user>q<assistant>g", "g"), ("turns", "<system>s<user>q<assistant>b", "b")),
        ({"messages": [USER], "chosen": GOOD, "rejected": BAD},
         ("turns", "<user>q<assistant>g", "g"), ("turns", "<user>q<assistant>b", "b")),
        ({"instruction": "Say", "input": "it", "chosen": "yes", "rejected": "no"},
         ("question", "Say it", "yes"), ("question", "Say it", "no")),
        ({"system": "", "question": "q", "chosen": "g", "rejected": "b"},
         ("question", "q", "g"), ("question", "q", "b")),
        ({"system": "s", "question": "q", "chosen": "g", "rejected": "b"},
         ("turns", "<system>s<user>q<assistant>g", "g"), ("turns", "<system>s<user>q<assistant>b", "b")),
    ],
    ids=["trl", "trl turns", "ultrafeedback", "trl implicit turns", "trl implicit", "sharegpt", "openai", "alpaca",
         "question", "question with system"],
)  # fmt: skip
def test_a_preference_is_two_answers_behind_one_prompt(
    tmp_path: Path, record: dict[str, Any], chosen: tuple[Any, ...], rejected: tuple[Any, ...]
) -> None:
    path = written(tmp_path, record)
    (found,) = read_judgements(path).judgements
    assert isinstance(found, Preference)
    assert (told(found.chosen), told(found.rejected)) == (chosen, rejected)
    assert found.source == found.chosen.source == f"{path}:1"


@pytest.mark.parametrize(
    ("record", "example", "desirable"),
    [
        ({"prompt": "p", "completion": " c", "label": True}, ("prompt", "p", " c"), True),
        ({"prompt": [USER], "completion": [GOOD], "label": False}, ("turns", "<user>q<assistant>g", "g"), False),
        ({"messages": [USER, BAD, USER, GOOD], "label": "good"},
         ("turns", "<user>q<assistant>b<user>q<assistant>g", "g"), True),
        ({"conversations": [HUMAN, GPT], "kto_tag": 0}, ("turns", "<user>q<assistant>g", "g"), False),
        ({"instruction": "Say", "output": "it", "kto_tag": True}, ("question", "Say it"[:3], "it"), True),
    ],
)  # fmt: skip
def test_a_verdict_is_of_the_last_answer(
    tmp_path: Path, record: dict[str, Any], example: tuple[Any, ...], desirable: bool
) -> None:
    (found,) = read_judgements(written(tmp_path, record)).judgements
    assert isinstance(found, JudgedAnswer)
    assert (told(found.example), found.desirable) == (example, desirable)


def test_tables_hold_preferences_too(tmp_path: Path) -> None:
    path = tmp_path / "judged.csv"
    path.write_text('Question,Chosen,Rejected\n"who, then?",me,you\nwho?,me,me\n')
    found = read_judgements(path)
    assert [type(one) for one in found.judgements] == [Preference]
    assert [(one.location, one.reason) for one in found.skipped] == [("line 3", "chosen and rejected are the same")]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"prompt": "p", "chosen": ["a"], "rejected": "b"}, "'chosen' is a list and 'rejected' is text"),
        ({"prompt": "p", "chosen": 4, "rejected": "b"}, "'chosen' must be text or messages"),
        ({"text": "a"}, "those of an example, which prefers nothing"),
        ({"prompt": "p", "rejected": "b"}, "without 'chosen'"),
        ({"a": 1}, "tell no known form; expected chosen and rejected"),
    ],
)
def test_what_cannot_be_one_is_refused_with_its_line(tmp_path: Path, record: dict[str, Any], reason: str) -> None:
    good = {"prompt": "p", "chosen": "a", "rejected": "b"}
    with pytest.raises(UsageError, match="line 2") as refused:
        read_judgements(written(tmp_path, good, record))
    assert reason in str(refused.value)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"chosen": "one thing", "rejected": "another"}, "chosen and rejected share no prompt"),
        ({"chosen": "the same and more", "rejected": "the same "}, "one answer is the beginning of the other"),
        ({"prompt": "p", "chosen": [], "rejected": [BAD]}, "the chosen answer is empty"),
        ({"prompt": [USER], "chosen": [USER], "rejected": [GOOD]}, "chosen and rejected share no prompt"),
    ],
)
def test_what_says_nothing_is_skipped_with_its_reason(tmp_path: Path, record: dict[str, Any], reason: str) -> None:
    good = {"prompt": "p", "chosen": "a", "rejected": "b"}
    found = read_judgements(written(tmp_path, good, record))
    assert len(found.judgements) == 1
    assert reason in found.skipped[0].reason


def test_a_training_text_prefers_nothing(tmp_path: Path) -> None:
    path = tmp_path / "pairs.txt"
    path.write_text("Question: a\nAnswer: b\n")
    with pytest.raises(UsageError, match="a text cannot say which answer is better"):
        read_judgements(path)


def test_whoever_wants_examples_is_sent_to_the_method_for_preferences(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="those of preferences; train on them with --method dpo"):
        read_examples(written(tmp_path, {"prompt": "p", "chosen": "a", "rejected": "b"}))
