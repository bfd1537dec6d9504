"""Rich, set up for us: never markup or emoji out of data, no escape codes but on a terminal, no exit of its own."""

from typing import TextIO

from rich.console import Console


class DataConsole(Console):
    """A console that leaves a broken pipe to its caller; Rich would end the program with status 1."""

    def on_broken_pipe(self) -> None:
        """Raise the error that is being handled."""
        raise  # noqa: PLE0704  # Rich calls this inside its except clause


def make_console(stream: TextIO, *, is_terminal: bool) -> DataConsole:
    """Return a console on `stream`: FORCE_COLOR puts no escape codes into a pipe; NO_COLOR and COLUMNS are honoured."""
    return DataConsole(
        file=stream,
        force_terminal=None if is_terminal else False,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )
