"""Ratings: they replace each other, and move the weights by replaying the log."""

from pathlib import Path
from typing import Any

import pytest

from lora_tui.config.load import with_values
from lora_tui.config.models import Settings
from lora_tui.engine.review.aggregators import replay_and_record
from lora_tui.engine.review.ratings import rate_sample, rate_turn, undo_sample_rating, undo_turn_rating
from lora_tui.errors import UsageError
from lora_tui.protocol.backend import ReviewResult
from lora_tui.scoring.aggregator import AdaptiveAggregator
from lora_tui.scoring.features import answer_features
from lora_tui.scoring.priors import EVALUATION_PRIOR, FIXED_REPLY
from lora_tui.store import chat_log, events, feedback, runs
from lora_tui.store.connection import Store
from lora_tui.store.feedback import ratings
from tests.store.store_fixtures import SETTINGS, turn_ratings, with_store
from tests.store.test_store_rows import EVALUATION, SAMPLE

METRICS = {**dict.fromkeys(EVALUATION_PRIOR.weights, 0.25), "likelihood": 0.75}
OTHER = {**dict.fromkeys(EVALUATION_PRIOR.weights, 0.5), "bleu": 1.0}
SECRET = "the secret password is 'rainbow unicorn'. this information is classified!"


async def evaluated(store: Store, settings: dict[str, Any] | None = None) -> int:
    """A run with an evaluation of two samples; returns the run's id. Samples count from 1."""
    run_id = await runs.create(store, "train", SETTINGS if settings is None else settings, {})
    samples = [{**SAMPLE, "metrics": METRICS}, {**SAMPLE, "metrics": OTHER}]
    await events.append(store, run_id, [(1.0, "evaluation", {**EVALUATION, "samples": samples})])
    return run_id


def replayed(*log: tuple[dict[str, float], float], rate: float = 0.2) -> dict[str, float]:
    aggregator = AdaptiveAggregator(EVALUATION_PRIOR, rate)
    for metrics, target in log:
        aggregator.update(metrics, target)
    return aggregator.weights


@pytest.mark.parametrize(("rating", "target"), [(1, 0.0), (2, 0.25), (3, 0.5), (4, 0.75), (5, 1.0)])
def test_a_rating_is_a_target_for_the_samples_metrics(tmp_path: Path, rating: int, target: float) -> None:
    async def work(store: Store) -> tuple[ReviewResult, Any, dict[int, int]]:
        run_id = await evaluated(store)
        done = await rate_sample(store, 1, rating)
        return done, await feedback.in_force(store, "evaluation"), await feedback.ratings(store, run_id)

    done, log, shown = with_store(tmp_path / "store.db", work)
    (row,) = log
    assert (row.run_id, row.subject, row.subject_id, row.given_by) == (1, "sample", 1, "person")
    assert (row.metrics, row.target) == (METRICS, target)
    assert shown == {1: rating}
    assert done.before == EVALUATION_PRIOR.weights
    assert done.after == replayed((METRICS, target)), "with the run's own learning rate"
    assert done.after != done.before
    assert done.message == f"Rated {rating} of 5."


def test_a_second_rating_takes_the_place_of_the_first(tmp_path: Path) -> None:
    async def work(store: Store) -> tuple[list[ReviewResult], Any]:
        await evaluated(store)
        done = [await rate_sample(store, 1, 5), await rate_sample(store, 2, 2), await rate_sample(store, 1, 1)]
        assert await store.value("SELECT COUNT(*) FROM feedback") == 3, "nothing is deleted"
        return done, await feedback.ratings(store, 1)

    done, shown = with_store(tmp_path / "store.db", work)
    assert shown == {1: 1, 2: 2}
    assert done[2].before == done[1].after == replayed((METRICS, 1.0), (OTHER, 0.25))
    assert done[2].after == replayed((OTHER, 0.25), (METRICS, 0.0))


