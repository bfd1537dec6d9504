"""The kinds of task of a generation run: checking a judge, writing pairs, judging one pair (`Analyst` has the fourth).

Each stores everything that follows from an answer in the transaction that ends its call. A pair is never accepted or
rejected because a call failed: it goes to review.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from lora_tui.engine.generation import judging
from lora_tui.engine.generation.analyst import Analyst
from lora_tui.engine.generation.canaries import CANARIES, JudgeCheck
from lora_tui.engine.generation.corpus import Corpus
from lora_tui.engine.generation.earlier import EarlierPairs
from lora_tui.engine.generation.endpoint_memory import recall_check, remember_check
from lora_tui.engine.generation.gates import Refusal, doubts_about
from lora_tui.engine.generation.generation_model import (
    GenerationModel,
    Judgement,
    Proposals,
    ProposedPair,
)
from lora_tui.engine.generation.injection import find_phrase
from lora_tui.engine.generation.judging import PairJudge, Screened, Verdict, screened, still_waiting, typed
from lora_tui.engine.generation.ledger import Ledger, StoredCall, run_shielded
from lora_tui.engine.generation.near_duplicates import NearDuplicates
from lora_tui.engine.generation.panel import JudgePanel, PanelJudgement
from lora_tui.engine.generation.planner import ANALYSE, CHECK, GENERATE, JUDGE, Planner, slot_from, slot_of
from lora_tui.engine.generation.progress import GenerationProgress
from lora_tui.engine.runtime.context import RunContext
from lora_tui.errors import LoraTuiError
from lora_tui.secrets import redact
from lora_tui.store import events, judgements, tasks
from lora_tui.store import generation as store_generation
from lora_tui.store import reviews as store_reviews
from lora_tui.store.connection import Store
from lora_tui.store.rows import ChunkRow, Decision, NewTask, PairRow, TaskRow
from lora_tui.text import count, dollars, one_line

_PAGE = 500

_INSTRUCTION_TOKENS = 600
"""Tokens of a judge's instructions and reply, about, until its first judgement has shown how many it takes."""


class UnfitJudgeError(LoraTuiError):
    """A judge tells fewer canary pairs than ``data_generation.judge_must_tell`` asks for, or answers nothing usable."""


