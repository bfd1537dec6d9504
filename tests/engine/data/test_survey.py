"""A training file is counted as training will read it, once for as long as it stays the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lora_tui.engine.data import survey as module
from lora_tui.engine.data.read import read_examples
from lora_tui.engine.data.survey import Survey, survey

ROOT = Path(__file__).parents[3]


def pairs(count: int, answer: str = "yes") -> str:
    return "".join(f"Question: is {n} a number?\nAnswer: {answer}\n\n" for n in range(count))


def test_examples_and_forms_are_those_that_training_reads(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    rows = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}] * 3
    path.write_text("\n".join(json.dumps(row) for row in [*rows, {"question": "q", "answer": "a"}, {"text": ""}]))
    read = read_examples(path)
    found = survey(path)
    assert (found.exists, found.problem) == (True, None)
    assert (found.examples, dict(found.forms), found.skipped) == (4, read.forms, 1)
    assert found.forms == {"chat": 3, "question/answer": 1}


def test_tokens_are_estimated_by_characters_with_the_words_around_them(tmp_path: Path) -> None:
    path = tmp_path / "data.txt"
    path.write_text(f"Question: {'q' * 40}\nAnswer: {'a' * 400}\n")
    (tokens,) = survey(path).tokens
    assert tokens == (len("Question: \nAnswer: ") + 440 + 3) // 4 + 1


def test_every_form_has_tokens(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    rows = [
        {"prompt": "p" * 40, "completion": "c" * 40},
        {"text": "t" * 80},
        {"messages": [{"role": "user", "content": "u" * 40}, {"role": "assistant", "content": "a" * 40}]},
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    assert list(survey(path).tokens) == [21, 21, 29]


def test_long_examples_count_up_to_the_longest_that_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "data.txt"
    path.write_text(pairs(2) + pairs(1, "y" * 4000))
    found = survey(path)
    short, long = found.tokens[0], found.tokens[2]
    assert long > 1000
    assert found.tokens_up_to(100) == 2 * short + 100
    assert (found.longest_up_to(100), found.longest_up_to(5000)) == (100, long)


def test_a_file_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def counting(path: Path) -> object:
        read.append(path)
        return read_examples(path)

    monkeypatch.setattr(module, "read_examples", counting)
    path = tmp_path / "data.txt"
    path.write_text(pairs(3))
    assert survey(path).examples == survey(path).examples == 3
    assert len(read) == 1
    path.write_text(pairs(4))
    os.utime(path, ns=(1, 1))
    assert survey(path).examples == 4
    path.write_text(pairs(4).replace("yes", "noo"))
    os.utime(path, ns=(2, 2))
    assert survey(path).examples == 4
    assert len(read) == 3
    for number in range(20):
        other = tmp_path / f"{number}.txt"
        other.write_text(pairs(1))
        survey(other)
    assert len(module._CACHE) <= 8


@pytest.mark.parametrize(
    ("content", "reason"),
    [("", "is empty"), ("\n\n", "blank lines only"), ("hello\n", "expected 'Question:'"), (b"\xff\xfea", "UTF-16")],
)
def test_what_training_will_refuse_is_told_before(content: str | bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "data.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = survey(path)
    assert found.exists
    assert found.problem is not None
    assert reason in found.problem
    assert (found.examples, found.tokens_up_to(10), found.longest_up_to(10)) == (0, 0, 0)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    found = survey(tmp_path / "none.txt")
    assert not found.exists
    assert found.problem is not None
    assert "does not exist" in found.problem
    assert "is a folder" in (survey(tmp_path).problem or "")


def test_a_file_is_told_by_the_name_that_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data.txt"
    path.write_text(pairs(1))
    monkeypatch.chdir(tmp_path)
    assert (survey(path).path, survey(Path("data.txt")).path) == (path, Path("data.txt"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "data.txt").write_text(pairs(2))
    monkeypatch.chdir(tmp_path / "other")
    assert survey(Path("data.txt")).examples == 2


def test_a_very_large_file_is_left_to_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 50)
    path = tmp_path / "data.txt"
    path.write_text(pairs(20))
    found = survey(path)
    assert isinstance(found, Survey)
    assert found.exists
    assert "counted when training begins" in (found.problem or "")


def test_nothing_heavy_is_needed() -> None:
    code = "import sys, lora_tui.engine.data.survey; print(*{n.partition('.')[0] for n in sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert set(run.stdout.split()) & {"torch", "transformers", "peft", "openai", "textual", "rich", "numpy"} == set()
