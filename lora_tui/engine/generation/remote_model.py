"""The generation model behind an OpenAI-compatible endpoint: what it is asked for, and what its replies lead to.

A reply that cannot be used costs one more try: cut off, it is asked for again with twice the tokens; malformed, it is
shown to the model with what is wrong; empty or withheld, it is simply asked for again. Where a model keeps failing, the
form of what it is asked for changes (`reply_forms`), and a warning says so.

The judge writes three digits. Where the endpoint gives log-probabilities, its levels are the expectation over its own
distribution, which agrees better with people than the digit it happens to write (arXiv 2303.16634, 2503.03064); how
they were measured is stored either way.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TypeVar

from lora_tui.config.models import DataGeneration
from lora_tui.engine.generation.builtin_questions import evidence_sentences
from lora_tui.engine.generation.client.endpoint import Endpoint, EnforcementRefused
from lora_tui.engine.generation.client.enforcement import Enforcement
from lora_tui.engine.generation.client.wire import ChatReply, ChatRequest
from lora_tui.engine.generation.generation_model import (
    CallFailed,
    CallRecord,
    Judgement,
    PairRequest,
    Proposals,
    ProposedPair,
    UnrecordedCall,
)
from lora_tui.engine.generation.judging import check_gates
from lora_tui.engine.generation.prompts import (
    DIGITS_WANTED,
    JSON_WANTED,
    PAIR_SCHEMA,
    PAIRS_SCHEMA,
    Message,
    Prompts,
    repair,
)
from lora_tui.engine.generation.replies import (
    MalformedReply,
    fault_of_reply,
    parse_pairs,
    parse_question_and_answer,
    plain_text,
    read_judgement,
    read_sentence_pair,
)
from lora_tui.engine.generation.reply_forms import REPLY_FORMS, FormLadder, ReplyForm

T = TypeVar("T")

_EXTRA_SENTENCES = 2
"""Sentences that a call may try beyond the pairs it is asked for, before it gives up."""


class _FormLeft(Exception):  # noqa: N818  # never leaves this module
    """The form that a call asks in was left: it asks again in the next one."""


class RemoteModel:
    """`GenerationModel` over an OpenAI-compatible endpoint."""

    def __init__(self, chosen: DataGeneration, key: str, warn: Callable[[str], None], stop: asyncio.Event) -> None:
        self._chosen = chosen
        self._endpoint = Endpoint(chosen, key, warn, stop)
        self._prompts = Prompts()
        self._warn = warn
        self._cut_off: set[str] = set()  # sections of the configuration whose replies were cut off
        self._forms = FormLadder()
        self._learning = asyncio.Lock()
        self._rng = random.Random(chosen.seed)  # noqa: S311  # which sentence first, no secret
        self._used: set[str] = set()  # sentences that were asked about
        self.name = chosen.model
        self._judge = chosen.judge_model or chosen.model
        self.concurrency = chosen.max_concurrency

    async def close(self) -> None:
        """Close the connections."""
        await self._endpoint.close()

    async def propose(self, request: PairRequest, call: CallRecord) -> Proposals:
        """Ask for pairs about a passage, in the form that the model can keep.

        Calls wait for each other until a form has brought a usable pair: one learns it for all of them.
        """
        unusable: list[ProposedPair] = []
        before = self._forms.current
        async with self._alone_until_proven():
            while True:
                try:
                    proposals = await self._propose(self._forms.current, request, call, unusable)
                except (_FormLeft, EnforcementRefused):
                    continue
                break
        changed = before != self._forms.current
        return replace(proposals, pairs=(*unusable, *proposals.pairs), form_changed=changed)

    @asynccontextmanager
    async def _alone_until_proven(self) -> AsyncIterator[None]:
        if not self._forms.proven:
            async with self._learning:
                if not self._forms.proven:
                    yield
                    return
        yield

    async def _propose(
        self, form: ReplyForm, request: PairRequest, call: CallRecord, unusable: list[ProposedPair]
    ) -> Proposals:
        """Ask in one form. Raises `_FormLeft` when that has failed too often; `unusable` keeps the pairs of that."""
        if form == "flat":
            return await self._propose_from_sentences(request, call)
        messages = self._prompts.propose(request)
        chat = self._writing(messages, PAIRS_SCHEMA, form)
        proposals = self._without_key(await self._answer(chat, call, "generation", _read_pairs, form))
        self._forms.kept.add(form)
        refusals = [check_gates(pair, request.passage) for pair in proposals.pairs]
        usable = not refusals or None in refusals
        reason = None if usable else next(refusal.reason for refusal in refusals if refusal is not None)
        if self._left(form, reason):
            unusable += proposals.pairs
            raise _FormLeft
        return proposals

    async def _propose_from_sentences(self, request: PairRequest, call: CallRecord) -> Proposals:
        """Ask about one sentence of the passage after the other, as the built-in model does."""
        fresh = [sentence for sentence in evidence_sentences(request.passage) if sentence not in self._used]
        self._rng.shuffle(fresh)
        pairs: list[ProposedPair] = []
        refused: list[str] = []
        for sentence in fresh[: request.count + _EXTRA_SENTENCES]:
            if len(pairs) == request.count:
                break
            self._used.add(sentence)
            chat = self._writing(self._prompts.propose_from_sentence(sentence), PAIR_SCHEMA, "flat")
            read = partial(_read_sentence_pair, sentence, request.slot.topic)
            try:
                pairs.append(await self._answer(chat, call, "generation", read, "flat", tries=1))
            except CallFailed as problem:
                if problem.transient:
                    raise
                refused.append(str(problem))
            else:
                self._left("flat", None)
        if not fresh:
            refused.append("no sentence of the passage is left that states one fact by itself")
        return self._without_key(Proposals(tuple(pairs), tuple(refused)))

    def _writing(self, messages: Sequence[Message], schema: dict[str, object], form: ReplyForm) -> ChatRequest:
        chosen = self._chosen.generation
        sampling = {
            "temperature": chosen.temperature,
            "top_p": chosen.top_p,
            "presence_penalty": chosen.presence_penalty,
            "frequency_penalty": chosen.frequency_penalty,
        }
        enforcement = self._forms.enforcement_of(form)
        return ChatRequest(self.name, messages, chosen.max_tokens, sampling, schema, enforcement)

    def _left(self, form: ReplyForm, reason: str | None) -> bool:
        """Record a reply, usable or not for a `reason`; returns whether its form was left, which is told."""
        why = self._forms.record(form, reason)
        if why is not None:
            self._tell_next_form(why)
        return why is not None

    def _tell_next_form(self, why: str) -> None:
        following = REPLY_FORMS[self._forms.current]
        self._warn(f"{self._endpoint.shown_url}, {self.name}: {why}. From now on it is asked for {following}.")

    def _without_key(self, proposals: Proposals) -> Proposals:
        """Refuse the pairs that hold the endpoint's key, if that is a secret one: they would be stored."""
        kept = [
            pair
            for pair in proposals.pairs
            if not self._endpoint.holds_key(f"{pair.question} {pair.answer} {pair.evidence} {pair.topic}")
        ]
        lost = len(proposals.pairs) - len(kept)
        reasons = (f"it holds the key in {self._chosen.api_key_env}",) * lost
        return replace(proposals, pairs=tuple(kept), refused=proposals.refused + reasons)

    async def judge(self, passage: str, pair: ProposedPair, call: CallRecord) -> Judgement:
        """Ask for the three levels of a pair, with the passage in view."""
        chosen = self._chosen.evaluation
        sampling = {"temperature": chosen.temperature, "logprobs": True}
        chat = ChatRequest(self._judge, self._prompts.judge(passage, pair), chosen.max_tokens, sampling)
        return await self._answer(chat, call, "evaluation", read_judgement)

    async def analyse(self, statistics: str, call: CallRecord) -> str:
        """Ask what the statistics of a batch mean."""
        chosen = self._chosen.batch_analysis
        sampling = {"temperature": chosen.temperature}
        chat = ChatRequest(self._judge, self._prompts.analyse(statistics), chosen.max_tokens, sampling)
        return await self._answer(chat, call, "batch_analysis", lambda reply: plain_text(reply.text))

    async def pair_from_statement(self, statement: str) -> tuple[str, str]:
        """Ask for a question and answer that say what a statement says."""
        messages, most = self._prompts.statement(statement), self._chosen.generation.max_tokens
        while True:
            enforcement = self._forms.enforcement
            chat = ChatRequest(self.name, messages, most, {"temperature": 0.0}, PAIR_SCHEMA, enforcement)
            with suppress(EnforcementRefused):
                return await self._answer(chat, UnrecordedCall(), "generation", _read_pair)

    async def _answer(
        self,
        request: ChatRequest,
        call: CallRecord,
        section: str,
        read: Callable[[ChatReply], T],
        form: ReplyForm | None = None,
        *,
        tries: int = 2,
    ) -> T:
        """Return what `read` makes of the reply: asked for once more with twice the tokens, else `tries` times in all.

        Replies in a `form` that cannot be read count against it: `_FormLeft` is raised when they are too many.
        """
        limit = request.max_tokens * (2 if section in self._cut_off else 1)
        messages: Sequence[Message] = request.messages
        unusable = 0
        while True:
            try:
                reply = await self._endpoint.chat(replace(request, messages=messages, max_tokens=limit), call)
            except EnforcementRefused as refused:
                self._refuse(request.enforcement, str(refused))
                raise
            try:
                used = read(reply)
            except MalformedReply as problem:
                status, reason = fault_of_reply(reply, str(problem))
            else:
                await call.end_attempt(reply.attempt, reply.usage)
                return used
            await call.end_attempt(reply.attempt, replace(reply.usage, status=status, error=reason))
            if form is not None and self._left(form, reason):
                raise _FormLeft
            if status == "truncated":
                if limit > request.max_tokens:
                    raise CallFailed(f"{reason}; raise data_generation.{section}.max_tokens")
                limit = 2 * request.max_tokens
                self._warn_cut_off(section, request.max_tokens)
                continue
            unusable += 1
            if unusable == tries:
                raise CallFailed(f"two unusable replies: {reason}" if tries > 1 else reason)
            if status == "malformed":
                wanted = JSON_WANTED if request.schema is not None else DIGITS_WANTED
                messages = repair(request.messages, reply.text, reason, wanted)

    def _refuse(self, enforcement: Enforcement, reason: str) -> None:
        """Tell, once, that the server does not take a way to enforce the form."""
        if enforcement != "none" and self._forms.refuse(enforcement):
            shown = REPLY_FORMS[enforcement]
            self._warn(f"{self._endpoint.shown_url} does not take {shown} ({reason}); going on without it.")

    def _warn_cut_off(self, section: str, limit: int) -> None:
        if section not in self._cut_off:
            self._cut_off.add(section)
            self._warn(
                f"A reply was cut off at {limit} tokens (data_generation.{section}.max_tokens); asking for up to "
                f"{2 * limit} from now on."
            )


def _read_pairs(reply: ChatReply) -> Proposals:
    return parse_pairs(reply.text)


def _read_sentence_pair(sentence: str, topic: str, reply: ChatReply) -> ProposedPair:
    return read_sentence_pair(reply.text, sentence, topic)


def _read_pair(reply: ChatReply) -> tuple[str, str]:
    return parse_question_and_answer(reply.text)
