"""Evidence is held against the passage as it is read, so that markup and hyphens refuse nobody."""

import random
import unicodedata

import pytest

from lora_tui.engine.generation import quotations
from lora_tui.engine.generation.quotations import is_quoted, says_something

PASSAGE = (
    "The **Alda** sails at [six o'clock](https://example.org/times) from *quay 4*. Her `call sign` is ALDA7. See"
    " ![chart](c.png) for the way.[^1]\n\n1. Go to the har-\nbour side.\n2. Turn &amp; wait − at -5 °C <b>now</b>.\n\n"
    "| Pump | Flow |\n|---|---|\n| B | 55 |\n\nThe har\u00adbour\u200b fee is 41.5 €, not 1,200."
    " 東京は日本の首都です。 `x == 3`"
)


@pytest.mark.parametrize(
    "quoted",
    [
        "The Alda sails at six o'clock from quay 4.",
        "the alda sails at six o’clock",
        "[six o'clock](https://example.org/times)",
        "Her call sign is ALDA7.",
        "See for the way.",
        "See chart for the way.",
        "Go to the harbour side.",
        "1. Go to the harbour side.",
        "Go to the har- bour side. Turn & wait",
        "at -5 °C now",
        "| B | 55 |",
        "B 55",
        "The harbour fee is 41.5 €",
        "not 1,200",
        "日本の首都",
        "x == 3",
        "The Alda … quay 4",
    ],
)
def test_what_is_read_is_found(quoted: str) -> None:
    assert is_quoted(quoted, PASSAGE)


@pytest.mark.parametrize(
    "quoted",
    [
        "",
        "...",
        "lda sails",
        "The Alda sail",
        "at 5 °C",
        "415 €",
        "200",
        "x 3",
        "The Alda sails at five",
        "quay 4 … The Alda",
    ],
)
def test_what_is_not_there_or_means_something_else_is_not(quoted: str) -> None:
    assert not is_quoted(quoted, PASSAGE)


def test_a_short_quotation_must_say_something() -> None:
    assert all(map(says_something, ("| B | 55 |", "55", "ALDA7", "quay four", "registered")))
    assert not any(map(says_something, ("", "the", "| B |", "…", "**is**")))


def test_a_long_passage_is_read_in_bounded_time() -> None:
    for piece in ("[a](", "![", "<a ", "a-\n", "… ", "1. "):
        assert not is_quoted("nothing of it", piece * 20_000)


def test_usual_texts_are_read_at_once_as_they_are_one_character_after_the_other() -> None:
    rng = random.Random(5)
    characters = "ab zÉ9.,-–−_'’\"%+=<>$€¢()[]`*\n\t ½10 1,200.5 x.y 3.14 -5 2-5 .5 ..6 1.2.3 — …"
    for _ in range(3000):
        text = "".join(rng.choice(characters) for _ in range(rng.randrange(30)))
        folded = unicodedata.normalize("NFKC", text).casefold()
        assert quotations._USUAL.fullmatch(folded), "else nothing is compared"
        assert quotations._read_of(text, str) == quotations._read_one_by_one(folded), text
