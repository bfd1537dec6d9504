"""The topic tree of a folder: which topics it has, how much text each, and how many pairs each should get.

A file is a topic; where its passages stand under several headings, each of these is one beneath it. A model may join
files to larger topics. A topic's quota is its share of the folder's passages, times a weight that people may change
(0 leaves it out). Leaves alone have passages of their own. The tree of the largest folder has `MOST_TOPICS` leaves:
where headings are more, files are the leaves; where files are more, their folders are.

No text is kept: a passage's topic is found by its document and position, over one small list for each document.
"""

import asyncio
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lora_tui.engine.generation.corpus import Corpus, Source, title_of
from lora_tui.store import topics as store_topics
from lora_tui.store.connection import Store
from lora_tui.store.rows import TopicRow

MOST_TOPICS = 400
"""Leaves that a tree has at most."""

_HEADINGS_OF_FILE = 60


@dataclass(frozen=True, slots=True)
class Headings:
    """The headings of a file's passages: (first position, heading) of each run of passages under one heading."""

    path: str
    document_id: str
    passages: int
    runs: tuple[tuple[int, str], ...]


@dataclass
class TopicTree:
    """Topics by their numbers, and the leaf that each passage belongs to."""

    topics: dict[int, TopicRow]
    _runs: dict[str, tuple[Sequence[int], Sequence[int]]]  # of a document: first positions in order, and topics
    _weights: dict[int, float] = field(default_factory=dict)  # of leaves, their parents' included

    def __post_init__(self) -> None:
        self.reweigh({})

    @property
    def leaves(self) -> Sequence[TopicRow]:
        """The topics that have passages of their own."""
        return [topic for topic in self.topics.values() if topic.passages]

    def topic_of(self, document_id: str, position: int) -> int:
        """Return the number of a passage's topic; 0 where it is not known."""
        known = self._runs.get(document_id)
        return known[1][max(0, bisect_right(known[0], position) - 1)] if known else 0

    def name_of(self, number: int) -> str:
        """Return a topic's name; empty for 0."""
        return self.topics[number].name if number in self.topics else ""

    def reweigh(self, weights: Mapping[int, float]) -> None:
        """Take over the weights of topics that people have changed."""
        for number, weight in weights.items():
            if number in self.topics:
                self.topics[number] = replace(self.topics[number], weight=weight)
        self._weights = {leaf.number: self._weight_of(leaf) for leaf in self.leaves}
        if not any(self._weights.values()):
            self._weights = dict.fromkeys(self._weights, 1.0)  # everything is left out: as if nothing were

    def take_over(self, other: "TopicTree") -> None:
        """Become as another tree, in place: planner and analyst have this one."""
        self.topics, self._runs = other.topics, other._runs
        self.reweigh({})

    def weight(self, number: int) -> float:
        """Return a leaf's weight times those of the topics above it: 1 where nobody has changed anything."""
        return self._weights.get(number, 1.0)

    def size_of(self, document_id: str, passages: int) -> float:
        """Return the number of a document's passages, each times its weight."""
        starts, leaves = self._runs.get(document_id, ((0,), (0,)))
        ends = [*starts[1:], passages]
        return sum((end - start) * self.weight(leaf) for start, leaf, end in zip(starts, leaves, ends, strict=True))

    def quotas(self) -> dict[int, float]:
        """Return the share of the pairs that each leaf should get; they add up to 1."""
        sizes = {leaf.number: leaf.passages * self.weight(leaf.number) for leaf in self.leaves}
        total = sum(sizes.values())
        return {number: size / total for number, size in sizes.items()}

    def _weight_of(self, topic: TopicRow) -> float:
        weight, parent = topic.weight, topic.parent
        while parent is not None and parent in self.topics:
            weight *= self.topics[parent].weight
            parent = self.topics[parent].parent
        return weight


async def load_tree(store: Store, run_id: int, corpus: Corpus) -> TopicTree:
    """Return the tree of what has been read of a run's folder, and store it; what people have changed in it stays."""
    tree = TopicTree({}, {})
    await refresh_tree(tree, store, run_id, corpus)
    return tree


async def refresh_tree(tree: TopicTree, store: Store, run_id: int, corpus: Corpus) -> None:
    """Take over into a tree, and into the store, what has been read of the folder since."""
    files, stored = await read_headings(store, corpus), await store_topics.topics_of(store, run_id)
    new = await asyncio.to_thread(build_tree, files, stored)
    gone = [one.number for one in stored if one.number not in new.topics and not one.passages]
    async with store.transaction() as t:
        weights = {topic.number: topic.weight for topic in await store_topics.topics_of(t, run_id)}
        new.reweigh(weights)  # people may have changed them just now
        await store_topics.put_topics(t, run_id, new.topics.values())
        await store_topics.forget_topics(t, run_id, gone)
    tree.take_over(new)


