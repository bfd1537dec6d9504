"""Numbers that an answer states, held against evidence and question: "forty-eight" is 48, 8 pm 20:00, half 50 %.

A number must stand there, count what the answer lists, or follow from two numbers that do: a year and a span, a sum, a
product. What follows must show its work (one of the two stands in the answer as well), unless it has three digits and
could not be hit by chance. A number that belongs to something else in the evidence is wrong, too. English words.
"""

import re
from collections.abc import Iterator, Set
from decimal import Decimal
from itertools import combinations

from lora_tui.engine.generation.quantities import (
    TENS,
    UNITS,
    converted,
    plain_number,
    spans_of_time,
    with_clock_times,
)
from lora_tui.scoring.metrics import FUNCTION_WORDS
from lora_tui.scoring.metrics import porter_stem as _stem
from lora_tui.scoring.words import numbers, tokens

_BEGINS_NUMBER = frozenset({*UNITS, *TENS, *"0123456789"})
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "dozen": 12}
_MULTIPLES: dict[str, tuple[str, ...]] = {
    "once": ("1",),
    "twice": ("2",),
    "double": ("2",),
    "doubles": ("2",),
    "doubled": ("2",),
    "both": ("2",),
    "pair": ("2",),
    "couple": ("2",),
    "either": ("2",),
    "thrice": ("3",),
    "triple": ("3",),
    "dozen": ("12",),
    "half": ("0.5", "50", "2"),
    "halve": ("0.5", "50", "2"),
    "halves": ("0.5", "50", "2"),
    "halved": ("0.5", "50", "2"),
    "quarter": ("0.25", "25", "4"),
    "daily": ("1",),
    "fortnight": ("2", "14"),
    **{
        word: (str(value), str(round(100 / value)))
        for value, word in enumerate("second third fourth fifth sixth seventh eighth ninth tenth".split(), 2)
    },
}
"""Words that say a number without being one, and what may be written for them; "half" is 50 %, a fifth 20."""

_TIMES = re.compile(r"\b(?:twice|double[sd]?|thrice|triple|half|halved?|(?:three|four|five|six|ten|\d+) times)\b")
"""By these one number of the evidence is told from another: which of both is asked for does not matter."""

_PERCENT = re.compile(r"%|\bper ?cent\b|\bin a hundred\b")
_COMPARED = re.compile(
    r"\b(?:more|less|fewer|longer|shorter|cheaper|dearer|larger|smaller|bigger|higher|lower|older|younger|later|earlier"
    r"|heavier|lighter|further|farther|faster|slower|wider|deeper|difference|left|remain\w*|still|not|no|without|rest"
    r"|others?|total|altogether|together|in all|sum|save[sd]?|saving|gain(?:s|ed)?|extra|lost|lose[sd]?)\b"
)
"""A question with one of these asks for what has to be worked out."""

_NEARLY = re.compile(r"\b(?:about|around|roughly|nearly|almost|approximately|some|over|just under)\b")
_SINCE = re.compile(r"\b(?:later|earlier|before|after|ago|since|older|younger)\b")
_YEAR = re.compile(r"\b(?:1[0-9]|20)\d\d\b")
_FEW_OPERANDS = 4

_MOST_COUNTED = 12
_MOST_OPERANDS = 10
_LEAST_DIGITS = 3
_BY_CHANCE = 100
"""From here on a number that follows from two others is taken for one that was worked out, not for a chance."""

