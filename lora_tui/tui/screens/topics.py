"""The topics of a run's folder: how much text each has, how many pairs it got, and how much is asked about it."""

from collections.abc import Sequence
from typing import ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical

from lora_tui.store import topics as store_topics
from lora_tui.store.queries.runs import RunLine
from lora_tui.tui.actions import AppActions
from lora_tui.tui.dialogs import Dialog
from lora_tui.tui.screens.base import titled
from lora_tui.tui.services import AppServices
from lora_tui.tui.text import DIM, styled
from lora_tui.tui.views.topics import WEIGHTS, TopicLine, topic_cells, topic_lines, topics_title
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
_SECONDS = 1.0
_NOTE = "A topic's share of the pairs is that of its text, times its weight."
_NONE = "This run has no topics: data_generation.diversity was off, or it is of an earlier version."


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
            nearest = min(range(len(WEIGHTS)), key=lambda at: abs(WEIGHTS[at] - line.topic.weight))
            await self._set(line, WEIGHTS[min(max(0, nearest + step), len(WEIGHTS) - 1)])

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
