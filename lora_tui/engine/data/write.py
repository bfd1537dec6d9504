r"""Pairs as training text, such that reading them gives the same pairs back.

What the form cannot express is changed in a way that shows, never dropped (`normalise_pair`): a question's line
breaks become spaces; a line of an answer that would begin a new example is set in by one space; a NUL or half a
surrogate pair becomes U+FFFD; white space at the ends is stripped and every line end is a line feed.
"""

import re
from collections.abc import Iterable

from lora_tui.engine.data.training_text import ANSWER, QUESTION, begins_example

_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_LINE_BREAKS = re.compile(r"[\r\n]+")


def format_example(question: str, answer: str) -> str:
    """Return the training form, exactly ``Question: {question}\\nAnswer: {answer}``; nothing is changed or checked."""
    return f"{QUESTION} {question}\n{ANSWER} {answer}"


def format_training_text(pairs: Iterable[tuple[str, str]]) -> str:
    """Return a whole training text: the normalised pairs with a blank line between them and a final line feed.

    Raises:
        ValueError: A question or answer is empty; such a pair has no place in a training text.
    """
    blocks = [format_example(*normalise_pair(question, answer)) for question, answer in pairs]
    return "\n\n".join(blocks) + "\n" if blocks else ""


def normalise_pair(question: str, answer: str) -> tuple[str, str]:
    """Return the pair as a training text can hold it; the module says what changes. Normalising twice changes nothing.

    Raises:
        ValueError: Nothing is left of the question or of the answer.
    """
    question = _NO_TEXT.sub("\N{REPLACEMENT CHARACTER}", question).strip()
    question = " ".join(part.strip() for part in _LINE_BREAKS.split(question) if part.strip())
    answer = _NO_TEXT.sub("\N{REPLACEMENT CHARACTER}", answer).replace("\r\n", "\n").replace("\r", "\n").strip()
    if not question or not answer:
        raise ValueError(f"the {'answer' if question else 'question'} is empty")
    lines = format_example(question, answer).split("\n")
    shown = [f" {line}" if index > 0 and begins_example(lines, index) else line for index, line in enumerate(lines)]
    return question, "\n".join(shown[1:]).removeprefix(ANSWER).strip()
