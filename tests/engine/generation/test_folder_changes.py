"""A folder that was edited costs no more than what was changed, and it is said what that is."""

import time
from pathlib import Path

from lora_tui.engine.generation.output import write_accepted_of_runs
from lora_tui.store import generation as store_generation
from lora_tui.store.connection import Store
from tests.bench.edited_folder import measure
from tests.engine.generation.generation_harness import GenerationHarness
from tests.openai_server import made_up_text
from tests.store.store_fixtures import with_store

CHANGED = "A sentence that was not there before stands at the end now. It speaks of the pilot boats of Lindow."


def write_long(harness: GenerationHarness) -> str:
    """A file of several passages; returns its text."""
    text = "\n\n".join(f"# Part {n}\n\n{made_up_text(10 + n, 12)}" for n in range(8))
    harness.write("long.md", text)
    return text


def notes(harness: GenerationHarness) -> list[str]:
    return [note["message"] for note in harness.events("note")]


def asked_positions(harness: GenerationHarness, run_id: int, source: str) -> list[int]:
    sql = (
        "SELECT position FROM tasks JOIN chunks ON chunks.id = chunk_id"
        " WHERE tasks.run_id=? AND kind='generate' AND source=? ORDER BY tasks.id"
    )
    return [position for (position,) in harness.rows(sql, run_id, source)]


def test_kept_pairs_count_and_only_new_passages_are_asked_about(harness: GenerationHarness) -> None:
    text = write_long(harness)
    size = {"chunk_tokens": 100, "chunk_overlap": 10, "evaluation_threshold": 0.0, "num_examples_per_file": 1}
    first = harness.run(total_examples=12, **size)
    passages = first.result["passages"]
    calls = harness.value("SELECT COUNT(*) FROM attempts")
    before = harness.rows("SELECT question, score, reason FROM pairs WHERE run_id=1 AND state='accepted' ORDER BY id")
    harness.write("long.md", f"{text}\n\n# A new part\n\n{CHANGED}\n\n{made_up_text(99, 9)}")
    second = harness.run(total_examples=13, keep_pairs=True, **size)
    assert second.state == "finished", second.error
    assert (second.result["kept_pairs"], second.result["accepted"]) == (12, 13)
    more = second.result["passages"] - passages
    said = next(note for note in notes(harness) if note.startswith("Since run 1"))
    new = int(said.partition("long.md is changed (")[2].partition(" of ")[0])
    assert more <= new <= more + 1, "the last passage may end elsewhere"
    assert "12 pairs of run 1 are kept" in said
    own = harness.value("SELECT chunks FROM run_documents WHERE run_id=1 AND path='long.md'")
    assert asked_positions(harness, second.run_id, "long.md")[0] >= own - 1, "new ones come first"
    assert harness.value("SELECT COUNT(*) FROM attempts") - calls < calls / 2
    kept = harness.rows(
        "SELECT question, score, pairs.reason FROM pairs JOIN tasks ON tasks.id = task_id"
        " WHERE pairs.run_id=2 AND kind='keep' ORDER BY pairs.id"
    )
    assert kept == before
    written = harness.output.read_text()
    assert all(f"Question: {question}\n" in written for question, *_ in before)
    assert harness.value("SELECT COUNT(*) FROM pair_metrics JOIN pairs ON pairs.id = pair_id WHERE run_id=2") > 12
    assert harness.value("SELECT COUNT(*) FROM decisions JOIN pairs ON pairs.id = pair_id WHERE run_id=2") >= 13


def test_pairs_about_what_is_gone_are_not_kept(harness: GenerationHarness) -> None:
    harness.run(total_examples=6, evaluation_threshold=0.0)
    about = harness.value("SELECT COUNT(*) FROM pairs WHERE state='accepted' AND source='one.txt'")
    assert 0 < about < 6
    (harness.input / "one.txt").unlink()
    second = harness.run(total_examples=6, evaluation_threshold=0.0, keep_pairs=True)
    assert second.result["kept_pairs"] == 6 - about
    assert any("one.txt is gone" in note for note in notes(harness))


