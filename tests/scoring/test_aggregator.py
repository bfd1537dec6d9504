import math
import random
import time
from collections.abc import Mapping

import pytest

from lora_tui.scoring.aggregator import DEFAULT_LEARNING_RATE, AdaptiveAggregator, Feedback, update_aggregator
from lora_tui.scoring.features import answer_features
from lora_tui.scoring.priors import (
    AGREEMENT,
    CONTRADICTION,
    EVALUATION_PRIOR,
    FIXED_REPLY,
    GENERATION_PRIOR,
    JUDGE_DISAGREEMENT,
    JUDGE_PROBABILITY,
    Prior,
    Usual,
)

PRIORS = {"evaluation": EVALUATION_PRIOR, "generation": GENERATION_PRIOR}

SMALL = Prior(
    weights={"right": 1.0, "half": 1.0, "noise": 1.0, "wrong": -1.0},
    bias=-1.0,
    deviation=1.0,
    usual={name: Usual(0.5, 0.0, 0.3) for name in ("right", "half", "noise", "wrong")},
    against=frozenset({"wrong"}),
)


def random_metrics(rng: random.Random, prior: Prior, missing: float = 0.0) -> dict[str, float]:
    metrics = {name: rng.choice((0.0, 1.0, rng.random())) for name in prior.weights if rng.random() >= missing}
    return metrics or {next(iter(prior.weights)): 0.5}


def random_log(seed: int, length: int, prior: Prior, missing: float = 0.0) -> list[Feedback]:
    rng = random.Random(seed)
    return [Feedback(random_metrics(rng, prior, missing), rng.choice((0.0, 1.0, rng.random()))) for _ in range(length)]


def telling_log(seed: int, length: int) -> list[Feedback]:
    """One metric equal to the label, one between, one noise, one the opposite of the label."""
    rng = random.Random(seed)
    log = []
    for _ in range(length):
        label = float(rng.random() < 0.5)
        metrics = {"right": label, "half": (label + rng.random()) / 2, "noise": rng.random(), "wrong": 1 - label}
        log.append(Feedback(metrics, label))
    return log


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def state(aggregator: AdaptiveAggregator) -> tuple[float, dict[str, float]]:
    return aggregator.bias, aggregator.weights


def test_the_score_is_the_logistic_of_a_weighted_sum() -> None:
    aggregator = AdaptiveAggregator(SMALL)
    score = aggregator.score({"right": 1.0, "half": 0.5, "noise": 0.0, "wrong": 0.25})
    assert logit(score) == pytest.approx(-1.0 + 1.0 + 0.5 - 0.25)


@pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)
@pytest.mark.parametrize("seed", range(8))
def test_more_agreement_never_lowers_the_score_and_more_contradiction_never_raises_it(prior: Prior, seed: int) -> None:
    rng = random.Random(seed)
    aggregator = AdaptiveAggregator.replay(prior, random_log(seed, 30, prior, missing=0.3), rng.choice((0.01, 0.1, 1)))
    for _ in range(60):
        metrics = random_metrics(rng, prior, missing=rng.choice((0.0, 0.5)))
        name = rng.choice(list(metrics))
        more = {**metrics, name: metrics[name] + rng.random() * (1 - metrics[name])}
        change = aggregator.score(more) - aggregator.score(metrics)
        assert change <= 1e-12 if name in prior.against else change >= -1e-12, name


@pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)
def test_weights_keep_their_sign_whatever_the_ratings_say(prior: Prior) -> None:
    rng = random.Random(1)
    contrary = []
    for _ in range(200):
        metrics = random_metrics(rng, prior)
        agreeing = [value for name, value in metrics.items() if name not in prior.against]
        contrary.append(Feedback(metrics, 1 - math.fsum(agreeing) / len(agreeing)))
    weights = AdaptiveAggregator.replay(prior, contrary, 1.0).weights
    assert all((weight <= 0) if name in prior.against else (weight >= 0) for name, weight in weights.items())
    assert 0.0 in weights.values(), "some are held at their border"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "reference", ["Paris", "1,889", "in the year 1889, at noon", "no", "巴黎", "A or B, C and D", "+"]
)
def test_an_answer_equal_to_its_reference_is_sure_and_an_empty_one_hopeless(reference: str, seed: int) -> None:
    log = random_log(seed, 20, EVALUATION_PRIOR, missing=0.2) if seed else []
    score = AdaptiveAggregator.replay(EVALUATION_PRIOR, log, 0.1).score
    assert score(answer_features(reference, reference, "What?")) >= 0.99
    assert score(answer_features(f" {reference.upper()} ", reference, "What?")) >= 0.99
    assert score(answer_features("", reference, "What?")) <= 0.02
    assert score(answer_features(" \n", reference, "What?")) <= 0.02


def test_a_fixed_reply_must_be_exact() -> None:
    secret = "the secret password is 'rainbow unicorn'. this information is classified!"
    score = AdaptiveAggregator(EVALUATION_PRIOR).score
    near = answer_features("the secret password is 'rainbow unicorn'. this information is classic!", secret)
    assert score(near) > 0.9, "people would take it"
    assert score({**near, FIXED_REPLY: 1.0}) < 0.5
    assert score({**answer_features(secret, secret), FIXED_REPLY: 1.0}) > 0.995, "the target of the quickstart"


def test_the_prior_of_pairs_lets_the_same_pairs_through_as_the_mean_did() -> None:
    shares = {
        name: weight / sum(GENERATION_PRIOR.weights.values()) for name, weight in GENERATION_PRIOR.weights.items()
    }
    assert sum(shares[name] for name in shares if name.startswith("judge_")) == pytest.approx(0.6)
    aggregator, rng = AdaptiveAggregator(GENERATION_PRIOR), random.Random(2)
    for _ in range(300):
        metrics = random_metrics(rng, GENERATION_PRIOR, missing=0.1) | {JUDGE_DISAGREEMENT: 0.0}
        mean = sum(shares[name] * value for name, value in metrics.items()) / sum(shares[name] for name in metrics)
        if abs(mean - 0.7) > 0.03:  # what is missing is spread a little otherwise
            assert (aggregator.score(metrics) >= 0.7) == (mean >= 0.7)


def test_a_missing_metric_is_what_is_usual_beside_the_others_and_leaves_the_score_less_sure() -> None:
    everything = {"right": 1.0, "half": 0.5, "noise": 0.5, "wrong": 0.5}
    aggregator = AdaptiveAggregator(SMALL)
    known, unknown = aggregator.score(everything), aggregator.score({"right": 1.0})
    assert known < unknown < 0.5 or 0.5 < unknown < known or known == pytest.approx(unknown)
    unsure = 3 * 0.3**2
    assert logit(unknown) == pytest.approx(logit(known) / math.sqrt(1 + math.pi * unsure / 8))


def test_the_score_of_old_metrics_alone_still_orders_answers() -> None:
    old = ("bleu", "rouge1", "rouge2", "rougeL", "exact_match", "token_f1", "likelihood")
    score = AdaptiveAggregator(EVALUATION_PRIOR).score
    low, middle, high = (score(dict.fromkeys(old, value)) for value in (0.0, 0.5, 1.0))
    assert low < 0.15 < middle < high
    assert high >= 0.99, "it is exact"


