"""Runs that write more than pairs: documents, conversations and further wordings, judged, stored, written out."""

import asyncio
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lora_tui.engine.data.examples import Conversation, PlainText, QuestionAnswer
from lora_tui.engine.data.holdout import question_digest
from lora_tui.engine.data.read import read_examples
from lora_tui.engine.evaluation.held_out import documents_by_question
from lora_tui.engine.forecast.generation import forecast_generation
from lora_tui.engine.generation.output import write_accepted_of_runs
from lora_tui.store.connection import Store
from tests.engine.generation.generation_harness import GenerationHarness
from tests.engine.generation.live_run import wait_for
from tests.engine.review.one_pair import override_pair
from tests.openai_server import TEXT_WRITERS, http, made_up_text, text_about

FORMS = ["qa", "rewrite", "summary", "dialogue"]
MIX = {"mix__rewrite": 0.5, "mix__summary": 0.5, "mix__dialogue": 0.34}


@pytest.fixture
def many_passages(harness: GenerationHarness) -> GenerationHarness:
    for number in range(6):
        harness.write(f"more-{number}.txt", made_up_text(10 + number, 2))
    return harness


async def _ask(harness: GenerationHarness, query: Any) -> Any:
    async with await Store.open(harness.store) as store:
        return await query(store)


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_form_is_written_judged_and_put_into_the_file_that_training_reads(
    many_passages: GenerationHarness,
) -> None:
    harness = many_passages
    outcome = harness.run(forms=FORMS, mix__phrasings=1, **MIX)
    assert outcome.state == "finished", outcome
    assert outcome.result["texts"] == {
        form: {"accepted": number, "rejected": 0, "review": 0, "waiting": 0}
        for form, number in {"dialogue": 3, "phrasing": 6, "rewrite": 3, "summary": 3}.items()
    }
    found = read_examples(harness.output)
    kinds = Counter(type(example) for example in found.examples)
    assert kinds == {QuestionAnswer: 12, PlainText: 6, Conversation: 3}
    assert not found.skipped
    talk = next(example for example in found.examples if isinstance(example, Conversation))
    assert [message.role for message in talk.messages[:3]] == ["system", "user", "assistant"]
    events = harness.events("text")
    assert Counter(event["form"] for event in events) == {"dialogue": 3, "phrasing": 6, "rewrite": 3, "summary": 3}
    assert {event["verdict"] for event in events} == {"accepted"}
    known = asyncio.run(_ask(harness, documents_by_question))
    assert all(known.get(question_digest(example)) for example in found.examples), "whole documents can be held out"
    judged = harness.value("SELECT COUNT(*) FROM texts WHERE json_extract(metrics, '$.judge_groundedness') > 0.9")
    assert judged == 15
    assert harness.events("analysis")[-1]["statistics"]["texts"]["rewrite"]["accepted"] == 3


def test_wordings_of_a_pair_that_a_person_rejects_leave_the_file_with_it(harness: GenerationHarness) -> None:
    harness.run(mix__phrasings=1, total_examples=4)
    before = records(harness.output)
    assert len(before) == 8

    async def reject(store: Store) -> None:
        await override_pair(store, 1, "rejected")

    asyncio.run(_ask(harness, reject))
    assert len(records(harness.output)) == 6


def test_a_document_is_asked_for_with_the_questions_about_its_passage(harness: GenerationHarness) -> None:
    harness.run(forms=["qa", "rewrite"], **MIX)
    asked = [one.body["messages"][1]["content"] for one in harness.server.received if one.kind == "rewrite"]
    questions = dict(harness.rows("SELECT chunk_id, question FROM pairs WHERE state='accepted'"))
    of_passage = harness.rows("SELECT texts.chunk_id FROM texts JOIN tasks ON tasks.id = task_id")
    assert of_passage
    for (chunk,) in of_passage:
        assert any(questions[chunk] in prompt for prompt in asked)


def test_pairs_alone_are_written_as_they_were_before_there_were_texts(harness: GenerationHarness) -> None:
    outcome = harness.run()
    assert outcome.result["texts"] == {}
    assert harness.output.read_text().startswith("Question: ")
    assert not any(one.kind in TEXT_WRITERS for one in harness.server.received)
    assert not (harness.folder / "accepted.knowledge.jsonl").exists()


