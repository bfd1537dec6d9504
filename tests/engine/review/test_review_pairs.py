"""What people do to pairs, and that undoing it leaves no trace but its history."""

from pathlib import Path
from typing import Any

import pytest

from lora_tui.engine.review.pairs import edit_pair, override_pairs, undo
from lora_tui.errors import UsageError
from lora_tui.protocol.backend import ReviewResult
from lora_tui.scoring.aggregator import AdaptiveAggregator
from lora_tui.scoring.priors import GENERATION_PRIOR
from lora_tui.store import events, feedback, generation, runs, tasks
from lora_tui.store.connection import Store
from lora_tui.store.queries.generation import pair_detail
from lora_tui.store.queries.runs import events_of_kinds
from tests.engine.review.one_pair import override_pair
from tests.store.store_fixtures import METRICS, SETTINGS, make_pair, with_store


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings' ``accepted.txt`` is relative to the current folder."""
    monkeypatch.chdir(tmp_path)


async def new_run(store: Store, *, ended: str | None = "finished", wrote: str | None = None) -> int:
    run_id = await runs.create(store, "generate", SETTINGS, {})
    if ended:
        await runs.end(store, run_id, ended, {"output_file": wrote}, None)
    return run_id


async def pair_row(store: Store, pair_id: int) -> tuple[Any, ...]:
    """Everything of a pair that a person's act can change, and the feedback on it that is in force."""
    (row,) = await store.tuples(
        "SELECT state, score, cause, reason, decided_at, question, answer, question_key FROM pairs WHERE id=?",
        (pair_id,),
    )
    log = [(one.id, one.target) for one in await feedback.in_force(store, "generation") if one.subject_id == pair_id]
    return (*row, *log)


async def told(store: Store, run_id: int) -> list[dict[str, Any]]:
    return [event.payload for event in await events_of_kinds(store, run_id, ("pair",))]


def replayed(*log: tuple[dict[str, float], float]) -> dict[str, float]:
    aggregator = AdaptiveAggregator(GENERATION_PRIOR, 0.1)
    for metrics, target in log:
        aggregator.update(metrics, target)
    return aggregator.weights


@pytest.mark.parametrize(("state", "verdict", "target"), [("rejected", "accepted", 1.0), ("accepted", "rejected", 0.0)])
def test_an_override_is_a_decision_of_a_person_with_its_feedback_and_event(
    tmp_path: Path, state: str, verdict: str, target: float
) -> None:
    async def work(store: Store) -> None:
        run_id = await new_run(store)
        pair_id = await make_pair(store, run_id, state=state, score=4.5)
        done = await override_pair(store, pair_id, verdict)
        row = await generation.pair(store, pair_id)
        assert row is not None
        assert (row.state, row.score, row.cause) == (verdict, 4.5, "by a person")
        detail = await pair_detail(store, pair_id)
        assert detail is not None
        newest = detail.decisions[0]
        assert (newest.verdict, newest.decided_by, newest.score, newest.threshold) == (verdict, "person", 4.5, None)
        assert newest.weights == {"bias": GENERATION_PRIOR.bias, **GENERATION_PRIOR.weights}, (
            "the weights that the score was made with"
        )
        (given,) = await feedback.in_force(store, "generation")
        assert (given.metrics, given.target, given.subject, given.subject_id) == (METRICS, target, "pair", pair_id)
        assert (given.run_id, given.given_by) == (run_id, "person")
        assert done.before == GENERATION_PRIOR.weights
        assert done.after == replayed((METRICS, target))
        stored = await store.value("SELECT weights FROM weight_versions ORDER BY id DESC LIMIT 1")
        assert {name: stored[name] for name in stored if name != "bias"} == done.after
        (event,) = await told(store, run_id)
        assert event == {
            "pair": pair_id,
            "verdict": verdict,
            "score": 4.5,
            "question": row.question,
            "answer": row.answer,
            "reason": row.reason,
            "source": "a.txt",
            "decided_by": "person",
        }
        assert done.message == f"{verdict.capitalize()}: «Why do bees dance?»."

    with_store(tmp_path / "store.db", work)


