"""What a training file holds, counted without a tokenizer, and remembered for as long as the file stays the same.

Reading is the data readers' own (`read_examples`), so what is counted here is what training will see. Only counts are
kept: looking at a file again and again while somebody edits a configuration costs a look at its date and size.
"""

import re
from array import array
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

from lora_tui.engine.data.examples import Conversation, Example, PlainText, PromptCompletion, QuestionAnswer
from lora_tui.engine.data.holdout import question_digest
from lora_tui.engine.data.read import read_examples
from lora_tui.errors import UsageError

MOST_BYTES = 100_000_000
"""A larger file is not counted: reading it takes longer than anyone waits for a number."""

_TURN_TOKENS = 4
"""What a chat template puts around a turn, about: the marks of its beginning and end, the role, a line break."""

_MOST_REMEMBERED = 8

_CJK = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")


@dataclass(frozen=True, slots=True)
class Survey:
    """A training file. `problem` says why nothing could be counted; all counts are 0 then.

    `tokens` is an estimate for each example, its end mark included, `questions` each one's `question_digest`, and
    `changed_at` when the file was last written.
    """

    path: Path
    exists: bool
    problem: str | None = None
    forms: Mapping[str, int] = field(default_factory=dict)
    skipped: int = 0
    tokens: Sequence[int] = ()
    questions: Sequence[int] = ()
    changed_at: float = 0.0

    @property
    def examples(self) -> int:
        """How many examples can be trained on, as far as the text tells."""
        return len(self.tokens)

    def tokens_up_to(self, max_length: int, without: Set[int] = frozenset()) -> int:
        """Return the estimated tokens of all examples but those of the indices `without`, each cut to `max_length`."""
        return sum(min(count, max_length) for index, count in enumerate(self.tokens) if index not in without)

    def longest_up_to(self, max_length: int) -> int:
        """Return the estimated tokens of the longest example, cut to `max_length`."""
        return min(max(self.tokens, default=0), max_length)


_REMEMBERED: dict[tuple[Path, Path, int, int], Survey] = {}
"""By the path as it was given, which messages name, and as it resolves, date and size."""


def survey(path: Path) -> Survey:
    """Return what the training file at `path` holds; blocks while it is read for the first time. Never raises."""
    try:
        status = path.stat()
        key = (path, path.resolve(), status.st_mtime_ns, status.st_size)
    except OSError as problem:
        return Survey(path, exists=False, problem=_refusal(path) or f"{path} cannot be read: {problem.strerror}")
    if key not in _REMEMBERED:
        if len(_REMEMBERED) >= _MOST_REMEMBERED:
            del _REMEMBERED[next(iter(_REMEMBERED))]
        _REMEMBERED[key] = _counted(path, status.st_size, status.st_mtime)
    return _REMEMBERED[key]


def _counted(path: Path, size: int, changed_at: float) -> Survey:
    if size > MOST_BYTES:
        problem = f"{path} has {size / 1e6:,.0f} MB and is counted when training begins"
        return Survey(path, exists=True, problem=problem, changed_at=changed_at)
    try:
        found = read_examples(path)
    except UsageError as refusal:
        return Survey(path, exists=True, problem=str(refusal), changed_at=changed_at)
    tokens = array("l", (_tokens(example) for example in found.examples))
    questions = array("Q", (question_digest(example) for example in found.examples))
    return Survey(path, True, None, dict(found.forms), len(found.skipped), tokens, questions, changed_at)


def _refusal(path: Path) -> str | None:
    """Return what training will say of a file that is not there."""
    try:
        read_examples(path)
    except UsageError as refusal:
        return str(refusal)
    return None


def estimate_tokens(text: str) -> int:
    """Estimate the tokens of `text`: four characters of an alphabet, or one ideogram or kana, make one.

    English prose has 4.2 to 4.7 characters a token with the usual vocabularies: this errs on the side of more tokens.
    """
    ideograms = len(_CJK.findall(text))
    return ideograms + (len(text) - ideograms + 3) // 4


def _tokens(example: Example) -> int:
    match example:
        case QuestionAnswer(question, answer):
            return estimate_tokens(f"Question: {question}\nAnswer: {answer}") + 1
        case PromptCompletion(prompt, completion):
            return estimate_tokens(prompt + completion) + 1
        case PlainText(text):
            return estimate_tokens(text) + 1
        case Conversation(messages):
            return sum(estimate_tokens(message.content) + _TURN_TOKENS for message in messages) + 1
