"""Completion in shells: where the file goes, what is said, and what bash offers with it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lora_tui.cli import completion
from lora_tui.cli.main import command, parse
from lora_tui.errors import LoraTuiError, UsageError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "ZDOTDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(completion, "_BASH_COMPLETION", ())
    return tmp_path


def test_each_shell_gets_its_file_and_is_told_of_it_once(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile = ".bash_profile" if sys.platform == "darwin" else ".bashrc"
    for shell, file, startup in (
        ("bash", ".local/share/bash-completion/completions/lora-tui", profile),
        ("zsh", ".local/share/lora-tui/completion.zsh", ".zshrc"),
        ("fish", ".config/fish/completions/lora-tui.fish", None),
    ):
        if startup is not None:
            (home / startup).write_text("alias ll='ls -l'")
        for _ in range(2):
            assert parse(["--install-completion", shell]) is None
        assert "_LORA_TUI_COMPLETE" in (home / file).read_text()
        told = capsys.readouterr()
        assert told.out == ""
        assert told.err.count(f"{home / file} written.") == 2
        if startup is not None:
            text = (home / startup).read_text()
            assert text.startswith("alias ll='ls -l'\n")
            assert text.count(str(home / file)) == 1
            assert told.err.count(f"One line added to {home / startup}") == 1


def test_a_bash_that_looks_for_completions_by_itself_keeps_its_startup_file(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completion, "_BASH_COMPLETION", (__file__,))
    completion.install(command, "bash")
    assert [path.name for path in home.iterdir()] == [".local"]


def test_without_a_name_it_is_the_shell_in_use(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SHELL", "/opt/bin/fish")
    monkeypatch.setattr("psutil.Process.name", lambda self: "tmux")
    parse(["--install-completion"])
    assert "lora-tui.fish written." in capsys.readouterr().err
    monkeypatch.setattr("psutil.Process.name", lambda self: "-zsh")
    parse(["--install-completion"])
    assert "completion.zsh written." in capsys.readouterr().err


def test_another_shell_and_a_folder_that_cannot_be_written_are_told(home: Path) -> None:
    with pytest.raises(UsageError, match="knows bash, zsh, fish, not 'tcsh'"):
        parse(["--install-completion", "tcsh"])
    (home / ".config").touch()
    with pytest.raises(LoraTuiError, match="The completion for fish cannot be written"):
        parse(["--install-completion", "fish"])


@pytest.mark.skipif(shutil.which("bash") is None and not os.environ.get("CI"), reason="there is no bash")
def test_bash_completes_options_modes_and_keys(home: Path) -> None:
    folder = home / "bin"
    folder.mkdir()
    program = folder / "lora-tui"
    program.write_text(
        f'#!/bin/sh\nPYTHONPATH="{Path(__file__).parents[2]}" exec "{sys.executable}" -m lora_tui "$@"\n'
    )
    program.chmod(0o755)
    completion.install(command, "bash")
    script = """
    . ~/.bashrc
    for words in "--inst" "--run t" "--set fine_tuning.scheduler."; do
        COMP_WORDS=(lora-tui $words) COMP_CWORD=$(( $(wc -w <<< "$words") )) COMPREPLY=()
        _lora_tui_completion lora-tui
        echo "${COMPREPLY[@]}"
    done
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", script], env={"HOME": str(home), "PATH": f"{folder}:/usr/bin:/bin"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        "--install-completion", "train", "fine_tuning.scheduler.type= fine_tuning.scheduler.warmup_steps=",
    ], done.stderr  # fmt: skip
