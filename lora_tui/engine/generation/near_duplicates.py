"""Index of the questions that may not be repeated: nearly the words of an earlier one are found, and confirmed.

Candidates come from MinHash (128 permutations, 32 bands of 4: from a similarity of 0.42 on, two questions are more
likely than not to be compared), the exact Jaccard similarity of their character 5-grams confirms them. Questions whose
numbers differ are never duplicates, nor are those that differ in a content word on both sides: "in 1889" and "in
1890", "begin" and "end" share nearly all their characters and ask two things. Candidates are the same as well where
they ask with the same word about the same content words in another order: "where does it sail from", "from where".

A resumed run puts in what it has asked before in blocks (`NearDuplicates.add_all`): signatures of thousands of
questions are computed at once, and their bands kept in sorted arrays. 100,000 questions take about two seconds and
60 MB; one at a time, in sets, they took 36 seconds and 1 GB.
"""

import re
import unicodedata
from collections.abc import Sequence, Set
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lora_tui.engine.generation.questions.completions import stems
from lora_tui.scoring.words import numbers, tokens

NEAR = 0.7
"""Jaccard similarity of character 5-grams from which two questions are the same."""

_BANDS, _ROWS = 32, 4
_GRAM = 5
_BLOCK = 2_000
"""Questions whose signatures are computed at once: some 100,000 grams, 400 kB a permutation."""

_rng = np.random.default_rng(20)
_FACTORS = _rng.integers(0, 2**32, _BANDS * _ROWS, dtype=np.uint32) | np.uint32(1)
_MASKS = _rng.integers(0, 2**32, _BANDS * _ROWS, dtype=np.uint32)
_GRAM_FACTOR = np.uint32(0x9E3779B1)
_BAND_FACTOR = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class _Block:
    """Questions that were put in at once: for each band its keys in order, and whose they are. Both (bands, n)."""

    keys: NDArray[np.uint64]
    ids: NDArray[np.int32]


class NearDuplicates:
    """Index of the questions that may not be repeated; rebuilt when a run is resumed."""

    def __init__(self) -> None:
        self._blocks: list[_Block] = []
        # Of the questions put in one by one. Nearly every key belongs to one: a list for each would be 32 a question.
        self._bands: list[dict[int, int]] = [{} for _ in range(_BANDS)]
        self._further: dict[tuple[int, int], list[int]] = {}  # questions beside the first, by band and key
        self._questions: dict[int, str] = {}
        self._last_id = 0

    def find(self, question: str) -> tuple[str, float] | None:
        """Return the most similar question in the index and its similarity, if that is at least `NEAR`."""
        candidates = sorted(self._candidates(question))
        if not candidates:
            return None
        own, (own_stems, own_numbers) = grams(question), _asked_about(question)
        best: tuple[str, float] | None = None
        for question_id in candidates:
            other = self._questions[question_id]
            their_stems, their_numbers = _asked_about(other)  # first: of one template, nearly all differ here
            if their_numbers != own_numbers or (own_stems - their_stems and their_stems - own_stems):
                continue
            similarity = jaccard(own, grams(other))
            if similarity < NEAR and _asks_the_same(question, other):
                similarity = NEAR
            if similarity >= max(NEAR, best[1] if best else 0.0):
                best = (other, similarity)
        return best

    def add(self, question: str) -> int:
        """Add a question; returns the id by which it can be removed."""
        self._last_id += 1
        for number, key in enumerate(_keys_of(question)):
            if self._bands[number].setdefault(key, self._last_id) != self._last_id:
                self._further.setdefault((number, key), []).append(self._last_id)
        self._questions[self._last_id] = question
        return self._last_id

    def add_all(self, questions: Sequence[str]) -> range:
        """Add many questions at once; returns their ids in order."""
        ids = range(self._last_id + 1, self._last_id + 1 + len(questions))
        if questions:
            parts = [_band_keys(questions[at : at + _BLOCK]) for at in range(0, len(questions), _BLOCK)]
            keys = np.concatenate(parts, axis=1)
            order = np.argsort(keys, axis=1, kind="stable")
            self._blocks.append(_Block(np.take_along_axis(keys, order, axis=1), (order + ids.start).astype(np.int32)))
            self._questions.update(zip(ids, questions, strict=True))
            self._last_id = ids[-1]
        return ids

    def remove(self, question_id: int) -> None:
        """Remove the question of a pair that was not kept: another pair may ask the same."""
        del self._questions[question_id]

    def _candidates(self, question: str) -> set[int]:
        keys = _keys_of(question)
        found = set[int]()
        for number, key in enumerate(keys):
            if (first := self._bands[number].get(key)) is not None:
                found.add(first)
                found.update(self._further.get((number, key), ()))
        for block in self._blocks:
            for number, key in enumerate(np.array(keys, np.uint64)):
                first = np.searchsorted(block.keys[number], key, "left")
                last = np.searchsorted(block.keys[number], key, "right")
                found.update(block.ids[number, first:last].tolist())
        return found & self._questions.keys()