def test_what_was_kept_is_not_trained_on_twice_with_earlier_runs(harness: GenerationHarness) -> None:
    first = harness.run(total_examples=5, evaluation_threshold=0.0)
    second = harness.run(total_examples=6, evaluation_threshold=0.0, keep_pairs=True)
    assert (first.result["accepted"], second.result["accepted"]) == (5, 6)

    async def together(store: Store) -> tuple[dict[int, int], Path]:
        counts = await store_generation.accepted_of_earlier_runs(store, second.run_id)
        written = Path(harness.folder / "both.txt")
        async with store.transaction() as t:
            await write_accepted_of_runs(t, (first.run_id, second.run_id), written)
        return counts, written

    counts, file = with_store(harness.store, together)
    assert counts == {}, "all of run 1 is in run 2"
    assert file.read_text().count("Question: ") == 6


def test_a_run_that_was_killed_while_it_kept_pairs_keeps_the_others(harness: GenerationHarness) -> None:
    harness.run(total_examples=5, evaluation_threshold=0.0)
    harness.run(total_examples=6, evaluation_threshold=0.0, keep_pairs=True)
    harness.change(
        "DELETE FROM pairs WHERE id IN (SELECT MAX(pairs.id) FROM pairs JOIN tasks ON tasks.id=task_id"
        " WHERE kind='keep')"
    )
    harness.change("DELETE FROM tasks WHERE kind='keep' AND id NOT IN (SELECT task_id FROM pairs)")
    harness.change("UPDATE runs SET state='stopped' WHERE id=2")
    resumed = harness.run(resume=2, total_examples=6, evaluation_threshold=0.0, keep_pairs=True)
    assert (resumed.result["kept_pairs"], resumed.result["accepted"]) == (5, 6), resumed.error


