"""Which examples are kept back from training, so that their loss tells learning from memorising.

The split is a pure function of the examples' questions and a seed: the same file is divided the same way by every run,
after every restart, and before training when only its length is wanted. Whole questions are drawn, not examples, and by
a hash instead of a shuffle: the order of the file does not matter, and an example that is added moves few others.
"""

import hashlib
import re
import unicodedata
from collections.abc import Sequence

from lora_tui.engine.data.examples import Conversation, Example, PlainText, PromptCompletion, QuestionAnswer

FEWEST = 4
"""Held-out examples below which their mean loss is the luck of the draw: fewer are never held out."""

_DIGEST = 8
_WORD = re.compile(r"\w+")


def question_digest(example: Example) -> int:
    """Return 64 bits that are equal for two examples that ask the same, whatever they answer.

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
    digest = hashlib.blake2b(words.encode("utf-8", "surrogatepass"), digest_size=_DIGEST).digest()
    return int.from_bytes(digest)


def drawn(digests: Sequence[int], share: float, seed: int) -> list[int]:
    """Return the indices of the held-out examples, in the order in which they are drawn.

    `share` (0-0.5) is the part of the examples that is wanted; at least `FEWEST` are drawn and at least half stay for
    training. None are drawn where that is impossible: too few examples, or too few questions among them.
    """
    if share == 0 or len(digests) < 2 * FEWEST:
        return []
    wanted = max(FEWEST, min(round(share * len(digests)), len(digests) // 2))
    groups: dict[int, list[int]] = {}
    for index, digest in enumerate(digests):
        groups.setdefault(digest, []).append(index)
    found: list[int] = []
    for digest in sorted(groups, key=lambda digest: _rank(digest, seed)):
        if len(found) + len(groups[digest]) <= wanted:
            found += groups[digest]
    return found if len(found) >= FEWEST else []


def _rank(digest: int, seed: int) -> bytes:
    """The place of a question in the draw."""
    return hashlib.blake2b(digest.to_bytes(_DIGEST) + seed.to_bytes(_DIGEST), digest_size=16).digest()
