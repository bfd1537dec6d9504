"""A store of each earlier version, as the program of its time wrote it, opened by this one.

`samples/version-N.db.xz` were written by the last commit before version N + 1: a generation against a local endpoint,
trainings with evaluations and checkpoints of a tiny model (in versions 1 to 3 one of them killed), and a conversation.
Versions 9 to 15 are the one before, opened by the program of that version.
"""

import lzma
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from lora_tui.store import events, generation, runs, schema
from lora_tui.store.chat_log import turns
from lora_tui.store.connection import Store
from lora_tui.store.queries.generation import (
    PairFilter,
    call_statistics,
    pair_detail,
    pair_ids,
    pair_lines,
    source_lines,
)
from lora_tui.store.queries.run_figures import run_figures
from lora_tui.store.queries.runs import checkpoints, newest_conversation, run_lines, step_columns
from tests.store.store_fixtures import with_store
from tests.tui.app_harness import AppHarness, wait_for_text

SAMPLES = sorted(Path(__file__).with_name("samples").glob("*.xz"), key=lambda path: (len(path.name), path.name))

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=SAMPLES, ids=lambda path: path.name.partition(".")[0])
def sample(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of the sample."""
    path = tmp_path / "training_data.db"
    path.write_bytes(lzma.decompress(request.param.read_bytes()))
    return path


def counted(path: Path) -> dict[str, int]:
    """How many rows each table has."""
    with sqlite3.connect(path) as file:
        names = [name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type='table'")]
        rows = {name: file.execute(f"SELECT COUNT(*) FROM {name}").fetchone()[0] for name in names}
        assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert not file.execute("PRAGMA foreign_key_check").fetchall()
    return rows


def test_there_is_one_of_each_earlier_version() -> None:
    assert [path.name for path in SAMPLES] == [f"version-{number}.db.xz" for number in range(1, schema.VERSION)]


def test_every_row_is_kept_and_read(sample: Path) -> None:
    before = counted(sample)
    assert before["runs"] > 1

    async def look(store: Store) -> dict[str, Any]:
        lines = await run_lines(store)
        found: dict[str, Any] = dict.fromkeys(("events", "steps", "checkpoints"), 0)
        found |= {"runs": len(lines), "figures": len(await run_figures(store, [line.id for line in lines]))}
        for line in lines:
            run = await runs.get(store, line.id)
            assert run is not None
            assert run.settings
            found["events"] += len(await events.since(store, line.id, 0, 10_000))
            found["steps"] += len((await step_columns(store, line.id)).step)
            found["checkpoints"] += len(await checkpoints(store, line.id))
        ids = await pair_ids(store, 1, PairFilter())
        found["pairs"] = len(await pair_lines(store, ids))
        detail = await pair_detail(store, ids[0])
        assert detail is not None
        assert len(detail.metrics) > 3
        assert await generation.pair_counts(store, 1) == {"accepted": before["pairs"]}
        assert len(await source_lines(store, 1)) == before["run_documents"]
        assert (await call_statistics(store, 1, 0.0)).calls == before["attempts"]
        conversation = await newest_conversation(store)
        assert conversation is not None
        found["turns"] = len(await turns(store, conversation))
        return found

    found = with_store(sample, look)
    after = counted(sample)
    assert {name: after[name] for name in before} == before
    for name in ("events", "steps", "checkpoints", "pairs", "turns", "runs"):
        assert found[name] == before[name], name
    assert found["figures"] == before["runs"]


async def test_the_app_shows_it(sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sample.parent)
    monkeypatch.setenv("LORA_TUI_CONFIG", str(sample.parent / "config"))
    async with AppHarness(sample).app((140, 42)) as (app, pilot):
        await wait_for_text(app, "accepted")
        await pilot.press("4")
        await wait_for_text(app, "✓ train")
        await pilot.press("2")
        await wait_for_text(app, "2 TRAIN")
