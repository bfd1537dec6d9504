"""Completion of the command line in bash, zsh and fish: what is offered, and the file that a shell reads it from.

click writes the shell's function and answers it (the program is called with ``_LORA_TUI_COMPLETE`` set); here is where
that function goes. A shell that does not look there by itself gets one line in its startup file, once.
"""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import click
from click.shell_completion import CompletionItem, get_completion_class

from lora_tui.errors import LoraTuiError, UsageError
from lora_tui.files import write_atomically

COMPLETE_VARIABLE: Final = "_LORA_TUI_COMPLETE"
"""Environment variable by which a shell asks the program what may follow."""

SHELLS: Final = ("bash", "zsh", "fish")

THE_USED: Final = "auto"
"""``--install-completion`` without a shell's name."""

_BASH_COMPLETION: Final = (
    "/usr/share/bash-completion/bash_completion",
    "/etc/bash_completion",
    "/usr/local/etc/profile.d/bash_completion.sh",
    "/opt/homebrew/etc/profile.d/bash_completion.sh",
)
"""Where the package is that makes bash look for completions in a user's folder by itself."""


def choice_completer(choices: Sequence[str]) -> Callable[..., list[CompletionItem]]:
    """Return an option's ``shell_complete`` that offers those of `choices` that begin as the word does."""

    def offered(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(choice) for choice in choices if choice.startswith(incomplete)]

    return offered


def configuration_keys(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """``shell_complete`` of ``--set``: the keys of the configuration, each with its comment."""
    from lora_tui.config.keys import all_keys

    found = (key for key in all_keys().values() if key.name.startswith(incomplete))
    return [CompletionItem(f"{key.name}=", help=key.description) for key in found]


def install(command: click.Command, shell: str) -> list[str]:
    """Write the shell's completion file, and name it in a startup file where need be; returns what was done, in lines.

    `shell` is one of `SHELLS`, or `THE_USED` for the one that is used. Raises `UsageError` for any other, and
    `LoraTuiError` where a file cannot be written.
    """
    shell = _used_shell() if shell == THE_USED else shell
    if shell not in SHELLS:
        raise UsageError(f"--install-completion knows {', '.join(SHELLS)}, not {shell!r}. Name one of them after it.")
    file, startup, line = _places(shell)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, completion_script(command, shell))
        done = [f"{file} written."]
        if startup is not None and line not in (startup.read_text() if startup.exists() else ""):
            with startup.open("a") as opened:
                opened.write(f"\n# Completion of lora-tui\n{line}\n")
            done.append(f"One line added to {startup}: {line}")
    except (OSError, UnicodeDecodeError) as problem:
        raise LoraTuiError(f"The completion for {shell} cannot be written: {problem}.") from problem
    return [*done, f"Open a new {shell}, then type lora-tui --run and press tab."]


def completion_script(command: click.Command, shell: str) -> str:
    """Return the function that click writes for a shell."""
    shell_class = get_completion_class(shell)
    assert shell_class is not None
    return shell_class(command, {}, "lora-tui", COMPLETE_VARIABLE).source()


def _used_shell() -> str:
    """The shell that has started the program, else the user's own."""
    import psutil

    for name in (psutil.Process(os.getppid()).name(), Path(os.environ.get("SHELL", "")).name):
        if name.removeprefix("-") in SHELLS:
            return name.removeprefix("-")
    return Path(os.environ.get("SHELL", "")).name or "this shell"


def _places(shell: str) -> tuple[Path, Path | None, str]:
    """The completion file, the startup file that must name it (None: the shell finds it), and the line that does."""
    home = Path.home()
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local/share")
    if shell == "fish":
        configuration = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
        return configuration / "fish/completions/lora-tui.fish", None, ""
    if shell == "bash":
        file = data / "bash-completion/completions/lora-tui"
        found_by_itself = any(Path(path).exists() for path in _BASH_COMPLETION)
        startup = home / (".bash_profile" if sys.platform == "darwin" else ".bashrc")
        return file, None if found_by_itself else startup, f'. "{file}"'
    file = data / "lora-tui/completion.zsh"
    begun = "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }"
    return file, Path(os.environ.get("ZDOTDIR") or home) / ".zshrc", f'{begun}; . "{file}"'
