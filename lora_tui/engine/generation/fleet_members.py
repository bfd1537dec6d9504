"""The endpoints of a fleet: who is asked next, who is left out and why, and when one that was away is back.

A task goes to the endpoint that is busiest least, measured by what each can take (`Endpoint.room`), and waits where all
are full; judging goes before writing. One that stops answering, or cannot be reached, is left out and looked at every
few seconds without sending anything of the user's; once something answers there, one task proves it. One that refuses
the key, has no such model or no credit is left out for the rest of the run. Only where none is left does the run wait,
or end, as it does with a single endpoint.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from lora_tui.engine.generation.generation_model import (
    CallStopped,
    EndpointGoneError,
    EndpointState,
    EndpointStatus,
)
from lora_tui.engine.generation.remote_model import RemoteModel
from lora_tui.engine.runtime.context import Emit
from lora_tui.errors import UnreachableError
from lora_tui.text import count, duration

WRITES, JUDGES = "writes", "judges"

_FIRST_LOOK, _LONGEST_BETWEEN_LOOKS = 1.0, 15.0
"""Seconds between two looks at an endpoint that is away, at first and at most."""

_TICK = 0.5
"""Seconds after which those who wait look again, though nobody has told them of room: a hold may have ended."""


@dataclass(eq=False)
class Member:
    """One endpoint of a fleet; `roles` are `WRITES`, `JUDGES` or both.

    `taken` are tasks that it has now, `answers` those that it has done. `reason` is why it was left out, empty for one
    that is asked; `is_tried`: it was away, and has one task to prove that it is back.
    """

    model: RemoteModel
    roles: Sequence[str]
    taken: int = 0
    answers: int = 0
    reason: str = ""
    is_tried: bool = False
    is_lost: bool = False
    probing: asyncio.Task[None] | None = field(default=None, repr=False)
    trial_ended: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    @property
    def url(self) -> str:
        """The address as it may be shown."""
        return self.model.endpoint.shown_url

    @property
    def is_up(self) -> bool:
        """Whether it is asked."""
        return not self.reason

    @property
    def room(self) -> int:
        """Tasks that it should have under way; 0 where it is left out."""
        if not self.is_up:
            return 0
        return 1 if self.is_tried else self.model.endpoint.room

    def status(self) -> EndpointStatus:
        """Return it as it is shown."""
        state: EndpointState = "tried" if self.is_tried else "works"
        if not self.is_up:
            state = "left out" if self.is_lost else "away"
        return EndpointStatus(self.url, self.roles, state, self.model.endpoint.load, self.answers, self.reason)


class Members:
    """Hands out the endpoints of a run to its tasks: `all` of them, in the order of the configuration.

    `give_up_after` are the seconds for which all may be away.
    """

    def __init__(self, give_up_after: float, stop: asyncio.Event, warn: Callable[[str], None], emit: Emit) -> None:
        self.all: list[Member] = []
        self._give_up_after = give_up_after
        self._stop = stop
        self._warn = warn
        self._emit = emit
        self._waiting = {JUDGES: deque[asyncio.Future[Member]](), WRITES: deque[asyncio.Future[Member]]()}
        self._all_away_since: dict[str, float] = {}

    async def close(self) -> None:
        """End the looks at those that are away."""
        for member in self.all:
            if member.probing is not None:
                member.probing.cancel()
                with suppress(asyncio.CancelledError):
                    await member.probing

    def others_have_room(self, place: int) -> bool:
        """Tell whether another endpoint than the one at a place, of the same role, can take a task now."""
        own = self.all[place]
        return any(
            one is not own
            and one.taken < one.room
            and not one.model.endpoint.is_held
            and set(one.roles) & set(own.roles)
            for one in self.all
        )

    async def take(self, role: str) -> Member:
        """Return the endpoint for a task, which must `release` it.

        Raises `CallStopped`, and `UnreachableError` where no endpoint of this role is left.
        """
        while True:
            if self._stop.is_set():
                raise CallStopped
            self._raise_if_none_is_left(role)
            if not self._waiting[role] and (member := self._least_busy(role)) is not None:
                member.taken += 1
                return member
            turn: asyncio.Future[Member] = asyncio.get_running_loop().create_future()
            self._waiting[role].append(turn)
            try:
                await asyncio.wait([turn], timeout=_TICK)
            except asyncio.CancelledError:
                if turn.done():
                    self.release(turn.result())
                raise
            finally:
                if not turn.done():
                    turn.cancel()
                    self._waiting[role].remove(turn)
            if not turn.cancelled():
                return turn.result()
            self._hand_out()

    def release(self, member: Member) -> None:
        """Take back what a task had."""
        member.taken -= 1
        self._hand_out()

    def answered(self, member: Member) -> None:
        """Take note of a task that an endpoint has done."""
        member.answers += 1
        member.is_tried = False
        member.trial_ended.set()
        for role in member.roles:
            self._end_wait(role)

    def leave_out(self, member: Member, reason: str) -> None:
        """Leave an endpoint out, of which a task has found that it cannot be asked; it is looked at if that may end."""
        if not member.is_up:
            return
        was_tried = member.is_tried
        member.reason, member.is_tried = reason, False
        member.trial_ended.set()
        member.is_lost = not member.model.endpoint.may_come_back
        left = sum(one.is_up and bool(set(one.roles) & set(member.roles)) for one in self.all)
        what, _, advice = reason.partition("\n")
        if member.is_lost:
            self._warn(f"{what}\n{advice}\nIt is left out; {self._goes_on(left)}.".replace("\n\n", "\n"))
        elif not was_tried:
            self._warn(f"{member.url} is left out until it answers again ({what}); {self._goes_on(left)}.")
        if not member.is_lost and (member.probing is None or member.probing.done()):
            member.probing = asyncio.create_task(self._look_until_back(member))
        self._hand_out()

    def _goes_on(self, left: int) -> str:
        if not left:
            return "no other endpoint can be asked"
        return f"{count(left, 'other endpoint goes', 'other endpoints go')} on"

    async def _look_until_back(self, member: Member) -> None:
        """Look at an endpoint that is away, until something answers there; it then gets one task."""
        pause, since = _FIRST_LOOK, time.monotonic()
        while not member.is_up:
            await asyncio.sleep(pause)
            pause = min(_LONGEST_BETWEEN_LOOKS, 1.5 * pause)
            if not await member.model.endpoint.looks_alive():
                continue
            member.reason, member.is_tried = "", True
            member.trial_ended.clear()
            self._hand_out()
            await member.trial_ended.wait()
        self._warn(f"{member.url} answers again after {duration(time.monotonic() - since)} and is asked again.")

    def _least_busy(self, role: str) -> Member | None:
        """Return the endpoint with room that is busiest least; one that asks to wait only if it must be."""
        able = [one for one in self.all if role in one.roles and one.taken < one.room]
        ready = [one for one in able if not one.model.endpoint.is_held]
        others = any(one.is_up and role in one.roles and not one.model.endpoint.is_held for one in self.all)
        found = ready if ready or others else able
        return min(found, key=lambda one: one.taken / one.room, default=None)

    def _hand_out(self) -> None:
        """Give endpoints with room to those who wait, judging before writing."""
        for role, queue in self._waiting.items():
            while queue and (member := self._least_busy(role)) is not None:
                turn = queue.popleft()
                if not turn.done():
                    member.taken += 1
                    turn.set_result(member)

    def _raise_if_none_is_left(self, role: str) -> None:
        """Raise where no endpoint of a role will answer any more; begin to wait where all of them are away."""
        ours = [one for one in self.all if role in one.roles]
        if any(one.is_up for one in ours):
            self._end_wait(role)
            return
        reasons = "\n".join(dict.fromkeys(one.reason for one in ours))
        if all(one.is_lost for one in ours) or not any(one.model.endpoint.has_answered for one in ours):
            raise UnreachableError(reasons)
        since = self._all_away_since.get(role)
        if since is None and self._give_up_after:
            self._all_away_since[role] = time.monotonic()
            patience = f"{duration(self._give_up_after)} (data_generation.give_up_after)"
            message = (
                f"No endpoint that {role} answers. The run waits, looks every few seconds whether one is back, and "
                f"goes on by itself; it gives up after {patience}."
            )
            self._emit("waiting", waiting=True, reason=reasons.replace("\n", " "), message=message)
        elif since is None or time.monotonic() - since >= self._give_up_after:
            raise EndpointGoneError(
                f"No endpoint that {role} answers any more: {reasons.replace(chr(10), ' ')}\n"
                "What was done is stored; go on with --resume when one is back."
            )

    def _end_wait(self, role: str) -> None:
        if (since := self._all_away_since.pop(role, None)) is not None:
            away = duration(time.monotonic() - since)
            message = f"An endpoint that {role} answers again after {away}; the run goes on."
            self._emit("waiting", waiting=False, reason="", message=message)
