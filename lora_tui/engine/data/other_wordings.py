"""A question in English as others would ask it, by the word that it begins with and by its answer.

"How long is the dough left to rest?", answered "The dough rests for nineteen hours.", becomes "How many hours is the
dough left to rest?"; "Who built it?" becomes "Which person built it?". The question words of a language are few, and a
model that has seen each fact behind one of them alone looks for another fact when it is asked by another. Rules for
whole sentences are those of ``generation/questions``; here a clumsy question does no harm, since it is only read.
"""

import re
from collections.abc import Callable, Sequence

_MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
_DAYS = "(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day"
_NUMBERS = (
    "two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|eighteen|"
    "nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundred|thousand"
)
_AMOUNT = re.compile(rf"\b(?:\d[\d.,]*|{_NUMBERS}) ([a-z]{{3,}}s|feet|people|percent)\b")
_DATE = re.compile(rf"\b\d{{1,2}} (?:{_MONTHS})|\b(?:{_MONTHS}) \d{{1,2}}\b")
_YEAR = re.compile(r"\b(?:1\d|20)\d\d\b")
_TIME = re.compile(r"\b\d{1,2}:\d\d\b|\bo'clock\b|\b(?:half|quarter) (?:past|to)\b|\b(?:noon|midnight|a\.m\.|p\.m\.)")
_QUALITIES = {
    "big": "size",
    "large": "size",
    "heavy": "weight",
    "long": "length",
    "wide": "width",
    "deep": "depth",
    "high": "height",
    "tall": "height",
    "old": "age",
    "fast": "speed",
    "far": "distance",
    "steep": "slope",
}
_VERB = "is|are|was|were|do|does|did|has|have|had|can|could|must|may|should|will|would"

_Rule = tuple[re.Pattern[str], Callable[[re.Match[str], str], Sequence[str]]]


def other_wordings(question: str, answer: str) -> list[str]:
    """Return the question as it could be asked otherwise, without its mark; nothing where no rule knows how."""
    bare = " ".join(question.strip().rstrip("?.! ").split())
    found: list[str] = []
    for pattern, rewrite in _RULES:
        if match := pattern.match(bare):
            found += rewrite(match, answer)
    if passive := _PASSIVE.match(answer.strip()):
        thing, verb, done = passive.groups()
        found.append(f"By whom {verb} {thing[0].lower() if thing.startswith('The ') else thing[0]}{thing[1:]} {done}")
    return [one for one in dict.fromkeys(found) if one.casefold() != bare.casefold()]


_PLACED = re.compile(
    r"(?P<place>(?:With|At|For|In|On) [^,?]+), (?P<question>(?:(?:for|to|by|at|after|within|since|until) )?"
    r"(?:who|what|when|where|why|how|which)\b.*?)(?P<end>[?.! ]*)"
)


def with_place_last(question: str) -> str:
    """Return the question with its first word first: "How long does it last with the C4?" of "With the C4, how ..."."""
    if (found := _PLACED.fullmatch(question)) is None:
        return question
    asked, place = found["question"], found["place"]
    return f"{asked[0].upper()}{asked[1:]} {place[0].lower()}{place[1:]}{found['end']}"


def _when(match: re.Match[str], answer: str) -> Sequence[str]:
    rest = match[1]
    if _DATE.search(answer):
        begins = ("On what date", "On which day")
    elif _YEAR.search(answer):
        begins = ("In which year", "In what year")
    elif _TIME.search(answer):
        begins = ("At what time", "At which hour")
    elif re.search(_DAYS, answer):
        begins = ("On which day", "On what days")
    else:
        begins = ("At what time", "On which occasion")
    return [f"{begin} {rest}" for begin in begins]


def _how(match: re.Match[str], answer: str) -> Sequence[str]:
    quality, rest = match[1].casefold(), match[2]
    found = []
    if amount := _AMOUNT.search(answer):
        found.append(f"How many {amount[1]} {rest}")
    described = re.match(r"(?:is|are|was) (.+)", rest)
    if described and quality in _QUALITIES:
        found.append(f"What is the {_QUALITIES[quality]} of {described[1]}")
    return found


def _many(match: re.Match[str], answer: str) -> Sequence[str]:
    counted, rest = match[1], match[2]
    found = [f"What number of {counted} {rest}"]
    if held := re.match(r"(?:has|have) (.+)", rest):
        found += [f"How many {counted} are there in {held[1]}", f"What is the number of {counted} of {held[1]}"]
    if there := re.match(r"(?:are|were) (?:there )?(?:in|on|at) (.+)", rest):
        found.append(f"What is the number of {counted} of {there[1]}")
    return found


def _price(match: re.Match[str], answer: str) -> Sequence[str]:
    return [f"What is the price of {match[1]}", f"How much must I pay for {match[1]}", f"How expensive is {match[1]}"]


def _name(match: re.Match[str], answer: str) -> Sequence[str]:
    named = match[1]
    return [f"What is the name of {named}", f"What is {named} called", f"What do you call {named}", f"Name {named}"]


def _begin_with(*begins: str) -> Callable[[re.Match[str], str], Sequence[str]]:
    return lambda match, _answer: [f"{begin} {match[1]}" for begin in begins]


def _rule(pattern: str, rewrite: Callable[[re.Match[str], str], Sequence[str]]) -> _Rule:
    return re.compile(pattern, re.IGNORECASE), rewrite


_PASSIVE = re.compile(r"^(?!At |In |On |For |From )(.{3,60}?) (was|were|is|are) ([a-z]{3,}) by \S")
_RULES: tuple[_Rule, ...] = (
    _rule(r"who ((?!are\b|were\b).+)", _begin_with("Which person", "Who is it that", "What is the name of who")),
    _rule(rf"when ((?:{_VERB})\b.+)", _when),
    _rule(rf"where ((?:{_VERB})\b.+)", _begin_with("In which place", "At what place")),
    _rule(r"why (.+)", _begin_with("For what reason", "Tell me why")),
    _rule(r"how often (.+)", _begin_with("How frequently", "How many times")),
    _rule(rf"how (?!many|much|often)([a-z]+)(?: of)?(?: an?)?(?: \w+)? ((?:{_VERB})\b.+)", _how),
    _rule(r"how many (\w+) (.+)", _many),
    _rule(r"(?:what|how much) (?:does|do|did) (.+) cost", _price),
    _rule(r"how much (?:is|are) (.+)", _price),
    _rule(r"how much (\w+ (?:does|do|did|can|may|must) .+)", _begin_with("What amount of")),
    _rule(r"(?:in|on|at) (?:which|what) (?:day|date|year|month|time|hour)s? (.+)", _begin_with("When")),
    _rule(r"(?:in|at) (?:which|what) (?:place|town|city|country|room|building) (.+)", _begin_with("Where")),
    _rule(r"what is the price of (.+)", _price),
    _rule(r"(?:what|how) (?:is|are) (.+) (?:called|named)", _name),
    _rule(r"what is the name of (.+)", _name),
    _rule(r"which (.+)", _begin_with("What", "What kind of")),
    _rule(rf"what ((?!(?:{_VERB})\b)\w+ (?:{_VERB}) .+)", _begin_with("Which")),
    _rule(
        r"what (?:is|are|was) ((?:the|its|our|my) (?!name of).+(?<!called)(?<!named))", _begin_with("Tell me", "Name")
    ),
    _rule(r"what ((?:can|may|must|should|is|was|were) (?!the\b).+)", _begin_with("Which thing", "Tell me what")),
    _rule(r"what ((?:does|do|did|happens) .+(?<! cost))", _begin_with("Which thing", "Tell me what")),
)
