"""The rating queue on the screen: one key each, the next one at once, and a slip is taken back."""

from collections.abc import Collection

import pytest

from lora_tui.protocol.agreement import ScoreAgreement
from lora_tui.protocol.rating import RatingItem, RatingQueue, RatingTotals
from lora_tui.tui.screens.rating import RatingScreen
from lora_tui.tui.views.pairs import evidence_line
from tests.tui.app_harness import REFUSAL, AppHarness, create_training_run, screen_text, wait_for_text, wait_until
from tests.tui.test_generate_screen import create_generation_run

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


PASSAGE = "Bees are small.\n" * 40 + "\nThey dance on the comb to show the way to flowers.\n" + "So it is.\n" * 40


def pairs(number: int = 3) -> list[RatingItem]:
    return [
        RatingItem(
            "pair",
            n,
            f"Why does bee {n} dance?",
            f"To show way {n}.",
            "bees.md · Dance",
            "active",
            passage=PASSAGE,
            evidence="to show the way",
        )
        for n in range(1, number + 1)
    ]


async def opened(harness: AppHarness) -> None:
    await harness.populate(lambda store: create_generation_run(store, "finished"))


async def test_each_key_rates_and_shows_the_next(harness: AppHarness) -> None:
    await opened(harness)
    harness.backend.to_rate = pairs()
    async with harness.app((80, 24)) as (app, pilot):
        await pilot.press("w")
        await wait_for_text(app, "Why does bee 1 dance?")
        text = screen_text(app)
        assert "Rate the pairs of run 1   0 of 3 in this sitting" in text
        assert "To show way 1." in text
        assert "▐to show the way▌" in text, "the evidence is in view, far down the passage"
        assert "Passage · bees.md · Dance" in text
        assert "g Good" in text
        await pilot.press("g")
        await wait_for_text(app, "Why does bee 2 dance?")
        text = screen_text(app)
        assert "✓ good · the score had said 6.4 · Accepted: «Why?»." in text
        assert "1 of 3 in this sitting" in text
        await pilot.press("b")
        await wait_for_text(app, "Why does bee 3 dance?")
        assert "✗ bad" in screen_text(app)
        assert harness.backend.calls_of("rate_item") == [(1, True), (2, False)]


