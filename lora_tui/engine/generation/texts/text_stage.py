"""The stage of a generation run that follows the pairs: texts are written about their passages, and judged.

A task is one text: a call that writes it, stored with the text in one transaction, and a call that judges it, stored
with the verdict. Whoever takes up a task whose text is there asks only for the judgement: no answer is paid for twice.
Where pairs are held out (`held_out_facts`), nothing here is made of them, and what asks questions does not see their
sentences.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial

from lora_tui.engine.generation import analysis, judging
from lora_tui.engine.generation.corpus import Corpus, title_of
from lora_tui.engine.generation.gates import Refusal, check_gates, doubts_about
from lora_tui.engine.generation.generation_model import (
    CallFailed,
    CallStopped,
    GenerationModel,
    Judgement,
    KnownPair,
    ProposedPair,
    TextRequest,
    WrittenTexts,
)
from lora_tui.engine.generation.held_out_facts import is_held_out, without_held_out
from lora_tui.engine.generation.ledger import BudgetSpent, StoredCall, run_shielded
from lora_tui.engine.generation.questions.sentences import title_of as title_of_text
from lora_tui.engine.generation.texts.text_gates import check_text
from lora_tui.engine.generation.texts.text_plan import PHRASING, TEXT, TextPlan, is_planned, wanted_texts
from lora_tui.engine.generation.workers import Workers
from lora_tui.engine.runtime.context import RunContext
from lora_tui.scoring.judge import ten_scale
from lora_tui.scoring.metrics import grounding
from lora_tui.scoring.words import question_key
from lora_tui.store import events, tasks, texts
from lora_tui.store import generation as store_generation
from lora_tui.store.connection import Store
from lora_tui.store.rows import AnalysisRow, ChunkRow, NewTask, TaskRow
from lora_tui.store.texts import NewText, TextRow, TextVerdict
from lora_tui.text import one_line

WRITING_TEXTS = "writing texts"
"""The phase whose progress is accepted texts of those wanted."""

_MOST_PAIRS = 6
_MOST_FRUITLESS = 40
"""Tasks of a form in a row without an accepted text, after which it is given up: more would be paid for in vain."""

_INSTRUCTION_TOKENS = 900
"""Tokens of a judgement beside passage and text, its reply among them."""

_STOP_GRACE = 20.0
_LEAST_GROUNDED = 0.75
"""The judge's level 4 of 5 for keeping to the passage: below, a document teaches what is not so."""

_SHARES = {"judge_groundedness": 0.5, "judge_correctness": 0.25, "judge_usefulness": 0.25}
"""What each of the judge's levels counts in the score of a text."""


