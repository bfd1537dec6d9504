"""The full-screen app as people have it: the installed command, its real engine, keys in and a screen to read.

The model is tiny and random, and a local server plays the endpoint; everything between them is the real thing.
"""

import contextlib
import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.screen import AppTerminal
from tests.e2e.terminal import installed_command
from tests.e2e.warm_command import WarmCommand, WarmProcess
from tests.engine.tiny import save_base, training_text
from tests.openai_server import MODEL, OpenAIServer, made_up_text

CONFIG = """
[data_generation]
base_url = "{url}"
model = "{model}"
total_examples = 6
max_concurrency = 2

[fine_tuning]
recipe = "as written"
model_name = "{base}"
train_data_file = "train.txt"
device = "cpu"

[fine_tuning.lora]
r = 4

[fine_tuning.scheduler]
warmup_steps = 1

[fine_tuning.training]
max_steps = {steps}
eval_steps = 3
save_steps = 3
batch_size = 2
gradient_accumulation_steps = 2
target_score = 2.0

[fine_tuning.evaluation]
max_new_tokens = 4

[fine_tuning.chat]
max_new_tokens = 8
"""


class AppFolder:
    """A folder with texts, training lines and a configuration, in which the app is started."""

    def __init__(self, folder: Path, environment: dict[str, str], warm: WarmCommand) -> None:
        self.folder = folder
        self.environment = environment
        self.warm = warm

    def end_what_is_left(self) -> None:
        """Kill runs that a failed test has left at work: they would train on, beside all tests that follow."""
        for row in self.rows("SELECT pid FROM runs WHERE state IN ('queued', 'running', 'stopping')"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(row["pid"], signal.SIGKILL)

    def installed_app(self) -> AppTerminal:
        """The app as a shell starts it, with all that it imports: ten seconds of a processor where it trains."""
        return AppTerminal(installed_command(), cwd=self.folder, env=self.environment, columns=120, rows=40)

    def app(self, *arguments: str, columns: int = 120, rows: int = 40) -> AppTerminal:
        return AppTerminal(arguments, cwd=self.folder, env=self.environment, columns=columns, rows=rows, warm=self.warm)

    def headless(self, *arguments: str) -> WarmProcess:
        return self.warm.start(arguments, cwd=self.folder, env=self.environment)

    def rows(self, select: str) -> list[dict[str, Any]]:
        """What is in the store; nothing before there is one and its tables are made."""
        if not (self.folder / "training_data.db").exists():
            return []
        with closing(sqlite3.connect(f"file:{self.folder / 'training_data.db'}?mode=ro", uri=True)) as store:
            store.row_factory = sqlite3.Row
            made = store.execute("SELECT count(*) FROM sqlite_master WHERE name = 'runs'").fetchone()[0]
            return [dict(row) for row in store.execute(select)] if made else []

    def wait_for_state(self, state: str, timeout: float = 150.0) -> dict[str, Any]:
        """Wait until the run is in a state."""
        deadline = time.monotonic() + timeout
        while not (found := self.rows(f"SELECT * FROM runs WHERE state = '{state}'")):
            assert time.monotonic() < deadline, self.rows("SELECT * FROM runs")
            time.sleep(0.05)
        return found[0]

    def wait_for_checkpoint(self, timeout: float = 150.0) -> None:
        """Wait until a checkpoint is on disk."""
        deadline = time.monotonic() + timeout
        while not list(self.folder.glob("checkpoints/run-1/step-*/adapter_model.safetensors")):
            assert time.monotonic() < deadline, "no checkpoint has come"
            time.sleep(0.05)

    def wait_for_reply(self, terminal: AppTerminal, timeout: float = 150.0) -> None:
        """Wait until a reply is in the store."""
        deadline = time.monotonic() + timeout
        while not self.rows("SELECT * FROM turns WHERE role = 'assistant'"):
            assert time.monotonic() < deadline, terminal.text
            terminal.listen(0.1)


@pytest.fixture(scope="module")
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as running:
        yield running


@pytest.fixture
def app_folder(
    server: OpenAIServer, tmp_path: Path, environment: dict[str, str], warm: WarmCommand
) -> Iterator[AppFolder]:
    server.reset()
    folder = tmp_path / "work"
    folder.mkdir()
    base = save_base(folder / "base")
    (folder / "config.toml").write_text(CONFIG.format(url=server.url, model=MODEL, base=base, steps=6))
    (folder / "training_input").mkdir()
    for number in range(3):
        (folder / "training_input" / f"{number}.txt").write_text(made_up_text(number, 3))
    (folder / "train.txt").write_text(training_text())
    app_folder = AppFolder(folder, {**environment, "OPENAI_API_KEY": "sk-a-secret-key"}, warm)
    yield app_folder
    app_folder.end_what_is_left()


def quit_app(terminal: AppTerminal) -> None:
    terminal.press("q")
    assert terminal.wait() == 0


def test_pairs_are_generated_opened_and_overruled_by_keys(app_folder: AppFolder) -> None:
    with app_folder.installed_app() as terminal:
        terminal.shows("No pairs yet", "nothing: a server of your own")
        terminal.press("s")
        terminal.shows("run 1 · finished · 6/6", "a Accept", timeout=60)
        terminal.press("up", "enter")
        terminal.shows("The judge says", "✓ accepted")
        terminal.press("r")
        terminal.shows("✗ rejected", "by you")
        terminal.press("u")
        terminal.shows("✓ accepted", "by the score")
        terminal.press("r")
        terminal.shows("✗ rejected", "by you")
        terminal.press("escape")
        terminal.shows("run 1 · finished · 5/6")
        quit_app(terminal)
    assert (app_folder.folder / "accepted_training_data.txt").read_text().count("Question: ") == 5
    assert "sk-a-secret-key" not in (app_folder.folder / "training_data.db").read_bytes().decode(errors="replace")


def test_a_model_is_trained_rated_and_talked_to_by_keys(app_folder: AppFolder) -> None:
    with app_folder.app(columns=80, rows=24) as terminal:
        terminal.shows("No pairs yet")
        terminal.press("2")
        terminal.shows("examples", "steps", "memory")
        terminal.press("s")
        terminal.shows("✓ run 1 · step 6/6", "finished", timeout=90)
        terminal.press("enter")
        terminal.shows("Expected")
        terminal.press("5")
        terminal.shows("your rating 5 of 5")
        terminal.press("escape", "c")
        terminal.shows("run 1, best checkpoint", "Ask something")
        terminal.press("unlock", "enter")
        app_folder.wait_for_reply(terminal)
        terminal.press("ctrl+q")
        assert terminal.wait() == 0
    assert (app_folder.folder / "checkpoints" / "run-1" / "best" / "adapter_model.safetensors").is_file()
    assert [row["target"] for row in app_folder.rows("SELECT * FROM feedback WHERE given_by = 'person'")] == [1.0]
    assert app_folder.rows("SELECT text FROM turns ORDER BY id")[0]["text"] == "unlock"


LONG = ("--set", "fine_tuning.training.max_steps=100000", "--set", "fine_tuning.training.eval_steps=50000")


def test_a_run_left_in_the_background_is_talked_to_and_stopped_from_another_terminal(app_folder: AppFolder) -> None:
    with app_folder.app(*LONG, "--set", "fine_tuning.training.save_steps=20") as terminal:
        terminal.shows("No pairs yet")
        terminal.press("2", "s")
        terminal.shows("● run 1 · train · step", "tokens/s", timeout=60)
        terminal.press("q")
        terminal.shows("run 1 is still at work.")
        terminal.press("k")
        assert terminal.wait() == 0
        assert "run 1 goes on in the background" in terminal.output
    app_folder.wait_for_checkpoint()
    with app_folder.app() as another:
        another.shows("● run 1 · train · step", "Stop and keep", "Chat with it")
        another.press("c")
        another.shows("run 1, last checkpoint")
        another.press("unlock", "enter")
        app_folder.wait_for_reply(another)
        another.press("f2")  # escape would stop a reply whose end the screen has not read yet
        another.shows("Stop and keep")
        another.press("x")
        another.shows("■ run 1 · stopped")
        another.press("q")
        assert another.wait() == 0
    run = app_folder.wait_for_state("stopped")
    assert list(Path(run["folder"]).glob("step-*/adapter_model.safetensors"))


def test_a_headless_run_is_attached_to_and_left_running(app_folder: AppFolder) -> None:
    owner = app_folder.headless("--run", "train", *LONG)
    try:
        app_folder.wait_for_state("running")
        with app_folder.app("--attach", "1") as terminal:
            terminal.shows("● run 1 · train · step", "tokens/s")
            terminal.press("p")
            app_folder.wait_for_checkpoint()
            quit_app(terminal)
        assert owner.poll() is None
        assert app_folder.wait_for_state("running")["pid"] == owner.pid
    finally:
        owner.terminate()
        assert owner.wait(30) == 143
    assert app_folder.wait_for_state("stopped")


def test_a_closed_window_leaves_the_run_to_finish(app_folder: AppFolder) -> None:
    with app_folder.app("--set", "fine_tuning.training.max_steps=150") as terminal:
        terminal.shows("No pairs yet")
        terminal.press("2", "s")
        terminal.shows("● run 1 · train · step", timeout=60)
        begun = app_folder.wait_for_state("running")
        terminal.hang_up()
        assert app_folder.wait_for_state("finished")["pid"] == begun["pid"]
        assert terminal.process.wait(60) == 0
