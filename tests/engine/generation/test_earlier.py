"""A second run over the same text brings other pairs than the first."""

from tests.engine.generation.generation_harness import GenerationHarness


def _questions(harness: GenerationHarness, run_id: int) -> set[str]:
    rows = harness.rows("SELECT question FROM pairs WHERE run_id=? AND state='accepted'", run_id)
    return {question for (question,) in rows}


def _seed(harness: GenerationHarness, run_id: int) -> int:
    return int(harness.value("SELECT json_extract(settings, '$.data_generation.seed') FROM runs WHERE id=?", run_id))


def test_a_second_run_asks_nothing_that_the_first_has_asked(harness: GenerationHarness) -> None:
    first, second = (harness.run(total_examples=4, evaluation_threshold=0.0) for _ in range(2))
    assert (first.state, second.state) == ("finished", "finished"), (first.error, second.error)
    assert len(_questions(harness, first.run_id)) == len(_questions(harness, second.run_id)) == 4
    assert not _questions(harness, first.run_id) & _questions(harness, second.run_id)
    said = [note["message"] for note in harness.events("note")]
    assert "4 pairs about these files are known from earlier runs; this one looks for others" in said


def test_each_run_has_a_seed_of_its_own_unless_one_is_written(harness: GenerationHarness) -> None:
    runs = [harness.run(total_examples=1, evaluation_threshold=0.0) for _ in range(2)]
    runs.append(harness.run(total_examples=1, evaluation_threshold=0.0, seed=42))
    assert [_seed(harness, run.run_id) for run in runs] == [42, 43, 42]


def test_a_resumed_run_keeps_its_seed(harness: GenerationHarness) -> None:
    harness.run(total_examples=1, evaluation_threshold=0.0)
    run_id = harness.run(total_examples=1, evaluation_threshold=0.0).run_id
    harness.change(f"UPDATE runs SET state='stopped' WHERE id={run_id}")
    harness.run(resume=run_id, total_examples=1, evaluation_threshold=0.0, seed=43)
    assert _seed(harness, run_id) == 43


def test_text_that_is_used_up_is_told_with_what_to_do(harness: GenerationHarness) -> None:
    harness.server.pair_of = lambda passage, n: {
        "evidence": passage.split(".")[0] + ".",
        "question": f"What is told of {passage.split()[0]} and {passage.split()[1]}?",
        "answer": passage.split(".")[0] + ".",
        "topic": "t",
    }
    first = harness.run(total_examples=99, evaluation_threshold=0.0)
    found = first.result["accepted"]
    assert found
    second = harness.run(total_examples=99, evaluation_threshold=0.0)
    assert second.error is not None
    assert second.error.startswith(f"Nothing new: {found} pair")
    assert second.result["rejected"] == 0, "what is known is no pair of this run"
    harness.change("UPDATE runs SET settings=json_set(settings, '$.data_generation.model', 'another')")
    other = harness.run(total_examples=found, evaluation_threshold=0.0)
    assert other.result["accepted"] == found, "another model answers the same questions anew"


def test_of_a_file_that_was_changed_nothing_is_known(harness: GenerationHarness) -> None:
    first = harness.run(total_examples=4, evaluation_threshold=0.0)
    for path in harness.input.rglob("*.*"):
        path.write_text(path.read_text() + "\n\nOne more sentence stands here now.\n")
    harness.run(total_examples=4, evaluation_threshold=0.0)
    assert first.result["accepted"] == 4
    assert not [note for note in harness.events("note") if "known from earlier runs" in note["message"]]
