"""Numbers that follow from others: sums and differences, rates, shares, spans of years, sums that an answer spells out.

Every way is one in which right answers work out a number, and asks for its sign: a word of question or answer that says
so, or one of the two numbers beside the result. Without a sign only numbers of three digits pass, since smaller ones
could be hit by chance. Plain text, English words.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Set
from decimal import Decimal
from itertools import combinations, product

from lora_tui.engine.generation.number_reading import (
    counted,
    number_of,
    stated,
    written,
)
from lora_tui.engine.generation.quantities import TENS, UNITS, converted, in_digits, plain_number, shifted_times
from lora_tui.scoring.porter import porter_stem as _stem

_TIMES = re.compile(r"\b(?:twice|double[sd]?|thrice|triple|half|halved?|(?:three|four|five|six|ten|\d+) times)\b")
"""By these one number of the evidence is told from another: which of both is asked for does not matter."""

_COMPARED = re.compile(
    r"\b(?:more|less|fewer|longer|shorter|cheaper|dearer|larger|smaller|bigger|higher|lower|older|younger|later|earlier"
    r"|heavier|lighter|further|farther|faster|slower|wider|deeper|difference|left|remain\w*|still|not|no|without|rest"
    r"|others?|total|altogether|together|in all|sum|save[sd]?|saving|gain(?:s|ed)?|extra|lost|lose[sd]?)\b"
)
"""A question with one of these asks for what has to be worked out."""

_DIFFERS = re.compile(
    r"(?<![\w.,])(\d+(?:,\d{3})*(?:\.\d+)?)\W+(?:[a-z]+\W+){0,2}(?:more|less|fewer|longer|shorter|cheaper|dearer"
    r"|larger|smaller|bigger|higher|lower|older|younger|heavier|lighter|faster|slower|wider|deeper|warmer|colder)\b"
)
"""A number that an answer names as a difference: "1,710 euros more"."""

_REMAINS = re.compile(r"\b(?:difference|remain\w*|in total|altogether|in all)\b")

_NEARLY = re.compile(r"\b(?:about|around|roughly|nearly|almost|approximately|some|over|just under)\b")
YEAR = re.compile(r"\b(?:1[0-9]|20)\d\d\b")
_FEW_OPERANDS = 4
_MOST_OPERANDS = 10
_BY_CHANCE = 100
"""From here on a number that follows from two others is taken for one that was worked out, not for a chance."""

_DECADE = re.compile(r"\b\d{3}0s\b")
_YEARS_LONG = re.compile(r"\byears?\b")
_RATE = re.compile(
    rf"(?:\d|\b(?:{'|'.join([*UNITS, *TENS])}))\s+\w+\s+(?:a|an|per|each|every)\s+[a-z]"
    r"|/\s?(?:h|min|s|day|week|month|year)\b"
)
ASKED = re.compile(r"\bhow\s+(?:many|much)\s+(?:\w+\s+)??(\w+)", re.IGNORECASE)
_EACH = re.compile(r"\b(?:each|every|apiece|per)\b")
_TOTAL = re.compile(r"\b(?:totals?|altogether|together|in all|sum|adds? up|weigh\w*|heavy|combined|overall)\b")
PERCENT = re.compile(r"%|\bper ?cent\b|\bin a hundred\b")
_CHANGES = re.compile(
    r"\b(?:more|less|fewer|higher|lower|larger|smaller|longer|shorter|cheaper|faster|slower|rose|risen|rise|grew|grown"
    r"|growth|increas\w+|decreas\w+|drop\w*|fell|fall\w*|cut|reduc\w+|sav\w+|gain\w*|los[st]\w*|discount)\b"
)
_REST = re.compile(r"\b(?:not|no|never|none|without|rest|remain\w*|left|(?<!any )others?)\b|n['’]t\b")
_RATIO = re.compile(
    r"\b(?:times (?:as|more|the|larger|longer|higher)|\w*fold|factor of|one (?:in|out of)|1 (?:in|out of))\b"
)
_MONTHS = "January February March April May June July August September October November December".split()
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
_LONGEST_WHOLE = 7
_FIRST_YEAR, _LAST_YEAR = 1000, 2100


def says_total(text: str) -> bool:
    """Tell whether a text says that it tells a sum."""
    return _TOTAL.search(text.casefold()) is not None


def worked_out(answer: str, evidence: str, question: str) -> Set[str]:
    """Return what is worked out of few numbers, as question or answer says: sums, differences, or a share of one."""
    asked, said = question.casefold(), answer.casefold()
    operands = [number for one in sorted(written(evidence)) if (number := number_of(one)) is not None]
    things = defaultdict[str, list[Decimal]](list)
    for value, noun in counted(evidence):
        things[noun].append(Decimal(value))
    is_total = says_total(f"{asked} {said}")
    sums = {sum(these, Decimal(0)) for these in things.values() if len(these) > 2}
    found = {whole for whole in sums if whole >= _BY_CHANCE or is_total}
    if says_total(said):
        asked_about = (number for one in written(question) if (number := number_of(one)) is not None)
        found.update(one * other for one, other in product(asked_about, operands))
    if len(operands) > _FEW_OPERANDS:
        return {plain_number(one) for one in found}
    differing = {Decimal(match[1].replace(",", "")) for match in _DIFFERS.finditer(in_digits(said))}
    for one, other in combinations(operands, 2):
        both = {one + other, abs(one - other)}
        found |= both if _COMPARED.search(asked) or _REMAINS.search(said) else both & differing
        if _NEARLY.search(asked) and one and other:
            found.update(map(Decimal, (round(one / other), round(other / one))))
    if _TIMES.search(evidence.casefold()):
        times = [number for one in stated(evidence) - written(evidence) if (number := number_of(one)) is not None]
        found.update(of for one in operands for many in times if many > 1 for of in (one / many, one * many))
    return {plain_number(one) for one in found if one == round(one)}


def named_derivations(answer: str, evidence: str, question: str, known: Set[str]) -> Set[str]:
    """Return the numbers that follow from known ones in a way which the answer, or the evidence, names.

    The century or decade of a year, a span of years, months or days of the week, a percentage, a ratio ("one in six"),
    a rate ("53 metres a minute"), so many "each".
    """
    whole = [int(one) for one in known if one.isdigit() and len(one) <= _LONGEST_WHOLE]
    years = [one for one in whole if _FIRST_YEAR <= one < _LAST_YEAR]
    text, found = in_digits(answer.casefold()), set[int]()
    if "centur" in text:
        found.update((year - 1) // 100 + 1 for year in years)
    if _DECADE.search(text):
        found.update(year // span * span for year in years for span in (10, 100))
    pairs = [(one, other) for one in whole for other in whole if one != other and other]
    if _YEARS_LONG.search(text):
        found.update(abs(one - other) for one, other in combinations(years, 2))
    if PERCENT.search(text):
        found.update(round(100 * one / other) for one, other in pairs if one < other)
        if _REST.search(f"{text} {question.casefold()}") or "the rest" in evidence:
            found.update(100 - one for one in whole if one < 100)
        if _CHANGES.search(f"{text} {question.casefold()}"):
            found.update(round(100 * abs(one - other) / other) for one, other in pairs)
    if PERCENT.search(f"{evidence} {question}".casefold()):
        shares = [(one * share, 100) for one, share in pairs if share < 100]
        shares += [(one * (100 - share), 100) for one, share in pairs if share < 100]
        found.update(one // hundred for one, hundred in shares if one % hundred == 0)
    if _RATIO.search(text):
        found.update(round(one / other) for one, other in pairs if one > other)
    found |= _spans_of_calendar(text, evidence)
    if _RATE.search(text):
        found.update(round(one / other) for one, other in pairs)
    if _EACH.search(f"{evidence} {question}".casefold()):
        asked = ASKED.search(question)
        things = {noun for _, noun in counted(answer)} | ({_stem(asked[1].casefold())} if asked else set())
        of_thing = _whole_numbers(value for value, noun in counted(evidence) if noun in things)
        found.update(one * other for one in of_thing for other in whole)
        there = _whole_numbers(written(evidence)) - {0}  # a part of a name may be "00"
        of_those = _whole_numbers(written(question))
        found.update(one // other for one in of_those for other in there if one % other == 0)
    if _NEARLY.search(f"{text} {question.casefold()}"):
        found.update(rounded for one in whole for rounded in (round(one, -place) for place in range(1, len(str(one)))))
    source = f"{evidence}\n{question}"
    return {str(one) for one in found} | converted(answer, source, question) | shifted_times(answer, source)


def _whole_numbers(texts: Iterable[str]) -> set[int]:
    return {int(one) for one in texts if one.isdigit() and len(one) <= _LONGEST_WHOLE}


def _spans_of_calendar(text: str, evidence: str) -> set[int]:
    """Return how many months or days of the week it is between two that are named, with the last and without it."""
    found = set[int]()
    for unit, names in (("month", _MONTHS), ("day", _DAYS)):
        if unit in text:
            places = [names.index(one) for one in re.findall(r"[A-Z][a-z]+", evidence) if one in names]
            for one, other in combinations(places, 2):
                between = (other - one) % len(names)
                found.update((between, between + 1))
    return found


def years_of(passage: str, evidence: str) -> set[str]:
    """Return the years of the paragraph in which the evidence stands: a chronicle's stands at its head."""
    start = passage.find(evidence.strip())
    if start < 0:
        return set()
    end = passage.find("\n\n", start + len(evidence.strip()))
    return set(YEAR.findall(passage[passage.rfind("\n\n", 0, start) + 1 : end if end >= 0 else len(passage)]))


