r"""The training text format, parser and writer: the one place that decides where an example begins.

A file is a run of examples::

    Question: <question>
    Answer: <answer, may run over several lines>

with a blank line between them. An answer may hold blank lines and even a line that begins with ``Question:``. Such a
line begins a new example if the line before it is blank, or if the line after it begins with ``Answer:`` (people
forget the blank line); otherwise it belongs to the answer. Labels count at the start of a line only, and as they are
spelt here.

Pairs are formatted such that parsing them gives the same pairs back. What the form cannot express is changed in a way
that shows, never dropped (`normalise_pair`): a question's line breaks become spaces; a line of an answer that would
begin a new example is set in by one space; a NUL or half a surrogate pair becomes U+FFFD; white space at the ends is
stripped and every line end is a line feed.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

from lora_tui.engine.data.forms import Malformed

QUESTION = "Question:"
ANSWER = "Answer:"

_EXPECTED = f"examples are '{QUESTION} …' and '{ANSWER} …' on lines of their own, with a blank line between examples"

_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_LINE_BREAKS = re.compile(r"[\r\n]+")


def begins_example(lines: Sequence[str], index: int) -> bool:
    """Tell whether a new example begins at ``lines[index]``."""
    if not lines[index].startswith(QUESTION):
        return False
    after_blank = index == 0 or not lines[index - 1].strip()
    before_answer = index + 1 < len(lines) and lines[index + 1].startswith(ANSWER)
    return after_blank or before_answer


def parse_training_text(lines: Sequence[str]) -> list[tuple[int, str, str]]:
    """Return line number, question and answer of every example, stripped; a part may be empty. Raises `Malformed`."""
    starts = [index for index in range(len(lines)) if begins_example(lines, index)]
    first = next((index for index, line in enumerate(lines) if line.strip()), len(lines))
    if first < len(lines) and (not starts or first < starts[0]):
        raise Malformed(
            f"expected '{QUESTION}'; {_EXPECTED}. Lines of other forms are converted by "
            "lora-tui --generate-training-file RAW OUT",
            line=first + 1,
        )
    examples = []
    for start, end in pairwise([*starts, len(lines)]):
        answer_at = next((index for index in range(start + 1, end) if lines[index].startswith(ANSWER)), None)
        if answer_at is None:
            raise Malformed(f"a question without an '{ANSWER}' line; {_EXPECTED}", line=start + 1)
        question = "\n".join(lines[start:answer_at]).removeprefix(QUESTION).strip()
        answer = "\n".join(lines[answer_at:end]).removeprefix(ANSWER).strip()
        examples.append((start + 1, question, answer))
    return examples


def format_example(question: str, answer: str) -> str:
    """Return the training form, exactly ``Question: {question}\\nAnswer: {answer}``; nothing is changed or checked."""
    return f"{QUESTION} {question}\n{ANSWER} {answer}"


def prompt_text(question: str) -> str:
    """Return the training form's prompt: everything before the answer."""
    return f"{QUESTION} {question}\n{ANSWER}"


def format_training_text(pairs: Iterable[tuple[str, str]]) -> str:
    """Return a whole training text: the normalised pairs, a blank line between them and a line feed at the end."""
    blocks = [format_example(*normalise_pair(question, answer)) for question, answer in pairs]
    return "\n\n".join(blocks) + "\n" if blocks else ""


def normalise_pair(question: str, answer: str) -> tuple[str, str]:
    """Return the pair as a training text can hold it (see the module's docstring); a second time changes nothing.

    Raises `ValueError` where nothing is left of the question or of the answer.
    """
    question = _NO_TEXT.sub("\N{REPLACEMENT CHARACTER}", question).strip()
    question = " ".join(part.strip() for part in _LINE_BREAKS.split(question) if part.strip())
    answer = _NO_TEXT.sub("\N{REPLACEMENT CHARACTER}", answer).replace("\r\n", "\n").replace("\r", "\n").strip()
    if not question or not answer:
        raise ValueError(f"the {'answer' if question else 'question'} is empty")
    lines = format_example(question, answer).split("\n")
    shown = [f" {line}" if index > 0 and begins_example(lines, index) else line for index, line in enumerate(lines)]
    return question, "\n".join(shown[1:]).removeprefix(ANSWER).strip()
