"""The file of accepted pairs: checked before anything is paid for, written whole."""

from pathlib import Path

import pytest

from lora_tui.engine.data.read import read_examples
from lora_tui.engine.generation.output import check_writable
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