def test_the_same_verdict_of_a_person_again_is_no_act(tmp_path: Path) -> None:
    async def work(store: Store) -> tuple[ReviewResult, int, int]:
        run_id = await new_run(store)
        pair_id = await make_pair(store, run_id, state="rejected")
        await override_pair(store, pair_id, "accepted")
        again = await override_pair(store, pair_id, "accepted")
        return again, len(await told(store, run_id)), await store.value("SELECT COUNT(*) FROM decisions")

    again, events_told, decisions = with_store(tmp_path / "store.db", work)
    assert (again.message, events_told, decisions) == ("Accepted already: «Why do bees dance?».", 1, 2)
    assert again.before == again.after == {}


def test_what_the_aggregator_accepted_can_be_accepted_by_a_person_too(tmp_path: Path) -> None:
    async def work(store: Store) -> tuple[str, Any]:
        pair_id = await make_pair(store, await new_run(store), state="accepted", score=8.0)
        return (await override_pair(store, pair_id, "accepted")).message, await feedback.in_force(store, "generation")

    message, log = with_store(tmp_path / "store.db", work)
    assert message.startswith("Accepted: «")
    assert [row.target for row in log] == [1.0]


def test_a_pair_that_nobody_measured_gives_no_feedback(tmp_path: Path) -> None:
    async def work(store: Store) -> tuple[ReviewResult, int]:
        run_id = await new_run(store)
        done = await override_pair(store, await make_pair(store, run_id, state="rejected", metrics={}), "accepted")
        other = await override_pair(
            store, await make_pair(store, run_id, state="review", metrics={"x": 1.0}), "accepted"
        )
        assert other.message.startswith("Accepted: «")
        return done, await store.value("SELECT COUNT(*) FROM feedback")

    done, given = with_store(tmp_path / "store.db", work)
    assert given == 0
    assert done.before == done.after


def test_metrics_of_another_wording_teach_nothing(tmp_path: Path) -> None:
    async def work(store: Store) -> Any:
        pair_id = await make_pair(store, await new_run(store), state="rejected", score=4.0)
        await edit_pair(store, pair_id, "Why?", "So.")
        await override_pair(store, pair_id, "accepted")
        return await store.value("SELECT COUNT(*) FROM feedback")

    assert with_store(tmp_path / "store.db", work) == 0


def test_a_change_of_mind_replaces_the_feedback(tmp_path: Path) -> None:
    async def work(store: Store) -> ReviewResult:
        pair_id = await make_pair(store, await new_run(store), state="review")
        await override_pair(store, pair_id, "accepted")
        done = await override_pair(store, pair_id, "rejected")
        assert [row.target for row in await feedback.in_force(store, "generation")] == [0.0]
        return done

    assert with_store(tmp_path / "store.db", work).after == replayed((METRICS, 0.0))


@pytest.mark.parametrize(
    ("pair", "verdict"), [(77, "accepted"), (1, "review"), (1, "waiting"), (1, "'; DROP TABLE pairs; --")]
)
def test_what_is_no_pair_or_verdict_is_refused(tmp_path: Path, pair: int, verdict: str) -> None:
    async def work(store: Store) -> None:
        await make_pair(store, await new_run(store), state="rejected")
        with pytest.raises(UsageError):
            await override_pair(store, pair, verdict)

    with_store(tmp_path / "store.db", work)