_LIST_NUMBER = re.compile(r"^\s*\d+[.)]\s", re.MULTILINE)
_INSIDE_WORD = re.compile(r"(?<=[^\W\d_])\d+|\d+(?=[^\W\d_])")
_ITEM = r"(?:[^\s,;:.]+\s+){0,3}[^\s,;:.]+"
_LISTED = re.compile(rf"{_ITEM}(?:,\s+{_ITEM})+,?\s+(?:and|or)\s+{_ITEM}")
_AND_OR = re.compile(r"\s(?:and|or)\s")
_BETWEEN = re.compile(r",\s+(?:(?:and|or)\s+)?|\s+(?:and|or)\s+")
_ARGUMENTS = re.compile(r"[(\[]([^()\[\]\n]{3,300})[)\]]")
_ALTERNATIVE = re.compile(
    r"\btwo\b[^.:]*:(?=[^.]*\b(?:and|or)\b)(?![^.]*\b(?:and|or)\b[^.]*\b(?:and|or)\b)", re.IGNORECASE
)
_TWO = re.compile(rf":\s+{_ITEM}\s+(?:and|or)\s+{_ITEM}")
_BULLET = re.compile(r"^\s*(?:[-*+•]|\d+[.)])\s", re.MULTILINE)
_CLOCK = re.compile(r"\b([01]?\d|2[0-4]):([0-5]\d)\b")
_HALF_DAY = re.compile(r"\b(\d{1,2})(?::[0-5]\d)?\s*(?:p\.?m\b|o'clock in the (?:evening|afternoon))", re.IGNORECASE)
_ONE_LATER = re.compile(
    r"\b(?:a|an|one)\s+\w+\s+(?:later|earlier|before|after|more|less|fewer|longer)\b", re.IGNORECASE
)
_DECADE = re.compile(r"\b\d{3}0s\b")
_RATE = re.compile(r"\d\s+\w+\s+(?:a|an|per|each|every)\s+[a-z]|/\s?(?:h|min|s|day|week|month|year)\b")
_ASKED = re.compile(r"\bhow\s+(?:many|much)\s+(?:\w+\s+)??(\w+)", re.IGNORECASE)
_EACH = re.compile(r"\b(?:each|every|apiece|per)\b")
_LONGEST_WHOLE = 7
_FIRST_YEAR, _LAST_YEAR = 1000, 2100
_BARE_DATE = re.compile(r"\s*(?:(?:in|since|until|by|from|about)\s+)?(\d{1,3})\s*[.!]?\s*", re.IGNORECASE)
_ASKS_WHEN = re.compile(r"\s*(?:when|(?:in |since |until )?(?:what|which) year)\b", re.IGNORECASE)


def wrong_number(answer: str, evidence: str, question: str, before: str = "", passage: str = "") -> str | None:
    """Return a number of an answer that nothing holds, or that belongs to something else in the evidence.

    `before` is the sentence that the evidence points at, whose numbers are known, too. A year of the passage may be
    counted from, where the evidence does so ("two years later").
    """
    if not _may_state(answer):
        return None
    answer = _LIST_NUMBER.sub("", answer)
    found = _wrong_as_written(answer, evidence, question, before, passage)
    if found is None:
        return None
    clocked = [with_clock_times(text) for text in (answer, evidence, question, before)]
    if clocked == [answer, evidence, question, before]:
        return found
    return _wrong_as_written(clocked[0], clocked[1], clocked[2], clocked[3], passage)


def _wrong_as_written(answer: str, evidence: str, question: str, before: str, passage: str) -> str | None:
    if (other := _no_date(answer, evidence, question)) is not None:
        return other
    known = _stated(evidence) | _stated(question) | _stated(before)
    pool = known | ({"1"} if _ONE_LATER.search(evidence) or _ONE_LATER.search(question) else set())
    pool |= {"100"} if _PERCENT.search(evidence.casefold()) else set()
    pool |= set(_YEAR.findall(passage)) if _SINCE.search(evidence.casefold()) else set()
    worked_out = _worked_out(evidence, question)
    exchanged = _exchanged(answer, evidence, question)
    if exchanged is not None and (
        exchanged in known or exchanged not in worked_out | _named_derivations(answer, evidence, question, known)
    ):
        return exchanged
    ours = _digits(answer) | set(_in_words(answer))
    lists = {_listed(answer), _listed(evidence)}
    in_words = set(_in_words(answer)) - _digits(answer)
    derived: Set[str] = frozenset()
    for value in sorted(ours):
        if value in known or value in worked_out or (value in in_words and value in ("0", "1")):
            continue
        if value in in_words and value.isdigit() and int(value) <= _MOST_COUNTED and int(value) in lists:
            continue
        if not _follows(value, pool, _stated(answer) - {value}) and value not in spans_of_time(evidence):
            derived = derived or _named_derivations(answer, evidence, question, known)
            if value not in derived:
                return value
    return None


