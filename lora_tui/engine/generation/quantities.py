"""Quantities, rates and times of day: 42 days are six weeks, nine a month 108 a year, half past seven is 7:30.

What an answer says in another unit, or on another clock, than its evidence is right where both are the same, up to
rounding. English words.
"""

import re
from collections.abc import Iterator, Sequence, Set
from decimal import Decimal
from functools import lru_cache
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
UNITS_OF_MEASURE = {
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

_EXACT = 1e-6

_MOST = 1e18
"""Numbers from here on are in no other unit: products of them could be infinite."""

_NUMBER_WORD = "|".join([*UNITS, *TENS, "half an?", "an?"])
_QUANTITY = re.compile(rf"\b((?<![\d,])\d[\d,]*(?:\.\d+)?|(?:{_NUMBER_WORD})\b)( and a half)?[\s-]*([a-z]+)\b")
_AND_A_HALF = re.compile(r"\s+and a half\b")
_JOINS = re.compile(r"(?:,?\s+and)?,?\s+")
_OFTEN = re.compile(
    rf"\b(\d[\d,]*(?:\.\d+)?|once|twice|thrice|{'|'.join([*UNITS, *TENS])})\s+(?:[a-z]+\s+){{0,2}}"
    r"(?:an?|per|each|every|in an?)\s+([a-z]+)\b"
)
_EVERY = re.compile(rf"\bevery\s+(?:(\d[\d,]*(?:\.\d+)?|{_NUMBER_WORD})\s*)?([a-z]+)\b")


_FIGURE = re.compile(r"(?<![\w.,])\d[\d,]*(?:\.\d+)?(?![\w:])")
_DAY = 86400.0
_SCALES = {"thousand": 1000, "million": 10**6, "billion": 10**9}
_BELOW_HUNDRED = rf"(?:(?:{'|'.join(TENS)})(?:[- ](?:{'|'.join(list(UNITS)[1:10])}))?|{'|'.join(reversed(UNITS))})\b"
_BELOW_THOUSAND = rf"(?:(?:a|{_BELOW_HUNDRED}) hundred\b(?:(?: and)? {_BELOW_HUNDRED})?|{_BELOW_HUNDRED})"
_PHRASE = re.compile(
    rf"\b(?:(?:a|{_BELOW_THOUSAND}) (?:{'|'.join(_SCALES)})\b(?:(?: and)? {_BELOW_THOUSAND})?|{_BELOW_THOUSAND})",
    re.IGNORECASE,
)

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
    between = {abs(one - other) for one, other in combinations(_times(text), 2)}
    return {plain_number(Decimal(span) / unit) for span in between for unit in (1, 60)}


def _times(text: str) -> list[int]:
    """Return the times of day of a text, in minutes."""
    minutes = [60 * int(hour) + int(minute) for hour, minute in _CLOCK.findall(text)]
    for hour, minute, half in _BY_HALVES.findall(text):
        minutes.append(60 * (int(hour) % 12 + (12 if half.casefold() == "p" else 0)) + int(minute or 0))
    return minutes


def plain_number(number: Decimal | str) -> str:
    """Return a number without zeros that say nothing, "1.50" as "1.5"; a version as it is."""
    return number if isinstance(number, str) else f"{number.normalize():f}"


def converted(answer: str, source: str, question: str) -> set[str]:
    """Return the quantities of an answer that say one of the source in another unit: 42 days are six weeks.

    Or two of it together or apart, where those have different units: 8 centimetres less than 1.42 metres. Rates too:
    what happens twice a second, or every half a second, happens 120 times a minute; what is nine a month is 108 in the
    year that the question asks about.
    """
    known = list(_quantities(source))
    found = set()
    for written, value, unit in _quantities(answer):
        kind, size = UNITS_OF_MEASURE[unit]
        same = [other * of for _, other, one in known for k, of in [UNITS_OF_MEASURE[one]] if k == kind and one != unit]
        sums = _of_different_units(known, kind)
        if any(abs(one - value * size) <= one * _ROUNDING for one in same) or any(
            abs(one - value * size) <= one * _EXACT for one in sums
        ):
            found.add(written)
    found |= _proportional(answer, source, question)
    rates = list(_rates(source))
    for written, value, seconds in _rates(answer):
        if any(abs(one / of - value / seconds) <= one / of * _ROUNDING for _, one, of in rates):
            found.add(written)
    for _, one, of in rates:
        times = [(written, value * UNITS_OF_MEASURE[unit][1]) for written, value, unit in _quantities(answer)]
        found.update(written for written, seconds in times if abs(of / one - seconds) <= seconds * _ROUNDING)
        asked = (one / of * _SECONDS[unit.rstrip("s")] for unit in _ASKED_PERIOD.findall(question.casefold()))
        found.update(str(round(value)) for value in asked if abs(value - round(value)) <= value * _ROUNDING)
    return found


def _proportional(answer: str, source: str, question: str) -> set[str]:
    """Return the numbers of an answer that are in proportion to what the question asks about.

    How often a quantity goes into one of the question (25 seconds into five minutes), and as much of another thing as
    that makes of it: of 6 kilograms for one kilogram, 3 for 500 grams.
    """
    asked = [
        (kind, value * size) for _, value, unit in _quantities(question) for kind, size in [UNITS_OF_MEASURE[unit]]
    ]
    told = [(kind, value * size) for _, value, unit in _quantities(source) for kind, size in [UNITS_OF_MEASURE[unit]]]
    ratios = {one / other for kind, one in asked for same, other in told if kind == same and other and one != other}
    if not ratios:
        return set()
    ours = {written for one in _FIGURE.findall(in_digits(answer)) for written in [one.replace(",", "")]}
    numbers = [1.0] + [float(one.replace(",", "")) for one in _FIGURE.findall(in_digits(source))]
    made = [number * ratio for number in numbers for ratio in ratios]
    return {_as_compared(float(one)) for one in ours if any(abs(float(one) - of) <= of * _EXACT for of in made)}


def shifted_times(answer: str, source: str) -> set[str]:
    """Return the numbers of the times of day that are so long before or after one of the source, if the answer has one.

    An operation at 9 a.m., no food for eight hours: 1 a.m.
    """
    if not _CLOCK.search(answer) and not _BY_HALVES.search(answer):
        return set()
    lengths = [value * size / 60 for _, value, unit in _quantities(source) for kind, size in [UNITS_OF_MEASURE[unit]]
               if kind == "time" and value * size < _DAY]  # fmt: skip
    times = [(one + sign * length) % 1440 for one in _times(source) for length in lengths for sign in (1, -1)]
    hours = {int(one // 60) for one in times}
    return {str(one) for hour in hours for one in (hour, hour % 12, (hour - 1) % 12 + 1)} | {
        str(int(one % 60)) for one in times
    }


@lru_cache(maxsize=256)  # evidence and question are read again by each check
def in_digits(text: str) -> str:
    """Return a text with its numbers in words as digits: "a hundred thousand" is 100000, "forty-three" 43."""
    return _PHRASE.sub(lambda found: str(_phrase_value(found.group().casefold())), text)


def _phrase_value(phrase: str) -> int:
    total = current = 0
    for word in re.findall("[a-z]+", phrase):
        if word == "hundred":
            current *= 100
        elif word in _SCALES:
            total, current = total + current * _SCALES[word], 0
        elif word != "and":
            current += 1 if word == "a" else UNITS.get(word, TENS.get(word, 0))
    return total + current


def _of_different_units(known: Sequence[tuple[str, float, str]], kind: str) -> list[float]:
    """Return sums and differences of two quantities of a kind in different units, in the unit of size 1."""
    sizes = [(value * size, unit) for _, value, unit in known for k, size in [UNITS_OF_MEASURE[unit]] if k == kind]
    pairs = [(one, other) for (one, unit), (other, another) in combinations(sizes, 2) if unit != another]
    return [of for one, other in pairs for of in (one + other, abs(one - other))]


def _quantities(text: str) -> Iterator[tuple[str, float, str]]:
    """Yield the quantities of a text: the number as it is compared, its value, and its unit.

    What is said in two units counts as one more: "an hour and forty minutes", "a foot, six inches".
    """
    folded, before = in_digits(text.casefold()), None
    for match in _QUANTITY.finditer(folded):
        unit = match[3].rstrip("s") if match[3] not in UNITS_OF_MEASURE else match[3]
        if unit not in UNITS_OF_MEASURE or (value := _value(match[1])) is None:
            continue
        half = match[2] or _AND_A_HALF.match(folded, match.end())
        value = value + 0.5 if half else value
        yield _as_compared(value), value, unit
        if before is not None and _JOINS.fullmatch(folded, before[0], match.start()):
            (kind, size), (other_kind, larger) = UNITS_OF_MEASURE[unit], UNITS_OF_MEASURE[before[2]]
            if kind == other_kind and size < larger:
                whole = value + before[1] * larger / size
                yield _as_compared(whole), whole, unit
        before = (match.end(), value, unit)


def _as_compared(value: float) -> str:
    return plain_number(Decimal(f"{value:g}")) if value < 1e6 else str(int(value))


def _rates(text: str) -> Iterator[tuple[str, float, float]]:
    """Yield how often something happens: the number as it is compared, its value, and within how many seconds."""
    text = in_digits(text.casefold())
    for match in _OFTEN.finditer(text):
        unit = match[2].rstrip("s")
        if unit in _SECONDS and (value := _value(match[1])):  # what happens zero times a day has no period
            yield _as_compared(value), value, _SECONDS[unit]
    for match in _EVERY.finditer(text):
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
