"""Whole runs over the official client against a real server: target, faults, accounting, reasons to end."""

import json
import time
from collections import Counter

import pytest

from lora_tui.scoring.priors import GENERATION_PRIOR
from tests.engine.generation.generation_harness import KEY, GenerationHarness
from tests.openai_server import (
    DROPPED,
    EMPTY_CHOICES,
    FILTERED,
    HALF_JSON,
    MALFORMED,
    NOT_JSON,
    NULL_CONTENT,
    TRUNCATED,
    Fault,
    OpenAIServer,
    http,
    made_up_text,
    pair_of_sentence,
    too_many,
)

ALL_FAULTS: list[tuple[Fault, float]] = [
    (too_many("0.02"), 0.05),
    (http(429, "slow down", retry_after_ms="15"), 0.03),
    (http(500), 0.05),
    (http(503, "overloaded", retry_after="0"), 0.03),
    (http(408), 0.02),
    (http(409), 0.02),
    (TRUNCATED, 0.03),
    (MALFORMED, 0.04),
    (HALF_JSON, 0.04),
    (EMPTY_CHOICES, 0.03),
    (NULL_CONTENT, 0.03),
    (FILTERED, 0.02),
    (NOT_JSON, 0.02),
    (DROPPED, 0.03),
]


def check_the_books(harness: GenerationHarness) -> None:
    """Hold what the store and the result say against each other and against what the server received."""
    result = harness.events("done")[-1]["result"]
    for kind in result["tasks"].values():
        assert kind["planned"] == kind["done"] + kind["dead"] + kind["cancelled"] + kind["pending"]
    assert result["proposed"] == sum(result[state] for state in ("accepted", "rejected", "review", "waiting"))
    assert sum(result["reasons"].values()) == result["rejected"] + result["review"]
    assert result["calls"] == sum(result["attempts"].values()) == harness.value("SELECT COUNT(*) FROM attempts")
    assert "sent" not in result["attempts"]
    questions = [question for (question,) in harness.rows("SELECT question FROM pairs WHERE state='accepted'")]
    assert len(set(questions)) == len(questions) == result["accepted"]
    judged_twice = "SELECT pair_id FROM decisions WHERE decided_by='aggregator' GROUP BY pair_id HAVING COUNT(*) > 1"
    assert harness.rows(judged_twice) == []
    told = [event["pair"] for event in harness.events("pair")]
    assert len(told) == len(set(told)) == result["proposed"] - result["waiting"]
    if result["accepted"]:
        assert harness.output.read_text().count("Question: ") == result["accepted"]


def test_a_run_reaches_its_target_and_accounts_for_every_call(harness: GenerationHarness) -> None:
    outcome = harness.run(total_examples=12)
    assert (outcome.state, outcome.exit_status, outcome.error) == ("finished", 0, None)
    assert outcome.result["accepted"] == 12
    assert outcome.result["reason"] == "target reached"
    assert outcome.result["calls"] == len(harness.server.received)
    assert outcome.result["tasks"]["judge"]["done"] == harness.server.count("judge")
    sent = sum(len(message["content"]) for one in harness.server.received for message in one.body["messages"])
    assert outcome.result["prompt_tokens"] == pytest.approx(sent / 4, rel=0.01)
    first = harness.value("SELECT kind FROM events ORDER BY id LIMIT 1")
    assert first == "started"
    check_the_books(harness)


def test_under_a_mix_of_all_faults_no_pair_is_lost_or_doubled(harness: GenerationHarness) -> None:
    # A pair whose judge fails twice goes to review and is not asked for again: the folder needs more facts than pairs.
    harness.write("three.txt", made_up_text(3, 40))
    harness.server.mix = ALL_FAULTS
    outcome = harness.run(total_examples=60, num_examples_per_file=4)
    assert outcome.state == "finished", outcome.error
    assert outcome.result["accepted"] == 60
    happened = Counter(one.outcome for one in harness.server.received)
    assert len(happened) >= 9, "the mix was to hold all kinds of fault"
    assert outcome.result["calls"] == len(harness.server.received)
    attempts = outcome.result["attempts"]
    assert attempts["http_error"] == happened["http"]
    assert attempts["connection"] == happened["dropped"]
    # Judging and writing refuse what is cut off or half; an analysis is plain text, half of it is used.
    assert attempts["ok"] >= happened["ok"]
    check_the_books(harness)


