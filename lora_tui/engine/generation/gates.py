"""What keeps a pair from the judge: checks that need no model, from the cheapest to the dearest.

The judge is lenient and can be talked round; these cannot. A weighted score lets a fluent pair make up for an invented
number, so what must not happen is refused here. Each refusal has a cause (a short name that is counted) and a reason in
words. Pure functions; duplicates need an index and are in `duplicates`.
"""

import re
import unicodedata
from dataclasses import dataclass

from lora_tui.engine.generation.generation_model import ProposedPair
from lora_tui.scoring.metrics import numbers_supported
from lora_tui.secrets import find_secret

_LEAST_QUESTION, _MOST_QUESTION, _MOST_ANSWER = 8, 400, 3000
_LEAST_EVIDENCE = 12

# Words such as "context" or "document" are ordinary in many subjects: they count only where they point at our passage.
_SOURCE = (
    r"(?:texts?|passages?|excerpts?|articles?|documents?|sections?|paragraphs?|contexts?|chapters?|quotes?|snippets?)"
)
_POINTING = r"(?:the|this|that)\ (?:above\ |given\ |provided\ |following\ |preceding\ )?"
_OUTSIDE = re.compile(
    rf"""\b(?:according\ to|based\ on)\ {_POINTING}(?:{_SOURCE}|authors?|writer)\b
      | \b(?:stated|described|mentioned|said|noted|discussed|given|presented|listed|explained)\ (?:in|by|above)\b
        (?:\ {_POINTING}(?:{_SOURCE}|authors?|writer)\b|(?=\W*$))
      | \b(?:the|this)\ (?:passage|excerpt|snippet)s?\b(?!\ of\b)
      | \b(?:the|this)\ (?:above|given|provided|preceding)\ {_SOURCE}\b
      | \b(?:the|this)\ authors?\b(?!\ of\b)
      | \b(?:the|this)\ {_SOURCE}\ (?:says?|states?|mentions?|describes?|explains?|suggests?|claims?|argues?)\b
      | \b(?:in|from|of)\ (?:the|this)\ {_SOURCE}(?=\W*(?:$|[?.!;]))
    """,
    re.IGNORECASE | re.VERBOSE | re.MULTILINE,
)
_LIST_NUMBER = re.compile(r"^\s*\d+[.)]\s", re.MULTILINE)
_INJECTED = re.compile(
    r"\b(?:ignore|disregard|forget)\b.{0,30}\b(?:previous|above|prior|all)\b.{0,20}\b(?:instructions?|prompts?)\b"
    r"|\b(?:groundedness|correctness|usefulness)\s*[:=]\s*\d|<\|(?:im_start|im_end|system|user|assistant)\|?>",
    re.IGNORECASE,
)
_HIDDEN = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\U000e0000-\U000e007f]")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a pair goes no further: the cause is counted, the reason is read."""

    cause: str
    reason: str


def check(pair: ProposedPair, passage: str) -> Refusal | None:
    """Return why a pair cannot be right, whatever a judge may say of it, or None."""
    for gate in (_length, _evidence, _numbers, _self_contained, _secret, _injected):
        if (refusal := gate(pair, passage)) is not None:
            return refusal
    return None


def evidence_in(evidence: str, passage: str) -> bool:
    """Tell whether a quotation occurs in the passage, NFKC, typographic signs and white space aside.

    Parts that are joined by an ellipsis must occur in their order.
    """
    whole, position = _squeezed(passage), 0
    parts = [part for part in re.split(r"\s*(?:\[?\.\.\.\]?|\[?…\]?)\s*", _squeezed(evidence).strip("\"' ")) if part]
    for part in parts:
        found = whole.find(part, position)
        if found < 0:
            return False
        position = found + len(part)
    return bool(parts)


def _length(pair: ProposedPair, _: str) -> Refusal | None:
    question, answer = len(pair.question.strip()), len(pair.answer.strip())
    if question < _LEAST_QUESTION or not any(character.isalpha() for character in pair.question):
        return Refusal("too short", "the question is too short to ask anything")
    if question > _MOST_QUESTION:
        return Refusal("too long", f"the question has {question:,} characters, the most is {_MOST_QUESTION}")
    if not any(character.isalnum() for character in pair.answer):
        return Refusal("too short", "the answer holds no word")
    if answer > _MOST_ANSWER:
        return Refusal("too long", f"the answer has {answer:,} characters, the most is {_MOST_ANSWER:,}")
    if _squeezed(pair.question).casefold() == _squeezed(pair.answer).casefold():
        return Refusal("no answer", "the answer repeats the question")
    return None


def _evidence(pair: ProposedPair, passage: str) -> Refusal | None:
    if len(pair.evidence.strip()) < min(_LEAST_EVIDENCE, len(passage.strip())):
        return Refusal("no evidence", "no sentence of the passage is quoted as evidence")
    if not evidence_in(pair.evidence, passage):
        return Refusal("no evidence", "the quoted evidence does not occur in the passage")
    return None


def _numbers(pair: ProposedPair, passage: str) -> Refusal | None:
    if numbers_supported(_LIST_NUMBER.sub("", pair.answer), passage):
        return None
    return Refusal("wrong number", "a number in the answer does not occur in the passage")


def _self_contained(pair: ProposedPair, _: str) -> Refusal | None:
    found = _OUTSIDE.search(pair.question) or _OUTSIDE.search(pair.answer)
    if found is None:
        return None
    words = " ".join(found.group().split())
    return Refusal("leans on the passage", f"«{words}» means nothing to someone who has not seen the passage")


def _secret(pair: ProposedPair, _: str) -> Refusal | None:
    kind = find_secret(pair.question + "\n" + pair.answer)
    return Refusal("holds a secret", f"it seems to hold {kind}") if kind else None


def _injected(pair: ProposedPair, _: str) -> Refusal | None:
    text = pair.question + "\n" + pair.answer
    if _HIDDEN.search(text):
        return Refusal("hidden characters", "it holds characters that nobody can see")
    if _INJECTED.search(text):
        return Refusal("instructions", "it reads like instructions to a model")
    return None


_TYPOGRAPHIC = str.maketrans(
    {"’": "'", "‘": "'", "“": '"', "”": '"', "«": '"', "»": '"', "–": "-", "—": "-", "\u2010": "-", "\u2011": "-"}
)


def _squeezed(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).translate(_TYPOGRAPHIC).split())