def test_an_edit_keeps_the_former_text_and_the_verdict(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        run_id = await new_run(store)
        pair_id = await make_pair(store, run_id, state="accepted", score=8.0, reason="good")
        done = await edit_pair(store, pair_id, "  Why do\n bees  DANCE? ", "\nThey show\n\nthe way. ")
        row = await generation.pair(store, pair_id)
        assert row is not None
        assert (row.question, row.answer) == ("Why do bees DANCE?", "They show\n\nthe way.")
        assert (row.state, row.score, row.reason) == ("accepted", 8.0, "good")
        assert await store.value("SELECT question_key FROM pairs") == "why do bees dance"
        detail = await pair_detail(store, pair_id)
        assert detail is not None
        assert [(edit.question, edit.answer) for edit in detail.edits] == [("Why do bees dance?", "To show the way.")]
        (event,) = await told(store, run_id)
        assert (event["question"], event["verdict"], event["edited"]) == ("Why do bees DANCE?", "accepted", True)
        assert done.message == "Edited: «Why do bees DANCE?»."

    with_store(tmp_path / "store.db", work)


def test_the_same_text_again_is_no_edit(tmp_path: Path) -> None:
    async def work(store: Store) -> tuple[str, int]:
        run_id = await new_run(store)
        pair_id = await make_pair(store, run_id, state="accepted")
        done = await edit_pair(store, pair_id, "Why do bees  dance?", "To show the way.\n")
        return done.message, len(await told(store, run_id))

    assert with_store(tmp_path / "store.db", work) == ("Unchanged: «Why do bees dance?».", 0)


@pytest.mark.parametrize(("question", "answer"), [("", "A."), (" \n", "A."), ("Q?", ""), ("Q?", "\t\n ")])
def test_an_edit_to_nothing_is_refused(tmp_path: Path, question: str, answer: str) -> None:
    async def work(store: Store) -> tuple[Any, ...]:
        pair_id = await make_pair(store, await new_run(store), state="accepted")
        before = await pair_row(store, pair_id)
        with pytest.raises(UsageError, match="is empty"):
            await edit_pair(store, pair_id, question, answer)
        assert await pair_row(store, pair_id) == before
        with pytest.raises(UsageError, match="no pair 77"):
            await edit_pair(store, 77, "Q?", "A.")
        return before

    with_store(tmp_path / "store.db", work)


def test_undo_takes_back_one_act_after_the_other_and_restores_everything(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        run_id = await new_run(store)
        first = await make_pair(store, run_id, state="rejected", score=4.0, cause="not grounded", reason="invented")
        second = await make_pair(store, run_id, "How?", "review", cause="judge failed", reason="no answer")
        elsewhere = await make_pair(store, await new_run(store), state="rejected")
        states = [(await pair_row(store, first), await pair_row(store, second))]
        acts = [
            override_pair(store, first, "accepted"),
            edit_pair(store, first, "Why so?", "So."),
            override_pair(store, second, "rejected"),
            edit_pair(store, first, "Why then?", "Then."),
            override_pair(store, first, "rejected"),
            override_pair(store, second, "accepted"),
        ]
        for run in acts:
            await run
            states.append((await pair_row(store, first), await pair_row(store, second)))
        await override_pair(store, elsewhere, "accepted")  # newer than all of them, and of another run
        await edit_pair(store, elsewhere, "What?", "That.")
        said = []
        while (done := await undo(store, run_id)) is not None:
            states.pop()
            now = (await pair_row(store, first), await pair_row(store, second))
            assert now == states[-1], done.message
            said.append(done.message)
        assert said == [
            "Took back the acceptance of «How?».",
            "Took back the rejection of «Why then?».",
            "Took back the edit of «Why so?».",
            "Took back the rejection of «How?».",
            "Took back the edit of «Why do bees dance?».",
            "Took back the acceptance of «Why do bees dance?».",
        ]
        assert len(states) == 1
        assert len(await told(store, run_id)) == 12, "every act and every undo is told"
        assert await store.value("SELECT COUNT(*) FROM decisions WHERE undone_at IS NOT NULL") == 4
        weights = await store.value("SELECT weights FROM weight_versions ORDER BY id DESC LIMIT 1")
        assert weights.pop("bias") != GENERATION_PRIOR.bias
        assert weights == replayed((METRICS, 1.0)), "the other run's feedback is in force"

    with_store(tmp_path / "store.db", work)


def test_after_an_undo_the_feedback_that_had_been_replaced_is_back_in_its_place(tmp_path: Path) -> None:
    async def work(store: Store) -> list[Any]:
        run_id = await new_run(store)
        one, two = [await make_pair(store, run_id, f"Why {n}?", "review") for n in (1, 2)]
        await override_pair(store, one, "accepted")
        await override_pair(store, two, "accepted")
        before = [(row.id, row.target) for row in await feedback.in_force(store, "generation")]
        await override_pair(store, one, "rejected")
        await undo(store, run_id)
        return [before, [(row.id, row.target) for row in await feedback.in_force(store, "generation")]]

    before, after = with_store(tmp_path / "store.db", work)
    assert before == after == [(1, 1.0), (2, 1.0)], "same log, same weights"


def test_a_pair_that_waited_for_its_judge_waits_for_it_again(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        run_id = await new_run(store)
        pair_id = await make_pair(store, run_id)
        before = await pair_row(store, pair_id)
        await override_pair(store, pair_id, "accepted")
        judge = await tasks.task_by_key(store, run_id, "judge", str(pair_id))
        assert judge is not None
        async with store.transaction() as t:
            await tasks.end_task(t, judge.id, "cancelled", "the pair was decided in the meantime")
        undone = await undo(store, run_id)
        assert undone is not None
        assert undone.message == "Took back the acceptance of «Why do bees dance?»."
        assert await pair_row(store, pair_id) == before
        assert [task.id for task in await tasks.pending_tasks(store, run_id, "judge", 9)] == [judge.id]
        assert (await told(store, run_id))[-1]["verdict"] == "waiting"

    with_store(tmp_path / "store.db", work)


def test_there_may_be_nothing_to_take_back(tmp_path: Path) -> None:
    async def work(store: Store) -> Any:
        run_id = await new_run(store)
        await make_pair(store, run_id, state="accepted")
        return await undo(store, run_id), await undo(store, 77)

    assert with_store(tmp_path / "store.db", work) == (None, None)


def test_the_owner_of_a_live_run_is_told_and_writes_its_file_itself(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        run_id = await new_run(store, ended=None)
        pair_id = await make_pair(store, run_id, state="rejected")
        for run in (override_pair(store, pair_id, "accepted"), edit_pair(store, pair_id, "Why?", "So.")):
            assert (await run).message.endswith("»."), "nothing of the file"
        await undo(store, run_id)
        assert [command.kind for command in await events.open_commands(store, run_id)] == ["recount"] * 3
        assert not (tmp_path / "accepted.txt").exists()

    with_store(tmp_path / "store.db", work)


def test_the_owner_of_a_run_that_has_ended_is_not_asked(tmp_path: Path) -> None:
    async def work(store: Store) -> Any:
        run_id = await new_run(store)
        await override_pair(store, await make_pair(store, run_id, state="rejected"), "accepted")
        return await events.open_commands(store, run_id)

    assert with_store(tmp_path / "store.db", work) == []


def test_a_run_whose_process_is_gone_is_not_taken_for_live(tmp_path: Path) -> None:
    async def work(store: Store) -> ReviewResult:
        run_id = await new_run(store, ended=None)
        async with store.transaction() as t:
            await t.execute("UPDATE runs SET pid=?", (2**22 + 1,))
        return await override_pair(store, await make_pair(store, run_id, state="rejected"), "accepted")

    done = with_store(tmp_path / "store.db", work)
    assert done.message.endswith(f"». {tmp_path / 'accepted.txt'} is written again.")
    assert (tmp_path / "accepted.txt").read_text() == "Question: Why do bees dance?\nAnswer: To show the way.\n"


def test_pairs_judged_together_are_taken_back_together(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        run_id = await new_run(store)
        pairs = [await make_pair(store, run_id, f"Why {n}?", "rejected", 4.0) for n in range(4)]
        before = [await pair_row(store, pair_id) for pair_id in pairs]
        await override_pair(store, pairs[3], "accepted")
        alone = await pair_row(store, pairs[3])
        done = await override_pairs(store, pairs, "accepted")
        assert done.message == "Accepted: 3 pairs.", "one was accepted already"
        assert done.pairs == tuple(pairs[:3])
        assert done.after == replayed(*[(METRICS, 1.0)] * 4)
        assert [event["pair"] for event in await told(store, run_id)] == [pairs[3], *pairs[:3]]
        undone = await undo(store, run_id)
        assert undone is not None
        assert (undone.message, undone.pairs) == ("Took back the acceptance of 3 pairs.", tuple(pairs[:3]))
        assert undone.after == replayed((METRICS, 1.0))
        assert [await pair_row(store, pair_id) for pair_id in pairs] == [*before[:3], alone]
        assert (await override_pairs(store, pairs[3:] * 1, "accepted")).message.startswith("Accepted already: «")

    with_store(tmp_path / "store.db", work)


def test_a_verdict_tells_the_score_by_the_weights_before_and_after(tmp_path: Path) -> None:
    async def work(store: Store) -> tuple[ReviewResult, ReviewResult | None]:
        run_id = await new_run(store)
        pair_id = await make_pair(store, run_id, state="rejected")
        return await override_pair(store, pair_id, "accepted"), await undo(store, run_id)

    done, undone = with_store(tmp_path / "store.db", work)
    assert undone is not None
    assert done.scores is not None
    before, after = done.scores
    assert before == pytest.approx(10 * AdaptiveAggregator(GENERATION_PRIOR).score(METRICS))
    assert after > before, "accepting it teaches that it deserved more"
    assert undone.scores == (after, before)
