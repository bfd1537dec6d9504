"""The console script: chooses between the full-screen app, which must be on the screen at once, and everything else.

Nothing is imported here that the app's first paint does not need. The command line is read by whoever has the time: for
the app that is the waiting parent process.
"""

import gc
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from lora_tui.backend.session import AppLaunch

_APP_OPTIONS = ("--attach", "--config", "--set", "--store", "--log-level", "--no-chat")
"""Options that can stand beside nothing at all: with any other one something else is asked for."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the program and end the process."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if _may_open_the_app(words):
        gc.disable()  # until something is on the screen: a tenth of the start went into looking for garbage
        from lora_tui.backend.session import run_app
        from lora_tui.terminal.streams import Streams

        streams = Streams()
        if streams.cannot_draw is None:
            sys.exit(run_app(streams, lambda: _prepare(words)))
    gc.enable()
    from lora_tui.cli.main import main as command_line

    command_line(words)


def _prepare(words: list[str]) -> "AppLaunch":
    from lora_tui.cli.main import prepare_app

    return prepare_app(words)


def _may_open_the_app(words: Sequence[str]) -> bool:
    """Tell whether the options are the app's; their values, and mistakes in them, are for the real reading."""
    return all(word.partition("=")[0] in _APP_OPTIONS for word in words if word.startswith("-"))
