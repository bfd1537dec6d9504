"""Measures of how different questions are: entropy, distinct n-grams, resemblance, openings and crowded words.

Pure functions of questions and histograms. Longer texts and larger sets have more of everything, so measures are only
compared over as many questions (Shaib et al., arXiv 2403.00553); none of them says what a model learns from a set.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lora_tui.engine.generation.near_duplicates import grams
from lora_tui.engine.generation.questions.completions import stems
from lora_tui.scoring.words import tokens

ALIKE = 0.5
"""Jaccard similarity of questions that resemble each other. The gate refuses from 0.7 on; what lies below shows how
fast the set runs out of new questions."""

_OPENING_WORDS = 2


def entropy(histogram: Mapping[str, int]) -> float:
    """Return the Shannon entropy of a histogram in bits."""
    total = sum(histogram.values())
    return sum(-n / total * math.log2(n / total) for n in histogram.values() if n) if total else 0.0


def question_entropy(questions: Sequence[str]) -> float:
    """Return the entropy of the questions' pairs of neighbouring words, in bits; grows with their number."""
    return entropy(Counter(pair for question in questions for pair in _bigrams(question)))


def distinct_2(questions: Sequence[str]) -> float:
    """Return the share of pairs of neighbouring words that are different ones, 0-1 (Li et al., arXiv 1510.03055)."""
    found = [pair for question in questions for pair in _bigrams(question)]
    return len(set(found)) / len(found) if found else 0.0


def _bigrams(question: str) -> list[str]:
    words = tokens(question)
    return [f"{one} {other}" for one, other in pairwise(words)]


def near_duplicate_rate(questions: Sequence[str]) -> float:
    """Return the share of questions that resemble another one: a Jaccard similarity of `ALIKE` or more."""
    if len(questions) < 2:
        return 0.0
    return float(np.mean(similarities(questions).max(axis=1) >= ALIKE - 1e-9))


def similarities(questions: Sequence[str]) -> NDArray[np.float32]:
    """Return the Jaccard similarity of every two questions' character 5-grams (n, n), 0 on the diagonal."""
    places: dict[str, int] = {}
    found = [[places.setdefault(gram, len(places)) for gram in grams(question)] for question in questions]
    holds = np.zeros((len(found), max(1, len(places))), np.float32)
    for row, own in zip(holds, found, strict=True):
        row[own] = 1
    shared = holds @ holds.T
    sizes = holds.sum(axis=1)
    alike: NDArray[np.float32] = shared / np.maximum(1, sizes[:, None] + sizes[None, :] - shared)
    np.fill_diagonal(alike, 0)
    return alike


def opening_of(question: str) -> str:
    """Return the first two words of a question, lower case: "how many"."""
    return " ".join(tokens(question)[:_OPENING_WORDS])


def crowded_openings(questions: Sequence[str], share: float = 0.2, most: int = 3) -> list[str]:
    """Return the openings of at least `share` of the questions and four of them, the most frequent first."""
    counts = Counter(map(opening_of, questions))
    return [opening for opening, n in counts.most_common(most) if opening and n >= max(4, share * len(questions))]


def crowded_words(questions: Sequence[str], share: float = 0.25, most: int = 4) -> list[str]:
    """Return the content words of at least `share` of the questions and five of them, the most frequent first.

    A word of nearly all of them is what the folder is about, and not named.
    """
    counts = Counter(word for question in questions for word in set(tokens(question)) if len(word) > 3 and stems(word))
    limit = max(5, share * len(questions))
    return [word for word, n in counts.most_common(most) if limit <= n < 0.8 * len(questions)]
