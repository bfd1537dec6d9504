"""Queries on the topic tree of a generation run: its topics, their weights, and the pairs that each has.

Small and apart from `generation`, because the app edits topics and reads nothing else with them.
"""

from collections.abc import Iterable
from dataclasses import astuple

from lora_tui.store.connection import Store
from lora_tui.store.rows import TopicRow


async def put_topics(t: Store, run_id: int, topics: Iterable[TopicRow]) -> None:
    """Store a run's topics in place of what was stored under their numbers."""
    await t.execute_many(
        "INSERT OR REPLACE INTO topics(run_id, number, key, parent, name, origin, passages, weight)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [(run_id, *astuple(topic)) for topic in topics],
    )


async def topics_of(store: Store, run_id: int) -> list[TopicRow]:
    """Return the topics of a run by their numbers."""
    sql = "SELECT number, key, parent, name, origin, passages, weight FROM topics WHERE run_id=? ORDER BY number"
    return await store.all(TopicRow, sql, (run_id,))


async def forget_topics(t: Store, run_id: int, numbers: Iterable[int]) -> None:
    """Take topics out of a run."""
    await t.execute_many("DELETE FROM topics WHERE run_id=? AND number=?", [(run_id, number) for number in numbers])


async def set_weight(t: Store, run_id: int, number: int, weight: float) -> None:
    """Change the weight of a topic's quota: 0 leaves it out."""
    await t.execute("UPDATE topics SET weight=? WHERE run_id=? AND number=?", (weight, run_id, number))


async def headings(store: Store, document_id: str, chunking: str) -> list[tuple[int, str]]:
    """Return position and heading of every passage of a document that was cut in one way, in order."""
    sql = "SELECT position, heading FROM chunks WHERE document_id=? AND chunking=? ORDER BY position"
    return [(position, heading) for position, heading in await store.tuples(sql, (document_id, chunking))]


async def pairs_by_topic(store: Store, run_id: int) -> dict[int, tuple[int, int]]:
    """Return how many pairs were accepted and how many proposed, by the number of the topic that they were asked of."""
    rows = await store.tuples(
        "SELECT json_extract(slot, '$.area'), SUM(state = 'accepted'), COUNT(*) FROM pairs WHERE run_id=?"
        " AND json_extract(slot, '$.area') > 0 GROUP BY 1",
        (run_id,),
    )
    return {int(number): (accepted, proposed) for number, accepted, proposed in rows}


async def asked_by_source(store: Store, run_id: int) -> dict[str, int]:
    """Return how many calls for pairs were planned about each file."""
    return await store.mapping(
        "SELECT source, COUNT(*) FROM tasks WHERE run_id=? AND kind='generate' GROUP BY source", (run_id,)
    )
