"""Held-out questions as tasks of lm-evaluation-harness."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lora_tui.config.models import Settings
from lora_tui.engine.evaluation.prompts import TestPrompt
from lora_tui.engine.export.lm_eval import TaskFacts, task_name, write_tasks
from tests.engine.conftest import EngineHarness, Trained
from tests.engine.tiny import PAIRS

FACTS = TaskFacts("held_out_run_3", "org/model", "ADAPTER_FOLDER", 24, "that training held out")
ANSWERS = ("in 1871", "a red fox", "by the river Aare", "forty-two", "in 1902", "nobody knows: it's gone")


def written(folder: Path, answers: tuple[str, ...] = ANSWERS, ends: str = "Answer:") -> list[dict[str, Any]]:
    prompts = [TestPrompt(f"Question: what is {n}?\n{ends}", "expected", answer) for n, answer in enumerate(answers)]
    write_tasks(folder, prompts, [None] * len(prompts), FACTS)
    return [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]


def scores(folder: Path) -> Any:
    spec = importlib.util.spec_from_file_location("answer_scores", folder / "answer_scores.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_questions_stand_with_their_answer_among_others(tmp_path: Path) -> None:
    rows = written(tmp_path)
    assert [row["answer"] for row in rows] == list(ANSWERS)
    for row in rows:
        assert row["choices"][row["gold"]] == row["answer"]
        assert len(set(row["choices"])) == 4
    assert len({row["gold"] for row in rows}) > 1, "the place of the right one tells nothing"
    assert written(tmp_path) == rows


def test_without_enough_answers_there_is_nothing_to_choose_from(tmp_path: Path) -> None:
    (row, _) = written(tmp_path, ("a", "b"))
    assert "choices" not in row
    assert not (tmp_path / "held_out_run_3_choices.yaml").exists()
    assert (
        tmp_path / "held_out_run_3.yaml"
    ).read_text() == "group: held_out_run_3\ntask:\n  - held_out_run_3_answers\n"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("In 1871.", (1.0, 1.0, 1.0)),
        ("It was in 1871, they say", (0.0, 1.0, 0.5)),
        ("1871", (0.0, 0.0, 2 / 3)),
        ("", (0.0, 0.0, 0.0)),
    ],
)
def test_answers_are_scored(tmp_path: Path, answer: str, expected: tuple[float, ...]) -> None:
    written(tmp_path)
    found = scores(tmp_path).process_results({"answer": "in 1871"}, [answer])
    assert tuple(found.values()) == pytest.approx(expected)
    assert list(found) == ["exact_match", "contains", "f1"]


def test_the_data_is_found_beside_the_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    rows = written(tmp_path)
    monkeypatch.chdir("/")
    assert scores(tmp_path).held_out(version=1.0)["test"].to_list() == rows


def test_tasks_are_yaml_that_names_what_is_there(tmp_path: Path) -> None:
    import yaml

    class Loader(yaml.SafeLoader):
        """Knows the harness's tag for functions."""

    Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))  # type: ignore[arg-type]
    written(tmp_path)
    task = yaml.load((tmp_path / "held_out_run_3_answers.yaml").read_text(), Loader)
    assert task["generation_kwargs"] == {"until": ["\nQuestion:"], "do_sample": False, "max_gen_toks": 24}
    assert task["target_delimiter"] == " "
    for function in (task["custom_dataset"], task["process_results"]):
        assert hasattr(scores(tmp_path), function.removeprefix("answer_scores."))
    choices = yaml.load((tmp_path / "held_out_run_3_choices.yaml").read_text(), Loader)
    assert (choices["output_type"], choices["doc_to_target"]) == ("multiple_choice", "{{gold}}")


def test_behind_a_chat_template_nothing_stands_between_prompt_and_answer(tmp_path: Path) -> None:
    written(tmp_path, ends="<|assistant|>\n")
    assert 'target_delimiter: ""' in (tmp_path / "held_out_run_3_answers.yaml").read_text()


def test_names_of_tasks_are_plain() -> None:
    assert task_name("My data, 2nd!") == "my_data_2nd"
    assert task_name("…") == "held_out"


def test_a_run_that_held_questions_out_is_exported(
    tmp_path: Path, base_folder: Path, new_engine_harness: Callable[[Path, Settings], EngineHarness]
) -> None:
    from lora_tui.config.load import with_values
    from tests.engine.conftest import trained_settings

    pairs = [*PAIRS, *((f"what is number {n}?", f"it is {n * n}") for n in range(30))]
    (tmp_path / "pairs.txt").write_text("\n\n".join(f"Question: {q}\nAnswer: {a}" for q, a in pairs) + "\n")
    changes = {"fine_tuning.training.validation_share": 0.3, "fine_tuning.training.max_steps": 1}
    harness = new_engine_harness(tmp_path, with_values(trained_settings(tmp_path, base_folder), changes))
    run_id = harness.run("train").run_id
    outcome = harness.run("export", {"format": "lm-eval", "output": str(tmp_path / "tasks")})
    assert outcome.state == "finished", outcome.error
    name = f"held_out_run_{run_id}"
    assert outcome.result["task_names"] == [name, f"{name}_answers", f"{name}_choices"]
    (command,) = outcome.result["commands"]
    assert f"pretrained={base_folder},peft=" in command
    rows = [json.loads(line) for line in (tmp_path / "tasks" / "data.jsonl").read_text().splitlines()]
    assert len(rows) == outcome.result["questions"] >= 5
    texts = "".join(path.read_text() for path in (tmp_path / "tasks").iterdir())
    assert str(tmp_path) not in texts
    assert str(base_folder) not in texts


def test_a_file_of_other_questions_takes_the_place_of_held_out_ones(trained: Trained, tmp_path: Path) -> None:
    refused = trained.engine_harness.run("export", {"format": "lm-eval", "output": str(tmp_path / "none")})
    assert (refused.exit_status, (refused.error or "")[:32]) == (2, "Training held no questions out. ")
    file = tmp_path / "others.jsonl"
    file.write_text('{"question": "a?", "answer": "1"}\n{"question": "b?", "answer": "2"}\n')
    options = {"format": "lm-eval", "output": str(tmp_path / "tasks"), "train_data_file": str(file)}
    outcome = trained.engine_harness.run("export", options)
    assert outcome.result["questions"] == 2, outcome.error
