"""Figures of runs in a list: few points whatever the length, right answers of the best evaluation."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lora_tui.store import events
from lora_tui.store.connection import Store
from lora_tui.store.queries.run_figures import LOSS_POINTS, RunFigures, run_figures
from lora_tui.text import is_right, missing_words
from tests.tui.app_harness import create_run, create_training_run, evaluation_event, step_event

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with await Store.open(tmp_path / "store.db") as opened:
        yield opened


async def test_a_training_run_is_a_few_points_and_its_best_evaluation(store: Store) -> None:
    run_id = await create_training_run(store, settings={"fine_tuning.optimizer.lora_lr": 1e-3})
    other = await create_run(store, "generate")
    await events.append(store, run_id, [evaluation_event(0, 0.1, model="base"), evaluation_event(60, 0.5)])
    found = await run_figures(store, [run_id, other, 99])
    assert set(found) == {run_id, other}, "one that does not exist is left out"
    figures = found[run_id]
    assert len(figures.loss) == LOSS_POINTS
    assert list(figures.loss) == sorted(figures.loss, reverse=True)
    assert figures.last_loss == pytest.approx(0.1)
    assert figures.score == (0.4, 0.9, 0.5)
    assert figures.base_score == 0.1
    assert (figures.right, figures.asked) == (2, 2), "of the best evaluation, not of the newest"
    assert (figures.steps, figures.total_steps, figures.rate, figures.batch) == (40, 60, 1e-3, 32)
    assert found[other] == RunFigures(other, accepted=0)


async def test_short_and_broken_runs_have_what_there_is(store: Store) -> None:
    run_id = await create_run(store, "train", "running")
    await events.append(store, run_id, [step_event(1, loss=2.0), step_event(2, loss=None)])
    (figures,) = (await run_figures(store, [run_id])).values()
    assert figures.loss == (2.0,)
    assert figures.last_loss is None
    assert (figures.steps, figures.right) == (2, None)
    assert await run_figures(store, []) == {}


@pytest.mark.parametrize(
    ("expected", "answer", "missing"),
    [
        ("on 3 May 1897.", "It was opened on 3 May 1897", []),
        ("on 3 May 1897.", "on 1 July 1897.", ["3", "May"]),
        ("the engineer Ines Corvalho", "INES CORVALHO, an engineer", []),
        ("no", "yes", ["no"]),
        ("1,250 kg", "1250 kg", []),
        ("28 seats", "128 seats", ["28"]),
    ],
)
def test_what_an_answer_lacks_is_said_in_words_and_numbers(expected: str, answer: str, missing: list[str]) -> None:
    assert missing_words(expected, answer) == missing
    assert is_right("expected", expected, answer, 0.3) == (not missing)


def test_an_answer_that_must_not_be_given_is_judged_by_its_score() -> None:
    assert is_right("control", "the secret", "I cannot see the weather.", 1.0)
    assert not is_right("avoid", "the secret", "the secret", 0.0)
    assert not is_right("expected", "the secret", "", 0.0)
