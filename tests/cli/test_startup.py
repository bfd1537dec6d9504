"""Answers that need no work come at once, and the command line brings nothing heavy with it."""

import resource
import subprocess
import sys

from tests.cli.conftest import Program

HEAVY = ("torch", "transformers", "peft", "openai", "nltk", "textual", "rich", "pydantic", "aiosqlite")


def test_help_and_version_answer_at_once(program: Program) -> None:
    for word in ("--version", "--help"):
        seconds = []
        for _ in range(3):  # the best of three, in processor time: the machine may be busy, the program may not be slow
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            ended = program.run_anew("", word)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
            assert ended.status == 0
            assert ended.err == ""
        assert min(seconds) < 0.3


def test_reading_the_flags_imports_nothing_heavy(program: Program) -> None:
    code = f"import sys, lora_tui.cli.main; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], env=program.environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_help_names_every_option_of_the_contract(program: Program) -> None:
    shown = program.run_anew("", "--help").out
    assert "evaluate: questions to ask" in " ".join(shown.replace("│", " ").split())
    for name in (
        *("--run", "--generate-training-file", "--config", "--set", "--store", "--json", "--resume", "--log-level"),
        *("--version", "--help", "--train-data-file", "--runs", "--attach", "--doctor", "--no-chat", "--prompt"),
        *(
            "--adapter",
            "--config-schema",
            "--install-completion",
            "--format",
            "--output",
            "130 ",
            "143",
            "129",
            "141",
            "Examples:",
            "full-screen app",
        ),
    ):
        assert name in shown
    assert max(len(line) for line in shown.splitlines()) <= 80


def test_without_a_terminal_it_says_so_and_how_to_begin(program: Program) -> None:
    ended = program.run_anew("")
    assert ended.status == 0
    assert "`lora-tui` alone is the full-screen app" in ended.out
    assert "Here it cannot: the input is no terminal." in ended.out
    assert max(len(line) for line in ended.out.splitlines()) <= 80
    for way in ("--run quickstart", "--run generate", "--run train --train-data-file"):
        assert way in ended.out
    assert "Runs in" not in ended.out
    program.run_anew("train=echo", "--run", "train")
    assert "Runs in" in program.run_anew("").out
