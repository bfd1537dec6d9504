"""Queries on conversations: which model was talked to, and each message as it ends. `queries.runs` lists them.

A turn's statistics hold what its columns do not: for a question the `sides` it was put to,
and whether it went `by_template` of the model's, for a reply its `side`
(``tuned`` or ``base``), speed and agreement, whether it was `stopped`, and whether it was `replaced` by another.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_tui.store.connection import Store
from lora_tui.store.rows import Turn


@dataclass(frozen=True, slots=True)
class RatedTurn:
    """A message as it can be rated: who wrote it, what the user wrote before it, and the run that was talked to."""

    role: str
    text: str
    question: str
    run_id: int | None


async def begin(store: Store, run_id: int | None, model: str, adapter: str | None) -> int:
    """Open a conversation with a model and, where there is one, an adapter folder; returns its id."""
    async with store.transaction() as t:
        return await t.insert("conversations", run_id=run_id, model=model, adapter=adapter, created_at=time.time())


async def add_turn(
    store: Store, conversation_id: int, role: str, text: str, statistics: Mapping[str, Any] | None = None
) -> int:
    """Store one message as it ends; returns its id."""
    async with store.transaction() as t:
        turn: dict[str, Any] = {"role": role, "text": text, "statistics": dict(statistics or {}), "at": time.time()}
        return await t.insert("turns", conversation_id=conversation_id, **turn)


async def extend_turn(store: Store, turn_id: int, text: str, statistics: Mapping[str, Any]) -> None:
    """Store the longer text of a reply that went on, with statistics of the whole."""
    async with store.transaction() as t:
        await t.execute(
            "UPDATE turns SET text=?, statistics=json_patch(statistics, ?) WHERE id=?",
            (text, json.dumps(dict(statistics)), turn_id),
        )


async def recent_questions(store: Store, limit: int = 200) -> list[str]:
    """Return the newest questions of all conversations, oldest first, each once."""
    rows = await store.tuples(
        "SELECT text FROM turns WHERE role='user' AND length(text) <= 10000"
        " GROUP BY text ORDER BY max(id) DESC LIMIT ?",
        (limit,),
    )
    return [str(text) for (text,) in reversed(rows)]


async def mark_replaced(store: Store, turn_ids: Sequence[int]) -> None:
    """Note in the statistics of these turns that others have taken their place; they stay in the file."""
    async with store.transaction() as t:
        for turn_id in turn_ids:
            await t.execute(
                "UPDATE turns SET statistics=json_set(statistics, '$.replaced', json('true')) WHERE id=?", (turn_id,)
            )


async def turns(store: Store, conversation_id: int) -> list[Turn]:
    """Return the messages of a conversation in order."""
    return await store.all(Turn, "SELECT * FROM turns WHERE conversation_id=? ORDER BY id", (conversation_id,))


async def rated_turn(t: Store, turn_id: int) -> RatedTurn | None:
    """Return a message with what a rating of it needs, or None."""
    return await t.one(
        RatedTurn,
        "SELECT role, text, run_id, COALESCE((SELECT text FROM turns AS asked WHERE role='user'"
        " AND asked.conversation_id = turns.conversation_id AND asked.id < turns.id ORDER BY id DESC LIMIT 1), '')"
        " AS question FROM turns JOIN conversations ON conversations.id = conversation_id WHERE turns.id=?",
        (turn_id,),
    )
