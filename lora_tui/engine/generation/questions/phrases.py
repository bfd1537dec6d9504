"""The phrases after a verb: objects, prepositional phrases, times, reasons, purposes, and where the clause ends."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from lora_tui.engine.generation.questions import english
from lora_tui.engine.generation.questions.answer_spans import measure_of
from lora_tui.engine.generation.questions.verbs import (
    Token,
    is_noun_like,
    may_be_finite,
    may_follow_verb,
    verb_position,
)

PhraseKind = Literal["object", "preposition", "reason", "purpose", "means", "time", "condition", "adverb", "comparison"]

YEAR = re.compile(r"(?:1[0-9]{3}|20[0-9]{2})s?")

_TIME_WORD = re.compile(
    rf"(?:{english.MONTHS}|{english.WEEKDAYS})s?|{english.SEASONS}|(?:year|month|week|day|hour|minute|second|decade|centur(?:y|ies)|"
    r"morning|evening|night|noon|midnight|afternoon|dawn|dusk|sunrise|sunset|weekend|season|holiday|today|"
    r"childhood|lunch|breakfast|dinner|Easter|Christmas)s?"
)

_ORDINAL = re.compile(
    r"\d{1,2}(?:st|nd|rd|th)|(?:twenty-|thirty-)?(?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth)|tenth|"
    r"eleventh|twelfth|thirteenth|fourteenth|fifteenth|sixteenth|seventeenth|eighteenth|nineteenth|twentieth|thirtieth"
)
_CLOCK = re.compile(r"\d{1,2}[:.]\d{2}|a\.?m|p\.?m|o'clock")

_TIME_STARTS = frozenset("after before during until till since while when once".split())
_HOURS = frozenset("one two three four five six seven eight nine ten eleven twelve".split()) | {
    str(hour) for hour in range(1, 25)
}
_PARTS_OF_HOUR = frozenset("five ten quarter twenty twenty-five half".split())
_CLAUSE_STARTS = frozenset("because since when whenever if unless while until before after once although as".split())

_TIME_CLAUSES = frozenset("when whenever before after once until while".split())
_AFTER_COMMA = frozenset("which who where when but so while whereas although though not except yet of".split())

_AFTER_BASE = english.DETERMINERS | english.PERSONAL | english.PREPOSITIONS - {"of", "like"}
_PARTICLES = frozenset("up down out off away back over through".split())


LEANING_ADVERBS = frozenset("only just shortly immediately soon long even mostly usually mainly especially".split())
"""Adverbs that belong to the preposition or conjunction after them."""


@dataclass(frozen=True, slots=True)
class Phrase:
    """A phrase after the verb: its kind, its first word (preposition or conjunction) and its tokens."""

    kind: PhraseKind
    tokens: tuple[Token, ...]

    @property
    def head(self) -> str:
        """The first word in lower case; "only", "shortly" and the like before a preposition are passed over."""
        return self.tokens[1 if len(self.tokens) > 1 and self.tokens[0].low in LEANING_ADVERBS else 0].low

    def has(self, *words: str) -> bool:
        """Tell whether one of the words occurs in it."""
        return any(token.low in words for token in self.tokens)


def phrases_after(tokens: Sequence[Token]) -> tuple[Phrase, ...]:
    """Cut what follows the verb into phrases; what belongs to a second clause is left out."""
    phrases: list[Phrase] = []
    start = 0
    for end in _borders(tokens):
        part = tuple(token for token in tokens[start:end])
        while part and part[0].text == ",":
            part = part[1:]
        while part and part[-1].text in (",", "—", "–", "-"):
            part = part[:-1]
        if part:
            phrases.append(Phrase(kind_of(part, not phrases), part))
        start = end
    return tuple(phrases)


def holds_a_verb(phrase: Phrase) -> bool:
    """Tell whether a phrase that is no clause holds a finite verb: then the verb of the clause was none."""
    if phrase.kind not in ("object", "preposition") and not (
        phrase.kind == "time" and phrase.head in ("in", "on", "at", "every")
    ):
        return False
    tokens = phrase.tokens
    inside = next(
        (n for n, t in enumerate(tokens) if t.low in ("that", "which", "who", "whose", "where", "when")), len(tokens)
    )
    return any(
        token.low in english.FINITE_AUXILIARIES - {"can", "might", "may", "will", "do"}
        or (not token.is_name and not token.low.endswith("ed") and english.past_only(token.low))
        or (
            place > 0
            and english.is_plural(tokens[place - 1].low)  # "by the apprentices climbs": its subject stands further left
            and any(verb.tense == "third" for verb in english.verbs_of(token.text))
        )
        for place, token in enumerate(tokens[:inside])
    )


def _borders(tokens: Sequence[Token]) -> Iterator[int]:
    """Yield the end of each phrase; the last is the end of the clause."""
    opened = ""  # the word that opened the clause within
    inner = ""  # the kind of clause that everything after it belongs to
    for place, token in enumerate(tokens):
        low, (before, after) = token.low, _neighbours(tokens, place)
        leans = before is not None and before.low in LEANING_ADVERBS and _opens_phrase(low)
        if low == "so" and _so_that(tokens, place) and inner != "clause":
            if place:
                yield place
            inner = "clause"
            continue
        if low == "because" or (low in _CLAUSE_STARTS and verb_position(tokens[place + 1 :]) is not None):
            if place and inner != "clause" and not leans:
                yield place
            inner, opened = "clause", low
        if low in LEANING_ADVERBS and after is not None and place and inner != "clause" and _opens_phrase(after.low):
            yield place
            continue
        relative = (
            low == "that" and after is not None and may_be_finite(after) and before is not None and is_noun_like(before)
        )
        if _ends_clause(tokens, place, inner, opened):
            if place:
                yield place
            return
        if place and (low in ("which", "who", "whose", "where") or relative):
            inner, opened = "clause", low
        if low in ("and", "or") and any(t.low in ("between", "both") for t in tokens[max(0, place - 4) : place]):
            continue
        infinitive = low == "to" and after is not None and _is_infinitive(after)
        if not place and infinitive:
            inner = "purpose"
        if not place or inner == "clause" or leans:
            continue
        if place == 1 and before is not None and before.low in _PARTICLES and low in english.PREPOSITIONS:
            if before.low == "up" and low == "to" and after is not None and after.is_number:
                continue  # "costs up to 55 euros"
            yield place
            continue
        if inner == "purpose":
            continue
        if infinitive:
            inner = "purpose"
            if not (before is not None and before.low == "order"):
                yield place
        elif _begins_phrase(tokens, place):
            yield place
    yield len(tokens)


def _neighbours(tokens: Sequence[Token], place: int) -> tuple[Token | None, Token | None]:
    return tokens[place - 1] if place else None, tokens[place + 1] if place + 1 < len(tokens) else None


def _opens_phrase(low: str) -> bool:
    return low in english.PREPOSITIONS or low in _CLAUSE_STARTS


def _ends_clause(tokens: Sequence[Token], place: int, inner: str, opened: str) -> bool:
    """Tell whether a word or sign ends the clause: what follows is a statement, or an aside, of its own."""
    token, (_, after) = tokens[place], _neighbours(tokens, place)
    low = token.low
    if low == "so" and place and after is not None and after.low in english.FINITE_AUXILIARIES | english.PERSONAL:
        return True
    if token.text == "," and after is not None:
        if inner == "clause" and opened in _TIME_CLAUSES and after.low in english.CONJUNCTIONS:
            return True
        if inner != "clause" and (_is_apposition(tokens, place + 1) or _is_aside(tokens, place)):
            return True
        starts = after.low in _CLAUSE_STARTS and after.low not in ("while", "although", "when")
        if not starts and not _so_that(tokens, place + 1):
            apart = after.low in _AFTER_COMMA or _second_verb(tokens, place + 1)
            if apart or _relative_after_comma(tokens, place + 1):
                return True
    if token.text in ("—", "–", ";") or (place and low in ("although", "though", "whereas", "but")):
        return True
    if low not in ("and", "or") or any(t.low in ("between", "both") for t in tokens[max(0, place - 4) : place]):
        return False
    return (inner != "clause" or opened in _TIME_CLAUSES) and _second_verb(tokens, place)


def _begins_phrase(tokens: Sequence[Token], place: int) -> bool:
    """Tell whether a phrase of its own begins within a clause: a preposition, "every", "twice a", an adverb of time."""
    low, (before, after) = tokens[place].low, _neighbours(tokens, place)
    before_low = before.low if before is not None else ""
    if low in english.PREPOSITIONS:
        return not (
            low in ("of", "than", "except", "and", "per")
            or (low == "to" and before_low in ("up", "close", "next", "according"))
            or (before_low in english.PREPOSITIONS and before_low != "to")
            or _within_range(tokens, place)
            or _is_part_of_day(tokens, place)
        )
    if low == "so":
        return after is not None and after.low == "that"
    if low == "every":
        return before_low not in english.PREPOSITIONS
    if low in ("twice", "once"):
        of_a_time = after is None or after.low in ("a", "an", "every", "per")
        return of_a_time and before_low not in ("about", "almost", "nearly")
    return low in ("daily", "weekly", "yearly", "today", "now", "again", "then", "too", "together", "alone")


def _so_that(tokens: Sequence[Token], place: int) -> bool:
    return place + 1 < len(tokens) and (tokens[place].low, tokens[place + 1].low) == ("so", "that")


def _relative_after_comma(tokens: Sequence[Token], place: int) -> bool:
    """Tell whether ", most of whom" or ", one of which" begins at `place`."""
    return any(token.low in ("whom", "which") for token in tokens[place : place + 4])


def _is_apposition(tokens: Sequence[Token], place: int) -> bool:
    """Tell whether ", the daughter of a clockmaker" begins at `place`: neither "and" nor "or" follows, so no list."""
    if place + 2 < len(tokens) and tokens[place + 1].low == "of" and tokens[place + 2].low in ("them", "which", "whom"):
        return True
    return tokens[place].low in (
        "the",
        "a",
        "an",
        "its",
        "his",
        "her",
        "their",
        "that",
        "now",
        "then",
        "today",
    ) and not any(token.low in ("and", "or") for token in tokens[place:])


def _is_aside(tokens: Sequence[Token], comma: int) -> bool:
    """Tell whether ", leaving behind ..." begins at `comma`: a participle that no list of participles leads up to."""
    after = tokens[comma + 1].low
    if (
        not after.endswith("ing")
        or len(after) < 6
        or after in ("including", "during", "following", "morning", "evening")
    ):
        return False
    listed = any(token.low.endswith("ing") for token in tokens[max(0, comma - 3) : comma])
    following = tokens[comma + 2] if comma + 2 < len(tokens) else None
    if following is None or following.text == "," or following.low in ("and", "or"):
        return False
    is_verb = any(verb.tense == "ing" for verb in english.verbs_of(after))
    return not listed and (is_verb or following.low in english.DETERMINERS)


def _is_part_of_day(tokens: Sequence[Token], place: int) -> bool:
    """Tell whether a time of day goes on at `place`: "(ten) to six", "(ten) at night", "(six) in the morning"."""
    low, before = tokens[place].low, tokens[place - 1]
    after = tokens[place + 1] if place + 1 < len(tokens) else None
    if low in ("to", "past") and after is not None and before.low in _PARTS_OF_HOUR and after.low in _HOURS:
        return True
    if low == "at" and after is not None and after.low == "night":
        return before.is_number or _CLOCK.fullmatch(before.low) is not None
    return (
        low == "in"
        and place + 2 < len(tokens)
        and tokens[place + 2].low in ("morning", "evening", "afternoon", "night")
        and (tokens[place - 1].is_number or _CLOCK.fullmatch(tokens[place - 1].low) is not None)
    )


def _within_range(tokens: Sequence[Token], place: int) -> bool:
    """Tell whether "to", "and", "until" stands inside a range that "from" or "between" began, or between numbers."""
    if tokens[place].low not in ("to", "until", "till"):
        return False
    if place + 1 < len(tokens) and tokens[place - 1].is_number and tokens[place + 1].is_number:
        return True  # "four to six years"
    return any(token.low in ("from", "between") for token in tokens[max(0, place - 6) : place])


def _is_infinitive(token: Token) -> bool:
    if token.is_name:  # "from October to March"
        return False
    return token.low == "be" or any(verb.tense == "base" for verb in english.verbs_of(token.text))


def _second_verb(tokens: Sequence[Token], place: int) -> bool:
    """Tell whether a second clause or verb phrase begins at the conjunction or word at `place`."""
    rest = list(tokens[place:])
    if rest and rest[0].low in english.CONJUNCTIONS:
        rest = rest[1:]
        while len(rest) > 1 and rest[0].low in (
            "still",
            "now",
            "then",
            "later",
            "also",
            "soon",
            "again",
            "never",
            "therefore",
            "thus",
            "only",
            "usually",
        ):
            rest = rest[1:]  # "and still holds"
    comma = next((n for n, token in enumerate(rest) if token.text == ","), None)
    rest = rest[:comma]
    if not rest:
        return False
    if rest[0].low in english.FINITE_AUXILIARIES or rest[0].low in ("it", "they", "he", "she", "this", "these"):
        return True
    following = rest[1] if len(rest) > 1 else None
    if not rest[0].is_name:
        tenses = {verb.tense for verb in english.verbs_of(rest[0].text)}
        if tenses & {"past", "third", "participle"} and (following is None or may_follow_verb(following)):
            return True
        object_follows = following is not None and (following.low in _AFTER_BASE or english.is_plural(following.low))
        if "base" in tenses and object_follows and not english.is_adjective(rest[0].low):
            return True
    return verb_position(rest[:9]) is not None


def kind_of(part: Sequence[Token], is_first: bool) -> PhraseKind:
    """Return the kind of a phrase; `is_first` where it follows the verb directly."""
    if part[0].low in LEANING_ADVERBS and len(part) > 1:
        return kind_of(part[1:], is_first)
    low = part[0].low
    after = part[1].low if len(part) > 1 else ""
    if low == "because" or (low in ("due", "owing", "thanks") and after == "to"):
        return "reason"
    if (
        low == "since"
        and not any(token.text[0].isdigit() for token in part)
        and len(part) > 3
        and verb_position(part[1:])
    ):
        return "reason"
    if low in ("so",) and after == "that":
        return "purpose"
    if low == "to" and len(part) > 1 and _is_infinitive(part[1]):
        return "purpose"
    if low == "in" and after == "order":
        return "purpose"
    if low == "by" and after.endswith("ing") and len(after) > 4:
        return "means"
    if low in ("if", "unless", "when", "whenever", "once", "before", "after", "until", "while", "as"):
        if low == "as" and verb_position(part[1:]) is None and len(part) < 6:
            return "preposition"  # "as a reservoir"
        return "time" if low not in ("if", "unless", "as") else "condition"
    if is_first and low in ("roughly", "nearly", "almost", "exactly", "approximately", "only") and part[1:2]:
        return "object" if part[1].is_number else "adverb"
    if low == "than":
        return "comparison"
    if (
        low in ("about", "around", "over", "up", "under", "at")
        and any(token.is_number for token in part[1:3])
        and is_first
        and (low != "at" or after in ("least", "most"))
    ):
        return "object"
    if low in english.PREPOSITIONS:
        return (
            "time"
            if is_time(part)
            and low
            in (
                "in",
                "on",
                "at",
                "since",
                "from",
                "during",
                "between",
                "by",
                "around",
                "about",
                "within",
                "for",
                "over",
            )
            else "preposition"
        )
    if low in ("daily", "weekly", "twice", "yearly") or (low in ("every", "once") and is_time(part)):
        return "time"
    if is_first and low in ("more", "less", "fewer") and len(part) > 1 and after != "than" and not after.endswith("ly"):
        return "object"  # "use more warmth"
    if low.endswith("ly") or low in english.ADVERBS:
        return "adverb"
    return "object" if is_first else "adverb"


def is_time(tokens: Sequence[Token]) -> bool:
    """Tell whether a phrase says when: it holds a year, a month, a time of day, or a span of time."""
    end = next(
        (n for n, token in enumerate(tokens) if n and token.low in ("who", "which", "that", "whose", "where")), None
    )
    words = [token.text for token in tokens[:end] if token.is_word]
    if words and words[0].casefold() in _TIME_STARTS:
        return True
    if measure_of(tokens[1:end]) in ("money", "weight", "volume", "length"):
        return False  # "for eight pounds a month"
    if len(words) == 2 and words[0].casefold() in ("at", "until", "after", "before") and tokens[1].is_number:
        return words[1].casefold() in _HOURS or _CLOCK.fullmatch(words[1]) is not None
    if len(words) == 3 and words[:2] == ["on", "the"] and _ORDINAL.fullmatch(words[2]):
        return True  # "on the twelfth"
    if len(words) == 4 and words[1].casefold() in _PARTS_OF_HOUR and words[2] in ("to", "past"):
        return words[3].casefold() in _HOURS  # "at ten to six"
    return any(YEAR.fullmatch(word) or _TIME_WORD.fullmatch(word) or _CLOCK.fullmatch(word) for word in words)
