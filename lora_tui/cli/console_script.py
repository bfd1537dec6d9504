"""The entry point: chooses between the full-screen app, which must be on the screen at once, and everything else.

Apart from `main`, so that nothing is imported which the app's first paint does not need: for the app the command line
is read in the parent process, which has nothing else to do.
"""

import gc
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from lora_tui.backend.session import AppLaunch

_APP_OPTIONS = ("--attach", "--config", "--set", "--store", "--log-level", "--no-chat")
"""The options that the app has; any other one asks for something else."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the program and end the process."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    if _may_open_app(argv):
        gc.disable()  # until something is on the screen: a tenth of the start went into looking for garbage
        from lora_tui.backend.session import run_app
        from lora_tui.terminal.streams import Streams

        streams = Streams()
        if streams.cannot_draw is None:
            sys.exit(run_app(streams, lambda: _prepare(argv)))
    gc.enable()
    try:
        from lora_tui.cli.main import main as command_line
    except (OSError, MemoryError, ImportError) as problem:
        from lora_tui.system_errors import explain

        if (explained := explain(problem)) is None:
            raise
        sys.exit(f"lora-tui: {explained}")
    command_line(argv)


def _prepare(argv: list[str]) -> "AppLaunch":
    from lora_tui.cli.main import prepare_app

    return prepare_app(argv)


def _may_open_app(argv: Sequence[str]) -> bool:
    """Whether all options are the app's; their values, and mistakes in them, are for the real parser.

    Never while a shell asks what may follow, which click answers.
    """
    return "_LORA_TUI_COMPLETE" not in os.environ and all(
        word.partition("=")[0] in _APP_OPTIONS for word in argv if word.startswith("-")
    )
