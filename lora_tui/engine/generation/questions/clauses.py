"""Main clauses of sentences by pattern: lead, subject, verb group and phrases, or nothing where it is unclear."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from lora_tui.engine.generation.questions import english
from lora_tui.engine.generation.questions.phrases import YEAR, Phrase, PhraseKind, holds_a_verb, is_time, phrases_after
from lora_tui.engine.generation.questions.verbs import (
    Token,
    is_finite,
    is_noun_like,
    tokenize,
    verb_group,
    verb_position,
)


@dataclass(frozen=True, slots=True)
class Clause:
    """A main clause: what leads in ("In 1897"), subject, auxiliaries, adverbs, main verb, and the phrases after it.

    `auxiliaries` are empty where the main verb is finite by itself; `verb` is None after a form of "be" alone.
    """

    sentence: str
    lead: Phrase | None
    subject: tuple[Token, ...]
    auxiliaries: tuple[Token, ...]
    adverbs: tuple[Token, ...]
    verb: Token | None
    verb_form: english.Verb | None
    phrases: tuple[Phrase, ...]

    @property
    def is_copula(self) -> bool:
        """Whether the verb is a form of "be" alone."""
        return self.verb is None

    @property
    def is_passive(self) -> bool:
        """Whether it is in the passive ("was opened")."""
        return (
            self.verb_form is not None
            and self.verb_form.tense in ("past", "participle")
            and bool(self.auxiliaries)
            and self.auxiliaries[-1].low in english.BE
        )


_BEFORE_VERBS = frozenset(
    "also always never often sometimes usually still already now then later soon therefore thus rarely seldom hardly "
    "originally finally gradually regularly".split()
)


@lru_cache(maxsize=4096)  # each sentence is read for its subject, its parts and its questions
def parse_clause(sentence: str) -> Clause | None:
    """Return the main clause of a sentence that ends with a full stop, or None where its reading is not plain."""
    tokens = tokenize(sentence.rstrip())
    if len(tokens) < 4 or tokens[-1].text != "." or any(token.text in "()[]{}|;:?!…" for token in tokens):
        return None
    tokens = tokens[:-1]
    if any(_CONTRACTION.fullmatch(token.low) for token in tokens):
        return None
    if (tokens[0].low in _NOT_STATED and tokens[1].low not in english.FINITE_AUXILIARIES) or (
        len(tokens) > 1 and tokens[0].low == "let"
    ):
        return None
    lead, tokens = _lead(tokens)
    if lead is not None and lead.tokens[-1].low in (
        "example",
        "instance",
        "addition",
        "result",
        "consequence",
        "contrast",
        "fact",
        "conclusion",
        "summary",
        "short",
        "essence",
        "turn",
        "general",
        "other words",
    ):
        lead = None
    if lead is not None and lead.head in ("while", "whereas", "although", "though", "unlike"):
        return None
    if lead is not None and tokens[0].low == "then":
        tokens = tokens[1:]
    found = verb_position(tokens)
    if found is None or found == 0:
        return None
    subject = tokens[:found]
    group = verb_group(tokens, found)
    behind: list[Token] = []
    while len(subject) > 1 and subject[-1].low in _BEFORE_VERBS and subject[-2].text != ",":
        behind.insert(0, subject.pop())  # "the committee therefore sold"
    if group is None or not _is_subject(subject):
        return None
    auxiliaries, adverbs, verb, form, position = group
    if form is None and verb is not None:
        return None
    if form is not None and form.base in ("call", "name") and form.tense == "past" and not auxiliaries:
        return None  # "a teacher called Ruth Calder founded a society"
    following = tokens[position:]
    if any(t.low == "so" and any(later.low == "that" for later in following[n + 2 :]) for n, t in enumerate(following)):
        return None  # "became so rare that ..."
    phrases = phrases_after(tokens[position:])
    if any(holds_a_verb(phrase) for phrase in phrases):
        return None
    return Clause(sentence, lead, tuple(subject), auxiliaries, (*behind, *adverbs), verb, form, phrases)


def _lead(tokens: list[Token]) -> tuple[Phrase | None, list[Token]]:
    """Split off a phrase before the subject: "In 1897," or "Every spring", "If it rains,"."""
    first = tokens[0].low
    comma = next((place for place, token in enumerate(tokens) if token.text == ","), None)
    if first == "to" and tokens[1].text[0].isupper():
        return None, tokens  # "To Kill a Mockingbird"
    if first == "according":
        return None, _after_source(tokens)
    if (after := _after_relative_time(tokens)) is not None:
        return Phrase("time", tuple(tokens[:after])), tokens[after:]
    if first in ("so", "altogether") and (skipped := 2 if tokens[1].low == "far" else first == "altogether"):
        return None, tokens[skipped + (tokens[skipped].text == ",") :]
    starts = first in english.PREPOSITIONS | english.SUBORDINATORS | english.ADVERBS
    timed = first in ("every", "each", "one") or tokens[0].is_number
    if starts and first in english.ADVERBS and comma == 1:
        return None, tokens[2:] if first in ("today", "usually", "normally") else tokens
    passed = ("today", "now", "instead", "then", "afterwards", "meanwhile", "soon", "later")
    if first in passed and comma is None and tokens[1].low in english.DETERMINERS | {"it", "he", "she", "they"}:
        return None, tokens[1:]
    if first in ("every", "each") and is_time(tokens[1:2]) and tokens[2].low in english.DETERMINERS:
        return Phrase("time", tuple(tokens[:2])), tokens[2:]
    if starts and comma is not None and tokens[comma + 1].low in ("which", "who", "where", "when"):
        # "At the Night of the Lanterns, which takes place in August, the lamps are switched off."
        second = next((n for n in range(comma + 1, len(tokens)) if tokens[n].text == ","), None)
        if second is None or second + 2 >= len(tokens):
            return None, tokens
        return Phrase(_kind_of_lead(tokens[:comma]), tuple(tokens[:comma])), tokens[second + 1 :]
    if starts and comma is not None and comma >= 2 and comma + 2 < len(tokens):
        return Phrase(_kind_of_lead(tokens[:comma]), tuple(tokens[:comma])), tokens[comma + 1 :]
    if first in ("in", "since", "on", "by") and len(tokens) > 3:  # "In 1897 the line ...", "On 3 May 1897 the ..."
        end = next((place + 1 for place in range(1, min(5, len(tokens))) if YEAR.fullmatch(tokens[place].text)), None)
        if end is not None and end < len(tokens) and tokens[end].low in english.DETERMINERS:
            return Phrase("time", tuple(tokens[:end])), tokens[end:]
    if first in english.PREPOSITIONS and first not in ("of", "about", "up"):  # "In winter the service ends at 9."
        for place in range(2, min(8, len(tokens) - 2)):
            starts_anew = tokens[place].low in english.DETERMINERS | {"it", "he", "she", "they"}
            if (
                starts_anew
                and is_noun_like(tokens[place - 1])
                and not any(is_finite(tokens, n) for n in range(1, place))
            ):
                return Phrase(_kind_of_lead(tokens[:place]), tuple(tokens[:place])), tokens[place:]
    if timed and comma is not None and comma <= 4 and is_time(tokens[:comma]):
        return Phrase("time", tuple(tokens[:comma])), tokens[comma + 1 :]
    return None, tokens


def _after_source(tokens: list[Token]) -> list[Token]:
    """Return what stands after "According to the laboratory in Brno": a clause, or nothing that can be read."""
    for place in range(3, min(12, len(tokens) - 2)):
        if tokens[place].text == ",":
            return tokens[place + 1 :]
        starts = tokens[place].low in english.DETERMINERS | {"it", "he", "she", "they"}
        if starts and is_noun_like(tokens[place - 1]):
            return tokens[place:]
    return tokens[:1]


def _after_relative_time(tokens: Sequence[Token]) -> int | None:
    """Return the place after "Next year" or "The next day" before a subject with an article."""
    start = 1 if tokens[0].low == "the" else 0
    if len(tokens) < start + 5 or tokens[start].low not in ("next", "last", "following", "previous"):
        return None
    place = start + 2
    return place if is_time(tokens[start + 1 : place]) and tokens[place].low in english.DETERMINERS else None


def _kind_of_lead(tokens: Sequence[Token]) -> PhraseKind:
    first = tokens[0].low
    if first in ("if", "unless"):
        return "condition"
    if first in ("when", "whenever", "once"):
        return "condition"
    if first in ("because", "since") and not is_time(tokens):
        return "reason"
    if first == "to":
        return "purpose"
    if first == "by" and tokens[1].low.endswith("ing"):
        return "means"
    return "time" if is_time(tokens) else "preposition"


_CONTRACTION = re.compile(r"\w+(?:n['’]t|['’](?:ve|ll|re|d|m))|(?:it|that|there|here|what|who|he|she|let)['’]s")
_NOT_STATED = frozenset("note notice see remember consider imagine suppose recall let let's let’s assume thus".split())
"""Words that begin an instruction to the reader, which states nothing."""


def _is_subject(tokens: Sequence[Token]) -> bool:
    """Tell whether tokens are a noun phrase that can stand in a question."""
    commas = sum(token.text == "," for token in tokens)
    first, last = tokens[0], tokens[-2] if tokens[-1].text == "," and len(tokens) > 1 else tokens[-1]
    if not first.is_word or not last.is_word or len(tokens) > 14:
        return False
    number = 2 if first.low == "up" and len(tokens) > 2 and tokens[1].low == "to" else 1
    if first.low in ("about", "around", "over", "up", "under") and len(tokens) > number and tokens[number].is_number:
        return True
    if first.low in english.PREPOSITIONS | english.SUBORDINATORS - {"that"} | english.CONJUNCTIONS:
        return False
    return commas % 2 == 0 or any(token.low in ("and", "or") for token in tokens)
