"""The model card says of the score what ratings tell of it, and that they are too few where they are."""

from pathlib import Path

import pytest

from lora_tui.config.models import Lora
from lora_tui.engine.evaluation.scoring import ScoredSample, summarize
from lora_tui.engine.training.model_card import CardFacts, model_card
from lora_tui.protocol.agreement import Estimate, ReliabilityPoint, ScoreAgreement

ANSWERS = [ScoredSample("unlock", "expected", "it", "it", {"bleu": 0.5}, 0.8)]
RESULT = summarize(ANSWERS)


def card(agreement: ScoreAgreement, people: Estimate | None = None) -> str:
    facts = ("base", str(Path("pairs.txt")), {"text": 3}, 3, 40, 7, RESULT, [(1, 2.0)], Lora())
    return model_card(CardFacts(*facts, agreement=agreement, people=people))


def test_it_says_how_many_ratings_are_missing() -> None:
    text = card(ScoreAgreement(9, 10, 0, missing_good=1, missing_bad=0))
    assert "How the score agrees with people's ratings: not enough ratings yet: 1 good is missing." in text


def test_it_has_the_agreement_the_reliability_curve_and_the_mean_with_its_interval() -> None:
    curve = (
        ReliabilityPoint(0.31, Estimate(0.25, 0.1, 0.5), 20),
        ReliabilityPoint(0.9, Estimate(0.95, 0.76, 0.99), 20),
    )
    known = {"auroc": Estimate(0.87, 0.78, 0.93), "kappa": 0.61, "accuracy": 0.8, "calibration_error": 0.05}
    text = card(ScoreAgreement(30, 10, 20, 0, 0, **known, curve=curve), Estimate(0.77, 0.7, 0.84))
    assert "ratings: AUROC 0.87 (0.78–0.93), κ 0.61, 40 ratings." in text
    assert "| 0.31 | 20 | 0.25 | 0.10–0.50 |" in text
    assert "as people would rate them: 0.77 (0.70–0.84)." in text


@pytest.mark.parametrize("missing", [(2, 1), (0, 3)])
def test_a_sentence_names_only_what_is_missing(missing: tuple[int, int]) -> None:
    named = {(2, 1): "2 good, 1 bad are missing", (0, 3): "3 bad are missing"}[missing]
    assert named in card(ScoreAgreement(8, 9, 0, *missing))