def test_a_text_that_the_judge_does_not_find_in_the_passage_is_rejected(harness: GenerationHarness) -> None:
    harness.server.digits = lambda prompt: "2 5 5" if "BEGIN TEXT" in prompt else "5 5 4"
    outcome = harness.run(forms=["qa", "summary"], **MIX)
    states = outcome.result["texts"]["summary"]
    assert (states["accepted"], states["rejected"] > 0) == (0, True)
    assert {cause for (cause,) in harness.rows("SELECT DISTINCT cause FROM texts")} == {"not grounded"}
    assert all(set(record) == {"question", "answer"} for record in records(harness.output))


@pytest.mark.parametrize(
    ("written", "cause"),
    [
        (lambda passage: passage, "copied"),
        (lambda passage: "Title\n\nToo few words.", "too short"),
        (lambda passage: text_about("rewrite", passage, "") + " In 1764 it was 93 metres high.", "wrong number"),
        (lambda passage: text_about("rewrite", passage, "") + " The passage explains this.", "leans on the passage"),
    ],
)
def test_a_document_with_a_fault_never_reaches_the_judge(harness: GenerationHarness, written: Any, cause: str) -> None:
    harness.server.text_of = lambda kind, passage, prompt: written(passage)
    harness.run(forms=["qa", "rewrite"], total_examples=2, **MIX)
    assert {found for (found,) in harness.rows("SELECT DISTINCT cause FROM texts")} == {cause}
    assert not any("BEGIN TEXT" in one.body["messages"][1]["content"] for one in harness.server.received)


def _waits_for_answers(harness: GenerationHarness) -> bool:
    """Return whether nothing moves, and each request that arrived is either answered and stored or still open."""

    def moved() -> tuple[int, int, int]:
        opened = harness.value("SELECT COUNT(*) FROM attempts WHERE status='sent'")
        return len(harness.server.received), harness.value("SELECT COUNT(*) FROM attempts WHERE status='ok'"), opened

    before = moved()
    time.sleep(0.3)
    received, answered, opened = moved()
    return before == (received, answered, opened) and received == answered + opened


def test_a_killed_run_goes_on_and_pays_for_no_text_twice(many_passages: GenerationHarness) -> None:
    harness = many_passages
    harness.server.kind_delays = {"rewrite": 0.05, "judge": 0.05}
    chosen: dict[str, Any] = {"forms": ["qa", "rewrite"], "mix__rewrite": 1.0, "max_concurrency": 2}
    with harness.killed_process(**chosen):
        wait_for(lambda: harness.server.count("rewrite", "ok") >= 3)
        harness.server.delay, harness.server.kind_delays = 600.0, {}
        wait_for(lambda: _waits_for_answers(harness))
    harness.server.delay = 0.0
    outcome = harness.run(resume=1, **chosen)
    assert outcome.state == "finished", outcome
    assert outcome.result["texts"]["rewrite"]["accepted"] == 6
    assert harness.value("SELECT COUNT(*) = COUNT(DISTINCT task_id) FROM texts")
    answered = harness.value("SELECT COUNT(*) FROM attempts WHERE status='ok'")
    lost = harness.value("SELECT COUNT(*) FROM attempts WHERE status='lost'")
    assert (answered + lost, lost <= 2) == (len(harness.server.received), True)
    assert len(records(harness.output)) == 12


def test_a_budget_that_ends_among_the_texts_says_how_far_it_came_and_is_gone_on_with(
    many_passages: GenerationHarness,
) -> None:
    harness = many_passages
    chosen: dict[str, Any] = {"forms": ["qa", "rewrite"], "mix__rewrite": 1.0, "max_concurrency": 1}
    pairs = harness.run()
    spent = pairs.result["prompt_tokens"] + pairs.result["completion_tokens"]
    outcome = harness.run(budget_tokens=spent + 3500, **chosen)
    assert outcome.state == "failed"
    assert "of 6 texts" in str(outcome.error)
    assert 0 < outcome.result["texts"]["rewrite"]["accepted"] < 6
    assert len(records(harness.output)) == 6 + outcome.result["texts"]["rewrite"]["accepted"]
    again = harness.run(resume=2, budget_tokens=0, **chosen)
    assert again.result["texts"]["rewrite"]["accepted"] == 6


