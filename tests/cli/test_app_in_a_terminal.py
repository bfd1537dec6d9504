"""The app as the installed program, in a real pseudo-terminal, with jobs that only happen."""

import json
import os
import signal
import sqlite3
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.cli.conftest import LAUNCHER, Program
from tests.e2e.screen import AppTerminal

TRAIN = "train=until_told"


def app(program: Program, jobs: str = TRAIN, *arguments: str, **more: Any) -> AppTerminal:
    """The app in a terminal, where there is a file to learn from; it is forked from a process that has imported it."""
    something_to_learn_from(program)
    return AppTerminal(arguments, cwd=program.folder, env=program.environment, warm=program.warm, jobs=jobs, **more)


def started_app(program: Program, jobs: str = TRAIN) -> AppTerminal:
    """The same from the interpreter's start."""
    something_to_learn_from(program)
    return AppTerminal(program.command(jobs), cwd=program.folder, env=program.environment)


def something_to_learn_from(program: Program) -> None:
    """The training file without which the app starts no run."""
    (program.folder / "accepted_training_data.txt").write_text("Question: Why?\nAnswer: Because.\n")


def row(program: Program) -> dict[str, Any]:
    """The newest run as the store has it."""
    with sqlite3.connect(f"file:{program.folder / 'training_data.db'}?mode=ro", uri=True) as file:
        file.row_factory = sqlite3.Row
        return dict(file.execute("SELECT * FROM runs ORDER BY id DESC LIMIT 1").fetchone())


WELCOME = "Teach a language model something"


def leave_welcome(terminal: AppTerminal) -> None:
    """Close the dialog of the first start; what it leaves uncovered says "No pairs yet"."""
    terminal.shows(WELCOME)
    terminal.press("escape")
    terminal.hides(WELCOME)


def start_training(terminal: AppTerminal) -> None:
    """From the first start to a run that steps."""
    leave_welcome(terminal)
    terminal.press("2", "s")
    terminal.shows("run 1", "step 1/2")


def wait_for_end(program: Program, state: str, timeout: float = 60.0) -> dict[str, Any]:
    """Wait until the run is in that state."""
    deadline = time.monotonic() + timeout
    while row(program)["state"] != state:
        assert time.monotonic() < deadline, row(program)
        time.sleep(0.05)
    return row(program)


def log(program: Program) -> str:
    return Path(program.environment["LORA_TUI_LOGS"], "lora-tui.log").read_text()


def test_a_run_is_started_looked_at_and_left_to_finish_in_the_background(program: Program) -> None:
    with started_app(program) as terminal:
        start_training(terminal)
        terminal.press("q")
        terminal.shows("run 1 is still at work.")
        terminal.press("k")
        assert terminal.wait() == 0, "the shell has its prompt back"
        assert "run 1 goes on in the background" in terminal.output
        owner = row(program)["pid"]
        assert owner != terminal.process.pid
        assert psutil.pid_exists(owner)
    # The terminal is closed now as well.
    time.sleep(0.3)
    assert row(program)["state"] == "running"
    (program.folder / "go").touch()
    assert json.loads(wait_for_end(program, "finished")["result"]) == {"adapter": "headless"}
    assert "Traceback" not in log(program)
    _gone(owner)


def _gone(pid: int) -> None:
    deadline = time.monotonic() + 60
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the process has not ended"
        time.sleep(0.05)


def test_the_next_app_shows_a_run_of_the_background_as_live_and_stops_it(program: Program) -> None:
    with app(program) as terminal:
        start_training(terminal)
        terminal.press("q")
        terminal.shows("still at work")
        terminal.press("k")
        terminal.wait()
    with app(program, "") as again:
        again.shows("● run 1 · train", "Stop and keep")
        again.press("x")
        again.shows("■ run 1 · stopped")
        again.press("q")
        assert again.wait() == 0, "it is no run of this process: nothing is asked"
    assert row(program)["state"] == "stopped"