def _worked_out(evidence: str, question: str) -> Set[str]:
    """Return what the question asks to be worked out of few numbers: sums and differences, or a share that is told."""
    asked = question.casefold()
    operands = [number for one in sorted(_written(evidence)) if (number := _number(one)) is not None]
    if len(operands) > _FEW_OPERANDS:
        return frozenset()
    found = set[Decimal]()
    for one, other in combinations(operands, 2):
        if _COMPARED.search(asked):
            found.update((one + other, abs(one - other)))
        if _NEARLY.search(asked) and one and other:
            found.update(map(Decimal, (round(one / other), round(other / one))))
    if _TIMES.search(evidence.casefold()):
        times = [number for one in _stated(evidence) - _written(evidence) if (number := _number(one)) is not None]
        found.update(one / many for one in operands for many in times if many > 1)
    return {plain_number(one) for one in found if one == round(one)}


def _written(text: str) -> set[str]:
    """Return the numbers of a text, in digits or in words."""
    return _digits(text) | set(_in_words(text))


def _may_state(text: str) -> bool:
    """Tell whether a text can state a number at all: most answers hold no digit and no word of a number."""
    return not text.isascii() or not _BEGINS_NUMBER.isdisjoint(re.findall(r"[a-z]+|\d", text.casefold()))


