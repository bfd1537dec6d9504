"""A large folder is read beside the calls: they begin before it is read, and the run is right whenever it ends."""

import json
import shutil
import threading
import time
from typing import Any

import pytest

from lora_tui.engine.generation import documents, folder_reader
from lora_tui.engine.generation.documents import OpenFile
from lora_tui.engine.generation.topic_tree import TopicTree
from lora_tui.engine.jobs import generate
from tests.engine.generation.generation_harness import GenerationHarness
from tests.engine.generation.live_run import live_run, wait_for
from tests.openai_server import made_up_text

FILES = 24


@pytest.fixture
def gate(harness: GenerationHarness, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """A folder that counts as large from three passages on; further files are read when the event is set."""
    shutil.rmtree(harness.input)
    for number in range(FILES):
        harness.write(f"{'abc'[number % 3]}/text {number:02}.txt", made_up_text(300 + number, 4))
    monkeypatch.setattr(folder_reader, "WHOLE_BYTES", 1_000)
    monkeypatch.setattr(folder_reader, "FIRST_PASSAGES", 3)
    monkeypatch.setattr(folder_reader, "_BATCH_FILES", 1)
    gate, read, lock = threading.Event(), [0], threading.Lock()
    real = documents.open_file

    def slowly(*arguments: object) -> OpenFile:
        with lock:
            read[0] += 1
            wait = read[0] > 3
        if wait:
            assert gate.wait(60)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(documents, "open_file", slowly)
    return gate


def folder_events(harness: GenerationHarness) -> list[tuple[int, int]]:
    return [(event["files"], event["unread"]) for event in harness.events("folder")]


def asked(harness: GenerationHarness, run: int = 1) -> list[str]:
    rows = harness.rows("SELECT source FROM tasks WHERE run_id=? AND kind='generate' ORDER BY id", run)
    return [source for (source,) in rows]


def test_calls_begin_while_the_folder_is_read_and_every_file_has_its_turn(
    harness: GenerationHarness, gate: threading.Event
) -> None:
    with live_run(harness, total_examples=FILES, num_examples_per_file=1, max_concurrency=4) as run:
        wait_for(lambda: run.sent() >= 3 and len(set(asked(harness))) >= 3)
        assert folder_events(harness) == [(3, FILES - 3)]
        assert len(set(asked(harness))) == 3
        assert {source[0] for source in asked(harness)} == set("abc"), "the first files stand for the folder"
        gate.set()
        end = run.end()
    assert end.state == "finished", end.error
    assert end.result["accepted"] == FILES
    assert (end.result["files"], end.result["unread"]) == (FILES, 0)
    assert set(asked(harness)) == {f"{'abc'[n % 3]}/text {n:02}.txt" for n in range(FILES)}
    assert folder_events(harness)[-1] == (FILES, 0)
    passages = harness.value("SELECT SUM(passages) FROM topics")
    assert passages == end.result["passages"] == harness.value("SELECT SUM(chunks) FROM run_documents")
    areas = [json.loads(slot)["area"] for (slot,) in harness.rows("SELECT slot FROM tasks WHERE kind='generate'")]
    assert all(areas), "each passage has its topic"


def test_a_run_that_has_its_pairs_stops_reading(harness: GenerationHarness, gate: threading.Event) -> None:
    with live_run(harness, total_examples=2, num_examples_per_file=1, max_concurrency=2) as run:
        wait_for(lambda: harness.value("SELECT COUNT(*) FROM pairs WHERE state='accepted'") == 2)
        time.sleep(0.5)
        gate.set()
        end = run.end()
    assert end.state == "finished", end.error
    assert end.result["accepted"] == 2
    assert end.result["unread"] > 0
    assert harness.value("SELECT COUNT(*) FROM run_documents") == end.result["files"] < FILES


def test_files_that_cannot_be_used_are_found_while_calls_are_made(
    harness: GenerationHarness, gate: threading.Event
) -> None:
    harness.write("z.txt", (harness.input / "a/text 00.txt").read_text())
    harness.write("y.txt", "\n \n")
    gate.set()
    end = harness.run(total_examples=FILES + 8, num_examples_per_file=1)
    assert end.state == "finished", end.error
    assert (end.result["files"], end.result["skipped"]) == (FILES, 2)
    assert not harness.rows("SELECT 1 FROM topics WHERE passages=0 AND origin='file'"), "no topic is left of them"


def test_a_run_killed_while_it_reads_beside_its_calls_goes_on_and_asks_nothing_twice(
    harness: GenerationHarness, gate: threading.Event
) -> None:
    with live_run(harness, total_examples=FILES, num_examples_per_file=1, max_concurrency=2) as run:
        wait_for(lambda: run.sent() >= 3)
        time.sleep(0.3)
        run.engine.stop(run.run_id)
        wait_for(lambda: harness.value("SELECT state FROM runs") == "stopping")
        gate.set()
        first = run.end()
    assert first.state == "stopped"
    assert first.result["unread"] > 0
    resumed = harness.run(resume=1, total_examples=FILES, num_examples_per_file=1)
    assert resumed.state == "finished", resumed.error
    assert not any("is new" in note["message"] for note in harness.events("note")), "they were there all the time"
    assert len(set(asked(harness))) == FILES
    repeated = "SELECT task_id FROM attempts WHERE status='ok' GROUP BY task_id HAVING COUNT(*) > 1"
    assert not harness.rows(repeated)
    assert (resumed.result["files"], resumed.result["unread"]) == (FILES, 0)
    assert resumed.result["accepted"] == FILES


def test_that_files_are_unread_is_stored_before_the_first_task(
    harness: GenerationHarness, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: list[list[tuple[int, int]]] = []
    real = generate.load_tree

    async def noted(*arguments: Any) -> TopicTree:
        stored.append(folder_events(harness))
        return await real(*arguments)

    monkeypatch.setattr(generate, "load_tree", noted)
    gate.set()
    harness.run(total_examples=2, num_examples_per_file=1)
    assert stored == [[(3, FILES - 3)]], "else a run killed then takes them for new ones"


def test_pairs_of_an_earlier_run_are_kept_before_the_first_call(
    harness: GenerationHarness, gate: threading.Event
) -> None:
    gate.set()
    harness.run(total_examples=10, num_examples_per_file=1, evaluation_threshold=0.0)
    changed = next(path for path in sorted(harness.input.rglob("*.txt")) if path.name == "text 05.txt")
    changed.write_text(changed.read_text() + "\n\n" + made_up_text(999, 40))
    second = harness.run(total_examples=12, num_examples_per_file=1, evaluation_threshold=0.0, keep_pairs=True)
    assert second.state == "finished", second.error
    assert second.result["kept_pairs"] >= 9
    assert second.result["accepted"] == 12
    kept = harness.value("SELECT MAX(id) FROM tasks WHERE run_id=2 AND kind='keep'")
    assert kept < harness.value("SELECT MIN(id) FROM tasks WHERE run_id=2 AND kind='generate'")
    assert asked(harness, 2)[0].endswith("text 05.txt"), "what is new is asked about first"
    assert any("text 05.txt is changed" in note["message"] for note in harness.events("note")) == (
        second.result["unread"] == 0
    )
