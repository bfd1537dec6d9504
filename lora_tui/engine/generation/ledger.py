"""Every call is accounted for: the rows of attempts, and the budgets of tokens and dollars.

Effects are exactly once, calls at least once: the row of an attempt is committed before its request leaves, and the
attempt that answered is closed in the transaction that stores what follows from the answer (`StoredCall.settle`). A
process that dies in between leaves a row ``sent``, which is shown as a call of unknown cost.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from lora_tui.config.models import DataGeneration
from lora_tui.engine.generation.generation_model import AttemptStatus, Usage
from lora_tui.engine.models.builtin import BUILTIN
from lora_tui.store import tasks
from lora_tui.store.connection import Store
from lora_tui.store.tasks import AttemptEnd, AttemptTotals

T = TypeVar("T")

UNKNOWN_COST = ("lost", "cancelled", "timeout", "connection", "sent")
"""Attempts that may have been charged for though no usage was seen: their estimate counts against the budget."""


class BudgetSpent(Exception):  # noqa: N818  # a limit that was set, not an error
    """The next attempt would go beyond a budget; the text says which."""


@dataclass(frozen=True, slots=True)
class Prices:
    """US dollars for a million tokens sent, and written. 0 is not known; tokens from a server's cache count in full."""

    prompt: float = 0.0
    completion: float = 0.0

    @property
    def known(self) -> bool:
        """Whether there is anything to reckon with."""
        return self.prompt > 0 or self.completion > 0

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return what these tokens cost, in dollars."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6

    def at_most(self, tokens: int) -> float:
        """Return what tokens can cost at most, whichever way they go."""
        return tokens * max(self.prompt, self.completion) / 1e6


def prices_of(settings: DataGeneration) -> Prices:
    """Return what tokens cost by the configuration; the built-in model costs nothing."""
    return Prices() if settings.model == BUILTIN else Prices(settings.prompt_price, settings.completion_price)


class Ledger:
    """Tokens and dollars spent and reserved. The estimate of all that is in flight is reserved: the budgets hold."""

    def __init__(
        self, budget: int, spent: int, prices: Prices | None = None, budget_dollars: float = 0.0, dollars: float = 0.0
    ) -> None:
        self._budget = budget
        self._prices = prices or Prices()
        self._budget_dollars = budget_dollars if self._prices.known else 0.0
        self.spent = spent
        self.dollars = dollars
        self.reserved = 0
        self.exceeded: Literal["budget_tokens", "budget_dollars"] | None = None
        """The key of the budget that refused the last attempt that was refused."""

    def reserve(self, tokens: int) -> None:
        """Set tokens aside for an attempt. Raises `BudgetSpent`; a budget of 0 is none."""
        if self._budget and self.spent + self.reserved + tokens > self._budget:
            self.exceeded = "budget_tokens"
            raise BudgetSpent("the token budget is spent")
        if self._budget_dollars and self.dollars + self._prices.at_most(self.reserved + tokens) > self._budget_dollars:
            self.exceeded = "budget_dollars"
            raise BudgetSpent("the budget of dollars is spent")
        self.reserved += tokens

    def settle(self, reserved: int, used: Usage | None) -> None:
        """Replace a reservation by what was used; None where that is not known, which counts as all of it."""
        self.reserved -= reserved
        self.spent += reserved if used is None else used.prompt_tokens + used.completion_tokens
        self.dollars += (
            self._prices.at_most(reserved)
            if used is None
            else self._prices.of(used.prompt_tokens, used.completion_tokens)
        )


def spent_so_far(totals: list[AttemptTotals]) -> int:
    """Return the tokens that a run has spent, attempts of unknown cost at their estimate."""
    return sum(
        total.estimated_tokens if total.status in UNKNOWN_COST else total.prompt_tokens + total.completion_tokens
        for total in totals
    )


def dollars_so_far(totals: list[AttemptTotals], prices: Prices) -> float:
    """Return the dollars that a run has spent, attempts of unknown cost at the most that their estimate can cost."""
    return sum(
        prices.at_most(total.estimated_tokens)
        if total.status in UNKNOWN_COST
        else prices.of(total.prompt_tokens, total.completion_tokens)
        for total in totals
    )


async def at_once() -> None:
    """Hold no request back."""


class StoredCall:
    """The `CallRecord` of one task. No request leaves before `may_call` and `still_wanted` have returned."""

    def __init__(
        self,
        store: Store,
        run_id: int,
        task_id: int,
        ledger: Ledger,
        may_call: Callable[[], Awaitable[None]] = at_once,
    ) -> None:
        self._store = store
        self._run_id = run_id
        self._task_id = task_id
        self._ledger = ledger
        self._may_call = may_call
        self.still_wanted: Callable[[], Awaitable[None]] = at_once
        """What the task has to say before a request leaves: it may have waited long. An exception ends the task."""
        self._open: dict[int, int] = {}
        self._answered: list[tuple[int, AttemptEnd]] = []

    async def sent(self, estimated_tokens: int = 0) -> int:
        """Commit the attempt. Raises `BudgetSpent` and `CallStopped` before anything is stored."""
        await self._may_call()
        await self.still_wanted()
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
        self._ledger.settle(reserved, None if status in UNKNOWN_COST else used)
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