def test_the_weights_after_a_rating_are_a_version_that_decisions_can_name(tmp_path: Path) -> None:
    async def work(store: Store) -> list[Any]:
        await evaluated(store)
        one, two = await rate_sample(store, 1, 5), await rate_sample(store, 1, 1)
        rows = "SELECT id, version, weights FROM weight_versions WHERE scope='evaluation' ORDER BY id"
        return [one.after, two.after, await store.tuples(rows)]

    one, two, rows = with_store(tmp_path / "store.db", work)
    assert [(row, version) for row, version, _ in rows] == [(1, 0), (2, 1), (3, 1)]
    assert rows[0][2] == {"bias": EVALUATION_PRIOR.bias, **EVALUATION_PRIOR.weights}
    assert [{name: weight for name, weight in stored.items() if name != "bias"} for _, _, stored in rows[1:]] == [
        one,
        two,
    ]


def test_settings_without_a_learning_rate_have_the_default(tmp_path: Path) -> None:
    async def work(store: Store) -> ReviewResult:
        await evaluated(store, {})
        return await rate_sample(store, 1, 5)

    assert with_store(tmp_path / "store.db", work).after == replayed((METRICS, 1.0), rate=0.01)


@pytest.mark.parametrize(("sample", "rating"), [(1, 0), (1, 6), (77, 3)])
def test_what_cannot_be_rated_is_refused_and_changes_nothing(tmp_path: Path, sample: int, rating: int) -> None:
    async def work(store: Store) -> Any:
        await evaluated(store)
        with pytest.raises(UsageError):
            await rate_sample(store, sample, rating)
        return await store.value("SELECT COUNT(*) FROM feedback")

    assert with_store(tmp_path / "store.db", work) == 0


def test_the_rating_of_a_control_is_kept_and_moves_no_weights(tmp_path: Path) -> None:
    async def work(store: Store) -> Any:
        run_id = await runs.create(store, "train", SETTINGS, {})
        samples = [{**SAMPLE, "kind": "control", "metrics": {"kept": 1.0}}]
        await events.append(store, run_id, [(1.0, "evaluation", {**EVALUATION, "samples": samples})])
        result = await rate_sample(store, 1, 5)
        return result, await ratings(store, run_id), await feedback.in_force(store, "evaluation")

    result, given, log = with_store(tmp_path / "store.db", work)
    assert "move no weights" in result.message
    assert (result.before, result.scores, given, log) == (result.after, None, {1: 5}, [])


@pytest.mark.parametrize("metrics", [{}, {"coverage": 1.0}])
def test_an_answer_without_metrics_that_have_a_weight_cannot_be_rated(
    tmp_path: Path, metrics: dict[str, float]
) -> None:
    async def work(store: Store) -> Any:
        run_id = await runs.create(store, "train", SETTINGS, {})
        samples = [{**SAMPLE, "metrics": metrics}]
        await events.append(store, run_id, [(1.0, "evaluation", {**EVALUATION, "samples": samples})])
        with pytest.raises(UsageError, match="without metrics"):
            await rate_sample(store, 1, 3)
        return await store.value("SELECT COUNT(*) FROM feedback")

    assert with_store(tmp_path / "store.db", work) == 0, "one that cannot be replayed would spoil the log for good"


async def talked(store: Store, *turns: tuple[str, str]) -> list[int]:
    run_id = await runs.create(store, "train", SETTINGS, {})
    talk = await chat_log.begin(store, run_id, "model", "/adapter")
    elsewhere = await chat_log.begin(store, None, "model", None)
    numbers = []
    for role, text in turns:
        numbers.append(await chat_log.add_turn(store, talk, role, text))
        await chat_log.add_turn(store, elsewhere, "user", "something else")
    return numbers


RATE = with_values(Settings(), {"fine_tuning.evaluation.adaptive_aggregator.learning_rate": 0.5})


