"""Held-out facts: sentences of the folder whose questions are kept from training, so that they can be asked later.

A sentence is drawn by a hash of its words and the seed, not from a list: the same ones are held out whatever was
generated before, after every restart, and in each passage that holds the sentence. A pair whose evidence touches one
is not trained on, nor is anything made of that pair; documents tell the fact all the same. What a model then answers
is what it has learned from reading.
"""

import hashlib
import re
from collections.abc import Iterator

_END = re.compile(r"(?<=[.!?])[\"'”’)]*\s+|\n\s*\n|\n(?=\s*(?:[-*+#|]|\d+[.)]))")
_WORD = re.compile(r"\w+")
_LEAST_WORDS = 4
"""A sentence of fewer words states no fact by itself."""

_SCALE = 2**64


def sentences_of(text: str) -> Iterator[str]:
    """Yield the sentences of a text as they stand, without the white space between them."""
    return (part for piece in _END.split(text) if (part := piece.strip()))


def is_held_out(evidence: str, passage: str, share: float, seed: int) -> bool:
    """Return whether a pair is about a fact that is held out: whether its evidence touches a sentence that is drawn.

    Evidence that quotes a part of a sentence of the passage counts as the whole of it.
    """
    if share <= 0:
        return False
    quoted = [words for sentence in sentences_of(evidence) if (words := _words(sentence))]
    touched = [_words(evidence), *quoted]
    for sentence in sentences_of(passage):
        words = _words(sentence)
        if words and any(part in words or words in part for part in touched if part):
            quoted.append(words)
    return any(_is_drawn(words, share, seed) for words in quoted)


def without_held_out(passage: str, share: float, seed: int) -> str:
    """Return a passage without the sentences that are held out, for what asks questions and gives answers."""
    if share <= 0:
        return passage
    for sentence in sentences_of(passage):
        if _is_drawn(_words(sentence), share, seed):
            passage = passage.replace(sentence, "", 1)
    return passage.strip()


def _words(text: str) -> str:
    """The words of a text, each between spaces, so that one text contains another only by whole words."""
    words = _WORD.findall(text.casefold())
    return f" {' '.join(words)} " if words else ""


def _is_drawn(words: str, share: float, seed: int) -> bool:
    if words.count(" ") - 1 < _LEAST_WORDS:
        return False
    digest = hashlib.blake2b(words.encode("utf-8", "surrogatepass") + seed.to_bytes(8), digest_size=8).digest()
    return int.from_bytes(digest) < share * _SCALE
