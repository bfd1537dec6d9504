"""Consent to run the commands that a configuration file names: ``data_generation.extractors``, ``notify.on_finish``.

The address of ``notify.webhook``, with the variable whose value it is sent, is asked about in the same way.

A configuration can come from anywhere, with a folder of texts or a repository. People are asked once for each file and
its commands; nobody about commands that the command line, the environment or the app itself names. `key_consent` keeps
the answers, and the app and the command line ask.
"""

import os
from dataclasses import asdict, dataclass
from pathlib import Path

from lora_tui.config.generation import DataGeneration
from lora_tui.config.key_consent import allow, allowed
from lora_tui.config.models import Notify
from lora_tui.text import one_line

_FILE = "allowed_commands.json"
_NOTIFY_FILE = "allowed_endings.json"
_SHOWN = 4
_LONGEST = 600


def _whole(command: str) -> str:
    """Return a command as it is asked about: whole, for its end runs as well, and with its line breaks to be seen."""
    shown = one_line(" ⏎ ".join(command.strip().splitlines()), _LONGEST)
    return f"{shown} (and {len(command) - _LONGEST:,} more characters)" if len(command) > _LONGEST else shown


@dataclass(frozen=True, slots=True)
class CommandQuestion:
    """What is to be asked: may these `commands` ("suffix: command") of `file` be run?"""

    commands: tuple[str, ...]
    file: str

    @property
    def text(self) -> str:
        """The question."""
        shown = "\n".join(f"  {_whole(command)}" for command in self.commands[:_SHOWN])
        more = f"\n  and {len(self.commands) - _SHOWN} more" if len(self.commands) > _SHOWN else ""
        return f"{one_line(self.file, 100)} names commands that read files:\n{shown}{more}\nRun them?"

    @property
    def refusal(self) -> str:
        """The message where nobody can be asked."""
        return (
            f"{one_line(self.file, 100)} names a command to read files with ({one_line(self.commands[0], 80)}); it is "
            "not run before you allow it.\n"
            "If you mean it, answer yes in a terminal, or give it with --set data_generation.extractors.SUFFIX=COMMAND."
        )


def command_question(chosen: DataGeneration, named_in: Path | None) -> CommandQuestion | None:
    """Return what has to be asked before a run, or None. `named_in` is the file that names commands, if one does."""
    if not chosen.extractors or named_in is None:
        return None
    commands = tuple(f"{suffix}: {command}" for suffix, command in sorted(chosen.extractors.items()))
    question = CommandQuestion(commands, str(named_in.absolute()))
    return None if _stored(question) in allowed(_FILE) else question


@dataclass(frozen=True, slots=True)
class NotifyQuestion:
    """What is to be asked: may the end of runs be told by this command and to this address of `file`?"""

    on_finish: str
    webhook: str
    token_env: str
    file: str

    @property
    def text(self) -> str:
        """The question."""
        lines = [f"  it runs {_whole(self.on_finish)}"] if self.on_finish else []
        is_sent = self.token_env in os.environ or self.token_env != Notify.model_fields["webhook_token_env"].default
        token = f", with the value of {self.token_env}" if is_sent else ""  # one that is set later is sent, too
        lines += [f"  it sends a message to {one_line(self.webhook, 100)}{token}"] if self.webhook else []
        shown = "\n".join(lines)
        return f"{one_line(self.file, 100)} has something done when a run ends:\n{shown}\nAllow it?"

    @property
    def refusal(self) -> str:
        """The message where nobody can be asked."""
        return (
            f"{one_line(self.file, 100)} names a command or an address for the end of runs (notify.on_finish, "
            "notify.webhook); it is not used before you allow it: answer yes in a terminal, or give it with --set."
        )


def notify_question(chosen: Notify, named_in: Path | None) -> NotifyQuestion | None:
    """Return what has to be asked before the end of a run is told, or None. `named_in` is as in `command_question`."""
    if named_in is None or not (chosen.on_finish or chosen.webhook):
        return None
    file = str(named_in.absolute())
    question = NotifyQuestion(chosen.on_finish, chosen.webhook, chosen.webhook_token_env, file)
    return None if asdict(question) in allowed(_NOTIFY_FILE) else question


def allow_notify(question: NotifyQuestion) -> None:
    """Remember that a question was answered with yes. Raises `LoraTuiError` where that cannot be written."""
    allow(_NOTIFY_FILE, asdict(question))


def allow_commands(question: CommandQuestion) -> None:
    """Remember that a question was answered with yes. Raises `LoraTuiError` where that cannot be written."""
    allow(_FILE, _stored(question))


def _stored(question: CommandQuestion) -> dict[str, object]:
    return {**asdict(question), "commands": list(question.commands)}
