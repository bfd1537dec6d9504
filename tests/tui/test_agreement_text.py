"""What ratings say of scores, as Generate and Learn word it: promises rounded down, nothing said of too few."""

from dataclasses import replace
from typing import Any

import pytest

from lora_tui.engine.review.aggregators import PRIORS
from lora_tui.protocol.agreement import Estimate, Guarantee, ReliabilityPoint, ScoreAgreement
from lora_tui.store import feedback
from lora_tui.store.connection import Store
from lora_tui.tui.text import metric_name
from lora_tui.tui.views.agreement import agreement_lines, guarantee_lines, reliability_lines, reliability_series
from tests.tui.app_harness import AppHarness, create_training_run, wait_for_text
from tests.tui.test_generate_screen import create_generation_run

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


CURVE = (
    ReliabilityPoint(0.31, Estimate(0.25, 0.11, 0.47), 30),
    ReliabilityPoint(0.9, Estimate(0.95, 0.79, 0.99), 30),
)
KNOWN = ScoreAgreement(
    *(36, 24, 60, 0, 0, Estimate(0.77, 0.62, 0.87), 0.27, 0.7, 0.09, CURVE, Estimate(0.91, 0.85, 0.97)),
    Guarantee(7.0, 0.8895, 55, 60),
    ((0.95, 8.5), (0.9, 7.5)),
)
BY_HAND = replace(KNOWN, mean=None, guarantee=None, not_random=True)
FEW = ScoreAgreement(3, 6, 0, missing_good=7, missing_bad=4)


def lines(known: ScoreAgreement, width: int) -> list[str]:
    return [line.plain for line in guarantee_lines(known, width)]


def test_the_guarantee_is_rounded_down_and_says_what_it_rests_on() -> None:
    assert lines(KNOWN, 76) == [
        "at 7.0, at least 88 % of accepted pairs are good (60 ratings, 95 %)",
        "91 % (85–97) of all accepted are good · for 90 %: 7.5",
    ]


@pytest.mark.parametrize("width", [46, 50, 76])
@pytest.mark.parametrize("known", [KNOWN, FEW, BY_HAND, ScoreAgreement()])
def test_every_line_fits_its_panel(known: ScoreAgreement, width: int) -> None:
    assert all(len(line) <= width for line in lines(known, width))


def test_pairs_changed_by_hand_that_were_drawn_to_be_rated_leave_no_guarantee() -> None:
    assert lines(BY_HAND, 46) == ["no guarantee: drawn pairs were changed by hand", "for 90 %: 7.5"]


def test_too_few_ratings_say_how_many_are_missing() -> None:
    assert lines(FEW, 76) == ["not enough ratings yet: 7 good, 4 bad are missing"]
    assert lines(FEW, 46) == ["ratings missing: 7 good, 4 bad"]


def test_ratings_that_were_not_asked_for_at_random_guarantee_nothing() -> None:
    chosen = ScoreAgreement(36, 24, 0, 0, 0, *(Estimate(0.77, 0.62, 0.87), 0.27), guarantee=Guarantee(7.0, 0.0, 0, 0))
    assert lines(chosen, 90) == ["no guarantee yet: no pair that the run accepted is rated at random"]


def test_the_reliability_curve_is_a_plot_and_a_table() -> None:
    table = reliability_lines(KNOWN).plain
    assert "AUROC     0.77 (0.62–0.87)" in table
    assert " 31 %  25 % (11–47)     30" in table
    assert max(map(len, table.splitlines())) <= 28
    ideal, _, _, measured = reliability_series(KNOWN)
    assert list(ideal.curve.xs) == list(ideal.curve.ys) == [0.0, 100.0]
    assert (list(measured.curve.xs), list(measured.curve.ys)) == ([31.0, 90.0], [25.0, 95.0])


@pytest.mark.parametrize("rated", [{"of": "audit", "as_hard": 40}, {"as_hard": 40}])
def test_figures_say_where_ratings_were_asked_for_at_random_or_because_they_are_hard(rated: dict[str, Any]) -> None:
    known = replace(KNOWN, **rated)
    table, beside = reliability_lines(known).plain, [line.plain for line in agreement_lines(known, 30)]
    assert ("60 at random" if "of" in rated else "40 as hard ones") in table
    assert ("at random" if "of" in rated else "40 asked because hard") in beside[-1]
    assert max(map(len, table.splitlines())) <= 28
    assert max(map(len, beside)) <= 30


def test_every_metric_of_a_score_has_a_name_in_plain_words_that_its_column_holds() -> None:
    names = {metric: metric_name(metric) for prior in PRIORS.values() for metric in prior.weights}
    assert not [name for name in names.values() if "_" in name]
    assert not [name for metric, name in names.items() if len(name) > 14 and metric in PRIORS["evaluation"].weights]


async def test_generate_shows_the_guarantee_and_learn_the_curve(harness: AppHarness) -> None:
    async def rated(store: Store) -> None:
        generated, trained = await create_generation_run(store, "finished"), await create_training_run(store)
        async with store.transaction() as t:
            for scope, run_id in (("generation", generated), ("evaluation", trained)):
                await feedback.add(t, scope, run_id, "pair", 1, {"coverage": 0.5}, 1.0, "person")

    await harness.populate(rated)
    harness.backend.agreement = KNOWN
    async with harness.app((80, 24)) as (app, pilot):
        await pilot.press("1")
        await wait_for_text(app, "at 7.0, at least 88 % of accepted pairs are good (60 ratings, 95 %)")
        await pilot.press("5")
        app.services.open_lesson("06-adaptive-scores")
        await wait_for_text(app, "as people say")
        await wait_for_text(app, "0.77 (0.62–0.87)")
