"""The rating queue: what is asked about next and how it was drawn, what a rating does, and what is left."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lora_tui.engine.review.pairs import edit_pair
from lora_tui.engine.review.queue import (
    AUDIT_SHARE,
    MOST_CANDIDATES,
    audit_is_due,
    is_audit,
    most_instructive,
    shortlist,
)
from lora_tui.engine.review.queued_ratings import (
    next_to_rate,
    queue_to_rate,
    rate_item,
    rating_totals,
    undo_item,
)
from lora_tui.engine.review.ratings import rate_sample
from lora_tui.errors import UsageError
from lora_tui.protocol.rating import RatingQueue, RatingTotals, evidence_span
from lora_tui.store import events, feedback, generation, runs
from lora_tui.store.connection import Store
from lora_tui.store.queries.rating_queue import ids_to_rate
from tests.engine.review.one_pair import override_pair
from tests.store.store_fixtures import SETTINGS, make_chunk, make_pair, with_store
from tests.store.test_store_rows import EVALUATION, SAMPLE


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Known:
    """A score whose probabilities and uncertainties are what the metrics say."""

    def score(self, metrics: Mapping[str, float]) -> float:
        return metrics["p"]

    def uncertainty(self, metrics: Mapping[str, float]) -> float:
        return metrics["sd"]


async def judged_run(store: Store, pairs: int = 12) -> RatingQueue:
    run_id = await runs.create(store, "generate", SETTINGS, {})
    chunk = await make_chunk(store)
    for number in range(pairs):
        metrics = {"judge_groundedness": number / pairs, "coverage": 0.5}
        state = "accepted" if number % 2 else "rejected"
        await make_pair(store, run_id, f"Why {number}?", state=state, score=4.0, metrics=metrics, chunk=chunk)
    await runs.end(store, run_id, "finished", {"output_file": "accepted.txt"}, None)
    return RatingQueue(run_id, "pair")


async def evaluated_run(store: Store, *answers: tuple[str, str, str]) -> RatingQueue:
    """A run with one evaluation of these (prompt, kind, answer)."""
    run_id = await runs.create(store, "train", SETTINGS, {})
    await evaluate(store, run_id, 10, *answers)
    return RatingQueue(run_id, "sample")


async def evaluate(store: Store, run_id: int, step: int, *answers: tuple[str, str, str]) -> None:
    samples = [
        {
            **SAMPLE,
            "prompt": prompt,
            "kind": kind,
            "answer": answer,
            "metrics": {"token_f1": 0.5, "rougeL": 1 / (n + 2)},
        }
        for n, (prompt, kind, answer) in enumerate(answers)
    ]
    await events.append(store, run_id, [(1.0, "evaluation", {**EVALUATION, "step": step, "samples": samples})])


def test_an_open_verdict_on_which_the_weights_are_unsure_teaches_most() -> None:
    sure = {"p": 0.5, "sd": 0.1}
    decided = {"p": 0.99, "sd": 2.0}
    both = {"p": 0.6, "sd": 1.0}
    assert most_instructive(Known(), {1: sure, 2: decided, 3: both}) == 3


def test_one_in_four_is_an_audit_and_which_never_depends_on_what_was_asked_before() -> None:
    audits = [number for number in range(4000) if is_audit("pair", number)]
    assert 900 < len(audits) < 1100
    asked: list[tuple[int, str]] = []
    left = set(range(200))
    while left:
        counts = [sum(kind == wanted for _, kind in asked) for wanted in ("audit", "active")]
        candidates, kind = shortlist("pair", left, *counts)
        asked.append((candidates[-1], kind))
        left.discard(candidates[-1])
    assert [kind for _, kind in asked[:9]] == ["audit", *["active"] * 3, "audit", *["active"] * 3, "audit"]
    assert {number for number, kind in asked if kind == "audit"} == {n for n in range(200) if is_audit("pair", n)}
    first = [number for number, kind in asked if kind == "audit"]
    assert first != sorted(first), "drawn at random"
    assert not audit_is_due(1, 0)
    assert audit_is_due(1, AUDIT_SHARE - 1)


def test_of_many_candidates_a_random_part_is_compared() -> None:
    candidates, kind = shortlist("pair", range(5000), 1, 0)
    assert (len(candidates), kind) == (MOST_CANDIDATES, "active")
    assert candidates != sorted(candidates)


def test_a_pair_is_asked_about_with_its_passage_and_without_its_score(tmp_path: Path) -> None:
    async def work(store: Store) -> Any:
        return await next_to_rate(store, await judged_run(store))

    item = with_store(tmp_path / "store.db", work)
    assert item.question.startswith("Why ")
    assert (item.answer, item.passage, item.origin) == ("To show the way.", "Bees dance in the dark.", "a.txt · Bees")
    assert (item.evidence, item.reference) == ("They show the way.", "")
    assert "score" not in item.__slots__


@pytest.mark.parametrize(("good", "verdict", "target"), [(True, "accepted", 1.0), (False, "rejected", 0.0)])
def test_a_rating_of_a_pair_is_a_verdict_and_says_how_it_was_asked(
    tmp_path: Path, good: bool, verdict: str, target: float
) -> None:
    async def work(store: Store) -> Any:
        queue = await judged_run(store)
        item = await next_to_rate(store, queue)
        assert item is not None
        done = await rate_item(store, item, good=good)
        pair = await generation.pair(store, item.id)
        assert pair is not None
        return item, done, pair.state, await feedback.in_force(store, "generation")

    item, done, state, log = with_store(tmp_path / "store.db", work)
    assert state == verdict
    assert done.before != done.after
    assert [(row.subject_id, row.target, row.asked) for row in log] == [(item.id, target, item.asked)]
    assert f"Question: {item.question}" in Path("accepted.txt").read_text() or not good


def test_each_pair_is_asked_about_once_and_taken_back_it_is_asked_again(tmp_path: Path) -> None:
    async def work(store: Store) -> Any:
        queue = await judged_run(store)
        seen = []
        while (item := await next_to_rate(store, queue)) is not None:
            seen.append(item)
            await rate_item(store, item, good=item.id % 2 == 0)
        totals = await rating_totals(store, queue)
        # A verdict given since, as another window may, stays.
        assert await undo_item(store, seen[0]) is not None
        assert await undo_item(store, seen[0]) is None
        again = await next_to_rate(store, queue)
        return seen, totals, again, await rating_totals(store, queue)

    seen, totals, again, after = with_store(tmp_path / "store.db", work)
    assert sorted(item.id for item in seen) == list(range(1, 13))
    audits = sum(is_audit("pair", number) for number in range(1, 13))
    assert totals == RatingTotals(12, 6, 6, audits, 0)
    assert again.id == seen[0].id
    assert (after.rated, after.left) == (11, 1)


def test_what_a_person_has_judged_edited_or_skipped_is_not_asked_about(tmp_path: Path) -> None:
    async def work(store: Store) -> Any:
        queue = await judged_run(store, 5)
        await make_pair(store, queue.run_id, "Waiting?")
        await make_pair(store, queue.run_id, "Refused at a gate?", state="rejected", metrics={})
        await override_pair(store, 1, "accepted")
        await edit_pair(store, 2, "Why else?", "Because.")
        asked = set()
        while (item := await next_to_rate(store, queue, {3, *asked})) is not None:
            asked.add(item.id)
        return asked, await rating_totals(store, queue)

    asked, totals = with_store(tmp_path / "store.db", work)
    assert asked == {4, 5}
    assert totals == RatingTotals(1, 1, 0, 0, 3), "one that a person chose is no audit"


def test_the_same_answer_to_the_same_prompt_is_asked_about_once_and_controls_never(tmp_path: Path) -> None:
    async def work(store: Store) -> Any:
        queue = await evaluated_run(store, ("who?", "expected", "me"), ("weather?", "control", "sun"))
        await evaluate(store, queue.run_id, 20, ("who?", "expected", "me"), ("why?", "expected", "so"))
        found = []
        while (item := await next_to_rate(store, queue)) is not None:
            found.append((item.question, item.answer, item.origin))
            await rate_item(store, item, good=False)
        log = await feedback.in_force(store, "evaluation")
        return sorted(found), [(row.subject, row.target) for row in log]

    found, log = with_store(tmp_path / "store.db", work)
    assert found == [("who?", "me", "step 10"), ("why?", "so", "step 20")]
    assert log == [("sample", 0.0)] * 2


def test_a_later_evaluation_does_not_change_which_answers_are_drawn_at_random(tmp_path: Path) -> None:
    answers = [(f"{number}?", "expected", f"{number}") for number in range(12)]

    async def work(store: Store) -> Any:
        queue = await evaluated_run(store, *answers)
        before = await ids_to_rate(store, queue.run_id, "sample")
        await evaluate(store, queue.run_id, 20, *answers)
        after = await ids_to_rate(store, queue.run_id, "sample")
        await rate_sample(store, 12 + 3, 5)
        return before, after, await ids_to_rate(store, queue.run_id, "sample")

    before, after, left = with_store(tmp_path / "store.db", work)
    assert sorted(before) == sorted(after) == list(range(1, 13))
    assert sorted(left) == [number for number in sorted(before) if number != 3], "rated at any step is rated"


def test_a_second_thought_about_what_was_drawn_at_random_stays_a_draw(tmp_path: Path) -> None:
    async def work(store: Store) -> Any:
        pairs, answers = await judged_run(store), await evaluated_run(store, ("who?", "expected", "me"))
        pair = await next_to_rate(store, pairs)
        answer = await next_to_rate(store, answers)
        assert pair is not None
        assert answer is not None
        await rate_item(store, replace(pair, asked="audit"), good=True)
        await rate_item(store, replace(answer, asked="audit"), good=True)
        await override_pair(store, pair.id, "rejected")
        await rate_sample(store, answer.id, 2)
        await override_pair(store, pair.id % 12 + 1, "accepted")
        scopes = [await feedback.in_force(store, scope) for scope in ("generation", "evaluation")]
        return [[(row.target, row.asked) for row in log] for log in scopes]

    found = with_store(tmp_path / "store.db", work)
    assert found == [[(0.0, "audit"), (1.0, "free")], [(0.25, "audit")]]


def test_an_answer_of_the_queue_is_taken_back_by_itself(tmp_path: Path) -> None:
    async def work(store: Store) -> Any:
        queue = await evaluated_run(store, ("who?", "expected", "me"), ("why?", "expected", "so"))
        item = await next_to_rate(store, queue)
        assert item is not None
        await rate_item(store, item, good=True)
        await rate_sample(store, 3 - item.id, 1)
        await undo_item(store, item)
        return item, [row.subject_id for row in await feedback.in_force(store, "evaluation")]

    item, in_force = with_store(tmp_path / "store.db", work)
    assert in_force == [3 - item.id]


def test_the_newest_run_with_something_left_is_rated(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        with pytest.raises(UsageError, match="no pairs and answers to test prompts to rate"):
            await queue_to_rate(store)
        pairs = await judged_run(store, 1)
        answers = await evaluated_run(store, ("who?", "expected", "me"))
        assert await queue_to_rate(store) == answers
        assert await queue_to_rate(store, subject="pair") == pairs
        assert await queue_to_rate(store, pairs.run_id) == pairs
        await rate_sample(store, 1, 5)
        assert await queue_to_rate(store) == pairs, "the answers are all rated"
        assert await queue_to_rate(store, answers.run_id) == answers
        assert await next_to_rate(store, answers) is None
        with pytest.raises(UsageError, match="no pairs to rate in run 2"):
            await queue_to_rate(store, answers.run_id, "pair")
        with pytest.raises(UsageError, match="There is no run 9"):
            await queue_to_rate(store, 9)

    with_store(tmp_path / "store.db", work)


def test_an_older_run_is_taken_where_the_newer_ones_have_nothing_left(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        older = await evaluated_run(store, ("who?", "expected", "me"), ("why?", "expected", "so"))
        await evaluated_run(store, ("control?", "avoid", "so"))
        rated = await evaluated_run(store, ("how?", "expected", "thus"))
        item = await next_to_rate(store, rated)
        assert item is not None
        await rate_sample(store, item.id, 5)
        assert await queue_to_rate(store) == older

    with_store(tmp_path / "store.db", work)


def test_an_answer_without_metrics_that_the_score_knows_is_not_asked_about(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        run_id = await runs.create(store, "train", SETTINGS, {})
        sample = {**SAMPLE, "kind": "expected", "metrics": {"accuracy": 0.5}}
        await events.append(store, run_id, [(1.0, "evaluation", {**EVALUATION, "samples": [sample]})])
        assert await next_to_rate(store, RatingQueue(run_id, "sample")) is None

    with_store(tmp_path / "store.db", work)


def test_evidence_is_found_whatever_white_space_and_case() -> None:
    passage = "Bees\n dance (in the dark)."
    span = evidence_span(passage, "bees dance  (in")
    assert span is not None
    assert passage[slice(*span)] == "Bees\n dance (in"
    assert evidence_span(passage, "wasps") is None
    assert evidence_span(passage, "") is None
