"""Features of an answer beside a reference: where the two agree, and where the answer contradicts or hedges.

The text metrics of `metrics` compare whole texts, so a right but wordy answer loses to a terse wrong one. What people
look for is narrower: are the reference's words there, is its number there or another one, does a "not" stand beside it,
is it one of several on offer? Each feature lies in [0, 1]. More of one in `priors.AGREEMENT` is never worse, more of
one in `priors.CONTRADICTION` never better; the signs of the score's weights rest on that.

Pure functions over `words` and `metrics`. Cues are English; in other languages they are silent, and the rest speaks.
"""

import re
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import lru_cache

from lora_tui.scoring.metrics import FUNCTION_WORDS, MAX_TOKENS, text_metrics
from lora_tui.scoring.porter import porter_stem
from lora_tui.scoring.priors import AGREEMENT, CONTRADICTION
from lora_tui.scoring.words import content_tokens, is_number, is_unspaced, number_words, numbers, tokens

_NEGATIONS = frozenset(
    """no not never neither nor none nobody nothing cannot cant dont doesnt didnt isnt arent wasnt werent wont wouldnt
    couldnt shouldnt hasnt havent hadnt aint without""".split()
)
_DENIED = 0.9
"""The negation of an answer that denies the reference at once; one elsewhere near it has less."""

_AT_ONCE = 3
"""Words before what matches the reference of which a negation denies it: "is not in the Town Moor"."""

_BEFORE, _AFTER = 6, 4
"""Words before and after what matches the reference among which a negation is one of it."""

_DECLINES = re.compile(
    r"""\b(?:(?:i|we)\ (?:do\ not|don't|cannot|can't|could\ not|couldn't|am\ not|'m\ not)
            \ (?:know|find|have|sure|answer|provide|determine|able)
      | i'?m\ sorry | i\ apologi[sz]e | (?:no|not\ enough|insufficient)\ (?:\w+\ )?(?:information|mention|evidence|data)
      | (?:does|do|did|is|are|was|were)(?:\ not|n't)\ (?:\w+\ ){0,2}
            (?:mention|provide|specif|state|contain|include|given|known|available|indicate|possible|clear)
      | not\ (?:possible|able)\ to\ (?:determine|answer|say|provide|identify) | unable\ to
      | cannot\ be\ (?:determined|answered|identified)
      | (?:unknown|unclear|unspecified)\b)""",
    re.IGNORECASE | re.VERBOSE,
)
_RETRACTS = re.compile(
    r"""\b(?:actually|wrong|incorrect|mistaken(?:ly)?|mistake|error|instead|on\ second\ thoughts?|opposite|i\ meant
      | correction|not\ true|untrue|false|rather\ than|(?:correct|right|real|true)\ (?:answer|one)|scratch\ that
      | never\ mind)\b""",
    re.IGNORECASE | re.VERBOSE,
)
_SENTENCE = re.compile(r"(?<=[.!?:])\s+|\n{2,}")
_OR = re.compile(r"\b(?:or|either|alternatively|versus|vs)\b|/", re.IGNORECASE)
_SEPARATOR = re.compile(
    r"\s*(?:[,;|\n\u2022]|(?<=\w)/|(?<=\w)\s+(?:or|versus|vs\.?)\s+(?=\w))"
    r"\s*(?:(?:[-*]|\d+[.)])\s+|(?:or|and|either|possibly|maybe|perhaps)\s+)*",
    re.IGNORECASE,
)
_FUZZY_WORDS = 40
"""Words of a longer text are not looked for in other spellings: that takes the product of both lengths."""


@dataclass(frozen=True, slots=True)
class _Cut:
    """A text cut up: its tokens, the stem of each, and the stems that carry meaning (all, where none does)."""

    text: str
    tokens: Sequence[str]
    stems: Sequence[str]
    content: Sequence[str]


@lru_cache(maxsize=256)  # references and questions come again with every answer
def _cut(text: str) -> _Cut:
    found = tokens(text)[:MAX_TOKENS]
    stems = [_stem(token) for token in found]
    content = [stem for stem, token in zip(stems, found, strict=True) if token not in FUNCTION_WORDS]
    return _Cut(text, found, stems, content or stems)