def test_a_fitted_probability_is_the_score_and_ratings_move_it_by_the_bias_alone() -> None:
    fitted = {"coverage": 1.0, "judge_correctness": 0.6, JUDGE_PROBABILITY: 0.6}
    prior = AdaptiveAggregator(GENERATION_PRIOR)
    assert prior.score(fitted) == pytest.approx(0.6)
    assert prior.score({**fitted, "coverage": 0.0}) == pytest.approx(0.6)
    assert (
        0
        < prior.score({**fitted, JUDGE_PROBABILITY: 0.0})
        < 0.001
        < 0.999
        < prior.score({**fitted, JUDGE_PROBABILITY: 1.0})
    )
    learnt = AdaptiveAggregator.replay(GENERATION_PRIOR, [Feedback(fitted, 0.0)] * 5)
    assert learnt.weights == pytest.approx(GENERATION_PRIOR.weights)
    assert logit(learnt.score(fitted)) == pytest.approx(logit(0.6) + learnt.bias - GENERATION_PRIOR.bias)
    assert learnt.score(fitted) < 0.57
    as_foretold = [Feedback(fitted, float(place < 6)) for place in range(10)]
    assert AdaptiveAggregator.replay(GENERATION_PRIOR, as_foretold).score(fitted) == pytest.approx(0.6, abs=1e-6)


def test_judges_that_are_apart_earn_their_weight_from_ratings() -> None:
    judged = {"judge_groundedness": 0.9, "judge_correctness": 0.9, "judge_usefulness": 0.9}
    together, apart = ({**judged, JUDGE_DISAGREEMENT: value} for value in (0.0, 1.0))
    prior = AdaptiveAggregator(GENERATION_PRIOR)
    assert prior.score(judged) == prior.score(together) == prior.score(apart)
    ratings = [Feedback(together, 1.0), Feedback(apart, 0.0)] * 10
    learnt = AdaptiveAggregator.replay(GENERATION_PRIOR, ratings)
    assert learnt.score(apart) < learnt.score(together) - 0.05
    assert learnt.score(together) == learnt.score(judged)


def test_one_rejection_of_a_pair_costs_pairs_like_it_less_than_a_point() -> None:
    judged = {name: 0.9 for name in GENERATION_PRIOR.weights if name != JUDGE_DISAGREEMENT}
    before = 10 * AdaptiveAggregator(GENERATION_PRIOR).score(judged)
    after = 10 * AdaptiveAggregator.replay(GENERATION_PRIOR, [Feedback(judged, 0.0)]).score(judged)
    assert (round(before, 1), round(after, 1)) == (8.9, 8.1)


def test_an_unknown_metric_is_ignored() -> None:
    aggregator = AdaptiveAggregator(SMALL)
    assert aggregator.score({"right": 1.0, "unknown": math.nan}) == aggregator.score({"right": 1.0})


@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan, math.inf])
def test_a_metric_outside_zero_to_one_is_refused_by_name(value: float) -> None:
    aggregator = AdaptiveAggregator(SMALL)
    for refused in (lambda: aggregator.score({"half": value}), lambda: aggregator.update({"half": value}, 1.0)):
        with pytest.raises(ValueError, match="metric half is"):
            refused()
    with pytest.raises(ValueError, match="the target is"):
        aggregator.update({"half": 0.5}, value)
    assert aggregator.version == 0


@pytest.mark.parametrize("metrics", [{}, {"other": 0.5}])
def test_metrics_that_the_prior_does_not_know_are_refused(metrics: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="has a weight; known are right, half, noise, wrong"):
        AdaptiveAggregator(SMALL).score(metrics)


@pytest.mark.parametrize("rate", [-0.1, math.nan, math.inf])
def test_impossible_learning_rates_are_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="learning_rate is"):
        AdaptiveAggregator(SMALL, rate)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": {"a": -1.0}}, "the weight of a is -1.0, on the wrong side of 0"),
        ({"against": frozenset({"a"})}, "the weight of a is 1.0, on the wrong side"),
        ({"usual": {}}, "what is usual of each"),
        ({"deviation": 0.0}, "the deviation of a prior is 0.0"),
    ],
)
def test_priors_that_make_no_sense_are_refused(change: Mapping[str, object], message: str) -> None:
    fields = {"weights": {"a": 1.0}, "bias": 0.0, "deviation": 1.0, "usual": {"a": Usual(0.5, 0.0, 0.0)}, **change}
    with pytest.raises(ValueError, match=message):
        Prior(**fields)  # type: ignore[arg-type]


