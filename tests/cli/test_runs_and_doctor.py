"""--runs, --attach and --doctor: looking changes nothing and starts nothing."""

import io
import re
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from lora_tui.cli import doctor
from lora_tui.cli.request import Request
from lora_tui.config.load import with_values
from lora_tui.config.models import Settings
from lora_tui.engine.compiled.library import load_library
from lora_tui.engine.generation.canaries import JudgeCheck, check_key
from lora_tui.engine.generation.endpoint_memory import EndpointNotes, memory_file, remember, remember_check
from lora_tui.terminal.report import Report
from lora_tui.terminal.streams import Streams
from tests.cli.conftest import Ended, Program


def test_runs_are_listed_newest_first_within_80_columns(program: Program) -> None:
    program.run("quickstart=noisy", "--run", "quickstart")
    program.run("generate=unreachable", "--run", "generate", "--set", 'data_generation.model="a/very-long/model-name"')
    ended = program.run("", "--runs")
    assert ended.status == 0
    lines = ended.out.splitlines()
    assert max(len(line) for line in lines) <= 80
    assert lines[0].split() == ["Run", "Mode", "State", "Took", "Model", "and", "results", "Right", "Score"]
    assert [line.split()[:3] for line in lines[2:] if line.strip() and line.split()[0].isdigit()] == [
        ["2", "generate", "failed"],
        ["1", "quickstart", "finished"],
    ]
    assert "0.64" in ended.out
    start, end = lines[0].index("Model"), lines[0].index("Right")
    assert "a/very-long/model-nameontraining_input" in "".join("".join(line[start:end].split()) for line in lines)


def test_runs_as_json_lines(program: Program) -> None:
    program.run("quickstart=noisy", "--run", "quickstart")
    run, done = program.run("", "--runs", "--json").lines()
    assert (run["event"], run["run"], run["mode"], run["state"]) == ("run", 1, "quickstart", "finished")
    assert run["best_score"] == 0.64
    assert run["held_out_loss"] is None
    assert {"right", "asked", "steps", "loss", "rate", "batch", "accepted", "adapter_run", "path"} <= set(run)
    assert run["rate"] == 1e-3, "a quickstart has its own"
    assert done["event"] == "done"
    assert done["result"]["runs"] == 1


def test_a_run_whose_process_was_killed_is_listed_as_interrupted(program: Program) -> None:
    with program.start("train=deaf", "--run", "train", "--json") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
    assert program.run("", "--runs", "--json").lines()[0]["state"] == "interrupted"
    attached = program.run("", "--attach", "1", "--json")
    assert attached.status == 1
    assert attached.lines()[-1]["status"] == "interrupted"
    assert "lora-tui --resume 1" in attached.err


def test_attaching_to_a_finished_run_tells_it_from_the_beginning(program: Program) -> None:
    own = program.run("quickstart=noisy", "--run", "quickstart", "--json").lines()
    attached = program.run("", "--attach", "1", "--json")
    assert attached.status == 0
    assert attached.lines() == own
    plain = program.run("", "--attach", "1")
    assert "rainbow unicorn" in plain.out
    assert "step 3/3" in plain.err


def test_attaching_to_a_resumed_run_has_one_done_line_and_it_is_the_last(program: Program) -> None:
    program.shell("$LORA train=endless --run train --json | head -1")
    program.run("train=endless", "--resume", "--json")
    kinds = [line["event"] for line in program.run("", "--attach", "1", "--json").lines()]
    assert kinds.count("started") == 2
    assert kinds.count("done") == 1
    assert kinds[-1] == "done"


def test_attaching_to_a_failed_run_ends_as_it_did(program: Program) -> None:
    program.run("generate=partly", "--run", "generate")
    attached = program.run("", "--attach", "1")
    assert attached.status == 1
    assert "nothing new was accepted" in attached.err


