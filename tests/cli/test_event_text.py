"""Events in words: counts that survive a second verdict, numbers with units, nothing invented for what is missing."""

from typing import Any

import pytest

from lora_tui.cli.event_text import RunProgress, event_lines, phase_line, retry_line, step_line
from lora_tui.store.rows import Event
from lora_tui.text import question_of


def event(kind: str, **payload: Any) -> Event:
    return Event(1, 1, 0.0, kind, payload)


def test_a_pair_that_is_judged_again_counts_once() -> None:
    progress = RunProgress()
    progress.update(event("started", mode="generate", config={"data_generation": {"total_examples": 100}}))
    for number, verdict in ((1, "review"), (2, "rejected"), (1, "accepted")):
        progress.update(event("pair", pair=number, verdict=verdict))
    assert progress.generation_line() == "1 of 100 accepted, 1 rejected"


def test_pairs_that_were_kept_count_as_accepted() -> None:
    progress = RunProgress(target=12)
    progress.update(event("note", message="10 pairs of run 1 are kept", kept=10))
    progress.update(event("note", message="something else"))
    progress.update(event("pair", pair=1, verdict="accepted"))
    assert progress.generation_line() == "11 of 12 accepted, 0 rejected"


def test_endpoints_that_do_not_work_are_counted() -> None:
    progress = RunProgress()
    endpoints = [{"state": state} for state in ("works", "tried", "away", "left out")]
    progress.update(event("progress", phase="generating", done=1, total=5, endpoints=endpoints))
    assert progress.generation_line().endswith("rejected, 2 of 4 endpoints work")


def test_a_folder_that_is_read_beside_the_calls_is_told_of_at_its_end() -> None:
    assert event_lines(event("folder", files=3, passages=9, unread=5)) == []
    assert event_lines(event("folder", files=8, passages=20, unread=0)) == ["the folder is read: 8 files, 20 passages"]


def test_the_target_is_the_one_that_generation_works_towards() -> None:
    progress = RunProgress()
    progress.update(event("started", mode="quickstart", config={"data_generation": {"total_examples": 100}}))
    progress.update(event("progress", phase="generating", done=1, total=12))
    progress.update(event("pair", pair=1, verdict="accepted"))
    assert progress.generation_line() == "1 of 12 accepted, 0 rejected"


def test_the_score_is_the_newest_of_the_tuned_model() -> None:
    progress = RunProgress()
    progress.update(event("evaluation", model="tuned", step=2, score=0.4))
    progress.update(event("evaluation", model="tuned", step=4, score=0.3))
    progress.update(event("evaluation", model="base", step=4, score=0.9))
    assert progress.score == 0.3


def test_the_loss_on_held_out_examples_stands_beside_the_score_where_there_is_one() -> None:
    with_one = event("evaluation", model="tuned", step=6, score=0.5, held_out_loss=1.2345, samples=[])
    without = event("evaluation", model="tuned", step=6, score=0.5, held_out_loss=None, samples=[])
    controls = event("evaluation", model="tuned", step=6, score=0.5, controls=3, controls_kept=2, samples=[])
    held_out = event("evaluation", model="tuned_held_out", step=6, score=0.5, samples=[{"answer": "a"}])
    assert event_lines(held_out) == [], "the comparison says it"
    assert event_lines(controls) == ["evaluation at step 6: score 0.50 · controls 2/3 kept"]
    assert event_lines(with_one) == ["evaluation at step 6: score 0.50, held-out loss 1.234"]
    assert event_lines(without) == ["evaluation at step 6: score 0.50"]


def test_the_mean_that_people_would_give_stands_beside_the_score_where_ratings_tell_it() -> None:
    people = {"value": 0.612, "low": 0.5, "high": 0.724}
    told = event("evaluation", model="tuned", step=6, score=0.5, people=people, samples=[])
    assert event_lines(told) == ["evaluation at step 6: score 0.50, people would say 0.61 (0.50–0.72)"]


def test_the_plan_tells_how_many_examples_are_held_out() -> None:
    plan = {"model": "m", "device": "cpu", "dtype": "float32", "examples": 90, "steps": 12}
    assert event_lines(event("plan", **plan, held_out=10)) == [
        "m on cpu in float32: 90 examples and 10 held out, 12 steps"
    ]
    assert event_lines(event("plan", **plan, held_out=0)) == ["m on cpu in float32: 90 examples, 12 steps"]


def test_the_plan_tells_forms_and_what_is_left_out_for_which_reason() -> None:
    plan = {"model": "m", "device": "cpu", "dtype": "float32", "examples": 90, "steps": 12}
    reasons = {
        "skipped": {"the question is empty": 2, "the \x1b[31manswer is empty": 1},
        "dropped": {},
        "truncated": {"longer than 128 tokens": 4},
    }
    assert event_lines(event("plan", **plan, forms={"chat": 80, "text": 14}, reasons=reasons)) == [
        "m on cpu in float32: 90 examples (of 94 read: 80 chat, 14 text), 12 steps",
        "    3 skipped: 2 the question is empty; 1 the ␛[31manswer is empty",
        "    4 truncated: 4 longer than 128 tokens",
    ]


