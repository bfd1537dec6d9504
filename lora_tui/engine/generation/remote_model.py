"""The generation model behind an OpenAI-compatible endpoint: its requests, and how its replies are read.

A reply that cannot be used costs one more try: cut off, it is asked for again with twice the tokens; malformed, it is
shown to the model with what is wrong; empty or withheld, it is simply asked for again.

The judge writes three digits. Where the endpoint gives log-probabilities, its levels are the expectation over its own
distribution, which agrees better with people than the digit it happens to write (arXiv 2303.16634, 2503.03064); how
they were measured is stored either way.

Models think aloud, wrap JSON in fences and add words around it: all that is skipped. A reply that then does not hold
what was asked for is malformed, and no half of it is used. The judge's digits are read by `lora_tui.scoring.judge`.
"""

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from lora_tui.config.models import DataGeneration
from lora_tui.engine.generation.client.endpoint import Endpoint
from lora_tui.engine.generation.client.wire import ChatReply, ChatRequest, TokenLogprobs, cleaned
from lora_tui.engine.generation.generation_model import (
    CallFailed,
    CallRecord,
    Judgement,
    PairRequest,
    Proposals,
    ProposedPair,
    UnrecordedCall,
)
from lora_tui.engine.generation.prompts import (
    DIGITS_WANTED,
    JSON_WANTED,
    PAIRS_SCHEMA,
    STATEMENT_SCHEMA,
    Message,
    Prompts,
    repair,
)
from lora_tui.scoring.judge import DIMENSIONS, JudgeReply, expected_level, parse_reply, to_unit
from lora_tui.store.rows import AttemptStatus

T = TypeVar("T")

_MIN_LEVEL_PROBABILITY = 0.5
"""With less probability on the five levels, a position is hardly a rating: the digit is taken as written."""

MAX_PAIRS = 20
"""The most pairs that are taken from one reply."""

_MAX_CHARACTERS = 4000
_THINKING = re.compile(r"<(think|thinking|reasoning)>.*?</\1>", re.DOTALL | re.IGNORECASE)
_OPEN_THINKING = re.compile(r"^\s*<(think|thinking|reasoning)>|</(think|thinking|reasoning)>", re.IGNORECASE)
_JSON_START = re.compile(r'\{\s*"|\[\s*[{"]')


class MalformedReply(Exception):  # noqa: N818  # a finding about one reply
    """A reply does not hold what was asked for; the text says why and is shown after a colon."""


