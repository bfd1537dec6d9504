"""The parser of raw lines into pairs: the forms that ``--generate-training-file`` takes.

The forms are tried in this order, and the first that fits decides:

1. A JSON object, told by its opening brace; broken JSON is a rejection, never taken for another form.
2. ``Q: … A: …`` and ``Question: … Answer: …``, also numbered, behind a bullet, or in Markdown's bold. Where several
   answer labels stand in a line, the first that follows a question mark begins the answer, else the first of them;
   ``A:`` splits a line that began with ``Question:`` only if it has no ``Answer:``.
3. ``question<TAB>answer``, split at the first tab.
4. ``question | answer``, split at the first bar with white space on both sides; else at the first that follows a
   question mark; else at the only one, if no question has ended before it. ``\\|`` is a bar that does not split,
   ``||`` an operator, and one in code (`` `ls | wc` ``) belongs to it; so does one inside a question that ends behind
   it and is answered: "What does ls|wc do? It counts." A table row's outer bars are left out.
5. ``question? answer``. Not every question mark ends a question: one in quotes or brackets belongs to what is quoted,
   one in a URL or an operator name is followed by no space or goes on in lower case. Questions that follow each other
   at once are one question: in "What? Who? Me." only "Me." is the answer.

What is left is a statement, which needs a model to become a pair. Full-width labels, bars and question marks count
like theirs.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from lora_tui.engine.data.examples import Conversation, PlainText, PromptCompletion, QuestionAnswer
from lora_tui.engine.data.forms import EXAMPLE_FORMS, Malformed, UnusableRecord, form_of_fields, lower_keys
from lora_tui.engine.data.records import InvalidJson, decode_json


@dataclass(frozen=True, slots=True)
class RawPair:
    """A line that is a pair; neither part is empty, and the question contains a word."""

    question: str
    answer: str
    note: str = ""
    """What of the line was left out of the pair, such as a system message."""


@dataclass(frozen=True, slots=True)
class RawStatement:
    """A plain statement: a model can turn it into a pair."""

    text: str


@dataclass(frozen=True, slots=True)
class RawRejection:
    """A line that is no pair: one of a few reasons, and the detail of this line."""

    reason: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.reason} ({self.detail})" if self.detail else self.reason


@dataclass(frozen=True, slots=True)
class RawSkip:
    """A blank line or a comment."""

    kind: Literal["blank", "comment"]


RawResult: TypeAlias = RawPair | RawStatement | RawRejection | RawSkip

NO_ANSWER = "a question without an answer"
NO_PAIR = "the JSON object is no pair"

_LIST_MARK = r"(?:(?:[-*+•>]|\d{1,4}[.)])\s+)?"
_BOLD = r"(?:\*{1,3}|_{1,3})?"
_COLON = rf"\s*[:：]{_BOLD}\s*"
_NUMBER = r"(?:\s?\d{1,4})?"
_QUESTION_LABEL = re.compile(
    rf"\s*{_LIST_MARK}(?P<bold>{_BOLD})(?P<word>question|[qｑ]){_NUMBER}{_BOLD}\s*[:：](?P<closed>{_BOLD})\s*",
    re.IGNORECASE,
)
_ANSWER_AT_START = re.compile(rf"\s*{_LIST_MARK}{_BOLD}(?:answer|[aａ]){_NUMBER}{_BOLD}{_COLON}", re.IGNORECASE)
_BEFORE = r"(?<![^\s?？؟!！.。|｜;；,，])"
_LONG_ANSWER_LABEL = re.compile(rf"{_BEFORE}{_BOLD}answer{_NUMBER}{_BOLD}{_COLON}", re.IGNORECASE)
_SHORT_ANSWER_LABEL = re.compile(rf"{_BEFORE}{_BOLD}[aａ]{_NUMBER}{_BOLD}{_COLON}", re.IGNORECASE)
_ANSWER_AT_END = re.compile(rf"{_BEFORE}(?:answer|[aａ])\s*[:：]$", re.IGNORECASE)
_SPACED_BAR = re.compile(r"(?<=\s)[|｜](?=\s|$)")
_SINGLE_BAR = re.compile(r"(?<![\\|｜])[|｜](?![|｜])")
_CODE = re.compile(r"`[^`]*`")
_BULLET = re.compile(r"[-*+•]\s+(?=\S)")
_INTERROGATIVE = re.compile(
    r"(?:what|which|who|whom|whose|when|where|why|how|is|are|was|were|do|does|did|can|could|should|will|would|has|have"
    r"|was|wer|wie|wo|wann|warum|welche[rsnm]?)\b",
    re.IGNORECASE,
)
_TABLE_ROW = re.compile(r"\s*\|(?P<cells>.*[^\\])\|\s*")
_SEPARATORS = " \t|｜"
_MARK_BEFORE = re.compile(rf"[?？؟][{_SEPARATORS}]*$")

# Spans whose punctuation is theirs. A straight quote opens after white space or a bracket only, so that 5" is a length.
# No class below can run past another opening, which keeps the search linear on hostile lines.
_QUOTED = re.compile(
    r"""(?<![^\s([{])"[^"]*"(?!\w) | (?<!\S)'[^']*'(?!\w) | „[^„“”]*[“”] | “[^“”]*” | ‘[^‘’]*’(?!\w) | «[^«»]*»"""
    r""" | 「[^「」]*」 | 『[^『』]*』 | `[^`]*` | \([^()]*\) | \[[^\[\]]*\] | （[^（）]*）""",
    re.VERBOSE,
)
_STOPS = re.compile(r"[.!?。！？؟]++")
_MARKS = ("?", "？", "؟")
_WIDE = ("。", "！", "？")  # no space follows these
_NEXT = re.compile(r"\s*(\S)")
_TOKEN = 300  # characters before a mark that are looked at for a URL


def parse_raw_line(line: str) -> RawResult:
    """Parse a raw line; the module's docstring says how the forms are recognised."""
    text = line.strip()
    if not text:
        return RawSkip("blank")
    if text.startswith("#"):
        return RawSkip("comment")
    if text.startswith("{"):
        return _parse_json(text)
    result = _parse_labels(text) or _parse_tab(line.rstrip("\r\n"))
    if result is None:
        text = _BULLET.sub("", text, count=1) if _BULLET.match(text) else text
        result = _parse_bar(text) or _parse_question_mark(text)
    return _require_words(result or RawStatement(text))


def _pair(question: str, answer: str, note: str = "") -> RawPair | RawRejection:
    question, answer = question.strip(), answer.strip()
    if not question or not answer:
        return RawRejection(f"the {'answer' if question else 'question'} is empty")
    return RawPair(question, answer, note)


def _require_words(result: RawResult) -> RawResult:
    match result:
        case RawPair(text) | RawStatement(text) if not any(character.isalnum() for character in text):
            return RawRejection("the question holds no words")  # a rule of dashes in a table, say
    return result


def _parse_labels(text: str) -> RawResult | None:
    opening = _QUESTION_LABEL.match(text)
    if opening is None:
        return (
            RawRejection("an answer without a question; both go on one line") if _ANSWER_AT_START.match(text) else None
        )
    body = text[opening.end() :]
    bold = opening["bold"] if not opening["closed"] else ""  # what is bold from the label on ends with the question
    label = _answer_label(body, long=len(opening["word"]) > 1)
    if label is not None:
        question, answer = body[: label.start()].rstrip(_SEPARATORS), body[label.end() :].rstrip()
        if bold and question.endswith(bold):
            question = question[: -len(bold)]
        if bold and answer.endswith(bold) and answer.count(bold) % 2:
            answer = answer[: -len(bold)]
        return _pair(question, answer)
    if not body:
        return RawRejection("the question is empty")
    return _parse_tab(body) or _parse_bar(body) or _parse_question_mark(body) or RawRejection(NO_ANSWER)


def _answer_label(body: str, *, long: bool) -> re.Match[str] | None:
    same, other = (_LONG_ANSWER_LABEL, _SHORT_ANSWER_LABEL) if long else (_SHORT_ANSWER_LABEL, _LONG_ANSWER_LABEL)
    labels = list(same.finditer(body)) or list(other.finditer(body))
    after_mark = (label for label in labels if _MARK_BEFORE.search(body, max(0, label.start() - 9), label.start()))
    return next(after_mark, labels[0] if labels else None)


def _parse_tab(line: str) -> RawResult | None:
    question, tab, answer = line.partition("\t")
    return _pair(question, answer) if tab else None


def _parse_bar(text: str) -> RawResult | None:
    row = _TABLE_ROW.fullmatch(text)
    text = row["cells"].strip() if row else text
    masked = _CODE.sub(lambda span: "x" * len(span[0]), text)
    bar = _SPACED_BAR.search(masked) or _bare_bar(masked)
    if bar is None or (row is None and _is_inside_question(text, bar)):
        return None
    return _pair(_without_escapes(text[: bar.start()]), _without_escapes(text[bar.end() :]))


def _bare_bar(text: str) -> re.Match[str] | None:
    bars = list(_SINGLE_BAR.finditer(text))
    after_mark = next((bar for bar in bars if text.endswith(_MARKS, 0, bar.start())), None)
    if after_mark is not None or len(bars) != 1:
        return after_mark
    parts = split_question(text[: bars[0].start()])
    return None if parts and parts[1] else bars[0]  # a bar after the question's end belongs to the answer


def _is_inside_question(text: str, bar: re.Match[str]) -> bool:
    """Tell whether a bar belongs to a question that ends behind it, in the same sentence, and is answered then.

    A bar with white space round it does so only in what begins as a question does: "What does ls | wc do? It counts."
    """
    parts = split_question(text)
    if parts is None or not parts[1] or len(parts[0]) < bar.end():
        return False
    spaced = text[bar.start() - 1 : bar.start()].isspace() and text[bar.end() : bar.end() + 1].isspace()
    between = text[bar.end() : len(parts[0]) - 1]
    return not _STOPS.search(between) and (not spaced or _INTERROGATIVE.match(text) is not None)


def _without_escapes(text: str) -> str:
    return text.replace("\\|", "|").replace("\\｜", "｜")


def _parse_question_mark(text: str) -> RawResult | None:
    parts = split_question(text)
    if parts is None:
        return None
    question, answer = parts
    return _pair(question, answer) if answer else RawRejection(NO_ANSWER)


def _parse_json(text: str) -> RawResult:
    try:
        fields = lower_keys(decode_json(text))  # an opening brace begins an object, or nothing that is valid
    except InvalidJson as error:
        return RawRejection("not valid JSON", error.fault)
    try:
        example = form_of_fields(fields, EXAMPLE_FORMS).example(fields, "")
    except (Malformed, UnusableRecord) as error:
        return RawRejection(NO_PAIR, str(error))
    note = ""
    match example:
        case PlainText():
            return RawRejection(NO_PAIR, "it holds text only")
        case Conversation(messages):
            turns = [message for message in messages if message.role != "system"]
            if [turn.role for turn in turns] != ["user", "assistant"]:
                what = f"the conversation has {len(turns)} turns; a pair is one question and one answer"
                return RawRejection(NO_PAIR, what)
            question, answer = (turn.content for turn in turns)
            note = "the system message was left out" if len(turns) < len(messages) else ""
        case QuestionAnswer(question, answer) | PromptCompletion(question, answer):
            pass
    return _require_words(_pair(*_strip_labels(question, answer), note))


def _strip_labels(question: str, answer: str) -> tuple[str, str]:
    """Strip the labels of values that are in the training form already, or they would be written twice."""
    question, answer = question.strip(), answer.strip()
    opening = _QUESTION_LABEL.match(question)
    if opening is not None:
        question = _ANSWER_AT_END.sub("", question[opening.end() :]).strip()
    repeated = _QUESTION_LABEL.match(answer)
    if repeated is not None and answer.startswith(question, repeated.end()):
        rest = answer[repeated.end() + len(question) :].strip()
        label = _ANSWER_AT_START.match(rest)
        return question, rest[label.end() :] if label else answer
    label = _ANSWER_AT_START.match(answer) if opening else None
    return question, answer[label.end() :] if label else answer


def split_question(text: str) -> tuple[str, str] | None:
    """Return the question with its mark and what follows it, both stripped; the second is empty if nothing follows.

    None if no question mark in `text` ends a question.
    """
    masked = _QUOTED.sub(lambda span: "x" * len(span[0]), text)
    end = next((stops.end() for stops in _sentence_ends(masked, 0) if _ends_question(masked, stops)), None)
    if end is None:
        return None
    for stops in _sentence_ends(masked, end):
        if not _is_question(stops) or not masked[end : stops.start()].lstrip()[:1].isalpha():
            break
        end = stops.end()
    return text[:end].strip(), text[end:].strip()


def _sentence_ends(text: str, start: int) -> Iterator[re.Match[str]]:
    for stops in _STOPS.finditer(text, start):
        if stops.end() == len(text) or text[stops.end()].isspace() or stops[0].endswith(_WIDE):
            yield stops


def _is_question(stops: re.Match[str]) -> bool:
    return any(mark in stops[0] for mark in _MARKS)


def _ends_question(text: str, stops: re.Match[str]) -> bool:
    before = text[max(0, stops.start() - _TOKEN) : stops.start()]
    if not _is_question(stops) or not before.strip():
        return False
    token = "" if before[-1].isspace() else before.split()[-1]
    # "The ? operator", "https://host/? for help" go on in lower case; the French "Pourquoi ? Parce que" does not.
    following = _NEXT.match(text, stops.end())
    return not ((not token or "://" in token) and following is not None and following[1].islower())
