"""What watchers can ask of a run beside stopping it, and which of it the phase that the run is in honours.

A job says with `Commands.honoured` what it honours while a part of it lasts: a quickstart can be paused while it writes
pairs and can be asked for a checkpoint while it trains. What comes too early, in the moment before its phase begins,
waits for one poll; what does not fit at all is answered with the reason. Everything here happens on the engine's loop.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager

from lora_tui.errors import LoraTuiError
from lora_tui.store.rows import Command

DONE = "done"
"""The outcome of a command that was obeyed."""

Handler = Callable[[], Awaitable[str]]
"""Obeys one command; returns its outcome."""

_GENERATION, _TRAINING = ("generate", "quickstart"), ("train", "quickstart")

FITTING = {
    "checkpoint": _TRAINING,
    "pause": _GENERATION,
    "continue": _GENERATION,
    "recount": _GENERATION,
}
"""The modes that each command has a meaning in."""


class Commands:
    """The commands that one run of a mode honours now."""

    def __init__(self, mode: str = "") -> None:
        self._mode = mode
        self._handlers: dict[str, Handler] = {}
        self._early: set[int] = set()

    @contextmanager
    def honoured(self, handlers: Mapping[str, Handler]) -> Iterator[None]:
        """Honour these commands while the ``with`` block lasts."""
        before = dict(self._handlers)
        self._handlers |= handlers
        try:
            yield
        finally:
            self._handlers = before

    def honour_from_now_on(self, kind: str, handler: Handler) -> None:
        """Honour a command to the very end of the run, after the job's own end too."""
        self._handlers[kind] = handler

    async def outcome(self, command: Command, *, last: bool) -> str | None:
        """Obey a command and return its outcome; None while it waits for its phase. `last` is after the job's end."""
        if command.kind not in FITTING:
            return f"unknown command {command.kind}"
        if self._mode not in FITTING[command.kind]:
            return f"{command.kind} means nothing to a run of mode {self._mode}"
        handler = self._handlers.get(command.kind)
        if handler is not None:
            try:
                return await handler()
            except LoraTuiError as problem:
                return f"failed: {problem}"
        if last:
            return "the run has ended"
        if command.id not in self._early:
            self._early.add(command.id)
            return None
        return "not now: the run is not training" if command.kind == "checkpoint" else "not now: it writes no pairs"
