"""The list of a run's pairs on Generate: in any order, with marks, and keys that judge what is marked."""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.message import Message

from lora_tui.store.connection import Store
from lora_tui.store.queries.generation import PairFilter, PairOrder
from lora_tui.tui.actions import AppActions
from lora_tui.tui.services import AppServices
from lora_tui.tui.store_reader import Throttle
from lora_tui.tui.views.pairs import PairWindow, filter_text, next_order, order_of_column, order_text, pair_cells
from lora_tui.tui.widgets.row_list import Cell, Column, RowList

_COLUMNS = (
    Column("", 1),
    Column("verdict", 8, rank=4),
    Column("score", 6, right=True),
    Column("question", 0, share=4, least=32),
    Column("answer", 0, share=3, least=22),
    Column("why not", 0, share=2, least=20, rank=1),
    Column("type", 10, rank=2),
    Column("topic", 14, rank=3),
)
"""Question and answer stay when all that can be left out has gone. The cells are those of `pair_cells`."""

_WHY_RANKS = {"why not": 0, "answer": 1}
_WHY_COLUMNS = tuple(replace(column, rank=_WHY_RANKS.get(column.heading, column.rank)) for column in _COLUMNS)
"""The columns where those that are not accepted are listed: the reason stays, and the answer is left out first."""

_PLAIN_COLUMNS = tuple(replace(column, least=10_000) if column.heading == "why not" else column for column in _COLUMNS)
"""The columns where no pair was refused: there is no reason to show, and no room fits its column."""

_HEADINGS = [column.heading for column in _COLUMNS]