@pytest.fixture
def endpoint() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A server that refuses whoever brings no key, and notes what it was asked."""
    asked: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append({"path": self.path, **{name.lower(): value for name, value in self.headers.items()}})
            self.send_response(401)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
        server.shutdown()
        thread.join()


def examined(program: Program, *arguments: str) -> tuple[Ended, dict[str, dict[str, str]]]:
    program.environment["CC"] = "false"  # it tries the compiler for some seconds, where the cache is empty
    ended = program.run("", "--doctor", "--json", *arguments)
    return ended, {line["name"]: line for line in ended.lines() if line["event"] == "check"}


def test_the_doctor_reports_and_sends_no_key(program: Program, endpoint: tuple[str, list[dict[str, str]]]) -> None:
    url, asked = endpoint
    program.environment["OPENAI_API_KEY"] = "a-secret-of-mine"
    (program.folder / "config.toml").write_text(f'[data_generation]\nbase_url = "{url}"\n')
    ended, found = examined(program)
    assert ended.status == 0
    assert ended.lines()[-1]["status"] == "finished"
    assert found["configuration"]["value"] == "config.toml"
    assert found["endpoint"]["level"] == "ok"
    assert found["OPENAI_API_KEY"]["value"] == "set"
    assert found["torch"]["value"][0].isdigit()
    assert found["built-in model"]["level"] == "missing"
    assert asked[0]["path"] == "/v1/models"
    assert "authorization" not in asked[0]
    assert "a-secret-of-mine" not in ended.out + ended.err
    assert not (program.folder / "training_data.db").exists()


def examined_here(config: Path, monkeypatch: pytest.MonkeyPatch, status: int = 1, *, compiler: bool = False) -> str:
    """What the doctor says in this process, without torch and compiling, which take seconds."""
    monkeypatch.setattr(doctor, "_device", lambda: iter(()))
    if not compiler:
        monkeypatch.setattr(doctor, "_compiler", lambda: iter(()))
    out = io.StringIO()
    streams = cast(Streams, SimpleNamespace(out=out))
    assert doctor.examine(Request(doctor=True, config=config), streams, Report(streams)) == status
    return out.getvalue()


@pytest.fixture
def untried() -> Iterator[None]:
    """Nothing is known of a compiler, and nothing will be."""
    load_library.cache_clear()
    yield
    load_library.cache_clear()


@pytest.mark.usefixtures("untried")
def test_the_doctor_names_what_mends_each_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[data_generation]\nbase_url = "http://127.0.0.1:9/v1"\n')
    monkeypatch.setenv("LORA_TUI_CACHE", "/dev/null/cache")
    monkeypatch.setenv("CC", "no-such-compiler -O1")
    said = examined_here(config, monkeypatch, compiler=True)
    assert "– C compiler" in said
    assert "install gcc or clang" in said
    assert "✗ endpoint" in said
    assert "✗ cache" in said
    assert "export LORA_TUI_CACHE=FOLDER" in said
    assert "Problems: 2" in said


@pytest.mark.usefixtures("untried")
def test_the_doctor_tries_the_compiler_that_it_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORA_TUI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CC", "false")
    (found,) = doctor._compiler()
    assert (found.level, found.value.partition(":")[0]) == ("missing", "the C compiler failed (it said nothing)")
    assert "everything else works" in found.value
    monkeypatch.setattr(doctor, "load_library", lambda source: object())
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    (found,) = doctor._compiler()
    assert (found.level, found.value) == ("ok", "false compiles our code for this processor")


def test_the_doctor_tells_in_which_form_an_endpoint_is_asked_and_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORA_TUI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENAI_API_KEY", "ollama")
    config = tmp_path / "config.toml"
    config.write_text('[data_generation]\nbase_url = "http://127.0.0.1:9/v1/"\nmodel = "tiny"\n')
    said = examined_here(config, monkeypatch)
    assert re.search(r"writes pairs as +not tried yet; asked for first: JSON under a schema", said)
    assert re.search(r"OPENAI_API_KEY +set, a placeholder", said)
    notes = EndpointNotes("begun", judge="gates", how="no JSON\nin it", judge_how="it rates all alike", at=time.time())
    remember("http://127.0.0.1:9/v1", "tiny", notes)
    said = examined_here(config, monkeypatch)
    assert re.search(r"writes pairs as +the rest of a question that .* \(found .*: no JSON in it\)", said)
    assert re.search(r"judges them by +nothing: the program's gates .* \(found .*: it rates all alike\)", said)
    assert f"rm {memory_file()} has it tried anew" in said


def test_the_doctor_tells_what_each_judge_made_of_the_known_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORA_TUI_CACHE", str(tmp_path / "cache"))
    config = tmp_path / "config.toml"
    config.write_text('[data_generation]\nbase_url = "http://127.0.0.1:9/v1"\njudge_models = ["a", "b"]\n')
    said = examined_here(config, monkeypatch)
    assert re.search(r"judge +a is not checked yet: before its first run", said)
    check = JudgeCheck("b", 11, 12, {"negated": 1}, 4.75, 1.5, time.time())
    remember_check(check_key("http://127.0.0.1:9/v1", "b", "digits"), check)
    said = examined_here(config, monkeypatch)
    assert re.search(r"a: judges them by +not tried yet", said)
    assert re.search(r"b: judges them by +three digits", said)
    assert re.search(r"judge +b tells right from wrong in 11 of 12 test pairs: misses negated \(1\).* \(found ", said)
    assert "judge_model=" in said


def test_the_doctor_says_why_the_built_in_judge_is_not_checked() -> None:
    loaded = SimpleNamespace(settings=with_values(Settings(), {"data_generation.model": "builtin"}))
    (_, judge) = doctor._endpoint(cast("doctor.Loaded", loaded), given=False)
    assert judge.value.startswith("not checked: the built-in model does not read for right and wrong")


def test_the_doctor_survives_a_broken_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_probe", lambda address: None)
    config = tmp_path / "broken.toml"
    config.write_text("[fine_tuning]\nmodle_name = 1\n")
    said = examined_here(config, monkeypatch, 2)
    assert "✗ configuration" in said
    assert "did you mean fine_tuning.model_name?" in said
    assert "Problems: 1" in said


def test_a_store_is_compacted_unless_a_run_is_live(program: Program) -> None:
    refused = program.run("", "--vacuum")
    assert refused.status == 2
    assert "There are no runs yet" in refused.err
    program.past_run("train", "finished")
    [done] = program.run("", "--vacuum", "--json").lines()
    assert done["event"] == "done"
    assert min(done["result"]["bytes_before"], done["result"]["bytes_after"]) > 100_000
    with program.start("train=deaf", "--run", "train", "--json") as process:
        assert process.stdout is not None
        process.stdout.readline()
        refused = program.run("", "--vacuum")
        process.kill()
    assert refused.status == 2
    assert "Run 2 is at work in" in refused.err
    assert refused.out == ""