@dataclass
class TextStage:
    """Writes the texts that a run's configuration asks for, beside the pairs that its `workers` have brought."""

    ctx: RunContext
    workers: Workers
    model: GenerationModel
    corpus: Corpus
    _running: dict[asyncio.Task[None], TaskRow] = field(default_factory=dict)
    _failed: dict[int, TaskRow] = field(default_factory=dict)  # with a failure that may pass, tried once more
    _tried_again: set[int] = field(default_factory=set)
    _fruitless: dict[str, int] = field(default_factory=dict)  # by form: tasks in a row without an accepted text
    _unjudged: dict[int, int] = field(default_factory=dict)  # by task: texts, also expected ones, to be judged

    def __post_init__(self) -> None:
        self.store, self.run_id = self.ctx.store, self.ctx.run_id
        self._chosen = self.ctx.settings.data_generation
        self._counts: dict[str, int] = {}

    async def run(self) -> bool:
        """Write until every form has its number, or has nothing more to be written about.

        Returns False where a budget ended it. Raises `UnreachableError` as calls do; what was answered is stored then.
        """
        accepted = self.workers.progress.accepted
        wanted = wanted_texts(self._chosen, accepted)
        if not accepted or not any(wanted.values()):
            return True
        stored = await texts.counts(self.store, self.run_id)
        self._counts = {form: stored.get(form, {}).get("accepted", 0) for form in wanted}
        plan = TextPlan(self.store, self.run_id, self.corpus, self._chosen)
        turns = {form: plan.tasks_of(form) for form in wanted}
        again = await tasks.pending_tasks(self.store, self.run_id, TEXT, 1_000_000)
        within_budget = True
        self._report(wanted)
        try:
            while not self.ctx.stop_async.is_set():
                while within_budget and len(self._running) < self.model.concurrency:
                    task = again.pop(0) if again else await self._next(turns, wanted)
                    if task is None:
                        break
                    self._running[asyncio.create_task(self._run_task(task))] = task
                if not self._running:
                    if within_budget and (again := self._to_try_again()):
                        continue
                    break
                within_budget = await self._collect() and within_budget
                self._report(wanted)
            await self._drain()
        finally:
            await self._cancel()
        if not self.ctx.stop_async.is_set():
            if within_budget:
                self._tell_shortfall(wanted)
            await self._analyse()
        return within_budget

    # Planning

    async def _next(self, turns: dict[str, AsyncIterator[NewTask]], wanted: dict[str, int]) -> TaskRow | None:
        """Plan the next task: of the form that lags most behind its number."""
        under_way = {form: self._per_task(form) * n for form, n in self._forms_running().items()}
        while True:
            lacking = {
                form: (self._counts[form] + under_way.get(form, 0)) / wanted[form]
                for form in turns
                if self._counts[form] + under_way.get(form, 0) < wanted[form]
            }
            if not lacking:
                return None
            form = min(lacking, key=lambda one: lacking[one])
            if self._fruitless.get(form, 0) >= _MOST_FRUITLESS:
                del turns[form]
                continue
            async for new in turns[form]:
                if await is_planned(self.store, self.run_id, new) or not await self._may_be_written(new):
                    continue
                async with self.store.transaction() as t:
                    await tasks.add_tasks(t, self.run_id, [new])
                return await tasks.task_by_key(self.store, self.run_id, TEXT, new.key)
            del turns[form]  # it has had all its turns

    def _per_task(self, form: str) -> int:
        return self._chosen.mix.phrasings if form == PHRASING else 1

    def _forms_running(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for task in self._running.values():
            found[str(task.slot["form"])] = found.get(str(task.slot["form"]), 0) + 1
        return found

    async def _may_be_written(self, task: NewTask) -> bool:
        """Whether a wording's pair is trained on: of one that is held out nothing is made."""
        if task.pair_id is None or self._chosen.held_out_facts <= 0:
            return True
        pair = await store_generation.pair(self.store, task.pair_id)
        return pair is not None and not self._held_out(pair.evidence, (await self._chunk(pair.chunk_id)).text)

    def _held_out(self, evidence: str, passage: str) -> bool:
        return is_held_out(evidence, passage, self._chosen.held_out_facts, self._chosen.seed)

    # Tasks

    async def _run_task(self, task: TaskRow) -> None:
        """Have a text written, unless it is there already, and judged."""
        form = str(task.slot["form"])
        self._fruitless[form] = self._fruitless.get(form, 0) + 1  # until one is accepted
        try:
            why_none = await self._write_and_judge(task, await self._chunk(task.chunk_id))
        finally:
            self._unjudged.pop(task.id, None)
        await run_shielded(self._end(task, "done", why_none))

    async def _write_and_judge(self, task: TaskRow, chunk: ChunkRow) -> str | None:
        """Return why nothing was written, if so."""
        rows, why_none = await texts.of_task(self.store, task.id), None
        if not rows:
            call = self._call(task)

            def set_aside() -> int:
                self._unjudged[task.id] = int(task.slot["count"])
                return self._judging_to_come()

            call.set_aside = set_aside
            try:
                rows, why_none = await self._write(task, chunk, call)
            finally:
                await call.abandon()
        waiting = [row for row in rows if row.state == "waiting"]
        for number, row in enumerate(waiting):
            self._unjudged[task.id] = len(waiting) - number
            call = self._call(task)
            call.set_aside = partial(self._begin_judging, task.id)
            try:
                await self._judge(row, chunk, call)
            finally:
                await call.abandon()
        return why_none

    def _begin_judging(self, task_id: int) -> int:
        """Take a text off those to come: its call reserves its own tokens."""
        self._unjudged[task_id] = max(0, self._unjudged.get(task_id, 0) - 1)
        return 0

    def _judging_to_come(self) -> int:
        """Return the tokens for judging what is being written: no text is paid for and left unjudged."""
        return sum(self._unjudged.values()) * (2 * self._chosen.chunk_tokens + _INSTRUCTION_TOKENS)

    def _call(self, task: TaskRow) -> StoredCall:
        return StoredCall(self.store, self.run_id, task.id, self.workers.ledger, self.workers.wait_while_paused)

    async def _write(self, task: TaskRow, chunk: ChunkRow, call: StoredCall) -> tuple[list[TextRow], str | None]:
        """Return what was written, and why that is nothing."""
        request = await self._request(task, chunk)
        written = await self.model.texts.write(request, call)
        rows = await run_shielded(self._store_written(task, request, written, call, chunk))
        return rows, written.why_none or None

    async def _request(self, task: TaskRow, chunk: ChunkRow) -> TextRequest:
        form, topic = str(task.slot["form"]), chunk.heading or title_of(task.source)
        pairs = await self._pairs_about(chunk, task)
        passage = chunk.text
        if form == "dialogue":
            passage = without_held_out(passage, self._chosen.held_out_facts, self._chosen.seed)
        opening = ""
        if chunk.position:
            first = await store_generation.chunk_at(self.store, chunk.document_id, self.corpus.chunking, 0)
            opening = first.text if first is not None else ""
        if form == "dialogue":  # what a conversation is about is the document, not one of its headings
            topic = title_of_text(opening or chunk.text) or title_of(task.source)
        variant, wordings = int(task.slot["variant"]), int(task.slot["count"])
        return TextRequest(form, passage, topic, tuple(pairs), variant, wordings, opening)

    async def _pairs_about(self, chunk: ChunkRow, task: TaskRow) -> list[KnownPair]:
        """The accepted pairs about a passage that are trained on; of a wording's task the one that it is for."""
        found = [
            KnownPair(*row)
            for row in await texts.pairs_about(self.store, self.run_id, chunk.id)
            if not self._held_out(row[3], chunk.text)
        ]
        if task.pair_id is not None:
            return [pair for pair in found if pair.id == task.pair_id]
        turn = int(task.slot["variant"]) % max(1, len(found))  # of many, others each time
        return (found[turn:] + found[:turn])[:_MOST_PAIRS]

    async def _store_written(
        self, task: TaskRow, request: TextRequest, written: WrittenTexts, call: StoredCall, chunk: ChunkRow
    ) -> list[TextRow]:
        questions = [pair.question for pair in request.pairs]
        async with self.store.transaction() as t:
            await call.settle(t)
            others = await texts.bodies_about(t, self.run_id, task.chunk_id, request.form)
            for text in written.texts:
                text_id = await texts.add(t, self.run_id, task, text)
                if text.form == PHRASING:
                    refusal = await self._wording_refusal(t, text, request.pairs, chunk.text)
                else:
                    refusal = check_text(text, chunk.text, questions, others, by_rule=written.by_rule)
                if refusal is not None:
                    verdict = TextVerdict(refusal.verdict, None, refusal.cause, refusal.reason, {})
                    await self._store_verdict(t, text_id, verdict)
        return await texts.of_task(self.store, task.id)

    async def _wording_refusal(
        self, t: Store, text: NewText, pairs: tuple[KnownPair, ...], passage: str
    ) -> Refusal | None:
        """Why a further wording is refused: by the gates of pairs, or because the run has asked it so already."""
        if await store_generation.has_question(t, self.run_id, question_key(text.title)):
            return Refusal("duplicate", "the same question was asked before")
        evidence = pairs[0].evidence if pairs else passage
        return check_gates(ProposedPair(text.title, text.body, evidence, ""), passage)

    async def _judge(self, row: TextRow, chunk: ChunkRow, call: StoredCall) -> None:
        try:
            verdict = await self._verdict(row, chunk, call)
        except CallFailed as problem:
            if problem.transient:
                raise
            verdict = TextVerdict("review", None, "judge failed", f"the judge could not be asked: {problem}", {})
        await run_shielded(self._store_judged(row, call, verdict))

    async def _verdict(self, row: TextRow, chunk: ChunkRow, call: StoredCall) -> TextVerdict:
        if row.form == PHRASING:
            pair = await store_generation.pair(self.store, row.pair_id or 0)
            evidence = pair.evidence if pair is not None else chunk.text
            proposed = ProposedPair(row.title, row.body, evidence, "")
            proposed = replace(proposed, doubts=doubts_about(proposed, chunk.text))
            judgement = await self.model.judges[0].judge(chunk.text, proposed, call)
            metrics = judging.pair_metrics(proposed, chunk.text, judgement)
            decision = self.workers.decision(proposed, metrics)
            return TextVerdict(
                decision.verdict, decision.score, decision.cause, decision.reason, metrics, judgement.note
            )
        text = NewText(0, row.form, row.title, row.body, tuple(row.messages))
        judgement = await self.model.texts.judge(chunk.text, text, call)
        return text_verdict(row.body, chunk.text, judgement, self._chosen.evaluation_threshold)

    async def _store_judged(self, row: TextRow, call: StoredCall, verdict: TextVerdict) -> None:
        async with self.store.transaction() as t:
            await call.settle(t)
            await self._store_verdict(t, row.id, verdict)

    async def _store_verdict(self, t: Store, text_id: int, verdict: TextVerdict) -> None:
        await texts.decide(t, text_id, verdict)
        row = await texts.get(t, text_id)
        assert row is not None, "it has just been decided"
        await events.insert(t, self.run_id, [texts.text_event(row)])
        if verdict.verdict == "accepted":
            self._counts[row.form] = self._counts.get(row.form, 0) + 1
            self._fruitless[row.form] = 0

    async def _end(self, task: TaskRow, state: str, reason: str | None = None) -> None:
        async with self.store.transaction() as t:
            await tasks.end_task(t, task.id, state, reason)

    # Ends

    async def _collect(self) -> bool:
        """Wait until a task has ended; returns False where a budget does not allow its call."""
        stop = asyncio.create_task(self.ctx.stop_async.wait())
        try:
            await asyncio.wait([*self._running, stop], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
        return await self._collect_ended()

    async def _collect_ended(self) -> bool:
        within_budget = True
        for ended in [running for running in self._running if running.done()]:
            task = self._running.pop(ended)
            try:
                ended.result()
            except CallStopped:
                continue
            except BudgetSpent:
                within_budget = False
            except CallFailed as failure:
                if failure.transient and task.id not in self._tried_again:
                    self._failed[task.id] = task
                else:
                    await run_shielded(self._end(task, "dead", one_line(str(failure), 300)))
        return within_budget

    def _to_try_again(self) -> list[TaskRow]:
        """The tasks whose failure may have passed, each once."""
        found = list(self._failed.values())
        self._tried_again |= self._failed.keys()
        self._failed.clear()
        return found

    async def _drain(self) -> None:
        """Let calls in flight be answered: they have been paid for."""
        if self._running:
            await asyncio.wait(self._running, timeout=_STOP_GRACE)
            await self._collect_ended()

    async def _cancel(self) -> None:
        for running in self._running:
            running.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    # Reports

    def _tell_shortfall(self, wanted: dict[str, int]) -> None:
        """Warn of the forms that have not reached their number."""
        short = [f"{form} {self._counts[form]:,} of {n:,}" for form, n in wanted.items() if self._counts[form] < n]
        if not short:
            return
        given_up = [form for form, number in self._fruitless.items() if number >= _MOST_FRUITLESS]
        why = "the folder gives no more"
        if given_up:
            why = f"of {' and '.join(given_up)} {_MOST_FRUITLESS} in a row were not accepted (d in the app lists them)"
        self.ctx.warn(f"Fewer texts than [data_generation.mix] asks for: {', '.join(short)}; {why}.")

    def _report(self, wanted: dict[str, int]) -> None:
        done = sum(min(self._counts[form], number) for form, number in wanted.items())
        note = ", ".join(f"{form} {self._counts[form]}/{number}" for form, number in wanted.items())
        self.ctx.emit("progress", phase=WRITING_TEXTS, done=done, total=sum(wanted.values()), note=note)

    async def _analyse(self) -> None:
        """Store an analysis that counts the texts, too: what the run has come to, in words by rule."""
        statistics = await self.workers.analyst.statistics()
        statistics["texts"] = await texts.counts(self.store, self.run_id)
        described = "; ".join(
            f"{form}: {states['accepted']} accepted, {states['rejected']} rejected"
            for form, states in statistics["texts"].items()
        )
        words = analysis.describe(statistics) + (f" Texts: {described}." if described else "")
        newest = await store_generation.newest_analysis(self.store, self.run_id)
        if newest is not None and newest.statistics.get("texts") == statistics["texts"]:
            return
        version, directives = (newest.version + 1, newest.directives) if newest is not None else (1, [])
        accepted = self.workers.progress.accepted
        row = AnalysisRow(version, accepted, statistics, directives, words, time.time())
        payload = asdict(row)
        del payload["at"]
        async with self.store.transaction() as t:
            await store_generation.add_analysis(t, self.run_id, row)
            await events.insert(t, self.run_id, [(row.at, "analysis", payload)])

    async def _chunk(self, chunk_id: str | None) -> ChunkRow:
        row = await store_generation.chunk(self.store, chunk_id or "")
        assert row is not None, "tasks refer to stored passages"
        return row


def text_verdict(body: str, passage: str, judgement: Judgement, threshold: float) -> TextVerdict:
    """Return the verdict on a document or a conversation (`threshold` is 0-10).

    The score is the mean of the judge's levels, keeping to the passage counted twice; without a judge, the share of the
    text's words that the passage holds.
    """
    metrics = {**judgement.metrics, "grounding": grounding(body, passage)}
    if judgement.metrics:
        score = ten_scale(sum(share * metrics.get(name, 0.0) for name, share in _SHARES.items()))
    else:
        score = ten_scale(metrics["grounding"])
    grounded = metrics.get("judge_groundedness", 1.0)
    verdict, cause, reason = "accepted", "accepted", f"scores {score:g} of 10, the threshold is {threshold:g}"
    if grounded < _LEAST_GROUNDED:
        verdict, cause = "rejected", "not grounded"
        reason = f"the judge finds {1 + 4 * grounded:.1f} of 5 of it in the passage"
    elif score < threshold:
        verdict, cause = "rejected", "below threshold"
    return TextVerdict(verdict, score, cause, reason, metrics, judgement.note)