def test_stop_and_keep_saves_says_how_to_go_on_and_gives_the_terminal_back(program: Program) -> None:
    with app(program) as terminal:
        start_training(terminal)
        terminal.press("q")
        terminal.shows("still at work")
        terminal.press("s")
        assert terminal.wait() == 0
        before, _, after = terminal.output.rpartition("\x1b[?1049l")
        assert "\x1b[H\x1b[2J" in before[-100:], "tmux would leave rows of an enlarged screen among the shell's"
        assert "stopping and saving run 1" in after
        assert "run 1 stopped. Go on with: lora-tui --resume 1" in after
        assert "\x1b[?25h" in terminal.output[-4000:]
    assert row(program)["state"] == "stopped"


def test_a_lost_line_ends_the_interface_and_the_run_finishes_in_the_same_process(program: Program) -> None:
    with app(program) as terminal:
        start_training(terminal)
        owner = row(program)["pid"]
        terminal.hang_up()
        time.sleep(0.7)
        assert row(program)["state"] == "running"
        assert psutil.pid_exists(owner)
        with app(program, "") as again:
            again.shows("● run 1 · train")
            (program.folder / "go").touch()
            again.shows("✓ run 1 · finished")
            again.press("q")
            assert again.wait() == 0
        assert terminal.process.wait(60) == 0
    result = row(program)
    assert result["pid"] == owner
    assert json.loads(result["result"]) == {"adapter": "headless"}
    assert "Traceback" not in log(program)
    _gone(owner)


def test_a_killed_parent_is_a_lost_line_too(program: Program) -> None:
    with app(program) as terminal:
        start_training(terminal)
        owner = row(program)["pid"]
        terminal.process.kill()
        terminal.process.wait()
        time.sleep(0.5)
        assert psutil.pid_exists(owner)
        (program.folder / "go").touch()
        wait_for_end(program, "finished")
        _gone(owner)


def test_a_lost_line_with_nothing_at_work_ends_the_program(program: Program) -> None:
    with app(program) as terminal:
        terminal.shows(WELCOME)
        children = psutil.Process(terminal.process.pid).children()
        terminal.hang_up()
        assert terminal.process.wait(60) == 129
        for child in children:
            _gone(child.pid)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_stops_the_run_saves_and_ends_with_its_status(
    program: Program, number: signal.Signals, status: int
) -> None:
    with app(program) as terminal:
        start_training(terminal)
        terminal.signal(number)
        assert terminal.wait() == status
        assert "stopping and saving run 1" in terminal.output
    assert row(program)["state"] == "stopped"


def test_a_run_of_another_process_is_attached_to_and_left_running(program: Program) -> None:
    with program.start(TRAIN, "--run", "train", "--json", stderr=subprocess.DEVNULL) as owner:
        assert owner.stdout is not None
        while b"still here" not in owner.stdout.readline():
            pass
        with app(program, "", "--attach", "1") as watcher:
            watcher.shows("● run 1 · train", "step 1/2")
            watcher.press("ctrl+c")
            assert watcher.wait() == 0
        assert row(program)["state"] == "running"
        (program.folder / "go").touch()
        owner.rest()
        assert owner.returncode == 0


def test_a_job_that_fails_is_told_in_the_app_which_goes_on(program: Program) -> None:
    with app(program, "train=unreachable") as terminal:
        leave_welcome(terminal)
        terminal.press("2", "s")
        screen = terminal.shows("Run 1 (train) failed.", "http://localhost:1 refuses the key", "lora-tui.log")
        assert "\x1b[2J it." not in screen
        terminal.press("enter")
        terminal.shows("✗ run 1 · failed")
        terminal.press("q")
        assert terminal.wait() == 0


