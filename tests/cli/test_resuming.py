"""--resume: which run it takes, with which settings, and what it says when there is nothing to go on with."""

import asyncio
from pathlib import Path

import pytest

from lora_tui.config.load import with_values
from lora_tui.config.models import Settings
from lora_tui.config.written import with_written
from lora_tui.engine.runtime.resume import resume_run
from lora_tui.store import runs
from lora_tui.store.connection import Store
from tests.cli.conftest import Program


def stop_a_run(program: Program, mode: str = "train", *more: str) -> None:
    """Leave a stopped run in the store."""
    ended = program.shell(f"$LORA {mode}=endless --run {mode} {' '.join(more)} --json 2>/dev/null | head -1")
    assert ended.status == 0


def test_resume_takes_the_newest_run_with_its_own_settings_and_options(program: Program) -> None:
    stop_a_run(program, "train", "--set", "fine_tuning.lora.r=4", "--train-data-file", "a.txt")
    stop_a_run(program, "generate")
    stop_a_run(program, "train", "--set", "fine_tuning.lora.r=8")
    lines = program.run("train=endless", "--run", "train", "--resume", "--json").lines()
    assert lines[0]["event"] == "started"
    assert lines[0]["run"] == 3
    assert lines[0]["resumed"] is True
    assert [line["message"] for line in lines if line["event"] == "note"] == ["resumed with 8"]
    assert [line["event"] for line in lines].count("step") == 0  # what was told before is not told again
    assert lines[-1]["status"] == "finished"
    # Run 3 is finished now: the newest of any mode that is left is run 2, and a number needs no mode.
    assert program.run("train=endless,generate=endless", "--resume", "--json").lines()[0]["mode"] == "generate"
    lines = program.run("train=echo", "--resume", "1", "--json").lines()
    assert lines[0]["mode"] == "train"
    assert lines[-1]["result"] == {"options": {"train_data_file": "a.txt"}, "r": 4}


def test_changed_settings_are_applied_with_a_warning_after_started(program: Program) -> None:
    stop_a_run(program, "train", "--set", "fine_tuning.lora.r=4", "--set", "fine_tuning.lora.alpha=8")
    lines = program.run("train=endless", "--resume", "1", "--set", "fine_tuning.lora.r=2", "--json").lines()
    assert [line["event"] for line in lines[:2]] == ["started", "warning"]
    assert lines[1]["message"] == "run 1 goes on with fine_tuning.lora.r = 2; it was started with 4"
    assert lines[0]["config"]["fine_tuning"]["lora"]["alpha"] == 8
    assert any(line.get("message") == "resumed with 2" for line in lines)


def test_runs_that_cannot_be_resumed_are_refused_with_a_way_on(program: Program) -> None:
    for mode, state in (("generate", "finished"), ("export", "failed"), ("train", "finished"), ("generate", "stopped")):
        program.past_run(mode, state)
    for arguments, said in (
        (["--run", "train", "--resume"], "No train run in"),
        (["--run", "train", "--resume", "4"], "Run 4 is a generate run, not a train run. Resume it with --resume 4"),
        (["--resume", "1"], "Run 1 is finished: there is nothing left to do."),
        (["--resume", "2"], "Run 2 is a export run, which is not resumed but run again: --run export"),
        (["--resume", "3"], "Use its adapter with --run chat --resume 3"),
        (["--resume", "99"], "There is no run 99"),
        (["--run", "evaluate", "--resume", "1"], "Run 1 is a generate run and has no adapter"),
    ):
        ended = program.run("", *arguments)
        assert ended.status == 2
        assert said in ended.err


def test_a_live_run_is_not_resumed_but_watched(program: Program) -> None:
    with program.start("train=until_told", "--run", "train", "--json") as owner:
        assert owner.stdout is not None
        owner.stdout.readline()
        ended = program.run("train=echo", "--resume", "1")
        assert ended.status == 2
        assert "Run 1 is live" in ended.err
        assert "--attach 1" in ended.err
        (program.folder / "go").touch()
        owner.communicate(timeout=60)


def test_modes_that_use_an_adapter_are_told_which(program: Program) -> None:
    program.past_run("train", "finished")
    for arguments, options in (
        (["--run", "evaluate", "--resume", "1"], {"adapter_run": 1}),
        (["--run", "evaluate", "--resume"], {}),
        (["--run", "export", "--adapter", "a/b", "--format", "merged", "--output", "o"],
         {"adapter": "a/b", "format": "merged", "output": "o"}),
    ):  # fmt: skip
        done = program.run("evaluate=echo,export=echo", *arguments, "--json").lines()[-1]
        assert done["result"]["options"] == options


def test_the_formatting_mode_is_given_its_two_files(program: Program) -> None:
    done = program.run("format=echo", "--generate-training-file", "raw.txt", "out.txt", "--json").lines()[-1]
    assert done["result"]["options"] == {"raw": "raw.txt", "out": "out.txt"}


def test_the_store_is_where_it_is_said_to_be(program: Program) -> None:
    program.run("train=echo", "--run", "train", "--set", 'data_generation.db_path="a/b.db"')
    assert (program.folder / "a" / "b.db").is_file()
    program.run("train=echo", "--run", "train", "--store", "other.db")
    assert (program.folder / "other.db").is_file()
    assert not (program.folder / "training_data.db").exists()
    stopped = program.shell("$LORA train=endless --run train --store other.db --json | head -1")
    assert "Go on with: lora-tui --resume 2 --store other.db" in stopped.err


@pytest.mark.parametrize(("written", "changes"), [([], 1), (["fine_tuning.optimizer.lora_lr"], 2)])
def test_what_a_run_chose_is_chosen_again_and_no_change(tmp_path: Path, written: list[str], changes: int) -> None:
    ran = with_values(Settings(), {"fine_tuning.optimizer.lora_lr": 7e-3, "fine_tuning.lora.r": 4})

    async def changed() -> list[str]:
        async with await Store.open(tmp_path / "s.db") as store:
            run = await runs.create(store, "train", ran.model_dump(mode="json"), {}, written=written)
            await runs.end(store, run, "stopped", {}, None)
        return (await resume_run(tmp_path / "s.db", run, settings=with_written(Settings(), []))).changes

    found = asyncio.run(changed())
    assert len(found) == changes
    assert any("fine_tuning.lora.r = " in line for line in found), "nobody chooses that one"
