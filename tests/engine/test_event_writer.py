"""The writer of events while another program keeps the store locked."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from lora_tui.engine.runtime.context import EventWriter
from lora_tui.store import opening, runs
from lora_tui.store.connection import Store
from lora_tui.store.damage import LockedStoreError


@pytest.mark.parametrize("patience", [0.0, 30.0])
def test_a_locked_store_is_waited_for_as_long_as_the_writer_has_patience(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    monkeypatch.setattr(opening, "BUSY_TIMEOUT_MS", 50)
    failures: list[Exception] = []

    async def locked_for_a_while() -> None:
        async with await Store.open(tmp_path / "store.db") as store:
            run_id = await runs.create(store, "serve", {}, {})
            writer = EventWriter(store, run_id, failures.append)
            writer.patience = patience
            other = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            writer.put("note", {"message": "x"})
            await asyncio.sleep(0.6)
            other.close()
            await writer.close()

    if not patience:
        with pytest.raises(LockedStoreError):
            asyncio.run(locked_for_a_while())
    else:
        asyncio.run(locked_for_a_while())
    assert len(failures) == (not patience)
