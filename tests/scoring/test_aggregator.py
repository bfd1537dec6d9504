import math
import random
from collections.abc import Callable, Iterable

import pytest

from lora_tui.scoring.aggregator import (
    EVALUATION_PRIORS,
    GENERATION_PRIORS,
    AdaptiveAggregator,
    Feedback,
    update_aggregator,
)

EVEN = {"right": 0.25, "half": 0.25, "noise": 0.25, "wrong": 0.25}


def random_log(seed: int, length: int, names: Iterable[str], missing: float = 0.0) -> list[Feedback]:
    rng = random.Random(seed)
    log = []
    for _ in range(length):
        metrics = {name: rng.choice((0.0, 1.0, rng.random())) for name in names if rng.random() >= missing}
        log.append(Feedback(metrics or {next(iter(names)): 0.5}, rng.choice((0.0, 1.0, rng.random()))))
    return log


def telling_log(seed: int, length: int) -> list[Feedback]:
    """One metric equal to the label, one between, one noise, one the opposite of the label."""
    rng = random.Random(seed)
    log = []
    for _ in range(length):
        label = rng.random()
        metrics = {"right": label, "half": (label + rng.random()) / 2, "noise": rng.random(), "wrong": 1 - label}
        log.append(Feedback(metrics, label))
    return log


def replayed(log: Iterable[Feedback], learning_rate: float = 0.1, **others: float) -> dict[str, float]:
    return AdaptiveAggregator.replay(EVEN, log, learning_rate, **others).weights


@pytest.mark.parametrize("priors", [GENERATION_PRIORS, EVALUATION_PRIORS])
def test_the_documented_priors_are_a_point_inside_the_simplex(priors: dict[str, float]) -> None:
    assert math.fsum(priors.values()) == pytest.approx(1, abs=1e-12)
    assert AdaptiveAggregator(priors).weights == pytest.approx(priors)


def test_the_judge_has_the_majority_among_the_generation_priors() -> None:
    judge = math.fsum(prior for name, prior in GENERATION_PRIORS.items() if name.startswith("judge_"))
    assert judge == pytest.approx(0.6)


def test_the_score_is_the_weighted_mean() -> None:
    aggregator = AdaptiveAggregator({"a": 0.75, "b": 0.25})
    assert aggregator.score({"a": 1.0, "b": 0.2}) == pytest.approx(0.8)


def test_a_missing_metric_is_left_out_and_an_unknown_one_ignored() -> None:
    aggregator = AdaptiveAggregator({"a": 0.5, "b": 0.3, "c": 0.2})
    assert aggregator.score({"a": 1.0, "c": 0.0, "unknown": math.nan}) == pytest.approx(5 / 7)
    assert aggregator.score({"c": 0.3}) == 0.3


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.01, 1.01])
def test_a_metric_outside_zero_to_one_is_refused_by_name(value: float) -> None:
    aggregator = AdaptiveAggregator(EVEN)
    before = aggregator.weights
    with pytest.raises(ValueError, match="metric noise is"):
        aggregator.score({"right": 0.5, "noise": value})
    with pytest.raises(ValueError, match="metric noise is"):
        aggregator.update({"right": 0.5, "noise": value}, 1.0)
    with pytest.raises(ValueError, match="the target is"):
        aggregator.update({"right": 0.5}, value)
    assert (aggregator.weights, aggregator.version) == (before, 0)


@pytest.mark.parametrize("metrics", [{}, {"unknown": 0.5}])
def test_metrics_without_a_weight_are_refused(metrics: dict[str, float]) -> None:
    aggregator = AdaptiveAggregator(EVEN)
    with pytest.raises(ValueError, match="none of the metrics"):
        aggregator.score(metrics)
    with pytest.raises(ValueError, match="none of the metrics"):
        aggregator.update(metrics, 1.0)


@pytest.mark.parametrize(
    "priors", [{}, {"a": 0.5}, {"a": 1.0, "b": 0.0}, {"a": 1.5, "b": -0.5}, {"a": math.nan}, {"a": 0.6, "b": 0.6}]
)
def test_priors_off_the_simplex_are_refused(priors: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="prior weight"):
        AdaptiveAggregator(priors)