def test_no_text_is_paid_for_and_left_unjudged_when_a_budget_ends(many_passages: GenerationHarness) -> None:
    harness = many_passages
    chosen: dict[str, Any] = {"forms": ["qa", "rewrite", "summary"], "mix__rewrite": 2.0, "mix__summary": 2.0}
    harness.server.kind_delays = {"judge": 0.1}  # many are written while the first is judged
    pairs = harness.run()
    spent = pairs.result["prompt_tokens"] + pairs.result["completion_tokens"]
    outcome = harness.run(budget_tokens=spent + 12_000, **chosen)
    assert outcome.state == "failed"
    found = outcome.result["texts"]
    assert sum(states.get("accepted", 0) for states in found.values()) > 0
    assert not sum(states.get("waiting", 0) for states in found.values())


def test_a_form_that_is_never_accepted_is_given_up(
    many_passages: GenerationHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = many_passages
    monkeypatch.setattr("lora_tui.engine.generation.texts.text_stage._MOST_FRUITLESS", 5)
    harness.server.text_of = lambda form, passage, prompt: "A title\n\nToo short."
    outcome = harness.run(forms=["qa", "rewrite"], mix__rewrite=1.0, max_concurrency=1)
    assert outcome.state == "finished", outcome
    assert outcome.result["texts"]["rewrite"]["rejected"] == 5
    warnings = [event["message"] for event in harness.events("warning")]
    assert [one for one in warnings if "rewrite 0 of 6" in one and "5 in a row" in one]


def test_a_writer_of_texts_that_fails_costs_its_text_and_not_the_run(harness: GenerationHarness) -> None:
    harness.server.kind_faults = {"dialogue": http(400, "no")}
    outcome = harness.run(forms=["qa", "rewrite", "dialogue"], **MIX)
    assert outcome.state == "finished", outcome
    assert set(outcome.result["texts"]) == {"rewrite"}
    assert outcome.result["tasks"]["text"]["dead"] > 0


def test_questions_about_facts_that_are_held_out_are_beside_the_file_and_nothing_is_made_of_them(
    many_passages: GenerationHarness,
) -> None:
    harness = many_passages
    chosen: dict[str, Any] = {"forms": FORMS, "mix__phrasings": 1, "held_out_facts": 0.4, "total_examples": 12}
    outcome = harness.run(**chosen, **MIX)
    assert outcome.state == "finished", outcome
    asked = records(harness.folder / "accepted.knowledge.jsonl")
    trained = records(harness.output)
    kept = {record["question"] for record in asked}
    pairs = [record for record in trained if "question" in record]
    assert 2 <= len(kept) <= 10
    assert len(kept) + sum(not record["question"].startswith("Tell me") for record in pairs) == 12
    assert all(record["answer"] in record["passage"] for record in asked)
    talked = " ".join(message["content"] for record in trained for message in record.get("messages", ()))
    for record in asked:
        assert all(record["answer"] != pair["answer"] for pair in pairs), "neither the pair nor a wording of it"
        assert record["answer"] not in talked


def test_the_held_out_questions_of_an_earlier_run_do_not_stand_beside_a_later_ones_file(
    harness: GenerationHarness,
) -> None:
    harness.run(held_out_facts=0.4, total_examples=8)
    beside = harness.folder / "accepted.knowledge.jsonl"
    assert beside.exists()
    harness.run(total_examples=2)
    assert not beside.exists()


def test_what_one_run_holds_out_no_other_brings_into_a_file_of_both(harness: GenerationHarness) -> None:
    harness.run(total_examples=8)
    harness.run(held_out_facts=0.5, total_examples=8)
    path = harness.folder / "all.txt"

    async def write(store: Store) -> int:
        async with store.transaction() as t:
            return await write_accepted_of_runs(t, (1, 2), path)

    written = asyncio.run(_ask(harness, write))
    held_out = records(harness.folder / "all.knowledge.jsonl")
    assert len(held_out) > 0
    assert written > 0
    assert not [one for one in held_out if one["answer"] in path.read_text()]


def test_the_forecast_has_the_texts_calls_and_tokens(harness: GenerationHarness) -> None:
    plain = forecast_generation(harness.settings())
    more = forecast_generation(harness.settings(forms=FORMS, mix__phrasings=2, **MIX))
    assert plain.text_calls.value == 0
    assert more.text_calls.value == 3 + 3 + 3 + 6 + 3 + 3 + 3 + 12
    assert more.prompt_tokens.value > plain.prompt_tokens.value
    assert more.completion_tokens.value > plain.completion_tokens.value