def summed(answer: str, known: Set[str]) -> set[str]:
    """Return the sums of known numbers that an answer names one after the other: "22 are gone: 17, 4 and 1"."""
    found = [one.replace(",", "") for one in re.findall(r"\d[\d,]*", in_digits(answer.casefold()))]
    parts = [(int(one), one in known) for one in found if len(one) <= _LONGEST_WHOLE and not YEAR.fullmatch(one)]
    sums = set[str]()
    for first in range(len(parts)):
        total = 0
        for count, (part, is_known) in enumerate(parts[first:], 1):
            if not is_known:
                break
            total += part
            if count > 1:
                sums.add(str(total))
    return sums


def follows(value: str, known: Set[str], shown: Set[str], *, by_chance: bool = False) -> bool:
    """Tell whether a number is the sum, difference or product of two that are known, and says so.

    `by_chance` says that a large one could be hit by chance, too.
    """
    wanted = number_of(value)
    operands = [(number, one in shown) for one in sorted(known) if (number := number_of(one)) is not None]
    if wanted is None or len(operands) > _MOST_OPERANDS:
        return False
    large = abs(wanted) >= _BY_CHANCE and not by_chance
    for (first, first_shown), (second, second_shown) in combinations(operands, 2):
        if not (large or first_shown or second_shown):
            continue
        if wanted in {first + second, abs(first - second), first * second}:
            return True
    return sum(number for number, is_shown in operands if is_shown) == wanted != 0