def test_places_in_flight_are_bounded(harness: GenerationHarness) -> None:
    harness.server.delay = 0.03
    harness.run(total_examples=20, num_examples_per_file=6, max_concurrency=3)
    assert harness.server.most_at_once == 3


def test_retry_after_is_honoured_by_every_call(harness: GenerationHarness) -> None:
    harness.server.delay = 0.02
    harness.server.next_faults.extend([None, None, None, too_many("2.0")])
    harness.run(total_examples=20, num_examples_per_file=8, max_concurrency=4)
    told = next(one.at for one in harness.server.received if one.outcome == "http")
    later = [one.at - told for one in harness.server.received if one.at > told]
    assert len(later) > 20
    assert [gap for gap in later if 1.0 < gap < 2.0] == []  # below: in flight already


def test_a_rate_limit_that_lets_others_through_kills_no_call(harness: GenerationHarness) -> None:
    harness.write("three.txt", made_up_text(3, 12))
    harness.server.next_faults.extend([None, too_many("0.01"), too_many("0.01"), too_many("0.01")] * 40)
    outcome = harness.run(total_examples=15, num_examples_per_file=8, generation__max_retries=3)
    assert outcome.state == "finished", outcome.error
    assert outcome.result["attempts"]["http_error"] > 20
    assert outcome.result["dead_reasons"] == {}


def test_a_rate_limit_makes_the_run_more_modest(harness: GenerationHarness) -> None:
    harness.write("three.txt", made_up_text(3, 12))
    harness.server.delay = 0.1
    harness.server.next_faults.extend([None] * 8 + [too_many("0.1")] * 8)
    harness.run(total_examples=30, num_examples_per_file=8)
    last_told_off = max(n for n, one in enumerate(harness.server.received) if one.outcome == "http")
    assert max(one.at_once for one in harness.server.received[:last_told_off]) >= 6
    assert max(one.at_once for one in harness.server.received[last_told_off + 1 :][:20]) <= 6


def test_a_rate_limit_that_lets_nobody_through_ends_the_run(harness: GenerationHarness) -> None:
    harness.server.next_faults.extend([None, None] + [too_many("0.01")] * 500)
    outcome = harness.run(total_examples=25, generation__max_retries=2)
    assert outcome.exit_status == 3
    assert outcome.error is not None
    assert "HTTP 429: slow down" in outcome.error


def test_calls_that_fail_while_others_are_answered_are_tried_again_later(harness: GenerationHarness) -> None:
    harness.write("three.txt", made_up_text(3, 12))
    harness.server.next_faults.extend([None, http(500, "hiccup")] * 8)
    outcome = harness.run(total_examples=20, max_concurrency=1, generation__max_retries=0)
    assert outcome.state == "finished", outcome.error
    assert harness.server.count(outcome="http") == 8
    assert sum(outcome.result["tasks"][kind]["dead"] for kind in ("generate", "judge", "analyse")) <= 4
    check_the_books(harness)


