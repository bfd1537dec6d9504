"""Signs of a pair that was made by rule: which rule, what its subject is, how much of its sentence it had to untangle.

They are what a person's marks were fitted on (`tests/bench/writer_weights.py`): some rules err more than others, a
pronoun that was resolved or a bare "the group" more than a name. Doubtful pairs are made all the same and score low, so
that a lower threshold gives more pairs, and a higher one better ones.
"""

import re
from collections.abc import Mapping, Sequence

from lora_tui.engine.generation.questions import english
from lora_tui.engine.generation.questions.reading import QuestionAnswer

_CLAUSE_WORDS = re.compile(
    r"\b(?:which|who|that|because|when|while|where|if|but|although|so|until|before|after|than|as)\b", re.IGNORECASE
)
_BARE = re.compile(r"\bthe ([a-z]+)(?= (?!of\b)|\?)")
_VAGUE = re.compile(
    r"""\b(?:the|an?|these|all)\ (?:group|courses?|prices?|journey|trip|recipe|proposal|sum|vote|offer|trial|talks|event
      |discussion|design|method|operation|test|experiment|attempt|accident|visit|male|female|current|story|figures?
      |measures?|tasks?|fees?|rooms?|pipe|card|class|survivors|gift|house|building|problem|matter|question|decision
      |difference|rest|case|plans?|idea|change|work|money|share|result|process|park|place|thing|area|hose|fields|letter
      |book|scenario|civilization|conflict)
      (?=\?|\ (?!of\b|that\b|which\b|who\b|for\b|with\b|from\b|to\b))
      | \bthe\ (?:most|least|\w+est|next|present|current)\ (?:\w+\ )?(?:sign|cause|danger|fault|problem|difference
      |mistake|reason|advantage|share|part|change|interruption|expense|size|enemy|risk|success|project|step)\b(?!\ of)
    """,
    re.VERBOSE,
)
"""Nouns that stand for something told before, or mean nothing without what they belong to: "the group"."""

_ANYBODY = re.compile(
    r"""\b(?:members?|visitors?|guests?|volunteers?|adults|children|juniors|pupils|passengers|owners|people|users?
      |customers|companies|businesses|brothers|sisters|(?:each|every)\ person|the\ (?:man|woman|boy|girl|family|animal
      |patient|owner|user|manager))\ (?!of\b|who\b|with\b|under\b|from\b|in\b|over\b)
      | \b(?:bills|profits|tickets|books|tools|loans|places|hands)\ (?:lent|sold|bought|paid|divided|washed|booked)\b
    """,
    re.VERBOSE,
)
"""People and things at large, who do or cost something somewhere: "How much do members pay?"."""

_BARE_ANSWER = re.compile(r"(?:(?:In|On|At|From|To|With|By|Into) )?(?:[Tt]he|[Aa]n?) \w+\.")
"""An answer that says nothing by itself: "In the ball."."""

_PAST = re.compile(r"\b(?:did|was|were|had)\b")
_INDEFINITE = re.compile(r"\b(?:did|was|were|had) an? ")
"""An event of somebody or something that is not known: "When did a letter arrive?"."""

_OF_DAY = re.compile(
    r"^(?:At|By) (?:[a-z]+ )?(?:(?:past|to) )?(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|noon"
    r"|midnight)\b|^In week [a-z]+\.|\bon the (?:first|second|third|next) day\b",
    re.IGNORECASE,
)
"""A time that places nothing that happened once: "At three o'clock."."""

_NAME_OR_NUMBER = re.compile(r"\b[A-Z][a-z]+|\d")
_TIMES = re.compile(rf"\b(?:{english.MONTHS}|{english.WEEKDAYS})s?\b")
_ORDINAL = re.compile(r"\bthe (?:\w+ )?(?:second|third|fourth|next|new|other|last|old|same|following|active|main)\b")
_LIGHT = re.compile(
    r"\b(?:take|have|has|give|get|do|make|use|used|work|begin|start|offer|provide|see|learn|know|need|want|like|receive"
    r"|examine|allow|play|improve|process|handle|discover|repair|bring|happen|end)\?$"
)
"""Verbs that ask for half of what they stand with, at the end of a question: "What does a vet take?"."""


