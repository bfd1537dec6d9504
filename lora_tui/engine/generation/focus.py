"""Focus sentences: which sentences of a passage a request names, so that each part of it is asked about.

A model that is asked about a passage again asks about what it finds most striking, again. Named are the sentences that
the pairs so far quote least, and that no other request in flight has been given. Small and apart from the planner: it
knows sentences, and the planner whose turn it is.
"""

import random
import sys
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from functools import lru_cache

from lora_tui.engine.generation.questions.sentences import sentences
from lora_tui.scoring.words import tokens

_MIN_WORDS = 5
_MAX_CHARACTERS = 220
_PASSAGES_AT_HAND = 1024
"""Passages whose sentences and words are kept: they are asked about again and again."""

_PASSAGES_KEPT = 4096
"""Passages whose focus sentences in flight are remembered; the oldest are forgotten first."""


class FocusSentences:
    """Sentences that requests in flight were given, by passage and task."""

    def __init__(self) -> None:
        self._taken: OrderedDict[str, dict[int, tuple[str, ...]]] = OrderedDict()

    def take(
        self, passage_id: str, task_id: int, passage: str, quoted: Sequence[str], count: int, rng: random.Random
    ) -> tuple[str, ...]:
        """Return up to `count` sentences for a task; none where a passage has too few to choose among."""
        found = _sentences_of(passage)
        if len(found) < 2:
            return ()
        known = self._taken.setdefault(passage_id, {})
        self._taken.move_to_end(passage_id)
        while len(self._taken) > _PASSAGES_KEPT:
            self._taken.popitem(last=False)
        taken = {sentence for of_task, theirs in known.items() if of_task != task_id for sentence in theirs}
        times = _times_quoted(passage, quoted)
        scored = [(known_to + (one in taken), rng.random(), one) for one, known_to in zip(found, times, strict=True)]
        chosen = tuple(one for *_, one in sorted(scored)[:count])
        known[task_id] = chosen
        return tuple(one if len(one) <= _MAX_CHARACTERS else one[: _MAX_CHARACTERS - 1] + "…" for one in chosen)

    def release(self, passage_id: str, task_id: int) -> None:
        """Forget what a task was given: what came of it is stored."""
        known = self._taken.get(passage_id)
        if known is not None:
            known.pop(task_id, None)
            if not known:
                del self._taken[passage_id]


@lru_cache(maxsize=_PASSAGES_AT_HAND)
def _sentences_of(passage: str) -> tuple[str, ...]:
    """Return the sentences of a passage that are long enough to be asked about, each once."""
    return tuple(dict.fromkeys(one.text for one in sentences(passage) if len(one.text.split()) >= _MIN_WORDS))


@lru_cache(maxsize=_PASSAGES_AT_HAND)
def _words_of(passage: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the words of a passage's sentences, and which each sentence has: bit n stands for word n."""
    places: dict[str, int] = {}
    masks = [_mask(map(sys.intern, tokens(one)), places, grows=True) for one in _sentences_of(passage)]
    return tuple(places), tuple(masks)


def _mask(words: Iterable[str], places: dict[str, int], *, grows: bool = False) -> int:
    mask = 0
    for word in words:
        place = places.setdefault(word, len(places)) if grows else places.get(word)
        if place is not None:
            mask |= 1 << place
    return mask


def _times_quoted(passage: str, quoted: Sequence[str]) -> Sequence[int]:
    """Return for each sentence how many quotations hold most of its words, or most of whose words it holds."""
    times = [0] * len(_sentences_of(passage))
    if not quoted:
        return times
    words, masks = _words_of(passage)
    places = {word: place for place, word in enumerate(words)}
    for quotation in quoted:
        theirs = set(tokens(quotation))
        shared = _mask(theirs, places)
        for place, mask in enumerate(masks if theirs else ()):
            times[place] += (mask & shared).bit_count() >= 0.6 * min(mask.bit_count(), len(theirs))
    return times
