"""Questions that were asked before, in nearly the same words.

Near duplicates are found with MinHash (128 permutations, 32 bands of 4: from a similarity of 0.42 on, two questions
are more likely than not to be compared) and confirmed by the exact Jaccard similarity of their character 5-grams.
Questions whose numbers differ are never duplicates: "in 1889" and "in 1890" share nearly all their characters and ask
two things.

The index holds what may not be repeated, some 10 kB a question; it is rebuilt from the store when a run is resumed.
"""

import unicodedata

from datasketch import MinHash, MinHashLSH

from lora_tui.scoring.words import numbers, tokens

NEAR = 0.7
"""From this Jaccard similarity of character 5-grams on, two questions are the same."""

_PERMUTATIONS, _BANDS, _ROWS = 128, 32, 4
_GRAM = 5


class NearDuplicates:
    """An index of questions by pair id."""

    def __init__(self) -> None:
        self._lsh = MinHashLSH(num_perm=_PERMUTATIONS, params=(_BANDS, _ROWS))
        self._questions: dict[int, str] = {}
        self._next = 0

    def find(self, question: str) -> tuple[str, float] | None:
        """Return the most similar known question and its similarity, if that is at least `NEAR`."""
        own, own_numbers = grams(question), numbers(tokens(question))
        best: tuple[str, float] | None = None
        for handle in self._lsh.query(_signature(own)):
            other = self._questions[handle]
            similarity = jaccard(own, grams(other))
            if similarity >= max(NEAR, best[1] if best else 0.0) and numbers(tokens(other)) == own_numbers:
                best = (other, similarity)
        return best

    def add(self, question: str) -> int:
        """Add a question; returns the handle with which it can be removed."""
        self._next += 1
        self._lsh.insert(self._next, _signature(grams(question)), check_duplication=False)
        self._questions[self._next] = question
        return self._next

    def remove(self, handle: int) -> None:
        """Forget a question: its pair was not kept, another may ask the same."""
        self._lsh.remove(handle)
        del self._questions[handle]

    def __len__(self) -> int:
        return len(self._questions)


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """Return the share of two sets that is common to both, 0-1."""
    return len(a & b) / len(a | b) if a or b else 1.0


def grams(question: str) -> frozenset[str]:
    """Return the character 5-grams of a question, NFKC, case-folded, white space squeezed."""
    text = " ".join(unicodedata.normalize("NFKC", question).casefold().split())
    return frozenset(text[i : i + _GRAM] for i in range(max(1, len(text) - _GRAM + 1)))


def _signature(of: frozenset[str]) -> MinHash:
    signature = MinHash(num_perm=_PERMUTATIONS)
    signature.update_batch([gram.encode("utf-8", "surrogatepass") for gram in of])
    return signature