def test_the_forms_that_the_plan_tells_add_up() -> None:
    plan = {"model": "m", "device": "cpu", "dtype": "float32", "examples": 90, "held_out": 4, "steps": 12}
    (line,) = event_lines(event("plan", **plan, forms={"chat": 80, "text": 14}))
    assert line == "m on cpu in float32: 90 examples and 4 held out (80 chat, 14 text), 12 steps"


def test_a_loss_that_was_not_finite_is_a_gap_and_not_a_zero() -> None:
    assert step_line(
        {"step": 3, "steps": 9, "loss": None, "lr": 8.1e-4, "grad_norm": None, "tokens_per_s": 1344.2}
    ) == ("step 3/9  loss –  lr 8.1e-4  1,344 tokens/s")


@pytest.mark.parametrize(
    ("phase", "line"),
    [
        ({"phase": "fetching gpt2", "done": 40_000_000, "total": 93_000_000}, "fetching gpt2  40 of 93 MB"),
        ({"phase": "fetching gpt2", "done": 400_000_000, "total": 3_500_000_000}, "fetching gpt2  0.4 of 3.5 GB"),
        ({"phase": "loading gpt2", "done": 0, "total": 1}, "loading gpt2"),
        ({"phase": "reading", "done": 3, "total": 9, "note": ""}, "reading  3 of 9"),
        ({"phase": "waiting", "done": 0, "total": 0}, "waiting"),
    ],
)
def test_progress_is_counted_or_measured(phase: dict[str, Any], line: str) -> None:
    assert phase_line(phase) == line
    assert phase_line({**phase, "note": ""}, 75.0) == f"{line} · 1m 15s"


def test_prompts_are_told_without_the_training_form() -> None:
    assert question_of("Question: unlock\nAnswer:") == "unlock"
    assert question_of("tell me") == "tell me"


def test_events_of_a_kind_that_is_not_known_are_told_by_nobody() -> None:
    assert event_lines(event("something new", text="x")) == []


def test_a_plan_says_what_is_trained_on_what() -> None:
    plan = event(
        "plan", model="builtin", device="cpu", dtype="bfloat16", examples=96, steps=60,
        trainable_parameters=1_840_000, parameters=136_000_000,
    )  # fmt: skip
    assert event_lines(plan) == [
        "builtin on cpu in bfloat16: 96 examples, 60 steps; 1.84 of 136 million parameters are trained"
    ]


def test_a_run_that_was_killed_in_a_pause_and_goes_on_is_not_paused() -> None:
    progress = RunProgress()
    progress.update(event("paused", paused=True))
    assert progress.generation_line().endswith(", paused")
    progress.update(event("started", mode="generate", resumed=True, config={}))
    assert not progress.generation_line().endswith(", paused")


def test_a_pause_and_its_end_are_told() -> None:
    began, over = (event_lines(event("paused", paused=paused)) for paused in (True, False))
    assert began == ["paused: calls in flight are still answered, nothing new is begun"]
    assert over == ["the pause is over"]


def test_waiting_for_the_endpoint_and_its_end_are_told() -> None:
    progress = RunProgress()
    away = event("waiting", waiting=True, reason="refused", message="http://h does not answer (\x1b[31mrefused).")
    assert event_lines(away) == ["http://h does not answer (␛[31mrefused)."]
    progress.update(away)
    assert progress.generation_line().endswith(", waiting for the endpoint")
    progress.update(event("waiting", waiting=False, message="http://h answers again after 21s."))
    assert not progress.generation_line().endswith("endpoint")


def test_a_call_that_is_tried_again_says_why_when_and_how_often() -> None:
    again = {"reason": "HTTP 503: busy, key sk-abcdefghijklmnop", "seconds": 4.2, "try": 2, "tries": 6}
    assert retry_line(again) == "HTTP 503: busy, key [redacted]; trying again in 4s (2 of 6)"
    assert retry_line({"reason": "HTTP 429: limit", "seconds": 50.0}) == "HTTP 429: limit; trying again in 50s"


def test_what_was_chosen_stands_in_columns_under_the_plan() -> None:
    chosen = [
        {"key": "fine_tuning.optimizer.lora_lr", "value": 0.001, "reason": "the optimum of its width"},
        {"key": "fine_tuning.training.gradient_accumulation_steps", "value": 1, "reason": "goes without saying"},
        {"key": "fine_tuning.evaluation.test_prompts", "value": ["a", "b"], "reason": "your \x1b[31mown"},
    ]
    plan: dict[str, Any] = {"model": "builtin", "device": "cpu", "dtype": "float32", "everyday": 24, "steps": 91}
    plan["examples"] = 27
    lines = event_lines(event("plan", **plan, chosen=chosen))
    assert lines[0] == "builtin on cpu in float32: 27 examples and 24 everyday ones, 91 steps"
    assert lines[1] == "chosen for this run, since nobody has set it (--set fine_tuning.KEY=VALUE does):"
    assert lines[2] == "    optimizer.lora_lr        1e-3       the optimum of its width"
    assert lines[3].startswith("    evaluation.test_prompts  2 prompts  your ")
    assert "\x1b" not in lines[3]
    assert len(lines) == 4
    assert len(event_lines(event("plan", **plan))) == 1
