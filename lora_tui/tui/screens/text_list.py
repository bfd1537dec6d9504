"""The texts of a generation run: documents, conversations and wordings as a list, the one under the cursor in full."""

from collections.abc import Sequence
from typing import Any, ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from lora_tui.store import texts
from lora_tui.store.texts import TextLine, TextRow
from lora_tui.tui.actions import AppActions
from lora_tui.tui.dialogs import Dialog
from lora_tui.tui.services import AppServices
from lora_tui.tui.text import DIM, safe_line, safe_text, styled
from lora_tui.tui.theme import VERDICT_COLOURS, VERDICT_WORDS, verdict_label
from lora_tui.tui.views.generation import SHOWN_FORMS
from lora_tui.tui.widgets.key_hints import KeyHints
from lora_tui.tui.widgets.panel import set_title
from lora_tui.tui.widgets.row_list import Cell, Column, RowList

_COLUMNS = (
    Column("", 1),
    Column("score", 5, right=True),
    Column("form", 8),
    Column("title", 0, least=16),
    Column("words", 6, right=True, rank=1),
    Column("why not", 0, least=20, rank=2),
)
_STYLES = {"accepted": "good", "rejected": "dim", "review": "warn", "waiting": "other"}
_REFRESH_SECONDS = 1.0
_MARGIN = 100
"""Lines that are loaded before and behind those in view."""

_LONGEST = 20_000
"""Characters of a text that are shown."""


