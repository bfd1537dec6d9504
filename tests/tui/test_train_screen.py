"""Train: what is shown of a run, how it follows, and what its keys ask for."""

import time

import pytest

from lora_tui.protocol.agreement import Estimate, ScoreAgreement
from lora_tui.store import events, feedback, runs
from lora_tui.store.connection import Store
from lora_tui.tui.screens.train import TrainScreen
from lora_tui.tui.views.training_text import result_words, weight_line, weight_lines
from lora_tui.tui.widgets.line_plot import LinePlot
from lora_tui.tui.widgets.panel import Panel
from lora_tui.tui.widgets.row_list import RowList
from tests.tui.app_harness import (
    PLAN,
    WEIGHTS,
    AppHarness,
    create_run,
    create_training_run,
    evaluation_event,
    screen_text,
    step_event,
    wait_for_text,
    wait_until,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_a_finished_run_shows_its_curves_score_weights_and_answers(harness: AppHarness) -> None:
    await harness.populate(create_training_run)
    async with harness.app() as (app, pilot):
        await pilot.press("2")
        await wait_for_text(app, "What it answers now (evaluation 2 of 2, step 40, score 0.90)")
        text = screen_text(app)
        assert "✓ run 1 · finished · step 40/60" in text
        assert "0.1000" in text, "the loss of the last step"
        assert "340 tokens/s" in text
        assert "clipped 13 of 40" in text
        assert "exact match" in text
        assert "unlock" in text
        assert "the secret passw…" in text
        assert "✓ 1.00" in text


async def test_a_live_run_is_followed_as_it_steps_and_is_evaluated(harness: AppHarness) -> None:
    run_id = await harness.populate(lambda store: create_training_run(store, "running", steps=5))
    async with harness.app() as (app, pilot), await Store.open(harness.path) as store:
        await pilot.press("2")
        await wait_for_text(app, "step 5/60")
        await events.append(store, run_id, [step_event(6), evaluation_event(6, 0.5, "half of it")])
        await wait_for_text(app, "step 6/60")
        await wait_for_text(app, "half of it")
        screen = app.screen
        assert isinstance(screen, TrainScreen)
        assert screen._view is not None
        assert screen._view.loss.xs[-1] == 6


async def test_the_loss_on_held_out_examples_is_drawn_and_told_beside_the_training_loss(harness: AppHarness) -> None:
    run_id = await harness.populate(lambda store: create_training_run(store, "running", steps=10))
    async with harness.app() as (app, pilot), await Store.open(harness.path) as store:
        await pilot.press("2")
        await wait_for_text(app, "step 10/60")
        assert "held out" not in screen_text(app)
        first, second = (evaluation_event(step, 0.5, held_out_loss=loss) for step, loss in ((10, 1.5), (12, 1.75)))
        await events.append(store, run_id, [first, step_event(11), step_event(12), second])
        await wait_for_text(app, "unseen 1.7500  ▲ 0.25, held out")
        screen = app.screen
        assert isinstance(screen, TrainScreen)
        assert screen._view is not None
        assert list(screen._view.held_out.xs) == [10, 12]
        assert screen._view.held_out.ys.tolist() == [1.5, 1.75]
        plot = screen.query_one("#plot", LinePlot)
        await wait_until(lambda: any(series.label == "held out" for series in plot._series))


async def test_a_run_on_preferences_shows_margin_and_how_many_are_told_right(harness: AppHarness) -> None:
    plan = {**PLAN, "method": "dpo", "examples": 31}

    def rewards(step: int) -> dict[str, float]:
        right = {"reward_margin": step / 10, "reward_accuracy": 0.75}
        return {**right, "chosen_reward": step / 20, "rejected_reward": -step / 20}

    async def begin(store: Store) -> int:
        run_id = await create_run(store, "train", "running")
        await events.append(store, run_id, [(1.0, "plan", plan)])
        await events.append(store, run_id, [step_event(step, **rewards(step)) for step in (1, 2, 3, 2)])
        return run_id

    run_id = await harness.populate(begin)
    async with harness.app() as (app, pilot), await Store.open(harness.path) as store:
        await pilot.press("2")
        await wait_for_text(app, "margin 0.20  better +0.10, worse -0.10")
        await wait_for_text(app, "right  75 %  of this step's preferences")
        await wait_for_text(app, "Reward margin")  # beside the loss
        await events.append(store, run_id, [step_event(3, **rewards(3)), step_event(4, **rewards(4))])
        await wait_for_text(app, "margin 0.40")
        screen = app.screen
        assert isinstance(screen, TrainScreen)
        assert screen._view is not None
        assert list(screen._view.margin.xs) == [1, 2, 3, 4], "the repeated step once"
        titles = []
        for _ in range(6):
            await pilot.press("v")
            titles.append(str(screen.query_one("#plot-box").border_title).strip())
        assert titles == [
            "Reward margin", "Told apart rightly", "Score", "Learning rate", "Tokens per second", "Loss",
        ]  # fmt: skip
        assert result_words(screen._view) == "Running at step 4: 75 % of preferences right, margin +0.40"
        await runs.end(store, run_id, "finished", {}, None)
        await wait_until(lambda: screen._view and not screen._view.live)
        assert result_words(screen._view) == "Trained: 75 % of preferences right, margin +0.40"
        await pilot.press("5")
        await wait_for_text(app, "This run learned")
        assert "as if it chose among" not in screen_text(app)


async def test_each_of_several_devices_is_shown_with_its_speed_and_its_wait(harness: AppHarness) -> None:
    def told(step: int, *waits: float) -> events.NewEvent:
        ranks = [
            {"rank": rank, "device": f"cuda:{rank}", "tokens": 900, "tokens_per_s": 4500.0, "wait": wait}
            for rank, wait in enumerate(waits)
        ]
        return (1_700_000_000.0, "ranks", {"step": step, "parallel": "ddp", "ranks": ranks})

    run_id = await harness.populate(lambda store: create_training_run(store, "running", steps=5))
    async with harness.app(size=(140, 42)) as (app, pilot), await Store.open(harness.path) as store:
        await pilot.press("2")
        await wait_for_text(app, "step 5/60")
        assert "rank" not in screen_text(app)
        await events.append(store, run_id, [told(6, 0.25, 0.01), step_event(6)])
        await wait_for_text(app, "rank 0 4,500 tokens/s  waits 25 %, cuda:0")
        assert "rank 1 4,500 tokens/s  waits 1 %, cuda:1" in screen_text(app)
        await events.append(store, run_id, [told(7, *([0.2] * 6), 0.0, 0.3), step_event(7)])
        await wait_for_text(app, "ranks  8  36k tokens/s")
        assert "rank 6 4,500 tokens/s  waits 0 %" in screen_text(app), "the one that all wait for"
        assert "rank 7 4,500 tokens/s  waits 30 %" in screen_text(app)
        assert "rank 5" not in screen_text(app)


@pytest.mark.parametrize(("said", "words", "method"), [
    ((31, 40), "learn from 31 preferences", "dpo"), ((0, 1), "learn from 1 rating", "kto"),
])  # fmt: skip
async def test_one_key_learns_from_what_was_said_where_there_is_something(
    harness: AppHarness, said: tuple[int, int], words: str, method: str
) -> None:
    run_id = await harness.populate(create_training_run)
    harness.backend.said = said
    async with harness.app((140, 42)) as (app, pilot):
        await pilot.press("2")
        await wait_for_text(app, words)
        await pilot.press("d")
        await wait_until(lambda: harness.backend.calls_of("start"))
        assert harness.backend.calls_of("start") == [("train", {"adapter_run": run_id}, None)]
        assert harness.backend.settings.fine_tuning.method == method
        assert app.services.state.settings.fine_tuning.method == "sft", "the settings in view stay"


async def test_nothing_is_offered_where_nobody_has_said_anything(harness: AppHarness) -> None:
    await harness.populate(create_training_run)
    async with harness.app((140, 42)) as (app, pilot):
        await pilot.press("2")
        await wait_for_text(app, "chat with it")
        assert "learn from" not in screen_text(app)
        assert app.screen.check_action("learn", ()) is False


async def test_the_plan_shows_forms_held_out_examples_and_why_others_are_left_out(harness: AppHarness) -> None:
    reasons = {"skipped": {"the question is empty": 1}, "dropped": {}, "truncated": {"longer than 128 tokens": 7}}
    plan = {**PLAN, "forms": {"chat": 80, "text": 20}, "held_out": 4, "truncated": 7, "reasons": reasons}

    async def begin(store: Store) -> None:
        await events.append(store, await create_run(store, "train", "running"), [(1.0, "plan", plan)])

    await harness.populate(begin)
    async with harness.app() as (app, pilot):
        await pilot.press("2")
        await wait_for_text(app, "96 examples  15k tokens, 4 held out")
        text = screen_text(app)
        assert "80 chat, 20 text" in text
        assert "1 skipped, 7 truncated" in text
        assert "1  the question is empty" in text
        assert "7  longer than 128 tokens" in text


async def test_a_resumed_run_draws_the_repeated_steps_once(harness: AppHarness) -> None:
    run_id = await harness.populate(lambda store: create_training_run(store, "running", steps=10))
    async with harness.app() as (app, pilot), await Store.open(harness.path) as store:
        await pilot.press("2")
        await wait_for_text(app, "step 10/60")
        await events.append(store, run_id, [step_event(8, loss=3.0), step_event(9, loss=2.9)])
        await wait_for_text(app, "step 9/60")
        screen = app.screen
        assert isinstance(screen, TrainScreen)
        assert screen._view is not None
        assert list(screen._view.loss.xs) == list(range(1, 10))
        assert screen._view.loss.ys[-2:].tolist() == [3.0, 2.9]


async def test_keys_ask_the_owner_of_a_live_run(harness: AppHarness) -> None:
    run_id = await harness.populate(lambda store: create_training_run(store, "running"))
    async with harness.app() as (app, pilot):
        await pilot.press("2")
        await wait_for_text(app, "Checkpoint now")
        await pilot.press("p", "x")
        await wait_until(lambda: harness.backend.calls_of("stop"))
        assert harness.backend.calls_of("send_command") == [(run_id, "checkpoint")]
        assert harness.backend.calls_of("stop") == [(run_id,)]
        assert "Start" not in screen_text(app), "one cannot start what is running"


async def test_a_stopped_run_can_be_resumed_and_not_stopped(harness: AppHarness) -> None:
    run_id = await harness.populate(lambda store: create_training_run(store, "stopped"))
    async with harness.app() as (app, pilot):
        await pilot.press("2")
        await wait_for_text(app, "Resume")
        await pilot.press("x", "R")
        await wait_until(lambda: harness.backend.calls_of("start"))
        assert harness.backend.calls_of("start") == [("train", {}, run_id)]
        assert harness.backend.calls_of("stop") == []


async def test_earlier_answers_are_a_key_away_and_newer_ones_do_not_replace_them(harness: AppHarness) -> None:
    run_id = await harness.populate(lambda store: create_training_run(store, "running"))
    async with harness.app() as (app, pilot), await Store.open(harness.path) as store:
        await pilot.press("2")
        await wait_for_text(app, "evaluation 2 of 2")
        await pilot.press("[")
        await wait_for_text(app, "What it answered then (evaluation 1 of 2, step 20, score 0.40)")
        await wait_for_text(app, "a rainbow")
        await events.append(store, run_id, [evaluation_event(50, 0.95, "much newer")])
        await wait_until(lambda: app.screen._view is not None and len(app.screen._view.evaluations) == 3)  # type: ignore[attr-defined]
        await pilot.press("]", "]", "]")
        await wait_for_text(app, "much newer")


async def test_an_answer_opens_whole_is_rated_and_says_what_moved(harness: AppHarness) -> None:
    await harness.populate(create_training_run)
    async with harness.app() as (app, pilot):
        await pilot.press("2")
        await wait_for_text(app, "evaluation 2 of 2")
        await pilot.press("enter")
        await wait_for_text(app, "As it learned")
        assert "the secret is a rainbow" in screen_text(app), "what it said at step 20"
        await pilot.press("4")
        await wait_for_text(app, "weights  BLEU 0.10 → 0.12")
        assert "ROUGE-L 0.20 → 0.18" in screen_text(app)
        assert "score    0.64 → 0.66" in screen_text(app)
        ((sample, rating),) = harness.backend.calls_of("rate_sample")
        assert rating == 4
        assert sample > 0
        assert app.current_mode == "train", "4 rates here; it does not leave"
        await pilot.press("u")
        await wait_for_text(app, "score    0.66 → 0.64")
        assert harness.backend.calls_of("undo_sample_rating") == [(sample,)]


@pytest.mark.parametrize("width", [80, 100, 120, 140, 200])
async def test_what_the_model_says_is_the_last_to_be_cut(harness: AppHarness, width: int) -> None:
    await harness.populate(create_training_run)
    async with harness.app((width, 40)) as (app, pilot):
        await pilot.press("2")
        await wait_for_text(app, "smoothed" if width >= 100 else "Score")
        if width < 100:
            await pilot.press("tab")
        await wait_for_text(app, "I cannot see the weather.")


async def test_plots_change_by_key_and_take_a_logarithmic_axis(harness: AppHarness) -> None:
    await harness.populate(create_training_run)
    async with harness.app() as (app, pilot):
        await pilot.press("2")
        await wait_for_text(app, "smoothed")
        await pilot.press("l")
        await wait_for_text(app, "log scale")
        await pilot.press("v")
        await wait_until(lambda: app.screen.query_one("#plot-box").border_title == "Score")
        assert app.screen.query_one("#plot", LinePlot).log_scale


async def test_before_any_run_the_plan_is_shown_with_its_warnings(harness: AppHarness) -> None:
    async with harness.app() as (app, pilot):
        await pilot.press("escape", "2")
        await wait_for_text(app, "120, 40 an epoch")
        await wait_for_text(app, "! fine_tuning.lora.r = 1: too little")
        await pilot.press("s")
        await wait_until(lambda: harness.backend.calls_of("start"))
        assert harness.backend.calls_of("start") == [("train", {}, None)]


async def test_eighty_columns_hold_every_figure(harness: AppHarness) -> None:
    await harness.populate(lambda store: create_training_run(store, "running"))
    async with harness.app((80, 24)) as (app, pilot):
        await pilot.press("2")
        await wait_for_text(app, "loss 0.1000")
        text = screen_text(app)
        for figure in ("rate", "grad", "tokens/s", "s a step", "1.9 GiB", "ends about", "Score 0.90", "weights"):
            assert figure in text, figure
        await pilot.press("tab")
        await wait_until(lambda: app.screen.query_one("#answers", RowList).size.height > 10)


async def test_what_is_being_loaded_is_said_before_the_first_step(harness: AppHarness) -> None:
    run_id = await harness.populate(lambda store: create_training_run(store, "running", steps=0))
    async with harness.app() as (app, pilot), await Store.open(harness.path) as store:
        await pilot.press("2")
        await wait_for_text(app, "96 examples")
        progress = {"phase": "fetching the built-in model", "done": 30, "total": 100}
        await events.append(store, run_id, [(1.0, "progress", progress)])
        await wait_for_text(app, "fetching the built-in model  30 of 100")


async def test_a_run_that_starts_shows_what_was_forecast_until_its_plan_is_there(harness: AppHarness) -> None:
    async with harness.app((80, 24)) as (app, pilot):
        await pilot.press("escape", "2")
        run_id = await harness.populate(lambda store: create_run(store, "train", "running"))
        app.services.state.mark_begun(run_id)
        app.services.reload_runs()
        await wait_for_text(app, "starting: PyTorch is loaded first")
        await wait_for_text(app, "120, 40 an epoch")
        await harness.populate(lambda store: events.append(store, run_id, [(1.0, "plan", PLAN)]))
        await wait_for_text(app, "96 examples")
        assert "120, 40 an epoch" not in screen_text(app)


async def test_the_base_models_answers_stand_there_until_the_first_test(harness: AppHarness) -> None:
    run_id = await harness.populate(lambda store: create_training_run(store, "running", steps=3))
    base = evaluation_event(0, 0.21, "I do not know", model="base")
    await harness.populate(lambda store: events.append(store, run_id, [base]))
    async with harness.app((80, 24)) as (app, pilot), await Store.open(harness.path) as store:
        await pilot.press("2")
        await wait_for_text(app, "What the base model answers (score 0.21)")
        await wait_for_text(app, "I do not know")
        await wait_for_text(app, "Score 0.21  before training")
        await events.append(store, run_id, [(2.0, "progress", {"phase": "testing it", "done": 0, "total": 0})])
        await wait_for_text(app, "testing it")
        await events.append(store, run_id, [evaluation_event(3, 0.9, "the secret password")])
        await wait_for_text(app, "(evaluation 1 of 1, step 3, score 0.90)")
        await wait_until(lambda: "testing it" not in screen_text(app))
        await pilot.press("left_square_bracket")
        await wait_for_text(app, "What the base model answers (score 0.21)")


@pytest.mark.parametrize(
    ("stopped_by", "words"),
    [
        ("steps", "all steps taken"),
        ("target_score", "target score reached"),
        ("patience", "score stopped rising"),
        ("request", "stopped on request"),
    ],
)
async def test_a_run_that_ends_says_why(harness: AppHarness, stopped_by: str, words: str) -> None:
    run_id = await harness.populate(lambda store: create_training_run(store, "running"))
    async with harness.app() as (app, pilot), await Store.open(harness.path) as store:
        await pilot.press("2")
        await wait_for_text(app, "ends about")
        assert words not in screen_text(app)
        await runs.end(store, run_id, "finished", {"stopped_by": stopped_by}, None)
        await wait_for_text(app, f"✓ run 1 · finished · {words}")
        await wait_for_text(app, f"step 40 of 60  {words}")


async def test_a_small_terminal_says_how_a_run_ended_and_where(harness: AppHarness) -> None:
    await harness.populate(lambda store: create_training_run(store, result={"stopped_by": "patience"}))
    async with harness.app((80, 24)) as (app, pilot):
        await pilot.press("2")
        await wait_for_text(app, "✓ run 1 · step 40/60")
        await wait_for_text(app, "finished · score stopped rising · 340 tokens/s · 1.5 s a step · 1.9 GiB")


async def test_a_run_that_goes_on_again_no_longer_says_why_it_ended(harness: AppHarness) -> None:
    run_id = await harness.populate(
        lambda store: create_training_run(store, "stopped", result={"stopped_by": "request"})
    )
    async with harness.app() as (app, pilot), await Store.open(harness.path) as store:
        await pilot.press("2")
        await wait_for_text(app, "stopped on request")
        assert await runs.take_over(store, run_id)
        await runs.start(store, run_id)
        await wait_for_text(app, "● run 1 · train · step 40/60")
        assert "stopped on request" not in screen_text(app)


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_a_run_that_took_no_step_says_so_in_its_plots_and_why(harness: AppHarness, size: tuple[int, int]) -> None:
    await harness.populate(lambda store: create_run(store, "train", "failed", error="No memory left.\nUse less."))
    async with harness.app(size) as (app, pilot):
        await pilot.press("2")
        await wait_for_text(app, "no step was taken")
        await wait_for_text(app, "No memory left.")
        await wait_for_text(app, "This run was not evaluated.")
        assert "first step" not in screen_text(app)
        assert "Log scale" not in screen_text(app), "there is nothing to draw"


async def test_eighty_columns_hold_every_weight_each_on_one_line(harness: AppHarness) -> None:
    await harness.populate(create_training_run)
    async with harness.app((80, 24)) as (app, pilot):
        await pilot.press("2")
        for words in ("exact match 20 %", "shared words 20 %", "ROUGE-L 20 %", "likelihood 15 %", "BLEU 10 %",
                      "ROUGE-2 10 %", "ROUGE-1 5 %"):  # fmt: skip
            await wait_for_text(app, words)


@pytest.mark.parametrize("width", range(24, 80))
def test_no_line_ends_between_a_weight_and_its_name(width: int) -> None:
    lines = weight_line(WEIGHTS, {**WEIGHTS, "bleu": 0.12}, width).plain.splitlines()
    assert all(len(line) <= width for line in lines)
    assert all(line == "weights" or line.rstrip("▲").endswith(" %") for line in lines)


def test_a_weight_is_its_share_of_the_evidence_and_a_minus_speaks_against_an_answer() -> None:
    lines = weight_lines({}, {"token_f1": 6.0, "negation": -2.0, "bleu": 0.0, "bias": -3.0}, 60).plain.splitlines()
    assert [line.split()[-2:] for line in lines[1:]] == [["75", "%"], ["−25", "%"]], "what weighs nothing is left out"
    assert [line.split("━")[0].strip() for line in lines[1:3]] == ["shared words", "a not beside"]


def test_what_is_known_of_the_score_stands_over_its_weights() -> None:
    known = ScoreAgreement(30, 30, 60, 0, 0, Estimate(0.77, 0.62, 0.87), 0.27, 0.7, 0.09)
    wide = weight_lines({}, WEIGHTS, 60, known).plain
    assert wide.startswith("agrees  AUROC 0.77 (0.62–0.87), κ 0.27, 60 ratings\n")
    assert weight_lines({}, WEIGHTS, 38, known).plain.splitlines()[1] == "        κ 0.27, 60 ratings"
    few = weight_lines({}, WEIGHTS, 38, ScoreAgreement(3, 6, 0, missing_good=7, missing_bad=4)).plain.splitlines()
    assert [line.strip() for line in few[:2]] == ["agrees  not enough ratings yet:", "7 good, 4 bad are missing"]


async def test_ratings_are_asked_about_once_and_again_when_they_change(harness: AppHarness) -> None:
    run_id = await harness.populate(create_training_run)
    asked = ("answers_agreement", run_id)

    async def rate(store: Store, number: int) -> None:
        async with store.transaction() as t:
            await feedback.add(t, "evaluation", run_id, "sample", number, {"bleu": 0.5}, 1.0, "person")

    async with harness.app() as (app, pilot), await Store.open(harness.path) as store:
        await pilot.press("2")
        await wait_for_text(app, "10 good, 10 bad are missing")
        assert asked not in harness.backend.calls, "without a rating the engine need not be started"
        means = {2: Estimate(0.84, 0.76, 0.91)}
        figures = (Estimate(0.77, 0.62, 0.87), 0.27, 0.7, 0.09)
        harness.backend.agreement = ScoreAgreement(30, 30, 60, 0, 0, *figures, means=means)
        await rate(store, 1)
        await wait_for_text(app, "AUROC 0.77 (0.62–0.87)")
        await wait_for_text(app, "people 0.84  0.76–0.91")
        assert harness.backend.calls.count(asked) == 1
        await store.execute("UPDATE runs SET name='other'")
        await pilot.pause(1.5)
        assert harness.backend.calls.count(asked) == 1, "something else has changed"
        await rate(store, 2)
        await wait_until(lambda: harness.backend.calls.count(asked) == 2)


async def test_a_target_is_not_rounded_to_one_that_is_reached_earlier(harness: AppHarness) -> None:
    settings = {"fine_tuning.training.target_score": 0.995}
    await harness.populate(lambda store: create_training_run(store, settings=settings))
    async with harness.app() as (app, pilot):
        await pilot.press("2")
        await wait_for_text(app, "Score 0.90 → target 0.995")


async def test_kept_controls_and_why_the_highest_score_is_not_the_best_are_told_beside_it(harness: AppHarness) -> None:
    async def populate(store: Store) -> None:
        run_id = await create_training_run(store)
        evaluation = evaluation_event(41, 0.95, controls=3, controls_kept=2, overall=0.8)
        await events.append(store, run_id, [evaluation])

    await harness.populate(populate)
    async with harness.app((120, 40)) as (app, pilot):
        await pilot.press("2")
        for expected in (
            "Score 0.95, best 0.90, controls 2/3",
            "score 0.95, controls 2/3)",
            "best 0.90 (better on controls)",
        ):
            await wait_for_text(app, expected)


async def test_the_base_models_answer_stands_before_what_was_learned(harness: AppHarness) -> None:
    run_id = await harness.populate(create_training_run)
    base = evaluation_event(0, 0.1, "", model="base")
    await harness.populate(lambda store: events.append(store, run_id, [base]))
    async with harness.app() as (app, pilot):
        await pilot.press("2")
        await wait_for_text(app, "evaluation 2 of 2")
        await pilot.press("enter")
        await wait_for_text(app, "base  ✗ 0.10  (nothing)")
        lines = screen_text(app).splitlines()
        (base_line,) = [number for number, line in enumerate(lines) if "base  ✗" in line]
        assert "step 20" in lines[base_line + 1]
        await pilot.press("4")
        await wait_for_text(app, "weights  ")
        lines = screen_text(app).splitlines()
        (told,) = [number for number, line in enumerate(lines) if "weights  " in line]
        assert "Agrees" in lines[told - 2], "it stands under the rating"
        assert not lines[told + 3][4:100].strip(" │▎▏"), "and apart from the metrics"


async def test_a_run_that_has_ended_leads_to_chat_and_export_by_one_key_each(harness: AppHarness) -> None:
    run_id = await harness.populate(create_training_run)
    async with harness.app((80, 24)) as (app, pilot):
        await pilot.press("2")
        await wait_for_text(app, "✓ Trained: score 0.90    c  chat with it    e  export it")
        await pilot.press("e")
        await wait_for_text(app, f"Export run {run_id}")
        await pilot.press("escape", "c")
        await wait_until(lambda: app.current_mode == "chat")
        await pilot.press("ctrl+x")
        await wait_for_text(app, f"Export run {run_id}")
        await pilot.press("a", "enter")
        await wait_until(lambda: harness.backend.calls_of("start"))
        options = {"adapter_run": run_id, "format": "adapter", "output": f"run-{run_id}-adapter"}
        assert harness.backend.calls_of("start") == [("export", options, None)]


async def test_a_run_that_was_stopped_says_where_and_offers_first_to_go_on(harness: AppHarness) -> None:
    await harness.populate(lambda store: create_training_run(store, "stopped"))
    async with harness.app((80, 24)) as (app, pilot):
        await pilot.press("2")
        await wait_for_text(app, "■ Stopped at step 40: score 0.90    R  go on    c  chat with it")


async def test_a_long_reason_of_what_was_chosen_for_a_run_goes_on_below_itself(harness: AppHarness) -> None:
    reason = "96 examples are seen more than once, and more passes would only learn them by heart"
    chosen = [{"key": "fine_tuning.training.max_epochs", "value": 3, "reason": reason}]

    async def begin(store: Store) -> None:
        run_id = await create_run(store, "train", "running")
        await events.append(store, run_id, [(1.0, "plan", {**PLAN, "chosen": chosen})])

    await harness.populate(begin)
    async with harness.app((80, 24)) as (app, pilot):
        await pilot.press("2")
        await wait_for_text(app, "chosen for this run")
        rest = next(line for line in screen_text(app).splitlines() if "by heart" in line)
        assert rest.startswith("│ " + " " * 11 + "learn them by heart"), "below the reason, not below its label"


async def test_while_a_run_goes_on_nothing_is_exported(harness: AppHarness) -> None:
    await harness.populate(lambda store: create_training_run(store, "running", steps=20))
    async with harness.app((80, 24)) as (app, pilot):
        await pilot.press("2")
        await wait_for_text(app, "step 20/60")
        assert "✓ Trained" not in screen_text(app)
        await pilot.press("e")
        await pilot.pause()
        assert "Export run" not in screen_text(app)


@pytest.mark.parametrize("size", [(100, 30), (120, 40), (140, 42), (200, 60)], ids=str)
async def test_every_figure_stands_on_one_line_at_any_width(harness: AppHarness, size: tuple[int, int]) -> None:
    """A value that is wrapped away from its unit or its name cannot be read."""

    async def live(store: Store) -> None:
        run_id = await create_training_run(store, "running", settings={"fine_tuning.scheduler.warmup_steps": 20})
        plan = {**PLAN, "gradient_checkpointing": "selective"}
        await events.append(store, run_id, [(1.0, "plan", plan), evaluation_event(39, 0.9, held_out_loss=0.4123)])

    await harness.populate(live)
    async with harness.app(size) as (app, pilot):
        await pilot.press("2")
        await wait_for_text(app, "grad ")
        panel = app.screen.query_one("#now", Panel)
        await wait_until(lambda: "memory" in str(panel.content))
        width = panel.content_size.width
        lines = str(panel.content).partition("\n\n")[0].splitlines()
        assert [line.split()[0] for line in lines][:2] == ["loss", "unseen"]
        assert max(len(line) for line in lines) <= width, lines
        weights = app.screen.query_one("#weights", Panel)
        assert max(map(len, str(weights.content).splitlines())) <= weights.content_size.width


async def test_what_began_before_the_screen_was_opened_is_shown_with_its_time(harness: AppHarness) -> None:
    async def loading(store: Store) -> None:
        run_id = await create_run(store, "train", "running")
        begun = {"phase": "loading SmolLM2-135M-Instruct", "done": 0, "total": 1}
        await events.append(store, run_id, [(time.time() - 60, "progress", begun)])

    await harness.populate(loading)
    async with harness.app((80, 24)) as (app, pilot):
        await pilot.press("2")
        await wait_for_text(app, "loading SmolLM2-135M-Instruct · 1m ")


async def test_after_the_last_step_the_evaluation_is_said_and_no_time_of_zero(harness: AppHarness) -> None:
    await harness.populate(lambda store: create_training_run(store, "running", steps=60))
    async with harness.app((80, 24)) as (app, pilot):
        await pilot.press("2")
        await wait_for_text(app, "GiB · the last evaluation")
        assert "0s" not in screen_text(app)


async def test_plots_read_out_zoom_and_count_tokens_or_time_and_the_score_begins_with_the_base(
    harness: AppHarness,
) -> None:
    run_id = await harness.populate(create_training_run)

    async def ask_base(store: Store) -> None:
        await events.append(store, run_id, [evaluation_event(0, 0.25, model="base")])

    await harness.populate(ask_base)
    async with harness.app((120, 40)) as (app, pilot):
        await pilot.press("2")
        await wait_for_text(app, "base model 0.25")
        plot, score = (app.screen.query_one(name, LinePlot) for name in ("#plot", "#score-plot"))
        curve = next(series.curve for series in score._series if series.label == "score")
        assert (curve.xs.tolist(), curve.ys.tolist()) == ([0, 20, 40], [0.25, 0.4, 0.9])
        assert "evaluation 2 of 2" in screen_text(app), "the base model's answers are not the run's"
        await pilot.press("left")
        await wait_for_text(app, "step 40  ━━ raw 0.1 ")
        await pilot.press("left", "z")
        assert plot.cursor == 39
        assert score.cursor == 39
        await wait_for_text(app, "zoom 4×")
        await pilot.press("escape", "a")
        assert not plot.is_moved
        await pilot.press("a")
        assert plot._series[0].curve.xs[-1] == 40 * 500, "tokens"
        await pilot.press("a")
        await wait_for_text(app, "1m 30s")
        assert plot._series[0].curve.xs[-1] == 60, "seconds"
