import random
from decimal import Decimal

import pytest

from lora_tui.scoring import words
from lora_tui.scoring.words import normalise, number_words, numbers, question_key, tokens


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3.5", "3.5"),
        ("-5", "-5"),
        ("\N{MINUS SIGN}5 degrees", "-5 degrees"),
        ("(-5)", "-5"),
        ("+5", "5"),
        ("1,000,000.50", "1000000.50"),
        ("12,5", "12 5"),
        ("12,345,67 and 1,2345", "12 345 67 and 1 2345"),
        (".5", "0.5"),
        ("3.14.", "3.14"),
        ("2-5", "2 5"),
        ("COVID-19", "covid 19"),
        ("1990–2000", "1990 2000"),
        ("5km", "5 km"),
        ("10²", "10 2"),
        ("1½", "1 1 2"),
        ("v1.2.3 or 1.2.3", "v1 2.3 or 1.2.3"),
        ("٣", "3"),
        ("５０％", "50"),
    ],
)
def test_numbers_keep_their_value(text: str, expected: str) -> None:
    assert normalise(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  The  Eiffel\tTower!\n", "eiffel tower"),
        ("An apple a day", "apple day"),
        ("vitamin A", "vitamin a"),
        ("A", "a"),
        ("It’s well-known.", "its well known"),
        ("the U.S. and the U.S.A", "us and usa"),
        ("end.Start", "end start"),
        ("C++ is not C#, issue#5", "c++ is not c# issue 5"),
        ("STRASSE", normalise("Straße")),
        ("Привет, МИР!", "привет мир"),
        ("हिन्दी में, लिखा", "हिन्दी में लिखा"),
        ("你好， 世界！", "你好世界"),
        ("ภาษา ไทย", "ภาษาไทย"),
        ("한국어 문장.", "한국어 문장"),
        ("so\u00adft zero\u200bwidth", "soft zero width"),
        ("?!", "?!"),
        ("👍", "👍"),
        (" \n", ""),
        ("", ""),
    ],
)
def test_normalise_squeezes_texts_of_any_script(text: str, expected: str) -> None:
    assert normalise(text) == expected


def test_normalise_is_idempotent() -> None:
    for text in ("The 3.5% of -5, U.S. (1,000)!", "vitamin A", "你好，世界 2024年", "ΣΊΣΥΦΟΣ", "c++", "10² m²"):
        assert normalise(normalise(text)) == normalise(text)


def test_tokens_keep_articles_and_split_unspaced_scripts_into_characters() -> None:
    assert tokens("The tower, 東京") == ["the", "tower", "東", "京"]


def test_a_caller_that_changes_its_tokens_does_not_change_the_next_answer() -> None:
    tokens("one two").clear()
    assert tokens("one two") == ["one", "two"]


def test_lone_surrogates_and_control_characters_are_survived() -> None:
    assert tokens("\ud800 \x1b[31mred\x00") == ["\ud800", "31", "mred"]


def test_numbers_are_compared_by_value() -> None:
    assert numbers(tokens("1,000 and 3.50, -2, 1.2.3, three, H2O")) == {
        Decimal(1000),
        Decimal("3.5"),
        Decimal(-2),
        "1.2.3",
    }


def test_number_words_have_values() -> None:
    assert number_words(tokens("Zero, ten, twelve, twenty, ninety or a hundred")) == {
        Decimal(value) for value in (0, 10, 12, 20, 90, 100)
    }


def test_the_key_of_a_question_ignores_case_signs_and_spaces() -> None:
    assert question_key("What is  LoRA?") == question_key("what is LORA") != question_key("What is a LoRA rank?")


def test_a_text_cut_at_white_space_first_has_the_tokens_of_the_whole() -> None:
    rng = random.Random(5)
    characters = "ab zÉ9.,-–−_'’\"%+#=<>$€()[]`*\n\t ½²10 1,200.5 U.S. c++ c# don't"
    characters += " ﬁ 中文 ไทย \u200b\u00ad\u0301 İ ß 3.14 -5 2-5 .5 |"
    for _ in range(3000):
        text = "".join(rng.choice(characters) for _ in range(rng.randrange(40)))
        whole = words._tokens_of_part(words._folded(text).translate(words._TABLE))
        assert tuple(tokens(text)) == (whole or tuple(words._folded(text).split())), text