class TextList(Dialog[None]):
    """Sheet with the texts of a run; while the run writes, they come in."""

    LESSON = "04-data-and-judging"
    AUTO_FOCUS = "#texts"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "dismiss", "Back", id="texts.close"),
        Binding("a", "verdict('accepted')", "Accept", id="texts.accept", tooltip="Keep this text, whatever its score"),
        Binding("r", "verdict('rejected')", "Reject", id="texts.reject", tooltip="Leave this text out of training"),
        Binding("f", "filter", "Filter", id="texts.filter", tooltip="All, accepted, rejected, review"),
        Binding("space", "page(1)", "Read on", id="texts.down", tooltip="Scroll the text down"),
        Binding("b", "page(-1)", "Back up", show=False, id="texts.up", tooltip="Scroll the text up"),
        Binding("y", "copy", "Copy", id="texts.copy", tooltip="Copy the text under the cursor"),
        Binding("question_mark", "app.help", "Help", show=False, key_display="?"),
    ]

    def __init__(self, services: AppServices, actions: AppActions, run_id: int) -> None:
        super().__init__()
        self._services = services
        self._app_actions = actions
        self._run_id = run_id
        self._ids: Sequence[int] = ()
        self._lines: dict[int, TextLine] = {}  # of those in view, and some beyond, by id
        self._row: TextRow | None = None
        self._filter = 0

    def compose(self) -> ComposeResult:
        """The list above, the text under the cursor below."""
        with Vertical(classes="sheet", id="texts-sheet"):
            with Container(id="texts-box", classes="box"):
                yield RowList(self._cells_of, _COLUMNS, id="texts", empty="no text yet")
            with VerticalScroll(id="text-box", classes="box"):
                yield Static(id="text", markup=False)
            yield KeyHints()

    @on(events.Mount)
    async def _begin(self) -> None:
        self.set_interval(_REFRESH_SECONDS, self._services.guarded(self._read))
        await self._services.guarded(self._read)()

    async def _read(self) -> None:
        store = self._services.reader.store
        if store is None:
            return
        states = _FILTERS[self._filter]
        self._ids = await texts.ids(store, self._run_id, states)
        self._lines.clear()  # verdicts come in
        self.query_one("#texts", RowList).show(len(self._ids))
        shown = "" if states == texts.VERDICTS else f", {VERDICT_WORDS.get(states[0], states[0])}"
        set_title(self.query_one("#texts-box"), f"Texts of run {self._run_id} ({len(self._ids):,}{shown})")
        await self._show_row()

    @on(RowList.Moved, "#texts")
    async def _show_row(self) -> None:
        """Show the text under the cursor."""
        store, index = self._services.reader.store, self.query_one("#texts", RowList).cursor
        await self._load()
        wanted = self._ids[index] if index < len(self._ids) else None
        if store is None or (self._row is not None and self._row.id == wanted and self._row.state != "waiting"):
            return
        moved = self._row is None or self._row.id != wanted
        self._row = None if wanted is None else await texts.get(store, wanted)
        self.query_one("#text", Static).update(text_content(self._row) if self._row is not None else "")
        set_title(self.query_one("#text-box"), "" if self._row is None else safe_line(self._row.source, 60).plain)
        if moved:
            self.query_one("#text-box").scroll_home(animate=False)

    async def _load(self) -> None:
        """Load the lines in view, and some beyond."""
        store, rows = self._services.reader.store, self.query_one("#texts", RowList)
        view = rows.visible_rows
        if store is None or all(self._ids[index] in self._lines for index in view if index < len(self._ids)):
            return
        near = self._ids[max(0, view.start - _MARGIN) : view.stop + _MARGIN]
        self._lines = {line.id: line for line in await texts.lines(store, near)}
        rows.refresh()

    @on(RowList.Chosen, "#texts")
    def _read_it(self) -> None:
        """Go to the text, so that the arrow keys scroll it; escape or tab lead back."""
        self.query_one("#text-box").focus()

    def _cells_of(self, index: int) -> Sequence[Cell]:
        line = self._lines.get(self._ids[index]) if index < len(self._ids) else None
        if line is None:
            return []
        style = _STYLES.get(line.state, "")
        score = "" if line.score is None else f"{line.score:.1f}"
        why = "" if line.state == "accepted" else line.reason
        form = SHOWN_FORMS.get(line.form, line.form)
        return [
            (verdict_label(line.state)[:1], style), (score, ""), (form, "accent"), (line.title, ""),
            (f"{line.words:,}", "dim"), (why, "dim"),
        ]  # fmt: skip

    async def action_filter(self) -> None:
        """Show the texts of the next verdict."""
        self._filter = (self._filter + 1) % len(_FILTERS)
        self._row = None
        await self._read()

    async def action_verdict(self, verdict: str) -> None:
        """Accept or reject the text under the cursor."""
        if self._row is not None and await self._app_actions.override_text(self._row.id, verdict) is not None:
            self._row = None
            await self._read()

    def action_page(self, way: int) -> None:
        """Scroll the text by a page."""
        box = self.query_one("#text-box")
        (box.scroll_page_down if way > 0 else box.scroll_page_up)(animate=False)

    def action_copy(self) -> None:
        """Send the text to the clipboard."""
        if self._row is not None:
            self._services.copy(f"{self._row.title}\n\n{self._row.body}")


_FILTERS: Sequence[Sequence[str]] = (texts.VERDICTS, ("accepted",), ("rejected",), ("review",))


def text_content(row: TextRow) -> Content:
    """A text in full: its verdict, its title, and what it says; of a conversation who says what."""
    colour = VERDICT_COLOURS.get(row.state, "")
    parts: list[Any] = [(verdict_label(row.state), f"bold {colour}")]
    if row.score is not None:
        parts += [(f"  {row.score:.1f}", "bold"), (" of 10", DIM)]
    if row.reason:
        parts += ["  ", safe_line(row.reason, 300, DIM)]
    if row.note:
        parts += ["\n", safe_line(row.note, 300, DIM)]
    parts += ["\n\n", safe_line(row.title, 300, "bold"), "\n"]
    if not row.messages:
        return styled(*parts, "\n", safe_text(row.body, limit=_LONGEST))
    for message in row.messages:
        parts += [(f"\n{message.get('role', ''):<10}", DIM), safe_text(message.get("content", ""), limit=_LONGEST)]
    return styled(*parts)
