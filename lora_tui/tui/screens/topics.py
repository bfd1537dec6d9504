"""The topics of a run's folder: how much text each has, how many pairs it got, and how much is asked about it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical

from lora_tui.store import topics as store_topics
from lora_tui.store.queries.runs import RunLine
from lora_tui.store.rows import TopicRow
from lora_tui.text import count, one_line
from lora_tui.tui.actions import AppActions
from lora_tui.tui.dialogs import Dialog
from lora_tui.tui.screens.base import titled
from lora_tui.tui.services import AppServices
from lora_tui.tui.text import DIM, percent, styled
from lora_tui.tui.widgets.key_hints import KeyHints
from lora_tui.tui.widgets.panel import Line, set_title
from lora_tui.tui.widgets.row_list import Cell, Column, RowList

_COLUMNS = (
    Column("topic", 0, least=20),
    Column("passages", 8, right=True, rank=3),
    Column("share", 5, right=True, rank=2),
    Column("accepted", 8, right=True),
    Column("proposed", 8, right=True, rank=1),
    Column("weight", 8),
)
_WEIGHTS = (0.0, 0.5, 1.0, 2.0, 4.0)
"""The weights that the keys of the sheet go through."""

_WORDS = {0.0: "nothing", 0.5: "half", 1.0: "", 2.0: "twice", 4.0: "4 times"}

_SECONDS = 1.0
_NOTE = "A topic's share of the pairs is that of its text, times its weight."
_NONE = "This run has no topics: data_generation.diversity was off, or it is of an earlier version."


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


class _TopicList(RowList):
    """A list whose rows do not open."""

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer all but opening."""
        return action != "choose" and super().check_action(action, parameters)


class TopicsScreen(Dialog[None]):
    """Sheet with the topic tree of a run, whose weights can be changed while it generates."""

    LESSON = "04-data-and-judging"
    AUTO_FOCUS = "#topics"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("plus,equals_sign", "weigh(1)", "More", key_display="+", id="topics.more",
                tooltip="Ask more about the topic under the cursor: half, normal, twice, four times"),
        Binding("minus", "weigh(-1)", "Less", key_display="-", id="topics.less",
                tooltip="Ask less about the topic under the cursor"),
        Binding("x", "leave_out", "Leave out", id="topics.leave-out",
                tooltip="Ask nothing about the topic under the cursor, and those beneath it; again: ask about it"),
        Binding("escape,q", "dismiss", "Back", id="topics.close"),
        Binding("question_mark", "app.help", "Help", show=False, key_display="?"),
    ]  # fmt: skip

    def __init__(self, services: AppServices, actions: AppActions, run: RunLine) -> None:
        super().__init__()
        self._services = services
        self._actions = actions
        self._run = run
        self._lines: Sequence[TopicLine] = ()

    def compose(self) -> ComposeResult:
        """The list, what its keys do, hints."""
        with Vertical(classes="sheet"):
            with titled(Vertical(id="topics-box", classes="box"), "Topics"):
                yield _TopicList(self._row, _COLUMNS, id="topics")
            yield Line(id="topics-note")
            yield KeyHints()

    @on(events.Mount)
    async def _begin(self) -> None:
        self.set_interval(_SECONDS, self._services.guarded(self._read))
        await self._services.guarded(self._read)()

    async def _read(self) -> None:
        store = self._services.reader.store
        if store is None:
            return
        topics = await store_topics.topics_of(store, self._run.id)
        self._lines = topic_lines(topics, await store_topics.pairs_by_topic(store, self._run.id))
        rows = self.query_one("#topics", RowList)
        rows.set_empty_text(_NONE)
        rows.show(len(self._lines))
        set_title(self.query_one("#topics-box"), topics_title(self._lines, self._run.id))
        self.query_one("#topics-note", Line).show(styled((_NOTE, DIM)))

    def _row(self, index: int) -> Sequence[Cell]:
        return topic_cells(self._lines[index]) if index < len(self._lines) else []

    async def action_weigh(self, step: int) -> None:
        """Ask more or less about a topic."""
        if (line := self._line) is not None:
            nearest = min(range(len(_WEIGHTS)), key=lambda at: abs(_WEIGHTS[at] - line.topic.weight))
            await self._set(line, _WEIGHTS[min(max(0, nearest + step), len(_WEIGHTS) - 1)])

    async def action_leave_out(self) -> None:
        """Ask nothing about a topic, or about it again."""
        if (line := self._line) is not None:
            await self._set(line, 0.0 if line.topic.weight else 1.0)

    @property
    def _line(self) -> TopicLine | None:
        index = self.query_one("#topics", RowList).cursor
        return self._lines[index] if 0 <= index < len(self._lines) else None

    async def _set(self, line: TopicLine, weight: float) -> None:
        with self._services.reporting():
            await self._services.backend.weigh_topic(self._run.id, line.topic.number, weight)
        await self._read()
