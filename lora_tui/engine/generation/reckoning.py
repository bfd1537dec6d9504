"""Whether a number that nothing holds is proof of a fault, or may have been worked out in a way that no rule knows.

`derived_numbers` knows many ways in which right answers work numbers out, and every new text has another one. So a
number that none of them gives is proof only where none was asked for: it stands in the place of a number of the same
kind in the evidence ("18 metres" for "12 metres"), or there is nothing that it could follow from. Where the question
asks for a sum, a difference, a share or a span, or the answer shows its working, it is a doubt that the judge has to
decide. Working that is shown and comes out is no doubt. English words.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from decimal import Decimal
from functools import lru_cache
from itertools import takewhile

from lora_tui.engine.generation.number_reading import listed, stated
from lora_tui.engine.generation.quantities import UNITS_OF_MEASURE, in_digits, plain_number
from lora_tui.scoring.metrics import FUNCTION_WORDS
from lora_tui.scoring.porter import porter_stem as _stem

_ASKS_TO_RECKON = re.compile(
    r"\b(?:more|less|fewer|(?!other|rather)\w{3,}er than|than|difference|differ|saves?|saved|cheaper|dearer"
    r"|gain(?:s|ed)?|grown?|grew|shrink|shrunk|increased?|decreased?|risen|rose|fallen|total|altogether|in all"
    r"|(?<!get )together|combined|overall"
    r"|(?<!what )sum|remain\w*|left over|percent\w*|per cent|share of|what share|fraction"
    r"|proportion|ratio|factor|average|likely|how common|chance|single|youngest|by how (?:much|many)|how many times"
    r"|pay off|worthwhile|birthday|anniversary)\b"
    r"|\bhow (?:many|much)\b.*(?:\b(?:not?|nor|never|without|neither|still|(?:is|are|was|were|be) left|rest|others?|if"
    r"|out of)\b|n['’]t\b)",
    re.IGNORECASE,
)
"""What asks for a number that has to be worked out, in a question."""

Numbers = Sequence[tuple[str, Set[str]]]
"""Numbers as they are compared, with their kinds."""

_AUXILIARIES = frozenset("is are was were do does did can could may might must should will would has have had".split())
_ASKS_FOR_NUMBER = re.compile(
    r"\bhow (?!does|do|did|can|could|is|are|was|were|will|would|should)|\bwhen\b|\bif\b"
    r"|\b(?:what|which) (?:would|does|do|did|will"
    r"|is|are|was|were|time|temperature|year|age|price|percentage|share|number|distance|factor|total|sum)\b",
    re.IGNORECASE,
)
_ARTICLES = frozenset("the this that these those its his her their our".split())
_YES_OR_NO = re.compile(rf"\s*(?:{'|'.join(sorted(_AUXILIARIES))})\b", re.IGNORECASE)
_PERIOD = re.compile(
    r"\b(?:an?|per|each|every|in an?|whole|single)\s+(second|minute|hour|day|night|week|fortnight|month|quarter|year)\b"
    r"|\b(annual|year|month|week|dai|hour)ly?\b",
    re.IGNORECASE,
)
_PERIODS = {"annual": "year", "dai": "day", "night": "day"}

_JOINS = re.compile(
    r"[:(=×*+÷/−–—]|\b(?:since|because|as|i\.e|that is|which is|namely|instead|rather|versus|vs|than|compared|plus"
    r"|minus|so|makes?|leaves?|leaving|of (?:the|its|his|her|their|them|whom|which|these|those)|out of|each|per|every"
    r"|times|while|whereas|given|apiece)\b",
    re.IGNORECASE,
)
"""What stands in an answer between a result and the numbers that it was worked out of."""

_NUMBER = re.compile(r"(?<![\w.,:])([£$€]\s?)?(\d[\d,]*(?:\.\d+)?)(?::(\d\d))?(%|[a-z°]*)")
_WORD = re.compile(r"[^\W\d_]+|[£$€%°]|[.,;:!?()]")
_AND_A_HALF = re.compile(r"(?<![\d.,])(\d+)(?: and a half|½)(?!\w)")
_MONEY = frozenset(
    "£ $ € p pound pounds euro euros dollar dollars cent cents pence penny crown crowns franc francs shilling shillings"
    " florin florins kroner".split()
)
_OF_DAY = re.compile(r"\s*(?:[ap]\.?m\b|o['’]clock\b|in the (?:morning|afternoon|evening)\b|at night\b)")
_MONTHS = frozenset(
    "january february march april may june july august september october november december jan feb mar apr jun jul aug"
    " sept sep oct nov dec".split()
)
_UNITS = frozenset("money percent clock month time length weight volume bytes".split())
_MEASURES = _UNITS | {"year"}
_WINDOW = 4
"""Words behind a number among which the thing that it counts is looked for."""

_ASKED_KINDS = (
    (re.compile(r"\bhow (?:long|old|often|soon|late|early)\b|\bwhen\b", re.IGNORECASE), "time"),
    (re.compile(r"\bhow (?:long|far|high|tall|deep|wide|thick|large|big|steep)\b", re.IGNORECASE), "length"),
    (re.compile(r"\bhow heavy\b|\bweigh\w*", re.IGNORECASE), "weight"),
    (re.compile(r"\b(?:costs?|price|pay|paid|fee|earn\w*|fine|charged?|spend|spent|expensive)\b", re.I), "money"),
    (re.compile(r"\bwhen\b|\byear\b", re.IGNORECASE), "year"),
    (re.compile(r"\bwhen\b|\btime\b|\buntil\b", re.IGNORECASE), "clock"),
    (re.compile(r"\bpercent\w*|\bper cent\b|\bshare\b", re.IGNORECASE), "percent"),
)
_HOW_MANY = re.compile(r"\bhow (?:many|much)\s+((?:[^\W\d_]+\s*){1,3})", re.IGNORECASE)
_YEAR = re.compile(r"(?:1\d|20)\d\d")
_MOST_COUNTED = 12
_ORDINAL = re.compile(r"\b(second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|\d+(?:st|nd|rd|th))\b", re.I)
_NAMED_DATE = re.compile(
    r"\b(?:January|February|March|April|May|June|July|August|September|October|November|December"
    r"|(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day)s?\b"
)
_OF_AGE = re.compile(r"\b(?:age of|aged)\s*$")
_LAST_HOUR = 24
_AT = re.compile(r"\b(?:at|from|to|until|till|before|after|between|and) $")
_NAMED = re.compile(
    r"(?<=\w\s)(?:[A-Z][\w-]*\s+\d[\w.]*|(?:Two|Three|Four|Five|Six|Seven|Eight|Nine|Ten|Twelve)\b)"
    r"|\b(?:bus|tram|line|channel|room|step|number|chapter|version|page)\s+\d[\w.]*"
)
"""Numbers that are parts of names, in a question: "the Lumo 40", "the Seven Winds Hut"."""

_PLAIN = re.compile(r"(?=.{1,15}$)\d+(?:\.\d+)?")
_LONGEST = 15
_MOST_OPERANDS = 14
_MOST_BY_CHANCE = 12
"""Up to here a number may be one step from some others by chance: nothing follows from it in turn."""

_BY = re.compile(r"\bby \d")
_SHARES = ("percent", "per cent", "share of", "what share", "fraction", "proportion")
_PERCENT = re.compile(r"%|\bper ?cent")
_HOURS = re.compile(r"\b(?:hour|minute|second|min)s?\b", re.IGNORECASE)
"""By lengths such as these one time of day follows from another."""

_ABOUT = "about|around|roughly|nearly|almost|approximately|some|just (?:under|over)|(?:more|less) than|over|under"
_ROUNDED_OFF = 0.25
_EACH = re.compile(r"\W+(?:each|apiece|per|an?)\b")
_SAME = 1e-9
_ROUNDING = 0.011
"""By how much a result that an answer rounds may differ from what its working gives."""

_CONSTANTS = (
    (re.compile(r"%|\bper ?cent|\bmetres?\b|\bmeters?\b|\bpence\b|\bp\b|£|€"), 100.0),
    (re.compile(r"\bhours?\b|\bminutes?\b|\b[ap]\.?m\b"), 60.0),
    (re.compile(r"\bweek"), 7.0),
    (re.compile(r"\bfortnight"), 14.0),
    (re.compile(r"\bmonth|\byear|\bannual"), 12.0),
    (re.compile(r"\bday|\bdai"), 24.0),
    (re.compile(r"\bkilo|\btonne|\bkm\b|\bkg\b|\blitre"), 1000.0),
)
"""How many of one unit make another, where a text speaks of it."""


def comes_out(unheld: Collection[str], answer: str, evidence: str, question: str) -> set[str]:
    """Return those of an answer's unheld numbers that follow by one step from others, of which the answer shows one.

    "3,840 pounds: half of 640 is 320 a month" shows its working; what it comes to in between may be used, too.
    """
    ours, known = {number: float(number) for number, _ in _numbers(answer)}, dict[str, float]()
    for number in stated(evidence) | stated(question) | (ours.keys() - set(unheld)):
        if _PLAIN.fullmatch(number):
            known[number] = float(number)
    if len(known) > _MOST_OPERANDS:
        return set()
    constants = _constants(f"{answer} {question}")
    large = {one for one in unheld if one in ours and not _is_small(ours[one])}
    between = {one for one in large if _one_step(ours[one], known, known, constants)}
    steps = known | {one: ours[one] for one in between}
    shown = ours.keys() & steps.keys()
    found = set()
    for one in unheld:
        beside = {other for other in shown - {one} if _stand_together(one, other, answer)}
        if one in ours and beside:
            others = {other: value for other, value in steps.items() if other != one}
            if _one_step(ours[one], {other: steps[other] for other in beside}, others, constants):
                found.add(one)
                found |= beside & between
    return found


def is_one_step(value: str, answer: str, evidence: str, question: str) -> bool:
    """Tell whether a number follows by one step from others, where it is not what was asked for, nor a small one."""
    if is_first(value, answer):
        return False
    ours = {number: float(number) for number, _ in _numbers(answer)}
    if value not in ours or _is_small(ours[value]):
        return False
    known = stated(evidence) | stated(question) | ours.keys()
    others = {one: float(one) for one in known - {value} if _PLAIN.fullmatch(one)}
    if len(others) > _MOST_OPERANDS:
        return False
    is_whole = ours[value] == int(ours[value])  # a fraction is no sum of small numbers by chance
    large = {one: number for one, number in others.items() if not (is_whole and _is_small(number))}
    products = (one * of * size for one in others.values() for of in others.values() for size in (1, 0.01))
    return _is_sum(ours[value], large, large) or any(abs(ours[value] - product) < _SAME for product in products)


def _constants(text: str) -> list[float]:
    return [size for pattern, size in _CONSTANTS if pattern.search(text.casefold())]


def _is_small(number: float) -> bool:
    return number <= _MOST_BY_CHANCE and number == int(number)


def _one_step(wanted: float, some: Mapping[str, float], others: Mapping[str, float], constants: list[float]) -> bool:
    """Tell whether a number is the sum, difference, product, quotient or percentage of one of `some` and another."""
    return _is_sum(wanted, some, others) or _is_product(wanted, some, others, constants)


def _is_sum(wanted: float, some: Mapping[str, float], others: Mapping[str, float]) -> bool:
    pairs = ((one, of) for name, one in some.items() for other, of in others.items() if name != other and one and of)
    return any(abs(wanted - result) < _SAME for one, of in pairs for result in (one + of, abs(one - of)))


def _is_product(wanted: float, some: Mapping[str, float], others: Mapping[str, float], constants: list[float]) -> bool:
    """Tell whether a number is a product or quotient, in another unit perhaps, or one of `some` in another unit."""
    sizes = [1.0, *(size for constant in constants for size in (constant, 1 / constant))]
    for name, one in some.items():
        if any(_is_rounded(wanted, one * size) for size in sizes[1:]):
            return True
        for of in (of for other, of in others.items() if other != name and of and one):
            if any(_is_rounded(wanted, of_both * size) for of_both in (one * of, one / of, of / one) for size in sizes):
                return True
    return False


def _is_rounded(wanted: float, result: float) -> bool:
    """Tell whether a number is a result, or what is left of one when it is rounded."""
    return (
        abs(wanted - result) < _SAME
        or (result >= 10 and round(result) == wanted)
        or (wanted >= 100 and abs(wanted - result) <= _ROUNDING * result)
    )


def may_be_reckoned(value: str, answer: str, evidence: str, question: str, unheld: Collection[str] = ()) -> bool:
    """Tell whether a number of an answer that nothing holds may have been worked out, which is no proof of a fault.

    Of an answer's numbers the first is what was asked for, the others are what it is drawn from: one of these in the
    place of a number of its kind that the evidence has, and the answer has not, is an exchange.
    """
    theirs, ours = _numbers(evidence), _numbers(answer)
    if not (theirs or stated(evidence) or stated(question)):
        return _counts_a_list(value, evidence, question)
    asked_for = is_first(value, answer)
    own = {kind for number, kinds in ours if number == value for kind in kinds}
    own |= _kinds_asked(question) if asked_for else set()
    there = {kind for _, kinds in theirs for kind in kinds}
    asks = _asks_to_reckon(question, evidence)
    if asked_for and (asks or ("clock" in own and _is_by_hours(evidence, ours, theirs))):
        return True
    shows = _shows_working(value, answer, {value, *unheld})
    if _is_rounded_off(value, answer, evidence):
        return True
    given = _numbers(question) if asked_for and not _YES_OR_NO.match(question) else ()
    if _is_exchanged(own, (*ours, *given), theirs) or (
        not (asked_for and shows) and _has_other_neighbour(value, own, ours, theirs)
    ):
        return False
    if asks or shows:
        return True
    if own & there:
        return any(own & kinds and number in {one for one, _ in given} for number, kinds in theirs)
    if _HOW_MANY.search(question) and (_dates_named(evidence) > 1 or _ORDINAL.search(evidence)):
        return True
    counts = _HOW_MANY.search(question) is not None
    return _follows_from_others(own, there, [kinds for _, kinds in theirs], counts=counts)


def _is_by_hours(evidence: str, ours: Numbers, theirs: Numbers) -> bool:
    """Tell whether a time of day may follow from another, unless one is repeated: "5 to 11" stands for "9 to 11"."""
    times = {number for number, kinds in theirs if "clock" in kinds}
    said = {number for number, _ in ours}
    return bool(times) and _HOURS.search(evidence) is not None and (times <= said or not times & said)


def _is_exchanged(own: Set[str], ours: Numbers, theirs: Numbers) -> bool:
    """Tell whether the evidence has a number of the same kind that the answer has not."""
    said = {number for number, _ in ours}
    return any(number not in said and (own & kinds or not (own or kinds)) for number, kinds in theirs)


def _has_other_neighbour(value: str, own: Set[str], ours: Numbers, theirs: Numbers) -> bool:
    """Tell whether the number beside one in the answer has another beside it in the evidence: "43 of the 68"."""
    said = [number for number, _ in ours]
    place = said.index(value) if value in said else -1
    for beside in said[max(0, place - 1) : place] + said[place + 1 : place + 2]:
        for at in (at for at, (number, _) in enumerate(theirs) if number == beside):
            for number, kinds in (*theirs[max(0, at - 1) : at], *theirs[at + 1 : at + 2]):
                if number not in said and (own & kinds or not own & _UNITS or not kinds & _UNITS):
                    return True
    return False


def is_first(value: str, answer: str) -> bool:
    """Tell whether a number is the first of an answer, which is mostly what was asked for."""
    return next((number for number, _ in _numbers(answer)), value) == value


def is_exchange(value: str, answer: str, evidence: str) -> bool:
    """Tell whether a number of an answer that is not its first stands in the place of another of the evidence."""
    theirs, ours = _numbers(evidence), _numbers(answer)
    own = {kind for number, kinds in ours if number == value for kind in kinds}
    exchanged = _is_exchanged(own, ours, theirs) or _has_other_neighbour(value, own, ours, theirs)
    return exchanged and not is_first(value, answer)


def _follows_from_others(own: Set[str], there: Set[str], operands: list[Set[str]], *, counts: bool) -> bool:
    """Tell whether a number of one kind is reckoned of others: a span of two dates, a date of a span, a percentage."""
    dates, clocks, months = (sum(kind in kinds for kinds in operands) for kind in ("year", "clock", "month"))
    if "time" in own:
        return max(dates, clocks, months) > 1 or dates + months > 1
    if "year" in own:
        return "time" in there
    if "percent" in own:
        return len(operands) > 1
    if own & _MEASURES:
        return False
    return bool(own) and counts and sum("year" not in kinds for kinds in operands) > 1


def _asks_to_reckon(question: str, evidence: str) -> bool:
    """Tell whether a question asks for what has to be worked out, or brings a number or a period of its own."""
    told = evidence.casefold()
    found = (match.group().casefold() for match in _ASKS_TO_RECKON.finditer(question))
    if not all(asked in told or _is_told_otherwise(asked, told) for asked in found):
        return True
    if not _ASKS_FOR_NUMBER.search(question):
        return False
    known = stated(evidence) | {"1"}
    if any(number not in known and "year" not in kinds for number, kinds in _numbers(_NAMED.sub(" ", question))):
        return True
    return not _periods(question) <= _periods(evidence)


def _is_told_otherwise(asked: str, told: str) -> bool:
    """Tell whether a text says in other words what is asked for: "93 %", a share; of several it may be the rest."""
    if asked.startswith("by how"):
        return _BY.search(_folded(told)) is not None
    return asked.startswith(_SHARES) and len(_PERCENT.findall(told)) == 1


def _periods(text: str) -> set[str]:
    found = (match[1] or match[2] for match in _PERIOD.finditer(text))
    return {_PERIODS.get(one.casefold(), one.casefold()) for one in found}


def _shows_working(value: str, answer: str, unheld: Collection[str]) -> bool:
    """Tell whether a number stands in an answer beside one that is held, with a word between that joins both."""
    others = {number for number, _ in _numbers(answer)} - set(unheld)
    return any(_stand_together(value, other, answer) for other in others)


def _stand_together(one: str, other: str, answer: str) -> bool:
    """Tell whether two numbers stand in an answer with a word between them that joins both."""
    text = _folded(answer)
    places = [
        (match.start(), match.end(), _as_compared(match[2]))
        for match in _NUMBER.finditer(text)
        if len(match[2]) <= _LONGEST
    ]
    return any(
        _JOINS.search(text[min(end, ends) : max(start, begins)]) is not None or _EACH.match(text, max(end, ends))
        for start, end, number in places
        if number == one
        for begins, ends, another in places
        if another == other
    )


def _dates_named(text: str) -> int:
    """Return how many days and months a text names."""
    return len(_NAMED_DATE.findall(text))


def _is_rounded_off(value: str, answer: str, evidence: str) -> bool:
    """Tell whether a number is said to be rounded, and near one of the evidence, which does not round."""
    if _PLAIN.fullmatch(value) is None:
        return False  # a version, an address
    found = re.search(rf"\b({_ABOUT})\W+{re.escape(value)}(?![\d.,]*\d)", _folded(answer))
    if found is None or re.search(rf"\b(?:{_ABOUT})\b", evidence.casefold()):
        return False
    return any(
        abs(float(value) - float(of)) <= _ROUNDED_OFF * float(of) and _significant(value) < _significant(of)
        for of, _ in _numbers(evidence)
    )


def _significant(figure: str) -> int:
    """Return how many digits of a number say something: one of 600, three of 611."""
    return len(figure.replace(".", "").strip("0"))


def _counts_a_list(value: str, evidence: str, question: str) -> bool:
    """Tell whether a number may count what evidence without numbers names."""
    if not value.isdigit() or not 1 < int(value) <= _MOST_COUNTED or _HOW_MANY.search(question) is None:
        return False
    if _dates_named(evidence):
        return True
    return not listed(evidence) and " and " in evidence


def _kinds_asked(question: str) -> set[str]:
    """Return the kinds of number that a question asks for: what a bare number of an answer is."""
    found = {kind for pattern, kind in _ASKED_KINDS if pattern.search(question)}
    if match := _HOW_MANY.search(question):
        words = takewhile(lambda word: word not in _AUXILIARIES, match[1].casefold().split())
        found.update(_stem(word) for word in words if word not in FUNCTION_WORDS)
    return found


@lru_cache(maxsize=256)
def _numbers(text: str) -> Numbers:
    """Return the numbers of a text with their kinds: what they measure, and stems of the words behind them."""
    return tuple(_numbers_of(text))


def _numbers_of(text: str) -> Iterator[tuple[str, Set[str]]]:
    folded = _folded(text)
    for match in _NUMBER.finditer(folded):
        if len(match[2]) > _LONGEST:
            continue
        number = _as_compared(match[2])
        kinds = {"money"} if match[1] else set[str]()
        if match[3]:
            yield number, {"clock"}
            continue
        behind = folded[match.end() :]
        words = [word for word in (match[4], *_WORD.findall(behind[:60])) if word]
        before = re.findall(r"[a-z]+", folded[max(0, match.start() - 12) : match.start()])[-1:]
        for word, last in zip(words[:_WINDOW], ["", *words], strict=False):
            if word in ".,;:!?()" or word in _AUXILIARIES or (word in _ARTICLES and last != "of"):
                break
            kinds |= _kinds_of(word)
        if _OF_AGE.search(folded[: match.start()]):
            kinds |= {"time"}
        if _OF_DAY.match(folded, match.start(4)):
            kinds = {"clock"}
        elif _MONTHS & {*words[:1], *before}:
            kinds |= {"month"}
        if not kinds and float(number) <= _LAST_HOUR and _AT.search(folded[: match.start()]):
            kinds = {"clock"}
        if _YEAR.fullmatch(number) and not kinds & {"money", "time", "length", "weight", "volume"}:
            kinds |= {"year"}
        yield number, kinds


def _folded(text: str) -> str:
    """Return a text with its numbers in digits, "two and a half" as 2.5."""
    return _AND_A_HALF.sub(r"\1.5", in_digits(text.casefold())).replace("per cent", "percent")


def _as_compared(figure: str) -> str:
    return plain_number(Decimal(figure.replace(",", "")))


def _kinds_of(word: str) -> set[str]:
    if word in _MONEY:
        return {"money"}
    if word in ("%", "percent"):
        return {"percent"}
    unit = word if word in UNITS_OF_MEASURE else word.rstrip("s")
    if unit in UNITS_OF_MEASURE:
        return {UNITS_OF_MEASURE[unit][0]}
    return set() if word in FUNCTION_WORDS else {_stem(word)}
