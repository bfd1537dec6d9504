"""What a small model makes of a begun question is kept if it asks for what the program had in mind."""

import pytest

from lora_tui.engine.generation.begun_pairs import BegunPair, begun_pairs, sentences_of
from lora_tui.engine.generation.generation_model import ProposedPair

PASSAGE = "The funicular of Hallbach was opened in 1897. Why it is green, nobody knows."


def begun(opening: str) -> BegunPair:
    return next(one for one in begun_pairs(PASSAGE, "", "fact") if one.begun.opening == opening)


def test_a_continuation_that_asks_for_the_fact_becomes_its_pair() -> None:
    pair = begun("When was").finished(" the funicular of Hallbach opened?", "rail")
    evidence = "The funicular of Hallbach was opened in 1897."
    assert pair == ProposedPair("When was the funicular of Hallbach opened?", "In 1897.", evidence, "rail", "fact")


def test_the_rules_wording_is_taken_where_both_ask_for_the_same() -> None:
    pair = begun("When was").finished(" Hallbach funicular open?", "rail")
    assert isinstance(pair, ProposedPair)
    assert pair.question == "When was the funicular of Hallbach opened?"


@pytest.mark.parametrize(
    ("continuation", "fault"),
    [
        (" the funicular of Hallbach opened", "has no end"),
        (" the castle of Hallbach opened?", "says what the sentence does not"),
        (" the funicular of Hallbach opened in 1897?", "gives the answer away"),
        (" it opened there?", "leans on its sentence|leaves out"),
    ],
)
def test_a_continuation_that_does_not_fit_says_why(continuation: str, fault: str) -> None:
    found = begun("When was").finished(continuation, "rail")
    assert isinstance(found, str)
    assert any(part in found for part in fault.split("|"))


def test_sentences_are_those_that_can_be_asked_about() -> None:
    assert "The funicular of Hallbach was opened in 1897." in sentences_of(f"# Rails\n\n{PASSAGE}", "")
    assert sentences_of("# Rails\n\n    code = 1\n", "") == []