class RemoteModel:
    """`GenerationModel` over an OpenAI-compatible endpoint."""

    def __init__(self, chosen: DataGeneration, key: str, warn: Callable[[str], None], stop: asyncio.Event) -> None:
        self._chosen = chosen
        self._endpoint = Endpoint(chosen, key, warn, stop)
        self._prompts = Prompts()
        self._warn = warn
        self._cut_off: set[str] = set()  # sections of the configuration whose replies were cut off
        self.name = chosen.model
        self._judge = chosen.judge_model or chosen.model
        self.concurrency = chosen.max_concurrency

    async def close(self) -> None:
        """Close the connections."""
        await self._endpoint.close()

    async def propose(self, request: PairRequest, call: CallRecord) -> Proposals:
        """Ask for pairs about a passage."""
        chosen = self._chosen.generation
        sampling = {
            "temperature": chosen.temperature,
            "top_p": chosen.top_p,
            "presence_penalty": chosen.presence_penalty,
            "frequency_penalty": chosen.frequency_penalty,
        }
        chat = ChatRequest(self.name, self._prompts.propose(request), chosen.max_tokens, sampling, PAIRS_SCHEMA)
        return await self._answer(chat, call, "generation", lambda reply: parse_pairs(reply.text))

    async def judge(self, passage: str, pair: ProposedPair, call: CallRecord) -> Judgement:
        """Ask for the three levels of a pair, with the passage in view."""
        chosen = self._chosen.evaluation
        sampling = {"temperature": chosen.temperature, "logprobs": True}
        chat = ChatRequest(self._judge, self._prompts.judge(passage, pair), chosen.max_tokens, sampling)
        return await self._answer(chat, call, "evaluation", _judgement)

    async def analyse(self, statistics: str, call: CallRecord) -> str:
        """Ask what the statistics of a batch mean."""
        chosen = self._chosen.batch_analysis
        sampling = {"temperature": chosen.temperature}
        chat = ChatRequest(self._judge, self._prompts.analyse(statistics), chosen.max_tokens, sampling)
        return await self._answer(chat, call, "batch_analysis", lambda reply: _plain_text(reply.text))

    async def pair_from_statement(self, statement: str) -> tuple[str, str]:
        """Ask for a question and answer that say what a statement says."""
        messages, most = self._prompts.statement(statement), self._chosen.generation.max_tokens
        chat = ChatRequest(self.name, messages, most, {"temperature": 0.0}, STATEMENT_SCHEMA)
        return await self._answer(
            chat, UnrecordedCall(), "generation", lambda reply: parse_question_and_answer(reply.text)
        )

    async def _answer(self, request: ChatRequest, call: CallRecord, section: str, read: Callable[[ChatReply], T]) -> T:
        """Return what `read` makes of the reply: asked for once more with twice the tokens, and once more otherwise."""
        limit = request.max_tokens * (2 if section in self._cut_off else 1)
        messages: Sequence[Message] = request.messages
        second_try = False
        while True:
            reply = await self._endpoint.chat(replace(request, messages=messages, max_tokens=limit), call)
            try:
                used = read(reply)
            except MalformedReply as problem:
                status, reason = _fault_of_reply(reply, str(problem))
            else:
                await call.end_attempt(reply.attempt, reply.usage)
                return used
            await call.end_attempt(reply.attempt, replace(reply.usage, status=status, error=reason))
            if status == "truncated":
                if limit > request.max_tokens:
                    raise CallFailed(f"{reason}; raise data_generation.{section}.max_tokens")
                limit = 2 * request.max_tokens
                self._warn_cut_off(section, request.max_tokens)
                continue
            if second_try:
                raise CallFailed(f"two unusable replies: {reason}")
            second_try = True
            if status == "malformed":
                wanted = JSON_WANTED if request.schema is not None else DIGITS_WANTED
                messages = repair(request.messages, reply.text, reason, wanted)

    def _warn_cut_off(self, section: str, limit: int) -> None:
        if section not in self._cut_off:
            self._cut_off.add(section)
            self._warn(
                f"A reply was cut off at {limit} tokens (data_generation.{section}.max_tokens); asking for up to "
                f"{2 * limit} from now on."
            )


def _fault_of_reply(reply: ChatReply, problem: str) -> tuple[AttemptStatus, str]:
    """Return the status of an unusable reply and the reason; `problem` is why it is malformed, if it is."""
    if reply.finish_reason == "length":
        return "truncated", f"the reply was cut off after {reply.usage.completion_tokens} tokens"
    if reply.finish_reason == "content_filter" or (reply.refusal and not reply.text):
        return "filtered", f"the endpoint withheld the reply ({reply.refusal or 'content filter'})"
    if not reply.text.strip():
        return "empty", "the reply is empty"
    return "malformed", problem


def _judgement(reply: ChatReply) -> Judgement:
    levels = parse_reply(reply.text)
    if levels is None:
        raise MalformedReply(f"no three levels from 1 to 5 in {reply.text[:60]!r}")
    expected = _expected_levels(levels, reply.text, reply.logprobs)
    written = ", ".join(f"{name} {getattr(levels, name)}" for name in DIMENSIONS)
    if expected is None:
        return Judgement(levels.metrics(), written, "single")
    metrics = {f"judge_{name}": to_unit(level) for name, level in zip(DIMENSIONS, expected, strict=True)}
    return Judgement(metrics, written, "logprob")


