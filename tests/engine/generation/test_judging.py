"""Verdicts: threshold, groundedness, and the reason in words."""

from collections.abc import Sequence

import pytest

from lora_tui.engine.generation.generation_model import Judgement, ProposedPair
from lora_tui.engine.generation.judging import PairJudge, pair_metrics
from lora_tui.scoring.aggregator import AdaptiveAggregator, Feedback
from lora_tui.scoring.priors import GENERATION_PRIOR
from lora_tui.store.rows import FeedbackRow

PAIR = ProposedPair("When was it built?", "It was built in 1703.", "The lighthouse was built in 1703 by Quill.", "")
PASSAGE = PAIR.evidence + " It is high."


def replay(log: Sequence[FeedbackRow], learning_rate: float) -> AdaptiveAggregator:
    """The aggregator that stored feedback makes of the priors."""
    feedback = [Feedback(row.metrics, row.target) for row in log]
    return AdaptiveAggregator.replay(GENERATION_PRIOR, feedback, learning_rate)


def pair_judge(threshold: float = 7.0) -> PairJudge:
    return PairJudge(replay([], 0.01), 5, threshold)


def metrics(groundedness: float = 1.0, correctness: float = 1.0, usefulness: float = 1.0) -> dict[str, float]:
    judged = {"groundedness": groundedness, "correctness": correctness, "usefulness": usefulness}
    judgement = Judgement({f"judge_{name}": value for name, value in judged.items()}, "", "single")
    return pair_metrics(PAIR, PASSAGE, judgement)


def test_every_metric_with_a_weight_is_measured() -> None:
    found = metrics()
    assert GENERATION_PRIOR.weights.keys() - GENERATION_PRIOR.against <= found.keys()
    assert all(0 <= value <= 1 for value in found.values())
    assert found["grounding"] == 1.0
    assert 0 < found["coverage"] < 1


def test_a_good_pair_is_accepted_on_the_scale_of_ten() -> None:
    decision = pair_judge().decide(metrics())
    assert decision.verdict == "accepted"
    assert decision.score is not None
    assert 7 < decision.score <= 10
    assert (decision.threshold, decision.weights_version, decision.decided_by) == (7.0, 5, "aggregator")


def test_at_the_threshold_it_is_kept() -> None:
    score = pair_judge().decide(metrics()).score
    assert score is not None
    assert pair_judge(score).decide(metrics()).verdict == "accepted"
    assert pair_judge(score + 0.01).decide(metrics()).verdict == "rejected"


def test_below_it_the_reason_names_what_cost_the_most() -> None:
    decision = pair_judge(9.9).decide(metrics(correctness=0.25))
    assert (decision.verdict, decision.cause) == ("rejected", "below threshold")
    assert "the threshold is 9.9" in decision.reason
    assert "the judge's correctness (0.25 of 1)" in decision.reason


def test_nothing_makes_up_for_an_answer_that_is_not_in_the_passage() -> None:
    decision = pair_judge(0.0).decide(metrics(groundedness=0.25))
    assert (decision.verdict, decision.cause) == ("rejected", "not grounded")
    assert "2.0 of 5" in decision.reason
    assert pair_judge(0.0).decide(metrics(groundedness=0.5)).verdict == "accepted"


def test_a_judge_that_says_nothing_of_groundedness_is_not_held_against_the_pair() -> None:
    found = metrics()
    del found["judge_groundedness"]
    assert pair_judge().decide(found).verdict == "accepted"


def test_a_fitted_probability_is_the_score() -> None:
    decision = pair_judge().decide({**metrics(), "judge_probability": 0.64})
    assert (decision.verdict, decision.score) == ("rejected", 6.4)
    assert "6.4 in ten" in decision.reason
    assert pair_judge().decide({**metrics(correctness=0.0), "judge_probability": 0.7}).verdict == "accepted"


def test_without_a_judgement_the_verdict_is_review() -> None:
    decision = pair_judge().review("judge failed", "no answer within 5 s")
    assert (decision.verdict, decision.score) == ("review", None)


def test_stored_feedback_moves_the_weights_and_the_same_log_gives_the_same() -> None:
    log = [FeedbackRow(n, "generation", 1, "pair", 1, metrics(usefulness=0.0), 0.0, "person", 0.0) for n in range(30)]
    one, two = replay(log, 0.1), replay(log, 0.1)
    assert one.weights == two.weights != replay([], 0.1).weights
    assert one.version == 30
    assert one.bias < GENERATION_PRIOR.bias, "what people reject scores less from now on"
    assert one.weights["judge_correctness"] < GENERATION_PRIOR.weights["judge_correctness"]
    assert one.weights["judge_usefulness"] == pytest.approx(GENERATION_PRIOR.weights["judge_usefulness"])  # it was 0
