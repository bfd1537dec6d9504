"""Where a run stands: how many pairs there are of each kind, how many are wanted, and whether asking still helps.

Plain arithmetic over counts; the pipeline tells it what happened and asks it what to do.
"""

from collections import Counter
from collections.abc import Mapping

_LOWEST_ACCEPTANCE = 0.1
_BENEFIT_OF_DOUBT = 4
_QUEUE_A_PLACE = 4


class GenerationProgress:
    """Counts of a run. `waiting` pairs have passed the gates and are not decided; `asked` ones are being written."""

    def __init__(self, target: int, fruitless_limit: int, concurrency: int, counts: dict[str, int]) -> None:
        self.target = target
        self.fruitless_limit = fruitless_limit
        self.fruitless = 0
        self.asked = 0
        self.counts = Counter(counts)
        self._longest_queue = _QUEUE_A_PLACE * concurrency
        self._undecided: dict[int, int] = {}  # pairs of a call that wait for their verdict, by the call's task

    @property
    def accepted(self) -> int:
        """Accepted pairs."""
        return self.counts["accepted"]

    @property
    def need(self) -> int:
        """Accepted pairs that are still missing."""
        return max(0, self.target - self.accepted)

    @property
    def acceptance(self) -> float:
        """The share of proposed pairs that is accepted, with the benefit of doubt at the beginning."""
        decided = self.accepted + self.counts["rejected"] + self.counts["review"]
        estimate = (self.accepted + _BENEFIT_OF_DOUBT) / (decided + _BENEFIT_OF_DOUBT)
        return max(_LOWEST_ACCEPTANCE, estimate)

    @property
    def exhausted(self) -> bool:
        """Whether the last calls, about one for every passage, brought nothing that was accepted."""
        return self.fruitless >= self.fruitless_limit

    @property
    def wants_pairs(self) -> bool:
        """Whether another call for pairs should begin: what is under way will not do, and the judge keeps up."""
        under_way = self.counts["waiting"] + self.asked
        return (
            not self.exhausted
            and under_way * self.acceptance < self.need
            and self.counts["waiting"] < self._longest_queue
        )

    def proposed(self, task_id: int, waiting: int, rejected: int) -> None:
        """Note what came of a call for pairs; nothing at all is told as 0 and 0."""
        self.counts["waiting"] += waiting
        self.counts["rejected"] += rejected
        if waiting:
            self._undecided[task_id] = waiting
        else:
            self.fruitless += 1

    def decided(self, task_id: int, verdict: str) -> None:
        """Note the verdict on a waiting pair; `task_id` is the task that wrote it."""
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
        """Take the counts as they are in the store; returns whether they were others here.

        People change verdicts while a run works. `waiting` has the pairs that wait, by the task that wrote them. What
        a person accepts shows as well as a judge's verdict that asking still helps.
        """
        changed = Counter(counts) != self.counts
        if counts.get("accepted", 0) > self.accepted:
            self.fruitless = 0
        self.counts = Counter(counts)
        self._undecided = {task: waiting[task] for task in self._undecided if waiting.get(task)}
        return changed
