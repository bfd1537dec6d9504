"""The statements that a sentence makes, each as a sentence of its own.

"The controller, which was built in Linz, opens the vents and runs the pump." states three things. Parts that are joined
("X was sold, and Y was repaired"), asides ("the code, which is printed on the case") and names beside what they name
("the mayor, Edda Lorenz,") are asked about by themselves, and the main clause without them.
"""

import re
from collections.abc import Iterator, Sequence

from lora_tui.engine.generation.questions import english
from lora_tui.engine.generation.questions.clauses import parse_clause
from lora_tui.engine.generation.questions.phrases import is_time
from lora_tui.engine.generation.questions.verbs import (
    Token,
    holds_a_clause,
    may_be_finite,
    text_of,
    tokenize,
    verb_after_conjunction,
)

_DEPENDENT = frozenset("because since when if that which who whose where while although until so".split())
_JOINING = frozenset("and but while whereas so".split())
_ENDS_NOUN = (
    english.PREPOSITIONS | english.CONJUNCTIONS | english.FINITE_AUXILIARIES | english.SUBORDINATORS | english.ADVERBS
)
_SAYS_OF_ALL = frozenset("mean means meant surprise surprised make makes made help helps helped cause causes".split())
"""Verbs after "which" that may speak of the whole sentence: "it rained, which made the road soft"."""

_HAS_TO = re.compile(r"\b(?:has|have) to (?=[a-z]+)")


def statements(sentence: str) -> Iterator[str]:
    """Yield the sentence, and the statements that it makes, each as a sentence of its own."""
    sentence = re.sub(r"\s+\([^()`]*\)", "", sentence)
    sentence = _HAS_TO.sub("must ", sentence) if " had to " not in sentence else sentence
    for part in re.split(r"(?<=\w);\s+|(?<=\w):\s+(?=[a-z])|\s+[–—]\s+", sentence.rstrip(". ")):
        whole = _as_sentence(part)
        yield whole
        yield from _joined(whole)
        asides = list(_without_asides(whole))
        yield from asides
        if not asides and parse_clause(whole) is None and (first := _first_clause(whole)):
            yield first


def _as_sentence(text: str) -> str:
    text = text.strip(" ,")
    return f"{text[0].upper()}{text[1:]}." if text and text[0].islower() and not text.startswith("`") else f"{text}."


def _joined(sentence: str) -> Iterator[str]:
    """Yield what stands after "and" or "but", with the subject of the first verb where it has none of its own."""
    first = parse_clause(sentence)
    tokens = tokenize(sentence)[:-1]
    dependent = next((n for n, token in enumerate(tokens) if n and token.low in _DEPENDENT), len(tokens))
    for place, token in enumerate(tokens):
        if token.low not in ("and", "but", "while", "whereas") or place < 3 or place + 3 > len(tokens):
            continue
        right = tokens[place + 1 :]
        text = text_of(right, sentence)
        kind = verb_after_conjunction(right)
        if kind == "clause" and tokens[place - 1].text == "," and holds_a_clause(tokens[:place]):
            yield f"{text[0].upper()}{text[1:]}."
        elif kind == "verb" and first is not None and token.low in ("and", "but") and place < dependent:
            head = text_of(first.subject, sentence)
            if (
                any(v.tense == "participle" or v.tense == "past" for v in english.verbs_of(right[0].text))
                and first.auxiliaries
                and right[0].low not in english.FINITE_AUXILIARIES
            ):
                if not first.is_passive:
                    continue
                head = f"{head} {' '.join(a.text for a in first.auxiliaries)}"
            yield f"{head} {text}."


def _first_clause(sentence: str) -> str | None:
    """Return what stands before ", and the power must not be interrupted", where the whole cannot be read."""
    tokens = tokenize(sentence)[:-1]
    for place, token in enumerate(tokens[:-2]):
        if token.text == "," and place >= 3 and tokens[place + 1].low in _JOINING and holds_a_clause(tokens[:place]):
            right = tokens[place + 2 :]
            if len(right) > 2 and holds_a_clause(right):
                return f"{text_of(tokens[:place], sentence)}."
    return None