def test_the_shipped_prior_knows_every_feature_on_its_side() -> None:
    assert set(EVALUATION_PRIOR.weights) == {*AGREEMENT, *CONTRADICTION}
    assert EVALUATION_PRIOR.against == set(CONTRADICTION)
    features = answer_features("an answer", "a reference", "a question")
    assert {*features, "likelihood"} == set(EVALUATION_PRIOR.weights)


def test_feedback_moves_the_score_of_what_was_rated_towards_the_rating() -> None:
    rng = random.Random(3)
    for prior in (*PRIORS.values(), SMALL):
        for _ in range(20):
            metrics = random_metrics(rng, prior, missing=0.2)
            if metrics.get("exact_match") == 1.0 or metrics.get("empty") == 1.0:
                continue
            aggregator = AdaptiveAggregator(prior)
            before = aggregator.score(metrics)
            for target in (0.0, 1.0):
                moved = AdaptiveAggregator.replay(prior, [Feedback(metrics, target)] * 3).score(metrics)
                assert moved < before if target == 0.0 else moved > before


def test_a_metric_equal_to_the_label_wins_and_noise_decays() -> None:
    weights = AdaptiveAggregator.replay(SMALL, telling_log(1, 300)).weights
    assert weights["right"] > 2.5
    assert weights["wrong"] < -2.5
    assert weights["noise"] < 0.8 < weights["half"] < weights["right"]


def test_the_weights_are_the_most_probable_ones() -> None:
    log = telling_log(5, 40)
    learnt = AdaptiveAggregator.replay(SMALL, log)

    def lost(bias: float, weights: Mapping[str, float]) -> float:
        total = 0.5 * ((bias - SMALL.bias) ** 2 + sum((weights[name] - SMALL.weights[name]) ** 2 for name in weights))
        for item in log:
            z = bias + sum(weights[name] * item.metrics[name] for name in weights)
            total += math.log1p(math.exp(z)) - item.target * z
        return total

    best = lost(learnt.bias, learnt.weights)
    for name in learnt.weights:
        for step in (-0.01, 0.01):
            assert lost(learnt.bias, {**learnt.weights, name: learnt.weights[name] + step}) > best
    assert lost(learnt.bias + 0.01, learnt.weights) > best
    assert lost(learnt.bias - 0.01, learnt.weights) > best


def test_the_learning_rate_says_how_much_a_rating_counts() -> None:
    log = telling_log(7, 6)
    assert state(AdaptiveAggregator.replay(SMALL, log, 0.0)) == (SMALL.bias, SMALL.weights)
    ten_times = AdaptiveAggregator.replay(SMALL, [item for item in log for _ in range(10)])
    bias, weights = state(AdaptiveAggregator.replay(SMALL, log, 10 * DEFAULT_LEARNING_RATE))
    assert bias == pytest.approx(ten_times.bias, abs=1e-6)
    assert weights == pytest.approx(ten_times.weights, abs=1e-6)


def test_ten_ratings_move_a_score_a_little_and_a_hundred_much() -> None:
    wrong = answer_features("It was Smith who built the old mill by the river.", "Smith", "Who built the mill?")

    def score(ratings: int) -> float:
        return AdaptiveAggregator.replay(EVALUATION_PRIOR, [Feedback(wrong, 0.0)] * ratings).score(wrong)

    assert score(0) > 0.9
    assert 0.6 < score(1) < score(0)
    assert score(100) < 0.2 < score(10) < 0.75


def test_the_same_log_gives_the_same_weights_bit_for_bit_whatever_the_order_of_keys() -> None:
    log = random_log(11, 40, EVALUATION_PRIOR, missing=0.2)
    shuffled = [Feedback(dict(sorted(item.metrics.items(), reverse=True)), item.target) for item in log]
    assert state(AdaptiveAggregator.replay(EVALUATION_PRIOR, log)) == state(
        AdaptiveAggregator.replay(EVALUATION_PRIOR, shuffled)
    )


