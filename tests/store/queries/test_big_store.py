"""The store that benchmarks look at is one that the program itself can open and read."""

from pathlib import Path

from lora_tui.store import schema
from lora_tui.store.connection import Store
from lora_tui.store.queries.generation import PairFilter, call_statistics, pair_ids, source_lines
from lora_tui.store.queries.runs import run_lines, step_columns
from tests.bench.big_store import GENERATING, TRAINING, Size, build, measure
from tests.store.store_fixtures import with_store
from tests.store.test_store_file import pragma

SMALL = Size(pairs=300, attempts=500, events=1500, runs=12, files=7, conversations=5)


def test_it_holds_as_much_as_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "big.db"
    build(path, SMALL)
    assert pragma(path, "user_version") == schema.VERSION
    assert pragma(path, "journal_mode") == "wal"
    assert pragma(path, "integrity_check") == "ok"

    async def look(store: Store) -> None:
        assert await store.tuples("PRAGMA foreign_key_check") == []
        assert await store.value("SELECT COUNT(*) FROM events") == 1500
        assert len(await run_lines(store)) == 12
        assert len(await pair_ids(store, GENERATING, PairFilter())) == 300
        assert len(await step_columns(store, TRAINING)) == 1200
        assert (await call_statistics(store, GENERATING, 0.0)).calls == 500
        sources = await source_lines(store, GENERATING)
        in_review = len(await pair_ids(store, GENERATING, PairFilter(state="review")))
        assert sum(line.accepted + line.rejected for line in sources) == 300 - in_review

    with_store(path, look)


def test_it_has_the_indexes_of_a_store_that_grew_by_itself(tmp_path: Path) -> None:
    build(tmp_path / "big.db", SMALL)

    async def indexes(store: Store) -> list[object]:
        return list(await store.tuples("SELECT name, sql FROM sqlite_master WHERE type='index' ORDER BY name"))

    assert with_store(tmp_path / "big.db", indexes) == with_store(tmp_path / "new.db", indexes)


def test_every_query_can_be_timed_on_it(tmp_path: Path) -> None:
    import asyncio

    build(tmp_path / "big.db", SMALL)
    times = asyncio.run(measure(tmp_path / "big.db"))
    assert len(times) > 20
    assert all(milliseconds > 0 for milliseconds in times.values())
