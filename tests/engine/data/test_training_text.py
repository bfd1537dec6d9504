import random
from pathlib import Path

import pytest

from lora_tui.engine.data.examples import QuestionAnswer
from lora_tui.engine.data.read import read_examples
from lora_tui.engine.data.training_text import format_example, format_training_text, normalise_pair


def read_back(folder: Path, text: str) -> list[tuple[str, str]]:
    path = folder / "training.txt"
    path.write_bytes(text.encode())
    result = read_examples(path)
    assert result.skipped == ()
    pairs = []
    for example in result.examples:
        assert isinstance(example, QuestionAnswer)
        pairs.append((example.question, example.answer))
    return pairs


def test_the_training_form_is_exact() -> None:
    assert format_example("q", "a") == "Question: q\nAnswer: a"
    assert format_example(" q\n", "") == "Question:  q\n\nAnswer: "


def test_examples_are_separated_by_a_blank_line_and_end_with_a_line_feed() -> None:
    text = format_training_text([("q1", "a1"), ("q2", "a2\n\nmore")])
    assert text == "Question: q1\nAnswer: a1\n\nQuestion: q2\nAnswer: a2\n\nmore\n"


def test_no_pairs_are_no_text() -> None:
    assert format_training_text([]) == ""


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        (("a\n b\r\nc", "x"), ("a b c", "x")),
        (("two  spaces\tstay", "x"), ("two  spaces\tstay", "x")),
        (("q", "  a\r\nb\rc \n\n"), ("q", "a\nb\nc")),
        (("q", "code:\n\n    indented\n"), ("q", "code:\n\n    indented")),
        (("q", "text\n\nQuestion: mine\nstays"), ("q", "text\n\n Question: mine\nstays")),
        (("q", "text\n \t\nQuestion: mine"), ("q", "text\n \t\n Question: mine")),
        (("q", "text\nQuestion: mine\nAnswer: too"), ("q", "text\n Question: mine\nAnswer: too")),
        (("q", "text\nQuestion: in the midst"), ("q", "text\nQuestion: in the midst")),
        (("q", "Question: at once\nAnswer: too"), ("q", "Question: at once\nAnswer: too")),
        (("nul\0", "half \ud83d"), ("nul\ufffd", "half \ufffd")),
    ],
)
def test_what_the_form_cannot_express_is_changed_visibly(pair: tuple[str, str], expected: tuple[str, str]) -> None:
    assert normalise_pair(*pair) == expected
    assert normalise_pair(*expected) == expected


@pytest.mark.parametrize(("pair", "part"), [((" \n", "a"), "question"), (("q", "\r\n "), "answer")])
def test_an_empty_part_is_refused(pair: tuple[str, str], part: str) -> None:
    with pytest.raises(ValueError, match=f"the {part} is empty"):
        format_training_text([pair])


HOSTILE = [
    "Question:",
    "Answer:",
    "Question: who?",
    "Answer: me",
    "\n",
    "\n\n",
    "\r",
    "\r\n",
    " ",
    "\t",
    "word",
    "\x0b",
    "\x0c",
    "\x1c",
    "\x85",
    "\u2028",
    "\u2029",
    "\ufeff",
    "\0",
    "\ud800",
    "\x1b[2J",
    "é",
    "何？",
    "🦄",
    "question:",
    "{",
    '"',
    ",",
    "#",
    "\u00a0",
]


def hostile_text(chance: random.Random) -> str:
    return "".join(chance.choice(HOSTILE) for _ in range(chance.randrange(1, 14)))


@pytest.mark.parametrize("seed", range(40))
def test_reading_what_was_written_gives_the_normalised_pairs_back(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    pairs: list[tuple[str, str]] = []
    while len(pairs) < 60:
        pair = hostile_text(chance), hostile_text(chance)
        if all(part.strip() for part in pair):
            pairs.append(pair)
    normalised = [normalise_pair(*pair) for pair in pairs]
    assert read_back(tmp_path, format_training_text(pairs)) == normalised
    assert [normalise_pair(*pair) for pair in normalised] == normalised


@pytest.mark.parametrize("seed", range(5))
def test_normalising_drops_no_word(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(200):
        question, answer = hostile_text(chance), hostile_text(chance)
        if question.strip() and answer.strip():
            shown = " ".join(normalise_pair(question, answer))
            kept = [character for character in f"{question}{answer}" if character.isalnum()]
            assert [character for character in shown if character.isalnum()] == kept
