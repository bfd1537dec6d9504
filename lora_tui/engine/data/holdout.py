"""The validation split: which examples are held out of training, so that their loss tells learning from memorising.

The split is a pure function of the examples' questions and a seed: the same file is divided the same way by every run,
after every restart, and before training when only its length is wanted. Whole questions are drawn, not examples, and by
a hash instead of a shuffle: the order of the file does not matter, and an example that is added moves few others. Where
it is known which documents they were asked about, and there are enough, whole documents are drawn.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from lora_tui.engine.data.examples import Conversation, Example, PlainText, PromptCompletion, QuestionAnswer

MIN_HELD_OUT = 4
"""The fewest examples that are held out: the mean loss of fewer is the luck of the draw."""

LEAST_DOCUMENTS = 5
"""Documents from which on whole ones are held out: of fewer, one would take too much from training."""

_LARGEST_PART = 0.25
"""Share of the examples that the one document may have that is held out where no smaller choice is possible."""

_DIGEST_BYTES = 8
_WORD = re.compile(r"\w+")


def question_digest(example: Example) -> int:
    """Return a 64-bit hash of an example's question: equal for two that ask the same, whatever they answer.

    Case, punctuation and spacing do not count; the key is coarser and six times faster than `question_key`, for whole
    documents are asked for theirs too. A conversation asks what its user says first, so that one which goes on from
    another stays with it; plain text is its own question.
    """
    match example:
        case QuestionAnswer(question=asked):
            text = asked
        case PromptCompletion(prompt=asked, completion=completion):
            text = asked if asked.strip() else completion
        case PlainText(text=text):
            pass
        case Conversation(messages):
            text = next(message.content for message in messages if message.role == "user")
    words = " ".join(_WORD.findall(unicodedata.normalize("NFKC", text).casefold())) or text.strip()
    digest = hashlib.blake2b(words.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).digest()
    return int.from_bytes(digest)


def questions_fingerprint(examples: Iterable[Example]) -> str:
    """SHA-256 of what a file asks, each question once: whether it is the file that was trained on, wherever it lies."""
    found = hashlib.sha256()
    for digest in sorted(set(map(question_digest, examples))):
        found.update(digest.to_bytes(_DIGEST_BYTES))
    return found.hexdigest()


def draw_holdout(digests: Sequence[int], share: float, seed: int) -> list[int]:
    """Return the indices of the held-out examples, in the order in which they are drawn.

    `digests` holds each example's `question_digest`, `share` (0-0.5) is the part of them that is wanted. At least
    `MIN_HELD_OUT` are drawn and at least half stay for training; none where that is impossible, because there are too
    few examples or too few questions among them.
    """
    if share == 0 or len(digests) < 2 * MIN_HELD_OUT:
        return []
    wanted = max(MIN_HELD_OUT, min(round(share * len(digests)), len(digests) // 2))
    groups: dict[int, list[int]] = {}
    for index, digest in enumerate(digests):
        groups.setdefault(digest, []).append(index)
    held_out: list[int] = []
    for digest in sorted(groups, key=lambda digest: _rank(digest, seed)):
        if len(held_out) + len(groups[digest]) <= wanted:
            held_out += groups[digest]
    return held_out if len(held_out) >= MIN_HELD_OUT else []


def draw_documents(digests: Sequence[int], documents: Mapping[int, str], share: float, seed: int) -> list[int]:
    """Return the indices of the examples of whole documents that are held out, document by document.

    `documents` names the document that a question (by its digest) was asked about; examples without one are trained on.
    None are drawn where there are fewer than
    `LEAST_DOCUMENTS`, where they stand for less than half of the examples, or where no choice of them comes near
    `share`: then questions are drawn (`draw_holdout`).
    """
    groups: dict[str, list[int]] = {}
    for index, digest in enumerate(digests):
        if digest in documents:
            groups.setdefault(documents[digest], []).append(index)
    known = sum(map(len, groups.values()))
    if share == 0 or len(groups) < LEAST_DOCUMENTS or 2 * known < len(digests) or len(digests) < 2 * MIN_HELD_OUT:
        return []
    wanted = max(MIN_HELD_OUT, min(round(share * len(digests)), len(digests) // 2))
    ranked = sorted(groups.values(), key=lambda group: _name_rank(documents[digests[group[0]]], seed))
    held_out: list[int] = []
    for group in ranked:
        if len(held_out) + len(group) <= wanted:
            held_out += group
    if len(held_out) < MIN_HELD_OUT:
        held_out = next((group for group in ranked if MIN_HELD_OUT <= len(group) <= _LARGEST_PART * len(digests)), [])
    return held_out


def _name_rank(name: str, seed: int) -> bytes:
    """The sort key that decides when a document is drawn."""
    text = name.encode("utf-8", "surrogatepass") + seed.to_bytes(_DIGEST_BYTES)
    return hashlib.blake2b(text, digest_size=16).digest()


def _rank(digest: int, seed: int) -> bytes:
    """The sort key that decides when a question is drawn: a hash of it and the seed."""
    return hashlib.blake2b(digest.to_bytes(_DIGEST_BYTES) + seed.to_bytes(_DIGEST_BYTES), digest_size=16).digest()
