"""Numbers that an answer states, held against evidence and question: "forty-eight" is 48, 8 pm 20:00, half 50 %.

A number must stand there, count what the answer lists, or follow from two numbers that do: a year and a span, a sum, a
product. What follows must show its work (one of the two stands in the answer as well), unless it has three digits and
could not be hit by chance. A number that belongs to something else in the evidence is wrong, too. English words.
"""

import re
from collections.abc import Iterator, Set
from decimal import Decimal
from itertools import combinations

from lora_tui.scoring.metrics import FUNCTION_WORDS
from lora_tui.scoring.metrics import porter_stem as _stem
from lora_tui.scoring.words import numbers, tokens

UNITS = {
    word: value
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
        " seventeen eighteen nineteen".split()
    )
}
TENS = {word: 10 * tens for tens, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), 2)}
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
}
"""Words that say a number without being one, and what may be written for them; "half" is 50 %, too."""

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
_BY_HALVES = re.compile(r"\b(\d{1,2})(?::([0-5]\d))?\s*([ap])\.?m\b", re.IGNORECASE)
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

_SECONDS = {
    "second": 1.0, "sec": 1.0, "s": 1.0, "minute": 60.0, "min": 60.0, "hour": 3600.0, "h": 3600.0, "day": 86400.0,
    "week": 604800.0, "fortnight": 1209600.0, "year": 31536000.0, "millisecond": 0.001, "ms": 0.001,
}  # fmt: skip
_UNITS_OF_MEASURE = {
    **{unit: ("time", size) for unit, size in _SECONDS.items()},
    **{unit: ("years", size) for unit, size in {"month": 1.0, "decade": 120.0, "century": 1200.0}.items()},
    **dict.fromkeys(("mm", "millimetre", "millimeter"), ("length", 0.001)),
    **dict.fromkeys(("cm", "centimetre", "centimeter"), ("length", 0.01)),
    **dict.fromkeys(("m", "metre", "meter"), ("length", 1.0)),
    **dict.fromkeys(("km", "kilometre", "kilometer"), ("length", 1000.0)),
    **dict.fromkeys(("inch", "inche"), ("length", 0.0254)),
    **dict.fromkeys(("foot", "feet"), ("length", 0.3048)),
    "yard": ("length", 0.9144),
    "mile": ("length", 1609.344),
    **dict.fromkeys(("g", "gram"), ("weight", 1.0)),
    **dict.fromkeys(("kg", "kilogram"), ("weight", 1000.0)),
    **dict.fromkeys(("tonne", "ton"), ("weight", 1e6)),
    **dict.fromkeys(("ml", "millilitre", "milliliter"), ("volume", 0.001)),
    **dict.fromkeys(("litre", "liter"), ("volume", 1.0)),
    "kb": ("bytes", 1e3),
    "mb": ("bytes", 1e6),
    "gb": ("bytes", 1e9),
}
"""Units with what they measure, and their size in one of the kind."""

_ROUNDING = 0.015
"""By how much a quantity may differ from what it says in another unit."""

_NUMBER_WORD = "|".join([*UNITS, *TENS, "half an?", "an?"])
_QUANTITY = re.compile(rf"\b(\d[\d,]*(?:\.\d+)?|{_NUMBER_WORD})( and a half)?[\s-]*([a-z]+)\b")
_OFTEN = re.compile(
    rf"\b(\d[\d,]*(?:\.\d+)?|once|twice|thrice|{'|'.join([*UNITS, *TENS])})\s+(?:[a-z]+\s+){{0,2}}"
    r"(?:an?|per|each|every|in an?)\s+([a-z]+)\b"
)
_EVERY = re.compile(rf"\bevery\s+(?:(\d[\d,]*(?:\.\d+)?|{_NUMBER_WORD})\s*)?([a-z]+)\b")


def wrong_number(answer: str, evidence: str, question: str) -> str | None:
    """Return a number of an answer that nothing holds, or that belongs to something else in the evidence."""
    if not _may_state(answer):
        return None
    answer = _LIST_NUMBER.sub("", answer)
    if (other := _no_date(answer, evidence, question)) is not None:
        return other
    known = _stated(evidence) | _stated(question)
    exchanged = _exchanged(answer, evidence, question)
    if exchanged is not None and (
        exchanged in known or exchanged not in _named_derivations(answer, evidence, question, known)
    ):
        return exchanged
    ours = _digits(answer) | set(_in_words(answer))
    lists = {_listed(answer), _listed(evidence)}
    pool = known | ({"1"} if _ONE_LATER.search(evidence) or _ONE_LATER.search(question) else set())
    in_words = set(_in_words(answer)) - _digits(answer)
    derived: Set[str] = frozenset()
    for value in sorted(ours):
        if value in known or (value in in_words and value in ("0", "1")):
            continue
        if value in in_words and value.isdigit() and int(value) <= _MOST_COUNTED and int(value) in lists:
            continue
        if not _follows(value, pool, _stated(answer) - {value}) and value not in _spans(evidence):
            derived = derived or _named_derivations(answer, evidence, question, known)
            if value not in derived:
                return value
    return None


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
    return {str(one) for one in found} | _converted(answer, f"{evidence}\n{question}")