async def read_headings(store: Store, corpus: Corpus) -> list[Headings]:
    """Return the headings of a corpus's files from the store; of very many files, that they have passages alone.

    In a folder that is read beside the calls, each file is a topic from the beginning: none becomes others meanwhile.
    """
    alone = ((0, ""),)
    if corpus.grows:
        read, skipped = {source.path: source for source in corpus.sources}, {name for name, _ in corpus.skipped}
        unread = Source("", "", 0)
        return [
            Headings(path, found.document_id, found.chunks, alone)
            for path in corpus.paths
            if len(corpus.paths) > MOST_TOPICS or path not in skipped
            for found in [read.get(path, unread)]
        ]
    if len(corpus.sources) > MOST_TOPICS:
        return [Headings(source.path, source.document_id, source.chunks, alone) for source in corpus.sources]
    found = []
    for source in corpus.sources:
        runs: list[tuple[int, str]] = []
        for position, heading in await store_topics.headings(store, source.document_id, corpus.chunking):
            if not runs or runs[-1][1] != heading:
                runs.append((position if runs else 0, heading))
        found.append(Headings(source.path, source.document_id, source.chunks, tuple(runs) or alone))
    return found


def build_tree(files: Sequence[Headings], stored: Sequence[TopicRow] = ()) -> TopicTree:
    """Build the tree of a folder's files; topics that are `stored` keep their numbers, names, weights and groups."""
    leaves_of = _leaf_chooser(files)
    known = {topic.key: topic for topic in stored}
    groups = {topic.number: topic for topic in stored if topic.origin == "model"}
    next_number = max((topic.number for topic in stored), default=0)
    numbers: dict[str, int] = {}
    sizes: Counter[str] = Counter()
    topics: dict[int, TopicRow] = dict(groups)
    runs: dict[str, tuple[Sequence[int], Sequence[int]]] = {}

    def number_of(key: str, name: str, origin: str, parent: int | None) -> int:
        nonlocal next_number
        if key not in numbers:
            if key in known:
                numbers[key] = known[key].number
                topics[numbers[key]] = replace(known[key], passages=0)
            else:
                numbers[key] = next_number = next_number + 1
                topics[next_number] = TopicRow(next_number, key, parent, name, origin, 0, 1.0)
        return numbers[key]

    shared: dict[tuple[tuple[int, ...], tuple[int, ...]], tuple[tuple[int, ...], tuple[int, ...]]] = {}
    for file in files:
        starts: list[int] = []
        leaves: list[int] = []
        ends = [*(first for first, _ in file.runs[1:]), file.passages]
        for (start, heading), end in zip(file.runs, ends, strict=True):
            key, name, origin = leaves_of(file, heading)
            above = None if origin != "heading" else number_of(file.path, title_of(file.path), "file", None)
            leaf = number_of(key, name, origin, above)
            sizes[key] += end - start
            if not leaves or leaves[-1] != leaf:
                starts.append(start)
                leaves.append(leaf)
        if not file.document_id:
            continue  # it is still to be read
        found = tuple(starts), tuple(leaves)
        runs[file.document_id] = shared.setdefault(found, found)  # 200,000 files have 400 topics
    for key, size in sizes.items():
        topics[numbers[key]] = replace(topics[numbers[key]], passages=size)
    return TopicTree(topics, runs)


def _leaf_chooser(files: Sequence[Headings]) -> Callable[[Headings, str], tuple[str, str, str]]:
    """Return a function from a file and a heading in it to key, name and origin of the leaf of the text under it."""
    if len(files) > MOST_TOPICS:
        depth = next(depth for depth in (2, 1, 0) if len({_folder_of(one.path, depth) for one in files}) <= MOST_TOPICS)
        return lambda file, _: _folder_of(file.path, depth)
    counts = {file.path: len({heading for _, heading in file.runs}) for file in files}
    by_heading = sum(min(count, _HEADINGS_OF_FILE) for count in counts.values()) <= MOST_TOPICS

    def leaf(file: Headings, heading: str) -> tuple[str, str, str]:
        if by_heading and 1 < counts[file.path] <= _HEADINGS_OF_FILE:
            return f"{file.path}#{heading}", heading or title_of(file.path), "heading"
        return file.path, title_of(file.path), "file"

    return leaf


def _folder_of(path: str, depth: int) -> tuple[str, str, str]:
    """Return the leaf of a file among very many: its folder, `depth` names deep, or the first letter of its path."""
    folders = path.split("/")[:-1][:depth]
    if folders:
        joined = "/".join(folders)
        return f"{joined}/", " ".join(joined.replace("-", " ").replace("_", " ").split()), "folder"
    letter = path[:1].casefold()
    letter = letter if letter.isascii() else "other"
    return f"{letter}*", f"{letter}…", "folder"


def grouped(tree: TopicTree, groups: Sequence[tuple[str, Sequence[int]]]) -> TopicTree:
    """Return the tree with topics joined to larger ones: each name with the numbers of topics without a parent."""
    topics = dict(tree.topics)
    next_number = max(topics, default=0)
    taken: set[int] = set()
    for name, members in groups:
        free = [n for n in dict.fromkeys(members) if n in topics and topics[n].parent is None and n not in taken]
        if len(free) < 2:
            continue
        next_number += 1
        topics[next_number] = TopicRow(next_number, f"group:{name}", None, name, "model", 0, 1.0)
        taken.update(free)
        for number in free:
            topics[number] = replace(topics[number], parent=next_number)
    return TopicTree(topics, tree._runs)
