"""What ctrl+c, SIGTERM and a lost line do to a run, to the program's status and to what the store says."""

import asyncio
import contextlib
import json
import os
import shlex
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lora_tui.cli.follow import RunFollower
from tests.cli.conftest import Process, Program
from tests.e2e.terminal import Terminal

Start = Callable[..., Terminal]


def run_row(program: Program, number: int = 1) -> dict[str, Any]:
    with contextlib.closing(sqlite3.connect(program.folder / "training_data.db")) as store:
        store.row_factory = sqlite3.Row
        return dict(store.execute("SELECT * FROM runs WHERE id=?", (number,)).fetchone())


def wait_for_line(process: Process, text: bytes) -> None:
    assert process.stdout is not None
    while line := process.stdout.readline():
        if text in line:
            return
    raise AssertionError(f"{text!r} did not come")


def test_what_cannot_be_resumed_does_not_say_so(started: Start) -> None:
    with started("probe=endless", "--run", "probe") as terminal:
        terminal.send("\x03")
        assert terminal.wait() == 130
        assert "It is not resumed: give its command again to begin anew" in " ".join(terminal.output.split())
        assert "--resume" not in terminal.output


def test_ctrl_c_saves_says_so_and_ends_with_130(started: Start, program: Program) -> None:
    with started("train=endless", "--run", "train") as terminal:
        terminal.send("\x03")
        terminal.read_until("stopping: finishing the step and saving; press ctrl+c again")
        assert terminal.wait() == 130
        assert "its work is saved. Go on with: lora-tui --resume 1" in terminal.output
    row = run_row(program)
    assert row["state"] == "stopped"
    assert json.loads(row["result"])["adapter"] == "saved"


def test_a_second_ctrl_c_leaves_at_once_and_the_run_can_be_resumed(started: Start, program: Program) -> None:
    with started("train=deaf", "--run", "train") as terminal:
        terminal.send("\x03")
        terminal.read_until("press ctrl+c again")
        before = time.monotonic()
        terminal.send("\x03")
        assert terminal.wait() == 130
        assert time.monotonic() - before < 20.0
        assert "left at once. Go on with: lora-tui --resume 1" in terminal.output
        assert "\x1b[?25h" in terminal.output  # the cursor is there again
    (run, _) = program.run("train=deaf", "--runs", "--json").lines()
    assert run["state"] == "interrupted"


def test_leaving_at_once_still_ends_the_json_lines(program: Program) -> None:
    with program.start("train=deaf", "--run", "train", "--json", stderr=subprocess.DEVNULL) as process:
        wait_for_line(process, b'"event":"step"')
        process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + 60
        while run_row(program)["state"] != "stopping":  # two signals that wait are one
            assert time.monotonic() < deadline, "the first was not heard"
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        done = json.loads(process.rest()[-1])
        assert process.returncode == 130
    assert (done["event"], done["run"], done["status"], done["exit_status"]) == ("done", 1, "interrupted", 130)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_a_run_without_a_terminal_too(program: Program, number: signal.Signals, status: int) -> None:
    with program.start("train=endless", "--run", "train", "--json") as process:
        wait_for_line(process, b'"event":"step"')
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        assert process.returncode == status
    done = json.loads(out.splitlines()[-1])
    assert (done["event"], done["status"], done["exit_status"]) == ("done", "stopped", status)
    assert done["result"]["adapter"] == "saved"
    assert b"Traceback" not in err


