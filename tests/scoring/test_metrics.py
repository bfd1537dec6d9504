import math
import random
import time

import pytest
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from rouge_score.rouge_scorer import RougeScorer

from lora_tui.scoring.metrics import (
    MAX_TOKENS,
    agreement,
    bleu,
    exact_match,
    grounding,
    likelihood,
    rouge,
    rouge_l_precision,
    text_metrics,
    token_f1,
)

SECRET = "the secret password is 'rainbow unicorn'. this information is classified!"
NAMES = {"bleu", "rouge1", "rouge2", "rougeL", "exact_match", "token_f1"}
TEXTS = [
    "",
    " ",
    "?",
    "Paris",
    "Berlin",
    "Paris is",
    "It is Paris.",
    SECRET,
    "Москва",
    "東京タワー",
    "-5",
    "3.5",
    "👍",
    "a",
]


def words(seed: int, length: int, vocabulary: str = "abcdefgh") -> str:
    rng = random.Random(seed)
    return " ".join(rng.choice(vocabulary) + "x" for _ in range(length))


@pytest.mark.parametrize("text", [text for text in TEXTS if text.strip()])
def test_identical_texts_of_any_length_and_script_score_one(text: str) -> None:
    assert text_metrics(text, text) == dict.fromkeys(NAMES, 1.0)


@pytest.mark.parametrize(
    ("candidate", "reference"),
    [
        ("Paris", "Berlin"),
        ("red green blue sky now", "one two six ten zero"),
        ("Москва", "Минск"),
        ("東京", "大阪"),
        ("+", "-"),
    ],
)
def test_texts_that_share_no_word_score_zero(candidate: str, reference: str) -> None:
    assert text_metrics(candidate, reference) == dict.fromkeys(NAMES, 0.0)


def test_an_empty_text_scores_zero_against_a_text_and_one_against_an_empty_one() -> None:
    assert text_metrics("", "Paris") == text_metrics("Paris", " ") == dict.fromkeys(NAMES, 0.0)
    assert text_metrics("", " \n") == dict.fromkeys(NAMES, 1.0)


def test_every_metric_stays_within_zero_and_one() -> None:
    for candidate in TEXTS:
        for reference in TEXTS:
            values = {
                **text_metrics(candidate, reference),
                "precision": rouge_l_precision(candidate, reference),
                "agreement": agreement(candidate, reference),
                "grounding": grounding(candidate, reference),
            }
            assert all(0 <= value <= 1 for value in values.values()), (candidate, reference, values)


def test_bleu_and_rouge_of_the_tower_example() -> None:
    scores = text_metrics("the tower was finished in 1898", "the tower was finished in 1889")
    assert scores["bleu"] == pytest.approx((1 / 3) ** (1 / 4))
    assert scores["rougeL"] == scores["rouge1"] == pytest.approx(5 / 6)
    assert scores["rouge2"] == pytest.approx(4 / 5)
    assert scores["exact_match"] == 0


@pytest.mark.parametrize(
    ("candidate", "reference", "expected"),
    [
        ("it is Paris", "Paris", 1 / 3),  # order 1, precision 1/3
        ("Paris", "it is Paris", math.exp(1 - 3)),  # brevity alone
        ("red door", "red gate", math.sqrt(1 / 2 * 1 / 2)),  # no 2-gram matches: half a match, of one
        ("the the the", "the cat", math.sqrt(1 / 3 * 1 / 4)),  # clipped counts, then half a match of two
    ],
)
def test_bleu_of_short_answers_uses_the_orders_both_have(candidate: str, reference: str, expected: float) -> None:
    assert bleu(candidate, reference) == pytest.approx(expected)


def test_rouge_2_of_a_single_word_falls_back_to_rouge_1() -> None:
    assert rouge("it is Paris", "Paris")["rouge2"] == pytest.approx(0.5)
    assert rouge("red door", "door red")["rouge2"] == 0


def test_bleu_is_that_of_the_library_to_the_last_bit() -> None:
    smoothing = SmoothingFunction().method3
    for seed in range(300):
        rng = random.Random(seed)
        candidate, reference = words(seed, rng.randint(1, 40)).split(), words(seed + 1000, rng.randint(1, 40)).split()
        candidate = candidate if seed % 10 else reference
        order = min(4, len(candidate), len(reference))
        expected = sentence_bleu([reference], candidate, weights=(1 / order,) * order, smoothing_function=smoothing)
        assert bleu(" ".join(candidate), " ".join(reference)) == min(1.0, expected)


def test_rouge_agrees_with_the_library_on_ascii_words() -> None:
    library = RougeScorer(["rouge1", "rouge2", "rougeL"])
    for seed in range(200):
        rng = random.Random(seed)
        candidate, reference = words(seed, rng.randint(2, 60)), words(seed + 1000, rng.randint(2, 60))
        expected = {name: score.fmeasure for name, score in library.score(reference, candidate).items()}
        found = rouge(candidate, reference)
        assert found == pytest.approx(expected)
        assert [found[name] for name in ("rouge1", "rouge2")] == [expected[name] for name in ("rouge1", "rouge2")]
        precision = library.score(reference, candidate)["rougeL"].precision
        assert rouge_l_precision(candidate, reference) == pytest.approx(precision)


