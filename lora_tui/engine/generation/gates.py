"""Gates: checks of one pair against its passage that need no model, the cheapest first.

The judge is lenient and can be talked round; these cannot. A weighted score lets a fluent pair make up for an invented
number, so what must not happen is refused here. Each refusal has a cause (a short name that is counted) and a reason in
words. What only looks like words to a model is left to a person: a text about such words would look the same.

A refusal needs proof. A number that nothing holds, where one had to be worked out, is a doubt instead: the pair passes,
and whoever judges it is asked about that number (`doubts_about`).
"""

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from lora_tui.engine.generation.claims import (
    may_follow_from_dates,
    off_the_passage,
    what_it_points_at,
    with_neighbours,
    without_quoted_settings,
    wrong_code_name,
    wrong_names,
)
from lora_tui.engine.generation.generation_model import ProposedPair
from lora_tui.engine.generation.injection import find_instruction, find_phrase
from lora_tui.engine.generation.negations import wrong_negation
from lora_tui.engine.generation.number_reading import as_written
from lora_tui.engine.generation.question_checks import (
    dangling_reference,
    gives_answer_away,
    is_in_english,
    other_language,
    trivial,
)
from lora_tui.engine.generation.quotations import is_quoted, says_something
from lora_tui.engine.generation.stated_numbers import UnheldNumber, unheld_numbers, unknown_figure
from lora_tui.scoring.words import normalise
from lora_tui.secrets import find_secret
from lora_tui.text import one_line

log = logging.getLogger(__name__)

_MIN_QUESTION, _MAX_QUESTION, _MAX_ANSWER = 8, 400, 3000
"""Lengths in characters."""

_WAITING = 2048
"""Pairs of which it is remembered which claims nothing holds: whoever has them judged asks again, hundreds later."""

_SHOWN_OF_DOUBT = 40
"""Characters of a doubtful number that its judge is shown."""

