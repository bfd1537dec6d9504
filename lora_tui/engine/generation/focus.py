"""Focus sentences: which sentences of a passage a request names, so that each part of it is asked about.

A model that is asked about a passage again asks about what it finds most striking, again. Named are the sentences that
the pairs so far quote least, and that no other request in flight has been given. Small and apart from the planner: it
knows sentences, and the planner whose turn it is.
"""

import random
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from lora_tui.engine.generation.questions.sentences import sentences
from lora_tui.scoring.words import tokens

_MIN_WORDS = 5
_MAX_CHARACTERS = 220
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
        found = list(dict.fromkeys(one.text for one in sentences(passage) if len(one.text.split()) >= _MIN_WORDS))
        if len(found) < 2:
            return ()
        known = self._taken.setdefault(passage_id, {})
        self._taken.move_to_end(passage_id)
        while len(self._taken) > _PASSAGES_KEPT:
            self._taken.popitem(last=False)
        taken = {sentence for of_task, theirs in known.items() if of_task != task_id for sentence in theirs}
        scored = [(_times_quoted(one, quoted) + (one in taken), rng.random(), one) for one in found]
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


def _times_quoted(sentence: str, quoted: Iterable[str]) -> int:
    """Return how many quotations hold most of a sentence, or most of which a sentence holds."""
    words = set(tokens(sentence))
    times = 0
    for quotation in quoted:
        theirs = set(tokens(quotation))
        times += bool(theirs) and len(words & theirs) >= 0.6 * min(len(words), len(theirs))
    return times
