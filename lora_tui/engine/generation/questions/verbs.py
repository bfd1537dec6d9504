"""Tokens of a sentence, and where its verbs are: by word class and neighbours, without a tagger.

Every doubt (a participle that could be a verb, a relative clause without an end) gives no verb at all: a question that
stands on a wrong reading is worse than none.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lora_tui.engine.generation.questions import english

_TOKEN = re.compile(
    r"`[^`]*`|\"[^\"]*\"|“[^”]*”|\d+(?:[.,:]\d+)*(?:st|nd|rd|th)?\b|[^\W\d_](?:[\w'’&+-]*\w)?\.?(?<=[A-Z]\.)|[^\W_](?:[\w'’&+-]*\w)?|\S"
)


@dataclass(frozen=True, slots=True)
class Token:
    """A word, number, quotation, code or punctuation mark; ``start:end`` are its characters in the sentence."""

    text: str
    start: int
    end: int

    @property
    def low(self) -> str:
        """The word in lower case."""
        return self.text.casefold()

    @property
    def is_word(self) -> bool:
        """Whether it is more than punctuation."""
        return any(character.isalnum() for character in self.text)

    @property
    def is_name(self) -> bool:
        """Whether it is written like a name: a capital at its beginning or within, or code."""
        return self.text[0] in "`" or any(letter.isupper() for letter in self.text)

    @property
    def is_number(self) -> bool:
        """Whether it is a number in digits or words."""
        return self.text[0].isdigit() or all(part in english.NUMBER_WORDS for part in self.low.split("-"))


def text_of(tokens: Sequence[Token], sentence: str) -> str:
    """Return the characters of `sentence` from the first token to the last."""
    return sentence[tokens[0].start : tokens[-1].end] if tokens else ""


def tokenize(sentence: str) -> list[Token]:
    """Cut a sentence into tokens; quotations and inline code are one token each."""
    tokens = [Token(found.group(), *found.span()) for found in _TOKEN.finditer(sentence)]
    if tokens and len(tokens[-1].text) > 1 and tokens[-1].text.endswith(".") and tokens[-1].text[0].isalpha():
        *tokens, last = tokens  # "choose EXPORT.": the full stop of the sentence
        tokens += [Token(last.text[:-1], last.start, last.end - 1), Token(".", last.end - 1, last.end)]
    return tokens


def is_noun_like(token: Token) -> bool:
    """Tell whether a noun phrase can end with this token."""
    low = token.low
    closed = (
        low in english.DETERMINERS - {"this", "that", "these", "those", "all", "both", "each", "some", "many", "few"}
        or low in english.PREPOSITIONS
        or low in english.CONJUNCTIONS
        or low in english.FINITE_AUXILIARIES
        or (low in english.ADVERBS and low != "one")
        or low.endswith("ly")
    )
    return token.is_word and (not closed or low in english.PERSONAL)


def verb_position(tokens: Sequence[Token]) -> int | None:
    """Return the place of the first token of the main clause's verb group, or None where it is not plain."""
    place, skipping = 0, 0
    while place < len(tokens):
        token = tokens[place]
        low = token.low
        if low in ("who", "which", "that", "where", "whose", "whom") and place > 0:
            inner = place + 1
            if tokens[place - 1].text == ",":  # ", which ...,": the main verb follows the next comma
                end = next((n for n in range(inner, len(tokens)) if tokens[n].text == ","), None)
                if end is None:
                    return None
                place = end + 1
                continue
            while inner < len(tokens) and (tokens[inner].low in english.ADVERBS or tokens[inner].low == "not"):
                inner += 1
            group = verb_group(tokens, inner) if inner < len(tokens) and may_be_finite(tokens[inner]) else None
            if group is None:  # "that the bees build": its subject comes first
                skipping += 1
            place = inner if group is None else max(group[4], inner + 1)
            continue
        if (
            low in english.SUBORDINATORS - {"so", "that", "as", "once", "before", "after", "since", "until"}
            and place > 0
        ):
            return None
        if low in english.FINITE_AUXILIARIES or is_finite(tokens, place):
            if not skipping:
                return place
            skipping -= 1
            group = verb_group(tokens, place)
            if group is None:
                return None
            place = max(group[4], place + 1)
            continue
        place += 1
    return None


