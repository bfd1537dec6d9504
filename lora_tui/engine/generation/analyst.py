"""The analyst of a generation run: when a batch analysis is due, what it finds, and what it tells the prompts.

Analyses follow the accepted pairs, every `batch_analysis_interval` of them, but never crowd a run: one is under way at
a time and is about the newest pairs; their statistics take half a second and `TIME_SHARE` of the time at most; a model
is asked for words only while that keeps to 2,000 tokens and `ANALYSES_SHARE` of the run's. Others get words by rule.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from lora_tui.engine.generation import analysis
from lora_tui.engine.generation.corpus import Corpus
from lora_tui.engine.generation.generation_model import UNSTEERED, CallFailed, GenerationModel, Steering
from lora_tui.engine.generation.ledger import (
    ANALYSES_FREE,
    ANALYSES_SHARE,
    BudgetSpent,
    Ledger,
    StoredCall,
    run_shielded,
)
from lora_tui.engine.generation.planner import ANALYSE
from lora_tui.engine.generation.topic_tree import TopicTree
from lora_tui.engine.runtime.context import RunContext
from lora_tui.errors import UnreachableError
from lora_tui.store import events, tasks
from lora_tui.store import generation as store_generation
from lora_tui.store.rows import AnalysisRow, NewTask, TaskRow
from lora_tui.text import one_line

TIME_SHARE = 0.02
"""Share of the time that statistics may take."""

_FREE_SECONDS = 0.5
"""What they may take beyond their share: a short run has all of them."""


class Analyst:
    """Plans, makes and stores a run's batch analyses; `latest` advises the prompts that follow."""

    def __init__(
        self,
        ctx: RunContext,
        model: GenerationModel,
        ledger: Ledger,
        corpus: Corpus,
        tree: TopicTree | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ctx = ctx
        self._model = model
        self._ledger = ledger
        self._corpus = corpus
        self._tree = tree
        self._steers = ctx.settings.data_generation.diversity
        self._clock = clock
        self._interval = ctx.settings.data_generation.batch_analysis_interval
        self._planned = 0  # accepted pairs that the newest planned analysis is about
        self._under_way = False
        self._began = clock()
        self._seconds = 0.0  # that statistics have taken
        self._tokens = 0  # of all analyses
        self._tokens_each = 0  # of the newest
        self.latest: AnalysisRow | None = None

    async def restore(self, accepted: int) -> None:
        """Take up from the store; of the analyses that fell due while the run did not work, the last says it all."""
        store, run_id = self._ctx.store, self._ctx.run_id
        self.latest = await store_generation.newest_analysis(store, run_id)
        done = await tasks.last_number(store, run_id, ANALYSE)
        self._planned = max(done, (accepted // self._interval - 1) * self._interval)
        self._tokens = sum(await tasks.tokens_of_kind(store, run_id, ANALYSE))
        self._under_way = bool(await tasks.pending_tasks(store, run_id, ANALYSE, 1))

    def skip(self, accepted: int) -> None:
        """Plan no analysis of the pairs that are there already."""
        self._planned = max(self._planned, accepted)

    async def plan_due(self, accepted: int, *, last: bool = False) -> bool:
        """Plan the analysis that is due with so many accepted pairs, if one is; returns whether.

        The `last` one waits for no time.
        """
        due = accepted // self._interval * self._interval
        over = self._seconds > _FREE_SECONDS + TIME_SHARE * (self._clock() - self._began)
        if due <= self._planned or self._under_way or (over and not last):
            return False
        self._under_way, self._planned = True, due
        await self._plan(due)
        return True

    async def _plan(self, number: int) -> None:
        async with self._ctx.store.transaction() as t:
            await tasks.add_tasks(t, self._ctx.run_id, [NewTask(ANALYSE, str(number))])

    async def analyse(self, task: TaskRow, call: StoredCall) -> None:
        """Analyse the accepted pairs; if the model cannot be asked, only its words are missing."""
        try:
            await self._analyse(task, call)
        finally:
            self._under_way = False

    async def _analyse(self, task: TaskRow, call: StoredCall) -> None:
        began = self._clock()
        statistics = await self.statistics()
        self._seconds += self._clock() - began
        failure: str | None = None
        text = analysis.describe(statistics)
        if self._may_ask:
            try:
                text = await self._model.analyse(json.dumps(statistics, ensure_ascii=False), call)
            except (CallFailed, UnreachableError, BudgetSpent) as problem:
                failure = str(problem) or "the token budget is spent"
                self._ctx.warn(f"The analysis has no words of the model: {one_line(failure, 200)}. The run goes on.")
        row = AnalysisRow(
            version=(self.latest.version if self.latest else 0) + 1,
            at_accepted=int(task.key),
            statistics=statistics,
            directives=analysis.directives_from(statistics) if self._steers else [],
            text=text,
            at=time.time(),
        )
        await run_shielded(self._store(task, call, row, failure))

    async def statistics(self) -> dict[str, Any]:
        """Return the statistics of the run as it is now, with what the newest analysis had measured."""
        files, passages = self._corpus.size
        statistics = await analysis.statistics_of(self._ctx.store, self._ctx.run_id, files, passages, self._tree)
        if self.latest is not None:
            before = self.latest.statistics
            statistics["before"] = {name: before[name] for name in analysis.MEASURES if name in before}
        return statistics

    @property
    def steering(self) -> Steering:
        """The newest directives for a writer that is a program; none where analyses change nothing."""
        if not self._steers:
            return UNSTEERED
        return analysis.steering_from(self.latest.statistics) if self.latest else Steering()

    @property
    def _may_ask(self) -> bool:
        """Whether a model may put the statistics into words: one more such analysis keeps to its share of tokens."""
        return self._tokens + self._tokens_each <= ANALYSES_FREE + ANALYSES_SHARE * self._ledger.spent

    async def _store(self, task: TaskRow, call: StoredCall, row: AnalysisRow, failure: str | None) -> None:
        async with self._ctx.store.transaction() as t:
            row = replace(row, version=(self.latest.version if self.latest else 0) + 1)
            payload = asdict(row)
            del payload["at"]
            await call.settle(t)
            await store_generation.add_analysis(t, self._ctx.run_id, row)
            await tasks.end_task(t, task.id, "dead" if failure else "done", failure)
            await events.insert(t, self._ctx.run_id, [(row.at, "analysis", payload)])
            if used := sum(await tasks.tokens_of_task(t, task.id)):
                self._tokens_each = used
                self._tokens += used
            self.latest = row
