"""Events in words: counts that survive a second verdict, numbers with units, nothing invented for what is missing."""

from typing import Any

import pytest

from lora_tui.cli.wording import Progress, describe, phase_line, question_of, step_line
from lora_tui.store.rows import Event


def event(kind: str, **payload: Any) -> Event:
    return Event(1, 1, 0.0, kind, payload)


def test_a_pair_that_is_judged_again_counts_once() -> None:
    progress = Progress()
    progress.take(event("started", mode="generate", config={"data_generation": {"total_examples": 100}}))
    for number, verdict in ((1, "review"), (2, "rejected"), (1, "accepted")):
        progress.take(event("pair", pair=number, verdict=verdict))
    assert progress.generation() == "1 of 100 accepted, 1 rejected"


def test_the_target_is_the_one_that_generation_works_towards() -> None:
    progress = Progress()
    progress.take(event("started", mode="quickstart", config={"data_generation": {"total_examples": 100}}))
    progress.take(event("progress", phase="generating", done=1, total=12))
    progress.take(event("pair", pair=1, verdict="accepted"))
    assert progress.generation() == "1 of 12 accepted, 0 rejected"


def test_the_base_model_sets_no_best_score() -> None:
    progress = Progress()
    progress.take(event("evaluation", model="base", step=0, score=0.9))
    progress.take(event("evaluation", model="tuned", step=2, score=0.4))
    progress.take(event("evaluation", model="tuned", step=4, score=0.3))
    assert (progress.score, progress.best) == (0.3, 0.4)


def test_a_loss_that_was_not_finite_is_a_gap_and_not_a_zero() -> None:
    assert step_line(
        {"step": 3, "steps": 9, "loss": None, "lr": 8.1e-4, "grad_norm": None, "tokens_per_s": 1344.2}
    ) == ("step 3/9  loss –  lr 0.00081  1,344 tokens/s")


@pytest.mark.parametrize(
    ("phase", "line"),
    [
        ({"phase": "fetching", "done": 40_000_000, "total": 100_000_000}, "fetching  40%"),
        ({"phase": "reading", "done": 3, "total": 9, "note": ""}, "reading  3 of 9"),
        ({"phase": "waiting", "done": 0, "total": 0}, "waiting"),
    ],
)
def test_progress_is_counted_or_measured(phase: dict[str, Any], line: str) -> None:
    assert phase_line(phase) == line


def test_prompts_are_told_without_the_training_form() -> None:
    assert question_of("Question: unlock\nAnswer:") == "unlock"
    assert question_of("tell me") == "tell me"


def test_events_of_a_kind_that_is_not_known_are_told_by_nobody() -> None:
    assert describe(event("something new", text="x"), Progress()) == []


def test_a_plan_says_what_is_trained_on_what() -> None:
    plan = event(
        "plan", model="builtin", device="cpu", dtype="bfloat16", examples=96, steps=60,
        trainable_parameters=1_840_000, parameters=136_000_000,
    )  # fmt: skip
    assert describe(plan, Progress()) == [
        "builtin on cpu in bfloat16: 96 examples, 60 steps; 1.84 of 136 million parameters are trained"
    ]


def test_a_run_that_was_killed_in_a_pause_and_goes_on_is_not_paused() -> None:
    progress = Progress()
    progress.take(event("paused", paused=True))
    assert progress.generation().endswith(", paused")
    progress.take(event("started", mode="generate", resumed=True, config={}))
    assert not progress.generation().endswith(", paused")


def test_a_pause_and_its_end_are_told() -> None:
    began, over = (describe(event("paused", paused=paused), Progress()) for paused in (True, False))
    assert began == ["paused: calls in flight are still answered, nothing new is begun"]
    assert over == ["the pause is over"]