def _without_asides(sentence: str) -> Iterator[str]:
    """Yield the sentence without its relative clauses and names between commas, then what these state."""
    tokens = tokenize(sentence)[:-1]
    cuts: list[tuple[int, int]] = []
    stated: list[str] = []
    for place, token in enumerate(tokens[:-2]):
        if token.text != "," or any(start <= place < end for start, end in cuts):
            continue
        end = next((n for n in range(place + 1, len(tokens)) if tokens[n].text == ","), len(tokens))
        if tokens[place + 1].low in ("which", "who"):
            end = _end_of_relative(tokens, place + 2)
            cuts.append((place, min(end + 1, len(tokens))))
            if (statement := _relative(tokens, place, end, sentence)) is not None:
                stated.append(statement)
        elif (statement := _apposition(tokens, place, end, sentence)) is not None:
            cuts.append((place, min(end + 1, len(tokens))))
            stated.append(statement)
    if not cuts:
        return
    kept = [token for n, token in enumerate(tokens) if not any(start <= n < end for start, end in cuts)]
    if len(kept) >= 4:
        pieces: list[str] = []
        start = 0
        for cut_start, cut_end in cuts:
            pieces.append(text_of(tokens[start:cut_start], sentence))
            start = cut_end
        pieces.append(text_of(tokens[start:], sentence))
        yield _as_sentence(" ".join(piece for piece in pieces if piece))
    yield from stated


def _end_of_relative(tokens: Sequence[Token], start: int) -> int:
    """Return the comma that ends a relative clause, or the end of the sentence: a comma within a list does not."""
    for place in range(start + 2, len(tokens)):
        if tokens[place].text == "," and place + 1 < len(tokens):
            later = tokens[place + 1 :]
            listed = any(token.low in ("and", "or") for token in later[:6]) and not holds_a_clause(later)
            if not listed:
                return place
    return len(tokens)


def _relative(tokens: Sequence[Token], comma: int, end: int, sentence: str) -> str | None:
    """Return the statement of ", which is printed on the case": its subject is the noun phrase before the comma."""
    rest = list(tokens[comma + 2 : end])
    while len(rest) > 2 and (rest[0].low in english.ADVERBS or rest[0].low.endswith("ly")):
        rest = rest[1:]
    if len(rest) < 2 or not may_be_finite(rest[0]) or rest[0].low in _SAYS_OF_ALL:
        return None
    if rest[0].low in english.FINITE_BE and rest[1].low in ("why", "when", "what", "how", "useful", "enough"):
        return None
    noun = _noun_phrase(tokens[:comma], rest[0])
    if noun is None or (tokens[comma + 1].low == "which" and is_time(noun)):
        return None
    return _as_sentence(f"{text_of(noun, sentence)} {text_of(rest, sentence)}")


def _noun_phrase(tokens: Sequence[Token], verb: Token) -> Sequence[Token] | None:
    """Return the noun phrase that ends `tokens` and can be the subject of `verb`, "the X of the Y" as a whole."""
    start = len(tokens)
    while start and tokens[start - 1].is_word and tokens[start - 1].low not in _ENDS_NOUN | english.PRONOUNS:
        start -= 1
        if tokens[start].low in english.DETERMINERS:
            break
    noun = tokens[start:]
    if not noun or noun[-1].low in english.DETERMINERS or english.is_adjective(noun[-1].low):
        return None
    determined = noun[0].low in english.DETERMINERS or noun[0].is_name
    after_verb = start > 0 and any(v.tense == "base" for v in english.verbs_of(tokens[start - 1].low))
    if not determined:
        verbs = [n for n, token in enumerate(noun[:-1]) if may_be_finite(token)]
        if verbs:  # "never use alcohol, which ...": the verb stands before a bare noun
            noun = noun[verbs[-1] + 1 :]
        elif not (after_verb or start == 0):
            return None
    if len(noun) > 1 and noun[0].low in ("this", "that", "these", "those", "his", "her", "their", "its"):
        return None
    before = tokens[start - 2] if start > 1 else None
    if before is not None and tokens[start - 1].low in english.PREPOSITIONS - {"of"} and not may_be_finite(before):
        return None  # "the side door on Mill Lane, which": the door, or the lane?
    plural = english.is_plural(noun[-1].text)
    wants_plural = verb.low in ("are", "were", "have") or any(v.tense == "base" for v in english.verbs_of(verb.low))
    wants_singular = verb.low in ("is", "was", "has") or any(v.tense == "third" for v in english.verbs_of(verb.low))
    fits = not ((plural and wants_singular) or (not plural and wants_plural and not wants_singular))
    if start > 2 and tokens[start - 1].low == "of":
        outer = _outer(tokens[: start - 1])
        if outer is None:
            return noun if fits else None
        outer_plural = english.is_plural(tokens[start - 2].text)
        if not ((outer_plural and wants_singular) or (not outer_plural and wants_plural and not wants_singular)):
            return [*outer, *tokens[start - 1 :]]
    return noun if fits else None


def _outer(tokens: Sequence[Token]) -> Sequence[Token] | None:
    """Return the noun phrase with an article that ends `tokens`, what stands before "of"."""
    for place in range(len(tokens) - 1, max(-1, len(tokens) - 6), -1):
        if tokens[place].low in english.DETERMINERS:
            return tokens[place:] if tokens[place].low in ("the", "a", "an") else None
        if tokens[place].low in _ENDS_NOUN or not tokens[place].is_word:
            return None
    return None


_OWNERS = frozenset("our my".split())


def _apposition(tokens: Sequence[Token], comma: int, end: int, sentence: str) -> str | None:
    """Return what a name between commas states: "the head of the survey, General von Tolk," says who that was.

    "The Ink Pot" of "the deepest point, a pool called the Ink Pot," is asked for as what it is called.
    """
    inside = tokens[comma + 1 : end]
    before = tokens[:comma]
    if not 1 <= len(inside) <= 8 or any(token.low in ("and", "or") for token in inside):
        return None
    if end < len(tokens) and any(token.low in ("and", "or") for token in tokens[end + 1 : end + 3]):
        return None
    outside = [*before, *tokens[end:]]
    past = any(
        token.low in ("was", "were", "had", "did")
        or (
            any(v.tense == "past" for v in english.verbs_of(token.low))
            and (not place or outside[place - 1].low not in english.FINITE_HAVE | english.BE)
        )
        for place, token in enumerate(outside)
    )
    verb = "was" if past else "is"
    named = len(inside) >= 2 and all(token.text[0].isupper() or token.low in ("von", "van", "de") for token in inside)
    if named and not is_time(inside):
        start = _start_of_described(before)
        if start is None:
            return None
        described = text_of(before[start:], sentence)
        owner, _, rest = described.partition(" ")
        described = f"the {rest}" if owner.casefold() in _OWNERS else described
        return _as_sentence(f"{described} {verb} {text_of(inside, sentence)}")
    return None


def _start_of_described(tokens: Sequence[Token]) -> int | None:
    """Return where "the director of the survey" begins that ends `tokens`; None where it names nobody."""
    for place in range(len(tokens) - 1, max(-1, len(tokens) - 8), -1):
        token = tokens[place]
        if token.low in ("the", "our", "my", "a", "an") and not (place and tokens[place - 1].low == "of"):
            noun = tokens[place + 1 :]
            head = next((n for n, t in enumerate(noun) if t.low in english.PREPOSITIONS), len(noun))
            human = 0 < head < len(noun) and english.is_human(noun[head - 1].text)  # "the mayor": of what?
            return place if human and token.low not in ("a", "an") else None
        if token.low in english.FINITE_AUXILIARIES or not token.is_word:
            return None
    return None
