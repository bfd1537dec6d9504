"""Did fine-tuning help: the sheet with the comparison, its path, and the evaluation that is begun from there."""

from typing import Any

import pytest

from lora_tui.protocol.agreement import Estimate
from lora_tui.protocol.comparison import ComparedAnswer, HeldOutComparison
from lora_tui.protocol.knowledge import KnowledgeTest
from lora_tui.store import runs
from lora_tui.store.connection import Store
from lora_tui.tui.screens.report import ReportScreen
from tests.tui.app_harness import (
    AppHarness,
    create_run,
    create_training_run,
    evaluation_event,
    screen_text,
    wait_for_text,
    wait_until,
)

pytestmark = pytest.mark.anyio

WORST = ComparedAnswer(
    "Question: who keeps the lighthouse?\nAnswer:", "Marta [b]Quillfeather", "harbour.txt", "I do not know.",
    "Osric\x1b[2J Tane", 0.05, 0.11,
)  # fmt: skip
COMPARISON = HeldOutComparison(
    40, 120, 3, True, "questions", Estimate(0.12, 0.08, 0.17), Estimate(0.35, 0.29, 0.41), Estimate(0.23, 0.17, 0.29),
    28, 9, 3, "better", (WORST,),
)  # fmt: skip
KNOWLEDGE = KnowledgeTest(
    20, 20, 3, Estimate(0.41, 0.3, 0.5), Estimate(0.1, 0.05, 0.15), Estimate(0.8, 0.7, 0.9), 8, 2, 17,
    Estimate(0.31, 0.2, 0.4), "better", "questions",
)  # fmt: skip
PAGE = "/runs/run-1/report.html"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def evaluated_run(store: Store) -> None:
    """A training run, and an evaluation of its adapter."""
    from lora_tui.store import events

    trained = await create_training_run(store)
    result: dict[str, Any] = {"adapter_run": trained, "report": PAGE, "comparison": COMPARISON.as_json()}
    result["knowledge"] = KNOWLEDGE.as_json()
    evaluation = await create_run(store, "evaluate")
    await runs.end(store, evaluation, "finished", result, None)
    await events.append(store, evaluation, [evaluation_event(40, 0.9)])


async def test_the_newest_evaluation_of_a_runs_adapter_is_shown_with_its_worst_answers(harness: AppHarness) -> None:
    await harness.populate(evaluated_run)
    async with harness.app((100, 40)) as (app, pilot):
        await pilot.press("4")
        await wait_for_text(app, "2 runs")
        await pilot.press("r")
        await wait_for_text(app, "40 of 120 held-out questions, from 3 documents that were not trained on")
        assert isinstance(app.screen, ReportScreen)
        text = screen_text(app)
        shown = ("0.35 (0.29 to 0.41)", "+0.23 (+0.17 to +0.29): fine-tuning helped", "28 better, 9 the same, 3 worse")
        for words in (*shown, "Marta [b]Quillfeather", "Osric␛[2J Tane", "harbour.txt", PAGE, "no longer there"):
            assert words in text, words
        await pilot.press("y")
        await wait_until(lambda: app.clipboard == PAGE)


async def test_a_run_without_a_report_is_evaluated_from_there(harness: AppHarness) -> None:
    await harness.populate(create_training_run)
    async with harness.app() as (app, pilot):
        await pilot.press("2")
        await wait_for_text(app, "r  did it help?")
        await pilot.press("r")
        await wait_for_text(app, "This run was not evaluated yet.")
        await pilot.press("m")
        await wait_until(lambda: harness.backend.calls_of("start"))
        assert harness.backend.calls_of("start") == [("evaluate", {"adapter_run": 1}, None)]


async def test_train_shows_what_an_evaluation_has_found(harness: AppHarness) -> None:
    await harness.populate(evaluated_run)
    async with harness.app((140, 42)) as (app, pilot):
        app.services.show_run(next(run for run in app.services.state.runs if run.mode == "evaluate"))
        await pilot.pause()
        await wait_for_text(app, "fine-tuned  0.35 (0.29 to 0.41)")
        await wait_for_text(app, "+0.23 (+0.17 to +0.29)")
        await wait_for_text(app, "✓ run 2")


@pytest.mark.parametrize("width", [80, 140])
async def test_how_much_of_the_folder_the_model_knows_stands_below(harness: AppHarness, width: int) -> None:
    await harness.populate(evaluated_run)
    async with harness.app((width, 60)) as (app, pilot):
        await pilot.press("4")
        await wait_for_text(app, "2 runs")
        await pilot.press("r")
        await wait_for_text(app, "20 questions about facts held out from training, from 3 documents")
        text = screen_text(app)
        assert "base, passage in view  17 of 20 known, mean score 0.80" in text
        assert "+0.31 (+0.20 to +0.40): training taught it" in text