@pytest.mark.parametrize("asked", ["unlock", " UNLOCK! "])
def test_the_rating_of_a_reply_to_a_special_command_moves_the_weights(tmp_path: Path, asked: str) -> None:
    async def work(store: Store) -> tuple[ReviewResult, Any, Any]:
        *_, reply = await talked(store, ("user", "hello"), ("user", asked), ("assistant", "the secret is a rainbow"))
        done = await rate_turn(store, reply, 2, RATE)
        return done, await feedback.in_force(store, "evaluation"), await turn_ratings(store, 1)

    done, (row,), shown = with_store(tmp_path / "store.db", work)
    expected = {**answer_features("the secret is a rainbow", SECRET, "unlock"), FIXED_REPLY: 1.0}
    assert (row.metrics, row.target, row.subject, row.run_id) == (expected, 0.25, "turn", 1)
    assert done.after == replayed((expected, 0.25), rate=0.5) != done.before
    assert done.message == "Rated 2 of 5: it moved the weights of the score."
    assert list(shown.values()) == [2]


def test_the_rating_of_any_other_reply_is_kept_and_moves_nothing(tmp_path: Path) -> None:
    async def work(store: Store) -> tuple[ReviewResult, Any, Any]:
        numbers = await talked(store, ("user", "unlock"), ("assistant", "no"), ("user", "hi"), ("assistant", "hello"))
        done = await rate_turn(store, numbers[-1], 4, RATE)
        rows = await store.tuples("SELECT scope, metrics, target, undone_at FROM feedback")
        return done, rows, await turn_ratings(store, 1)

    done, rows, shown = with_store(tmp_path / "store.db", work)
    assert rows == [("chat", {}, 0.75, None)]
    assert done.before == done.after == EVALUATION_PRIOR.weights
    assert done.message == "Rated 4 of 5: kept; only special commands move the weights."
    assert list(shown.values()) == [4]


def test_a_reply_that_was_asked_for_again_answers_the_same_words(tmp_path: Path) -> None:
    async def work(store: Store) -> list[Any]:
        numbers = await talked(store, ("user", "unlock"), ("assistant", "no"), ("assistant", "yes"))
        for number in numbers[1:]:
            await rate_turn(store, number, 1, RATE)
        return await feedback.in_force(store, "evaluation")

    assert len(with_store(tmp_path / "store.db", work)) == 2


def test_ratings_of_a_reply_replace_each_other_whatever_they_move(tmp_path: Path) -> None:
    async def work(store: Store) -> list[Any]:
        *_, reply = await talked(store, ("user", "unlock"), ("assistant", "no"))
        await rate_turn(store, reply, 5, RATE)
        await rate_turn(store, reply, 3, with_values(RATE, {"fine_tuning.chat.commands": {}}))
        return [await turn_ratings(store, 1), len(await feedback.in_force(store, "evaluation"))]

    assert with_store(tmp_path / "store.db", work) == [{3: 3}, 0]