def _named_derivations(answer: str, evidence: str, question: str, known: Set[str]) -> Set[str]:
    """Return the numbers that follow from known ones in a way which the answer, or the evidence, names.

    The century or decade of a year, a percentage, a rate ("53 metres a minute"), so many "each".
    """
    whole = [int(one) for one in known if one.isdigit() and len(one) <= _LONGEST_WHOLE]
    years = [one for one in whole if _FIRST_YEAR <= one < _LAST_YEAR]
    text, found = answer.casefold(), set[int]()
    if "centur" in text:
        found.update((year - 1) // 100 + 1 for year in years)
    if _DECADE.search(text):
        found.update(year // span * span for year in years for span in (10, 100))
    pairs = [(one, other) for one in whole for other in whole if one != other and other]
    if "%" in text or "percent" in text or "per cent" in text:
        found.update(round(100 * one / other) for one, other in pairs if one < other)
    if _RATE.search(text):
        found.update(round(one / other) for one, other in pairs)
    if _EACH.search(f"{evidence} {question}".casefold()):
        asked = _ASKED.search(question)
        things = {noun for _, noun in _counted(answer)} | ({_stem(asked[1].casefold())} if asked else set())
        of_thing = {int(value) for value, noun in _counted(evidence) if noun in things and value.isdigit()}
        found.update(one * other for one in of_thing for other in whole)
        there = {int(one) for one in _written(evidence) if one.isdigit() and one != "0"}
        of_those = (int(one) for one in _written(question) if one.isdigit())
        found.update(one // other for one in of_those for other in there if one % other == 0)
    if _NEARLY.search(f"{text} {question.casefold()}"):
        found.update(rounded for one in whole for rounded in (round(one, -place) for place in range(1, len(str(one)))))
    return {str(one) for one in found} | converted(answer, f"{evidence}\n{question}", question)


def _no_date(answer: str, evidence: str, question: str) -> str | None:
    """Return the number of a bare "In 212." that the evidence counts something with: the question asks when."""
    found = _BARE_DATE.fullmatch(answer)
    if found is None or not _ASKS_WHEN.match(question):
        return None
    nouns = {noun for value, noun in _counted(evidence) if value == found[1]}
    return found[1] if nouns and "" not in nouns else None


def unknown_figure(answer: str, source: str) -> str | None:
    """Return a number of three digits and more that an answer has and the source has not, in whatever language.

    Smaller ones may stand there in words.
    """
    known = _digits(source)
    large = [one for one in _digits(_LIST_NUMBER.sub("", answer)) if len(one.replace(".", "")) >= _LEAST_DIGITS]
    return next((one for one in sorted(large) if one not in known and not _follows(one, known, set())), None)


def _stated(text: str) -> Set[str]:
    """Return every number of a text, in any way it may be repeated: by digits, in words, on another clock."""
    found = _digits(text) | set(_in_words(text))
    for word in re.findall(r"[a-z]+", text.casefold()):
        found.update(_MULTIPLES.get(word, ()))
    for hour, _ in _CLOCK.findall(text):
        found.add(str((int(hour) - 1) % 12 + 1))
    found.update(str(int(hour) % 12 + 12) for hour in _HALF_DAY.findall(text))
    return found


def _digits(text: str) -> set[str]:
    return {plain_number(number) for number in numbers(tokens(text))} | set(_INSIDE_WORD.findall(text))


def _in_words(text: str) -> Iterator[str]:
    """Yield the numbers that are written in words, "two hundred and five" as one, "two and a half" as 2.5."""
    total = current = 0
    inside = False
    words = re.findall(r"[a-z]+|[^\sa-z-]", text.casefold())
    for place, word in enumerate([*words, ""]):
        following = words[place + 1 : place + 3]
        if word in UNITS and (not inside or (UNITS[word] < 10 and current >= 20 and current % 10 == 0)):
            current += UNITS[word]
        elif word in TENS and (not inside or current % 100 == 0):
            current += TENS[word]
        elif word in _SCALES and inside:
            if _SCALES[word] in (100, 12):
                current = max(1, current) * _SCALES[word]
            else:
                total, current = total + max(1, current) * _SCALES[word], 0
        elif word == "and" and inside and following == ["a", "half"]:
            yield f"{total + current}.5"
            total, current, inside = 0, 0, False
            continue
        elif (
            word == "and"
            and inside
            and {*UNITS, *TENS} & {*following[:1]}
            and (current >= 100 or (total and not current))
        ):
            continue
        else:
            if inside:
                yield str(total + current)
            total, current = 0, UNITS.get(word, TENS.get(word, 0))
            inside = word in UNITS or word in TENS
            continue
        inside = True


def _follows(value: str, known: Set[str], shown: Set[str], *, by_chance: bool = False) -> bool:
    """Tell whether a number is the sum, difference or product of two that are known, and says so.

    `by_chance` says that a large one could be hit by chance, too.
    """
    wanted = _number(value)
    operands = [(number, one in shown) for one in sorted(known) if (number := _number(one)) is not None]
    if wanted is None or len(operands) > _MOST_OPERANDS:
        return False
    large = abs(wanted) >= _BY_CHANCE and not by_chance
    for (first, first_shown), (second, second_shown) in combinations(operands, 2):
        if not (large or first_shown or second_shown):
            continue
        if wanted in {first + second, abs(first - second), first * second}:
            return True
    return sum(number for number, is_shown in operands if is_shown) == wanted != 0


def _number(written: str) -> Decimal | None:
    return Decimal(written) if re.fullmatch(r"-?\d+(?:\.\d+)?", written) else None


def _exchanged(answer: str, evidence: str, question: str) -> str | None:
    """Return a number of an answer that belongs to something else in the evidence: 48 are the cars, not the passengers.

    What is counted is the word behind a number, or the one that the question asks "how many" of.
    """
    there = _counted(evidence)
    asked = _ASKED.search(question)
    for value, noun in _counted(answer):
        thing = noun or (_stem(asked[1].casefold()) if asked else "")
        own = {number for number, other in there if other == thing}
        if not thing or not own or value in own or (value, thing) in _counted(question):
            continue
        elsewhere = {other for number, other in there if number == value}
        works_out = _follows(value, _stated(evidence) | _stated(question), _stated(answer) - {value}, by_chance=True)
        if "" not in elsewhere if elsewhere else not works_out:
            return value
    return None


_WITH_NOUN = re.compile(r"(?<![\w.,])(\d+(?:,\d{3})*(?:\.\d+)?|[a-z]+)(?:[ \t]+(?=([^\W\d_]*))|(?=[.,;:!?)]*(?:\s|$)))")


def _counted(text: str) -> set[tuple[str, str]]:
    """Return the numbers of a text, digits or single words, each with the stem of the word behind it; "" if none is."""
    found = set()
    for match in _WITH_NOUN.finditer(text.casefold()):
        word, noun = match[1], match[2] or ""
        value = word.replace(",", "") if word[0].isdigit() else str(UNITS.get(word, TENS.get(word, "")))
        if value and value != "1":
            found.add((value, "" if noun in FUNCTION_WORDS or not noun else _stem(noun)))
    return found


def _listed(text: str) -> int:
    """Return how many things the longest list of a text names, if that is three or more, or two behind a colon."""
    found = []
    if "," in text and _AND_OR.search(text):
        found = [len(_BETWEEN.split(one.group())) for one in _LISTED.finditer(text)]
    found += [one.group(1).count(",") + 1 for one in _ARGUMENTS.finditer(text)]
    return max([*found, len(_BULLET.findall(text)), 2 if _TWO.search(text) or _ALTERNATIVE.search(text) else 0])
