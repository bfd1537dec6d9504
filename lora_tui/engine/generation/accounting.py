"""Every call is accounted for: the rows of attempts, and the token budget.

Effects are exactly once, calls at least once: the row of an attempt is committed before its request leaves, and the
attempt that answered is closed in the transaction that stores what follows from the answer (`StoredCall.settle`). A
process that dies in between leaves a row ``sent``, which is shown as a call of unknown cost.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from lora_tui.engine.generation.model import AttemptStatus, Usage
from lora_tui.store import tasks
from lora_tui.store.connection import Store
from lora_tui.store.tasks import AttemptEnd, AttemptTotals

T = TypeVar("T")

UNKNOWN_COST = ("lost", "cancelled", "timeout", "connection", "sent")
"""Attempts that may have been charged for though no usage was seen: their estimate counts against the budget."""


class BudgetSpent(Exception):  # noqa: N818  # a limit that was set, not an error
    """The next attempt would go beyond ``data_generation.budget_tokens``."""


class Ledger:
    """Tokens spent and reserved. The estimate of everything in flight is reserved, so that the budget holds."""

    def __init__(self, budget: int, spent: int) -> None:
        self._budget = budget
        self.spent = spent
        self.reserved = 0

    def reserve(self, tokens: int) -> None:
        """Set tokens aside for an attempt. Raises `BudgetSpent`; a budget of 0 is none."""
        if self._budget and self.spent + self.reserved + tokens > self._budget:
            raise BudgetSpent
        self.reserved += tokens

    def settle(self, reserved: int, used: int) -> None:
        """Replace a reservation by what was used."""
        self.reserved -= reserved
        self.spent += used


def spent_so_far(totals: list[AttemptTotals]) -> int:
    """Return the tokens that a run has spent, attempts of unknown cost at their estimate."""
    return sum(
        total.estimated_tokens if total.status in UNKNOWN_COST else total.prompt_tokens + total.completion_tokens
        for total in totals
    )


class StoredCall:
    """The `CallRecord` of one task."""

    def __init__(self, store: Store, run_id: int, task_id: int, ledger: Ledger) -> None:
        self._store = store
        self._run_id = run_id
        self._task_id = task_id
        self._ledger = ledger
        self._open: dict[int, int] = {}
        self._answered: list[tuple[int, AttemptEnd]] = []

    async def sent(self, estimated_tokens: int = 0) -> int:
        """Commit the attempt. Raises `BudgetSpent` before anything is stored."""
        self._ledger.reserve(estimated_tokens)
        return await to_its_end(self._begin(estimated_tokens))

    async def _begin(self, estimated_tokens: int) -> int:
        attempt = await tasks.begin_attempt(self._store, self._run_id, self._task_id, estimated_tokens)
        self._open[attempt] = estimated_tokens
        return attempt

    async def ended(
        self,
        attempt: int,
        status: AttemptStatus,
        *,
        usage: Usage | None = None,
        reply: str = "",
        error: str = "",
        http_status: int | None = None,
        request_id: str | None = None,
    ) -> None:
        """Keep an answer for `settle`; store any other end at once."""
        used = usage or Usage()
        reserved = self._open.pop(attempt)
        unknown = status in UNKNOWN_COST
        self._ledger.settle(reserved, reserved if unknown else used.prompt_tokens + used.completion_tokens)
        end = AttemptEnd(
            status=status,
            prompt_tokens=used.prompt_tokens,
            completion_tokens=used.completion_tokens,
            cached_tokens=used.cached_tokens,
            http_status=http_status,
            request_id=request_id,
            reply=reply,
            error=error,
        )
        if status == "ok":
            self._answered.append((attempt, end))
        else:
            await to_its_end(self._store_end(attempt, end))

    async def _store_end(self, attempt: int, end: AttemptEnd) -> None:
        async with self._store.transaction() as t:
            await tasks.end_attempt(t, attempt, end)

    async def settle(self, t: Store) -> None:
        """Store the answered attempt inside the transaction that stores what follows from it."""
        for attempt, end in self._answered:
            await tasks.end_attempt(t, attempt, end)
        self._answered.clear()

    async def abandon(self) -> None:
        """Close what the model left open when it was interrupted."""
        for attempt in list(self._open):
            await self.ended(attempt, "cancelled", error="given up while it was in flight")


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end even when the caller is cancelled in the meantime; the cancellation goes on after that.

    A transaction that is cut off half-way would leave the store's one connection inside it.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError:
                continue
        if not task.cancelled():
            task.exception()  # retrieved, so that asyncio does not complain: the cancellation is what counts
        raise
