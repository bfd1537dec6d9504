"""Readers of what a model behind an endpoint replies: pairs, three digits, plain text.

Models think aloud, wrap JSON in fences and add words around it: all that is skipped. A reply that then does not hold
what was asked for is malformed, and no half of it is used. The judge's digits are read by `lora_tui.scoring.judge`.
"""

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from lora_tui.engine.generation.client.wire import ChatReply, TokenLogprobs, cleaned
from lora_tui.engine.generation.generation_model import Judgement, Proposals, ProposedPair
from lora_tui.engine.generation.prompts import SENTENCE_EXAMPLES
from lora_tui.engine.generation.questions.answer_spans import AnswerSpan
from lora_tui.engine.generation.questions.completions import BegunQuestion, fault_of
from lora_tui.engine.generation.questions.forms import as_answer
from lora_tui.scoring.judge import DIMENSIONS, JudgeReply, expected_level, parse_reply, to_unit
from lora_tui.secrets import redact
from lora_tui.store.rows import AttemptStatus

_MIN_LEVEL_PROBABILITY = 0.5
"""With less probability on the five levels, a position is hardly a rating: the digit is taken as written."""

MAX_PAIRS = 20
"""The most pairs that are taken from one reply."""

_MAX_CHARACTERS = 4000
_THINKING = re.compile(r"<(think|thinking|reasoning)>.*?</\1>", re.DOTALL | re.IGNORECASE)
_OPEN_THINKING = re.compile(r"^\s*<(think|thinking|reasoning)>|</(think|thinking|reasoning)>", re.IGNORECASE)
_JSON_START = re.compile(r'\{\s*"|\[\s*[{"]')


NO_PAIRS = "the list of pairs is empty"
"""What is wrong with a reply that has the form which was asked for, and nothing in it."""


class MalformedReply(Exception):  # noqa: N818  # a finding about one reply
    """A reply does not hold what was asked for; the text says why and is shown after a colon."""


def fault_of_reply(reply: ChatReply, problem: str) -> tuple[AttemptStatus, str]:
    """Return the status of an unusable reply and the reason; `problem` is why it is malformed, if it is."""
    if reply.finish_reason == "length":
        return "truncated", f"the reply was cut off after {reply.usage.completion_tokens} tokens"
    if reply.finish_reason == "content_filter" or (reply.refusal and not reply.text):
        return "filtered", f"the endpoint withheld the reply ({reply.refusal or 'content filter'})"
    if not reply.text.strip():
        return "empty", "the reply is empty"
    return "malformed", problem


def read_judgement(reply: ChatReply) -> Judgement:
    """Return the judge's three levels, as expectations where log-probabilities allow it. Raises `MalformedReply`."""
    levels = parse_reply(reply.text)
    if levels is None:
        raise MalformedReply(f"no three levels from 1 to 5 in {redact(reply.text)[:60]!r}")
    expected = _expected_levels(levels, reply.text, reply.logprobs)
    written = ", ".join(f"{name} {getattr(levels, name)}" for name in DIMENSIONS)
    if expected is None:
        return Judgement(levels.metrics(), written, "single")
    metrics = {f"judge_{name}": to_unit(level) for name, level in zip(DIMENSIONS, expected, strict=True)}
    return Judgement(metrics, written, "logprob")


def read_yes_or_no(reply: ChatReply) -> float:
    """Return how sure a reply is of yes, 0-1: 0 or 1 where no log-probabilities are known. Raises `MalformedReply`."""
    written = re.match(r"\W*(yes|no)\b", plain_text(reply.text), re.IGNORECASE)
    if written is None:
        raise MalformedReply(f"neither yes nor no in {redact(reply.text)[:60]!r}")
    word = written[1].casefold()
    for token, candidates in reply.logprobs:
        if token.strip().casefold() == word:
            masses = dict.fromkeys(("yes", "no"), 0.0)
            for candidate, logprob in candidates.items():
                if (said := candidate.strip().casefold()) in masses:
                    masses[said] += math.exp(min(0.0, logprob))
            if total := sum(masses.values()):
                return masses["yes"] / total
    return float(word == "yes")


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


def plain_text(text: str) -> str:
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
        raise MalformedReply(refused[0] if refused else NO_PAIRS)
    return Proposals(tuple(pairs), tuple(refused))


def parse_question_and_answer(text: str) -> tuple[str, str]:
    """Return question and answer of a reply that holds one pair. Raises `MalformedReply`."""
    items = _items(_json_of(text))
    if not items:
        raise MalformedReply("the reply holds no pair")
    pair = _pair_of(items[0])
    return pair.question, pair.answer


def read_sentence_pair(text: str, sentence: str, topic: str) -> ProposedPair:
    """Return the pair of a reply that was asked for about one sentence. Raises `MalformedReply`.

    A small model keeps the form and writes what it likes into it: only an answer that stands in the sentence is kept,
    word for word, and only a question that is about the rest of the sentence and does not give the answer away.
    """
    question, answer = parse_question_and_answer(text)
    found = re.search(rf"(?<!\w){re.escape(answer.strip(' .'))}(?!\w)", sentence, re.IGNORECASE)
    if found is None or not found.group():
        raise MalformedReply("the answer is not a part of the sentence")
    if question in (example[1] for example in SENTENCE_EXAMPLES):
        raise MalformedReply("the question copies an example")
    begun = BegunQuestion(sentence, AnswerSpan(found.group(), "thing"), "")
    if fault := fault_of(question, begun):
        raise MalformedReply(fault)
    return ProposedPair(question, as_answer(found.group()), sentence, topic)


def _json_of(text: str) -> Any:
    """Return the first JSON object or array in a reply."""
    rest = plain_text(text)
    # Only the first thing that starts like JSON counts: what can be read further in is half of something broken.
    if (start := _JSON_START.search(rest)) is None:
        raise MalformedReply("no JSON in the reply")
    try:
        return json.JSONDecoder(strict=False).raw_decode(rest, start.start())[0]
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
