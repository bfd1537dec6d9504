"""The file of accepted pairs: checked before anything is paid for, written whole."""

from pathlib import Path

import pytest

from lora_tui.engine.data.read import read_examples
from lora_tui.engine.generation.output import back_up, check_writable
from lora_tui.errors import LoraTuiError
from tests.engine.generation.generation_harness import GenerationHarness


def test_a_place_that_cannot_be_written_is_told_before_the_first_call(harness: GenerationHarness) -> None:
    harness.output.mkdir()
    outcome = harness.run()
    assert outcome.exit_status == 1
    assert (
        outcome.error
        == f"data_generation.output_file: cannot write {harness.output}: it is a folder; name a file in it"
    )
    assert harness.server.received == []


def test_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LoraTuiError, match="file is not a folder"):
        check_writable(tmp_path / "file" / "deep" / "out.txt")


def test_a_folder_without_permission_is_told(folder_of_nobody: Path) -> None:
    folder_of_nobody.chmod(0o500)
    with pytest.raises(LoraTuiError, match="no permission"):
        check_writable(folder_of_nobody / "out.txt")


def test_a_new_folder_is_fine(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b" / "out.txt")
    assert list(tmp_path.iterdir()) == []


def test_training_reads_back_what_was_accepted(harness: GenerationHarness) -> None:
    harness.server.pair_of = lambda passage, n: {
        "evidence": passage.split(".")[0] + ".",
        "question": f"What is told in {passage.split()[n]} and {passage.split()[n + 1]}?",
        "answer": f"{passage.split('.')[0]}.\n\nQuestion: {passage.split()[n]}\nAnswer: yes",
        "topic": "t",
    }
    outcome = harness.run(total_examples=3, evaluation_threshold=0.0)
    assert outcome.result["accepted"] == 3, outcome.result["reasons"]
    examples = read_examples(harness.output).examples
    assert len(examples) == 3


def test_a_run_that_accepts_nothing_leaves_an_older_file_alone(harness: GenerationHarness) -> None:
    harness.output.write_text("Question: old\nAnswer: old\n")
    harness.server.digits = lambda prompt: "1 1 1"
    assert harness.run().result["output_file"] is None
    assert harness.output.read_text() == "Question: old\nAnswer: old\n"


def test_a_second_run_keeps_the_first_ones_pairs_and_says_where(harness: GenerationHarness) -> None:
    first = harness.run(total_examples=2)
    assert first.state == "finished"
    pairs = harness.output.read_text()
    harness.run(total_examples=2, seed=7)
    kept = harness.output.with_name(f"{harness.output.stem}.run-{first.run_id}{harness.output.suffix}")
    assert kept.read_text() == pairs
    said = f"the pairs of run {first.run_id} stay in {kept}, and this run writes its own to {harness.output}."
    assert any(warning["message"].endswith(said) for warning in harness.events("warning"))


def test_what_nobody_knows_is_kept_under_a_number_and_once(tmp_path: Path) -> None:
    file = tmp_path / "pairs.txt"
    file.write_text("Question: old\nAnswer: old\n")
    assert back_up(file, None) == back_up(file, None) == tmp_path / "pairs.1.txt"
    file.write_text("Question: older\nAnswer: older\n")
    assert back_up(file, None) == tmp_path / "pairs.2.txt"
    assert back_up(tmp_path / "none.txt", None) is None
