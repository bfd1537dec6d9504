"""The writer of pairs behind an endpoint: asks in the form of reply that its model can keep, and finds out which.

The form is tried on the first passage that is asked about. If that fails, the forms below it are tried on a passage of
the program's own, which holds what can be asked for and is short: a weak model's first minute is spent on learning what
it can do. What was learned is remembered for the endpoint's next run (`endpoint_memory`).
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

from lora_tui.config.generation import DataGeneration
from lora_tui.engine.generation.begun_pairs import BegunPair, begun_pairs, sentences_of
from lora_tui.engine.generation.client.refusals import FormRefused
from lora_tui.engine.generation.client.wire import ChatReply, ChatRequest, CompletionRequest
from lora_tui.engine.generation.endpoint_memory import EndpointNotes, recall, remember
from lora_tui.engine.generation.gates import check_gates
from lora_tui.engine.generation.generation_model import (
    CallFailed,
    CallRecord,
    PairRequest,
    Proposals,
    ProposedPair,
    Slot,
    UnrecordedCall,
)
from lora_tui.engine.generation.prompts import PAIR_SCHEMA, PAIRS_SCHEMA, Message, Prompts
from lora_tui.engine.generation.questions.completions import writing_prompt
from lora_tui.engine.generation.remote_calls import RemoteCalls
from lora_tui.engine.generation.replies import NO_PAIRS, parse_pairs, parse_question_and_answer, read_sentence_pair
from lora_tui.engine.generation.reply_forms import REPLY_FORMS, FormLadder, ReplyForm
from lora_tui.secrets import find_secret

_EXTRA_TRIES = 5
"""Sentences or begun questions that a call may try beyond the pairs it is asked for, before it gives up."""

_SENTENCE_TOKENS = 120
"""Tokens of a reply about one sentence, at most; a model that needs more repeats itself."""

_TRIAL_TOKENS = 120
_QUESTION_TOKENS = 28
_COMPLETION_TEMPERATURES = (0.0, 0.7, 0.9)
"""A begun question is completed once as the model likes it best, then by chance, until one fits its sentence."""

TRIAL = PairRequest(
    passage=(
        "The observatory of Tarn Hill was opened in 1904 by the astronomer Edith Vane. Its largest telescope "
        "has a mirror of two metres, which was ground in Norway. The dome is painted white because dark paint "
        "would warm the air in front of the mirror and blur the stars. On clear nights visitors may look "
        "through a smaller telescope on the terrace. The observatory keeps a record of every meteor that is "
        "seen from the hill."
    ),
    slot=Slot("the observatory of Tarn Hill", "fact", "easy", "a beginner"),
    count=1,
    further_topics=(),
    directives=(),
    avoid=(),
)
"""The request on which forms are tried."""


class _FormLeft(Exception):  # noqa: N818  # never leaves this module
    """The form that a call asks in was left: it asks again in the next one."""


class RemoteWriter:
    """Writes pairs and single questions with an endpoint's model, in the form on the ladder where it stands."""

    def __init__(
        self, chosen: DataGeneration, calls: RemoteCalls, prompts: Prompts, warn: Callable[[str], None]
    ) -> None:
        self._chosen = chosen
        self._calls = calls
        self._prompts = prompts
        self._warn = warn
        self._address = calls.endpoint.shown_url
        self.forms = _ladder_of(recall(self._address, chosen.model))
        self._learning = asyncio.Lock()
        self._rng = random.Random(chosen.seed)  # noqa: S311  # which sentence first, no secret
        self._sentences: dict[str, list[str]] = {}  # of a passage, that were not asked about yet
        self._begun: dict[str, list[BegunPair]] = {}

    async def propose(self, request: PairRequest, call: CallRecord) -> Proposals:
        """Return pairs about a passage.

        Calls wait for each other until a form has brought a usable pair: one learns it for all of them.
        """
        unusable: list[ProposedPair] = []
        before = self.forms.current
        async with self._alone_until_proven(call):
            while True:
                try:
                    proposals = await self._propose(request, call, unusable)
                    break
                except FormRefused:
                    continue
                except _FormLeft:
                    pass
                await self._try_forms(call)  # outside the handler: what fails here has not come of the form
        changed = before != self.forms.current
        return replace(proposals, pairs=(*unusable, *proposals.pairs), form_changed=changed)

    async def question_of(self, statement: str) -> tuple[str, str]:
        """Return a question and answer that say what a statement says."""
        messages, most = self._prompts.statement(statement), self._chosen.generation.max_tokens
        while True:
            enforcement = self.forms.enforcement
            chat = ChatRequest(self._chosen.model, messages, most, {"temperature": 0.0}, PAIR_SCHEMA, enforcement)
            try:
                pair = await self._calls.ask(chat, UnrecordedCall(), "generation", _read_pair)
                if find_secret(statement) is None and (kind := find_secret(" ".join(pair))) is not None:
                    raise CallFailed(f"the reply holds {kind}, which the statement does not")
                if self._calls.endpoint.holds_key(" ".join(pair)):
                    raise CallFailed(f"the reply holds the key in {self._chosen.api_key_env}")
                return pair
            except FormRefused as refused:
                self._refuse(self.forms.current, str(refused))

    @asynccontextmanager
    async def _alone_until_proven(self, call: CallRecord) -> AsyncIterator[None]:
        if not self.forms.proven and not self.forms.is_last:
            async with self._learning:
                if not self.forms.proven:
                    async with self._calls.at_once(call):
                        yield
                    return
        yield

    async def _try_forms(self, call: CallRecord) -> None:
        """Go down the ladder on the passage of the program's own, to the first form that brings a usable pair."""
        while not self.forms.proven:
            was_last = self.forms.is_last
            try:
                await self._propose(TRIAL, call, [])
            except (_FormLeft, FormRefused):
                continue
            except CallFailed as problem:
                if problem.transient:
                    raise
            if was_last:
                return

    async def _propose(self, request: PairRequest, call: CallRecord, unusable: list[ProposedPair]) -> Proposals:
        """Ask in the current form.

        Raises `_FormLeft` when that has failed too often, `FormRefused` when the server does not take it; `unusable`
        keeps the pairs of the former, whose refusal by the gates people should see.
        """
        form = self.forms.current
        try:
            if form in ("flat", "begun"):
                return await self._propose_from_sentences(form, request, call)
            chat = self._request(self._prompts.propose(request), PAIRS_SCHEMA, form)
            if request is TRIAL:
                chat = replace(chat, max_tokens=min(chat.max_tokens, _TRIAL_TOKENS))
            proposals = self._without_key(await self._ask(chat, call, form, request))
        except FormRefused as refused:
            self._refuse(form, str(refused))
            raise
        self.forms.kept.add(form)
        refusals = [check_gates(pair, request.passage) for pair in proposals.pairs]
        usable = not refusals or None in refusals
        reason = None if usable else next(refusal.reason for refusal in refusals if refusal is not None)
        if self._left(form, reason):
            unusable += proposals.pairs
            raise _FormLeft
        return proposals

    async def _propose_from_sentences(self, form: ReplyForm, request: PairRequest, call: CallRecord) -> Proposals:
        """Ask about sentences of the passage one by one, or have begun questions finished one by one."""
        pairs: list[ProposedPair] = []
        refused: list[str] = []
        for _ in range(request.count + _EXTRA_TRIES):
            if len(pairs) == request.count or self.forms.current != form:
                break
            waiting = self._waiting_of(form, request)
            if not waiting:
                refused.append("the passage holds nothing more that can be asked for")
                break
            subject = waiting.pop(0)
            try:
                if isinstance(subject, str):
                    pair = await self._write_pair(subject, request, call)
                else:
                    pair = await self._complete(subject, request, call)
            except CallFailed as problem:
                if problem.transient:
                    raise
                refused.append(str(problem))
                if self._left(form, str(problem)) and not pairs:
                    raise _FormLeft from None
            else:
                pairs.append(pair)
                self._left(form, None)
        return self._without_key(Proposals(tuple(pairs), tuple(refused)))

    def _waiting_of(self, form: ReplyForm, request: PairRequest) -> list[str] | list[BegunPair]:
        """Return what of a passage has not been asked for yet: sentences, or begun pairs."""
        slot = request.slot
        if form == "begun":
            if request.passage not in self._begun:
                self._begun[request.passage] = list(begun_pairs(request.passage, slot.topic, slot.question_type))
            return self._begun[request.passage]
        if request.passage not in self._sentences:
            self._sentences[request.passage] = sentences_of(request.passage, slot.topic)
            self._rng.shuffle(self._sentences[request.passage])
        return self._sentences[request.passage]

    async def _write_pair(self, sentence: str, request: PairRequest, call: CallRecord) -> ProposedPair:
        """Have a whole pair written about a sentence. Raises `CallFailed`."""
        chat = self._request(self._prompts.propose_from_sentence(sentence), PAIR_SCHEMA, "flat")
        chat = replace(chat, max_tokens=min(chat.max_tokens, _SENTENCE_TOKENS))
        read = partial(_read_sentence_pair, sentence, request.slot.topic)
        return await self._calls.ask(chat, call, "generation", read, tries=1, longer=False)

    async def _complete(self, begun: BegunPair, request: PairRequest, call: CallRecord) -> ProposedPair:
        """Have a begun question completed until one fits. Raises `CallFailed`."""
        faults: list[str] = []
        for temperature in _COMPLETION_TEMPERATURES:
            prompt, sampling = writing_prompt(begun.begun), {"temperature": temperature}
            asked = CompletionRequest(self._chosen.model, prompt, _QUESTION_TOKENS, sampling, ("\n", "?"))
            reply = await self._calls.complete(asked, call)
            end = "" if reply.is_cut_off else "?"  # what ends a completion is not part of it
            found = begun.finished(f" {reply.text.split('?')[0]}{end}", request.slot.topic)
            if isinstance(found, ProposedPair):
                return found
            faults.append(found)
        raise CallFailed(faults[0])

    def _request(self, messages: Sequence[Message], schema: dict[str, object], form: ReplyForm) -> ChatRequest:
        chosen = self._chosen.generation
        sampling = {
            "temperature": chosen.temperature,
            "top_p": chosen.top_p,
            "presence_penalty": chosen.presence_penalty,
            "frequency_penalty": chosen.frequency_penalty,
        }
        enforcement = self.forms.enforcement_of(form)
        return ChatRequest(self._chosen.model, messages, chosen.max_tokens, sampling, schema, enforcement)

    async def _ask(self, chat: ChatRequest, call: CallRecord, form: ReplyForm, request: PairRequest) -> Proposals:
        def count(reason: str) -> None:
            if reason == NO_PAIRS:
                self.forms.kept.add(form)
            if self._left(form, reason):
                raise _FormLeft

        real = request is not TRIAL
        tries = 2 if real else 1
        return await self._calls.ask(chat, call, "generation", _read_pairs, tries=tries, longer=real, on_unusable=count)

    def _left(self, form: ReplyForm, reason: str | None) -> bool:
        """Record a reply, usable or not for a `reason`; returns whether its form was left, which is told."""
        proven = self.forms.proven
        why = self.forms.record(form, reason)
        if why is not None:
            following = REPLY_FORMS[self.forms.current]
            self._warn(f"{self._address}, {self._chosen.model}: {why}. From now on it is asked for {following}.")
        if why is not None or proven != self.forms.proven:
            self._remember()
        return why is not None

    def _refuse(self, form: ReplyForm, reason: str) -> None:
        """Tell, once, that the server does not take a form, or the way in which it was to be enforced."""
        enforcement = self.forms.enforcement_of(form)
        form = form if enforcement == "none" else enforcement
        if self.forms.refuse(form):
            shown = REPLY_FORMS[form]
            self._warn(f"{self._address} does not take {shown} ({reason}); going on without it.")
            self._remember()

    def _remember(self) -> None:
        ladder = self.forms
        if ladder.proven:
            known = recall(self._address, self._chosen.model) or EndpointNotes()
            refused, kept = tuple(sorted(ladder.refused)), tuple(sorted(ladder.kept))
            notes = replace(known, form=ladder.current, refused=refused, kept=kept, how=ladder.how, at=time.time())
            remember(self._address, self._chosen.model, notes)

    def _without_key(self, proposals: Proposals) -> Proposals:
        """Refuse the pairs that hold the endpoint's key, if that is a secret one: they would be stored."""
        kept = [
            pair
            for pair in proposals.pairs
            if not self._calls.endpoint.holds_key(f"{pair.question} {pair.answer} {pair.evidence} {pair.topic}")
        ]
        lost = len(proposals.pairs) - len(kept)
        reasons = (f"it holds the key in {self._chosen.api_key_env}",) * lost
        return replace(proposals, pairs=tuple(kept), refused=proposals.refused + reasons)


def _ladder_of(notes: EndpointNotes | None) -> FormLadder:
    """Return the ladder where an earlier run has left it, or a new one."""
    if notes is None or notes.form not in REPLY_FORMS:
        return FormLadder()
    refused, kept = set(_forms(notes.refused)), set(_forms(notes.kept))
    (current,) = _forms((notes.form,))
    return FormLadder(current, proven=True, how=notes.how, refused=refused, kept=kept)


def _forms(names: Sequence[str]) -> Iterator[ReplyForm]:
    return (form for form in REPLY_FORMS if form in names)


def _read_pairs(reply: ChatReply) -> Proposals:
    return parse_pairs(reply.text, cut_off=reply.is_cut_off)


def _read_sentence_pair(sentence: str, topic: str, reply: ChatReply) -> ProposedPair:
    return read_sentence_pair(reply.text, sentence, topic, cut_off=reply.is_cut_off)


def _read_pair(reply: ChatReply) -> tuple[str, str]:
    return parse_question_and_answer(reply.text, cut_off=reply.is_cut_off)
