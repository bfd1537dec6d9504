"""The account of a run's calls: the stored attempts, and the budgets of tokens and dollars.

Effects happen exactly once, calls at least once: an attempt's row is committed before its request leaves, and the
attempt that was answered is closed in the transaction that stores what follows from the answer (`StoredCall.settle`).
A process that dies in between leaves a row ``sent``, which is shown as a call of unknown cost.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self, TypeVar

from lora_tui.config.generation import DataGeneration
from lora_tui.config.prices import Prices, token_prices
from lora_tui.engine.generation.endpoint_memory import PairTokens, remember_pair_tokens
from lora_tui.engine.generation.planner import CHECK
from lora_tui.engine.models.builtin import BUILTIN
from lora_tui.secrets import redact
from lora_tui.store import tasks
from lora_tui.store.connection import Store
from lora_tui.store.rows import UNKNOWN_OUTCOMES, AttemptEnd, AttemptStatus, AttemptTotals
from lora_tui.text import count

T = TypeVar("T")

UNKNOWN_COST = (*UNKNOWN_OUTCOMES, "sent")
"""Attempts that may have been charged for though no usage was seen: their estimate counts against the budget."""

ANALYSES_FREE, ANALYSES_SHARE = 2_000, 0.05
"""What analyses may use: so many tokens, and this share of a run's."""


class BudgetSpent(Exception):  # noqa: N818  # a limit that was set, not an error
    """The next attempt would exceed a budget; the text says which."""


_ENOUGH_TO_FORECAST = 20
"""Accepted pairs from which what they took in tokens says what others will."""


@dataclass(slots=True)
class Ledger:
    """Tokens and dollars spent, and reserved for attempts in flight at their estimate: so the budgets hold."""

    budget: int
    spent: int
    prices: Prices = field(default_factory=Prices)
    budget_dollars: float = 0.0
    dollars: float = 0.0
    reserved: int = field(default=0, init=False)
    exceeded: Literal["budget_tokens", "budget_dollars"] | None = field(default=None, init=False)
    """The key of the budget that refused an attempt last."""

    @classmethod
    def taken_up(cls, settings: DataGeneration, totals: Sequence[AttemptTotals]) -> Self:
        """Return the ledger of a run that goes on, or begins where `totals` are empty."""
        prices = token_prices(settings)
        dollars = dollars_spent(totals, prices)
        return cls(settings.budget_tokens, tokens_spent(totals), prices, settings.budget_dollars, dollars)

    def reserve(self, tokens: int, set_aside: int = 0) -> None:
        """Reserve tokens for an attempt. Raises `BudgetSpent`; a budget of 0 is none.

        There must be room for `set_aside` more tokens: for what follows from the attempt, such as judging.
        """
        if self.budget and self.spent + self.reserved + tokens + set_aside > self.budget:
            self.exceeded = "budget_tokens"
            raise BudgetSpent("the token budget is spent")
        highest = self.prices.highest_cost(self.reserved + tokens + set_aside)  # 0 where no price is known
        if self.budget_dollars and self.dollars + highest > self.budget_dollars:
            self.exceeded = "budget_dollars"
            raise BudgetSpent("the budget of dollars is spent")
        self.reserved += tokens

    def take_back(self, tokens: int) -> None:
        """Make a reservation of what was counted as spent: the attempt is still under way."""
        self.spent -= tokens
        self.dollars = max(0.0, self.dollars - self.prices.highest_cost(tokens))
        self.reserved += tokens

    def release(self, tokens: int) -> None:
        """Take a reservation back: the attempt was not made."""
        self.reserved -= tokens

    def settle(self, reserved: int, end: AttemptEnd) -> None:
        """Replace a reservation by what the attempt used; unknown usage counts as the whole reservation."""
        self.reserved -= reserved
        if end.status in UNKNOWN_COST:
            self.spent += reserved
            self.dollars += self.prices.highest_cost(reserved)
        else:
            self.spent += end.prompt_tokens + end.completion_tokens
            self.dollars += self.prices.cost(end.prompt_tokens, end.completion_tokens, end.cached_tokens, end.model)


def tokens_spent(totals: Sequence[AttemptTotals]) -> int:
    """Return the tokens that a run has spent, attempts of unknown cost at their estimate."""
    return sum(
        total.estimated_tokens if total.status in UNKNOWN_COST else total.prompt_tokens + total.completion_tokens
        for total in totals
    )


def dollars_spent(totals: Sequence[AttemptTotals], prices: Prices) -> float:
    """Return the dollars that a run has spent, attempts of unknown cost at the most that their estimate can cost."""
    return sum(
        prices.highest_cost(total.estimated_tokens)
        if total.status in UNKNOWN_COST
        else prices.cost(total.prompt_tokens, total.completion_tokens, total.cached_tokens, total.model)
        for total in totals
    )


def account(totals: Sequence[AttemptTotals], settings: DataGeneration) -> dict[str, Any]:
    """Return what a run's calls took as its result has it: calls, tokens, those whose outcome is unknown, dollars."""
    unknown = [total for total in totals if total.status in UNKNOWN_COST]
    prices = token_prices(settings)
    ended: Counter[str] = Counter()
    for total in totals:
        ended[total.status] += total.calls
    return {
        "calls": ended.total(),
        "attempts": dict(ended),
        "prompt_tokens": sum(total.prompt_tokens for total in totals),
        "completion_tokens": sum(total.completion_tokens for total in totals),
        "cached_tokens": sum(total.cached_tokens for total in totals),
        "reasoning_tokens": sum(total.reasoning_tokens for total in totals),
        "unknown_calls": sum(total.calls for total in unknown),
        "unknown_tokens_up_to": sum(total.estimated_tokens for total in unknown),
        "dollars": round(dollars_spent(totals, prices), 6) if prices.known else None,
        "prices": prices.source or None,
    }