def test_a_run_that_was_killed_while_it_read_keeps_pairs_when_it_goes_on(harness: GenerationHarness) -> None:
    size = {"evaluation_threshold": 0.0, "keep_pairs": True}
    harness.run(total_examples=5, **size)
    slowly = {"extractors__rtf": "sh -c 'sleep 10'"}
    harness.write("slow.rtf", made_up_text(77, 3))
    calls = harness.value("SELECT COUNT(*) FROM attempts")
    with harness.killed_process(total_examples=6, **slowly, **size):
        deadline = time.monotonic() + 60
        while not harness.rows("SELECT 1 FROM run_documents WHERE run_id=2"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert not harness.rows("SELECT 1 FROM tasks WHERE run_id=2"), "it was killed before it had kept them"
    (harness.input / "slow.rtf").rename(harness.input / "slow.txt")
    resumed = harness.run(resume=2, total_examples=6, **size)
    assert (resumed.result["kept_pairs"], resumed.result["accepted"]) == (5, 6), resumed.error
    assert harness.value("SELECT COUNT(*) FROM attempts") - calls < calls
    assert [note for note in notes(harness) if "slow.txt is new" in note and "5 pairs of run 1 are kept" in note]
    assert asked_positions(harness, 2, "slow.txt"), "the new file is asked about"


def test_pairs_are_kept_of_the_last_run_that_has_any(harness: GenerationHarness) -> None:
    harness.run(total_examples=5, evaluation_threshold=0.0)
    failed = harness.run(total_examples=5, budget_tokens=10)
    assert (failed.state, failed.result["accepted"]) == ("failed", 0)
    third = harness.run(total_examples=6, evaluation_threshold=0.0, keep_pairs=True)
    assert (third.result["kept_pairs"], third.result["accepted"]) == (5, 6), third.error
    assert any("5 pairs of run 1 are kept" in note for note in notes(harness))


def test_a_run_keeps_pairs_of_one_run_alone(harness: GenerationHarness) -> None:
    harness.run(total_examples=3, evaluation_threshold=0.0)
    harness.run(total_examples=3, evaluation_threshold=0.0)
    harness.change("UPDATE pairs SET state='review' WHERE run_id=2")
    harness.run(total_examples=4, evaluation_threshold=0.0, keep_pairs=True)
    harness.change("UPDATE pairs SET state='accepted' WHERE run_id=2")
    harness.change("UPDATE runs SET state='stopped' WHERE id=3")
    resumed = harness.run(resume=3, total_examples=4, evaluation_threshold=0.0, keep_pairs=True)
    assert (resumed.result["kept_pairs"], resumed.result["accepted"]) == (3, 4), resumed.error


def test_a_file_under_another_name_has_no_new_passage(harness: GenerationHarness) -> None:
    harness.run(total_examples=6, evaluation_threshold=0.0)
    (harness.input / "one.txt").rename(harness.input / "renamed.txt")
    second = harness.run(total_examples=6, evaluation_threshold=0.0, keep_pairs=True)
    assert second.result["kept_pairs"] == 6
    assert any("0 passages new, 0 gone" in note for note in notes(harness))
    sources = {source for (source,) in harness.rows("SELECT DISTINCT source FROM pairs WHERE run_id=2")}
    assert sources == {"renamed.txt", "deep/two.md"}


def test_an_unchanged_folder_is_read_without_a_word_and_brings_other_pairs(harness: GenerationHarness) -> None:
    harness.run(total_examples=3, evaluation_threshold=0.0)
    second = harness.run(total_examples=3, evaluation_threshold=0.0)
    assert second.result["kept_pairs"] is None
    assert not [note for note in notes(harness) if note.startswith("Since run")]


def test_a_run_that_goes_on_asks_nothing_about_what_is_gone(harness: GenerationHarness) -> None:
    harness.run(total_examples=3, evaluation_threshold=0.0)
    harness.change("UPDATE runs SET state='stopped'")
    harness.change("UPDATE tasks SET state='pending' WHERE kind='generate' AND source='one.txt'")
    waiting = harness.value("SELECT COUNT(*) FROM tasks WHERE state='pending'")
    assert waiting
    (harness.input / "one.txt").unlink()
    resumed = harness.run(resume=1, total_examples=5, evaluation_threshold=0.0)
    assert resumed.state == "finished", resumed.error
    reasons = harness.rows("SELECT reason FROM tasks WHERE state='cancelled' AND source='one.txt'")
    assert reasons.count(("its passage is gone",)) == waiting
    assert any("of this run are about passages that are gone" in note for note in notes(harness))
    assert harness.rows("SELECT path FROM run_documents WHERE run_id=1") == [("deep/two.md",)]


def test_the_benchmark_of_edits_runs(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("\n\n".join(f"## Part {n}\n\n{made_up_text(n, 3)}" for n in range(6)))
    found = measure(tmp_path, 40)
    edit = found["with_headings"]
    assert isinstance(edit, dict)
    assert 0 < edit["new_after_an_edit"] < edit["passages"]
    assert isinstance(found["read_first_and_again"], list)
    assert [reading["passages"] > 30 for reading in found["read_first_and_again"]] == [True, True]


def test_pairs_below_a_raised_threshold_are_not_kept_unless_a_person_accepted_them(harness: GenerationHarness) -> None:
    harness.run(total_examples=5, evaluation_threshold=0.0)
    harness.change("UPDATE pairs SET score=6.0 WHERE id IN (SELECT id FROM pairs WHERE state='accepted' LIMIT 2)")
    by_person = harness.value("SELECT MIN(id) FROM pairs WHERE state='accepted'")
    harness.change(
        "INSERT INTO decisions(pair_id, verdict, decided_by, reason, at, threshold, cause, weights_version)"
        f" VALUES ({by_person}, 'accepted', 'person', '', 0, 0, '', 0)"
    )
    second = harness.run(total_examples=6, evaluation_threshold=6.5, keep_pairs=True)
    assert second.result["kept_pairs"] == 4
    assert any("1 is left out, below evaluation_threshold = 6.5" in note for note in notes(harness))


def test_a_run_that_has_its_pairs_of_an_earlier_one_asks_nothing(harness: GenerationHarness) -> None:
    harness.run(total_examples=6, evaluation_threshold=0.0, check_judge=False)
    calls = harness.value("SELECT COUNT(*) FROM attempts")
    second = harness.run(total_examples=6, evaluation_threshold=0.0, keep_pairs=True, check_judge=True)
    assert (second.state, second.result["accepted"]) == ("finished", 6)
    assert harness.value("SELECT COUNT(*) FROM attempts") == calls, "no judge is checked, nothing analysed"
    assert [event["kept"] for event in harness.events("note") if "kept" in event] == [6]
