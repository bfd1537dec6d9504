"""Questions in other words than the file has them, so that what is learned is the fact and not its one wording.

A small model that reads a few dozen questions again and again answers exactly these: of 27 invented facts the built-in
model knew all as they were asked and about half as a person would ask them (`tests/bench/recipe_trials.py`). With most
passes over the data reading a question with words left out, in another order, or made of words of its answer, it has to
find the answer from whichever of them are there. No rule of a language is used, only the spaces between words. What a
pass reads is a function of the seed, the example and the epoch alone: a resumed run reads the same. Small and apart
because it needs no torch.
"""

import random
from collections.abc import Sequence

from lora_tui.engine.data.examples import Example, QuestionAnswer

EVERYDAY = "everyday question"
"""The source of examples that keep the model as it is elsewhere; they are read as they are."""

_LEAST_WORDS, _MOST_WORDS = 3, 60
"""Questions of fewer words have nothing to leave out; longer ones are texts of their own."""

_LEFT_OUT = 0.35
_LEFT_OUT_OF_ANSWER = 0.5


def reads_as_written(index: int, epoch: int, share: float) -> bool:
    """Return whether this pass reads the example as it is: evenly spread, all but `share` (0-1) of the passes do."""
    kept = 1.0 - share
    return ((epoch + index) * kept) % 1.0 < kept - 1e-9 or share <= 0


def reworded(example: Example, index: int, epoch: int, seed: int) -> Example:
    """Return the example with its question in other words for this pass; the same where that is not possible."""
    if not isinstance(example, QuestionAnswer) or example.source == EVERYDAY:
        return example
    end = example.question[-1] if example.question[-1] in "?.!？。" else ""
    words = example.question.removesuffix(end).split()
    answer = example.answer.rstrip(".!?").split()
    if not _LEAST_WORDS <= len(words) <= _MOST_WORDS:
        return example
    draw = random.Random(f"{seed} {index} {epoch}")  # noqa: S311 - which words are left out is no secret
    kind = draw.randrange(3)
    if kind == 2 and len(answer) > _LEAST_WORDS:
        kept = _without(answer, _LEFT_OUT_OF_ANSWER, draw)[: len(words)]
    else:
        kept = _without(words, _LEFT_OUT, draw)
        if kind == 1:
            draw.shuffle(kept)
    return QuestionAnswer(" ".join(kept) + end, example.answer, example.source)


def _without(words: Sequence[str], share: float, draw: random.Random) -> list[str]:
    """Return the words with about `share` of them left out, at least two of them."""
    kept = [word for word in words if draw.random() >= share]
    return kept if len(kept) >= 2 else [words[place] for place in sorted(draw.sample(range(len(words)), 2))]
