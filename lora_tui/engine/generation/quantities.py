"""Quantities, rates and times of day: 42 days are six weeks, nine a month 108 a year, half past seven is 7:30.

What an answer says in another unit, or on another clock, than its evidence is right where both are the same, up to
rounding. English words.
"""

import re
from collections.abc import Iterator, Set
from decimal import Decimal
from itertools import combinations

UNITS = {
    word: value
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
        " seventeen eighteen nineteen".split()
    )
}
TENS = {word: 10 * tens for tens, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), 2)}

_SECONDS = {
    "second": 1.0, "sec": 1.0, "s": 1.0, "minute": 60.0, "min": 60.0, "hour": 3600.0, "h": 3600.0, "day": 86400.0,
    "week": 604800.0, "fortnight": 1209600.0, "month": 2628000.0, "year": 31536000.0, "millisecond": 0.001, "ms": 0.001,
}  # fmt: skip
_UNITS_OF_MEASURE = {
    **{unit: ("time", size) for unit, size in _SECONDS.items()},
    **{unit: ("time", size) for unit, size in {"decade": 315360000.0, "century": 3153600000.0}.items()},
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

_MOST = 1e18
"""Numbers from here on are in no other unit: products of them could be infinite."""

_NUMBER_WORD = "|".join([*UNITS, *TENS, "half an?", "an?"])
_QUANTITY = re.compile(rf"\b(\d[\d,]*(?:\.\d+)?|{_NUMBER_WORD})( and a half)?[\s-]*([a-z]+)\b")
_OFTEN = re.compile(
    rf"\b(\d[\d,]*(?:\.\d+)?|once|twice|thrice|{'|'.join([*UNITS, *TENS])})\s+(?:[a-z]+\s+){{0,2}}"
    r"(?:an?|per|each|every|in an?)\s+([a-z]+)\b"
)
_EVERY = re.compile(rf"\bevery\s+(?:(\d[\d,]*(?:\.\d+)?|{_NUMBER_WORD})\s*)?([a-z]+)\b")


_ASKED_PERIOD = re.compile(
    rf"\b(?:an?|per|each|every|one|whole)\s+({'|'.join(unit for unit in _SECONDS if len(unit) > 2)})s?\b"
)

_HOUR = "|".join([*list(UNITS)[1:13], r"\d{1,2}"])
_PAST = re.compile(rf"\b(half|(?:a )?quarter|twenty(?:[- ]five)?|ten|five|\d\d?)(?: minutes)? past ({_HOUR})\b", re.I)
_QUARTER_TO = re.compile(rf"\bquarter to ({_HOUR})\b", re.IGNORECASE)
_POINTED = re.compile(
    r"(?<![\d.])([01]?\d|2[0-4])\.([0-5]\d)(?=\s*(?:[ap]\.?m\b|o'clock|in the (?:morning|afternoon|evening)|at night))"
    r"|(?<=\bat )([01]?\d|2[0-4])\.([0-5]\d)\b|(?<=\bfrom )([01]?\d|2[0-4])\.([0-5]\d)(?= (?:to|until|till)\b)",
    re.IGNORECASE,
)
_MINUTES = {"half": 30, "quarter": 15, "a quarter": 15, "twenty": 20, "twenty-five": 25, "twenty five": 25}
_MINUTES |= {"ten": 10, "five": 5}
_CLOCK = re.compile(r"\b([01]?\d|2[0-4]):([0-5]\d)\b")
_BY_HALVES = re.compile(r"\b(\d{1,2})(?::([0-5]\d))?\s*([ap])\.?m\b", re.IGNORECASE)


def with_clock_times(text: str) -> str:
    """Return a text in which every time of day is written with a colon: "half past seven" and "7.30 p.m." as 7:30."""

    def past(found: re.Match[str]) -> str:
        said = found[1].casefold()
        minutes = _MINUTES[said] if said in _MINUTES else int(said)
        return f"{_hour(found[2])}:{minutes:02}"

    text = _QUARTER_TO.sub(lambda found: f"{(_hour(found[1]) - 2) % 12 + 1}:45", _PAST.sub(past, text))
    return _POINTED.sub(lambda found: ":".join(filter(None, found.groups())), text)


def _hour(word: str) -> int:
    return int(word) if word.isdigit() else UNITS[word.casefold()]


def spans_of_time(text: str) -> Set[str]:
    """Return the lengths, in hours and minutes, of the times between two points of a day."""
    minutes = [60 * int(hour) + int(minute) for hour, minute in _CLOCK.findall(text)]
    for hour, minute, half in _BY_HALVES.findall(text):
        minutes.append(60 * (int(hour) % 12 + (12 if half.casefold() == "p" else 0)) + int(minute or 0))
    between = {abs(one - other) for one, other in combinations(minutes, 2)}
    return {plain_number(Decimal(span) / unit) for span in between for unit in (1, 60)}


def plain_number(number: Decimal | str) -> str:
    """Return a number without zeros that say nothing, "1.50" as "1.5"; a version as it is."""
    return number if isinstance(number, str) else f"{number.normalize():f}"


def converted(answer: str, source: str, question: str) -> set[str]:
    """Return the quantities of an answer that say one of the source in another unit: 42 days are six weeks.

    Rates too: what happens twice a second, or every half a second, happens 120 times a minute; what is nine a month is
    108 in the year that the question asks about.
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
    for _, one, of in rates:
        times = [(written, value * _UNITS_OF_MEASURE[unit][1]) for written, value, unit in _quantities(answer)]
        found.update(written for written, seconds in times if abs(of / one - seconds) <= seconds * _ROUNDING)
        asked = (one / of * _SECONDS[unit.rstrip("s")] for unit in _ASKED_PERIOD.findall(question.casefold()))
        found.update(str(round(value)) for value in asked if abs(value - round(value)) <= value * _ROUNDING)
    return found


def _quantities(text: str) -> Iterator[tuple[str, float, str]]:
    """Yield the quantities of a text: the number as it is compared, its value, and its unit."""
    for match in _QUANTITY.finditer(text.casefold()):
        unit = match[3].rstrip("s") if match[3] not in _UNITS_OF_MEASURE else match[3]
        if unit in _UNITS_OF_MEASURE and (value := _value(match[1])) is not None:
            value = value + 0.5 if match[2] else value
            yield plain_number(Decimal(f"{value:g}")) if value < 1e6 else str(int(value)), value, unit


def _rates(text: str) -> Iterator[tuple[str, float, float]]:
    """Yield how often something happens: the number as it is compared, its value, and within how many seconds."""
    for match in _OFTEN.finditer(text.casefold()):
        unit = match[2].rstrip("s")
        if unit in _SECONDS and (value := _value(match[1])):  # what happens zero times a day has no period
            yield plain_number(Decimal(f"{value:g}")) if value < 1e6 else str(int(value)), value, _SECONDS[unit]
    for match in _EVERY.finditer(text.casefold()):
        unit = match[2] if match[2] in _SECONDS else match[2].rstrip("s")
        if unit in _SECONDS and (value := _value(match[1] or "one")):
            yield "1", 1.0, value * _SECONDS[unit]


def _value(word: str) -> float | None:
    """Return what a number is, in digits or as one word; None for any other word, and beyond what anybody converts."""
    if word[0].isdigit():
        value = float(word.replace(",", ""))
        return value if value < _MOST else None
    named = {"once": 1, "twice": 2, "thrice": 3, "a": 1, "an": 1, "half a": 0.5, "half an": 0.5, "a dozen": 12}
    return named.get(word, UNITS.get(word, TENS.get(word)))