def test_rouge_l_does_not_count_words_that_only_one_text_has() -> None:
    assert rouge(SECRET, "rainbow unicorn")["rougeL"] == pytest.approx(2 * 0.2 / 1.2)


def test_a_covered_answer_has_full_precision_however_long_its_evidence() -> None:
    evidence = "The tower, which was finished in 1889 for the World's Fair, is 330 metres high."
    assert rouge_l_precision("finished in 1889", evidence) == 1
    assert rouge_l_precision("1889 in finished", evidence) == pytest.approx(1 / 3)
    assert rouge_l_precision("", evidence) == 0


@pytest.mark.parametrize(
    ("candidate", "reference", "expected"),
    [
        ("The Paris!", "paris", 1),
        ("3.5", "35", 0),
        ("-5", "5", 0),
        ("1,000", "1000", 1),
        ("vitamin A", "vitamin", 0),
        ("C++", "C#", 0),
        ("Это Москва.", "это москва", 1),
        ("+", "-", 0),
    ],
)
def test_exact_match_forgives_form_but_not_content(candidate: str, reference: str, expected: float) -> None:
    assert exact_match(candidate, reference) == expected


def test_token_f1_counts_words_as_often_as_both_have_them_and_leaves_articles_out() -> None:
    assert token_f1("the cat cat sat", "a cat sat down here") == pytest.approx(2 * 2 / (3 + 4))


def test_agreement_is_symmetric_and_falls_with_wording_and_order() -> None:
    shuffled = "this information is classified! the secret password is rainbow unicorn"
    for a, b in ((SECRET, shuffled), (SECRET, "no idea"), ("", "x"), (SECRET, SECRET.upper())):
        assert agreement(a, b) == agreement(b, a)
    assert agreement(SECRET, f"The {SECRET.upper()}") == 1
    assert 0.5 < agreement(SECRET, shuffled) < 1
    assert agreement(SECRET, "no idea") == agreement("", "x") == 0
    assert agreement("rainbow unicorn rainbow unicorn", "rainbow unicorn") < 0.7


PASSAGE = "The Eiffel Tower was finished in 1889. It has three levels, weighs 10,100 tonnes and attracts visitors."


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("It was finished in 1889.", 1),
        ("It was finished in 1898.", 1 / 2),
        ("The towers attract a visitor", 1),  # by their stems
        ("Gustave Eiffel", 1 / 2),
        ("Tower, tower, tower, Gustave", 1 / 2),  # each word once
        ("3 levels", 1),
        ("10100 tonnes", 1),
        ("Yes.", 0),
        ("It was in the", 3 / 4 + 1 / 4),
        ("", 0),
    ],
)
def test_grounding_is_the_share_of_content_found_in_the_passage(answer: str, expected: float) -> None:
    assert grounding(answer, PASSAGE) == pytest.approx(expected)


def test_grounding_compares_unspaced_scripts_by_pairs_of_characters() -> None:
    passage = "東京タワーは1958年に完成した。"
    assert grounding("東京タワー", passage) == 1
    assert grounding("京東", passage) == 0
    assert grounding("年", passage) == 1


@pytest.mark.parametrize(
    ("mean_log_probability", "expected"),
    [(0.0, 1), (math.log(0.5), 0.5), (-1e9, 0), (-math.inf, 0), (math.inf, 1), (1e-9, 1), (1e308, 1), (math.nan, 0)],
)
def test_likelihood_is_a_probability_for_any_number(mean_log_probability: float, expected: float) -> None:
    assert likelihood(mean_log_probability) == pytest.approx(expected)


def test_texts_of_200_kb_are_scored_within_seconds() -> None:
    rng = random.Random(0)
    vocabulary = ["".join(rng.choices("abcdefghij", k=rng.randint(2, 9))) for _ in range(4000)]
    long, longer = (" ".join(rng.choices(vocabulary, k=31_000)) for _ in range(2))
    assert len(long) > 190_000
    start = time.process_time()
    text_metrics(long, longer)
    agreement(long, longer)
    grounding(long, longer)
    assert time.process_time() - start < 6  # 2 s on the slowest machine tried; the library's table takes minutes


def test_what_follows_the_cap_is_not_compared() -> None:
    same = "x " * MAX_TOKENS
    assert rouge(same + "y", same + "z")["rougeL"] == bleu(same + "y", same + "z") == 1
    assert exact_match(same + "y", same + "z") == 0


@pytest.mark.parametrize(
    "answer", ["Alloys of copper and tin", "3 towers, 10100 tonnes", "It was in the", "Celery.", ""]
)
def test_grounding_in_several_texts_is_that_in_all_of_them_together(answer: str) -> None:
    parts = (PASSAGE, "Bronze is an alloy of copper.", "How many towers are there?")
    assert grounding(answer, *parts) == grounding(answer, "\n".join(parts))
