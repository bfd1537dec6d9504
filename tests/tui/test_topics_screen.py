"""The topics of a run: what each has of its share, and keys that ask more or less about one."""

import sqlite3

import pytest

from lora_tui.store import topics as store_topics
from lora_tui.store.connection import Store
from lora_tui.store.rows import TopicRow
from lora_tui.tui.screens.topics import topic_cells, topic_lines, topics_title
from tests.tui.app_harness import AppHarness, screen_text, wait_for_text
from tests.tui.test_generate_screen import create_generation_run

pytestmark = pytest.mark.anyio

TOPICS = [
    TopicRow(1, "bees.md", None, "bees", "file", 0, 1.0),
    TopicRow(2, "bees.md#Dance", 1, "Dance", "heading", 3, 1.0),
    TopicRow(3, "bees.md#Winter", 1, "Winter", "heading", 1, 2.0),
    TopicRow(4, "ants.md", None, "ants\x1b[31m", "file", 4, 0.0),
]
PAIRS = {2: (5, 6), 4: (1, 1)}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def test_a_topic_has_what_is_beneath_it_and_its_share_follows_the_weights() -> None:
    lines = topic_lines(TOPICS, PAIRS)
    cells = [[text for text, _ in topic_cells(line)] for line in lines]
    assert cells == [
        ["bees", "4", "100 %", "5", "6", ""],
        ["  Dance", "3", "60 %", "5", "6", ""],
        ["  Winter", "1", "40 %", "0", "0", "twice"],
        ["ants␛[31m", "4", "–", "1", "1", "nothing"],
    ]
    assert topics_title(lines, 7) == "Topics of run 7: 1 of 2 topics have a pair"


async def create(store: Store) -> None:
    run_id = await create_generation_run(store)
    async with store.transaction() as t:
        await store_topics.put_topics(t, run_id, TOPICS)
        await t.execute("UPDATE pairs SET slot = json_set(slot, '$.area', '2') WHERE id <= 8")


@pytest.mark.parametrize("size", [(80, 24), (140, 42)])
async def test_keys_ask_more_or_less_about_the_topic_under_the_cursor(
    harness: AppHarness, size: tuple[int, int]
) -> None:
    await harness.populate(create)
    async with harness.app(size) as (app, pilot):
        await wait_for_text(app, "Pairs (12)")
        await pilot.press("c")
        await wait_for_text(app, "1 of 2 topics have a pair")
        text = screen_text(app)
        assert "Winter" in text
        assert "twice" in text
        assert "\x1b" not in text
        assert "+ More" in text
        await pilot.press("down", "plus", "minus", "x", "down", "plus")
        await pilot.press("escape")
        await wait_for_text(app, "Pairs (12)")
    calls = [call for call in harness.backend.calls if call[0] == "weigh_topic"]
    assert calls == [
        ("weigh_topic", 1, 2, 2.0),
        ("weigh_topic", 1, 2, 0.5),
        ("weigh_topic", 1, 2, 0.0),
        ("weigh_topic", 1, 3, 4.0),
    ]


async def test_a_run_without_topics_says_why(harness: AppHarness) -> None:
    await harness.populate(create_generation_run)
    async with harness.app((100, 30)) as (app, pilot):
        await wait_for_text(app, "Pairs (12)")
        await pilot.press("c")
        await wait_for_text(app, "This run has no topics")


async def test_a_sheet_outlives_a_store_that_cannot_be_read(
    harness: AppHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def locked(*_: object) -> list[TopicRow]:
        raise sqlite3.OperationalError("database is locked")

    await harness.populate(create)
    monkeypatch.setattr(store_topics, "topics_of", locked)
    async with harness.app((80, 24)) as (app, pilot):
        await wait_for_text(app, "Pairs (12)")
        await pilot.press("c")
        await wait_for_text(app, "+ More")
        await pilot.press("escape")
        await wait_for_text(app, "Pairs (12)")