@lru_cache(maxsize=10_000)  # thousands of one template are candidates for each other, every time
def _asked_about(question: str) -> tuple[frozenset[str], Set[Decimal | str]]:
    """Return a question's content words, cut to their stems, and its numbers.

    Two ask different things where each has a word that the other lacks: "season begin", "season end".
    """
    return stems(question), numbers(tokens(question))


_ASKING = re.compile(r"\b(?:how (?:many|much|long|often|far)|who|whom|whose|when|where|why|how|what|which)\b")


def _asks_the_same(one: str, other: str) -> bool:
    """Tell whether two questions ask with the same word about the same things, in another order or voice."""
    ours, theirs = (_ASKING.search(_normal(question)) for question in (one, other))
    if ours is None or theirs is None:
        return False
    same = {"which": "what", "whom": "who"}
    asked = [same.get(match.group(), match.group()) for match in (ours, theirs)]
    return asked[0] == asked[1] and stems(one) - {"one"} == stems(other) - {"one"}


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """Return the Jaccard similarity of two sets, 0-1."""
    return len(a & b) / len(a | b) if a or b else 1.0


def grams(question: str) -> frozenset[str]:
    """Return the character 5-grams of a question, NFKC, case-folded, white space squeezed."""
    text = _normal(question)
    return frozenset(text[i : i + _GRAM] for i in range(max(1, len(text) - _GRAM + 1)))


def _normal(question: str) -> str:
    if not question.isascii():
        question = unicodedata.normalize("NFKC", question)
    return " ".join(question.casefold().split())


@lru_cache(maxsize=256)  # a question is looked for, and then put in
def _keys_of(question: str) -> tuple[int, ...]:
    """Return `_band_keys` of one question, as few operations: a hundred on small arrays take a millisecond."""
    hashed, _ = _gram_hashes([question])
    lowest = ((hashed ^ _MASKS[:, None]) * _FACTORS[:, None]).min(axis=1).reshape(_BANDS, _ROWS).astype(np.uint64)
    keys = np.zeros(_BANDS, np.uint64)
    for row in range(_ROWS):
        keys = (keys ^ lowest[:, row]) * _BAND_FACTOR
        keys ^= keys >> np.uint64(29)
    return tuple(keys.tolist())


def _band_keys(questions: Sequence[str]) -> NDArray[np.uint64]:
    """Return a hash of each band of the MinHash signatures of questions: (bands, questions)."""
    hashed, starts = _gram_hashes(questions)
    keys = np.empty((_BANDS, len(questions)), np.uint64)
    permuted = np.empty_like(hashed)
    for band in range(_BANDS):
        key = np.zeros(len(questions), np.uint64)
        for row in range(band * _ROWS, (band + 1) * _ROWS):
            np.bitwise_xor(hashed, _MASKS[row], out=permuted)
            np.multiply(permuted, _FACTORS[row], out=permuted)
            key = (key ^ np.minimum.reduceat(permuted, starts)) * _BAND_FACTOR
            key ^= key >> np.uint64(29)
        keys[band] = key
    return keys


def _gram_hashes(questions: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Return a hash of every 5-gram of the questions, one after the other, and where each question's begin."""
    texts = [text if len(text) >= _GRAM else text.ljust(_GRAM, "\0") for text in map(_normal, questions)]
    letters = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    counts = lengths - _GRAM + 1
    starts = np.cumsum(counts) - counts
    # The windows over all texts in a row, without those that reach from one into the next.
    at = np.arange(counts.sum()) + np.repeat(np.arange(len(texts)) * (_GRAM - 1), counts)
    hashed = np.zeros(len(at), np.uint32)
    for offset in range(_GRAM):
        hashed = (hashed ^ letters[at + offset]) * _GRAM_FACTOR
        hashed ^= hashed >> np.uint32(15)
    return hashed, starts