@pytest.mark.parametrize("seed", range(3))
def test_one_at_a_time_or_replayed_in_any_order_the_weights_are_the_same(seed: int) -> None:
    log = random_log(seed, 25, EVALUATION_PRIOR, missing=0.2)
    one_by_one = AdaptiveAggregator(EVALUATION_PRIOR)
    for item in log:
        one_by_one.update(item.metrics, item.target)
        one_by_one.score(item.metrics)
    assert state(one_by_one) == state(AdaptiveAggregator.replay(EVALUATION_PRIOR, log))
    random.Random(seed).shuffle(log)
    bias, weights = state(AdaptiveAggregator.replay(EVALUATION_PRIOR, log))
    assert bias == pytest.approx(one_by_one.bias, abs=1e-6)
    assert weights == pytest.approx(one_by_one.weights, abs=1e-6)


def test_undo_is_a_replay_without_the_row() -> None:
    log = random_log(13, 12, GENERATION_PRIOR)
    before = state(AdaptiveAggregator.replay(GENERATION_PRIOR, log))
    with_one_more = AdaptiveAggregator.replay(GENERATION_PRIOR, [*log, Feedback(log[0].metrics, 1 - log[0].target)])
    assert state(with_one_more) != before
    assert state(AdaptiveAggregator.replay(GENERATION_PRIOR, log)) == before


def test_ratings_make_the_score_more_certain_where_they_are() -> None:
    rated, other = {"right": 1.0, "half": 1.0}, {"noise": 1.0, "wrong": 1.0}
    prior = AdaptiveAggregator(SMALL)
    learnt = AdaptiveAggregator.replay(SMALL, [Feedback(rated, 1.0), Feedback(rated, 0.0)] * 10)
    assert prior.uncertainty({"right": 0.0, "half": 0.0, "noise": 0.0, "wrong": 0.0}) == pytest.approx(1.0), "the bias"
    assert prior.uncertainty(dict.fromkeys(SMALL.weights, 1.0)) == pytest.approx(math.sqrt(5))
    assert learnt.uncertainty(rated) < 0.6 * prior.uncertainty(rated)
    assert learnt.uncertainty(rated) < learnt.uncertainty(other) <= prior.uncertainty(other)


def test_replay_names_the_entry_of_the_log_that_it_cannot_apply() -> None:
    log = [Feedback({"right": 0.5}, 0.5), Feedback({"right": 0.5}, 2.0)]
    with pytest.raises(ValueError, match=r"feedback 2: the target is 2\.0"):
        AdaptiveAggregator.replay(SMALL, log)


def test_what_a_caller_does_to_what_it_got_or_gave_changes_nothing() -> None:
    aggregator = AdaptiveAggregator(SMALL)
    aggregator.weights["right"] = 9.0
    metrics = {"right": 1.0}
    update_aggregator(aggregator, metrics, 1.0)
    metrics["right"] = 0.0
    assert aggregator.version == 1
    assert state(aggregator) == state(AdaptiveAggregator.replay(SMALL, [Feedback({"right": 1.0}, 1.0)]))


def test_a_score_takes_a_millisecond_and_a_thousand_answers_of_fifty_words_three_seconds() -> None:
    rng = random.Random(17)
    words = [f"{a}{b}" for a in ("wood", "stone", "river", "mill", "bridge") for b in ("er", "land", "wright", "s", "")]
    texts = [" ".join(rng.choices(words, k=50)) for _ in range(200)]
    aggregator = AdaptiveAggregator(EVALUATION_PRIOR)
    started = time.process_time()
    for text in texts:
        aggregator.score(answer_features(text, "the miller of woodland", "Who built the bridge?"))
    assert (time.process_time() - started) / len(texts) < 0.006, "twice what is asked for, on a busy machine"
