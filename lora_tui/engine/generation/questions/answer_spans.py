"""Candidate answers in a sentence: dates, numbers with units, names of people, places and things, and their kinds.

The kind of an answer decides the question word.
"""

import re
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

from lora_tui.engine.generation.questions import english
from lora_tui.engine.generation.questions.verbs import Token, tokenize

_UNITS = {
    "length": "metre meter kilometre kilometer centimetre centimeter millimetre millimeter mile foot feet inch yard "
    "km m cm mm",
    "weight": "kilogram kilogramme gram gramme tonne ton pound ounce kg g",
    "duration": "second minute hour day night week month year decade century centuries",
    "temperature": "degree celsius °C °F",
    "money": "crown dollar euro franc mark shilling penny pence cent guilder krona kroner rouble thaler coin",
    "volume": "litre liter gallon pint barrel",
    "share": "percent per-cent",
}
UNITS = {
    form: kind for kind, words in _UNITS.items() for word in words.split() for form in (word, f"{word}s", f"{word}es")
}
"""The kind of measure by its unit, singular and plural."""

_DATE = re.compile(
    rf"\b(?:\d{{1,2}}(?:st|nd|rd|th)? (?:{english.MONTHS})(?: \d{{4}})?|(?:{english.MONTHS}) \d{{1,2}}(?:, \d{{4}})?"
    rf"|(?:{english.MONTHS})(?: \d{{4}})?|(?:{english.WEEKDAYS})s?|1[0-9]{{3}}|20[0-9]{{2}}|\d{{1,2}}[:.]\d{{2}})\b"
)
_QUANTITY = re.compile(
    r"\b(?:\d+(?:[.,]\d+)*|(?:"
    + "|".join(sorted(english.NUMBER_WORDS))
    + r")(?:[- ](?:"
    + "|".join(sorted(english.NUMBER_WORDS))
    + r"))*)(?: (?:and|to|or) \d+)?(?: %| percent| per cent)?(?: [a-z][a-z-]+){0,2}"
)


@dataclass(frozen=True, slots=True)
class AnswerSpan:
    """A piece of a sentence that can be the answer to a question."""

    text: str
    kind: str


def simple_spans(sentence: str) -> Iterator[AnswerSpan]:
    """Yield dates, quantities and names of a sentence, whatever its grammar."""
    taken: list[tuple[int, int]] = []
    for found in _DATE.finditer(sentence):
        taken.append(found.span())
        yield AnswerSpan(found.group(), "time")
    for found in _QUANTITY.finditer(sentence):
        if any(start < found.end() and found.start() < end for start, end in taken):
            continue
        words = found.group().split()
        if words[0] == "one" or (len(words) == 1 and not words[0][0].isdigit()):
            continue
        stop = next(
            (
                n
                for n, word in enumerate(words)
                if n and word in english.PREPOSITIONS | english.CONJUNCTIONS | english.FINITE_AUXILIARIES
            ),
            None,
        )
        text = " ".join(words[:stop])
        kind = "duration" if any(UNITS.get(word) == "duration" for word in words[:stop]) else "quantity"
        yield AnswerSpan(text, kind)
    for name in names_in(tokenize(sentence)):
        text = sentence[name[0].start : name[-1].end]
        yield AnswerSpan(text, "person" if is_person(name) else "name")


def names_in(
    tokens: Sequence[Token], names: Set[str] = frozenset(), *, mid_sentence: bool = False
) -> Iterator[Sequence[Token]]:
    """Yield runs of capitalised words, months and weekdays left out.

    The first word counts if it is in `names`, known as a first name or a title, followed by another capital, or if the
    tokens stand in the middle of their sentence.
    """
    run: list[Token] = []
    for place, token in enumerate([*tokens, Token("", 0, 0)]):
        capital = bool(token.text) and token.text[0].isupper() and not _DATE.fullmatch(token.text)
        if capital and place == 0 and not mid_sentence:
            known = token.text in names | english.FIRST_NAMES or token.text.rstrip(".") in english.TITLES
            closed = token.low in english.DETERMINERS | english.PREPOSITIONS | english.SUBORDINATORS
            capital = known or (len(tokens) > 1 and tokens[1].text[0].isupper() and not closed)
        if capital:
            run.append(token)
        elif run:
            yield run
            run = []


def is_person(name: Sequence[Token], people: Set[str] = frozenset()) -> bool:
    """Tell whether a name is a person's: one of `people`, or a title or a common first name comes first."""
    first = name[0].text.rstrip(".")
    if name[-1].text in people:
        return True
    return (
        first in english.TITLES
        or (first in english.FIRST_NAMES and len(name) > 1)
        or (len(name) > 1 and bool(re.fullmatch(r"[A-Z]\.?", name[0].text)))
    )


def head_noun(tokens: Sequence[Token]) -> Token:
    """Return the head of a noun phrase: its last word before a preposition, a relative clause or a comma."""
    if len(tokens) > 3 and tokens[0].low == "up" and tokens[1].low == "to" and tokens[2].is_number:
        tokens = tokens[2:]  # "up to five tools"
    for place, token in enumerate(tokens):
        ends = token.low in english.PREPOSITIONS | {"who", "which", "that", "where", "whose"} or token.text == ","
        if ends and place > 0:
            return tokens[place - 1]
    return tokens[-1]


def noun_kind(tokens: Sequence[Token], names: Set[str] = frozenset()) -> str:
    """Return the kind of a noun phrase: ``person``, ``quantity``, ``duration``, ``name`` or ``thing``."""
    if measure_of(tokens) is not None:
        return "duration" if measure_of(tokens) == "duration" else "quantity"
    found = list(names_in(tokens, names, mid_sentence=tokens[0].start > 0))
    if any(is_person(name) for name in found) and tokens[0].low not in ("a", "an"):
        return "person"
    if english.is_human(head_noun(tokens).text):
        return "person"
    return "name" if found and found[-1][-1] is tokens[-1] else "thing"


_BEFORE_NUMBER = frozenset(
    """
    about around nearly almost roughly approximately over under up to at least most only exactly some more less
    fewer than just
    """.split()
)


def measure_of(tokens: Sequence[Token]) -> str | None:
    """Return the kind of measure that a phrase is (``length``, ``count``, ...), None for one without a number."""
    place = 0
    while place < len(tokens) and tokens[place].low in _BEFORE_NUMBER:
        place += 1
    if place + 2 < len(tokens) and tokens[place].low == "half" and tokens[place + 1].low in ("a", "an"):
        return UNITS.get(tokens[place + 2].low)  # "half an hour"
    if place == len(tokens) or not tokens[place].is_number or tokens[place].low == "half":
        return "money" if place < len(tokens) and tokens[place].text[0] in "€$£" else None
    while place < len(tokens) and (tokens[place].is_number or tokens[place].low in ("to", "or", "and", "a", "%")):
        if tokens[place].text == "%":
            return "share"
        place += 1
    if place == len(tokens):
        return "number"
    if tokens[place].low in ("square", "cubic"):
        return "area" if tokens[place].low == "square" else "volume"
    return UNITS.get(tokens[place].low) or UNITS.get(tokens[place].text) or "count"