@pytest.mark.parametrize("name", ["learning_rate", "prior_pull", "share"])
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_impossible_hyper_parameters_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        AdaptiveAggregator(EVEN, **{name: value})


def test_one_rating_moves_the_weights_as_the_lesson_says() -> None:
    for learning_rate, first in ((0.01, 0.501), (0.5, 0.530)):
        aggregator = AdaptiveAggregator({"a": 0.5, "b": 0.5}, learning_rate)
        assert aggregator.score({"a": 0.9, "b": 0.3}) == pytest.approx(0.6)
        aggregator.update({"a": 0.9, "b": 0.3}, 1.0)
        assert round(aggregator.weights["a"], 3) == first


def test_an_update_without_pull_and_share_is_exponentiated_gradient() -> None:
    aggregator = AdaptiveAggregator({"a": 0.2, "b": 0.3, "c": 0.5}, 0.5, prior_pull=0, share=0)
    metrics, target = {"a": 1.0, "b": 0.5, "c": 0.1}, 0.9
    score = 0.2 + 0.15 + 0.05
    powers = {name: w * math.exp(-0.5 * (score - target) * metrics[name]) for name, w in aggregator.weights.items()}
    aggregator.update(metrics, target)
    assert aggregator.weights == pytest.approx({name: p / sum(powers.values()) for name, p in powers.items()})


def test_a_step_lowers_the_squared_difference() -> None:
    for item in random_log(1, 200, EVEN):
        aggregator = AdaptiveAggregator(EVEN, 0.3)
        before = abs(aggregator.score(item.metrics) - item.target)
        update_aggregator(aggregator, item.metrics, item.target)
        assert abs(aggregator.score(item.metrics) - item.target) <= before + 1e-12


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(
    "hyper", [(0.01, 0.02, 0.01), (0.5, 0.02, 0.01), (0.5, 0, 0), (1e5, 0, 0), (50.0, 3.0, 1.0), (0, 0.02, 0.01)]
)
def test_the_weights_stay_on_the_simplex_under_any_feedback(seed: int, hyper: tuple[float, float, float]) -> None:
    aggregator = AdaptiveAggregator(GENERATION_PRIORS, *hyper)
    for item in random_log(seed, 400, GENERATION_PRIORS, missing=0.4):
        aggregator.update(item.metrics, item.target)
        assert math.fsum(aggregator.weights.values()) == pytest.approx(1, abs=1e-9)
        assert all(0 < weight <= 1 + 1e-12 for weight in aggregator.weights.values())
        assert 0 <= aggregator.score(item.metrics) <= 1


def test_the_score_lies_between_the_lowest_and_the_highest_metric() -> None:
    for item in random_log(8, 300, GENERATION_PRIORS):
        aggregator = AdaptiveAggregator.replay(GENERATION_PRIORS, [item], 0.5)
        for value in (0.1, 0.7, 1 / 3):
            assert aggregator.score(dict.fromkeys(GENERATION_PRIORS, value)) == value


