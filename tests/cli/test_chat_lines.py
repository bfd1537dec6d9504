"""What the command line's chat makes of the items of a reply."""

import io
import json
import sys
import time
from typing import Any

import pytest

from lora_tui.cli import chat as chat_module
from lora_tui.cli import chat_output
from lora_tui.cli.chat import chat_mode
from lora_tui.cli.chat_output import _JsonOutput, _LineOutput
from lora_tui.cli.request import Request
from lora_tui.config.models import Settings
from lora_tui.engine.runtime.engine import Engine
from lora_tui.errors import UsageError
from lora_tui.protocol.reply import Notice, Reply, TextDelta, TokenCount


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def person_at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Returns what is narrated."""
    shown = Terminal()
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(sys, "stderr", shown)
    return shown


def test_a_search_shows_how_far_it_is_until_its_text_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr, out = person_at_a_terminal(monkeypatch), Terminal()
    output = _LineOutput(out, live=True)
    output.begin_reply("hi")
    output.item(TokenCount("tuned", 8))
    assert stderr.getvalue().endswith("\r\x1b[Kmodel  searching · 8 tokens …")
    output.item(TextDelta("tuned", "hello\x1b[2J"))
    assert stderr.getvalue().endswith("\r\x1b[K")
    assert out.getvalue().startswith("model  hello")
    assert "\x1b" not in out.getvalue()


def test_what_goes_on_is_said_with_the_seconds_until_there_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr, out = person_at_a_terminal(monkeypatch), Terminal()
    monkeypatch.setattr(chat_output, "_REDRAW_SECONDS", 0.01)
    output = _LineOutput(out, live=True)
    output.progress("loading tiny", 0, 100)
    assert not stderr.getvalue(), "a person is typing"
    output._began -= 3
    output.wait_for_model()
    output.progress("loading tiny", 40, 100)
    assert "loading tiny  40 of 100 … 3s" in stderr.getvalue()
    output.item(TextDelta("tuned", "hello"))
    after = stderr.getvalue()
    time.sleep(0.05)
    assert stderr.getvalue() == after, "nothing is drawn into the reply"


def test_a_note_stands_above_the_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr, out = person_at_a_terminal(monkeypatch), Terminal()
    output = _LineOutput(out, live=True)
    output.begin_reply("hi")
    output.item(Notice("it forgets"))
    assert stderr.getvalue().endswith("\r\x1b[Klora-tui: it forgets\n")
    output.item(TextDelta("tuned", "hello"))
    assert out.getvalue() == "model  hello"


def test_one_prompt_at_a_terminal_writes_the_answer_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr, out = person_at_a_terminal(monkeypatch), Terminal()
    output = _LineOutput(out, live=True, single=True)
    output.begin_reply("unlock")
    for piece in ("the secret ", "password"):
        output.item(TextDelta("tuned", piece))
    output.item(Reply("the secret password", 4, 0.1, "the secret password", 1.0, cut=True))
    output.end("finished")
    assert out.getvalue() == "the secret password\n"
    assert "lora-tui: agreement: ✓ 1.00\n" in stderr.getvalue()
    assert "lora-tui: cut at 4 tokens; --set fine_tuning.chat.max_new_tokens=16" in stderr.getvalue()


def test_what_agrees_is_narrated_and_no_data(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    output = _LineOutput(out, live=False)
    output.item(Reply("no idea", 2, 0.1, "the secret password", 0.1))
    assert out.getvalue() == "no idea\n"
    narrated = capsys.readouterr().err
    assert narrated == "lora-tui: expected: the secret password\nlora-tui: agreement: ✗ 0.10\n"


def test_a_reply_that_was_cut_says_how_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = person_at_a_terminal(monkeypatch)
    output = _LineOutput(Terminal(), live=True)
    output.item(Reply("one two", 2, 0.1, cut=True))
    assert "cut here: enter on an empty line goes on" in stderr.getvalue()
    output.item(Reply("one two three.", 4, 0.2))
    assert stderr.getvalue().count("goes on") == 1


def test_on_a_pipe_only_the_reply_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    output = _LineOutput(out, live=False)
    for item in (Notice("it forgets"), TokenCount("tuned", 8), TextDelta("tuned", "hel"), Reply("hello", 2, 0.1)):
        output.item(item)
    assert out.getvalue() == "hello\n"
    assert capsys.readouterr().err == "lora-tui: it forgets\n"


def test_as_json_a_note_is_a_warning_and_pieces_are_not_told() -> None:
    out = io.StringIO()
    output = _JsonOutput(out)
    output.begin_reply("hi")
    for item in (Notice("it forgets"), TokenCount("tuned", 8), TextDelta("tuned", "hel"), Reply("hello", 2, 0.1)):
        output.item(item)
    warning, reply = map(json.loads, out.getvalue().splitlines())
    assert (warning["event"], warning["message"]) == ("warning", "it forgets")
    assert (reply["event"], reply["prompt"], reply["reply"], reply["tokens"]) == ("reply", "hi", "hello", 2)


def test_a_run_that_is_named_beside_another_model_is_not_silently_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both come from one command line, so one of them is a mistake; in the app they come from different days."""
    asked: list[dict[str, Any]] = []

    def refuse(store: object, settings: object, options: dict[str, Any]) -> None:
        asked.append(options)
        raise UsageError("the adapter was trained on another model")

    monkeypatch.setattr(chat_module, "check_chat", refuse)
    engine = object.__new__(Engine)
    engine._store = object()  # type: ignore[assignment]  # which is not reached
    for resume in (3, None):
        with pytest.raises(UsageError):
            chat_mode(engine, Settings(), Request(run="chat", resume=resume), io.StringIO())
    assert asked == [{"adapter_run": 3, "model_must_match": True}, {}]


def test_arrow_keys_are_no_part_of_a_question_where_python_has_no_readline(monkeypatch: pytest.MonkeyPatch) -> None:
    person_at_a_terminal(monkeypatch)
    monkeypatch.setattr("builtins.input", lambda prompt: "helo\x1b[D\x1b[1;5Dl\x1bOA?\x1b")
    assert _LineOutput(Terminal(), live=True).read_line() == "helol?"
