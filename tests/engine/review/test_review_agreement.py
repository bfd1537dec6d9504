"""What ratings say of scores, out of a store: which ratings count, for what, and when it is computed anew."""

import random
from pathlib import Path
from typing import Any

import pytest

from lora_tui.engine.review import agreement
from lora_tui.engine.review.agreement import answers_agreement, pairs_agreement, rating_statistics
from lora_tui.engine.review.pairs import edit_pair, undo
from lora_tui.engine.review.queue import is_audit
from lora_tui.protocol.agreement import ENOUGH, ScoreAgreement, agreement_text
from lora_tui.scoring import agreement as scoring_agreement
from lora_tui.store import events, feedback, runs
from lora_tui.store.connection import Store
from lora_tui.store.queries.ratings import ratings_state
from tests.engine.review.one_pair import override_pair
from tests.store.store_fixtures import SETTINGS, make_chunk, make_pair, with_store
from tests.store.test_store_rows import EVALUATION, SAMPLE


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A verdict has the file of pairs written, which the settings name from the current folder."""
    monkeypatch.chdir(tmp_path)


async def rated_pairs(
    store: Store, count: int, asked: str = feedback.AUDIT, seed: int = 0, unrated: int = 0, given_by: str = "person"
) -> int:
    """A run of accepted pairs, whose coverage is mostly what people think of them; returns its id."""
    rng = random.Random(seed)
    run_id = await runs.create(store, "generate", SETTINGS, {})
    for number in range(count + unrated):
        value = rng.random()
        metrics = {"judge_groundedness": value, "coverage": value}
        chunk = await make_chunk(store, f"{run_id}-{number}")
        pair_id = await make_pair(store, run_id, f"{number}?", "accepted", 10 * value, chunk=chunk, metrics=metrics)
        if number < count:
            await rate(store, run_id, "pair", pair_id, metrics, float(rng.random() < value), asked, given_by)
    return run_id


async def rate(
    store: Store,
    run_id: int,
    subject: str,
    subject_id: int,
    metrics: dict[str, float],
    target: float,
    asked: str = feedback.AUDIT,
    given_by: str = "person",
) -> int:
    scope = "generation" if subject == "pair" else "evaluation"
    async with store.transaction() as t:
        return await feedback.add(t, scope, run_id, subject, subject_id, metrics, target, given_by, None, asked)


def test_the_number_that_is_enough_is_one_number() -> None:
    assert ENOUGH == scoring_agreement.ENOUGH


def test_few_ratings_are_counted_and_state_nothing(tmp_path: Path) -> None:
    async def work(store: Store) -> ScoreAgreement:
        run_id = await runs.create(store, "generate", SETTINGS, {})
        for number in range(9):
            pair_id = await make_pair(store, run_id, f"{number}?", "accepted", 8.0)
            await rate(store, run_id, "pair", pair_id, {"coverage": 0.5}, float(number < 3))
        return await pairs_agreement(store, run_id)

    found = with_store(tmp_path / "store.db", work)
    assert (found.good, found.bad, found.missing_good, found.missing_bad) == (3, 6, 7, 4)
    assert (found.auroc, found.guarantee, found.mean, found.curve, found.thresholds) == (None, None, None, (), ())


def test_ratings_give_agreement_a_guarantee_and_the_share_of_good_pairs(tmp_path: Path) -> None:
    async def work(store: Store) -> ScoreAgreement:
        run_id = await rated_pairs(store, 60, unrated=40)
        return await pairs_agreement(store, run_id)

    found = with_store(tmp_path / "store.db", work)
    assert (found.ratings, found.at_random) == (60, 60)
    assert found.auroc is not None
    assert 0.5 < found.auroc.low < found.auroc.value < found.auroc.high < 1
    assert found.kappa is not None
    assert found.kappa > 0.2
    assert sum(point.ratings for point in found.curve) == 60
    assert found.guarantee is not None
    assert found.guarantee.threshold == 7.0
    assert 0 < found.guarantee.good < found.guarantee.ratings == 60
    assert 0 < found.guarantee.precision < found.guarantee.good / found.guarantee.ratings
    assert found.mean is not None
    assert found.mean.low < 0.5 < found.mean.high
    assert found.mean.high - found.mean.low < 0.25


def test_only_ratings_that_were_asked_for_at_random_guarantee_anything(tmp_path: Path) -> None:
    async def work(store: Store) -> tuple[ScoreAgreement, ScoreAgreement]:
        chosen = await rated_pairs(store, 60, feedback.FREE)
        before = await pairs_agreement(store, chosen)
        await rated_pairs(store, 30, feedback.AUDIT, seed=1)
        return before, await pairs_agreement(store, chosen)

    before, after = with_store(tmp_path / "store.db", work)
    assert before.auroc is not None, "of rankings, every rating tells"
    assert before.guarantee is not None
    assert (before.at_random, before.guarantee.ratings, before.guarantee.precision, before.mean) == (0, 0, 0.0, None)
    assert (after.ratings, after.at_random) == (90, 30)
    assert after.guarantee is not None
    assert after.guarantee.ratings == 0
    assert after.mean is None, "of this run no pair was drawn"


def test_the_guarantee_is_about_what_the_run_accepted_whatever_the_weights_say_since(tmp_path: Path) -> None:
    async def work(store: Store) -> ScoreAgreement:
        run_id = await runs.create(store, "generate", SETTINGS, {})
        for number in range(60):
            value = 0.95 if number % 2 else 0.05
            metrics = {"judge_groundedness": value, "coverage": value}
            pair_id = await make_pair(store, run_id, f"{number}?", "accepted", 8.0, metrics=metrics)
            await rate(store, run_id, "pair", pair_id, metrics, float(number % 2))
        for number in range(20):
            pair_id = await make_pair(store, run_id, f"no {number}?", "rejected", 5.0)
            await rate(store, run_id, "pair", pair_id, {"coverage": 0.5}, 1.0)
        return await pairs_agreement(store, run_id)

    promise = with_store(tmp_path / "store.db", work).guarantee
    assert promise is not None
    assert (promise.threshold, promise.good, promise.ratings) == (7.0, 30, 60), "the bad ones would score less today"
    assert 0.35 < promise.precision < 0.5


def test_agreement_is_of_ratings_at_random_once_others_were_asked_because_they_are_hard(tmp_path: Path) -> None:
    async def work(store: Store) -> list[ScoreAgreement]:
        run_id = await rated_pairs(store, 60, feedback.ACTIVE)
        found = [await pairs_agreement(store, run_id)]
        for number in range(20):
            value = 0.95 if number % 2 else 0.05
            metrics = {"judge_groundedness": value, "coverage": value}
            pair_id = await make_pair(store, run_id, f"drawn {number}?", "accepted", 8.0, metrics=metrics)
            await rate(store, run_id, "pair", pair_id, metrics, float(number % 2))
            if number == 18:
                found.append(await pairs_agreement(store, run_id))
        return [*found, await pairs_agreement(store, run_id)]

    none, few, enough = with_store(tmp_path / "store.db", work)
    assert (none.of, few.of, enough.of) == ("all", "all", "audit")
    assert few.auroc is not None
    assert enough.auroc is not None
    assert few.auroc.value < enough.auroc.value == 1, "the drawn ones are easy"
    assert sum(point.ratings for point in few.curve) == 79
    assert sum(point.ratings for point in enough.curve) == 20
    assert agreement_text(few).endswith("79 ratings, 60 asked because hard")
    assert agreement_text(enough).endswith("20 ratings at random")
    assert enough.as_json()["of"] == "audit"


def test_ratings_of_before_all_count_where_none_was_asked_because_it_is_hard(tmp_path: Path) -> None:
    async def work(store: Store) -> ScoreAgreement:
        await rated_pairs(store, 40, feedback.FREE)
        return await pairs_agreement(store, await rated_pairs(store, 40, seed=1))

    found = with_store(tmp_path / "store.db", work)
    assert (found.of, sum(point.ratings for point in found.curve)) == ("all", 80)
    assert agreement_text(found).endswith("80 ratings")


@pytest.mark.parametrize("edited", [False, True])
def test_a_run_whose_draw_was_changed_by_hand_is_promised_nothing(tmp_path: Path, edited: bool) -> None:
    async def work(store: Store) -> list[ScoreAgreement]:
        run_id = await rated_pairs(store, 60, unrated=40)
        left = range(61, 101)
        drawn = next(number for number in left if is_audit("pair", number))
        other = next(number for number in left if not is_audit("pair", number))
        rated = next(number for number in range(1, 61) if is_audit("pair", number))
        found, states = [], [await ratings_state(store, "generation")]
        for pair_id in (rated, other, drawn):
            if edited:
                await edit_pair(store, pair_id, f"Why {pair_id}?", "So.")
            else:
                await override_pair(store, pair_id, "rejected")
            found.append(await pairs_agreement(store, run_id))
            states.append(await ratings_state(store, "generation"))
        assert len(set(states)) == 4, "the app asks again when this changes"
        await undo(store, run_id)
        return [*found, await pairs_agreement(store, run_id)]

    second, other, drawn, undone = with_store(tmp_path / "store.db", work)
    for found in (second, other, undone):
        assert found.mean is not None
        assert found.guarantee is not None
        assert found.guarantee.ratings == 60
    assert (drawn.mean, drawn.guarantee, drawn.not_random) == (None, None, True)
    assert drawn.thresholds == undone.thresholds
    assert drawn.as_json()["summary"].endswith("; no guarantee: drawn pairs were changed by hand")


def test_a_threshold_is_named_for_each_precision_that_can_be_promised(tmp_path: Path) -> None:
    async def work(store: Store) -> ScoreAgreement:
        run_id = await runs.create(store, "generate", SETTINGS, {})
        for number in range(80):
            value = 0.95 if number % 2 else 0.05
            metrics = {"judge_groundedness": value, "coverage": value}
            pair_id = await make_pair(store, run_id, f"{number}?", "accepted", 10 * value, metrics=metrics)
            await rate(store, run_id, "pair", pair_id, metrics, float(number % 2))
        return await pairs_agreement(store, run_id)

    found = with_store(tmp_path / "store.db", work)
    assert [share for share, _ in found.thresholds] == [0.9, 0.85, 0.8, 0.7], "40 good ones are too few for 95 %"
    assert all(0 < threshold <= 9.5 for _, threshold in found.thresholds)
    assert found.auroc is not None
    assert found.auroc.value == 1


def test_what_a_judge_says_is_no_persons_rating(tmp_path: Path) -> None:
    async def work(store: Store) -> ScoreAgreement:
        return await pairs_agreement(store, await rated_pairs(store, 40, given_by="judge"))

    assert with_store(tmp_path / "store.db", work).ratings == 0


def test_answers_have_the_mean_that_people_would_give_and_controls_have_no_say(tmp_path: Path) -> None:
    rng = random.Random(1)
    values = [rng.random() for _ in range(50)]

    def sample(kind: str, number: int, value: float) -> dict[str, Any]:
        metrics = {"token_f1": value, "rougeL": value, "containment": value}
        return {**SAMPLE, "kind": kind, "prompt": f"{number}", "metrics": metrics, "score": value}

    async def work(store: Store) -> tuple[ScoreAgreement, ScoreAgreement]:
        run_id = await runs.create(store, "train", SETTINGS, {})
        samples = [sample("expected", number, value) for number, value in enumerate(values)]
        controls = [sample("unrelated", 100 + number, 1.0) for number in range(20)]
        await events.append(store, run_id, [(1.0, "evaluation", {**EVALUATION, "samples": samples + controls})])
        for number, value in enumerate(values[:40], start=1):
            metrics = {"token_f1": value, "rougeL": value, "containment": value}
            await rate(store, run_id, "sample", number, metrics, float(rng.random() < value))
        before = await answers_agreement(store, run_id)
        for number in range(20):
            measured = {"token_f1": 1.0, "rougeL": 1.0} if number < 10 else {"kept": 1.0}
            await rate(store, run_id, "sample", 51 + number, measured, 0.0)
        return before, await answers_agreement(store, run_id)

    before, after = with_store(tmp_path / "store.db", work)
    assert before.ratings == after.ratings == 40
    (mean,) = before.means.values()
    assert mean.low < sum(values) / len(values) < mean.high
    assert mean.high - mean.low < 0.5


def test_a_screen_may_ask_as_often_as_it_likes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replays: list[int] = []
    real = agreement.cross_validated_scores

    def counted(log: Any, *others: Any) -> Any:
        replays.append(len(log))
        return real(log, *others)

    monkeypatch.setattr(agreement, "cross_validated_scores", counted)

    async def work(store: Store) -> None:
        run_id = await rated_pairs(store, 40)
        first = await rating_statistics(store, "generation", 0.1)
        assert await rating_statistics(store, "generation", 0.1) is first
        await rate(store, run_id, "pair", 1, {"coverage": 0.5}, 1.0)
        assert await rating_statistics(store, "generation", 0.1) is not first
        async with store.transaction() as t:
            await feedback.withdraw(t, "pair", 2)
        await rating_statistics(store, "generation", 0.1)
        await rating_statistics(store, "generation", 0.1)

    with_store(tmp_path / "store.db", work)
    assert replays == [40, 41, 40]
