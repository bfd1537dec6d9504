"""The writer and judge of texts behind an endpoint.

A document is asked for as plain text, which any model can write; a conversation and other wordings as JSON, in the way
that the endpoint was found to keep. A model that writes only about single sentences is not asked for any: its texts are
made by rule.
"""

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from lora_tui.config.generation import DataGeneration
from lora_tui.engine.data.survey import estimate_tokens
from lora_tui.engine.generation.client.enforcement import Enforcement
from lora_tui.engine.generation.client.refusals import FormRefused
from lora_tui.engine.generation.client.wire import ChatReply, ChatRequest
from lora_tui.engine.generation.generation_model import (
    CallFailed,
    CallRecord,
    Judgement,
    ProposedPair,
    TextRequest,
    WrittenTexts,
)
from lora_tui.engine.generation.prompts import PAIRS_SCHEMA
from lora_tui.engine.generation.remote_calls import RemoteCalls
from lora_tui.engine.generation.remote_judge import RemoteJudge
from lora_tui.engine.generation.replies import parse_pairs
from lora_tui.engine.generation.reply_forms import SINGLE_FORMS, FormLadder
from lora_tui.engine.generation.texts.rule_texts import RuleTexts, system_prompt
from lora_tui.engine.generation.texts.text_prompts import DIALOGUE_SCHEMA, TextPrompts
from lora_tui.engine.generation.texts.text_replies import read_dialogue, read_document
from lora_tui.store.texts import NewText

_FEWEST_TOKENS = 400
"""Tokens that a reply has room for, at least; documents grow with their passage."""

_TOKENS_PER_WORDING = 250


class RemoteTexts:
    """`TextModel` with the models of an endpoint; `forms` is the ladder of the one that writes pairs."""

    def __init__(
        self,
        chosen: DataGeneration,
        calls: RemoteCalls,
        mark: str,
        warn: Callable[[str], None],
        forms: FormLadder,
    ) -> None:
        self._chosen = chosen
        self._calls = calls
        self._prompts = TextPrompts(mark)
        self._forms = forms
        self._judge = RemoteJudge(chosen.judges[0], chosen, calls, self._prompts, warn, forms)
        self._rules = RuleTexts()
        self._rng = random.Random(chosen.seed)  # noqa: S311  # which system prompt, no secret

    async def write(self, request: TextRequest, call: CallRecord) -> WrittenTexts:
        """Have texts written about a passage."""
        if self._forms.current in SINGLE_FORMS:
            return await self._rules.write(request, call)
        try:
            found = await self._write(request, call, self._forms.enforcement)
        except FormRefused:  # the pairs' ladder may never have been told: they were written earlier
            found = await self._write(request, call, "none")
        if any(self._calls.endpoint.holds_key(f"{text.title}\n{text.body}") for text in found):
            raise CallFailed(f"the reply holds the key in {self._chosen.api_key_env}")
        return WrittenTexts(tuple(found))

    async def _write(self, request: TextRequest, call: CallRecord, enforcement: Enforcement) -> list[NewText]:
        chat = self._request(request)
        if request.form == "phrasing":
            pairs = await self._calls.ask(
                replace(chat, schema=PAIRS_SCHEMA, enforcement=enforcement), call, "generation", _read_pairs
            )
            return [
                NewText(place, "phrasing", pair.question, pair.answer)
                for place, pair in enumerate(pairs[: request.count])
            ]
        if request.form == "dialogue":
            read = partial(_read_dialogue, system_prompt(request.topic, self._rng), request.topic)
            return [
                await self._calls.ask(
                    replace(chat, schema=DIALOGUE_SCHEMA, enforcement=enforcement), call, "generation", read
                )
            ]
        return [await self._calls.ask(chat, call, "generation", partial(_read_document, request))]

    async def judge(self, passage: str, text: NewText, call: CallRecord) -> Judgement:
        """Have a text judged with its passage in view."""
        return await self._judge.judge(passage, ProposedPair(text.title, text.body, "", ""), call)

    def _request(self, request: TextRequest) -> ChatRequest:
        chosen = self._chosen.generation
        wanted = _TOKENS_PER_WORDING * request.count if request.form == "phrasing" else estimate_tokens(request.passage)
        most = max(chosen.max_tokens, _FEWEST_TOKENS, 2 * wanted)
        sampling = {"temperature": chosen.temperature, "top_p": chosen.top_p}
        return ChatRequest(self._chosen.model, self._prompts.write(request), most, sampling)


def _read_document(request: TextRequest, reply: ChatReply) -> NewText:
    return read_document(reply.text, request.form, request.topic, cut_off=reply.is_cut_off)


def _read_dialogue(system: str, topic: str, reply: ChatReply) -> NewText:
    return read_dialogue(reply.text, system, topic, cut_off=reply.is_cut_off)


def _read_pairs(reply: ChatReply) -> tuple[ProposedPair, ...]:
    return parse_pairs(reply.text, cut_off=reply.is_cut_off).pairs
