"""The rating queue's choice of what a person is asked next: pure functions over candidates and their metrics.

One in four is an audit: drawn at random from all there is, so that what it says holds for all. The others are asked
because they teach most. Which are audits is a property of each candidate (a hash of its id), not of the moment: an
audited pair never competes for being instructive, so the audit stays a random sample whatever has been asked before,
by whom, and in how many sittings.

What teaches most, by the expected information of a rating (Chaloner and Verdinelli 1995, "Bayesian experimental
design"): the variance of its log-odds under what is known of the weights, times p·(1-p), the variance of the verdict.
It is high where the weights are unsure *and* the verdict is open. ``tests/bench/rating_queue.py`` compares it with
others.
"""

import hashlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Protocol

from lora_tui.store.feedback import ACTIVE, AUDIT

AUDIT_SHARE = 4
"""One rating in so many is an audit."""

MOST_CANDIDATES = 400
"""Candidates that are compared at most, a random part where there are more: a choice stays within some milliseconds."""


class Score(Protocol):
    """What the choice needs of an aggregator."""

    def score(self, metrics: Mapping[str, float]) -> float:
        """The probability that a person accepts what has these metrics."""

    def uncertainty(self, metrics: Mapping[str, float]) -> float:
        """The standard deviation of its log-odds under what is known of the weights."""


@lru_cache(maxsize=200_000)  # a run of 20,000 pairs is put in order before every question
def draw(subject: str, candidate_id: int) -> int:
    """Return a candidate's random number, always the same one: audits by its remainder, order by its size."""
    digest = hashlib.blake2b(f"{subject} {candidate_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest)


def is_audit(subject: str, candidate_id: int) -> bool:
    """Whether a candidate is asked about as an audit, if at all."""
    return draw(subject, candidate_id) % AUDIT_SHARE == 0


def audit_is_due(audits: int, actives: int) -> bool:
    """Whether the next one asked is an audit, after so many of each: the first, the fifth, …"""
    return audits * AUDIT_SHARE <= audits + actives


def shortlist(subject: str, ids: Iterable[int], audits: int, actives: int) -> tuple[list[int], str]:
    """Return the candidates that the next one is chosen from, and how it will have been asked.

    An audit is chosen already: the list has one. Where one kind has run out the other is asked; none are left where the
    list is empty.
    """
    order = sorted(ids, key=lambda candidate: draw(subject, candidate))
    of_audit = [candidate for candidate in order if is_audit(subject, candidate)]
    others = [candidate for candidate in order if not is_audit(subject, candidate)]
    if of_audit and (audit_is_due(audits, actives) or not others):
        return of_audit[:1], AUDIT
    return others[:MOST_CANDIDATES], ACTIVE


def information(score: Score, metrics: Mapping[str, float]) -> float:
    """Return how much a rating of this is expected to teach, in units of its own; see the module's docstring."""
    probability = score.score(metrics)
    return score.uncertainty(metrics) ** 2 * probability * (1 - probability)


def most_instructive(score: Score, candidates: Mapping[int, Mapping[str, float]]) -> int:
    """Return the candidate whose rating teaches most; among equals the first.

    Raises:
        ValueError: There is no candidate.
    """
    return max(candidates, key=lambda candidate: information(score, candidates[candidate]))
