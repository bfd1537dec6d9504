"""What a person sees: plain lines on a pipe, a display on a terminal, nothing that acts on the terminal in either."""

import json
import re
import signal
from pathlib import Path

import pytest

from tests.cli.conftest import Program

BASE = ("--set", "fine_tuning.model_name=builtin")
"""Names a base model: with nothing trained, there is nothing else to chat with."""


def test_a_pipe_gets_plain_lines_without_escape_codes(program: Program) -> None:
    for variable in ("FORCE_COLOR", "TTY_COMPATIBLE", "CLICOLOR_FORCE"):
        program.environment[variable] = "1"
    ended = program.run("generate=noisy", "--run", "generate")
    assert ended.status == 0
    for text in (ended.out, ended.err):
        assert "\x1b" not in text
        assert "\r" not in text
        assert "\x9b" not in text
    assert "run 1: generate" in ended.err
    assert "✓  8.4  what is ␛]52" in ended.err
    assert "[bold]this[/bold] [/]" in ended.err
    assert "step 3/3  loss 0.667  lr 1e-3" in ended.err
    assert "evaluation at step 3: score 0.64" in ended.err
    assert "saved (best, step 3, score 0.64): checkpoints/run-1/best" in ended.err
    assert "warning: the warm-up is longer than the run" in ended.err
    assert "1 of 100 accepted, 1 rejected, 1 for review" in ended.err
    assert "lora-tui: run 1 finished in " in ended.err


def test_results_go_to_stdout_and_narration_does_not(program: Program) -> None:
    ended = program.run("quickstart=noisy", "--run", "quickstart")
    assert "rainbow unicorn" in ended.out
    assert "adapter   checkpoints/run-1/best" in ended.out
    assert "Go on with:\n  lora-tui --run chat" in ended.out
    assert "loss" not in ended.out
    assert "a library warns" not in ended.out + ended.err


def test_a_terminal_gets_a_display_that_leaves_nothing_behind(program: Program) -> None:
    with program.warm_terminal("train=until_told", "--run", "train", "--no-chat") as terminal:
        terminal.read_until("1m 00s left")
        shown = terminal.read_until("━")
        # The cursor is never left hidden: a crash in native code could not bring it back.
        assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
        (program.folder / "go").touch()
        assert terminal.wait() == 0
        shown = terminal.output
    assert "step 1/2  loss 2.000" in shown
    assert "lora-tui: run 1 finished in" in shown


def test_a_pause_is_told_and_stands_in_the_display_until_it_is_over(program: Program) -> None:
    with program.warm_terminal("generate=pausing", "--run", "generate", columns=100) as terminal:
        terminal.read_until("paused: calls in flight are still answered")
        terminal.read_until("1 of 3 accepted, 0 rejected, paused")
        (program.folder / "go").touch()
        assert terminal.wait() == 0
        assert "the pause is over" in terminal.output


def test_hostile_text_does_not_reach_a_terminal(program: Program) -> None:
    with program.warm_terminal("quickstart=noisy", "--run", "quickstart") as terminal:
        assert terminal.wait() == 0
        shown = terminal.output
    assert "\x1b]52" not in shown
    assert "\x07" not in shown
    assert "\x9b" not in shown
    assert "[bold]this[/bold]" in shown


@pytest.mark.parametrize(("variable", "value"), [("TERM", "dumb")])
def test_a_dumb_terminal_gets_plain_lines(program: Program, variable: str, value: str) -> None:
    program.environment[variable] = value
    with program.warm_terminal("train=noisy", "--run", "train", "--no-chat") as terminal:
        assert terminal.wait() == 0
        assert "\x1b" not in terminal.output
        assert "step 3/3" in terminal.output


def test_no_color_is_honoured(program: Program) -> None:
    program.environment["NO_COLOR"] = "1"
    with program.warm_terminal("train=noisy", "--run", "train", "--no-chat") as terminal:
        assert terminal.wait() == 0
        colours = [code for code in re.findall(r"\x1b\[([0-9;]*)m", terminal.output) if re.search(r"\b[349]\d\b", code)]
        assert colours == []


def test_a_failure_in_our_code_names_the_log_and_shows_no_traceback(program: Program) -> None:
    ended = program.run("generate=mistaken", "--run", "generate")
    log = Path(program.environment["LORA_TUI_LOGS"], "lora-tui.log")
    assert ended.status == 1
    assert "something went wrong that is not your doing: ZeroDivisionError" in ended.err
    assert f"The log has the details: {log}" in ended.err
    assert "Traceback" not in ended.err
    assert "Traceback" in log.read_text()
    assert "abc.def-123" not in log.read_text() + ended.err + ended.out


