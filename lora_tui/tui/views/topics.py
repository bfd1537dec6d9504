"""The topic tree of a run as lines of a list: each topic under the one above it, with what it has of its share."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lora_tui.store.rows import TopicRow
from lora_tui.text import count, one_line
from lora_tui.tui.text import percent

WEIGHTS = (0.0, 0.5, 1.0, 2.0, 4.0)
"""The weights that the keys of the sheet go through."""

_WORDS = {0.0: "nothing", 0.5: "half", 1.0: "", 2.0: "twice", 4.0: "4 times"}


@dataclass(frozen=True, slots=True)
class TopicLine:
    """A topic with all beneath it: its depth, passages, share of the pairs (0-1), and its pairs.

    `left_out`: it has the weight 0, or a topic above it has.
    """

    topic: TopicRow
    depth: int
    passages: int
    share: float
    accepted: int
    proposed: int
    left_out: bool


def topic_lines(topics: Sequence[TopicRow], pairs: Mapping[int, tuple[int, int]]) -> list[TopicLine]:
    """Return the lines of a tree, each topic before those beneath it; `pairs` are accepted and proposed by number."""
    numbers = {topic.number for topic in topics}
    beneath: defaultdict[int | None, list[TopicRow]] = defaultdict(list)
    for topic in topics:
        beneath[topic.parent if topic.parent in numbers else None].append(topic)
    found: list[TopicLine] = []
    sizes: dict[int, float] = {}

    def walk(topic: TopicRow, depth: int, above: float) -> tuple[int, float, int, int]:
        weight = above * topic.weight
        place = len(found)
        found.append(TopicLine(topic, depth, 0, 0.0, 0, 0, weight == 0))
        passages, size = topic.passages, topic.passages * weight
        accepted, proposed = pairs.get(topic.number, (0, 0))
        for child in beneath[topic.number]:
            own = walk(child, depth + 1, weight)
            passages, size, accepted, proposed = passages + own[0], size + own[1], accepted + own[2], proposed + own[3]
        sizes[place] = size
        found[place] = TopicLine(topic, depth, passages, 0.0, accepted, proposed, weight == 0)
        return passages, size, accepted, proposed

    total = sum(walk(topic, 0, 1.0)[1] for topic in beneath[None])
    return [
        TopicLine(
            line.topic,
            line.depth,
            line.passages,
            sizes[place] / total if total else 0.0,
            line.accepted,
            line.proposed,
            line.left_out,
        )
        for place, line in enumerate(found)
    ]


def topic_cells(line: TopicLine) -> list[tuple[str, str]]:
    """Return the cells of a topic: name, passages, share of the pairs, accepted, proposed, and its weight in words."""
    style = "dim" if line.left_out else "strong" if line.depth == 0 else ""
    name = "  " * line.depth + one_line(line.topic.name, 200)
    accepted = "good" if line.accepted else "dim" if line.left_out else "warn"
    words = _WORDS.get(line.topic.weight, f"×{line.topic.weight:g}")
    return [
        (name, style),
        (f"{line.passages:,}", "dim"),
        ("–" if line.left_out else percent(line.share, 1.0), "dim"),
        (f"{line.accepted:,}", accepted),
        (f"{line.proposed:,}", "dim"),
        ("left out" if line.left_out and line.topic.weight else words, "accent" if words else "dim"),
    ]


def topics_title(lines: Sequence[TopicLine], run_id: int) -> str:
    """Return the title of the list: how many topics there are, and how many have an accepted pair."""
    leaves = [line for line in lines if line.topic.passages and not line.left_out]
    covered = sum(bool(line.accepted) for line in leaves)
    return f"Topics of run {run_id}: {covered:,} of {count(len(leaves), 'topic')} have a pair" if lines else "Topics"
