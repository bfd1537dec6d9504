"""People change pairs while the run works: their word stands, the counts stay right, and the file has it all."""

import re
import threading
from collections import Counter
from typing import Any

import pytest

from lora_tui.engine.jobs.generate import generate
from lora_tui.engine.review.pairs import edit_pair, undo
from lora_tui.engine.runtime.context import RunContext
from lora_tui.protocol.backend import ReviewResult
from lora_tui.store import events, generation
from lora_tui.store.connection import Store
from lora_tui.store.queries.generation import pair_detail
from lora_tui.store.rows import Command
from tests.engine.generation.generation_harness import GenerationHarness
from tests.engine.generation.live_run import LiveRun, live_run, on_store, wait_for
from tests.engine.generation.test_generation_resume import between_pair
from tests.engine.generation.test_generation_run import check_the_books
from tests.engine.review.one_pair import override_pair
from tests.openai_server import made_up_text

JUDGED_NOW = "SELECT tasks.pair_id FROM attempts JOIN tasks ON tasks.id = task_id WHERE kind='judge' AND status='sent'"


@pytest.fixture(autouse=True)
def more_to_read(harness: GenerationHarness) -> None:
    harness.write("three.txt", made_up_text(3, 12))


def pair_being_judged(harness: GenerationHarness) -> int:
    """Wait until the judge reads a pair; returns it."""
    return int(wait_for(lambda: harness.rows(JUDGED_NOW))[0][0])


def pairs_in(harness: GenerationHarness, state: str) -> list[int]:
    return [pair_id for (pair_id,) in harness.rows("SELECT id FROM pairs WHERE state=? ORDER BY id", state)]


def judge_slowly(harness: GenerationHarness) -> None:
    harness.server.kind_delays = {"judge": 0.8}


def judge_fast(harness: GenerationHarness) -> None:
    harness.server.kind_delays = {}


def judged(harness: GenerationHarness) -> Counter[str]:
    """How often each text was judged."""
    return Counter(between_pair(one.body) for one in harness.server.received if one.kind == "judge")


def most_urgent_first(harness: GenerationHarness, run: LiveRun) -> None:
    """Hold the run's own counts, as it told them last, against the store."""
    last = harness.events("progress")[-1]
    assert (last["done"], last["total"]) == (harness.value("SELECT COUNT(*) FROM pairs WHERE state='accepted'"), 4)
    assert run.end().result["waiting"] == 0