class PairList(RowList):
    """Pairs of one run; `window` has their ids. The cursor follows the newest until it is moved or they are sorted."""

    LESSON = "04-data-and-judging"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("a", "verdict('accepted')", "Accept", id="pair.accept",
                tooltip="Accept this pair, or all that are marked, whatever the score"),
        Binding("r", "verdict('rejected')", "Reject", id="pair.reject",
                tooltip="Reject this pair, or all that are marked, whatever the score"),
        Binding("m", "mark", "Mark", show=False, id="pair.mark",
                tooltip="Mark this pair: the next verdict is for all marked ones"),
        Binding("M", "mark_all", "Mark all", show=False, id="pair.mark-all",
                tooltip="Mark every pair that is listed, or none"),
        Binding("o", "sort", "Sort", show=False, id="pair.sort",
                tooltip="Sort by the next column, then as they were proposed; or click a heading"),
        Binding("e", "edit", "Edit", show=False, id="pair.edit", tooltip="Change the wording of this pair"),
        Binding("u", "undo", "Undo", show=False, id="pair.undo", tooltip="Take back your last verdict or edit"),
        Binding("escape", "unmark", "No marks", show=False, id="pair.unmark", tooltip="Take all marks away"),
    ]  # fmt: skip

    HINT = "m mark · o sort · f filter · / search · e edit · u undo"
    """Keys that the footer has no room for, for the lower border."""

    class Changed(Message):
        """What the title says has changed: how many there are, in which order, how many are marked."""

    def __init__(self, services: AppServices, actions: AppActions) -> None:
        super().__init__(self._cells, _PLAIN_COLUMNS, follow=True, id="pairs")
        self._services = services
        self._app_actions = actions
        self.window: PairWindow | None = None
        self._sort_throttle = Throttle()
        self._has_reasons = False
        """Whether a pair of the run was not accepted, so that there are reasons."""
        self._grows = True
        """Whether pairs are still being added to the run."""

    def _cells(self, index: int) -> Sequence[Cell]:
        window = self.window
        found = window.row(index) if window is not None and index < len(window) else None
        return pair_cells(found) if found is not None else [("…", "dim")]

    # What is listed

    def open_run(self, run_id: int | None) -> None:
        """List the pairs of another run, of none where there is no id."""
        if run_id is None and self.window is None:
            return  # asked at every poll while there is no run: a change that is none would bring the next poll
        self.window = None if run_id is None else PairWindow(run_id)
        if self.window is None and self.count:
            self.show(0)
        self._show_order()

    async def follow_run(self, store: Store, *, changed: bool) -> None:
        """Read the ids of the pairs that match; the cursor stays on its pair. Sorted, at most once a second."""
        window = self.window
        if window is None:
            return
        chosen = self.pair_id if not self.following else None
        found = changed and await window.follow(store)
        if window.is_stale and self._sort_throttle.due():
            await window.read_ids(store)
            self._sort_throttle.done()
            found = True
        if not found:
            return
        self.show(len(window))
        if chosen is not None and (index := window.index_of(chosen)) is not None and index != self.cursor:
            self.cursor = index  # pairs that came or went above it must not move it to another one

    async def read(self, store: Store) -> None:
        """Read the rows in view, and draw them where they have changed."""
        if self.window is not None and await self.window.load(store, self.visible_rows):
            self.refresh()

    async def refilter(self, wanted: PairFilter) -> None:
        """List the pairs that match another filter."""
        store, window = self._services.reader.store, self.window
        if store is None or window is None:
            return
        window.filter = wanted
        self._choose_columns()
        await window.read_ids(store)
        self.following = self.can_follow
        self.show(len(window))
        await self.read(store)
        self.post_message(self.Changed())

    def show_reasons(self, has_reasons: bool, *, grows: bool) -> None:
        """Show the column of reasons where there are any; `grows`: there is a newest pair to follow."""
        self._has_reasons, self._grows = has_reasons, grows
        self._choose_columns()

    def _choose_columns(self) -> None:
        state = self.window.filter.state if self.window is not None else None
        columns = _WHY_COLUMNS if state in ("rejected", "review") else _COLUMNS if self._has_reasons else _PLAIN_COLUMNS
        if columns != self.columns:
            self.columns = columns
            self.refresh()

    async def sort(self, order: PairOrder) -> None:
        """List the pairs in another order, from its top; the order in which they were proposed from its end."""
        store, window = self._services.reader.store, self.window
        if store is None or window is None:
            return
        window.order = order
        await window.read_ids(store)
        self._show_order()
        self.show(len(window))
        if window.is_sorted:
            self.cursor = 0
        await self.read(store)

    def title(self) -> str:
        """How many pairs are listed, which, in what order, how many are marked, and where the cursor is."""
        window = self.window
        if window is None:
            return "Pairs"
        parts = [f"Pairs ({len(window):,})", filter_text(window.filter), order_text(window.order)]
        parts.append(f"{len(window.marked):,} marked" if window.marked else "")
        if not self.following and self.count:
            parts.append(f"row {self.cursor + 1:,}" + (", end: newest" if self.can_follow and self._grows else ""))
        return " · ".join(filter(None, parts))

    @property
    def pair_id(self) -> int | None:
        """Id of the pair under the cursor."""
        window = self.window
        return window.ids[self.cursor] if window is not None and self.cursor < len(window) else None

    def put_cursor(self, pair_id: int) -> None:
        """Put the cursor on a pair, where it is listed: what comes must not move it to another one."""
        if self.window is not None and (index := self.window.index_of(pair_id)) is not None:
            self._put_cursor(index)

    def _put_cursor(self, index: int) -> None:
        self.cursor = index
        self.following = False
        self.post_message(self.Changed())
        self._services.poll_soon()  # the rows that are in view now may not have been read

    def _show_order(self) -> None:
        """Show the arrow; only the order in which pairs were proposed has an end to follow."""
        order = self.window.order if self.window is not None else PairOrder()
        self.sorted_by = (_HEADINGS.index(order.by), order.descending) if order.by in _HEADINGS else None
        self.can_follow = self.following = self.window is None or not self.window.is_sorted
        self._show_marks()

    def _show_marks(self) -> None:
        window = self.window
        marked = window is not None and window.marked
        self.show_marks((lambda index: window is not None and window.ids[index] in window.marked) if marked else None)
        self.post_message(self.Changed())

    # Keys

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer only what there are pairs for."""
        if action == "unmark":
            return self.window is not None and bool(self.window.marked)
        if action in ("verdict", "edit", "mark", "mark_all", "sort"):
            return bool(self.count)
        return super().check_action(action, parameters)

    async def action_verdict(self, verdict: str) -> None:
        """Accept or reject the marked pairs, else the one under the cursor, which goes on to the next."""
        window, pair_id = self.window, self.pair_id
        if window is None or pair_id is None:
            return
        marked = [one for one in window.ids if one in window.marked]
        if not marked and self.cursor + 1 < len(window):
            self._put_cursor(self.cursor + 1)
        window.marked.clear()
        self._show_marks()
        await self._app_actions.override_pairs(marked or [pair_id], verdict)

    def action_mark(self) -> None:
        """Mark the pair under the cursor, or take its mark away, and go on to the next."""
        if self.window is not None and (pair_id := self.pair_id) is not None:
            self.window.marked ^= {pair_id}
            self._put_cursor(self.cursor + 1)
            self._show_marks()

    def action_mark_all(self) -> None:
        """Mark every pair that is listed; where all of them are, none."""
        if self.window is not None:
            listed = set(self.window.ids)
            self.window.marked = set() if listed <= self.window.marked else listed
            self._show_marks()

    def action_unmark(self) -> None:
        """Take all marks away."""
        if self.window is not None:
            self.window.marked.clear()
            self._show_marks()

    async def action_sort(self) -> None:
        """Sort by the next column."""
        if self.window is not None:
            await self.sort(next_order(self.window.order))

    @on(RowList.HeadingChosen)
    async def _heading_chosen(self, event: RowList.HeadingChosen) -> None:
        if self.window is not None:
            await self.sort(order_of_column(_HEADINGS[event.index] or "verdict", self.window.order))

    async def action_edit(self) -> None:
        """Edit the wording of the pair under the cursor."""
        if (pair_id := self.pair_id) is not None:
            from lora_tui.tui.screens.pair import edit_pair

            await edit_pair(self._services, self._app_actions, pair_id)

    async def action_undo(self) -> None:
        """Take back the last verdict or edit; the cursor goes to what it was about."""
        if self.window is not None:
            undone = await self._app_actions.undo(self.window.run_id)
            if undone is not None and undone.pairs:
                self.put_cursor(undone.pairs[0])