def test_sigterm_waits_for_its_deadline_and_no_longer(program: Program) -> None:
    short = program.folder / "short.py"
    launcher = Path(__file__).with_name("launcher.py")
    short.write_text(
        "import runpy, lora_tui.terminal.signals as s\ns.DEADLINE_SECONDS = 1.0\n"
        f"runpy.run_path({str(launcher)!r}, run_name='__main__')\n"
    )
    command = [program.command("")[0], str(short), "train=deaf", "--run", "train", "--json"]
    with Process(
        command, cwd=program.folder, env=program.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        wait_for_line(process, b'"event":"step"')
        before = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
        assert 0.8 < time.monotonic() - before < 15.0


def test_a_lost_line_leaves_the_run_to_finish_headless(started: Start, program: Program) -> None:
    with started("train=until_told", "--run", "train") as terminal:
        terminal.read_until("still here")
        terminal.hang_up()
        time.sleep(0.5)
        assert terminal.process.poll() is None
        assert run_row(program)["state"] == "running"
        (program.folder / "go").touch()
        assert terminal.process.wait(60) == 0
    row = run_row(program)
    assert row["state"] == "finished"
    assert json.loads(row["result"]) == {"adapter": "headless"}
    log = Path(program.environment["LORA_TUI_LOGS"], "lora-tui.log").read_text()
    assert "went on without its terminal" in log
    assert "Traceback" not in log


def test_a_lost_line_spares_a_file_that_stdout_goes_to(started: Start, program: Program) -> None:
    path = program.folder / "lines.jsonl"
    with path.open("wb") as lines:
        terminal = program.terminal("train=until_told", "--run", "train", "--json", stdout=lines)
    with terminal:
        while b"still here" not in path.read_bytes():
            time.sleep(0.05)
        terminal.hang_up()
        time.sleep(0.3)
        (program.folder / "go").touch()
        assert terminal.process.wait(60) == 0
    assert json.loads(path.read_text().splitlines()[-1])["event"] == "done"


def test_a_line_lost_together_with_the_reader_of_stdout_is_no_reason_to_stop(program: Program) -> None:
    reading, writing = os.pipe()
    with program.terminal("train=until_told", "--run", "train", "--json", stdout=writing) as terminal:
        os.close(writing)
        with os.fdopen(reading, "rb", 0) as pipe:
            while b"still here" not in pipe.read(65536):
                pass
            terminal.hang_up()
        time.sleep(0.5)
        (program.folder / "go").touch()
        assert terminal.process.wait(60) == 0
    assert run_row(program)["state"] == "finished"


def test_an_ignored_hang_up_signal_stays_ignored(program: Program) -> None:
    script = "trap '' HUP; exec " + shlex.join(program.command("train=until_told", "--run", "train", "--no-chat"))
    with Terminal(["bash", "-c", script], cwd=program.folder, env=program.environment) as terminal:
        terminal.read_until("still here")
        terminal.signal(signal.SIGHUP)
        time.sleep(0.3)
        (program.folder / "go").touch()
        assert terminal.wait() == 0
        assert "run 1 finished" in terminal.output  # it has kept its terminal


def test_a_reader_that_goes_just_before_its_terminal_is_no_reason_to_stop() -> None:
    """The hang-up that ends ``| tee`` reaches us a moment later than the broken pipe."""
    streams = SimpleNamespace(hung_up=False)
    streams.survive = lambda problem: not streams.hung_up
    follower = RunFollower(cast(Any, None), 1, cast(Any, None), cast(Any, streams))

    def write() -> None:
        raise BrokenPipeError

    async def broken_then_hung_up(hang_up: bool) -> bool:
        asyncio.get_running_loop().call_later(0.05, setattr, streams, "hung_up", hang_up)
        await follower.narrate(write)
        return follower.reader_left

    assert not asyncio.run(broken_then_hung_up(True))
    assert asyncio.run(broken_then_hung_up(False))


def test_what_is_printed_before_the_hang_up_is_noticed_ends_nothing(program: Program) -> None:
    """The line is lost while SIGHUP is held back: so it is for a print on a job's thread that comes too soon."""
    code = (
        "import signal, sys, time; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})\n"
        "from lora_tui.terminal.streams import Streams\n"
        "streams = Streams(); print('ready', flush=True)\n"
        "time.sleep(0.5)\n"
        "for _ in range(3): print('a library chatters', flush=True); print('so do we', file=streams.err, flush=True)\n"
        "assert streams.hung_up; open('survived', 'w').close()\n"
    )
    command = [program.command("")[0], "-c", code]
    with Terminal(command, cwd=program.folder, env=program.environment) as terminal:
        terminal.read_until("ready")
        terminal.hang_up()
        assert terminal.process.wait(60) == 0
    assert (program.folder / "survived").exists()