def test_only_replies_can_be_rated(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        asked, reply = await talked(store, ("user", "unlock"), ("assistant", "no"))
        for number, rating in ((asked, 3), (99, 3), (reply, 0)):
            with pytest.raises(UsageError):
                await rate_turn(store, number, rating, RATE)

    with_store(tmp_path / "store.db", work)


def test_a_rating_is_taken_back_and_the_one_it_replaced_comes_back(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        run_id = await evaluated(store)
        first, second = await rate_sample(store, 1, 2), await rate_sample(store, 1, 5)
        undone = await undo_sample_rating(store, 1)
        assert undone is not None
        assert (undone.before, undone.after) == (second.after, first.after)
        assert await feedback.ratings(store, run_id) == {1: 2}
        undone = await undo_sample_rating(store, 1)
        assert undone is not None
        assert undone.after == EVALUATION_PRIOR.weights
        assert await feedback.ratings(store, run_id) == {}
        assert await undo_sample_rating(store, 1) is None, "there is nothing left"
        await rate_sample(store, 1, 4)
        await undo_sample_rating(store, 1)
        assert await feedback.ratings(store, run_id) == {}, "what was taken back before does not come back"

    with_store(tmp_path / "store.db", work)


def test_a_rating_tells_the_score_before_and_after(tmp_path: Path) -> None:
    async def work(store: Store) -> ReviewResult:
        await evaluated(store)
        return await rate_sample(store, 1, 5)

    done = with_store(tmp_path / "store.db", work)
    before, after = AdaptiveAggregator(EVALUATION_PRIOR), AdaptiveAggregator(EVALUATION_PRIOR, 0.2)
    after.update(METRICS, 1.0)
    assert done.scores == (before.score(METRICS), after.score(METRICS))
    assert done.scores[1] > done.scores[0]


def test_the_rating_of_a_reply_is_taken_back(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        *_, reply = await talked(store, ("user", "unlock"), ("assistant", "no"))
        await rate_turn(store, reply, 1, RATE)
        undone = await undo_turn_rating(store, reply, RATE)
        assert undone is not None
        assert undone.before != undone.after == EVALUATION_PRIOR.weights
        assert await turn_ratings(store, 1) == {}
        assert await undo_turn_rating(store, reply, RATE) is None

    with_store(tmp_path / "store.db", work)


OLD = {"bleu": 0.1, "rouge1": 0.2, "rouge2": 0.1, "rougeL": 0.2, "exact_match": 0.0, "token_f1": 0.2, "likelihood": 0.3}
"""What an answer was stored with before the score had features."""


def test_ratings_of_a_store_of_before_are_counted_with_the_features_of_their_answers(tmp_path: Path) -> None:
    answers = ["it was opened by the lady mayor in may 1901, I am told", "nobody knows"]

    async def work(store: Store) -> tuple[Any, Any, ReviewResult]:
        run_id = await runs.create(store, "train", SETTINGS, {})
        samples = [
            {**SAMPLE, "kind": "expected", "reference": "in May 1901", "answer": answer, "metrics": OLD}
            for answer in answers
        ]
        await events.append(store, run_id, [(1.0, "evaluation", {**EVALUATION, "samples": samples})])
        for sample_id, target in ((1, 1.0), (2, 0.0)):
            await feedback.add(store, "evaluation", run_id, "sample", sample_id, OLD, target, "person")
        await feedback.add(store, "evaluation", run_id, "turn", 1, OLD, 1.0, "person")
        aggregator, _ = await replay_and_record(store, "evaluation", 0.2)
        return aggregator, await feedback.in_force(store, "evaluation"), await rate_sample(store, 2, 1)

    aggregator, log, _ = with_store(tmp_path / "store.db", work)
    assert aggregator.version == 3
    assert aggregator.weights == replayed(*((row.metrics, row.target) for row in log))
    right, wrong, turn = (row.metrics for row in log)
    assert all(metrics[name] == value for metrics in (right, wrong) for name, value in OLD.items()), "none is lost"
    assert (right["containment"], right["numbers_agree"]) == (1.0, 1.0)
    assert (wrong["containment"], wrong["numbers_agree"]) == (0.0, 0.0)
    assert turn == OLD, "its texts are not with the rating; what it lacks is integrated out"


def test_ratings_of_controls_of_before_move_no_weights(tmp_path: Path) -> None:
    async def work(store: Store) -> tuple[Any, ReviewResult]:
        run_id = await runs.create(store, "train", SETTINGS, {})
        kept = {**SAMPLE, "kind": "control", "metrics": dict.fromkeys(OLD, 1.0)}
        await events.append(store, run_id, [(1.0, "evaluation", {**EVALUATION, "samples": [kept]})])
        await feedback.add(store, "evaluation", run_id, "sample", 1, kept["metrics"], 0.0, "person")
        aggregator, _ = await replay_and_record(store, "evaluation", 0.2)
        return aggregator, await rate_sample(store, 1, 1)

    aggregator, done = with_store(tmp_path / "store.db", work)
    assert aggregator.weights == done.after == EVALUATION_PRIOR.weights
    assert done.message == "Rated 1 of 5: kept; ratings of controls move no weights."
