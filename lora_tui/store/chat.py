"""Conversations: who was talked to, and each turn as it ends."""

import time
from collections.abc import Mapping
from typing import Any

from lora_tui.store.connection import Store, to_json
from lora_tui.store.rows import Turn


async def begin(store: Store, run_id: int | None, model: str, adapter: str | None) -> int:
    """Open a conversation with a model and, where there is one, an adapter folder; returns its id."""
    async with store.transaction() as t:
        return await t.execute(
            "INSERT INTO conversations(run_id, model, adapter, created_at) VALUES (?, ?, ?, ?)",
            (run_id, model, adapter, time.time()),
        )


async def add_turn(
    store: Store, conversation_id: int, role: str, text: str, statistics: Mapping[str, Any] | None = None
) -> int:
    """Store one message as it ends; returns its id."""
    async with store.transaction() as t:
        return await t.execute(
            "INSERT INTO turns(conversation_id, role, text, statistics, at) VALUES (?, ?, ?, ?, ?)",
            (conversation_id, role, text, to_json(dict(statistics or {})), time.time()),
        )


async def turns(store: Store, conversation_id: int) -> list[Turn]:
    """Return the messages of a conversation in order."""
    return await store.all(Turn, "SELECT * FROM turns WHERE conversation_id=? ORDER BY id", (conversation_id,))