@pytest.fixture(params=["told", "untold"])
def told(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the run hears of what people do, or finds it out by itself."""

    real = events.open_commands

    async def without(store: Store, run_id: int) -> list[Command]:
        return [command for command in await real(store, run_id) if command.kind != "recount"]

    if request.param == "untold":
        monkeypatch.setattr(events, "open_commands", without)


@pytest.mark.usefixtures("told")
@pytest.mark.parametrize("verdict", ["accepted", "rejected"])
def test_a_verdict_of_a_person_stands_though_the_judge_answers_after_it(
    harness: GenerationHarness, verdict: str
) -> None:
    judge_slowly(harness)
    harness.server.digits = lambda prompt: (
        "1 1 1" if verdict == "accepted" and judged(harness).total() == 0 else "5 5 5"
    )
    with live_run(harness, total_examples=4, num_examples_per_file=1, max_concurrency=1) as run:
        pair_id = pair_being_judged(harness)
        done: ReviewResult = run.do(override_pair, pair_id, verdict)
        assert re.fullmatch(rf"{verdict.capitalize()}: «.*»\.", done.message), "and the live run writes its file itself"
        judge_fast(harness)
        outcome = run.end()
        most_urgent_first(harness, run)
    assert (outcome.state, outcome.result["accepted"]) == ("finished", 4)
    assert harness.value("SELECT state FROM pairs WHERE id=?", pair_id) == verdict
    assert harness.rows("SELECT verdict, decided_by FROM decisions WHERE pair_id=?", pair_id) == [(verdict, "person")]
    assert harness.value("SELECT COUNT(*) FROM pair_metrics WHERE pair_id=?", pair_id) > 5, "what was paid for is kept"
    assert harness.value("SELECT state FROM tasks WHERE kind='judge' AND pair_id=?", pair_id) == "done"
    assert harness.output.read_text().count("Question: ") == 4
    check_the_books(harness)


@pytest.mark.usefixtures("told")
@pytest.mark.parametrize("verdict", ["accepted", "rejected"])
def test_a_pair_that_a_person_decides_before_its_turn_is_not_judged(harness: GenerationHarness, verdict: str) -> None:
    judge_slowly(harness)
    with live_run(harness, total_examples=4, num_examples_per_file=2, max_concurrency=1) as run:
        pair_being_judged(harness)
        run.ask("pause")
        run.wait_until_still()
        (pair_id, *_) = pairs_in(harness, "waiting")
        run.do(override_pair, pair_id, verdict)
        judge_fast(harness)
        run.ask("continue")
        outcome = run.end()
        most_urgent_first(harness, run)
    assert (outcome.state, outcome.result["accepted"]) == ("finished", 4)
    assert harness.rows("SELECT verdict, decided_by FROM decisions WHERE pair_id=?", pair_id) == [(verdict, "person")]
    assert harness.value("SELECT state FROM tasks WHERE kind='judge' AND pair_id=?", pair_id) == "cancelled"
    check_the_books(harness)


def test_what_a_person_rejects_is_made_up_for(harness: GenerationHarness) -> None:
    harness.server.delay = 0.1
    with live_run(harness, total_examples=8, num_examples_per_file=2, max_concurrency=1) as run:
        wait_for(lambda: len(pairs_in(harness, "accepted")) >= 3)
        run.ask("pause")
        run.wait_until_still()
        for pair_id in pairs_in(harness, "accepted")[:2]:
            run.do(override_pair, pair_id, "rejected")
        harness.server.delay = 0.0
        run.ask("continue")
        outcome = run.end()
    assert outcome.result["accepted"] == 8
    assert harness.output.read_text().count("Question: ") == 8
    assert harness.events("progress")[-1]["done"] == 8


@pytest.mark.usefixtures("told")
def test_a_rejection_in_the_last_moment_is_made_up_for(harness: GenerationHarness) -> None:
    rejected = threading.Event()

    def judge_last_pair_after_rejection(prompt: str) -> str:
        if len(pairs_in(harness, "accepted")) == 2:
            rejected.wait(20)
        return "5 5 5"

    harness.server.digits = judge_last_pair_after_rejection
    with live_run(harness, total_examples=3, num_examples_per_file=1, max_concurrency=1) as run:
        wait_for(lambda: len(pairs_in(harness, "accepted")) == 2)
        pair_being_judged(harness)  # the last one that is needed
        run.do(override_pair, pairs_in(harness, "accepted")[0], "rejected")
        rejected.set()
        outcome = run.end()
    assert (outcome.state, outcome.result["accepted"], outcome.result["rejected"]) == ("finished", 3, 1)


def test_what_a_person_accepts_need_not_be_asked_for(harness: GenerationHarness) -> None:
    harness.server.digits = lambda prompt: "1 1 1"
    harness.server.delay = 0.02
    with live_run(harness, total_examples=3, num_examples_per_file=2, max_concurrency=1) as run:
        wait_for(lambda: len(pairs_in(harness, "rejected")) >= 3)
        run.ask("pause")
        run.wait_until_still()
        for pair_id in pairs_in(harness, "rejected")[:3]:
            run.do(override_pair, pair_id, "accepted")
        sent = run.sent()
        run.ask("continue")
        outcome = run.end()
    assert (outcome.state, outcome.result["accepted"]) == ("finished", 3)
    assert run.sent() <= sent + 1, "one that had left, and no more"
    assert harness.output.read_text().count("Question: ") == 3


def test_an_acceptance_shows_that_going_on_helps(harness: GenerationHarness) -> None:
    harness.server.digits = lambda prompt: "1 1 1" if len(pairs_in(harness, "rejected")) < 8 else "5 5 5"
    with live_run(harness, total_examples=4, num_examples_per_file=1, max_concurrency=1) as run:
        wait_for(lambda: len(pairs_in(harness, "rejected")) >= 5)
        run.do(override_pair, pairs_in(harness, "rejected")[0], "accepted")
        outcome = run.end()
    assert outcome.state == "finished", outcome.error


def test_a_pair_that_is_edited_while_it_is_judged_is_judged_as_it_is_now(harness: GenerationHarness) -> None:
    judge_slowly(harness)
    with live_run(harness, total_examples=4, num_examples_per_file=1, max_concurrency=1) as run:
        pair_id = pair_being_judged(harness)
        answer = harness.value("SELECT answer FROM pairs WHERE id=?", pair_id)
        run.do(edit_pair, pair_id, "What is it really that is known?", answer)
        judge_fast(harness)
        outcome = run.end()
    assert outcome.result["accepted"] == 4
    asked = [text for text in judged(harness) if "What is it really that is known?" in text]
    assert len(asked) == 1
    assert harness.rows("SELECT decided_by FROM decisions WHERE pair_id=?", pair_id) == [("aggregator",)]
    assert "Question: What is it really that is known?\n" in harness.output.read_text()
    assert outcome.result["attempts"] == {"ok": len(harness.server.received)}, "both judgements were paid for"


def test_a_pair_that_is_edited_before_its_turn_is_judged_as_it_is_then(harness: GenerationHarness) -> None:
    judge_slowly(harness)
    with live_run(harness, total_examples=4, num_examples_per_file=2, max_concurrency=1) as run:
        pair_being_judged(harness)
        run.ask("pause")
        run.wait_until_still()
        (pair_id, *_) = pairs_in(harness, "waiting")
        answer = harness.value("SELECT answer FROM pairs WHERE id=?", pair_id)
        run.do(edit_pair, pair_id, "What is it really that is known?", answer)
        judge_fast(harness)
        run.ask("continue")
        outcome = run.end()
    assert outcome.result["accepted"] == 4
    assert harness.value("SELECT state FROM pairs WHERE id=?", pair_id) == "accepted"
    assert max(judged(harness).values()) == 1
    assert any("What is it really that is known?" in text for text in judged(harness))
    assert len(judged(harness)) == 4, "the former text was not paid for"


def test_a_verdict_that_is_taken_back_makes_room_for_the_judges_which_is_not_asked_twice(
    harness: GenerationHarness,
) -> None:
    judge_slowly(harness)
    with live_run(harness, total_examples=4, num_examples_per_file=1, max_concurrency=1) as run:
        pair_id = pair_being_judged(harness)
        run.do(override_pair, pair_id, "rejected")
        wait_for(lambda: harness.value("SELECT state FROM tasks WHERE kind='judge' AND pair_id=?", pair_id) == "done")
        run.ask("pause")
        assert run.do(undo, run.run_id).message.startswith("Took back the rejection of «")
        assert harness.value("SELECT state FROM pairs WHERE id=?", pair_id) == "waiting"
        judge_fast(harness)
        run.ask("continue")
        outcome = run.end()
    assert outcome.result["accepted"] == 4
    assert harness.value("SELECT state FROM pairs WHERE id=?", pair_id) == "accepted"
    assert max(judged(harness).values()) == 1
    assert outcome.result["waiting"] == 0


@pytest.fixture
def goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that does something else once it has its pairs, as a quickstart does."""

    async def generate_and_go_on(ctx: RunContext) -> dict[str, Any]:
        try:
            return await generate(ctx)
        finally:
            ctx.emit("note", message="training")
            await ctx.stop_async.wait()

    monkeypatch.setattr("lora_tui.engine.runtime.engine.load_job", lambda mode: generate_and_go_on)


def wait_until_it_trains(harness: GenerationHarness) -> None:
    wait_for(lambda: any(event.get("message") == "training" for event in harness.events("note")))


@pytest.mark.usefixtures("goes_on")
def test_people_change_the_file_of_a_run_that_has_its_pairs_and_goes_on(harness: GenerationHarness) -> None:
    with live_run(harness, total_examples=3) as run:
        wait_until_it_trains(harness)
        first, second, third = pairs_in(harness, "accepted")
        run.do(override_pair, first, "rejected")
        wait_for(lambda: harness.output.read_text().count("Question: ") == 2)
        run.do(edit_pair, second, "What is new?", "This.")
        wait_for(lambda: "Question: What is new?\nAnswer: This.\n" in harness.output.read_text())
        for pair_id in (second, third):
            run.do(override_pair, pair_id, "rejected")
        wait_for(lambda: harness.output.read_text() == "")
        run.do(override_pair, first, "accepted")
        run.engine.stop(run.run_id)  # at once: the owner has no time to look again before it ends
        run.end()
    assert harness.output.read_text().count("Question: ") == 1


@pytest.mark.usefixtures("goes_on")
def test_a_run_without_accepted_pairs_leaves_an_older_file_alone_whatever_people_do(harness: GenerationHarness) -> None:
    harness.output.write_text("Question: old\nAnswer: old\n")
    harness.server.digits = lambda prompt: "1 1 1"
    with live_run(harness, total_examples=3) as run:
        wait_until_it_trains(harness)
        pair_id = pairs_in(harness, "rejected")[0]
        run.do(edit_pair, pair_id, "What is new?", "This.")
        assert run.ask("recount") == "done"
        assert harness.output.read_text() == "Question: old\nAnswer: old\n"
        run.do(override_pair, pair_id, "accepted")
        wait_for(lambda: harness.output.read_text() == "Question: What is new?\nAnswer: This.\n")


def test_a_run_that_has_just_ended_is_not_waited_for(harness: GenerationHarness) -> None:
    outcome = harness.run(total_examples=3)
    rejected = pairs_in(harness, "accepted")[0]
    done: ReviewResult = on_store(harness, override_pair, rejected, "rejected")
    assert done.message.endswith(f" {harness.output} is written again.")
    assert harness.output.read_text().count("Question: ") == 2
    again = harness.run(resume=outcome.run_id, total_examples=3)
    assert again.result["accepted"] == 3
    assert on_store(harness, generation.pair, rejected).state == "rejected"
    assert on_store(harness, pair_detail, rejected).decisions[0].decided_by == "person"