def test_what_libraries_print_does_not_land_on_the_screen(program: Program) -> None:
    with app(program, "train=noisy") as terminal:
        leave_welcome(terminal)
        terminal.press("2", "s")
        terminal.shows("✓ run 1 · finished")
        for line in ("C code writes to descriptor 1", "a progress bar writes", "python prints"):
            assert line not in terminal.output, line
        terminal.press("q")
        assert terminal.wait() == 0
    assert "C code writes to descriptor 1" in log(program), "it is not lost either"


def test_an_interface_that_breaks_leaves_the_run_alone_and_says_where_to_look(program: Program) -> None:
    broken = program.folder / "broken.py"
    broken.write_text(
        "import runpy, sys\n"
        "from lora_tui.tui.screens import train\n"
        "from pathlib import Path\n"
        "def on_mount(self): self.set_interval(0.1, lambda: Path('break').exists() and 1 / 0)\n"
        "train.TrainScreen.on_show = on_mount\n"
        f"runpy.run_path({LAUNCHER!r}, run_name='__main__')\n"
    )
    command = [program.command("")[0], str(broken), TRAIN]
    something_to_learn_from(program)
    with AppTerminal(command, cwd=program.folder, env=program.environment) as terminal:
        start_training(terminal)
        (program.folder / "break").touch()
        terminal.read_until("the interface failed; see")
        assert "run 1 goes on; ctrl+c stops it" in terminal.read_until("with its work saved")
        assert row(program)["state"] == "running"
        (program.folder / "go").touch()
        assert terminal.wait() == 0
    assert row(program)["state"] == "finished"
    assert "ZeroDivisionError" in log(program)


def test_a_broken_configuration_is_told_before_anything_is_drawn(program: Program) -> None:
    (program.folder / "config.toml").write_text("[fine_tuning]\nmodel_nam = 'x'\n")
    with app(program, "") as terminal:
        assert terminal.wait() == 2
        assert "config.toml, line 2" in terminal.output
        assert "\x1b[?1049h" not in terminal.output


def test_a_terminal_that_cannot_draw_gets_the_overview(program: Program) -> None:
    program.environment["TERM"] = "dumb"
    with program.terminal("") as terminal:
        assert terminal.wait() == 0
        assert "Here it cannot: TERM is 'dumb'. Three ways to begin" in terminal.output


def test_a_terminal_whose_output_goes_elsewhere_gets_it_there(program: Program) -> None:
    with (program.folder / "out").open("wb") as out, program.terminal("", stdout=out) as terminal:
        assert terminal.wait() == 0
    assert "Here it cannot: the output is no terminal." in (program.folder / "out").read_text()


def test_the_option_that_every_mode_takes_does_not_keep_the_app_away(program: Program) -> None:
    with app(program, "", "--no-chat") as terminal:
        leave_welcome(terminal)
        terminal.press("q")
        assert terminal.wait() == 0


def test_no_process_is_left_behind(program: Program) -> None:
    with started_app(program) as terminal:
        terminal.shows(WELCOME)
        pids = [terminal.process.pid, *(child.pid for child in psutil.Process(terminal.process.pid).children())]
        assert len(pids) == 2
        terminal.press("escape", "q")
        assert terminal.wait() == 0
    for pid in pids:
        _gone(pid)
    assert os.getpid() not in pids


def test_where_nothing_happens_nothing_is_sent_to_the_terminal(program: Program) -> None:
    program.past_run("train", "finished")
    program.past_run("generate", "finished")
    with ExitStack() as opened:
        terminals = {mode: opened.enter_context(app(program, "")) for mode in ("1", "2", "4", "5", "6")}
        for mode, terminal in terminals.items():
            terminal.shows("run 2")
            terminal.press(mode)
        silence, sent = dict.fromkeys(terminals, 0), None
        for _ in range(6):  # a busy machine paints late
            time.sleep(2.5)
            sent = {mode: terminal.listen(0.1) for mode, terminal in terminals.items()}
            if sent == silence:
                break
        assert sent == silence, [terminal.output[-500:] for terminal in terminals.values()]