def unknown_outcome(lost: int, totals: Sequence[AttemptTotals]) -> str:
    """Return what is not known of calls that were under way when the process ended."""
    tokens = sum(total.estimated_tokens for total in totals if total.status == "lost")
    return (
        f"{count(lost, 'call')} had been sent when the run was cut off: whether they were answered, and what they "
        f"cost, is not known. They are asked again; up to {tokens:,} tokens count against the budgets for such calls."
    )


async def keep_pair_tokens(store: Store, run_id: int, settings: DataGeneration, accepted: int) -> None:
    """Keep what an accepted pair took in tokens, from which the next run's price is told before it begins."""
    if accepted < _ENOUGH_TO_FORECAST or settings.model == BUILTIN:
        return
    used: dict[str, tuple[float, float, float]] = {}
    for total in await tasks.attempt_totals(store, run_id, without=CHECK):
        sent, written, cached = used.get(total.model, (0.0, 0.0, 0.0))
        used[total.model] = (
            sent + total.prompt_tokens / accepted,
            written + total.completion_tokens / accepted,
            cached + total.cached_tokens / accepted,
        )
    await asyncio.to_thread(remember_pair_tokens, settings, PairTokens(used, accepted, time.time()))


async def _no_wait() -> None:
    pass


def _nothing() -> int:
    return 0


async def _always_wanted(t: Store) -> None:
    pass


def _ignore(answered: bool) -> None:
    pass


class StoredCall:
    """The `CallRecord` of one task. A request leaves once `wait_while_paused` and `check_wanted` have returned."""

    def __init__(
        self,
        store: Store,
        run_id: int,
        task_id: int,
        ledger: Ledger,
        wait_while_paused: Callable[[], Awaitable[None]] = _no_wait,
    ) -> None:
        self._store = store
        self._run_id = run_id
        self._task_id = task_id
        self._ledger = ledger
        self._wait_while_paused = wait_while_paused
        self.check_wanted: Callable[[Store], Awaitable[None]] = _always_wanted
        """Raises where the task is no longer wanted, which the store knows: its request may have waited for long."""
        self.set_aside: Callable[[], int] = _nothing
        """Tokens for which the budget must have room beyond each attempt."""
        self.on_answered: Callable[[bool], None] = _ignore
        """Called with True when the endpoint has done its part, and with False when it is asked once more."""
        self.batch_task: int | None = None
        self.largest = 0
        """Tokens of the largest attempt, as they were reserved or used."""
        self._open: dict[int, int] = {}  # reserved tokens by attempt
        self._waiting: set[int] = set()  # of those open, that are sent in a batch or not at all
        self._answered: list[tuple[int, AttemptEnd]] = []

    async def begin_attempt(self, estimated_tokens: int = 0) -> int:
        """Commit the attempt. Raises `BudgetSpent` and `CallStopped` before anything is stored."""
        await self._wait_while_paused()
        self._ledger.reserve(estimated_tokens, self.set_aside())
        self.on_answered(False)
        self.largest = max(self.largest, estimated_tokens)
        return await run_shielded(self._store_begin(estimated_tokens))

    async def take_up(self, attempt: int, estimated_tokens: int) -> None:
        """Go on with an attempt that an earlier process has sent: its estimate counts as spent already."""
        await self._wait_while_paused()
        self._ledger.take_back(estimated_tokens)
        self.on_answered(False)
        self._open[attempt] = estimated_tokens

    def leave_open(self, attempt: int) -> None:
        """Leave an attempt as it is: its batch goes on."""
        self._open.pop(attempt, None)

    async def _store_begin(self, estimated_tokens: int) -> int:
        async def begin(t: Store) -> int:
            await self.check_wanted(t)
            waits = "" if self.batch_task is None else tasks.WAITS_FOR_BATCH
            return await tasks.begin_attempt(t, self._run_id, self._task_id, estimated_tokens, waits)

        try:
            attempt = await self._store.together(begin)
        except BaseException:
            self._ledger.release(estimated_tokens)
            raise
        self._open[attempt] = estimated_tokens
        if self.batch_task is not None:
            self._waiting.add(attempt)
        return attempt

    async def end_attempt(self, attempt: int, end: AttemptEnd) -> None:
        """Keep an answer for `settle`; store any other end at once."""
        self._ledger.settle(self._open.pop(attempt), end)
        self.largest = max(self.largest, end.prompt_tokens + end.completion_tokens)
        end = replace(end, error=redact(end.error), reply=redact(end.reply))  # whoever said it: nothing is kept raw
        if end.status == "ok":
            self._answered.append((attempt, end))
            self.on_answered(True)
        else:
            await run_shielded(self._store_end(attempt, end))

    async def _store_end(self, attempt: int, end: AttemptEnd) -> None:
        await self._store.together(lambda t: tasks.end_attempt(t, attempt, end))

    async def settle(self, t: Store) -> None:
        """Store the answered attempt inside the transaction that stores what follows from it."""
        for attempt, end in self._answered:
            await tasks.end_attempt(t, attempt, end)
        self._answered.clear()

    async def abandon(self) -> None:
        """Close the attempts that the model had open when it was interrupted."""
        for attempt in list(self._open):
            status: AttemptStatus = "unreached" if attempt in self._waiting else "cancelled"
            await self.end_attempt(attempt, AttemptEnd(status, error="given up while it was in flight"))


async def run_shielded(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end even if the caller is cancelled meanwhile; the cancellation is raised after that.

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