# References to the passage. Words such as "context" or "document" are ordinary in many subjects: they count only
# where they point at our passage.
_PASSAGE_WORD = (
    r"(?:texts?|passages?|excerpts?|articles?|documents?|sections?|paragraphs?|contexts?|chapters?|quotes?|snippets?)"
)
_POINTER = r"(?:the|this|that)\ (?:above\ |given\ |provided\ |following\ |preceding\ )?"
_PASSAGE_REFERENCE = re.compile(
    rf"""\b(?:according\ to|based\ on)\ {_POINTER}(?:{_PASSAGE_WORD}|authors?|writer)\b
      | \b(?:stated|described|mentioned|said|noted|discussed|given|presented|listed|explained)\ (?:in|by|above)\b
        (?:\ {_POINTER}(?:{_PASSAGE_WORD}|authors?|writer)\b|(?=\W*$))
      | \b(?:the|this)\ (?:passage|excerpt|snippet)s?\b(?!\ of\b)
      | \b(?:the|this)\ (?:above|given|provided|preceding)\ {_PASSAGE_WORD}\b
      | \b(?:the|this)\ authors?\b(?!\ of\b)
      | \b(?:the|this)\ {_PASSAGE_WORD}\ (?:says?|states?|mentions?|describes?|explains?|suggests?|claims?|argues?)\b
      | \b(?:in|from|of)\ (?:the|this)\ {_PASSAGE_WORD}(?=\W*(?:$|[?.!;]))
    """,
    re.IGNORECASE | re.VERBOSE | re.MULTILINE,
)
_HIDDEN = re.compile(
    "[\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\U000e0000-\U000e007f]"
    "|(?<=[ -~])[\u200c\u200d]"  # Persian, Hindi and emoji need joiners
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a gate keeps a pair from the judge: the cause is counted, the reason is read; `verdict` may be "review"."""

    cause: str
    reason: str
    verdict: str = "rejected"


def check_gates(pair: ProposedPair, passage: str) -> Refusal | None:
    """Return the refusal of the first gate that a pair does not pass, or None."""
    return _first_refusal(pair.question, pair.answer, pair.evidence, passage)


def doubts_about(pair: ProposedPair, passage: str) -> tuple[str, ...]:
    """Return the numbers and dates of an answer that may have been worked out, but nobody knows how, as it has them.

    A pair with one is not to be accepted before a judge has worked it out.
    """
    if not is_in_english(passage):
        return ()
    numbers = _unheld_numbers(pair.question, pair.answer, pair.evidence, passage)
    names = _unheld_names(pair.question, pair.answer, pair.evidence, passage)
    found = [as_written(number.value, pair.answer) for number in numbers if number.doubtful]
    found += [name for name in names if may_follow_from_dates(name, pair.evidence)]
    return tuple(dict.fromkeys(one_line(one, _SHOWN_OF_DOUBT) for one in found))


@lru_cache(maxsize=256)  # the writer asks, and soon after it whoever stores the pair
def _first_refusal(question: str, answer: str, evidence: str, passage: str) -> Refusal | None:
    try:
        return next(_refusals(ProposedPair(question, answer, evidence, ""), passage), None)
    except Exception as problem:  # a mistake in a rule costs one pair, not the run
        log.exception("the gates failed on a pair")
        reason = f"the program's rules failed on it ({type(problem).__name__}): a person should look"
        return Refusal("gates failed", reason, "review")


def passage_reference(text: str) -> str | None:
    """Return the words of a text that point at the passage it was written from, or None."""
    found = _PASSAGE_REFERENCE.search(text)
    return None if found is None else found.group()


def _refusals(pair: ProposedPair, passage: str) -> Iterator[Refusal]:
    question, answer, text = len(pair.question.strip()), len(pair.answer.strip()), f"{pair.question}\n{pair.answer}"
    if question < _MIN_QUESTION or not any(character.isalpha() for character in pair.question):
        yield Refusal("too short", "the question is too short to ask anything")
    if question > _MAX_QUESTION:
        yield Refusal("too long", f"the question has {question:,} characters, the most is {_MAX_QUESTION}")
    if not any(character.isalnum() for character in pair.answer):
        yield Refusal("too short", "the answer holds no word")
    if answer > _MAX_ANSWER:
        yield Refusal("too long", f"the answer has {answer:,} characters, the most is {_MAX_ANSWER:,}")
    if normalise(pair.question) == normalise(pair.answer):
        yield Refusal("no answer", "the answer repeats the question")
    if not says_something(pair.evidence) and pair.evidence.strip() != passage.strip():
        yield Refusal("no evidence", "no sentence of the passage is quoted as evidence")
    elif not is_quoted(pair.evidence, passage):
        yield Refusal("no evidence", "the quoted evidence does not occur in the passage")
    if found := _PASSAGE_REFERENCE.search(pair.question) or _PASSAGE_REFERENCE.search(pair.answer):
        yield _leaning(found.group())
    if pointing := dangling_reference(pair.question):
        yield _leaning(pointing)
    if kind := find_secret(text):
        yield Refusal("holds a secret", f"it seems to hold {kind}")
    if _HIDDEN.search(text):
        yield Refusal("hidden characters", "it holds characters that nobody can see")
    if to_model := find_instruction(text) or find_phrase(pair.evidence):
        reason = f"«{to_model}» reads like words to a model: a person should look at it"
        yield Refusal("instructions", reason, "review")
    if language := other_language(pair.question, passage) or other_language(pair.answer, passage):
        yield Refusal("another language", f"the passage is not in the same language ({language})")
    if worthless := trivial(pair.question, pair.answer):
        yield Refusal("trivial", f"«{_shown(worthless)}» teaches nothing")
    # A whole sentence is left to the judge: a question about it may well hold its words.
    if gives_answer_away(pair.question, pair.answer) and normalise(pair.answer) != normalise(pair.evidence):
        yield Refusal("answer in the question", "every word of the answer stands in the question")
    yield from _unsupported_claims(pair, passage)


def _unsupported_claims(pair: ProposedPair, passage: str) -> Iterator[Refusal]:
    """Yield the claims of an answer that nothing holds.

    Words are compared in English alone: elsewhere they have endings, every noun has a capital, or "vier" is 4. There
    the judge has to tell, but for figures and for names in code.
    """
    if not is_in_english(passage):
        if figure := unknown_figure(pair.answer, f"{passage}\n{pair.evidence}\n{pair.question}"):
            yield Refusal("wrong number", f"neither evidence nor question says {_shown(figure)}")
        if name := wrong_code_name(pair.answer, pair.evidence, pair.question, passage):
            yield Refusal("wrong name", f"«{_shown(name)}» is neither in the evidence nor in the question")
        return
    for number in _unheld_numbers(pair.question, pair.answer, pair.evidence, passage):
        if not number.doubtful:
            yield Refusal("wrong number", f"neither evidence nor question says {_shown(number.value)}")
    if off := off_the_passage(pair.answer, passage, pair.question, pair.evidence):
        yield Refusal("off the passage", f"the passage does not speak of it: «{_shown(off)}»")
    for name in _unheld_names(pair.question, pair.answer, pair.evidence, passage):
        if not may_follow_from_dates(name, pair.evidence):
            yield Refusal("wrong name", f"«{_shown(name)}» is neither in the evidence nor in the question")
    if denied := wrong_negation(pair.answer, pair.evidence, pair.question):
        yield Refusal("negated", f"the evidence says the opposite of «{_shown(denied)}»")


@lru_cache(maxsize=_WAITING)
def _unheld_numbers(question: str, answer: str, evidence: str, passage: str) -> Sequence[UnheldNumber]:
    answer = without_quoted_settings(answer, passage)
    return unheld_numbers(answer, evidence, question, what_it_points_at(evidence, passage), passage)


@lru_cache(maxsize=_WAITING)
def _unheld_names(question: str, answer: str, evidence: str, passage: str) -> Sequence[str]:
    answer = without_quoted_settings(answer, passage)
    return tuple(wrong_names(answer, with_neighbours(evidence, passage), question, passage))


def _leaning(words: str) -> Refusal:
    return Refusal("leans on the passage", f"«{_shown(words)}» means nothing to someone who has not seen the passage")


def _shown(text: str) -> str:
    return one_line(text, 60)
