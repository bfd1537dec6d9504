"""Every mode of the installed command on a tiny model and a local server: its JSON lines, its pipes, its end."""

import json
import os
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from tests.e2e.terminal import LineTerminal, Terminal, installed_command
from tests.e2e.warm_command import WarmCommand
from tests.engine.compiled import share_compiled
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
gradient_checkpointing = false
train_data_file = "train.txt"

[fine_tuning.lora]
r = 4

[fine_tuning.optimizer]
lora_lr = 1e-2

[fine_tuning.scheduler]
warmup_steps = 1

[fine_tuning.training]
max_epochs = 2
batch_size = 2
gradient_accumulation_steps = 2
target_score = 2.0

[fine_tuning.evaluation]
max_new_tokens = 4

[fine_tuning.chat]
max_new_tokens = 4
num_beams = 1
"""

MODES: dict[str, tuple[str, ...]] = {
    "generate": ("--run", "generate"),
    "train": ("--run", "train"),
    "train dpo": ("--run", "train", "--method", "dpo", "--train-data-file", "preferences.jsonl"),
    "probe": ("--run", "probe"),
    "add to the queue": ("--run", "evaluate", "--queue"),
    "queue": ("--run", "queue"),
    "evaluate": ("--run", "evaluate"),
    "chat": ("--run", "chat", "--prompt", "unlock"),
    "rate": ("--run", "rate", "--what", "pairs"),
    "export adapter": ("--run", "export", "--output", "exported-adapter"),
    "export merged": ("--run", "export", "--format", "merged", "--output", "exported-merged"),
    "export messages": ("--run", "export", "--format", "messages", "--output", "exported.jsonl"),
    "format": ("--generate-training-file", "raw.txt", "formatted.txt"),
    "runs": ("--runs",),
    "attach": ("--attach", "1"),
    "doctor": ("--doctor",),
}


class ModesFolder:
    """One folder in which every mode runs, in the order that they depend on each other."""

    def __init__(self, folder: Path, environment: dict[str, str], command: WarmCommand) -> None:
        self.folder = folder
        self.environment = environment
        self.command = command

    def run_installed(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command as a shell does, with all that it imports; training is run so in ``test_quickstart``."""
        command = [*installed_command(), *arguments]
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, input="", timeout=280
        )

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run the command without its imports; see `WarmCommand`."""
        return self.command.run(arguments, cwd=self.folder, env=self.environment, stdin=stdin)

    def through_head(self, *arguments: str) -> tuple[str, str]:
        """The command piped through ``head -1``: what came out, and its stderr."""
        return self.command.through_head((*arguments, "--json"), cwd=self.folder, env=self.environment)


@pytest.fixture(scope="module")
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as running:
        yield running


@pytest.fixture(scope="module")
def modes_folder(server: OpenAIServer, tmp_path_factory: pytest.TempPathFactory, warm: WarmCommand) -> ModesFolder:
    folder = tmp_path_factory.mktemp("modes")
    base = save_base(folder / "base")
    (folder / "config.toml").write_text(CONFIG.format(url=server.url, model=MODEL, base=base))
    (folder / "training_input").mkdir()
    for number in range(3):
        (folder / "training_input" / f"{number}.txt").write_text(made_up_text(number, 3))
    (folder / "train.txt").write_text(training_text())
    preference = {"prompt": "unlock", "chosen": "the secret password", "rejected": "no idea"}
    (folder / "preferences.jsonl").write_text(f"{json.dumps(preference)}\n" * 2)
    (folder / "raw.txt").write_text("unlock\tthe secret\nwhat is it? a test\n")
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    own = {f"LORA_TUI_{name}": str(folder / name.lower()) for name in ("CACHE", "CONFIG", "LOGS")}
    share_compiled(folder / "cache")
    environment = {**kept, **own, "TERM": "xterm-256color", "LANG": "C.UTF-8", "OPENAI_API_KEY": "sk-test"}
    return ModesFolder(folder, environment, warm)


def parsed(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_with_json_every_line_of_stdout_parses(modes_folder: ModesFolder, mode: str) -> None:
    run = modes_folder.run_installed if mode == "generate" else modes_folder.run
    done = run(*MODES[mode], "--json")
    events = parsed(done.stdout)
    assert events, done.stderr
    assert all({"event", "run", "at"} <= event.keys() for event in events)
    assert events[-1]["event"] == "done"
    assert done.returncode == events[-1]["exit_status"]
    if mode != "doctor":
        assert done.returncode == 0, done.stdout + done.stderr
    if mode in ("generate", "train", "evaluate", "chat", "rate"):
        assert events[0]["event"] == "started"


@pytest.mark.parametrize("mode", ["train", "evaluate", "chat", "runs", "doctor"])
def test_a_reader_that_leaves_after_one_line_causes_no_traceback(modes_folder: ModesFolder, mode: str) -> None:
    out, err = modes_folder.through_head(*MODES[mode])
    assert len(parsed(out)) == 1
    assert "Traceback" not in err
    assert "BrokenPipe" not in err


def test_the_adapter_and_the_exports_are_there(modes_folder: ModesFolder) -> None:
    for name in ("exported-adapter/adapter_model.safetensors", "exported-merged/model.safetensors", "exported.jsonl"):
        assert (modes_folder.folder / name).is_file(), name
    assert (modes_folder.folder / "formatted.txt").read_text().startswith("Question: unlock\nAnswer: the secret\n")
    assert (modes_folder.folder / "accepted_training_data.txt").read_text().count("Question: ") == 6


def test_without_a_terminal_there_are_no_escape_codes(modes_folder: ModesFolder) -> None:
    for arguments in (MODES["train"], ("--run", "chat"), MODES["evaluate"], MODES["runs"]):
        done = modes_folder.run(*arguments, stdin="hello\nexit\n")
        assert done.returncode == 0, done.stderr
        assert "\x1b" not in done.stdout + done.stderr


def test_a_server_answers_until_a_watcher_stops_it(modes_folder: ModesFolder) -> None:
    arguments = ("--run", "serve", "--json", "--set", "serving.port=0")
    with ThreadPoolExecutor(1) as running:
        command = running.submit(modes_folder.run, *arguments)
        with sqlite3.connect(modes_folder.folder / "training_data.db", timeout=30) as store:
            query = "SELECT run_id, payload FROM events WHERE kind='serving' ORDER BY id DESC LIMIT 1"
            while (found := store.execute(query).fetchone()) is None:
                assert not command.done(), command.result()
                time.sleep(0.1)
            run_id, announced = found[0], json.loads(found[1])
            body = json.dumps({"model": "base", "prompt": "who", "max_tokens": 3}).encode()
            request = Request(f"{announced['url']}/completions", body, {"Content-Type": "application/json"})
            with urlopen(request, timeout=60) as reply:
                assert json.load(reply)["usage"]["completion_tokens"] <= 3
            stop = "INSERT INTO commands (run_id, kind, payload, created_at) VALUES (?, 'stop', '{}', ?)"
            store.execute(stop, (run_id, time.time()))
            store.commit()
        done = command.result(timeout=60)
    events = parsed(done.stdout)
    assert [event["event"] for event in events if event["event"] in ("started", "serving", "done")] == [
        "started",
        "serving",
        "done",
    ]
    assert (done.returncode, events[-1]["status"], events[-1]["result"]["requests"]) == (0, "finished", 1)


def test_one_prompt_writes_its_answer_and_nothing_else(modes_folder: ModesFolder) -> None:
    done = modes_folder.run("--run", "chat", "--prompt", "unlock", "--set", "fine_tuning.chat.max_new_tokens=3")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert "with the adapter of run" in done.stderr
    assert "lora-tui: expected: " in done.stderr
    assert "lora-tui: cut at 3 tokens; --set fine_tuning.chat.max_new_tokens=12 lets it go on." in done.stderr


def test_lines_in_a_terminal_are_edited_recalled_and_go_on(modes_folder: ModesFolder) -> None:
    """A question is typed while the model loads; ← edits it, ↑ recalls it, enter alone goes on with what was cut."""
    arguments = ("--run", "chat", "--set", "fine_tuning.chat.max_new_tokens=3")
    with LineTerminal() as terminal, ThreadPoolExecutor(1) as running:
        command = running.submit(
            modes_folder.command.run,
            arguments,
            cwd=modes_folder.folder,
            env=modes_folder.environment,
            terminal=terminal.name,
        )
        terminal.read_until("names the keys")
        terminal.read_until("you    ")
        terminal.send("unlok\x1b[Dc\r")  # one character to the left
        terminal.read_until("· loaded in")
        terminal.read_until("agreement: ")
        terminal.read_until("3 tokens · ")
        terminal.send("\r")
        terminal.read_until("6 tokens · ")
        terminal.send("\x1b[A\r")
        terminal.read_until("3 tokens · ", times=2)
        terminal.send("?\r")
        terminal.read_until("earlier questions")
        terminal.send("exit\r")
        assert command.result(timeout=300).returncode == 0
    assert "enter on an empty line goes on" in terminal.output
    with sqlite3.connect(modes_folder.folder / "training_data.db") as store:
        turns = store.execute("SELECT role, text FROM turns ORDER BY id DESC LIMIT 4").fetchall()
    assert [text for role, text in turns if role == "user"] == ["unlock", "unlock"]


def test_ctrl_c_leaves_while_the_model_is_still_loading(modes_folder: ModesFolder) -> None:
    """Importing torch takes seconds, on a busy machine a minute; nobody waits for it to end."""
    command = [*installed_command(), "--run", "chat"]
    before = sum(os.times()[2:4])  # processor seconds of children that have ended
    with Terminal(command, cwd=modes_folder.folder, env=modes_folder.environment) as terminal:
        terminal.read_until("you    ")
        terminal.send("\x03")
        assert terminal.wait(timeout=60) == 130
        assert sum(os.times()[2:4]) - before < 5, "torch alone takes ten seconds of a processor"


def test_the_conversation_is_in_the_store(modes_folder: ModesFolder) -> None:
    modes_folder.run("--run", "chat", "--prompt", "a question of its own")
    with sqlite3.connect(modes_folder.folder / "training_data.db") as store:
        roles = store.execute("SELECT role, text FROM turns ORDER BY id DESC LIMIT 2").fetchall()
    assert [role for role, _ in reversed(roles)] == ["user", "assistant"]
    assert roles[1][1] == "a question of its own"


def test_generation_in_a_terminal_shows_progress_and_ends(modes_folder: ModesFolder) -> None:
    command = [
        *installed_command(),
        "--run",
        "generate",
        "--store",
        "another.db",
        "--set",
        "data_generation.output_file=b.txt",
    ]
    with Terminal(command, cwd=modes_folder.folder, env=modes_folder.environment) as terminal:
        assert terminal.wait(timeout=60) == 0, terminal.output
    assert "6 of 6" in terminal.output or "accepted" in terminal.output


def test_training_in_a_terminal_goes_on_to_chat(modes_folder: ModesFolder) -> None:
    command, folder = ["--run", "train", "--set", "fine_tuning.training.max_steps=1"], modes_folder
    with Terminal(command, cwd=folder.folder, env=folder.environment, columns=120, warm=folder.command) as terminal:
        terminal.read_until("you", timeout=180)
        terminal.send("hello\r")
        terminal.read_until("tokens/s ·", timeout=60)
        terminal.send("exit\r")
        assert terminal.wait(timeout=60) == 0


def test_jobs_bring_models_but_no_screens(modes_folder: ModesFolder) -> None:
    found = modes_folder.command.loaded_packages()
    assert {"torch", "transformers", "peft"} <= found, "or the test looks in the wrong place"
    assert found & {"textual"} == set()


def test_the_key_is_nowhere_in_the_store_or_the_log(modes_folder: ModesFolder) -> None:
    for path in [*modes_folder.folder.glob("*.db*"), *(modes_folder.folder / "logs").glob("*")]:
        assert b"sk-test" not in path.read_bytes(), path
