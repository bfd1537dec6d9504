"""What the rating queue hands to whoever asks a person: a pair, an answer or a reply to judge, and how far one is.

The command line and the app show these alike. The score is not part of it on purpose: who has seen it agrees with it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Subject = Literal["pair", "sample"]
"""What is rated: a generated pair, or a sample, the answer to a test prompt of an evaluation."""

SUBJECTS: Final[Mapping[str, Subject]] = {"pairs": "pair", "answers": "sample"}
"""What people call them, in the order in which they are offered."""


_SOFT_BREAK = re.compile(r"(?<=\S)\n(?=[^\s#>|*+\-\d])")
"""A line's end inside a paragraph: not before a list, a table, a heading, a quotation or an indented line."""

ROUND = 20
"""Ratings that one sitting aims at: some two minutes."""


@dataclass(frozen=True, slots=True)
class RatingQueue:
    """What is rated: the pairs or the answers of one run."""

    run_id: int
    subject: Subject

    @property
    def noun(self) -> str:
        """What one of them is called."""
        return "pair" if self.subject == "pair" else "answer"


@dataclass(frozen=True, slots=True)
class RatingItem:
    """One thing to rate. A pair has a `passage` and its `evidence`, a sample a `reference`; what is missing is empty.

    `origin` says where it is from: file and heading, or step and model. `asked` is ``audit`` or ``active``.
    """

    subject: Subject
    id: int
    question: str
    answer: str
    origin: str
    asked: str
    passage: str = ""
    evidence: str = ""
    reference: str = ""


@dataclass(frozen=True, slots=True)
class RatingTotals:
    """People's ratings in force that teach one score, by what they say; a rating of 3 of 5 counts as neither.

    `audit` of them were asked for at random. `left` is how many of the run at hand can still be rated.
    """

    rated: int
    good: int
    bad: int
    audit: int
    left: int


def evidence_span(passage: str, evidence: str) -> tuple[int, int] | None:
    """Return where the evidence stands in a passage, whatever white space and case; None where it does not."""
    words = [re.escape(word) for word in evidence.split()]
    found = re.search(r"\s+".join(words), passage, re.IGNORECASE) if words else None
    return found.span() if found else None


def unwrapped(passage: str) -> str:
    """Return a passage with each paragraph on one line, however its file was wrapped."""
    return _SOFT_BREAK.sub(" ", passage)