@dataclass
class Workers:
    """What the tasks of one run share, and the work of each kind of task.

    `check_first`: no pair is written before the judges are checked. `near_duplicates` indexes the questions that may
    not be repeated; `analyst`'s newest analysis advises the prompts that follow.
    """

    ctx: RunContext
    model: GenerationModel
    ledger: Ledger
    pair_judge: PairJudge
    planner: Planner
    progress: GenerationProgress
    corpus: Corpus
    wait_while_paused: Callable[[], Awaitable[None]]
    check_first: bool = False
    earlier: EarlierPairs = field(default_factory=EarlierPairs)
    near_duplicates: NearDuplicates = field(default_factory=NearDuplicates)
    reopened: set[int] = field(default_factory=set)
    """Judge tasks (ids) that ended without a verdict and stay pending: people gave their pair another text."""
    _judgement_tokens: int = 0  # of the largest judgement so far
    _being_written: dict[int, int] = field(default_factory=dict)  # pairs that calls in flight ask for, by task
    _speaking: set[str] = field(default_factory=set)  # files that hold words to a model
    _index_ids: dict[int, int] = field(default_factory=dict)  # of waiting pairs in `near_duplicates`, by pair id
    _unjudged: list[TaskRow] = field(default_factory=list)  # judge tasks that were planned and not taken yet
    _fresh: dict[int, PairRow] = field(default_factory=dict)  # pairs that no judge was asked about, by id
    _reckons: dict[str, bool] = field(default_factory=dict)  # whether a judge told each wrong number of the canaries

    def __post_init__(self) -> None:
        self.store, self.run_id = self.ctx.store, self.ctx.run_id
        self.panel = JudgePanel(self.store, self.model.judges, self._call)
        self.analyst = Analyst(self.ctx, self.model, self.ledger, self.corpus, self.planner.tree)

    async def restore(self) -> None:
        """Take up from the store what the run has done before."""
        await self.analyst.restore(self.progress.accepted)
        for check in await judgements.checks(self.store, self.run_id):
            self._take_account(check)
        kept = ("accepted", "waiting")
        found = await store_generation.questions(self.store, self.run_id, kept)
        questions = [question for _, _, question in found]
        ids = await asyncio.to_thread(self.near_duplicates.add_all, questions)  # 100,000 take two seconds
        waiting = zip(found, ids, strict=True)
        self._index_ids = {pair_id: index_id for (pair_id, state, _), index_id in waiting if state == "waiting"}
        for slot, number in await store_generation.slot_counts(self.store, self.run_id, kept):
            self.planner.slots.add(slot_from(slot), number)

    def call(self, task: TaskRow) -> StoredCall:
        """Return the record of one task's call."""
        call = self._call(task.id)
        if task.kind != JUDGE:
            call.set_aside = self._judging_to_come
        if task.kind in (GENERATE, JUDGE):
            self._may_wait(call, task)
        return call

    def _may_wait(self, call: StoredCall, task: TaskRow) -> None:
        """Have a call wait for a batch, if calls are to."""
        call.batch_task = task.id if self.ctx.settings.data_generation.batch else None

    def _call(self, task_id: int) -> StoredCall:
        return StoredCall(self.store, self.run_id, task_id, self.ledger, self.wait_while_paused)

    # Checking judges

    async def plan_checks(self) -> None:
        """Plan a check of each judge on the canary pairs; what is remembered of one is reported at once.

        Raises `UnfitJudgeError` where that is less than is asked for.
        """
        unknown = []
        for judge in self.model.judges:
            check = recall_check(judge.check_key) if judge.check_key else None
            if check is not None:
                self._report_check(check, "found " + time.strftime("%d %b %H:%M", time.localtime(check.at)))
            elif judge.check_key:
                unknown.append(NewTask(CHECK, judge.name))
        async with self.store.transaction() as t:
            await tasks.add_tasks(t, self.run_id, unknown)

    async def check(self, task: TaskRow, call: StoredCall) -> None:
        """Ask a judge about the canary pairs. Raises `UnfitJudgeError`."""
        judge = next((judge for judge in self.model.judges if judge.name == task.key), None)
        check = await self.panel.check(judge, task.id) if judge is not None else None
        await run_shielded(self._end(task, "done" if check else "cancelled", None if check else "no model judges"))
        if check is not None and judge is not None:
            if check.of == len(CANARIES):
                remember_check(judge.check_key, check)
            tokens = await tasks.tokens_of_task(self.store, task.id)
            cost = f", {dollars(self.ledger.prices.cost(*tokens))}" if self.ledger.prices.known else ""
            self._report_check(check, f"it took {count(sum(tokens), 'token')}{cost}")

    def _report_check(self, check: JudgeCheck, source: str) -> None:
        """Report what was found about a judge, and from where; raises `UnfitJudgeError`."""
        kind, advice = "note", ""
        self._take_account(check.fields())
        if check.misses:
            kind, advice = "warning", ".\nPairs with such a fault may be accepted"
            if len(self.model.judges) > 1:
                advice += " where another judge misses it, too; name others in data_generation.judge_models."
            else:
                advice += "; name a larger judge with data_generation.judge_model, or several with judge_models."
        self.ctx.emit(kind, message=redact(f"{check.text()} ({source}){advice}"), **check.fields())
        missed, least = check.misses.values(), self.ctx.settings.data_generation.judge_must_tell
        if sum(missed) > len(CANARIES) - least and least:
            raise UnfitJudgeError(
                f"{check.text()}.\nThat is fewer than data_generation.judge_must_tell = {least}: lower it, or name "
                "another judge with data_generation.judge_model."
            )

    def _take_account(self, check: Mapping[str, Any]) -> None:
        """Learn from the fields of a check, of this process or of one before, whether a judge can work numbers out."""
        self._reckons[check["judge"]] = check["of"] == len(CANARIES) and not check["misses"].get("wrong number")

    # Writing

    async def generate(self, task: TaskRow, call: StoredCall) -> None:
        """Have pairs written about a passage, and store them with the refusals of the gates."""
        chunk = await self.planner.passage(task.chunk_id or "")
        self._warn_of_instructions(task.source, chunk.passage)
        directives = self.analyst.latest.directives if self.analyst.latest else []
        request = await self.planner.request(task, chunk, directives, self.analyst.steering)

        def set_aside() -> int:
            self._being_written[task.id] = request.count
            return self._judging_to_come()

        call.set_aside = set_aside
        try:
            proposals = self.earlier.without_repeated(typed(await self.model.propose(request, call), request.slot))
            await run_shielded(self._store_proposals(task, chunk, call, proposals, request.count))
        finally:
            self._being_written.pop(task.id, None)

    def _judging_to_come(self) -> int:
        """Return the tokens for judging what waits and what is being written: no pair is paid for and left unjudged."""
        chosen = self.ctx.settings.data_generation
        unknown = min(2, len(self.model.judges)) * (chosen.chunk_tokens + _INSTRUCTION_TOKENS)
        pairs = self.progress.counts["waiting"] + sum(self._being_written.values())
        return pairs * (self._judgement_tokens or unknown)

    def _warn_of_instructions(self, source: str, passage: str) -> None:
        """Tell, once for each file, that it holds words to a model."""
        if source not in self._speaking and (words := find_phrase(passage)) is not None:
            self._speaking.add(source)
            self.ctx.warn(
                f"{one_line(source, 80)}: «{one_line(words, 60)}» reads like words to a model. The judge is not shown "
                "them, and pairs that hold such words go to review."
            )

    async def _store_proposals(
        self, task: TaskRow, chunk: ChunkRow, call: StoredCall, proposals: Proposals, requested: int
    ) -> None:
        """Store the pairs of a reply: what follows from each is found out first, all of it is stored at once."""
        version = self.analyst.latest.version if self.analyst.latest else 0
        found = [
            screened(task, ordinal, pair, chunk.passage, version, self.near_duplicates)
            for ordinal, pair in enumerate(proposals.pairs)
        ]
        reason = one_line(redact("; ".join(proposals.refused)), 300) or None

        async def store(t: Store) -> list[tuple[PairRow, TaskRow] | None]:
            await call.settle(t)
            stored = [await self._store_pair(t, task, one) for one in found]
            await tasks.end_task(t, task.id, "done", reason, len(proposals.refused))
            return stored

        kept: list[Screened] = []
        for one, stored in zip(found, await self.store.together(store), strict=True):
            if stored is None:
                if one.index_id is not None:
                    self.near_duplicates.remove(one.index_id)
                continue
            pair, judging_task = stored
            kept.append(one)
            self._fresh[pair.id] = pair
            self._unjudged.append(judging_task)
            if one.index_id is not None:
                self._index_ids[pair.id] = one.index_id
        if proposals.form_changed:
            self.progress.fruitless = 0
        self.progress.add_proposed(task.id, len(kept), len(found) - len(kept))
        self.planner.report(task, chunk, len(kept))
        own = slot_of(task)
        self.planner.slots.add(own, -requested)
        for one in kept:
            self.planner.slots.add(replace(own, question_type=one.slot["question_type"]))

    async def _store_pair(self, t: Store, task: TaskRow, one: Screened) -> tuple[PairRow, TaskRow] | None:
        """Store a pair with its verdict, or with the task of judging it; returns one that is to be judged, and that."""
        refusal, new = one.refusal, one.new
        if refusal is None:
            same = await store_generation.has_question(t, self.run_id, new.question_key)
            refusal = Refusal("duplicate", "the same question was asked before") if same else one.near
        pair_id = await store_generation.add_pair(t, self.run_id, replace(task, slot=one.slot), new, one.version)
        pair = one.as_row(pair_id, task)
        if refusal is not None:
            await self._store_verdict(t, pair, Verdict(self.pair_judge.refuse(refusal)))
            return None
        judging_task = NewTask(JUDGE, str(pair_id), task.chunk_id, pair_id, task.round, task.source)
        return pair, await tasks.add_task(t, self.run_id, judging_task)

    def take_unjudged(self) -> list[TaskRow]:
        """Return the tasks of judging the pairs that were written since."""
        taken, self._unjudged = self._unjudged, []
        return taken

    # Judging

    async def judge(self, task: TaskRow, call: StoredCall) -> None:
        """Have one pair judged, measure it, and store the verdict."""
        pair, known = await self._pair_to_judge(task)
        chunk = await self.planner.passage(pair.chunk_id or "")
        proposed = ProposedPair(pair.question, pair.answer, pair.evidence, pair.topic)
        proposed = replace(proposed, doubts=doubts_about(proposed, chunk.passage))
        if known:
            # Its judge had answered when a person decided; that was taken back. No call is paid for twice.
            await run_shielded(self._decide(task, pair, call, Verdict(self.decision(proposed, known))))
            return

        async def check_wanted(t: Store) -> None:
            if not still_waiting(pair, *await store_generation.state_and_text(t, pair.id)):
                raise _Superseded

        calls: list[StoredCall] = []

        def prepare(call: StoredCall) -> StoredCall:
            call.check_wanted = check_wanted
            self._may_wait(call, task)
            calls.append(call)
            return call

        try:
            rated = await self._rate(task, chunk.passage, proposed, prepare(call), prepare)
        except _Superseded:
            await run_shielded(self._end_superseded(task))
            return
        self._judgement_tokens = max(self._judgement_tokens, sum(one.largest for one in calls))
        judgement = rated.judgement
        metrics = {**judging.pair_metrics(proposed, chunk.passage, judgement), **rated.metrics}
        # Without a judge's metrics, the others say what they stand for.
        details = rated.details or dict.fromkeys(metrics, f"{judgement.mode}: {judgement.note}")
        decision = self.decision(proposed, metrics)
        if not judgement.metrics:
            decision = replace(decision, reason=f"{decision.reason}; {judgement.note}")
        verdict = Verdict(decision, metrics, details)
        await run_shielded(self._decide(task, pair, call, verdict))

    def decision(self, pair: ProposedPair, metrics: Mapping[str, float]) -> Decision:
        """Return the verdict on a pair by its metrics; a doubtful number takes judges that can tell wrong ones.

        Where judges are to be checked, one that was not (yet) cannot.
        """
        unchecked = not self.ctx.settings.data_generation.check_judge
        able = all(self._reckons.get(judge.name, unchecked) for judge in self.model.judges)
        return self.pair_judge.decide(metrics, pair.doubts, can_reckon=able)

    async def _rate(
        self,
        task: TaskRow,
        passage: str,
        pair: ProposedPair,
        call: StoredCall,
        prepare: Callable[[StoredCall], StoredCall],
    ) -> PanelJudgement:
        """Ask the one judge by `call`, or several by calls of their own, each made ready by `prepare`."""
        if len(self.model.judges) > 1:

            def accepts(judgement: Judgement) -> bool:
                metrics = judging.pair_metrics(pair, passage, judgement)
                return self.pair_judge.decide(metrics, pair.doubts).verdict == "accepted"

            return await self.panel.judge(task.id, passage, pair, prepare, accepts)
        judgement = await self.model.judges[0].judge(passage, pair, call)
        details = dict.fromkeys(judgement.metrics, f"{judgement.mode}: {judgement.note}")
        return PanelJudgement(judgement, judgement.metrics, details)

    async def _end_superseded(self, task: TaskRow) -> None:
        """End the judging of a pair that a person has decided; a pair with a new text stays to be judged."""
        if (await self._pair(task)).state != "waiting":
            await self._end(task, "cancelled", "the pair was decided in the meantime")
        else:
            self.reopened.add(task.id)
        await self.recount()

    async def _decide(self, task: TaskRow, judged: PairRow, call: StoredCall | None, verdict: Verdict) -> None:
        """Store the verdict on a pair as it was `judged`, unless a person has decided or edited it since.

        Without a `call`, the judge could not be asked.
        """

        async def store(t: Store) -> Literal["decided", "over", "edited"]:
            if call is not None:
                await call.settle(t)
            state_now, *text = await store_generation.state_and_text(t, judged.id)
            if still_waiting(judged, state_now, *text):
                await self._store_verdict(t, judged, verdict)
                state, reason = ("done", None) if call is not None else ("dead", verdict.decision.reason)
                await tasks.end_task(t, task.id, state, reason)
                return "decided"
            if state_now != "waiting":
                await tasks.end_task(t, task.id, "done", "a person decided in the meantime")
                if [judged.question, judged.answer] == text:
                    await store_generation.put_metrics(t, judged.id, verdict.metrics, verdict.details)
                return "over"
            return "edited"  # it has another text by now: its task stays to be done

        outcome = await self.store.together(store)
        if outcome == "edited":
            self.reopened.add(task.id)
        if outcome == "decided":
            self._count_verdict(judged, verdict.decision.verdict)
        else:
            await self.recount()

    def _count_verdict(self, pair: PairRow, verdict: str) -> None:
        """Update progress, slots and the index of questions after the verdict on a waiting pair."""
        index_id = self._index_ids.pop(pair.id, None)
        if verdict != "accepted":
            self.planner.slots.add(slot_of(pair), -1)
            if index_id is not None:
                self.near_duplicates.remove(index_id)
        self.progress.add_verdict(pair.task_id, verdict)

    async def recount(self) -> bool:
        """Count the pairs anew, because people may have changed verdicts; returns whether the counts differed.

        The counts are those of one moment: what was stored before it was counted before, what comes later is not.
        """

        async def count_all(t: Store) -> tuple[dict[str, int], dict[int, int]]:
            return await store_generation.pair_counts(t, self.run_id), await store_generation.waiting_by_task(
                t, self.run_id
            )

        return self.progress.recount(*await self.store.together(count_all))

    # Ends without an answer

    async def give_up(self, task: TaskRow, reason: str) -> None:
        """Give a task up for good. A pair that waited for its judge goes to review."""
        if task.kind == JUDGE:
            decision = self.pair_judge.review("judge failed", f"the judge could not be asked: {reason}")
            await run_shielded(self._decide(task, await self._pair(task), None, Verdict(decision)))
            return
        await run_shielded(self._end(task, "dead", reason))
        if task.kind == CHECK:
            self.ctx.warn(f"{one_line(task.key, 60)} could not be checked as a judge: {one_line(reason, 200)}.")
            return
        self.progress.add_proposed(task.id, 0, 0)
        self.planner.slots.add(slot_of(task), -int(task.slot["count"]))

    async def _end(self, task: TaskRow, state: str, reason: str | None) -> None:
        await self.store.together(lambda t: tasks.end_task(t, task.id, state, reason))

    async def finish(self) -> None:
        """End what is left when the target is reached: waiting pairs go to review, pending tasks are cancelled."""
        decision = self.pair_judge.review("surplus", "the target was already reached when its turn came")
        while True:
            async with self.store.transaction() as t:
                page = await store_generation.pairs(t, self.run_id, ("waiting",), 0, _PAGE)
                for pair in page:
                    await self._store_verdict(t, pair, Verdict(decision))
            if not page:
                break
            for pair in page:
                self.progress.add_verdict(pair.task_id, decision.verdict)
        async with self.store.transaction() as t:
            for kind in (CHECK, GENERATE, JUDGE, ANALYSE):  # texts beside the pairs may wait for their turn
                await tasks.cancel_pending(t, self.run_id, "the target is reached", kind)

    async def _store_verdict(self, t: Store, pair: PairRow, verdict: Verdict) -> None:
        """Store a verdict and its event inside the caller's transaction."""
        decision = verdict.decision
        await store_generation.decide(t, pair.id, decision, verdict.metrics, verdict.details)
        decided = replace(pair, state=decision.verdict, score=decision.score, reason=decision.reason)
        await events.insert(t, self.run_id, [store_generation.pair_event(decided)])

    async def _pair(self, task: TaskRow, t: Store | None = None) -> PairRow:
        pair = await store_generation.pair(t or self.store, task.pair_id or 0)
        assert pair is not None, "judge tasks refer to stored pairs"
        return pair

    async def _pair_to_judge(self, task: TaskRow) -> tuple[PairRow, Mapping[str, float]]:
        """Return a pair, and what was measured of it before; of one that was just written nothing was."""

        async def read(t: Store) -> tuple[PairRow, Mapping[str, float]]:
            pair = await self._pair(task, t)
            return pair, await store_reviews.metrics_of_text(t, pair.id)

        fresh = self._fresh.pop(task.pair_id or 0, None)
        return (fresh, {}) if fresh is not None else await self.store.read_together(read)


class _Superseded(Exception):  # noqa: N818  # never leaves this module
    """A person has decided or edited a pair before its judge was asked."""