def test_feedback_that_equals_the_score_is_a_fixed_point() -> None:
    aggregator = AdaptiveAggregator(GENERATION_PRIORS, 0.5)
    for item in random_log(2, 100, GENERATION_PRIORS, missing=0.3):
        aggregator.update(item.metrics, aggregator.score(item.metrics))
    assert aggregator.weights == pytest.approx(GENERATION_PRIORS, abs=1e-12)
    learned = AdaptiveAggregator.replay(EVEN, telling_log(0, 50), 0.5, prior_pull=0, share=0)
    before = learned.weights
    learned.update(EVEN, learned.score(EVEN))
    assert learned.weights == pytest.approx(before, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_a_metric_equal_to_the_label_wins_and_noise_decays(seed: int) -> None:
    weights = replayed(telling_log(seed, 2000))
    assert weights["right"] > 0.5
    assert weights["noise"] < 0.2
    assert weights["right"] > weights["half"] > weights["noise"] > weights["wrong"]
    assert replayed(telling_log(seed, 2000), 0.5, prior_pull=0, share=0)["right"] > 0.9


def test_the_score_of_learned_weights_is_nearer_to_new_labels() -> None:
    learned, fresh = AdaptiveAggregator.replay(EVEN, telling_log(0, 300), 0.1), AdaptiveAggregator(EVEN)

    def error(aggregator: AdaptiveAggregator) -> float:
        return sum((aggregator.score(item.metrics) - item.target) ** 2 for item in telling_log(99, 200))

    assert error(learned) < error(fresh) / 2


def test_ratings_show_within_tens_at_the_default_rate_and_one_decides_nothing() -> None:
    def gain(ratings: int) -> float:
        log = [Feedback({"right": y, "half": 0.5, "noise": 0.5, "wrong": 0.5}, y) for y in [1.0, 0.0] * 25]
        return AdaptiveAggregator.replay(EVEN, log[:ratings]).weights["right"] - 0.25

    assert 0 < gain(1) < 0.001
    assert 0.002 < gain(10) < 0.01
    assert 0.01 < gain(50) < 0.05


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_feedback_matters_little(seed: int) -> None:
    log = telling_log(seed, 200)
    shuffled = random.Random(seed).sample(log, len(log))
    at_default, at_default_shuffled = replayed(log, 0.01), replayed(shuffled, 0.01)
    assert at_default != at_default_shuffled
    assert at_default == pytest.approx(at_default_shuffled, abs=0.001)
    assert replayed(log) == pytest.approx(replayed(shuffled), abs=0.02)


@pytest.mark.parametrize("others", [{"prior_pull": 1e9}, {"prior_pull": 0.0, "share": 10.0}])
def test_an_overwhelming_pull_or_share_gives_the_priors(others: dict[str, float]) -> None:
    aggregator = AdaptiveAggregator.replay(
        GENERATION_PRIORS, random_log(3, 200, GENERATION_PRIORS, missing=0.3), 0.1, **others
    )
    assert aggregator.weights == pytest.approx(GENERATION_PRIORS, abs=1e-6)


def test_the_pull_leads_back_to_the_priors_when_feedback_has_nothing_to_say() -> None:
    aggregator = AdaptiveAggregator.replay(EVEN, telling_log(0, 200), 0.5)
    away = aggregator.weights["right"]
    silent = dict.fromkeys(EVEN, 0.5)
    for _ in range(2000):
        aggregator.update(silent, 0.5)
    assert away > 0.5
    assert aggregator.weights == pytest.approx(EVEN, abs=1e-3)


def test_the_share_is_a_floor_under_every_weight() -> None:
    against = [Feedback({"right": 0.0, "half": 1.0, "noise": 1.0, "wrong": 1.0}, 1.0)] * 50
    learning_rate, share = 50.0, 0.01
    floor = learning_rate * share * 0.25
    assert replayed(against, learning_rate, prior_pull=0, share=share)["right"] >= floor * 0.999
    assert replayed(against, learning_rate, prior_pull=0, share=0)["right"] < floor / 100


def test_the_same_log_gives_the_same_weights_bit_for_bit_whatever_the_order_of_keys() -> None:
    log = random_log(4, 300, GENERATION_PRIORS, missing=0.3)
    turned = [Feedback(dict(reversed(list(item.metrics.items()))), item.target) for item in log]
    first, second = (AdaptiveAggregator.replay(GENERATION_PRIORS, each, 0.1) for each in (log, turned))
    assert first.weights == second.weights
    assert first.version == second.version == 300
    stepwise = AdaptiveAggregator(GENERATION_PRIORS, 0.1)
    for item in log:
        assert update_aggregator(stepwise, item.metrics, item.target) is stepwise
    assert stepwise.weights == first.weights


def test_undo_is_a_replay_without_the_row() -> None:
    log = random_log(5, 40, EVALUATION_PRIORS, missing=0.2)
    before_last = AdaptiveAggregator.replay(EVALUATION_PRIORS, log[:-1])
    assert AdaptiveAggregator.replay(EVALUATION_PRIORS, log).weights != before_last.weights
    assert AdaptiveAggregator.replay(EVALUATION_PRIORS, [*log[:-1]]).weights == before_last.weights
    without_tenth = AdaptiveAggregator(EVALUATION_PRIORS)
    for item in log[:9] + log[10:]:
        without_tenth.update(item.metrics, item.target)
    undone = AdaptiveAggregator.replay(EVALUATION_PRIORS, (item for n, item in enumerate(log) if n != 9))
    assert undone.weights == without_tenth.weights
    assert undone.version == 39


def test_a_missing_metric_keeps_its_weight_exactly() -> None:
    aggregator = AdaptiveAggregator.replay(GENERATION_PRIORS, random_log(6, 50, GENERATION_PRIORS), 0.5)
    before = aggregator.weights
    present = {"judge_groundedness": 1.0, "coverage": 0.2, "grounding": 0.9}
    for _ in range(20):
        aggregator.update(present, 1.0)
    after = aggregator.weights
    assert {name: after[name] for name in after if name not in present} == {
        name: before[name] for name in before if name not in present
    }
    assert after["judge_groundedness"] > before["judge_groundedness"]
    assert after["coverage"] < before["coverage"]


def test_a_single_available_metric_cannot_change_its_weight() -> None:
    aggregator = AdaptiveAggregator(EVEN, 0.5)
    aggregator.update({"noise": 0.1}, 1.0)
    assert aggregator.weights == pytest.approx(EVEN, abs=1e-15)
    assert aggregator.version == 1


def best_fixed_loss(log: list[Feedback], names: list[str], steps: int) -> float:
    """Least total loss over a grid of fixed weights of three metrics."""
    best = math.inf
    for i in range(steps + 1):
        for j in range(steps + 1 - i):
            weights = dict(zip(names, (i / steps, j / steps, 1 - (i + j) / steps), strict=True))
            losses = (
                0.5 * (sum(weights[name] * item.metrics[name] for name in names) - item.target) ** 2 for item in log
            )
            best = min(best, sum(losses))
    return best


def drifting(rng: random.Random, when: float) -> Feedback:
    label = float(rng.random() < 0.5)
    return Feedback(
        {"a": label if when < 0.5 else 1 - label, "b": rng.random(), "c": (label + rng.random()) / 2}, label
    )


def mixed(rng: random.Random, when: float) -> Feedback:
    a, b, c = rng.random(), rng.random(), rng.random()
    return Feedback({"a": a, "b": b, "c": c}, 0.6 * a + 0.3 * b + 0.1 * c)


@pytest.mark.parametrize("source", [drifting, mixed])
@pytest.mark.parametrize("seed", range(3))
def test_regret_stays_below_the_bound_of_exponentiated_gradient(
    source: Callable[[random.Random, float], Feedback], seed: int
) -> None:
    rng, rounds, names = random.Random(seed), 300, ["a", "b", "c"]
    log = [source(rng, number / rounds) for number in range(rounds)]
    aggregator = AdaptiveAggregator(
        dict.fromkeys(names, 1 / 3), math.sqrt(8 * math.log(3) / rounds), prior_pull=0, share=0
    )
    loss = 0.0
    for item in log:
        loss += 0.5 * (aggregator.score(item.metrics) - item.target) ** 2
        aggregator.update(item.metrics, item.target)
    assert loss - best_fixed_loss(log, names, 20) <= math.sqrt(rounds * math.log(3) / 2)


def test_replay_names_the_entry_of_the_log_that_it_cannot_apply() -> None:
    log = [Feedback({"right": 0.5}, 1.0), Feedback({"right": 7.0}, 1.0)]
    with pytest.raises(ValueError, match=r"feedback 2: metric right is 7\.0"):
        AdaptiveAggregator.replay(EVEN, log)


def test_what_a_caller_does_to_the_weights_it_got_changes_nothing() -> None:
    priors = dict(EVEN)
    aggregator = AdaptiveAggregator(priors)
    priors["right"] = 9
    aggregator.weights["right"] = 9
    aggregator.priors["right"] = 9
    assert aggregator.weights == aggregator.priors == EVEN