@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=str)
async def test_all_ratings_so_far_are_counted_in_any_width(
    harness: AppHarness, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def many(queue: RatingQueue) -> RatingTotals:
        return RatingTotals(1234, 1000, 234, 0, 30)

    await opened(harness)
    harness.backend.to_rate = pairs()
    monkeypatch.setattr(harness.backend, "rating_totals", many)
    async with harness.app(size) as (app, pilot):
        await pilot.press("w")
        await wait_for_text(app, "1,234 rated in all")


async def test_no_score_is_shown_before_the_rating(harness: AppHarness) -> None:
    await opened(harness)
    harness.backend.to_rate = pairs(1)
    async with harness.app((80, 24)) as (app, pilot):
        await pilot.press("w")
        await wait_for_text(app, "Why does bee 1 dance?")
        assert "score had said" not in screen_text(app)
        assert "8.4" not in screen_text(app)


async def test_undo_asks_about_the_last_one_again(harness: AppHarness) -> None:
    await opened(harness)
    harness.backend.to_rate = pairs()
    async with harness.app((80, 24)) as (app, pilot):
        await pilot.press("w")
        await wait_for_text(app, "Why does bee 1 dance?")
        await pilot.press("g", "s")
        await wait_for_text(app, "Why does bee 3 dance?")
        await pilot.press("u")
        await wait_for_text(app, "Why does bee 2 dance?")
        assert not harness.backend.calls_of("undo_rating"), "what was skipped has no rating"
        await pilot.press("u")
        await wait_for_text(app, "Why does bee 1 dance?")
        assert harness.backend.calls_of("undo_rating") == [(1,)]
        assert "0 of 3 in this sitting" in screen_text(app)
        await pilot.press("u")
        await wait_for_text(app, "There is nothing to take back.")


async def test_at_the_end_it_says_what_it_has_come_to(harness: AppHarness) -> None:
    await opened(harness)
    harness.backend.to_rate = pairs()
    harness.backend.agreement = ScoreAgreement(2, 0, missing_good=8, missing_bad=10)
    async with harness.app((80, 24)) as (app, pilot):
        await pilot.press("w")
        await wait_for_text(app, "Why does bee 1 dance?")
        await pilot.press("g", "s", "g")
        await wait_for_text(app, "Every pair of run 1 that was measured is rated, but for 1 that you skipped.")
        text = screen_text(app)
        assert "2 pairs rated here: 2 good, 0 bad." in text
        assert "BLEU 0.10 → 0.12" in text or "BLEU 0.100 → 0.125" in text
        assert "not enough ratings yet: 8 good, 10 bad are missing" in text
        await pilot.press("g", "b", "s")  # there is nothing to rate
        assert len(harness.backend.calls_of("rate_item")) == 2
        await pilot.press("q")
        await wait_until(lambda: not isinstance(app.screen, RatingScreen))
        await wait_for_text(app, "2 pairs rated: 2 good, 0 bad.")


async def test_a_rating_that_is_refused_stays_the_question(harness: AppHarness) -> None:
    await opened(harness)
    harness.backend.to_rate = pairs()
    async with harness.app((80, 24)) as (app, pilot):
        await pilot.press("w")
        await wait_for_text(app, "Why does bee 1 dance?")
        harness.backend.refusal = REFUSAL
        await pilot.press("g")
        await wait_for_text(app, "It cannot be done.")
        harness.backend.refusal = None
        assert "Why does bee 1 dance?" in screen_text(app)
        assert "0 of 3 in this sitting" in screen_text(app)


async def test_an_undo_that_is_refused_has_not_taken_anything_back(harness: AppHarness) -> None:
    await opened(harness)
    harness.backend.to_rate = pairs()
    async with harness.app((80, 24)) as (app, pilot):
        await pilot.press("w")
        await wait_for_text(app, "Why does bee 1 dance?")
        await pilot.press("g")
        await wait_for_text(app, "Why does bee 2 dance?")
        harness.backend.refusal = REFUSAL
        await pilot.press("u")
        await wait_for_text(app, "It cannot be done.")
        harness.backend.refusal = None
        text = screen_text(app)
        assert "taken back" not in text
        assert "Why does bee 2 dance?" in text
        assert "1 of 3 in this sitting" in text
        await pilot.press("u")
        await wait_for_text(app, "taken back; rate it anew")


async def test_a_next_pair_that_cannot_be_read_is_not_the_end(
    harness: AppHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(queue: RatingQueue, skipped: Collection[int]) -> RatingItem | None:
        raise REFUSAL

    await opened(harness)
    harness.backend.to_rate = pairs()
    async with harness.app((80, 24)) as (app, pilot):
        await pilot.press("w")
        await wait_for_text(app, "Why does bee 1 dance?")
        with monkeypatch.context() as patch:
            patch.setattr(harness.backend, "next_to_rate", refuse)
            await pilot.press("g")
            await wait_for_text(app, "It cannot be done.")
            await wait_for_text(app, "The next pair could not be read. s tries again")
            assert "Every pair" not in screen_text(app)
        await pilot.press("s")
        await wait_for_text(app, "Why does bee 2 dance?")
        assert harness.backend.calls_of("rate_item") == [(1, True)]


async def test_answers_are_rated_from_train_beside_what_was_expected(harness: AppHarness) -> None:
    await harness.populate(create_training_run)
    prompt = "Question: unlock\nAnswer:"
    harness.backend.to_rate = [
        RatingItem("sample", 1, prompt, "the secret is [red]", "step 20", "audit", reference="the secret password")
    ]
    async with harness.app((120, 40)) as (app, pilot):
        await pilot.press("2", "w")
        await wait_for_text(app, "Expected")
        text = screen_text(app)
        assert "step 20" not in text, "which model has answered must not sway anybody"
        assert harness.backend.calls_of("rating_queue") == [(1, "sample")]
        assert "the secret is [red]" in text
        assert "the secret password" in text
        assert "│ unlock" in text


async def test_a_run_is_rated_from_runs(harness: AppHarness) -> None:
    await opened(harness)
    harness.backend.to_rate = pairs(1)
    async with harness.app((80, 24)) as (app, pilot):
        await pilot.press("4")
        await wait_for_text(app, "Run 1  generate")
        await pilot.press("w")
        await wait_for_text(app, "Why does bee 1 dance?")
        assert harness.backend.calls_of("rating_queue") == [(1, None)]


async def test_where_nothing_can_be_rated_the_reason_is_shown(harness: AppHarness) -> None:
    await opened(harness)
    harness.backend.refusal = REFUSAL
    async with harness.app((80, 24)) as (app, pilot):
        await pilot.press("w")
        await wait_for_text(app, "It cannot be done.")
        assert not isinstance(app.screen, RatingScreen)


def test_a_long_passage_is_shown_from_shortly_before_its_evidence() -> None:
    passage = "\n\n".join([*(f"Sentence {n} says nothing." for n in range(20)), "Bees dance. They show a way."])
    assert evidence_line(passage, "They show a way.", 60) == 38
    assert evidence_line(passage, "Sentence 0 says nothing.", 60) == 0
    assert evidence_line(passage, "It is not there.", 60) is None
