"""With --json stdout is JSON lines and nothing else, from `started` to `done`, whatever libraries print."""

import json
import re

import pytest

from tests.cli.conftest import Ended, Program, new_program

MODES = ["generate", "quickstart"]


@pytest.fixture(scope="module", params=MODES)
def noisy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Ended]:
    """A mode with the lines of a run of it in which everything happens."""
    mode = request.param
    return mode, new_program(tmp_path_factory.mktemp(mode)).run(f"{mode}=noisy", "--run", mode, "--json")


def test_every_line_is_json_while_libraries_print(noisy: tuple[str, Ended]) -> None:
    mode, ended = noisy
    assert ended.status == 0
    lines = ended.lines()
    assert [line["event"] for line in (lines[0], lines[-1])] == ["started", "done"]
    assert all(line["run"] == 1 for line in lines)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["at"]) for line in lines)
    assert lines[0]["mode"] == mode
    assert lines[0]["config"]["fine_tuning"]["lora"]["r"] == 16
    assert lines[-1]["status"] == "finished"
    assert lines[-1]["result"]["adapter"] == "checkpoints/run-1/best"
    for noise in ("python prints", "a progress bar", "C code writes"):
        assert noise in ended.err
        assert noise not in ended.out


def test_all_kinds_of_event_pass_with_their_fields(noisy: tuple[str, Ended]) -> None:
    lines = noisy[1].lines()
    kinds = [line["event"] for line in lines]
    for kind in ("note", "progress", "pair", "analysis", "step", "evaluation", "checkpoint", "warning"):
        assert kind in kinds
    step = next(line for line in lines if line["event"] == "step")
    assert step["tokens_per_s"] == 344.4
    assert next(line for line in lines if line["event"] == "checkpoint")["kind"] == "best"


def test_a_loss_that_is_not_a_number_is_null(noisy: tuple[str, Ended]) -> None:
    lines = noisy[1].lines()
    assert [line["loss"] for line in lines if line["event"] == "step"][-1] is None


def test_text_is_the_original_but_no_control_character_reaches_a_terminal(noisy: tuple[str, Ended]) -> None:
    ended = noisy[1]
    assert ended.out.isascii()
    assert "\x1b" not in ended.out
    pair = next(line for line in ended.lines() if line["event"] == "pair")
    assert pair["question"].startswith("what is \x1b]52;c;")


@pytest.mark.parametrize(
    ("job", "status", "error"),
    [
        ("unreachable", 3, "refuses the key"),
        ("mistaken", 1, "ZeroDivisionError"),
        ("partly", 1, "nothing new was accepted"),
    ],
)
def test_a_failure_ends_with_done_as_well(program: Program, job: str, status: int, error: str) -> None:
    ended = program.run(f"generate={job}", "--run", "generate", "--json")
    assert ended.status == status
    done = ended.lines()[-1]
    assert (done["event"], done["status"], done["exit_status"]) == ("done", "failed", status)
    assert error in done["error"]
    assert error in ended.err


def test_a_job_can_finish_with_a_status_of_its_own(program: Program) -> None:
    ended = program.run("format=with_rejects", "--generate-training-file", "raw.txt", "out.txt", "--json")
    assert ended.status == 1
    done = ended.lines()[-1]
    assert (done["status"], done["exit_status"], done["result"]) == ("finished", 1, {"written": 1, "rejected": 1})
    assert (program.folder / "out.txt").exists()


def test_a_reader_that_leaves_stops_the_run_without_a_traceback(program: Program) -> None:
    ended = program.shell('$LORA train=endless --run train --json | head -1; echo "${PIPESTATUS[0]}"')
    first, status = ended.out.splitlines()
    assert json.loads(first)["event"] == "started"
    assert status == "141"
    assert "Traceback" not in ended.err
    assert "Exception ignored" not in ended.err
    (run,) = program.run("train=endless", "--runs", "--json").lines()[:-1]
    assert run["state"] == "stopped"


def test_a_reader_that_leaves_before_the_table_is_no_traceback_either(program: Program) -> None:
    ended = program.shell('$LORA train=noisy --run train | true; echo "${PIPESTATUS[0]}"')
    assert ended.out.strip() == "141"
    assert "Traceback" not in ended.err


def test_the_results_alone_go_through_a_pipe(program: Program) -> None:
    ended = program.shell("$LORA train=noisy --run train 2>/dev/null")
    assert "python prints" not in ended.out
    assert "rainbow unicorn" in ended.out


def test_closed_streams_are_no_reason_to_fail(program: Program) -> None:
    ended = program.shell("$LORA train=noisy --run train >&- 2>&- <&-; echo $?")
    assert ended.out.strip() == "0"


def test_ready_pairs_need_no_key_and_ask_about_none(program: Program) -> None:
    (program.folder / "config.toml").write_text('[data_generation]\napi_key_env = "AWS_SECRET_ACCESS_KEY"\n')
    (program.folder / "raw.txt").write_text("Who?\tNobody.\nA plain statement that needs a model.\n")
    program.environment["AWS_SECRET_ACCESS_KEY"] = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"
    ended = program.run("", "--generate-training-file", "raw.txt", "out.txt")
    assert (program.folder / "out.txt").read_text().count("Question: ") == 1
    assert "it is not sent before you allow it" in " ".join((program.folder / "out.txt.rejected").read_text().split())
    assert ended.status == 1
