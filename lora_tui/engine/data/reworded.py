"""Questions in other words than the file has them, so that what is learned is the fact and not its one wording.

A small model that reads a few dozen questions again and again answers exactly these: of 27 invented facts the built-in
model knew all as they were asked and about half as a person would ask them (`tests/bench/recipe_trials.py`). With most
passes over the data reading a question with words left out or in another order, or made of the words that its answer
says it with, it has to find the answer from whichever of them are there. That needs no rule of a language, only the
spaces between words; a question in English is also asked by other question words (`other_wordings`). The first word
stays where it is: without it "who has the key of the chest" is "what is in the chest". What a pass reads is a function
of the seed, the example and the epoch alone: a resumed run reads the same. Small and apart because it needs no torch.
"""

import random
from collections.abc import Sequence

from lora_tui.engine.data.examples import Example, QuestionAnswer
from lora_tui.engine.data.other_wordings import other_wordings, with_place_last

EVERYDAY = "everyday question"
"""The source of examples that keep the model as it is elsewhere; they are read as they are."""

_LEAST_WORDS, _MOST_WORDS = 3, 60
"""Questions of fewer words have nothing to leave out; longer ones are texts of their own."""

_LEFT_OUT = 0.3
_LEFT_OUT_OF_WORDING = 0.15
_AROUND = "\"',;:()"
_SHORT, _MORE_SHORT_ONES = 3, 0.15
"""Words of so few letters say less about what is asked, so more of them are left out."""


def reads_as_written(index: int, epoch: int, share: float) -> bool:
    """Return whether this pass reads the example as it is: evenly spread, all but `share` (0-1) of the passes do."""
    kept = 1.0 - share
    return ((epoch + index) * kept) % 1.0 < kept - 1e-9 or share <= 0


def reworded(example: Example, index: int, epoch: int, seed: int) -> Example:
    """Return the example with its question in other words for this pass; the same where that is not possible."""
    if not isinstance(example, QuestionAnswer) or example.source == EVERYDAY:
        return example
    question = with_place_last(example.question)
    end = question[-1] if question[-1] in "?.!？。" else ""
    words = question.removesuffix(end).split()
    answer = example.answer.rstrip(".!?").split()
    if not _LEAST_WORDS <= len(words) <= _MOST_WORDS:
        return example
    draw = random.Random(f"{seed} {index} {epoch}")  # noqa: S311 - which words are left out is no secret
    wordings = other_wordings(question, example.answer)
    kind = draw.randrange(5 if wordings else 3)
    rest = words[1:]
    told = _without_names(answer, words)
    if kind >= 3:
        first, *rest = draw.choice(wordings).split()
        kept = [first, *(rest if kind == 3 else _without(rest, _LEFT_OUT_OF_WORDING, draw))]
    elif kind == 2 and len(told) > _LEAST_WORDS:
        kept = [words[0], *_without(told, _LEFT_OUT, draw)]
    else:
        rest = _without(rest, _LEFT_OUT, draw)
        if kind == 1:
            draw.shuffle(rest)
        kept = [words[0], *rest]
    return QuestionAnswer(" ".join(kept) + end, example.answer, example.source)


def _without_names(answer: Sequence[str], question: Sequence[str]) -> list[str]:
    """Return the answer's words without names and numbers that the question does not have: nobody asks with those."""
    asked = {word.strip(_AROUND).casefold() for word in question}

    def is_new(place: int, word: str) -> bool:
        is_name = word[:1].isupper() and (place > 0 or len(word) > _SHORT)
        return (is_name or any(sign.isdigit() for sign in word)) and word.strip(_AROUND).casefold() not in asked

    return [word for place, word in enumerate(answer) if not is_new(place, word)]


def _without(words: Sequence[str], share: float, draw: random.Random) -> list[str]:
    """Return the words with about `share` left out, more of the short ones; at least one longer one stays."""
    kept = [word for word in words if draw.random() >= share + _MORE_SHORT_ONES * (len(word) <= _SHORT)]
    if any(len(word) > _SHORT for word in kept):
        return kept
    return [max(words, key=lambda word: (len(word) > _SHORT, draw.random()))]