def answer_features(answer: str, reference: str, question: str = "") -> dict[str, float]:
    """Return every metric of `AGREEMENT` but the likelihood, and of `CONTRADICTION`, 0-1 each.

    Words of the question count less: an answer that repeats them has said nothing yet. An empty answer agrees with an
    empty reference alone.
    """
    ours, theirs, asked = _cut(answer), _cut(reference), _cut(question)
    if not ours.tokens or not theirs.tokens:
        same = float(not ours.tokens and not theirs.tokens)
        features = {name: same for name in AGREEMENT if name != "likelihood"} | dict.fromkeys(CONTRADICTION, 0.0)
        return features | {"empty": float(not ours.tokens and bool(theirs.tokens))}
    given = set(asked.content)
    new = [stem for stem in theirs.content if stem not in given]
    features = text_metrics(answer, reference) | _shared_words(ours, theirs, given, new)
    features |= _shared_numbers(ours, theirs, asked)
    features |= _opposition(ours, theirs, given, set(new or theirs.content))
    unopposed = 1 - max(features["negation"], features["retraction"], features["alternatives"])
    for name in ("containment", "early"):  # said, but not as the answer
        features[name] *= unopposed
    if features["negation"] >= _DENIED:  # said to be what it is not
        for name in ("content_recall", "new_recall", "trigrams"):
            features[name] *= unopposed
    features["declines"] = float(bool(_DECLINES.search(answer)) and not _DECLINES.search(reference))
    features["empty"] = 0.0
    return features


def _shared_words(ours: _Cut, theirs: _Cut, given: Set[str], new: Sequence[str]) -> dict[str, float]:
    held, wanted = set(ours.content), set(theirs.content)
    told = [stem for stem in ours.content if stem not in given] or ours.content
    recall = _share(theirs.content, held)
    compact_ours, compact_theirs = " ".join(content_tokens(ours.text)), " ".join(content_tokens(theirs.text))
    trigrams_ours, trigrams_theirs = _trigrams(ours.tokens), _trigrams(theirs.tokens)
    return {
        "content_recall": recall,
        "new_recall": _share(new, held) if new else recall,
        "content_precision": _share(told, wanted),
        "containment": float(f" {compact_theirs} " in f" {compact_ours} "),
        "within": float(f" {compact_ours} " in f" {compact_theirs} "),
        "trigrams": (trigrams_ours & trigrams_theirs).total() / trigrams_theirs.total(),
        "length_ratio": min(1.0, len(theirs.tokens) / len(ours.tokens)),
    }


def _shared_numbers(ours: _Cut, theirs: _Cut, asked: _Cut) -> dict[str, float]:
    """Agreement is 1 where the reference has no number; a contradiction needs one missing and another in its place."""
    wanted, told = _values(theirs), _values(ours)
    missing = wanted - told
    return {
        "numbers_agree": 1 - len(missing) / len(wanted) if wanted else 1.0,
        "numbers_contradict": float(bool(missing) and bool(told - wanted - _values(asked))),
    }


def _values(cut: _Cut) -> Set[object]:
    return {*numbers(cut.tokens), *number_words(cut.tokens)}


def _opposition(ours: _Cut, theirs: _Cut, given: Set[str], target: Set[str]) -> dict[str, float]:
    """How early and whole `target` comes, what is denied of them, taken back, and offered beside them."""
    hits = [stem in target for stem in ours.stems]
    features = {"early": 0.0, "negation": 0.0, "alternatives": 0.0}
    if any(hits):
        place, end = _densest(hits, len(theirs.tokens) + 2)
        held = len(target & set(ours.stems[place : end + 1])) / len(target)
        features["early"] = held * 8 / (8 + hits.index(True))  # half at the ninth word
        around = ours.tokens[max(0, place - _BEFORE) : end + _AFTER]
        denied = sum(token in _NEGATIONS and token not in theirs.tokens for token in around)
        if not any(token in _NEGATIONS for token in ours.tokens):  # what the reference denies, the answer affirms
            denied += sum(token in _NEGATIONS for token in theirs.tokens)
        at_once = [token for token in ours.tokens[max(0, place - _AT_ONCE) : place] if token not in theirs.tokens]
        features["negation"] = _DENIED if _NEGATIONS & set(at_once) else min(0.8, 1 - 0.5**denied)
        features["alternatives"] = _alternatives(ours.text, theirs, target, given)
    retracted = len(_RETRACTS.findall(ours.text)) - len(_RETRACTS.findall(theirs.text))
    return features | {"retraction": 1 - 0.3 ** max(0, retracted)}


def _densest(hits: Sequence[bool], span: int) -> tuple[int, int]:
    """Return where most hits lie within `span` places: the first and the last of them."""
    before = [0]
    for hit in hits:
        before.append(before[-1] + hit)
    starts = [place for place, hit in enumerate(hits) if hit]
    first = max(starts, key=lambda place: (before[min(len(hits), place + span)] - before[place], -place))
    return first, max(place for place in range(first, min(len(hits), first + span)) if hits[place])