def may_be_finite(token: Token) -> bool:
    """Tell whether a word can be a finite verb, whatever its neighbours."""
    return token.low in english.FINITE_AUXILIARIES or any(
        verb.tense in ("past", "third", "base") for verb in english.verbs_of(token.text)
    )


def is_finite(tokens: Sequence[Token], place: int) -> bool:
    """Tell whether a token is a finite main verb, from its neighbours."""
    token = tokens[place]
    if place == 0 or token.is_name or not token.text[0].isalpha():
        return False
    before = tokens[place - 1]
    if before.low in english.ADVERBS or (before.low.endswith("ly") and place > 1):
        before = tokens[place - 2] if place > 1 else before
    if before.text == ",":  # after ", which ...,": what stood before it
        before = tokens[next(n for n, other in enumerate(tokens) if other.text == ",") - 1]
    if not is_noun_like(before):
        return False
    after = tokens[place + 1] if place + 1 < len(tokens) else None
    if after is not None and after.low == "place" and token.low in ("take", "takes", "took"):
        return True
    if after is not None and (
        after.low in english.FINITE_AUXILIARIES
        or any(v.tense in ("past", "third") for v in english.verbs_of(after.text))
        or (english.is_plural(token.text) and any(v.tense == "base" for v in english.verbs_of(after.text)))
    ):
        second = tokens[place + 2] if place + 2 < len(tokens) else None
        follows = after.low in english.FINITE_AUXILIARIES or (
            second is not None and second.text != "," and may_follow_verb(second)
        )
        if after.low in english.FINITE_AUXILIARIES and english.is_plural(token.text):
            follows = True  # "the limit switches are required"
        certain = tokens[place - 1].low in english.ADVERBS or (before.is_name and place > 1)
        if follows and not certain and not any(v.tense == "past" for v in english.verbs_of(token.text)):
            return False  # a noun before its verb: "the pool rules were", "the brake holds"
    if before.low in ("you", "we", "they", "i") and token.low not in english.ADVERBS and not token.low.endswith("ly"):
        return True
    for verb in english.verbs_of(token.text):
        if verb.tense == "past":
            return after is None or not (after.low == "by" or (after.low in ("of", "from") and verb.base == "make"))
        follows = after is None or may_follow_verb(after) or token.low in _LINKING
        if verb.tense == "third" and (before.is_name or not _plural_before(tokens, place)):
            return follows
        if verb.tense == "base" and (_plural_before(tokens, place) or before.low in ("they", "we", "you", "i")):
            return follows
    return False


def _plural_before(tokens: Sequence[Token], place: int) -> bool:
    """Tell whether the noun phrase before `place` is in the plural, by its head."""
    phrase = tokens[:place]
    while phrase and (phrase[-1].low in english.ADVERBS or phrase[-1].low.endswith("ly") or phrase[-1].text == ","):
        phrase = phrase[:-1]
    head = next(
        (
            phrase[n - 1]
            for n, token in enumerate(phrase)
            if n > 0
            and (token.low in english.PREPOSITIONS or token.text == ",")
            and not phrase[n - 1].is_number
            and phrase[n - 1].low not in english.PREPOSITIONS
        ),
        phrase[-1] if phrase else tokens[0],
    )
    together = any(token.low == "and" for token in phrase)
    if head.is_number and head.low != "one" and place > 1:
        return True
    return together or (english.is_plural(head.text) and (head.low == head.text or head is tokens[0]))


_LINKING = frozenset("become became becomes get gets got".split())


def may_follow_verb(token: Token) -> bool:
    """Tell whether a word can stand after a finite verb."""
    low = token.low
    return (
        low in english.DETERMINERS | english.PREPOSITIONS | english.PERSONAL | english.ADVERBS | english.SUBORDINATORS
        or low.endswith(("ly", "ing"))
        or token.is_number
        or token.is_name
        or all(verb.tense in ("base", "third") for verb in english.verbs_of(low))
        or english.is_adjective(low)
    )


VerbGroup = tuple[tuple[Token, ...], tuple[Token, ...], Token | None, english.Verb | None, int]


