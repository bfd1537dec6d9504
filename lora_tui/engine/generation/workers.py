"""The three kinds of work on a run: writing pairs, judging one, analysing what was accepted.

Each makes one call of the model and stores everything that follows from its answer in one transaction. A pair is never
accepted or rejected because a call failed: it goes to review.
"""

import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from lora_tui.engine.generation import analysis, judging
from lora_tui.engine.generation.generation_model import CallFailed, GenerationModel, Proposals, ProposedPair
from lora_tui.engine.generation.judging import NearDuplicates, PairJudge, Refusal
from lora_tui.engine.generation.ledger import BudgetSpent, Ledger, StoredCall, at_once, to_its_end
from lora_tui.engine.generation.planner import ANALYSE, JUDGE, Planner, SlotCounts, slot_of
from lora_tui.engine.generation.progress import GenerationProgress
from lora_tui.errors import UnreachableError
from lora_tui.scoring.words import question_key
from lora_tui.store import corpus as store_corpus
from lora_tui.store import events, tasks
from lora_tui.store import generation as store_generation
from lora_tui.store import reviews as store_people
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
    bench: PairJudge
    planner: Planner
    slots: SlotCounts
    standing: GenerationProgress
    warn: Callable[[str], None]
    files: int
    may_call: Callable[[], Awaitable[None]] = at_once
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
        return StoredCall(self.store, self.run_id, task.id, self.ledger, self.may_call)

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
        if (refusal := judging.check_gates(pair, passage)) is not None:
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
            await self._pronounce(t, pair_id, decision, {}, {})
        return pair_id

    # Judging

    async def judge(self, task: TaskRow, call: StoredCall) -> None:
        """Have one pair judged, measure it, and store the verdict."""
        pair = await self._pair(task)
        if known := await store_people.metrics_of_text(self.store, pair.id):
            # Its judge had answered when a person decided; that was taken back. No call is paid for twice.
            await to_its_end(self._decide(task, pair, call, _Verdict(self.bench.decide(known))))
            return

        async def still_wanted() -> None:
            if not _as_it_was(pair, await self._pair(task)):
                raise _Overtaken

        call.still_wanted = still_wanted
        row = await self._chunk(pair.chunk_id)
        proposed = ProposedPair(pair.question, pair.answer, pair.evidence, pair.topic)
        try:
            judgement = await self.model.judge(row.text, proposed, call)
        except _Overtaken:
            await to_its_end(self._let_go(task))
            return
        metrics = judging.measure(proposed, row.text, judgement)
        details = dict.fromkeys(judgement.metrics, f"{judgement.mode}: {judgement.note}")
        verdict = _Verdict(self.bench.decide(metrics), metrics, details)
        await to_its_end(self._decide(task, pair, call, verdict))

    async def _let_go(self, task: TaskRow) -> None:
        """End the judging of a pair that a person has decided; one that has another text now stays to be judged."""
        if (await self._pair(task)).state != "waiting":
            await self._end(task, "cancelled", "the pair was decided in the meantime")
        await self.recount()

    async def _decide(self, task: TaskRow, judged: PairRow, call: StoredCall | None, verdict: "_Verdict") -> None:
        """Store the verdict on a pair as it was `judged`, unless a person has decided or edited it since.

        Without a `call`, the judge could not be asked.
        """
        decided = False
        async with self.store.transaction() as t:
            if call is not None:
                await call.settle(t)
            pair = await self._pair(task, t)
            if _as_it_was(judged, pair):
                await self._pronounce(t, pair.id, verdict.decision, verdict.metrics, verdict.details)
                ended, reason = ("done", None) if call is not None else ("dead", verdict.decision.reason)
                await tasks.end_task(t, task.id, ended, reason)
                decided = True
            elif pair.state != "waiting":
                await tasks.end_task(t, task.id, "done", "a person decided in the meantime")
                if _same_text(judged, pair):
                    await store_generation.put_metrics(t, pair.id, verdict.metrics, verdict.details)
            # else it has another text by now: its task stays to be done
        if decided:
            self._settle(judged, verdict.decision.verdict)
        else:
            await self.recount()

    def _settle(self, pair: PairRow, verdict: str) -> None:
        """Take into account what was decided on a pair that waited."""
        handle = self._handles.pop(pair.id, None)
        if verdict != "accepted":
            self.slots.add(slot_of(pair), -1)
            if handle is not None:
                self.near.remove(handle)
        self.standing.decided(pair.task_id, verdict)

    async def recount(self) -> bool:
        """Count the pairs anew, because people may have changed verdicts; returns whether the counts were others.

        Nobody else of this process is inside a transaction meanwhile, so the counts are those of one moment.
        """
        async with self.store.transaction() as t:
            counts = await store_generation.pair_counts(t, self.run_id)
            waiting = await store_generation.waiting_by_task(t, self.run_id)
            return self.standing.recount(counts, waiting)

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
            await to_its_end(self._decide(task, await self._pair(task), None, _Verdict(decision)))
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
        while await self._put_off(decision):
            continue
        async with self.store.transaction() as t:
            await tasks.cancel_pending(t, self.run_id, "the target is reached")

    async def _put_off(self, decision: Decision) -> bool:
        """Give some waiting pairs the same verdict; returns whether there were any."""
        async with self.store.transaction() as t:
            page = await store_generation.pairs(t, self.run_id, ("waiting",), 0, _PAGE)
            for pair in page:
                await self._pronounce(t, pair.id, decision, {}, {})
        for pair in page:
            self.standing.decided(pair.task_id, decision.verdict)
        return bool(page)

    async def _pronounce(
        self, t: Store, pair_id: int, decision: Decision, metrics: Mapping[str, float], details: Mapping[str, str]
    ) -> None:
        """Store a verdict and tell of it inside the caller's transaction."""
        await store_generation.decide(t, pair_id, decision, metrics, details)
        pair = await store_generation.pair(t, pair_id)
        assert pair is not None, "it has just been decided"
        await events.insert(t, self.run_id, [store_generation.pair_event(pair)])

    async def _chunk(self, chunk_id: str | None) -> ChunkRow:
        row = await store_corpus.chunk(self.store, chunk_id or "")
        assert row is not None, "tasks and pairs refer to stored chunks"
        return row

    async def _pair(self, task: TaskRow, t: Store | None = None) -> PairRow:
        pair = await store_generation.pair(t or self.store, task.pair_id or 0)
        assert pair is not None, "judge tasks refer to stored pairs"
        return pair


class _Overtaken(Exception):  # noqa: N818  # never leaves this module
    """A person has decided or edited a pair before its judge was asked."""


def _same_text(one: PairRow, other: PairRow) -> bool:
    return (one.question, one.answer) == (other.question, other.answer)


def _as_it_was(judged: PairRow, now: PairRow) -> bool:
    """Tell whether a pair still waits for the verdict on the text that the judge reads."""
    return now.state == "waiting" and _same_text(judged, now)


@dataclass(frozen=True, slots=True)
class _Verdict:
    """A decision, the metrics (0-1) it rests on, and how they were measured."""

    decision: Decision
    metrics: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, str] = field(default_factory=dict)