def test_debug_shows_the_traceback_too(program: Program) -> None:
    ended = program.run("generate=mistaken", "--run", "generate", "--log-level", "DEBUG")
    assert "Traceback" in ended.err
    assert "abc.def-123" not in ended.err


def test_a_mistake_of_the_user_has_two_lines_and_no_key(program: Program) -> None:
    program.environment["OPENAI_API_KEY"] = "a-secret-of-mine"
    ended = program.run("generate=unreachable", "--run", "generate")
    assert ended.status == 3
    assert ended.err.splitlines()[-2:] == [
        "lora-tui: http://localhost:1 refuses the key [redacted].",
        "Check ␛[2J it.",
    ]
    assert "a-secret-of-mine" not in ended.out + ended.err


def test_a_refusal_shows_no_key_either(program: Program) -> None:
    program.environment["OPENAI_API_KEY"] = "a-secret-of-mine"
    ended = program.run("", "--attach", "1", "--store", "a-secret-of-mine.db", "--json")
    assert ended.status == 2
    assert "[redacted].db" in ended.err
    assert "a-secret-of-mine" not in ended.out + ended.err


def test_a_failed_run_still_shows_what_it_has(program: Program) -> None:
    ended = program.run("generate=partly", "--run", "generate")
    assert ended.status == 1
    assert "accepted  3" in ended.out
    assert ended.err.splitlines()[-1] == "lora-tui: nothing new was accepted in a whole pass"


def put_in_place_of_the_chat(program: Program, body: str) -> None:
    """Have the program find another chat, which says how it was entered."""
    folder = program.folder / "chat"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import sys, types\n"
        "chat = types.ModuleType('lora_tui.cli.chat')\n"
        "def chat_mode(engine, settings, request, out):\n"
        "    print(f'chatting with {request.resume} {request.adapter} {request.prompt} {request.json_lines}', "
        "file=out, flush=True)\n"
        f"{body}"
        "chat.chat_mode = chat_mode\n"
        "sys.modules['lora_tui.cli.chat'] = chat\n"
    )
    program.environment["PYTHONPATH"] = f"{folder}:{program.environment['PYTHONPATH']}"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGHUP, 129), (signal.SIGTERM, 143)])
def test_a_chat_ends_with_its_terminal_and_at_sigterm(program: Program, number: signal.Signals, status: int) -> None:
    put_in_place_of_the_chat(program, "    input('say: ')\n")
    with program.terminal("x=y", "--run", "chat", *BASE) as terminal:
        terminal.read_until("say: ")
        if number == signal.SIGHUP:
            terminal.hang_up()
        else:
            terminal.signal(number)
        assert terminal.process.wait(60) == status


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_that_interrupts_no_read_ends_a_chat_too(program: Program, name: str, status: int) -> None:
    """As it is when it comes between the prompt and the read: here it comes on another thread."""
    send = f"lambda: (time.sleep(0.5), signal.pthread_kill(threading.get_ident(), signal.{name}), time.sleep(60))"
    thread = f"    import signal, threading, time; threading.Thread(target={send}, daemon=True).start()\n"
    put_in_place_of_the_chat(program, thread + "    input('say: ')\n")
    with program.terminal("x=y", "--run", "chat", *BASE) as terminal:
        terminal.read_until("say: ")
        assert terminal.process.wait(60) == status


def test_a_chat_that_is_stopped_still_ends_its_json_lines(program: Program) -> None:
    put_in_place_of_the_chat(program, "    import time; time.sleep(30)\n")
    with program.start("x=y", "--run", "chat", "--json", *BASE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        done = json.loads(process.rest()[-1])
        assert process.returncode == 143
    assert (done["event"], done["status"], done["exit_status"]) == ("done", "interrupted", 143)


def test_training_in_a_terminal_goes_on_to_chat_unless_told_not_to(program: Program) -> None:
    """The chat itself is another module's: here it is one that says that it was entered."""
    put_in_place_of_the_chat(program, "    return 0\n")
    with program.terminal("train=echo", "--run", "train") as terminal:
        assert terminal.wait() == 0
        assert "chatting with 1 None None False" in terminal.output
    with program.terminal("train=echo", "--run", "train", "--no-chat") as terminal:
        assert terminal.wait() == 0
        assert "chatting" not in terminal.output
    assert "chatting" not in program.run_anew("train=echo", "--run", "train").out
    answered = program.run_anew("train=echo", "--run", "chat", "--prompt", "unlock", "--json", "--adapter", "x")
    assert answered.out == "chatting with None x unlock True\n"