def signs_of(
    pair: QuestionAnswer,
    sentence: str,
    counts: Mapping[str, int],
    *,
    particular: float = 0.0,
    resolved: str = "",
    part: int = 0,
) -> Mapping[str, float]:
    """Return the signs of a pair by name, each 0-1 or a small number.

    `counts` are how often each word (lower case) stands in the passage, `particular` is how particular its text is
    (`particularity`), `resolved` how the pair's subject was (`Resolved.how`), `part` 0 for the whole sentence, more for
    a statement that was cut out of it.
    """
    named = any(_is_named(word) for word in _TIMES.sub("", pair.question).split()[1:])
    return {
        f"rule {pair.rule}": 1.0,
        f"answer {pair.kind}": 1.0,
        **({f"subject {resolved}": 1.0} if resolved else {}),
        "part of a sentence": float(part > 0),
        "code": float("`" in pair.question),
        "said before": _said_before(pair.question, counts),
        "particular text": particular,
        "unnamed": 0.0 if named else particular,
        **of_words(pair.question, pair.answer, sentence),
    }


def particularity(sentences: Sequence[str]) -> float:
    """Return the share of sentences, 0-1, with a name or a number behind their first letter.

    A text about bees has few of them and asks of any queen; in one about a club each "the fee" is that club's.
    """
    return sum(_NAME_OR_NUMBER.search(sentence, 1) is not None for sentence in sentences) / max(1, len(sentences))


def _is_named(word: str) -> bool:
    return word[0].isupper() or word[0].isdigit() or word[0] in '`"“'


_MENDED = frozenset(
    ("bare noun", "vague noun", "anybody", "few words", "comma in question", "subject bare", "bare event", "unnamed")
)


def completed_signs(signs: Mapping[str, float]) -> Mapping[str, float]:
    """Return the signs of a question that its document's name completes: it is no longer vague."""
    kept = {name: value for name, value in signs.items() if name not in _MENDED}
    return {**kept, "topic named": 1.0, "long question": max(0.0, signs.get("long question", 0.0) - 0.8)}


def of_words(question: str, answer: str, sentence: str) -> dict[str, float]:
    """Return the signs that the words alone give, of completed questions too."""
    words, replied, said = question.split(), answer.split(), sentence.split()
    middle = words[1:]
    content = {word.strip("?,.").casefold() for word in middle} - _FUNCTION_WORDS
    return {
        "long sentence": max(0.0, (len(said) - 12) / 10),
        "clauses": float(min(4, len(_CLAUSE_WORDS.findall(sentence)))),
        "commas": float(min(3, sentence.count(","))),
        "long question": max(0.0, (len(words) - 9) / 5),
        "few words": float(max(0, 4 - len(content))),
        "long answer": max(0.0, (len(replied) - 6) / 6),
        "one word": float(len(replied) == 1 and not answer[0].isdigit()),
        "bare noun": float(min(2, len(_BARE.findall(question)))),
        "vague noun": float(_VAGUE.search(question) is not None),
        "anybody": float(_ANYBODY.search(question) is not None),
        "bare answer": float(_BARE_ANSWER.fullmatch(answer) is not None),
        "bare event": float(_PAST.search(question) is not None and not any(_is_named(word) for word in middle)),
        "indefinite event": float(_INDEFINITE.search(question) is not None),
        "time of day": float(_PAST.search(question) is not None and _OF_DAY.search(answer) is not None),
        "ordinal": float(_ORDINAL.search(question) is not None),
        "light verb": float(_LIGHT.search(question) is not None),
        "name or number": float(any(_is_named(word) for word in middle)),
        "clause in question": float(any(word.strip(",?") in english.SUBORDINATORS - {"so"} for word in middle)),
        "clause in answer": float(len(_CLAUSE_WORDS.findall(" ".join(replied[1:]))) > 0),
        "comma in question": float("," in question),
    }


_FUNCTION_WORDS = (
    english.DETERMINERS | english.PREPOSITIONS | english.CONJUNCTIONS | english.FINITE_AUXILIARIES | english.BE
) | frozenset("who what when where why how many much long high often it they there times you".split())


def _said_before(question: str, counts: Mapping[str, int]) -> float:
    """Return how familiar the passage is with the question's words, 0-1: what it says once is told of in passing."""
    words = {word.strip("?,.").casefold() for word in question.split()[1:]} - _FUNCTION_WORDS
    return sum(min(3, max(0, counts.get(word, 1) - 1)) for word in words) / (3 * max(1, len(words)))