def verb_group(tokens: Sequence[Token], start: int) -> VerbGroup | None:
    """Return auxiliaries, adverbs, main verb, its form, and the place after the group that begins at `start`."""
    auxiliaries: list[Token] = []
    adverbs: list[Token] = []
    place = start
    first = tokens[start].low
    if first not in english.FINITE_AUXILIARIES:
        form = next((v for v in english.verbs_of(first) if v.tense in ("past", "third", "base")), None)
        return (), (), tokens[start], form, start + 1
    while place < len(tokens):
        token = tokens[place]
        low = token.low
        if low in english.FINITE_AUXILIARIES | english.BE and (low in english.BE or not auxiliaries or low == "have"):
            auxiliaries.append(token)
        elif low == "not" or _is_adverb_in_group(tokens, place):
            adverbs.append(token)
        else:
            break
        place += 1
    last = auxiliaries[-1].low
    following = tokens[place] if place < len(tokens) else None
    if following is None:
        return None
    forms = english.verbs_of(following.text) if not following.is_name else ()
    participle = next((v for v in forms if v.tense == "participle"), None) or next(
        (v for v in forms if v.tense == "past"), None
    )
    if last in english.BE:
        if participle is not None:
            return tuple(auxiliaries), tuple(adverbs), following, participle, place + 1
        ing = next((v for v in forms if v.tense == "ing"), None)
        if ing is not None and len(tokens) > place + 1:
            return tuple(auxiliaries), tuple(adverbs), following, ing, place + 1
        if len(auxiliaries) == 1 or auxiliaries[0].low in english.MODALS | english.FINITE_HAVE:
            return tuple(auxiliaries), tuple(adverbs), None, None, place
        return None
    if last in english.FINITE_HAVE:
        if participle is not None:
            return tuple(auxiliaries), tuple(adverbs), following, participle, place + 1
        if len(auxiliaries) == 1:  # "has two cars": "have" is the main verb
            if following.low == "to":
                return None
            tense: english.Tense = "past" if last == "had" else "third" if last == "has" else "base"
            return (), tuple(adverbs), auxiliaries[0], english.Verb("have", tense), place
        return None
    base = next((v for v in forms if v.tense == "base"), None)
    if base is None:
        return None
    return tuple(auxiliaries), tuple(adverbs), following, base, place + 1


_NOT_BEFORE_NOUNS = frozenset(
    "last first today here there twice once much more most well far too very quite almost nearly only just".split()
)
"""Adverbs that belong to what follows them, unless it is a participle ("was first found")."""


def _is_adverb_in_group(tokens: Sequence[Token], place: int) -> bool:
    low = tokens[place].low
    if low in _NOT_BEFORE_NOUNS or low == "since":
        if low in ("only", "first", "last") and place + 1 < len(tokens) and tokens[place + 1].low == "be":
            return True  # "may only be made"
        following = tokens[place + 1].text if place + 1 < len(tokens) else ""
        return any(verb.tense in ("past", "participle") for verb in english.verbs_of(following))
    plain = low.endswith("ly") and low not in ("early", "daily", "weekly", "family", "yearly", "monthly")
    return low in english.ADVERBS or plain


def holds_a_clause(tokens: Sequence[Token]) -> bool:
    """Tell whether tokens are a clause with a subject and a verb: not "asked for", "set to true"."""
    position = verb_position(tokens) if len(tokens) > 1 else None
    return bool(position)


def verb_after_conjunction(tokens: Sequence[Token]) -> Literal["verb", "clause"] | None:
    """Tell what follows a conjunction: a verb that shares the subject before it, or a clause with its own subject."""
    comma = next((n for n, token in enumerate(tokens) if token.text == ","), len(tokens))
    first = tokens[0]
    if first.low in english.FINITE_AUXILIARIES:
        return "verb"
    forms = (
        [] if first.is_name else [v for v in english.verbs_of(first.text) if v.tense in ("past", "third", "participle")]
    )
    if forms and (len(tokens) == 1 or may_follow_verb(tokens[1])):
        return "verb"
    position = verb_position(tokens[:comma] if comma > 2 else tokens)
    return "clause" if position else None
