"""What jobs write: never over the store, and never over what somebody else has written without a copy."""

import json
import os
import stat

import pytest

from tests.engine.conftest import EngineHarness
from tests.store.store_fixtures import list_runs


@pytest.mark.parametrize("name", ["store.db", "store.db-wal", "store.db-shm", "store.db-journal"])
def test_format_and_export_refuse_the_store(engine_harness: EngineHarness, name: str) -> None:
    raw, out = engine_harness.folder / "raw.txt", engine_harness.folder / name
    raw.write_text("x?\ty\n")
    formatted = engine_harness.run("format", {"raw": str(raw), "out": str(out)})
    exported = engine_harness.run("export", {"format": "messages", "train_data_file": str(raw), "output": str(out)})
    assert [one.exit_status for one in (formatted, exported)] == [2, 2]
    assert len(engine_harness.ask(list_runs)) == 2


def test_files_of_the_user_are_kept_and_results_of_ours_are_not(engine_harness: EngineHarness) -> None:
    folder = engine_harness.folder
    raw, out, rejected = folder / "raw.txt", folder / "out.txt", folder / "out.txt.rejected"
    raw.write_text("Who?\tme\nneither\n")
    out.write_text("mine")
    rejected.write_text("mine too")
    options = {"raw": str(raw), "out": str(out)}
    first = engine_harness.run("format", options)
    assert (folder / "out.1.txt").read_text() == "mine"
    assert (folder / "out.txt.1.rejected").read_text() == "mine too"
    warnings = [event.payload["message"] for event in engine_harness.events(first.run_id, "warning")]
    assert warnings == [
        f"{out} is there already: its lines stay in {folder / 'out.1.txt'}.",
        f"{rejected} is there already: its lines stay in {folder / 'out.txt.1.rejected'}.",
    ]
    before = sorted(folder.iterdir())
    again = engine_harness.run("format", options)
    assert sorted(folder.iterdir()) == before, "what it had written itself is written again"
    assert not engine_harness.events(again.run_id, "warning")
    out.write_text("changed by hand")
    engine_harness.run("format", options)
    assert (folder / "out.2.txt").read_text() == "changed by hand"

    dataset = folder / "data.jsonl"
    dataset.write_text("mine")
    export = {"format": "messages", "train_data_file": str(out), "output": str(dataset)}
    for _ in range(2):
        assert engine_harness.run("export", export).exit_status == 0
    assert json.loads(dataset.read_text())["messages"][0]["content"] == "Who?"
    assert (folder / "data.1.jsonl").read_text() == "mine"
    assert not (folder / "data.2.jsonl").exists()


def test_results_are_private_whatever_the_umask_is(engine_harness: EngineHarness) -> None:
    raw, out = engine_harness.folder / "raw.txt", engine_harness.folder / "new" / "out.txt"
    raw.write_text("Who?\tme\nneither\n")
    before = os.umask(0)
    try:
        engine_harness.run("format", {"raw": str(raw), "out": str(out)})
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.parent.iterdir()} == {0o600}
