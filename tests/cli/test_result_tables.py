"""Result tables: readable at 80 columns, whole answers, nothing that acts on a terminal."""

import io
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lora_tui.cli.tables import write_result, write_rows
from lora_tui.protocol.agreement import Estimate, ScoreAgreement
from lora_tui.protocol.comparison import ComparedAnswer, HeldOutComparison
from lora_tui.protocol.rate_probe import probe_rate
from lora_tui.terminal.streams import Streams

LONG = "the secret password is 'rainbow unicorn'. this information is classified! " * 4


def written(call: Any, *arguments: Any) -> str:
    streams = SimpleNamespace(out=io.StringIO(), out_is_terminal=False)
    call(cast(Streams, streams), *arguments)
    return str(streams.out.getvalue())


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def row(**more: Any) -> dict[str, Any]:
    return {
        "prompt": "Question: tell me the secret\nAnswer:",
        "kind": "expected",
        "before": "no",
        "after": "yes",
        "before_score": 0.0,
        "score": 1.0,
        **more,
    }


def test_long_answers_are_wrapped_and_not_cut() -> None:
    text = written(write_rows, [row(before=LONG, after=LONG)])
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "…" not in text
    assert text.count("classified!") == 8


def test_an_answer_without_spaces_is_folded_and_not_cut() -> None:
    text = written(write_rows, [row(after="x" * 300)])
    assert max(len(line) for line in text.splitlines()) <= 80
    assert text.count("x") == 300


def test_prompts_are_shown_as_questions_with_scores_before_and_after() -> None:
    text = written(write_rows, [row()])
    assert text.splitlines()[0].split() == ["Prompt", "Before", "After", "Score"]
    assert "tell me the" in text
    assert "should answer" in text
    assert "Answer:" not in text
    assert "0.00 → 1.00" in text


def test_without_answers_before_there_is_no_column_for_them() -> None:
    text = written(write_rows, [row(before=None, before_score=None)])
    assert text.splitlines()[0].split() == ["Prompt", "Answer", "Score"]
    assert "1.00" in text


def test_markup_and_escape_codes_in_answers_are_shown_as_text() -> None:
    text = written(write_rows, [row(after="[red]a[/red] [/] \x1b[2J :x:")])
    assert "[red]a[/red] [/] ␛[2J" in text
    assert ":x:" in text


def test_figures_paths_and_commands_stand_on_lines_of_their_own() -> None:
    path = "checkpoints/" + "very-long-name/" * 12
    result = {
        "accepted": 12384,
        "best_score": 0.6432,
        "output_file": path,
        "stopped_by": "patience",
        "commands": ["a b", "c"],
    }
    lines = written(write_result, result).splitlines()
    assert lines[0] == "accepted     12,384"
    assert lines[1] == "best score   0.643"
    assert lines[2] == f"output file  {path}"
    assert lines[3] == "ended        score stopped rising"
    assert lines[4:] == ["", "Go on with:", "  a b", "  c"]


def test_skipped_files_are_named_with_their_reasons_behind_them() -> None:
    skipped = {"a.bin": "it is binary", "b_1.txt": "it is empty"}
    assert (
        written(write_result, {"skipped_files": skipped})
        == "skipped files  a.bin: it is binary; b_1.txt: it is empty\n"
    )


def test_what_is_known_of_the_score_is_one_sentence() -> None:
    known = ScoreAgreement(3, 6, 9, missing_good=7, missing_bad=4)
    people = {"value": 0.841, "low": 0.7, "high": 0.9}
    text = written(write_result, {"people": people, "agreement": known.as_json()})
    assert text.splitlines()[0] == "people would say  0.84 (0.70–0.90)"
    assert text.splitlines()[1] == "score and people  not enough ratings yet: 7 good, 4 bad are missing"


def test_an_empty_result_writes_nothing() -> None:
    assert written(write_result, {}) == ""


def test_a_comparison_on_held_out_questions_is_told_with_its_interval_and_worst_answers() -> None:
    worst = ComparedAnswer("Question: who?\nAnswer:", "Ada", "a.txt", "Bob", "[red]Eve", 0.0, 0.1)
    found = HeldOutComparison(
        40, 120, 3, False, "questions", Estimate(0.1, 0.05, 0.2), Estimate(0.4, 0.3, 0.5), Estimate(0.3, 0.2, 0.4),
        30, 8, 2, "better", (worst,),
    )  # fmt: skip
    text = written(write_result, {"tuned_score": 0.4, "comparison": found.as_json()})
    assert "40 of 120 held-out questions, from 3 documents:" in text
    assert "  fine-tuned  0.40 (0.30 to 0.50)" in text
    assert "+0.30 (+0.20 to +0.40): fine-tuning helped" in text
    assert "[red]Eve" in text
    assert text.rstrip().splitlines()[-1] == "score  0.4"


def test_reasons_keep_the_names_of_keys_and_codes() -> None:
    reason = "cut off at 10 tokens; raise data_generation.evaluation.max_tokens (INVALID_ARGUMENT)"
    text = written(write_result, {"dead_reasons": {reason: 2}, "weights": {"token_f1": 0.5}})
    assert text.splitlines()[0] == f"dead reasons  2 {reason}"
    assert "5 documents_train.jsonl" in written(write_result, {"files": {"documents_train.jsonl": 5}})
    assert text.splitlines()[1] == "weights       0.5 token f1"


def test_a_probe_is_a_curve_with_the_proposed_rate_marked_and_how_to_take_it() -> None:
    rates = [probe_rate(step) for step in range(50)]
    points = [[rate, 2.0, -min(1.0, rate / 2e-3) + max(0.0, rate - 2e-2) * 60] for rate in rates]
    found = {"rate": 1e-3, "steepest": 1.2e-3, "diverged": 2.7e-2, "lowest": 1e-2, "fall": 1.0, "configured": 3e-5}
    commands = ["lora-tui --run train --set fine_tuning.optimizer.lora_lr=1e-3"]
    text = written(write_result, {**found, "points": points, "commands": commands})
    (marked,) = [line for line in text.splitlines() if "<- proposed" in line]
    assert marked.split()[0] in ("9.4e-4", "1.1e-3")
    assert "proposed: 1e-3, for the loss was lowest at 1e-2: a tenth of that; training came apart at 2.7e-2" in text
    assert commands[0] in text
    assert "no rate is proposed" in written(write_result, {**found, "rate": None, "points": points})
