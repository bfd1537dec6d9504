"""The generation model on this machine: the built-in model writes and judges, without a network.

Waiting calls are answered in batches: eight prompts at once decode several times faster than one after the other. The
judge does not rate, which a model of this size cannot; it measures how much more probable the answer is with the
question than without it (mean log-probability gain, in nats per token).
"""

import asyncio
import json
import math
import random
from collections.abc import Sequence
from typing import Any, Self

from lora_tui.engine.generation.analysis import describe
from lora_tui.engine.generation.builtin_questions import (
    QuestionForm,
    evidence_sentences,
    fault_of,
    finished_question,
    forms_of,
    writing_prompt,
)
from lora_tui.engine.generation.generation_model import (
    CallFailed,
    CallRecord,
    CallStopped,
    Judgement,
    PairRequest,
    Proposals,
    ProposedPair,
)
from lora_tui.engine.inference.decode import answers, mean_log_probabilities
from lora_tui.engine.models.base_model import BaseModel, load_base
from lora_tui.engine.models.builtin import BUILTIN
from lora_tui.engine.runtime.context import RunContext, progress_events
from lora_tui.protocol.reply import Decoding
from lora_tui.store.rows import AttemptEnd

_BATCH = 8
_GATHER_SECONDS = 0.02
_QUESTION = Decoding(max_new_tokens=28, until=("?", "\n"))
_EXTRA_SENTENCES = 2
"""Sentences that a call may try beyond the pairs it is asked for, before it gives up."""

_HALF_GAIN = 0.7
"""Gain in nats per token at which the judge's metric is one half: 1 - 2^(-gain / 0.7)."""


