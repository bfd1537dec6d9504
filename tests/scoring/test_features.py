import random

import pytest

from lora_tui.scoring.aggregator import AdaptiveAggregator
from lora_tui.scoring.features import answer_features
from lora_tui.scoring.priors import AGREEMENT, CONTRADICTION, EVALUATION_PRIOR
from tests.bench.judged_sets import best_reference

WORDS = (
    "Paris, or not 1,889 the 12 mill; Anna's said wrong — 巴黎 café \n - is/are [b] \x1b[31m ½ ٣ 🐝 actually no".split(
        " "
    )
)

score = AdaptiveAggregator(EVALUATION_PRIOR).score


@pytest.mark.parametrize("seed", range(40))
def test_every_feature_lies_between_zero_and_one_whatever_the_texts(seed: int) -> None:
    rng = random.Random(seed)
    answer, reference, question = (" ".join(rng.choices(WORDS, k=rng.choice((0, 1, 3, 12)))) for _ in range(3))
    features = answer_features(answer, reference, question)
    assert {*features, "likelihood"} == {*AGREEMENT, *CONTRADICTION}
    assert all(0 <= value <= 1 for value in features.values()), features


@pytest.mark.parametrize(
    ("answer", "reference", "question", "expected"),
    [
        ("It is the Town Moor in Newcastle.", "Town Moor", "Where is it?", {"content_recall": 1, "containment": 1}),
        ("Newcastle.", "Town Moor", "Where is it?", {"content_recall": 0, "containment": 0, "early": 0}),
        ("Secretariat", "Secretariat, who won in 1973", "Who?", {"within": 1, "containment": 0}),
        ("The building of bridges", "he built a bridge", "What?", {"content_recall": 0.5}),
        ("Squirrels", "Squirell", "Which rodent?", {"content_recall": pytest.approx(0.941, abs=0.001)}),
        ("Smith built it", "Smyth", "Who built it?", {"content_recall": 0}),
        ("two years", "2 years", "How long?", {"content_recall": 1, "numbers_agree": 1, "numbers_contradict": 0}),
        ("1,000 feet", "1000.0 feet", "How high?", {"content_recall": 1, "numbers_agree": 1}),
        ("in 1898", "1889", "When?", {"numbers_agree": 0, "numbers_contradict": 1, "content_recall": 0}),
        ("long ago", "1889", "When?", {"numbers_agree": 0, "numbers_contradict": 0}),
        ("the 12 men came", "five men", "How many of the 12?", {"numbers_contradict": 0}),
        ("a mill by the river", "a mill", "What?", {"numbers_agree": 1, "numbers_contradict": 0}),
        ("The mill stands in Wells.", "Wells", "Where does the mill stand?", {"content_precision": 1}),
        ("巴黎", "巴黎", "哪里?", {"exact_match": 1, "containment": 1, "content_recall": 1}),
    ],
)
def test_words_and_numbers_are_found(answer: str, reference: str, question: str, expected: dict[str, float]) -> None:
    features = answer_features(answer, reference, question)
    assert {name: features[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("answer", "reference", "feature"),
    [
        ("The capital is not Paris.", "Paris", "negation"),
        ("Not Paris", "Paris", "negation"),
        ("Paris isn't the capital.", "Paris", "negation"),
        ("It was opened.", "It was never opened", "negation"),
        ("Paris. Actually, it is Rome.", "Paris", "retraction"),
        ("It is Paris. No, that was a mistake.", "Paris", "retraction"),
        ("Paris or Rome", "Paris", "alternatives"),
        ("It is either Rome or Paris.", "Paris", "alternatives"),
        ("Paris/Rome", "Paris", "alternatives"),
        ("Rome, Paris, Oslo, Bern, Kyiv", "Paris", "alternatives"),
        ("Possible answers: Rome; Oslo; Paris; Bern", "Paris", "alternatives"),
        ("One of these:\n- Rome\n- Paris\n- Oslo\n- Bern", "Paris", "alternatives"),
        ("I'm sorry, but I could not find it.", "Paris", "declines"),
        ("The passage does not mention the capital.", "Paris", "declines"),
        ("", "Paris", "empty"),
    ],
)
def test_what_contradicts_or_hedges_is_seen_and_costs(answer: str, reference: str, feature: str) -> None:
    features = answer_features(answer, reference, "What is the capital?")
    assert features[feature] >= 0.5
    assert features["containment"] <= 0.5
    assert score(features) < score(answer_features(f"It is {reference}.", reference, "What is the capital?")) - 0.01


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("The capital of France is Paris, which has two million inhabitants.", "Paris"),
        ("Paris, France", "Paris"),
        ("It was never opened.", "It was never opened"),
        ("Tea or coffee", "tea or coffee"),
        ("David Seville, a singer, was the man behind it.", "David Seville"),
        ("red, green and blue", "red, green and blue"),
        ("There are no trains on Sunday, so people walk from Wells.", "from Wells"),
    ],
)
def test_a_right_answer_is_not_taken_for_a_contradiction(answer: str, reference: str) -> None:
    features = answer_features(answer, reference, "What is it?")
    assert not any(features[name] for name in CONTRADICTION), features
    assert features["content_recall"] == 1


def test_wordy_and_right_beats_terse_and_wrong() -> None:
    asked = "Where is the funfair held?"
    wordy = "According to the passage, the funfair is held each June on the Town Moor, a green space in Newcastle."
    assert score(answer_features(wordy, "Town Moor", asked)) > 0.85
    assert (
        score(answer_features("Town Hall", "Town Moor", asked))
        < score(answer_features(wordy, "Town Moor", asked)) - 0.1
    )
    assert score(answer_features("Leazes Park", "Town Moor", asked)) < 0.2


def test_the_best_of_several_references_counts() -> None:
    references = ["Town Moor", "the moor of Newcastle", "Town Moor"]
    answer = "On the moor of Newcastle."
    best, features = best_reference(answer, references, "Where?", score)
    assert best == max(score(answer_features(answer, one, "Where?")) for one in references)
    assert features == answer_features(answer, references[1], "Where?")
    with pytest.raises(ValueError, match="at least one reference"):
        best_reference(answer, [], "Where?", score)


def test_long_texts_take_no_longer_than_their_length() -> None:
    long = " ".join(f"word{number % 5000}" for number in range(20_000))
    features = answer_features(long, " ".join(f"other{number}" for number in range(3_000)), "What?")
    assert features["content_recall"] == 0.0
