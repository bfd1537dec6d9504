"""Numbers as a text writes them: in digits, in words ("two hundred and five"), or said by a word ("twice", "dozen").

And what stands with them: the noun that a number counts, and how many things a list names. English words; what a number
may be in an answer is decided by `stated_numbers`.
"""

import re
from collections.abc import Iterator, Set
from decimal import Decimal
from functools import lru_cache

from lora_tui.engine.generation.quantities import TENS, UNITS, in_digits, plain_number, with_clock_times
from lora_tui.scoring.metrics import FUNCTION_WORDS
from lora_tui.scoring.porter import porter_stem as _stem
from lora_tui.scoring.words import numbers, tokens

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
    "noon": ("12",),
    "midday": ("12",),
    "midnight": ("12", "24"),
    "fortnight": ("2", "14"),
    **{
        word: (str(value),)
        for value, word in enumerate(
            "eleventh twelfth thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth".split(), 11
        )
    },
    **{
        word: (str(10 * value),)
        for value, word in enumerate(
            "twentieth thirtieth fortieth fiftieth sixtieth seventieth eightieth ninetieth hundredth".split(), 2
        )
    },
    **{
        word: (str(value), str(round(100 / value)))
        for value, word in enumerate("second third fourth fifth sixth seventh eighth ninth tenth".split(), 2)
    },
}
"""Words that say a number without being one, and what may be written for them; "half" is 50 %, a fifth 20."""

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
_EVERY_OTHER = re.compile(r"\b(?:every other|alternate|alternating)\b")


_A_SCALE = re.compile(r"\ban? (?=(?:hundred|thousand|million|billion)\b)")
_PARTS = {"half": 2, "third": 3, "quarter": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "tenth": 10}
_SHARE = re.compile(
    rf"\b(?:({'|'.join(list(UNITS)[1:10])})[- ]({'|'.join(list(_PARTS)[1:])})s?|([1-9])/([2-9]|10))\b", re.IGNORECASE
)
_OF_AN_HOUR = re.compile(r"\s+of an? hour\b")
_NEAR_SHARE = 0.05


def _shares(text: str) -> Iterator[float]:
    """Yield the fractions of a text: "two fifths" is 0.4."""
    for match in _SHARE.finditer(text):
        yield _share(match)


def _share(match: re.Match[str]) -> float:
    if match[3]:
        return int(match[3]) / int(match[4])
    return UNITS[match[1].casefold()] / _PARTS[match[2].casefold()]


def without_held_shares(text: str, known: Set[str]) -> str:
    """Return a text without the fractions that known numbers make: "two thirds" where 66 of 99 are known, or 67 %."""
    if _SHARE.search(text) is None:
        return text
    values = [float(one) for one in known if number_of(one)]
    ratios = [value / 100 for value in values] + [one / other for one in values for other in values if one < other]

    def held(match: re.Match[str]) -> str:
        share = _share(match)
        if _OF_AN_HOUR.match(text, match.end()) and share * 60 in values:
            return " "
        is_held = any(abs(share - ratio) <= _NEAR_SHARE * share for ratio in ratios)
        return " " if is_held else match.group()

    return _SHARE.sub(held, text)


def written(text: str) -> set[str]:
    """Return the numbers of a text, in digits or in words."""
    return digits(text) | set(in_words(text))


@lru_cache(maxsize=256)  # a passage's pairs quote the same evidence, and each check asks again
def stated(text: str) -> Set[str]:
    """Return every number of a text, in any way it may be repeated: by digits, in words, on another clock."""
    found = digits(text) | set(in_words(text))
    for word in re.findall(r"[a-z]+", text.casefold()):
        found.update(_MULTIPLES.get(word, ()))
    if _EVERY_OTHER.search(text.casefold()):
        found.add("2")
    for share in _shares(text):
        found.update((f"{share:g}", str(round(100 * share))))
    for hour, _ in _CLOCK.findall(text):
        found.add(str((int(hour) - 1) % 12 + 1))
    found.update(str(int(hour) % 12 + 12) for hour in _HALF_DAY.findall(text))
    return found


def digits(text: str) -> set[str]:
    """Return the numbers that a text has in digits, as they are compared; those inside words, too: "RP-1" has 1."""
    return {plain_number(number) for number in numbers(tokens(text))} | set(_INSIDE_WORD.findall(text))


def in_words(text: str) -> Iterator[str]:
    """Yield the numbers that are written in words, "two hundred and five" as one, "two and a half" as 2.5."""
    total = current = 0
    inside = False
    words = re.findall(r"[a-z]+|[^\sa-z-]", _A_SCALE.sub("one ", text.casefold()))
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


def number_of(written: str) -> Decimal | None:
    """Return the value of a number in digits, or None for what only looks like one: a version, a time of day."""
    return Decimal(written) if re.fullmatch(r"-?\d+(?:\.\d+)?", written) else None


_OF_NUMBER = frozenset({*UNITS, *TENS, *_SCALES, *_MULTIPLES, *"a an and to past o'clock am pm a.m p.m".split()})
_MOST_WORDS = 6


def as_written(value: str, text: str) -> str:
    """Return a number in the words in which a text writes it, "thirty-eight" for 38, "two thirds" for 2; or itself."""
    for share in _SHARE.finditer(text):
        if value in written(share.group()):
            return share.group()
    words = [word.strip(",;:.!?()[]\"'“”‘’«»") for word in text.split()]
    for length in range(1, _MOST_WORDS + 1):
        for first in range(len(words) + 1 - length):
            some = words[first : first + length]
            # Nothing but numbers is repeated: it is told to a judge as ours.
            if all(_is_of_number(word) for word in some):
                phrase = " ".join(some)
                if value in written(phrase) | digits(with_clock_times(phrase)):
                    return phrase
    return value


def _is_of_number(word: str) -> bool:
    return all(part in _OF_NUMBER or not re.search(r"[^\W\d_]", part) for part in word.casefold().split("-"))


_WITH_NOUN = re.compile(r"(?<![\w.,])(\d+(?:,\d{3})*(?:\.\d+)?|[a-z]+)(?:[ \t]+(?=([^\W\d_]*))|(?=[.,;:!?)]*(?:\s|$)))")
_NO_NOUN = frozenset(
    "today now then later earlier ago already left still here there again altogether each apiece".split()
)
"""Words behind a number that it does not count: "there were two pairs and there are nine today"."""


@lru_cache(maxsize=256)
def counted(text: str) -> Set[tuple[str, str]]:
    """Return the numbers of a text, digits or single words, each with the stem of the word behind it; "" if none is."""
    found = set()
    for match in _WITH_NOUN.finditer(in_digits(text.casefold())):
        word, noun = match[1], match[2] or ""
        value = (
            plain_number(Decimal(word.replace(",", "")))
            if word[0].isdigit()
            else str(UNITS.get(word, TENS.get(word, "")))
        )
        if value and value != "1":
            found.add((value, "" if noun in FUNCTION_WORDS or noun in _NO_NOUN or not noun else _stem(noun)))
    return found


def listed(text: str) -> int:
    """Return how many things the longest list of a text names, if that is three or more, or two behind a colon."""
    found = []
    if "," in text and _AND_OR.search(text):
        found = [len(_BETWEEN.split(one.group())) for one in _LISTED.finditer(text)]
    found += [one.group(1).count(",") + 1 for one in _ARGUMENTS.finditer(text)]
    return max([*found, len(_BULLET.findall(text)), 2 if _TWO.search(text) or _ALTERNATIVE.search(text) else 0])