class BuiltinModel:
    """`GenerationModel` on SmolLM2-135M-Instruct, on the engine's torch thread."""

    name = BUILTIN
    concurrency = 2 * _BATCH

    def __init__(self, ctx: RunContext, base: BaseModel) -> None:
        self._ctx = ctx
        self._base = base
        self._rng = random.Random(ctx.settings.data_generation.seed)  # noqa: S311  # which sentence first, no secret
        self._used: set[str] = set()
        self._writing = _Batcher(self._write)
        self._judging = _Batcher(self._gains)

    @classmethod
    async def load(cls, ctx: RunContext) -> Self:
        """Fetch the model if it is not cached yet, and load it."""
        base = await ctx.in_torch_thread(load_base, ctx.settings, progress_events(ctx.emit), BUILTIN)
        return cls(ctx, base)

    async def propose(self, request: PairRequest, call: CallRecord) -> Proposals:
        """Write up to ``request.count`` pairs, each about a sentence of the passage that has not been used yet."""
        attempt = await call.begin_attempt()
        asked_before = frozenset(question.casefold() for question in request.avoid)
        pairs: list[ProposedPair] = []
        refused: list[str] = []
        fresh = [sentence for sentence in evidence_sentences(request.passage) if sentence not in self._used]
        self._rng.shuffle(fresh)
        fresh.sort(
            key=lambda sentence: forms_of(sentence, request.slot.question_type)[0].kind != request.slot.question_type
        )
        for sentence in fresh[: request.count + _EXTRA_SENTENCES]:
            if len(pairs) == request.count:
                break
            if sentence in self._used:  # another call of the same passage was quicker
                continue
            self._used.add(sentence)
            form = forms_of(sentence, request.slot.question_type)[0]
            question = form.whole or await self._writing.ask((sentence, form))
            fault = fault_of(question, sentence, form)
            if fault is None and question.casefold() in asked_before:
                fault = "the question has been asked already"
            if fault is None:
                pairs.append(ProposedPair(question, sentence, sentence, request.slot.topic))
            else:
                refused.append(f"{fault}: {question}")
        reply = "\n".join(pair.question for pair in pairs)
        await call.end_attempt(attempt, AttemptEnd("ok", reply=reply))
        if not fresh:
            refused.append("no sentence of the passage is left that states one fact by itself")
        return Proposals(tuple(pairs), tuple(refused))

    async def judge(self, passage: str, pair: ProposedPair, call: CallRecord) -> Judgement:
        """Measure how much the question helps to predict the answer."""
        attempt = await call.begin_attempt()
        gain = await self._judging.ask((pair.question, pair.answer))
        await call.end_attempt(attempt, AttemptEnd("ok", reply=f"{gain:.3f}"))
        level = 1.0 - 0.5 ** (max(0.0, gain) / _HALF_GAIN)
        note = f"the answer is {math.exp(gain):.1f} times as likely a token with the question as without it"
        return Judgement({"judge_correctness": level, "judge_usefulness": level}, note, "gain")

    async def analyse(self, statistics: str, call: CallRecord) -> str:
        """Describe the statistics by rule: the model is too small to interpret them."""
        attempt = await call.begin_attempt()
        text = describe(json.loads(statistics))
        await call.end_attempt(attempt, AttemptEnd("ok", reply=text))
        return text

    async def pair_from_statement(self, statement: str) -> tuple[str, str]:
        """Write a question about a statement; raises `CallFailed` if no question of the model fits it."""
        sentence = " ".join(statement.split())
        sentence = sentence if sentence.endswith(".") else f"{sentence}."
        sentence = sentence[0].upper() + sentence[1:]
        fault = "the statement has no form that the built-in model can ask for"
        for form in forms_of(sentence, "definition"):
            question = form.whole or await self._writing.ask((sentence, form))
            found = fault_of(question, sentence, form)
            if found is None:
                return question, sentence
            fault = found
        raise CallFailed(fault)

    async def close(self) -> None:
        """End the batching tasks."""
        await self._writing.close()
        await self._judging.close()

    async def _write(self, wanted: Sequence[tuple[str, QuestionForm]]) -> list[str]:
        """Return a question about each sentence, in its form."""
        prompts = [writing_prompt(sentence, form.opening) for sentence, form in wanted]
        base = self._base
        written = await self._ctx.in_torch_thread(
            answers, base.model, base.tokenizer, prompts, _QUESTION, self._ctx.stop
        )
        if self._ctx.stop.is_set():  # what was being written is cut off: it is asked for again when the run is resumed
            raise CallStopped
        return [finished_question(form.opening, f" {text}") for (_, form), text in zip(wanted, written, strict=True)]

    async def _gains(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Return for each question and answer the gain in log-probability of the answer, in nats per token."""
        with_question = [(f"Question: {question}\nAnswer:", f" {answer}") for question, answer in pairs]
        without = [("Answer:", f" {answer}") for _, answer in pairs]
        base = self._base
        scores = await self._ctx.in_torch_thread(
            mean_log_probabilities, base.model, base.tokenizer, [*with_question, *without]
        )
        return [asked - unasked for asked, unasked in zip(scores[: len(pairs)], scores[len(pairs) :], strict=True)]


class _Batcher:
    """Batches concurrent requests: gathers them for 20 ms and answers up to eight in one call."""

    def __init__(self, work: Any) -> None:
        self._work = work
        self._waiting: asyncio.Queue[tuple[Any, asyncio.Future[Any]]] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def ask(self, item: Any) -> Any:
        """Return the answer to one request; raises what the batch's work raised."""
        if self._task is None:
            self._task = asyncio.create_task(self._serve())
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        await self._waiting.put((item, future))
        return await future

    async def close(self) -> None:
        """End the serving task."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _serve(self) -> None:
        while True:
            batch = [await self._waiting.get()]
            await asyncio.sleep(_GATHER_SECONDS)
            while len(batch) < _BATCH and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            live = [(item, future) for item, future in batch if not future.done()]
            if live:
                await self._answer(live)

    async def _answer(self, live: list[tuple[Any, "asyncio.Future[Any]"]]) -> None:
        try:
            results = await self._work([item for item, _ in live])
        except Exception as problem:  # noqa: BLE001  # raised in the callers
            for _, future in live:
                if not future.done():
                    future.set_exception(problem)
            return
        for (_, future), result in zip(live, results, strict=True):
            if not future.done():
                future.set_result(result)
