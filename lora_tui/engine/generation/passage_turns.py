"""Turns of passages: which files of a pass are asked about, and which passage of each.

Every file has a turn in the first pass. Later a file waits while more was asked of it than its share: so a long file is
not left at its beginning while a short one is asked about for the tenth time. Of a file, passages come spread over its
length, each once before any comes again; among the next `_CHOICE` of them, the one whose topic lags furthest behind its
quota. Passages that brought nothing twice in a row wait until the others bring nothing either.

Pure arithmetic: a few numbers for each file, and a set of the passages that are exhausted.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lora_tui.engine.generation.corpus import Source
from lora_tui.engine.generation.topic_tree import TopicTree

_CHOICE = 8
_TRIES = 2
"""Calls in a row without a kept pair after which a passage is exhausted."""

_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass
class _Turns:
    """Where a file's turns stand: `cursor` counts passages, in the spread order; `waiting` are looked at next."""

    cursor: int = 0
    waiting: list[int] = field(default_factory=list)


class PassageTurns:
    """Chooses passages by the quotas of a topic tree; `asked` has the calls that were planned, by path."""

    def __init__(self, sources: Sequence[Source], tree: TopicTree, asked: Mapping[str, int]) -> None:
        self._tree = tree
        self._sources = {source.path: source for source in sources}
        self._asked = Counter(asked)
        self._total = sum(asked.values())
        self._turns: defaultdict[str, _Turns] = defaultdict(_Turns)
        for path, calls in asked.items():
            self._turns[path].cursor = calls  # about where an earlier process was
        self._fruitless: Counter[tuple[str, int]] = Counter()
        self._exhausted: defaultdict[str, set[int]] = defaultdict(set)
        self._quotas: dict[int, float] = {}
        self._size = 0.0
        self._sizes: dict[str, float] = {}
        self.reweigh()

    def add(self, sources: Iterable[Source]) -> None:
        """Take over files that have been read since, with the tree as it is now."""
        self._sources |= {source.path: source for source in sources}
        self.reweigh()

    def reweigh(self) -> None:
        """Take over the tree's weights as they are now."""
        self._quotas = self._tree.quotas()
        self._sizes = {path: self._size_of(source) for path, source in self._sources.items()}
        self._size = sum(self._sizes.values())

    def has_turn(self, path: str, number: int) -> bool:
        """Tell whether a file is asked about in a pass (from 1)."""
        size = self._sizes[path]
        if not self._size:
            self._forgive()
            return True
        if size <= 0:
            return False
        return number == 1 or self._asked[path] <= self._total * size / self._size

    def take(self, path: str, asked_by_topic: Mapping[str, int]) -> int:
        """Return the position of the passage whose turn it is; `asked_by_topic` counts pairs by topic numbers."""
        self._asked[path] += 1
        self._total += 1
        source, turns = self._sources[path], self._turns[path]
        if source.chunks == 1:
            return 0
        self._fill(source, turns)
        if not turns.waiting:  # every passage is exhausted or left out: in their order, then
            turns.cursor += 1
            return _spread(turns.cursor - 1, source.chunks)
        total = max(1, sum(max(0, pairs) for pairs in asked_by_topic.values()))

        def lead(position: int) -> float:
            topic = self._tree.topic_of(source.document_id, position)
            return max(0, asked_by_topic.get(str(topic), 0)) / total / max(1e-9, self._quotas.get(topic, 1e-9))

        chosen = min(turns.waiting, key=lead)  # the first of equals
        turns.waiting.remove(chosen)
        return chosen

    def report(self, path: str, position: int, kept: int) -> None:
        """Take into account how many pairs a call about a passage brought that no gate refused."""
        if path not in self._sources:
            return
        if kept:
            self._fruitless.pop((path, position), None)
            return
        self._fruitless[path, position] += 1
        if self._fruitless[path, position] >= _TRIES and position not in self._exhausted[path]:
            self._exhausted[path].add(position)
            if position in self._turns[path].waiting:
                self._turns[path].waiting.remove(position)
            weight = self._weight(self._sources[path], position)
            self._sizes[path] = max(0.0, self._sizes[path] - weight)
            self._size = max(0.0, self._size - weight)

    def _fill(self, source: Source, turns: _Turns) -> None:
        """Have `_CHOICE` passages to choose among, never one twice; as many of this round over the file as are left."""
        looked = 0
        while len(turns.waiting) < _CHOICE and looked < source.chunks:
            if turns.waiting and turns.cursor % source.chunks == 0:
                return  # those of this round come before the next
            position = _spread(turns.cursor, source.chunks)
            turns.cursor += 1
            looked += 1
            open_ = position not in self._exhausted[source.path] and self._weight(source, position) > 0
            if open_ and position not in turns.waiting:
                turns.waiting.append(position)

    def _weight(self, source: Source, position: int) -> float:
        return self._tree.weight(self._tree.topic_of(source.document_id, position))

    def _size_of(self, source: Source) -> float:
        """Return the weight of a file's passages that can be asked about."""
        done: Collection[int] = self._exhausted.get(source.path, ())
        return self._tree.size_of(source.document_id, source.chunks) - sum(self._weight(source, one) for one in done)

    def _forgive(self) -> None:
        """Ask about exhausted passages again: nothing else is left."""
        self._exhausted.clear()
        self._fruitless.clear()
        self.reweigh()


def _spread(number: int, positions: int) -> int:
    """Return the position of the n-th turn: each of `positions` once in a round, neighbours far apart."""
    step = max(1, round(positions * _GOLDEN))
    while math.gcd(step, positions) > 1:
        step += 1
    return number * step % positions
