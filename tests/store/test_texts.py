"""What is stored of texts that are no pairs: documents, conversations, further wordings."""

from pathlib import Path

from lora_tui.store import runs, tasks, texts
from lora_tui.store.connection import Store
from lora_tui.store.rows import NewTask
from tests.store.store_fixtures import with_store

MESSAGES = [{"role": "user", "content": "How long?"}, {"role": "assistant", "content": "Twelve."}]


async def _with_texts(store: Store) -> int:
    run_id = await runs.create(store, "generate", {}, {})
    async with store.transaction() as t:
        await tasks.add_tasks(t, run_id, [NewTask("text", "rewrite/1", source="a.md")])
    (task,) = await tasks.pending_tasks(store, run_id, "text", 1)
    async with store.transaction() as t:
        document = await texts.add(t, run_id, task, texts.NewText(0, "rewrite", "A title", "Three words here"))
        await texts.add(t, run_id, task, texts.NewText(1, "dialogue", "Talk", "User: How long?", MESSAGES))
        verdict = texts.TextVerdict("accepted", 8.5, "accepted", "good", {"judge_groundedness": 1.0}, "5 4 4")
        await texts.decide(t, document, verdict)
    return run_id


def test_a_text_comes_back_as_it_was_written_with_its_verdict(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        run_id = await _with_texts(store)
        (row,) = await texts.accepted(store, run_id, 0, 10)
        assert (row.form, row.title, row.score, row.metrics) == ("rewrite", "A title", 8.5, {"judge_groundedness": 1.0})
        assert (await texts.of_task(store, row.task_id))[1].messages == MESSAGES

    with_store(tmp_path / "store.db", work)


def test_texts_are_counted_by_form_and_state_and_listed_with_their_words(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        run_id = await _with_texts(store)
        counts = await texts.counts(store, run_id)
        assert counts["rewrite"] == {"accepted": 1, "rejected": 0, "review": 0, "waiting": 0}
        assert counts["dialogue"]["waiting"] == 1
        assert [(line.form, line.words) for line in await texts.lines(store, await texts.ids(store, run_id))] == [
            ("rewrite", 3),
            ("dialogue", 3),
        ]

    with_store(tmp_path / "store.db", work)