def _expected_levels(levels: JudgeReply, text: str, tokens: Sequence[TokenLogprobs]) -> list[float] | None:
    """Return the expected level at the token of each digit, or None if one of them is not known.

    The token is found by its position in the reply, not by its value: the same digit may stand in the reasoning before
    it (deepeval #3000).
    """
    if "".join(token for token, _ in tokens) != text:
        return None
    candidates_at: dict[int, TokenLogprobs] = {}
    start = 0
    for token, candidates in tokens:
        candidates_at |= dict.fromkeys(range(start, start + len(token)), (token, candidates))
        start += len(token)
    expected: list[float] = []
    for offset in levels.offsets:
        token, candidates = candidates_at.get(offset, ("", {}))
        if len(token.strip()) != 1:  # several digits in one token: no distribution for each
            return None
        level, probability = expected_level(candidates)
        if probability < _MIN_LEVEL_PROBABILITY:
            return None
        expected.append(level)
    return expected


def without_thinking(text: str) -> str:
    """Return a reply without the thinking that reasoning models put before it."""
    rest = _THINKING.sub("", text)
    if mark := list(_OPEN_THINKING.finditer(rest)):
        last = mark[-1]
        rest = rest[last.end() :] if last.group().startswith("</") else ""
    return rest.strip()


def _plain_text(text: str) -> str:
    """Return what is left of a reply without its thinking. Raises `MalformedReply` if that is nothing."""
    if not (rest := without_thinking(text)):
        raise MalformedReply("the reply is empty")
    return rest


def parse_pairs(text: str) -> Proposals:
    """Return the pairs of a reply, and a reason for each item that is none.

    Raises `MalformedReply` where there is no JSON, or no pair in it.
    """
    items = _items(_json_of(text))
    pairs: list[ProposedPair] = []
    refused: list[str] = []
    for item in items[:MAX_PAIRS]:
        try:
            pairs.append(_pair_of(item))
        except MalformedReply as problem:
            refused.append(str(problem))
    if not pairs:
        raise MalformedReply(refused[0] if refused else "the list of pairs is empty")
    return Proposals(tuple(pairs), tuple(refused))


def parse_question_and_answer(text: str) -> tuple[str, str]:
    """Return question and answer of a reply that holds one pair. Raises `MalformedReply`."""
    items = _items(_json_of(text))
    if not items:
        raise MalformedReply("the reply holds no pair")
    pair = _pair_of(items[0])
    return pair.question, pair.answer


def _json_of(text: str) -> Any:
    """Return the first JSON object or array in a reply."""
    rest = _plain_text(text)
    # Only the first thing that starts like JSON counts: what can be read further in is half of something broken.
    if (start := _JSON_START.search(rest)) is None:
        raise MalformedReply("no JSON in the reply")
    try:
        return json.JSONDecoder().raw_decode(rest, start.start())[0]
    except json.JSONDecodeError as problem:
        raise MalformedReply(f"broken JSON ({problem.msg} at character {problem.pos + 1})") from problem
    except RecursionError:
        raise MalformedReply("the JSON is nested too deeply") from None


def _items(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    if isinstance(value, dict):
        if isinstance(value.get("pairs"), list):
            return list(value["pairs"])
        if "question" in value:
            return [value]
    raise MalformedReply('the JSON has no list "pairs"')


def _pair_of(item: Any) -> ProposedPair:
    if not isinstance(item, dict):
        raise MalformedReply(f"an item is {type(item).__name__}, not an object")
    for name in ("question", "answer"):
        value = item.get(name)
        if not isinstance(value, str) or not value.strip():
            raise MalformedReply(f'an item has no "{name}"')
        if len(value) > _MAX_CHARACTERS:
            raise MalformedReply(f'an item\'s "{name}" has {len(value):,} characters')
    evidence, topic = item.get("evidence"), item.get("topic")
    return ProposedPair(
        question=cleaned(" ".join(item["question"].split())),
        answer=cleaned(item["answer"].strip()),
        evidence=cleaned(evidence.strip()[:_MAX_CHARACTERS]) if isinstance(evidence, str) else "",
        topic=cleaned(" ".join(topic.split())[:80]) if isinstance(topic, str) else "",
    )