def _no_date(answer: str, evidence: str, question: str) -> str | None:
    """Return the number of a bare "In 212." that the evidence counts something with: the question asks when."""
    found = _BARE_DATE.fullmatch(answer)
    if found is None or not _ASKS_WHEN.match(question):
        return None
    nouns = {noun for value, noun in _counted(evidence) if value == found[1]}
    return found[1] if nouns and "" not in nouns else None


def _converted(answer: str, source: str) -> set[str]:
    """Return the quantities of an answer that say one of the source in another unit: 42 days are six weeks.

    Rates too: what happens twice a second, or every half a second, happens 120 times a minute.
    """
    known = list(_quantities(source))
    found = set()
    for written, value, unit in _quantities(answer):
        kind, size = _UNITS_OF_MEASURE[unit]
        same = [
            other * of for _, other, one in known for k, of in [_UNITS_OF_MEASURE[one]] if k == kind and one != unit
        ]
        if any(abs(one - value * size) <= one * _ROUNDING for one in same):
            found.add(written)
    rates = list(_rates(source))
    for written, value, seconds in _rates(answer):
        if any(abs(one / of - value / seconds) <= one / of * _ROUNDING for _, one, of in rates):
            found.add(written)
    return found


def _quantities(text: str) -> Iterator[tuple[str, float, str]]:
    """Yield the quantities of a text: the number as it is compared, its value, and its unit."""
    for match in _QUANTITY.finditer(text.casefold()):
        unit = match[3].rstrip("s") if match[3] not in _UNITS_OF_MEASURE else match[3]
        if unit in _UNITS_OF_MEASURE and (value := _value(match[1])) is not None:
            value = value + 0.5 if match[2] else value
            yield _plain(Decimal(f"{value:g}")) if value < 1e6 else str(int(value)), value, unit


def _rates(text: str) -> Iterator[tuple[str, float, float]]:
    """Yield how often something happens: the number as it is compared, its value, and within how many seconds."""
    for match in _OFTEN.finditer(text.casefold()):
        unit = match[2].rstrip("s")
        if unit in _SECONDS and (value := _value(match[1])) is not None:
            yield _plain(Decimal(f"{value:g}")) if value < 1e6 else str(int(value)), value, _SECONDS[unit]
    for match in _EVERY.finditer(text.casefold()):
        unit = match[2] if match[2] in _SECONDS else match[2].rstrip("s")
        if unit in _SECONDS and (value := _value(match[1] or "one")):
            yield "1", 1.0, value * _SECONDS[unit]


def _value(word: str) -> float | None:
    """Return what a number is, in digits or as one word; None for any other word."""
    if word[0].isdigit():
        return float(word.replace(",", ""))
    named = {"once": 1, "twice": 2, "thrice": 3, "a": 1, "an": 1, "half a": 0.5, "half an": 0.5, "a dozen": 12}
    return named.get(word, UNITS.get(word, TENS.get(word)))


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
    return {_plain(number) for number in numbers(tokens(text))} | set(_INSIDE_WORD.findall(text))


def _plain(number: Decimal | str) -> str:
    """Return a number without zeros that say nothing, "1.50" as "1.5"; a version as it is."""
    return number if isinstance(number, str) else f"{number.normalize():f}"


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


def _spans(text: str) -> Set[str]:
    """Return the lengths, in hours and minutes, of the times between two points of a day."""
    minutes = [60 * int(hour) + int(minute) for hour, minute in _CLOCK.findall(text)]
    for hour, minute, half in _BY_HALVES.findall(text):
        minutes.append(60 * (int(hour) % 12 + (12 if half.casefold() == "p" else 0)) + int(minute or 0))
    between = {abs(one - other) for one, other in combinations(minutes, 2)}
    return {_plain(Decimal(span) / unit) for span in between for unit in (1, 60)}


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


def _counted(text: str) -> set[tuple[str, str]]:
    """Return the numbers of a text, digits or single words, each with the stem of the word behind it; "" if none is."""
    found = set()
    for match in re.finditer(r"(?<![\w.,])(\d+(?:,\d{3})*(?:\.\d+)?|[a-z]+)[ \t]+(?=([^\W\d_]*))", text.casefold()):
        word, noun = match.groups()
        value = word.replace(",", "") if word[0].isdigit() else str(UNITS.get(word, TENS.get(word, "")))
        if value and value != "1":
            found.add((value, "" if noun in FUNCTION_WORDS else _stem(noun)))
    return found


def _listed(text: str) -> int:
    """Return how many things the longest list of a text names, if that is three or more, or two behind a colon."""
    found = []
    if "," in text and _AND_OR.search(text):
        found = [len(_BETWEEN.split(one.group())) for one in _LISTED.finditer(text)]
    found += [one.group(1).count(",") + 1 for one in _ARGUMENTS.finditer(text)]
    return max([*found, len(_BULLET.findall(text)), 2 if _TWO.search(text) or _ALTERNATIVE.search(text) else 0])
