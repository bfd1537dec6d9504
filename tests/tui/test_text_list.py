"""Documents, dialogues and wordings of a run: counted beside the pairs, listed and read on a sheet of their own."""

import pytest

from lora_tui.store import tasks, texts
from lora_tui.store.connection import Store
from lora_tui.store.rows import NewTask
from tests.tui.app_harness import AppHarness, screen_text, wait_for_text, wait_until
from tests.tui.test_generate_screen import create_generation_run

pytestmark = pytest.mark.anyio

TALK = [
    {"role": "system", "content": "You answer questions about bees."},
    {"role": "user", "content": "Why do they dance?"},
    {"role": "assistant", "content": "To show [b]the way[/b]."},
]
BODY = "A dance on the comb shows the way to flowers. " * 30


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def run_with_texts(store: Store) -> int:
    run_id = await create_generation_run(store, "finished")
    written: list[tuple[texts.NewText, texts.TextVerdict | None]] = [
        (texts.NewText(0, "rewrite", "How bees tell the way", BODY), verdict("accepted", 9.1, "5 5 4")),
        (texts.NewText(0, "summary", "Bees in short", "Bees dance."), verdict("rejected", 4.0, "too little of it")),
        (texts.NewText(0, "dialogue", "Talk of bees", "User: Why do they dance?", TALK), verdict("accepted", 8.0)),
        (texts.NewText(0, "phrasing", "For what reason does a bee dance?", "To show the way."), None),
    ]
    async with store.transaction() as t:
        await tasks.add_tasks(t, run_id, [NewTask("text", str(n), source="bees.md") for n in range(len(written))])
    for task, (text, decided) in zip(await tasks.pending_tasks(store, run_id, "text", 9), written, strict=True):
        async with store.transaction() as t:
            text_id = await texts.add(t, run_id, task, text)
            if decided is not None:
                await texts.decide(t, text_id, decided)
    return run_id


def verdict(state: str, score: float, note: str = "") -> texts.TextVerdict:
    return texts.TextVerdict(state, score, state, f"scores {score:g} of 10", {}, note)


@pytest.mark.parametrize("size", [(80, 24), (140, 42)])
async def test_texts_are_counted_listed_and_read(harness: AppHarness, size: tuple[int, int]) -> None:
    await harness.populate(run_with_texts)
    async with harness.app(size) as (app, pilot):
        await wait_for_text(app, "1 document · 1 dialogue")
        await wait_for_text(app, "ratings yet: 10 good, 10 bad are missing")
        await pilot.press("d")
        await wait_for_text(app, "Texts of run 1 (4)")
        await wait_for_text(app, "A dance on the comb shows the way")
        text = screen_text(app)
        assert "✓   9.1 document How bees tell the way" in text
        assert "✗   4.0 summary  Bees in short" in text
        assert "bees.md" in text
        await pilot.press("down", "down")
        await wait_for_text(app, "assistant To show [b]the way[/b].")
        await pilot.press("f", "f")
        await wait_for_text(app, "Texts of run 1 (1, rejected)")
        await wait_for_text(app, "Bees dance.")
        await pilot.press("escape")
        await wait_until(lambda: "Texts of run" not in screen_text(app))


async def test_a_text_is_rejected_by_a_key_and_a_long_list_has_its_end(harness: AppHarness) -> None:
    async def many(store: Store) -> int:
        run_id = await run_with_texts(store)
        async with store.transaction() as t:
            await t.execute(
                "INSERT INTO texts(run_id, task_id, ordinal, form, source, title, body, messages, state, created_at)"
                " WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < 6009)"
                " SELECT run_id, task_id, i, form, source, 'Text number ' || i, body, messages, 'accepted', 0"
                " FROM n, (SELECT * FROM texts ORDER BY id LIMIT 1)"
            )
        return run_id

    await harness.populate(many)
    async with harness.app((140, 42)) as (app, pilot):
        await wait_for_text(app, "dialogue")
        await pilot.press("d")
        await wait_for_text(app, "Texts of run 1 (6,004)")
        await pilot.press("end")
        await wait_for_text(app, "Text number 6009")
        await pilot.press("r")
        await wait_until(lambda: any(call[0] == "override text" for call in harness.backend.calls))


async def test_a_run_of_pairs_alone_offers_no_texts(harness: AppHarness) -> None:
    await harness.populate(lambda store: create_generation_run(store, "finished"))
    async with harness.app((140, 42)) as (app, pilot):
        await wait_for_text(app, "rejected")
        await pilot.press("d")
        await pilot.pause()
        assert "Texts of run" not in screen_text(app)
        assert "d shows them" not in screen_text(app)
