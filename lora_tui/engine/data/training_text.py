r"""The grammar of the training text, the one place that knows where an example begins.

A file is a run of examples::

    Question: <question>
    Answer: <answer, may run over several lines>

with a blank line between them. An answer may hold blank lines and even a line that begins with ``Question:``. Such a
line begins a new example if the line before it is blank, or if the line after it begins with ``Answer:`` (people
forget the blank line); otherwise it belongs to the answer. Labels count at the start of a line only, and as they are
spelt here.
"""

from collections.abc import Sequence
from itertools import pairwise

from lora_tui.engine.data.forms import Malformed

QUESTION = "Question:"
ANSWER = "Answer:"

_EXPECTED = f"examples are '{QUESTION} …' and '{ANSWER} …' on lines of their own, with a blank line between examples"


def begins_example(lines: Sequence[str], index: int) -> bool:
    """Whether a new example begins at ``lines[index]``."""
    if not lines[index].startswith(QUESTION):
        return False
    after_blank = index == 0 or not lines[index - 1].strip()
    before_answer = index + 1 < len(lines) and lines[index + 1].startswith(ANSWER)
    return after_blank or before_answer


def parse_training_text(lines: Sequence[str]) -> list[tuple[int, str, str]]:
    """Return line number, question and answer of every example, stripped; a part may be empty.

    Raises:
        Malformed: At the line it names, the text is not of this form.
    """
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
