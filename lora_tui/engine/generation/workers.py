"""The three kinds of work on a run: writing pairs, judging one, analysing what was accepted.

Each makes one call of the model and stores everything that follows from its answer in one transaction. A pair is never
accepted or rejected because a call failed: it goes to review.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from lora_tui.engine.generation import analysis, gates, judging
from lora_tui.engine.generation.accounting import BudgetSpent, Ledger, StoredCall, to_its_end
from lora_tui.engine.generation.duplicates import NearDuplicates, question_key
from lora_tui.engine.generation.gates import Refusal
from lora_tui.engine.generation.judging import Bench
from lora_tui.engine.generation.model import CallFailed, GenerationModel, Proposals, ProposedPair
from lora_tui.engine.generation.planning import ANALYSE, JUDGE, Planner, slot_of
from lora_tui.engine.generation.slots import SlotCounts
from lora_tui.engine.generation.standing import Standing
from lora_tui.errors import UnreachableError
from lora_tui.store import corpus as store_corpus
from lora_tui.store import events, tasks
from lora_tui.store import generation as store_generation
from lora_tui.store.connection import Store
from lora_tui.store.corpus import ChunkRow
from lora_tui.store.generation import AnalysisRow, Decision, NewPair, PairRow
from lora_tui.store.tasks import NewTask, TaskRow
from lora_tui.text import one_line

_PAGE = 500


@dataclass
class Workers:
    """What the work of one run shares."""

    store: Store
    run_id: int
    model: GenerationModel
    ledger: Ledger
    bench: Bench
    planner: Planner
    slots: SlotCounts
    standing: Standing
    warn: Callable[[str], None]
    files: int
    near: NearDuplicates = field(default_factory=NearDuplicates)
    latest: AnalysisRow | None = None
    _handles: dict[int, int] = field(default_factory=dict)  # of pairs in `near` that may still be taken out of it

    async def recall(self) -> None:
        """Learn from the store what the run has done before."""
        self.latest = await store_generation.newest_analysis(self.store, self.run_id)
        after = 0
        while page := await store_generation.pairs(self.store, self.run_id, ("accepted", "waiting"), after, _PAGE):
            for pair in page:
                handle = self.near.add(pair.question)
                if pair.state == "waiting":
                    self._handles[pair.id] = handle
                self.slots.add(slot_of(pair))
            after = page[-1].id

    def call(self, task: TaskRow) -> StoredCall:
        """Return the account of one task's call."""
        return StoredCall(self.store, self.run_id, task.id, self.ledger)

    # Writing

    async def generate(self, task: TaskRow, call: StoredCall) -> None:
        """Have pairs written about a passage, and store them with what the gates say."""
        row = await self._chunk(task.chunk_id)
        directives = self.latest.directives if self.latest else []
        request = await self.planner.request(task, row, directives)
        proposals = await self.model.propose(request, call)
        await to_its_end(self._keep(task, row, call, proposals, request.count))

    async def _keep(self, task: TaskRow, row: ChunkRow, call: StoredCall, proposals: Proposals, asked: int) -> None:
        waiting = 0
        async with self.store.transaction() as t:
            await call.settle(t)
            for ordinal, pair in enumerate(proposals.pairs):
                refusal = await self._refusal(t, pair, row.text)
                pair_id = await self._add(t, task, ordinal, pair, refusal)
                if refusal is None:
                    waiting += 1
                    self._handles[pair_id] = self.near.add(pair.question)
                    judge = NewTask(JUDGE, str(pair_id), task.chunk_id, pair_id, task.round, task.source)
                    await tasks.add_tasks(t, self.run_id, [judge])
            reason = one_line("; ".join(proposals.refused), 300) or None
            await tasks.end_task(t, task.id, "done", reason, len(proposals.refused))
        self.standing.proposed(task.id, waiting, len(proposals.pairs) - waiting)
        self.slots.add(slot_of(task), waiting - asked)

    async def _refusal(self, t: Store, pair: ProposedPair, passage: str) -> Refusal | None:
        """Run the gates, the cheapest first; the last ones look at what the run has already."""
        if (refusal := gates.check(pair, passage)) is not None:
            return refusal
        if await store_generation.question_known(t, self.run_id, question_key(pair.question)):
            return Refusal("duplicate", "the same question was asked before")
        if (found := self.near.find(pair.question)) is not None:
            other, similarity = found
            return Refusal("near duplicate", f"nearly the same as «{one_line(other, 100)}» ({similarity:.0%} alike)")
        return None

    async def _add(self, t: Store, task: TaskRow, ordinal: int, pair: ProposedPair, refusal: Refusal | None) -> int:
        new = NewPair(
            ordinal=ordinal,
            question=pair.question,
            answer=pair.answer,
            evidence=pair.evidence,
            topic=pair.topic or slot_of(task).topic,
            question_key=question_key(pair.question),
        )
        version = self.latest.version if self.latest else 0
        pair_id = await store_generation.add_pair(t, self.run_id, task, new, version)
        if refusal is not None:
            decision = self.bench.refuse(refusal)
            await store_generation.decide(t, pair_id, decision, {}, {})
            await self._tell(t, pair_id, decision, pair.question, pair.answer, task.source)
        return pair_id

    # Judging

    async def judge(self, task: TaskRow, call: StoredCall) -> None:
        """Have one pair judged, measure it, and store the verdict."""
        pair = await self._pair(task)
        if pair.state != "waiting":
            await to_its_end(self._end(task, "cancelled", "the pair was decided in the meantime"))
            return
        row = await self._chunk(pair.chunk_id)
        proposed = ProposedPair(pair.question, pair.answer, pair.evidence, pair.topic)
        judgement = await self.model.judge(row.text, proposed, call)
        metrics = judging.measure(proposed, row.text, judgement)
        decision = self.bench.decide(metrics)
        details = dict.fromkeys(judgement.metrics, f"{judgement.mode}: {judgement.note}")
        await to_its_end(self._decide(task, pair, call, decision, metrics, details))

    async def _decide(
        self,
        task: TaskRow,
        pair: PairRow,
        call: StoredCall | None,
        decision: Decision,
        metrics: dict[str, float],
        details: dict[str, str],
    ) -> None:
        async with self.store.transaction() as t:
            if call is not None:
                await call.settle(t)
            await store_generation.decide(t, pair.id, decision, metrics, details)
            ended = "dead" if call is None else "done"
            await tasks.end_task(t, task.id, ended, decision.reason if call is None else None)
            await self._tell(t, pair.id, decision, pair.question, pair.answer, pair.source)
        handle = self._handles.pop(pair.id, None)
        if decision.verdict != "accepted":
            self.slots.add(slot_of(pair), -1)
            if handle is not None:
                self.near.remove(handle)
        self.standing.decided(pair.task_id, decision.verdict)

    # Analysing

    async def plan_analyses(self, at_accepted: Sequence[int]) -> None:
        """Plan an analysis for each of these numbers of accepted pairs; those that were made before stay made."""
        async with self.store.transaction() as t:
            await tasks.add_tasks(t, self.run_id, [NewTask(ANALYSE, str(number)) for number in at_accepted])

    async def analyse(self, task: TaskRow, call: StoredCall) -> None:
        """Analyse what was accepted; a model that cannot be asked costs its words and nothing else."""
        statistics = await analysis.statistics_of(self.store, self.run_id, self.files)
        failure: str | None = None
        try:
            text = await self.model.analyse(json.dumps(statistics, ensure_ascii=False), call)
        except (CallFailed, UnreachableError, BudgetSpent) as problem:
            failure = str(problem) or "the token budget is spent"
            text = analysis.in_words(statistics)
            self.warn(f"The analysis has no words of the model: {one_line(failure, 200)}. The run goes on.")
        row = AnalysisRow(
            version=0,  # given when it is stored: several may be under way
            at_accepted=int(task.key),
            statistics=statistics,
            directives=analysis.directives_from(statistics),
            text=text,
            at=time.time(),
        )
        await to_its_end(self._store_analysis(task, call, row, failure))

    async def _store_analysis(self, task: TaskRow, call: StoredCall, row: AnalysisRow, failure: str | None) -> None:
        async with self.store.transaction() as t:
            row = replace(row, version=(self.latest.version if self.latest else 0) + 1)
            payload = asdict(row)
            del payload["at"]
            await call.settle(t)
            await store_generation.add_analysis(t, self.run_id, row)
            await tasks.end_task(t, task.id, "dead" if failure else "done", failure)
            await events.insert(t, self.run_id, [(row.at, "analysis", payload)])
            self.latest = row

    # What ends without an answer

    async def bury(self, task: TaskRow, reason: str) -> None:
        """Give a task up for good. A pair that waited for its judge goes to review."""
        if task.kind == JUDGE:
            decision = self.bench.review("judge failed", f"the judge could not be asked: {reason}")
            await to_its_end(self._decide(task, await self._pair(task), None, decision, {}, {}))
            return
        await to_its_end(self._end(task, "dead", reason))
        self.standing.proposed(task.id, 0, 0)
        self.slots.add(slot_of(task), -int(task.slot["count"]))

    async def _end(self, task: TaskRow, state: str, reason: str) -> None:
        async with self.store.transaction() as t:
            await tasks.end_task(t, task.id, state, reason)

    async def close_books(self) -> None:
        """End what is left when the target is reached: waiting pairs go to review, pending tasks are cancelled."""
        decision = self.bench.review("surplus", "the target was already reached when its turn came")
        while page := await store_generation.pairs(self.store, self.run_id, ("waiting",), 0, _PAGE):
            async with self.store.transaction() as t:
                for pair in page:
                    await store_generation.decide(t, pair.id, decision, {}, {})
                    await self._tell(t, pair.id, decision, pair.question, pair.answer, pair.source)
            for pair in page:
                self.standing.decided(pair.task_id, "review")
        async with self.store.transaction() as t:
            await tasks.cancel_pending(t, self.run_id, "the target is reached")

    async def _chunk(self, chunk_id: str | None) -> ChunkRow:
        row = await store_corpus.chunk(self.store, chunk_id or "")
        assert row is not None, "tasks and pairs refer to stored chunks"
        return row

    async def _pair(self, task: TaskRow) -> PairRow:
        pair = await store_generation.pair(self.store, task.pair_id or 0)
        assert pair is not None, "judge tasks refer to stored pairs"
        return pair

    async def _tell(self, t: Store, pair_id: int, decision: Decision, question: str, answer: str, source: str) -> None:
        """Store the event of a verdict inside the caller's transaction."""
        payload: dict[str, Any] = {
            "pair": pair_id,
            "verdict": decision.verdict,
            "score": decision.score,
            "question": question,
            "answer": answer,
            "reason": decision.reason,
            "source": source,
        }
        await events.insert(t, self.run_id, [(time.time(), "pair", payload)])
