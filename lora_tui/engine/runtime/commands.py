"""Commands that watchers send to a run beside stop, and the handlers that its current phase has for them.

A job registers handlers with `Commands.handling` for as long as a phase lasts: a quickstart can be paused while it
generates pairs and asked for a checkpoint while it trains. A command that comes just before its phase begins waits for
one poll; one that does not fit is answered with the reason. Everything here happens on the engine's loop.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager

from lora_tui.errors import LoraTuiError
from lora_tui.store.rows import Command

DONE = "done"
"""The outcome of a command that was carried out."""

Handler = Callable[[], Awaitable[str]]
"""Carries out one command; returns its outcome."""

_GENERATION, _TRAINING = ("generate", "quickstart"), ("train", "quickstart")

MODES_OF_COMMAND = {
    "checkpoint": _TRAINING,
    "pause": _GENERATION,
    "continue": _GENERATION,
    "recount": _GENERATION,
    "topics": _GENERATION,
}
"""The modes in which each command has a meaning."""


class Commands:
    """The command handlers of one run."""

    def __init__(self, mode: str = "") -> None:
        self._mode = mode
        self._handlers: dict[str, Handler] = {}
        self._postponed: set[int] = set()

    @contextmanager
    def handling(self, handlers: Mapping[str, Handler]) -> Iterator[None]:
        """Have these handlers, by kind of command, while the ``with`` block lasts."""
        before = dict(self._handlers)
        self._handlers |= handlers
        try:
            yield
        finally:
            self._handlers = before

    def handle_until_end(self, kind: str, handler: Handler) -> None:
        """Have a handler to the very end of the run, after the job's own end too."""
        self._handlers[kind] = handler

    async def handle(self, command: Command, *, last: bool) -> str | None:
        """Carry out a command and return its outcome; None while it waits. `last` says that the job has ended."""
        if command.kind not in MODES_OF_COMMAND:
            return f"unknown command {command.kind}"
        if self._mode not in MODES_OF_COMMAND[command.kind]:
            return f"{command.kind} means nothing to a run of mode {self._mode}"
        handler = self._handlers.get(command.kind)
        if handler is not None:
            try:
                return await handler()
            except LoraTuiError as problem:
                return f"failed: {problem}"
        if last:
            return "the run has ended"
        if command.id not in self._postponed:
            self._postponed.add(command.id)
            return None
        return "not now: the run is not training" if command.kind == "checkpoint" else "not now: it writes no pairs"