def _alternatives(answer: str, reference: _Cut, target: Set[str], given: Set[str]) -> float:
    """How many other candidates stand beside what matches the reference: 0.7 for one after an "or", 1 from four on.

    Looked for in the sentence that holds most of the reference: parts between commas, semicolons, lines, slashes and
    "or", as short as the reference, in capitals or digits where it is. One part after a comma ("Paris, France") is
    nothing yet; in a bare list capitals do not matter.
    """
    sentence = max(_SENTENCE.split(answer), key=lambda one: len(target & set(_cut(one).stems)))
    pieces, joins = _parts(sentence)
    matching = [bool(target & set(piece.stems)) for piece in pieces]
    if len(pieces) < 2 or not any(matching):
        return 0.0
    known = given | set(reference.stems)
    place, longest = matching.index(True), max(5, len(reference.tokens) + 2)
    shape = reference.text.lstrip()[:1]
    bare = len(pieces) > 2 and all(
        len(piece.tokens) <= max(4, len(reference.tokens) + 2) for piece in pieces
    )  # nothing but a list

    def is_candidate(index: int) -> bool:
        piece = pieces[index]
        first = piece.text[:1]
        shaped = first.isdigit() or (first.isupper() if shape.isupper() else not shape.isdigit())
        return (
            (bare or shaped)
            and len(piece.tokens) <= longest
            and not matching[index]
            and bool(set(piece.content) - known)
        )

    listed = 0
    for beside in (range(place - 1, -1, -1), range(place + 1, len(pieces))):
        for index in beside:
            if not is_candidate(index):
                break
            listed += 1
    offered = 0
    if not _OR.search(reference.text):
        neighbours = [(place - 1, joins[place - 1])] if place else []
        neighbours += [(place + 1, joins[place])] if place + 1 < len(pieces) else []
        offered = sum(bool(_OR.search(join)) and bool(set(pieces[i].content) - known) for i, join in neighbours)
    return max(min(1.0, max(0, listed - 1) / 3), min(1.0, 0.7 * offered))


def _parts(sentence: str) -> tuple[list[_Cut], list[str]]:
    """Return the parts of a sentence that hold a word, and what stands between each and the next."""
    pieces: list[_Cut] = []
    joins: list[str] = []
    between, start = "", 0
    for found in [*_SEPARATOR.finditer(sentence), None]:
        piece = _cut(sentence[start : found.start() if found else None].strip(" -*\"'()"))
        if piece.tokens:
            if pieces:
                joins.append(between)
            pieces.append(piece)
            between = ""
        if found:
            between, start = between + found.group(), found.end()
    return pieces, joins


@lru_cache(maxsize=65536)
def _stem(token: str) -> str:
    """Return a word's Porter stem; a number, in words too, as its value."""
    if is_number(token):
        (value,) = numbers([token])
        return value if isinstance(value, str) else f"{value.normalize():f}"
    if value_in_words := number_words([token]):
        (value,) = value_in_words
        return f"{value.normalize():f}"
    return token if is_unspaced(token) else porter_stem(token)


def _share(wanted: Sequence[str], held: Set[str]) -> float:
    """Return the share of words that are held; one that is spelled otherwise counts as much as it is alike."""
    missing = [word for word in wanted if word not in held]
    alike = 0.0
    if missing and len(wanted) <= _FUZZY_WORDS:
        alike = sum(_likeness(word, held) for word in missing)
    return (len(wanted) - len(missing) + alike) / len(wanted)


def _likeness(word: str, others: Set[str]) -> float:
    """How nearly a word is spelled as another: the Dice share of their character pairs; 0 below 0.7 and for numbers."""
    if len(word) < 4 or is_number(word):
        return 0.0
    mine, best = _pairs(word), 0.0
    for other in others:
        if other[:1] == word[0] and abs(len(other) - len(word)) <= 3 and not is_number(other):
            theirs = _pairs(other)
            best = max(best, 2 * len(mine & theirs) / (len(mine) + len(theirs)))
    return best if best >= 0.7 else 0.0


@lru_cache(maxsize=65536)
def _pairs(word: str) -> frozenset[str]:
    padded = f" {word} "
    return frozenset(padded[i : i + 2] for i in range(len(padded) - 1))


def _trigrams(found: Sequence[str]) -> Counter[str]:
    padded = f" {' '.join(found)} "
    return Counter(padded[i : i + 3] for i in range(max(1, len(padded) - 2)))