def test_a_passage_that_the_server_cannot_take_is_given_up_and_the_run_goes_on(
    harness: GenerationHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.write("three.txt", made_up_text(3, 12))
    harness.write("poison.txt", "The poison of the viper was described by nobody in the whole valley of Brim.")
    fault = http(500, "hiccup")
    monkeypatch.setattr(harness.server, "_standing_fault", lambda body: fault if "viper" in str(body) else None)
    outcome = harness.run(total_examples=20, max_concurrency=2, generation__max_retries=0)
    assert outcome.state == "finished", outcome.error
    assert any("HTTP 500: hiccup" in reason for reason in outcome.result["dead_reasons"])
    check_the_books(harness)


def test_a_sleeping_call_gives_its_place_to_others(harness: GenerationHarness) -> None:
    harness.server.next_faults.extend([None, http(500, retry_after="1.5")])
    begun = time.monotonic()
    harness.run(total_examples=3, max_concurrency=1, num_examples_per_file=1, batch_analysis_interval=100)
    faulty = next(n for n, one in enumerate(harness.server.received) if one.outcome == "http")
    after = [one.at - harness.server.received[faulty].at for one in harness.server.received[faulty + 1 :]]
    assert min(after) < 1.0, "another call took the place"
    assert time.monotonic() - begun > 1.5


def test_the_target_is_never_overshot(harness: GenerationHarness) -> None:
    harness.write("three.txt", made_up_text(3, 12))
    outcome = harness.run(total_examples=7, num_examples_per_file=5)
    assert outcome.result["accepted"] == 7
    assert harness.server.count("judge") == 7
    check_the_books(harness)


def test_what_comes_too_late_is_kept_for_review_and_nothing_stays_open(harness: GenerationHarness) -> None:
    outcome = harness.run(total_examples=1, num_examples_per_file=2)
    assert (outcome.result["accepted"], outcome.result["review"], outcome.result["waiting"]) == (1, 1, 0)
    assert outcome.result["reasons"] == {"surplus": 1}
    assert outcome.result["tasks"]["judge"] == {"planned": 2, "done": 1, "dead": 0, "cancelled": 1, "pending": 0}
    check_the_books(harness)


def test_a_pair_whose_judge_call_dies_goes_to_review(harness: GenerationHarness) -> None:
    harness.server.digits = lambda prompt: "no idea" if "Sorry" in prompt else "5 5 5"
    harness.write("one.txt", made_up_text(1, 3).replace("Kudor", "Sorry"))
    harness.server.pair_of = lambda passage, n: (
        pair_of_sentence(passage, n) | ({"question": "Sorry, what is it that nobody knows?"} if n == 0 else {})
    )
    outcome = harness.run(total_examples=5)
    review = [event for event in harness.events("pair") if event["verdict"] == "review"]
    assert outcome.result["review"] == len(review) > 0
    assert review[0]["score"] is None
    assert "judge could not be asked" in review[0]["reason"]
    assert outcome.result["dead_reasons"]
    check_the_books(harness)


def test_nothing_new_in_a_whole_pass_ends_the_run_with_its_reason(harness: GenerationHarness) -> None:
    harness.server.digits = lambda prompt: "2 2 2"
    outcome = harness.run(total_examples=5)
    assert (outcome.state, outcome.exit_status) == ("failed", 1)
    assert outcome.error is not None
    assert outcome.error.startswith("Nothing new was accepted in a whole pass over 2 passages: 0 of 5 pairs accepted")
    assert len(outcome.error.splitlines()) == 2
    assert outcome.result["reason"] == "nothing new accepted in a whole pass"
    assert not harness.output.exists()
    check_the_books(harness)


def test_a_folder_that_runs_dry_is_done_with_what_was_found(harness: GenerationHarness) -> None:
    (harness.input / "deep" / "two.md").unlink()
    harness.write("one.txt", made_up_text(1, 1, sentences_each=5))
    outcome = harness.run(total_examples=50)
    assert (outcome.state, outcome.exit_status, outcome.error) == ("finished", 0, None)
    assert outcome.result["reason"] == "nothing new accepted in a whole pass"
    assert harness.events("note")[-1]["message"].startswith("done: 5 of 50 found in these files")
    assert "threshold" not in harness.events("note")[-1]["message"]
    assert outcome.result["commands"][0] == f"lora-tui --run train --train-data-file {harness.output}"
    assert outcome.result["accepted"] == 5
    assert outcome.result["reasons"]["duplicate"] > 0
    check_the_books(harness)


def test_the_budget_is_kept_and_named(harness: GenerationHarness) -> None:
    harness.write("three.txt", made_up_text(3, 12))
    outcome = harness.run(total_examples=200, num_examples_per_file=4, budget_tokens=20_000)
    assert (outcome.state, outcome.exit_status) == ("failed", 1)
    assert outcome.error is not None
    assert "budget of 20,000 tokens is spent" in outcome.error
    used = outcome.result["prompt_tokens"] + outcome.result["completion_tokens"]
    assert 15_000 < used <= 20_000
    check_the_books(harness)
    calls = len(harness.server.received)
    harness.run(resume=outcome.run_id, total_examples=200, num_examples_per_file=4, budget_tokens=20_000)
    assert len(harness.server.received) <= calls + 1, "what was spent before counts"
    more = harness.run(resume=outcome.run_id, total_examples=200, num_examples_per_file=4, budget_tokens=30_000)
    assert more.result["accepted"] > outcome.result["accepted"]


@pytest.mark.parametrize("pairs", [1, 4])
def test_no_pair_is_left_unjudged_when_a_budget_ends(harness: GenerationHarness, pairs: int) -> None:
    harness.write("three.txt", made_up_text(3, 30))
    harness.server.kind_delays = {"generate": 0.05, "judge": 0.15}
    outcome = harness.run(total_examples=200, num_examples_per_file=pairs, budget_tokens=25_000)
    assert outcome.result["reason"] == "budget spent"
    assert outcome.result["accepted"] > 5
    assert outcome.result["waiting"] == 0
    used = outcome.result["prompt_tokens"] + outcome.result["completion_tokens"]
    assert 20_000 < used <= 25_000, "and the budget is used"
    check_the_books(harness)


def test_the_budget_of_dollars_is_kept_and_named(harness: GenerationHarness) -> None:
    harness.write("three.txt", made_up_text(3, 12))
    asked = {"total_examples": 200, "num_examples_per_file": 4, "prompt_price": 10.0, "completion_price": 30.0}
    outcome = harness.run(budget_dollars=0.3, **asked)
    assert (outcome.state, outcome.exit_status) == ("failed", 1)
    assert outcome.error is not None
    assert "budget of $0.30 is spent" in outcome.error
    assert "Raise data_generation.budget_dollars" in outcome.error
    result = outcome.result
    assert result["dollars"] == pytest.approx((10 * result["prompt_tokens"] + 30 * result["completion_tokens"]) / 1e6)
    assert 0.2 < result["dollars"] <= 0.3
    check_the_books(harness)
    calls = len(harness.server.received)
    harness.run(resume=outcome.run_id, budget_dollars=0.3, **asked)
    assert len(harness.server.received) <= calls + 1, "what was spent before counts"
    more = harness.run(resume=outcome.run_id, budget_dollars=0.4, **asked)
    assert more.result["accepted"] > result["accepted"]


def test_without_prices_no_dollars_are_told(harness: GenerationHarness) -> None:
    assert harness.run().result["dollars"] is None


def test_an_endpoint_that_goes_away_ends_the_run_resumably(harness: GenerationHarness) -> None:
    harness.write("three.txt", made_up_text(3, 12))
    harness.server.next_faults.extend([None] * 20 + [http(500, "out of order")] * 500)
    outcome = harness.run(total_examples=30, num_examples_per_file=4, generation__max_retries=2)
    assert (outcome.state, outcome.exit_status) == ("failed", 3)
    assert outcome.error is not None
    assert "does not answer any more: HTTP 500: out of order" in outcome.error
    assert harness.server.url in outcome.error
    assert outcome.result["reason"] == "endpoint gone"
    assert 0 < outcome.result["accepted"] < 30
    assert outcome.result["tasks"]["judge"]["dead"] == 0, "a pair does not go to review because the endpoint is gone"
    check_the_books(harness)
    harness.server.next_faults.clear()
    asked_before = harness.server.count("judge", "ok")
    resumed = harness.run(resume=outcome.run_id, total_examples=30, num_examples_per_file=4)
    assert resumed.state == "finished"
    assert harness.server.count("judge", "ok") == asked_before + 30 - outcome.result["accepted"]
    check_the_books(harness)


def test_a_server_that_is_switched_off_in_the_middle_is_an_endpoint_gone(harness: GenerationHarness) -> None:
    with OpenAIServer(KEY) as other:
        other.digits = lambda prompt: other.close_soon() or "5 5 5"
        outcome = harness.run(total_examples=30, generation__max_retries=1, base_url=other.url)
    assert (outcome.state, outcome.exit_status) == ("failed", 3)
    assert outcome.error is not None
    assert "does not answer any more" in outcome.error
    assert "sent" not in outcome.result["attempts"]


def test_a_slow_answer_is_a_time_out_and_is_asked_for_again(harness: GenerationHarness) -> None:
    harness.server.delays.extend([0.0, 1.0])
    outcome = harness.run(total_examples=4, timeout=0.4)
    assert outcome.state == "finished"
    assert outcome.result["attempts"]["timeout"] == 1
    assert outcome.result["unknown_calls"] == 1
    assert outcome.result["unknown_tokens_up_to"] > 0


def test_analyses_come_every_interval_and_steer_what_follows(harness: GenerationHarness) -> None:
    harness.write("three.txt", made_up_text(3, 12))
    harness.server.digits = lambda prompt: "5 5 3"
    outcome = harness.run(total_examples=20, num_examples_per_file=2, batch_analysis_interval=5, max_concurrency=1)
    analyses = harness.events("analysis")
    assert [one["version"] for one in analyses] == list(range(1, len(analyses) + 1))
    assert len(analyses) == outcome.result["analyses"] == 4
    assert sorted(one["at_accepted"] for one in analyses) == [5, 10, 15, 20]
    assert analyses[0]["text"] == "A varied set. Ask more about reasons."
    assert analyses[0]["statistics"]["weakest"] == "judge_usefulness"
    prompts = [one.body["messages"][1]["content"] for one in harness.server.received if one.kind == "generate"]
    hint = analyses[0]["directives"][0]
    assert hint not in prompts[0]
    assert hint in prompts[-1]
    assert harness.value("SELECT MAX(analysis_version) FROM pairs") >= 1


def test_an_analysis_that_fails_never_hurts_the_run(harness: GenerationHarness) -> None:
    harness.server.kind_faults["analyse"] = http(400, "I do not analyse")
    outcome = harness.run(total_examples=10)
    assert outcome.state == "finished"
    assert outcome.result["tasks"]["analyse"]["dead"] == outcome.result["analyses"] > 0
    assert "pairs accepted" in harness.events("analysis")[0]["text"]
    assert any("The run goes on" in event["message"] for event in harness.events("warning"))
    check_the_books(harness)


def test_decisions_name_the_weights_they_were_made_with(harness: GenerationHarness) -> None:
    harness.run()
    versions = harness.rows("SELECT DISTINCT weights_version FROM decisions")
    assert len(versions) == 1
    weights = json.loads(harness.value("SELECT weights FROM weight_versions WHERE id=?", versions[0][0]))
    assert weights == {"bias": GENERATION_PRIOR.bias, **GENERATION_PRIOR.weights}
    modes = {
        detail.split(":")[0] for (detail,) in harness.rows("SELECT detail FROM pair_metrics WHERE name LIKE 'judge%'")
    }
    assert modes == {"logprob"}
    assert harness.value("SELECT value FROM pair_metrics WHERE name='judge_groundedness' LIMIT 1") == pytest.approx(
        0.95
    )


def test_feedback_of_earlier_runs_moves_the_weights(harness: GenerationHarness) -> None:
    first = harness.run()
    import asyncio

    from lora_tui.store.connection import Store
    from tests.store.store_fixtures import add_feedback

    async def reject_everything() -> None:
        async with await Store.open(harness.store) as store:
            for _ in range(20):
                await add_feedback(
                    store,
                    "generation",
                    first.run_id,
                    "pair",
                    1,
                    {"coverage": 1.0, "judge_usefulness": 0.2},
                    0.0,
                    "person",
                )

    asyncio.run(reject_everything())
    harness.run()
    weights = [json.loads(w) for (w,) in harness.rows("SELECT weights FROM weight_versions ORDER BY id")]
    assert len(weights) == 2
    assert weights[1]["coverage"] < weights[0]["coverage"]


def test_slots_and_topics_vary(harness: GenerationHarness) -> None:
    harness.write("three.txt", made_up_text(3, 12))
    # Two calls run at most: a file is asked about again only after its earlier questions are stored.
    harness.run(total_examples=24, num_examples_per_file=2, topics=["clocks", "harbours"], max_concurrency=1)
    slots = [json.loads(slot) for (slot,) in harness.rows("SELECT slot FROM tasks WHERE kind='generate'")]
    assert len({slot["question_type"] for slot in slots}) >= 5
    assert len({slot["audience"] for slot in slots}) >= 3
    prompts = [one.body["messages"][1]["content"] for one in harness.server.received if one.kind == "generate"]
    assert all('"clocks"' in prompt and '"harbours"' in prompt for prompt in prompts)
    assert any("These questions exist already" in prompt for prompt in prompts)


def test_a_large_folder_of_which_nothing_comes_is_not_asked_about_to_its_end(
    harness: GenerationHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_tui.engine.generation.progress.MOST_FRUITLESS", 12)
    for number in range(40):
        harness.write(f"text_{number}.txt", made_up_text(100 + number, 1))
    harness.server.digits = lambda prompt: "1 1 1"
    outcome = harness.run(total_examples=50, num_examples_per_file=1)
    assert outcome.state == "failed"
    assert outcome.result["reason"] == "nothing new accepted in 500 calls"
    assert harness.server.count("generate") <= 12 + 2 * 16, "those under way are still judged"
    assert outcome.error is not None
    assert "calls in a row about the folder's 4" in outcome.error


def test_a_budget_of_dollars_that_nobody_could_keep_is_refused(harness: GenerationHarness) -> None:
    refused = harness.run(budget_dollars=1.0)
    assert refused.state == "failed"
    assert refused.error is not None
    assert "prompt_price and completion_price" in refused.error
    assert "budget_tokens" in refused.error
    assert not harness.server.received
    assert harness.run(budget_dollars=1.0, prompt_price=0.0).state == "finished", "somebody has said that it is free"
