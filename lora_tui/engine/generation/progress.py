"""Progress of a generation run: pairs by state, how many are missing, and whether asking for more still helps.

Pure arithmetic over counts: the workers report what happened, the pipeline asks what to do.
"""

import math
from collections import Counter
from collections.abc import Mapping

_LOWEST_ACCEPTANCE = 0.1
_PRIOR_ACCEPTED = 4
"""Pairs that count as accepted before any is: an early rejection must not look like a trend."""

_QUEUE_PER_CALL = 1
"""Pairs that may wait for the judge, for each call that may be under way."""

MOST_FRUITLESS = 500
"""Calls in a row without an accepted pair after which a run ends, however many passages there are."""


class GenerationProgress:
    """Counts of a run: `counts` are pairs by state, ``waiting`` those that passed the gates and are not judged yet.

    `requested` is how many pairs the calls in flight ask for, `fruitless` how many calls in a row had none accepted,
    `concurrency` how many calls may be under way now.
    """

    def __init__(self, target: int, fruitless_limit: int, concurrency: int, counts: dict[str, int]) -> None:
        self.target = target
        self.limit_fruitless(fruitless_limit)
        self.concurrency = concurrency
        self.fruitless = 0
        self.requested = 0
        self.counts = Counter(counts)
        self._undecided: dict[int, int] = {}  # waiting pairs by the task that wrote them

    def limit_fruitless(self, most: int) -> None:
        """Have the run end after so many calls without an accepted pair, or `MOST_FRUITLESS`."""
        self.fruitless_limit = min(most, MOST_FRUITLESS)

    @property
    def accepted(self) -> int:
        """Accepted pairs."""
        return self.counts["accepted"]

    @property
    def missing(self) -> int:
        """Accepted pairs that are still missing."""
        return max(0, self.target - self.accepted)

    @property
    def acceptance_rate(self) -> float:
        """The share of proposed pairs that is accepted, 0.1-1, smoothed by `_PRIOR_ACCEPTED` accepted pairs."""
        decided = self.accepted + self.counts["rejected"] + self.counts["review"]
        return max(_LOWEST_ACCEPTANCE, (self.accepted + _PRIOR_ACCEPTED) / (decided + _PRIOR_ACCEPTED))

    @property
    def exhausted(self) -> bool:
        """Whether the last calls, about one for every passage or `MOST_FRUITLESS`, had no pair accepted."""
        return self.fruitless >= self.fruitless_limit

    @property
    def wants_pairs(self) -> bool:
        """Whether another call for pairs should begin: those under way will not do, and the judge keeps up."""
        return not self.exhausted and self.wanted > 0 and self.counts["waiting"] < _QUEUE_PER_CALL * self.concurrency

    @property
    def wanted(self) -> int:
        """How many more pairs to ask for, so that with those under way enough should be accepted."""
        under_way = self.counts["waiting"] + self.requested
        return max(0, math.ceil(self.missing / self.acceptance_rate - under_way))

    def add_proposed(self, task_id: int, waiting: int, rejected: int) -> None:
        """Count the pairs that a call for pairs brought; 0 and 0 where it failed."""
        self.counts["waiting"] += waiting
        self.counts["rejected"] += rejected
        if waiting:
            self._undecided[task_id] = waiting
        else:
            self.fruitless += 1

    def add_verdict(self, task_id: int, verdict: str) -> None:
        """Count the verdict on a waiting pair; `task_id` is the task that wrote it."""
        self.counts["waiting"] -= 1
        self.counts[verdict] += 1
        left = self._undecided.pop(task_id, 0) - 1
        if left > 0:
            self._undecided[task_id] = left
        if verdict == "accepted":
            self.fruitless = 0
        elif left == 0:
            self.fruitless += 1

    def recount(self, counts: Mapping[str, int], waiting: Mapping[int, int]) -> bool:
        """Take over the counts of the store, where people change verdicts; returns whether they differed.

        `waiting` has the waiting pairs by the task that wrote them. A pair that a person accepts ends a series of
        fruitless calls as one that the judge accepts does.
        """
        changed = Counter(counts) != self.counts
        if counts.get("accepted", 0) > self.accepted:
            self.fruitless = 0
        self.counts = Counter(counts)
        self._undecided = {task: waiting[task] for task in self._undecided if waiting.get(task)}
        return changed
