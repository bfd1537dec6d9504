"""Readers of what a model behind an endpoint replies: pairs, three digits, plain text.

Models think aloud, wrap JSON in fences and add words around it: all that is skipped. They write "Question" for
"question", "qa_pairs" for "pairs", an object before the one that was asked for, or no JSON but labelled lines: where
that leaves one reading, it is taken, since the gates and the judge follow. A reply that then does not hold what was
asked for is malformed, and no half of it is used. JSON is read by `reply_json`, the judge's digits by
`lora_tui.scoring.judge`.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lora_tui.engine.generation.client.wire import ChatReply, TokenLogprobs, cleaned
from lora_tui.engine.generation.generation_model import Judgement, Proposals, ProposedPair
from lora_tui.engine.generation.prompts import SENTENCE_EXAMPLES
from lora_tui.engine.generation.questions.answer_spans import AnswerSpan
from lora_tui.engine.generation.questions.completions import BegunQuestion, fault_of
from lora_tui.engine.generation.questions.forms import as_answer
from lora_tui.engine.generation.reply_json import BrokenJsonError, is_json_like, json_values
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
_MAX_DEPTH = 4
_BREAK_MARKS = dict.fromkeys((0x00AD, 0x200B, 0x2060, 0xFEFF))
"""Where a line may or may not break: web pages hold them, models copy them, and nobody wants them learned."""

_NAMES: Mapping[str, Sequence[str]] = {
    "question": ("question", "q", "questiontext", "query", "prompt", "instruction", "questions"),
    "answer": ("answer", "a", "answertext", "response", "reply", "completion", "output", "answers"),
    "evidence": (
        "evidence",
        "quote",
        "quotation",
        "evidencequote",
        "supportingevidence",
        "excerpt",
        "source",
        "context",
    ),
    "topic": ("topic", "subject", "category"),
}
"""The keys under which models write the parts of a pair, reduced to letters, the one that was asked for first."""

_LABEL = re.compile(
    r"^[ \t>*_#•-]*+(?:\d{1,2}[.)]\s*+)?[*_\"'`]*+(question|answer|evidence|quote|topic|q|a)[ \t]*+\d{0,2}[*_\"'`]*+"
    r"[ \t]*+[:：][*_ \t]*+(.*)$",
    re.IGNORECASE | re.MULTILINE,
)


NO_PAIRS = "the list of pairs is empty"
"""What is wrong with a reply that has the form which was asked for, and nothing in it."""


class MalformedReply(Exception):  # noqa: N818  # a finding about one reply
    """A reply does not hold what was asked for; the text says why and is shown after a colon."""


def fault_of_reply(reply: ChatReply, problem: str) -> tuple[AttemptStatus, str]:
    """Return the status of an unusable reply and the reason; `problem` is why it is malformed, if it is."""
    if reply.is_cut_off:
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
    if "".join(token for token, _ in tokens) != text or levels.is_between:
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


def parse_pairs(text: str, *, cut_off: bool = False) -> Proposals:
    """Return the pairs of a reply, and a reason for each item that is none.

    `cut_off`: it ended at its limit of tokens, so that nothing broken may be repaired. Raises `MalformedReply` where
    there is no pair in it, or a question with two answers.
    """
    pairs: list[ProposedPair] = []
    refused: list[str] = []
    for item in _items_of(text, cut_off=cut_off)[:MAX_PAIRS]:
        try:
            pairs.append(_pair_of(item))
        except MalformedReply as problem:
            refused.append(str(problem))
    if not pairs:
        raise MalformedReply(refused[0] if refused else NO_PAIRS)
    answers: dict[str, str] = {}
    if any(answers.setdefault(pair.question, pair.answer) != pair.answer for pair in pairs):
        raise MalformedReply("a question has two answers in it")
    return Proposals(tuple(pairs), tuple(refused))


def parse_question_and_answer(text: str, *, cut_off: bool = False) -> tuple[str, str]:
    """Return question and answer of a reply that holds one pair. Raises `MalformedReply`."""
    items = _items_of(text, cut_off=cut_off)
    if not items:
        raise MalformedReply("the reply holds no pair")
    pair = _pair_of(items[0])
    return pair.question, pair.answer


def read_sentence_pair(text: str, sentence: str, topic: str, *, cut_off: bool = False) -> ProposedPair:
    """Return the pair of a reply that was asked for about one sentence. Raises `MalformedReply`.

    A small model keeps the form and writes what it likes into it: only an answer that stands in the sentence is kept,
    word for word, and only a question that is about the rest of the sentence and does not give the answer away.
    """
    question, answer = parse_question_and_answer(text, cut_off=cut_off)
    found = re.search(rf"(?<!\w){re.escape(answer.strip(' .'))}(?!\w)", sentence, re.IGNORECASE)
    if found is None or not found.group():
        raise MalformedReply("the answer is not a part of the sentence")
    if question in (example[1] for example in SENTENCE_EXAMPLES):
        raise MalformedReply("the question copies an example")
    begun = BegunQuestion(sentence, AnswerSpan(found.group(), "thing"), "")
    if fault := fault_of(question, begun):
        raise MalformedReply(fault)
    return ProposedPair(question, as_answer(found.group()), sentence, topic)


def _items_of(text: str, *, cut_off: bool) -> list[Any]:
    """Return what stands in a reply where pairs were asked for: of each JSON value that holds any, or of its labels."""
    rest = plain_text(text)
    if not is_json_like(rest):
        if not cut_off and (labelled := list(_labelled(rest))):
            return list(labelled)
        raise MalformedReply("no JSON in the reply")
    if rest.startswith('"') and (items := _items_of_text(_unquoted(rest), 0)) is not None:
        return items
    found: list[list[Any]] = []
    try:
        found += [items for value in json_values(rest, cut_off=cut_off) if (items := _items(value)) is not None]
    except BrokenJsonError as problem:
        raise MalformedReply(str(problem)) from problem
    if not found:
        raise MalformedReply('the JSON has no list "pairs"')
    return [item for items in found for item in items]


def _items(value: Any, depth: int = 0) -> list[Any] | None:
    """Return the pairs of a JSON value, whatever it calls their list; None where nothing in it is meant as one."""
    if depth > _MAX_DEPTH:
        return None
    if isinstance(value, str):
        return _items_of_text(value, depth)
    if isinstance(value, list):
        if any(isinstance(item, dict) and _named(item, "question") is not None for item in value):
            return value
        inner = [items for item in value if (items := _items(item, depth + 1)) is not None]
        return [item for items in inner for item in items] if inner else value if depth == 0 else None
    if not isinstance(value, dict):
        return None
    question, answer = _named(value, "question"), _named(value, "answer")
    if isinstance(question, list) and isinstance(answer, list) and len(question) == len(answer):
        return [{"question": one, "answer": other} for one, other in zip(question, answer, strict=True)]
    if question is not None and not (isinstance(question, list) and answer is None):
        return [value]
    if isinstance(value.get("pairs"), list) and not any(isinstance(item, dict | list) for item in value["pairs"]):
        return list(value["pairs"])
    inner = [items for item in value.values() if (items := _items(item, depth + 1)) is not None]
    return [item for items in inner for item in items] if inner else None


def _items_of_text(text: str, depth: int) -> list[Any] | None:
    """Return the pairs of JSON that was written into a JSON string."""
    if not text.lstrip().startswith(("{", "[")) or not is_json_like(text):
        return None
    try:
        inner = [items for value in json_values(text) if (items := _items(value, depth + 1)) is not None]
    except BrokenJsonError:
        return None
    return [item for items in inner for item in items] if inner else None


def _unquoted(text: str) -> str:
    """Return the text in a JSON string, or nothing where it is none."""
    try:
        value = json.loads(text, strict=False)
    except ValueError:
        return ""
    return value if isinstance(value, str) else ""


def _labelled(text: str) -> Iterator[dict[str, str]]:
    """Yield the pairs of a reply in labelled lines: "**Question 1:** …", then "Answer: …", which may have several."""
    labels = list(_LABEL.finditer(text))
    item: dict[str, str] = {}
    for label, following in zip(labels, (*labels[1:], None), strict=False):
        name = next(name for name, names in _NAMES.items() if label[1].lower() in names)
        value = label[2] + text[label.end() : following.start() if following else len(text)]
        value = value.strip().rstrip("*_").strip()
        if quoted := re.fullmatch(r"[\"'“](.+)[\"'”],?", value, re.DOTALL):
            value = quoted[1]
        if name in item:
            yield item
            item = {}
        item[name] = value
    if "question" in item or "answer" in item:
        yield item


def _named(item: Mapping[str, Any], name: str) -> Any:
    """Return the part of a pair under any of its names, None where it is missing or two parts claim to be it."""
    found = {letters: value for key, value in item.items() if (letters := _key_letters(key)) in _NAMES[name]}
    if len(found) == 1 or _NAMES[name][0] in found:
        return found.get(_NAMES[name][0], next(iter(found.values())))
    return None


def _key_letters(key: str) -> str:
    return re.sub(r"[^a-z]", "", key.casefold())


def _text_of(value: Any) -> str | None:
    """Return a part of a pair as text: a number as it is written, the items of a list one a line; else None."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
        return "\n".join(value)
    if isinstance(value, dict) and len(value) == 1:
        return _text_of(next(iter(value.values())))
    return None


def _pair_of(item: Any) -> ProposedPair:
    if not isinstance(item, dict):
        raise MalformedReply(f"an item is {type(item).__name__}, not an object")
    parts: dict[str, str] = {}
    for name in ("question", "answer"):
        value = _text_of(_named(item, name))
        if value is None or not value.strip():
            raise MalformedReply(f'an item has no "{name}"')
        if len(value) > _MAX_CHARACTERS:
            raise MalformedReply(f'an item\'s "{name}" has {len(value):,} characters')
        parts[name] = value
    evidence, topic = _named(item, "evidence"), _named(item, "topic")
    if isinstance(evidence, list):  # sentences from several places
        evidence = " … ".join(part for part in evidence if isinstance(part, str))
    return ProposedPair(
        question=cleaned(" ".join(parts["question"].translate(_BREAK_MARKS).split())),
        answer=cleaned(parts["answer"].translate(_BREAK_MARKS).strip()),
        evidence=cleaned((_text_of(evidence) or "").strip()[:_MAX_CHARACTERS]),
        topic=cleaned(" ".join((_text_of(topic) or "").split())[:80]),
    )
