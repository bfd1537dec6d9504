"""Numbers that an answer states, held against evidence and question: "forty-eight" is 48, 8 pm 20:00, half 50 %.

A number must stand there, count what the answer lists, or follow from numbers that do (`derived_numbers`). One that
belongs to something else in the evidence is wrong, too. One that may have been worked out in another way is a doubt
(`reckoning`). English words.
"""

import re
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

from lora_tui.engine.generation.derived_numbers import (
    ASKED,
    PERCENT,
    YEAR,
    follows,
    named_derivations,
    says_total,
    summed,
    worked_out,
    years_of,
)
from lora_tui.engine.generation.number_reading import counted, digits, in_words, listed, stated, without_held_shares
from lora_tui.engine.generation.quantities import TENS, UNITS, spans_of_time, with_clock_times
from lora_tui.engine.generation.reckoning import comes_out, is_exchange, is_first, is_one_step, may_be_reckoned
from lora_tui.scoring.porter import porter_stem as _stem

_BEGINS_NUMBER = frozenset({*UNITS, *TENS, *"hundred thousand million billion".split(), *"0123456789"})
_SINCE = re.compile(r"\b(?:later|earlier|before|after|ago|since|older|younger)\b")
_MOST_COUNTED = 12
_LEAST_DIGITS = 3
_LIST_NUMBER = re.compile(r"^\s*\d+[.)]\s", re.MULTILINE)
_ONE_LATER = re.compile(
    r"\b(?:a|an|one)\s+\w+\s+(?:later|earlier|before|after|more|less|fewer|longer)\b", re.IGNORECASE
)
_BARE_DATE = re.compile(r"\s*(?:(?:in|since|until|by|from|about)\s+)?(\d{1,3})\s*[.!]?\s*", re.IGNORECASE)
_ASKS_WHEN = re.compile(r"\s*(?:when|(?:in |since |until )?(?:what|which) year)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class UnheldNumber:
    """A number of an answer that nothing holds; a `doubtful` one may have been worked out, any other is wrong."""

    value: str
    doubtful: bool = False


def unheld_numbers(
    answer: str, evidence: str, question: str, before: str = "", passage: str = ""
) -> Sequence[UnheldNumber]:
    """Return numbers of an answer that nothing holds, or that belong to something else in the evidence.

    One that is wrong, or else all doubtful ones. `before` is the sentence that the evidence points at, whose numbers
    are known, too. A year of the passage may be counted from, where the evidence does so ("two years later").
    """
    if not _may_state(answer):
        return ()
    answer = _LIST_NUMBER.sub("", answer)
    found = _worst(answer, evidence, question, before, passage)
    if not found:
        return ()
    clocked = [with_clock_times(text) for text in (answer, evidence, question, before)]
    if clocked == [answer, evidence, question, before]:
        return found
    return _worst(clocked[0], clocked[1], clocked[2], clocked[3], passage)


def wrong_number(answer: str, evidence: str, question: str) -> str | None:
    """Return a number that nothing holds, doubtful or not: for texts, whose judge is not asked to work numbers out."""
    return next((found.value for found in unheld_numbers(answer, evidence, question)), None)


def _worst(answer: str, evidence: str, question: str, before: str, passage: str) -> Sequence[UnheldNumber]:
    """Return a wrong number of an answer, or else the doubtful ones."""
    found = list(_unheld(answer, evidence, question, before, passage))
    if not found:
        return ()
    source, unheld = f"{before} {evidence}", {value for value, _ in found}
    right = comes_out(unheld, answer, source, question)
    doubtful: dict[str, None] = {}
    for value, standing in found:
        if standing != "wrong" and value in right:
            continue
        if standing == "wrong" or not (
            standing == "doubtful"
            or may_be_reckoned(value, answer, source, question, unheld - right)
            or is_one_step(value, answer, source, question)
        ):
            return (UnheldNumber(value),)
        doubtful[value] = None
    return tuple(UnheldNumber(value, doubtful=True) for value in doubtful)


def _unheld(answer: str, evidence: str, question: str, before: str, passage: str) -> Iterator[tuple[str, str]]:
    """Yield the numbers of an answer that nothing holds, and what that makes of each: "wrong", "doubtful" or ""."""
    if (other := _no_date(answer, evidence, question)) is not None:
        yield other, "wrong"
    known = stated(evidence) | stated(question) | stated(before)
    pool = known | ({"1"} if _ONE_LATER.search(evidence) or _ONE_LATER.search(question) else set())
    pool |= {"100"} if PERCENT.search(evidence.casefold()) else set()
    pool |= set(YEAR.findall(passage)) if _SINCE.search(evidence.casefold()) else set()
    for exchanged in sorted(_exchanged(answer, evidence, question)):
        if exchanged in known and not says_total(answer):
            if is_first(exchanged, answer):
                yield exchanged, ""
        elif exchanged not in (
            worked_out(answer, evidence, question) | named_derivations(answer, evidence, question, known)
        ):
            yield exchanged, ""
    answer = without_held_shares(answer, known)
    ours = digits(answer) | set(in_words(answer))
    lists = {listed(answer), listed(evidence)}
    only_words = set(in_words(answer)) - digits(answer)
    derived: Set[str] = frozenset()
    for value in sorted(ours):
        if value in known or (value in only_words and value in ("0", "1")):
            continue
        if value in only_words and value.isdigit() and int(value) <= _MOST_COUNTED and int(value) in lists:
            continue
        by_chance = follows(value, pool, stated(answer) - {value})
        if by_chance and not is_exchange(value, answer, evidence):
            continue
        if not derived:
            derived = named_derivations(answer, evidence, question, known | years_of(passage, evidence))
            derived |= worked_out(answer, evidence, question) | summed(answer, known) | spans_of_time(evidence)
        if value not in derived:
            yield value, "doubtful" if by_chance else ""


def _may_state(text: str) -> bool:
    """Tell whether a text can state a number at all: most answers hold no digit and no word of a number."""
    return not text.isascii() or not _BEGINS_NUMBER.isdisjoint(re.findall(r"[a-z]+|\d", text.casefold()))


def _no_date(answer: str, evidence: str, question: str) -> str | None:
    """Return the number of a bare "In 212." that the evidence counts something with: the question asks when."""
    found = _BARE_DATE.fullmatch(answer)
    if found is None or not _ASKS_WHEN.match(question):
        return None
    nouns = {noun for value, noun in counted(evidence) if value == found[1]}
    return found[1] if nouns and "" not in nouns else None


def unknown_figure(answer: str, source: str) -> str | None:
    """Return a number of three digits and more that an answer has and the source has not, in whatever language.

    Smaller ones may stand there in words.
    """
    known = digits(source)
    large = [one for one in digits(_LIST_NUMBER.sub("", answer)) if len(one.replace(".", "")) >= _LEAST_DIGITS]
    return next((one for one in sorted(large) if one not in known and not follows(one, known, set())), None)


def _exchanged(answer: str, evidence: str, question: str) -> Iterator[str]:
    """Yield the numbers of an answer that belong to something else in the evidence: 48 are the cars, not passengers.

    What is counted is the word behind a number, or the one that the question asks "how many" of.
    """
    there = counted(evidence)
    asked = ASKED.search(question)
    for value, noun in counted(answer):
        thing = noun or (_stem(asked[1].casefold()) if asked else "")
        own = {number for number, other in there if other == thing}
        if not thing or not own or value in own or (value, thing) in counted(question):
            continue
        elsewhere = {other for number, other in there if number == value}
        works_out = follows(value, stated(evidence) | stated(question), stated(answer) - {value}, by_chance=True)
        if "" not in elsewhere if elsewhere else not works_out:
            yield value
