"""Configuration: every key with its meaning, edited with validation and advice, and the forecast of the whole."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Input, Static

from lora_tui.config.explain import SECTION_TITLES, advice_for, format_value, parse_edit
from lora_tui.config.keys import Key, all_keys, settings_value
from lora_tui.config.load import with_values, without_value
from lora_tui.config.models import Settings
from lora_tui.config.save import save_keys
from lora_tui.config.written import RECIPE_KEYS, left_to_recipe, written_keys
from lora_tui.errors import ConfigError
from lora_tui.protocol.backend import ForecastText
from lora_tui.protocol.choice import Choice, value_text
from lora_tui.text import one_line
from lora_tui.tui.screens.base import ModeScreen, titled
from lora_tui.tui.services import AppServices
from lora_tui.tui.text import DIM, hang, safe_line, safe_text, styled
from lora_tui.tui.views.runs import forecast_lines, short_path
from lora_tui.tui.widgets.panel import Panel, set_title
from lora_tui.tui.widgets.row_list import Cell, Column, RowList

_COLUMNS = (Column("", 1), Column("key", 28), Column("value", 0))
_BEFORE_VALUE = 1 + 28 + len(_COLUMNS) + 2
"""Columns of a row that are not its value, the scroll bar among them."""
_LESSONS = {
    "fine_tuning.lora": "02-low-rank-adaptation",
    "fine_tuning.optimizer": "03-hyper-parameters",
    "fine_tuning.scheduler": "03-hyper-parameters",
    "fine_tuning.training": "07-overfitting-and-early-stopping",
    "fine_tuning.evaluation": "05-bleu-and-rouge",
    "fine_tuning.chat": "09-chatting-and-decoding",
    "fine_tuning": "08-memory-and-precision",
    "data_generation": "04-data-and-judging",
}


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of the list: a key, or the heading of a section."""

    section: str
    key: Key | None = None


def changed(now: Settings, before: Settings) -> dict[str, Any]:
    """Values of `now` that differ from `before`, by dotted key; None for one that is no longer written."""
    written, written_before = written_keys(now), written_keys(before)
    values = {name: settings_value(now, name) for name in all_keys()}
    return {
        name: value if name in written else None
        for name, value in values.items()
        if value != settings_value(before, name) or (name in written) != (name in written_before)
    }


class ConfigureScreen(ModeScreen):
    """The mode for the configuration: keys at the left, the key under the cursor and the forecast at the right."""

    CSS_PATH = "configure.tcss"

    MODE = "configure"
    AUTO_FOCUS = "#keys"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "ctrl+s", "save", "Save", id="configure.save", priority=True, tooltip="Write the changes to the file shown"
        ),
        Binding(
            "r",
            "default",
            "Default",
            id="configure.default",
            tooltip="Leave this key alone again: its default, or chosen for each run",
        ),
        Binding("space", "cycle", "Next value", id="configure.cycle", tooltip="The next of a few possible values"),
        Binding(
            "slash", "search", "Find", key_display="/", id="configure.find", tooltip="Find keys by name or meaning"
        ),
        Binding("w", "discard", "Undo all", show=False, id="configure.discard", tooltip="Back to what the file says"),
        Binding("escape", "cancel", "Cancel", show=False, id="configure.cancel"),
    ]

    def __init__(self, services: AppServices) -> None:
        super().__init__(services)
        self._rows: list[_Row] = []
        self._editing: Key | None = None
        self._keys = RowList(
            self._row, _COLUMNS, headings=False, id="keys", empty="no key has that in its name or meaning"
        )
        self._find = Input(placeholder="part of a key's name or meaning", id="find", compact=True)
        self._problem = Static(id="edit-problem", markup=False)
        self._written: frozenset[str] = frozenset()
        self._unsaved: dict[str, Any] = {}
        self._forecasts: Sequence[tuple[str, ForecastText]] = ()
        """What a training and a generation will be, each with its title."""
        self._chosen: dict[str, Choice] = {}
        """What the recipe would choose now, by key, as the newest forecast says."""

    @property
    def LESSON(self) -> str:  # type: ignore[override]  # noqa: N802  # it follows the cursor
        """The lesson of the section under the cursor."""
        key = self._key
        section = key.section if key is not None else ""
        while section and section not in _LESSONS:
            section = section.rpartition(".")[0]
        return _LESSONS.get(section, "03-hyper-parameters")

    def compose_body(self) -> ComposeResult:
        """Keys at the left; the key under the cursor, its editor and the forecast at the right."""
        with Horizontal(id="configure-parts"):
            with Container(id="keys-box", classes="box"):
                yield self._keys
                yield self._find
            with Vertical(id="configure-side"):
                with titled(VerticalScroll(id="key-box", classes="box"), "Key"):
                    yield Static(id="key-words", markup=False)
                with Container(id="edit-box", classes="box"):
                    yield Input(id="edit", compact=True)
                    yield self._problem
                yield Panel("What this will do", id="forecast")

    def _note_changes(self) -> None:
        """Keep which keys are written and which are not saved: a row asks for each."""
        self._written = written_keys(self.state.settings)
        self._unsaved = changed(self.state.settings, self.state.saved)

    def on_mount(self) -> None:
        """List the keys."""
        self._note_changes()
        self._list()
        self._forecast()

    async def update(self, *, changed: bool) -> None:
        """Show the file, and how much is not saved."""
        self._note_changes()
        self._show_file()

    # What is shown

    @on(Input.Changed, "#find")
    def _list(self) -> None:
        """List the keys that the search finds, under their sections."""
        wanted = self._find.value.casefold()
        rows: list[_Row] = []
        for key in all_keys().values():
            if wanted and wanted not in f"{key.name} {key.description}".casefold():
                continue
            if not rows or rows[-1].section != key.section:
                rows.append(_Row(key.section))
            rows.append(_Row(key.section, key))
        self._rows = rows
        self._keys.show(len(rows))
        if rows and self._key is None:
            self._keys.cursor = min(self._keys.cursor + 1, len(rows) - 1)
        self._show_key()

    def _row(self, index: int) -> Sequence[Cell]:
        row = self._rows[index]
        if row.key is None:
            title = SECTION_TITLES.get(row.section, row.section)
            return [("", ""), (title, "accent"), (self._section_cell(row.section), "dim")]
        name, value = row.key.name, settings_value(self.state.settings, row.key.name)
        set_by_user = name in self._written
        text = format_value(name, value)
        if left_to_recipe(self.state.settings, name):
            chosen = self._chosen.get(name)
            text = "chosen for each run" if chosen is None else f"{value_text(chosen.value)} · chosen for this data"
        return [
            ("●" if name in self._unsaved else " ", "warn"),
            (f"  {row.key.leaf}", "strong" if set_by_user else ""),
            (one_line(text, 200), "" if set_by_user else "dim"),
        ]

    def _section_cell(self, name: str) -> str:
        """A section as the file has it, cut from the left: its end tells it from its neighbours."""
        room = self._keys.size.width - _BEFORE_VALUE
        text = f"[{name}]"
        return text if len(text) <= room else f"[…{text[len(text) - max(1, room) + 2 :]}"

    @property
    def _key(self) -> Key | None:
        """The key under the cursor; None on a heading."""
        cursor = self._keys.cursor
        return self._rows[cursor].key if cursor < len(self._rows) else None

    @on(RowList.Moved, "#keys")
    def _show_key(self) -> None:
        """Show the key under the cursor: meaning, value, default, range, and advice on its value."""
        key = self._key
        panel = self.query_one("#key-words", Static)
        if key is None:
            panel.update("")
            return
        value = settings_value(self.state.settings, key.name)
        parts: list[Any] = [(key.name, "bold $accent"), "\n", safe_text(key.description), "\n"]
        left = left_to_recipe(self.state.settings, key.name)
        facts = [
            ("value", self._chosen_text(key.name) if left else format_value(key.name, value)),
            ("as written" if key.name in RECIPE_KEYS else "default", format_value(key.name, key.default)),
            ("must be", key.kind),
            ("range", key.bounds),
        ]
        if key.name in self._unsaved:
            saved = settings_value(self.state.saved, key.name)
            before = "nothing" if left_to_recipe(self.state.saved, key.name) else format_value(key.name, saved)
            facts.insert(1, ("in the file", before))
        for name, fact in facts:
            if fact:
                line = styled((f"{name:<12}", DIM), safe_line(fact, 400))
                parts += ["\n", hang(line, 12, panel.content_size.width or 1000)]
        for advice in () if left else advice_for(self.state.settings, key.name):
            parts += ["\n\n", ("! ", "bold $warning"), safe_text(advice)]
        panel.update(styled(*parts))
        self.refresh_bindings()

    def _chosen_text(self, name: str) -> str:
        """What the recipe chooses for a key that was left alone, and why."""
        chosen = self._chosen.get(name)
        if chosen is None:
            return "chosen for each run from its data, model and machine; a value of yours is kept"
        return f"{value_text(chosen.value)}, chosen: {chosen.reason}"

    def _show_file(self) -> None:
        unsaved = len(self._unsaved)
        what = f"{unsaved} unsaved · " if unsaved else ""
        file = safe_line(short_path(str(self._path), Path.cwd()), 80)
        self.show_in_bar(styled((f"● {what}" if unsaved else "", "bold $warning"), file))
        set_title(self.query_one("#keys-box"), f"Keys · ● {unsaved} not saved yet" if unsaved else "Keys")

    @property
    def _path(self) -> Path:
        return (self.state.config_path or Path("config.toml")).absolute()

    @work(exclusive=True, group="forecast", exit_on_error=False)
    async def _forecast(self) -> None:
        """Show what runs with these settings will be; asked for again after each change."""
        backend, settings = self.services.backend, self.state.settings
        forecasts: list[tuple[str, ForecastText]] = []
        for title, ask in (("Training", backend.forecast_training), ("Generation", backend.forecast_generation)):
            forecast = await self.services.attempt(ask(settings))
            if forecast is None:
                return
            forecasts.append((title, forecast))
            if forecast.choices:
                self._chosen = {choice.key: choice for choice in forecast.choices}
                self._keys.refresh()
                self._show_key()
        self._forecasts = forecasts
        self._draw_forecasts()

    def on_resize(self) -> None:
        """Break the forecast's lines anew, once its panel has its new size."""
        self.call_after_refresh(self._draw_forecasts)
        self.call_after_refresh(self._show_key)

    def _draw_forecasts(self) -> None:
        panel = self.query_one("#forecast", Panel)
        room, parts = panel.content_size.width, list[Content]()
        for title, forecast in self._forecasts:
            parts += [styled((title, "bold")), *forecast_lines(forecast, room)]
        panel.show(Content("\n").join(parts))

    # Editing

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer only what can be done with the key under the cursor."""
        if not self._rows:
            return True
        key = self._key
        if action == "default":
            return key is not None and key.name in self._written
        if action == "cycle":
            return key is not None and bool(_possible_values(key))
        if action in ("save", "discard"):
            return True if self._unsaved else None
        return True

    @on(RowList.Chosen, "#keys")
    def _edit(self) -> None:
        """Open the editor on the key under the cursor."""
        key = self._key
        if key is None:
            return
        self._editing = key
        box = self.query_one("#edit-box")
        box.display = True
        set_title(box, f"{key.leaf} = … (enter takes it, escape leaves it)")
        self._problem.update("")
        field = self.query_one("#edit", Input)
        field.value = format_value(key.name, settings_value(self.state.settings, key.name))
        field.focus()

    @on(Input.Changed, "#edit")
    @on(Input.Submitted, "#edit")
    def _typed(self, event: Input.Changed | Input.Submitted) -> None:
        """Validate while the user types: what is wrong, and what would be right. Enter takes what is valid."""
        if self._editing is None:
            return
        name = self._editing.name
        try:
            settings = with_values(self.state.settings, {name: parse_edit(name, event.value)})
        except ConfigError as error:
            self._problem.update(styled(("✗ ", "bold $error"), safe_text(str(error))))
            return
        self._problem.update(styled(("✓", "$success")))
        if isinstance(event, Input.Submitted):
            self._apply(settings)
            self.action_cancel()

    def _apply(self, settings: Settings) -> None:
        """Make these the settings of new runs, saved or not."""
        self.state.settings = settings
        self._note_changes()
        self._keys.refresh()
        self._show_key()
        self._show_file()
        self._forecast()

    def action_default(self) -> None:
        """Leave the key alone: it has its default again, or is chosen for each run."""
        if (key := self._key) is not None:
            with self.services.reporting():
                self._apply(without_value(self.state.settings, key.name))

    def action_cycle(self) -> None:
        """Set the key to the next of its possible values."""
        key = self._key
        if key is not None and (values := _possible_values(key)):
            value = settings_value(self.state.settings, key.name)
            self._set(key, values[(values.index(value) + 1) % len(values)] if value in values else values[0])

    def _set(self, key: Key, value: Any) -> None:
        with self.services.reporting():
            self._apply(with_values(self.state.settings, {key.name: value}))

    def action_cancel(self) -> None:
        """Close the editor, or end the search."""
        if self._editing is not None:
            self._editing = None
            self.query_one("#edit-box").display = False
        elif self._find.display:
            self._find.value = ""  # which lists all keys again
            self._find.display = False
        self._keys.focus()

    def action_search(self) -> None:
        """Open the search line."""
        self._find.display = True
        self._find.focus()

    @on(Input.Submitted, "#find")
    def _search_entered(self) -> None:
        self._keys.focus()

    def action_discard(self) -> None:
        """Go back to the settings as the file has them."""
        self._apply(self.state.saved)

    async def action_save(self) -> None:
        """Write what has changed to the file; it is checked as a whole before anything is written."""
        changes = changed(self.state.settings, self.state.saved)
        if not changes:
            self.services.notify("Nothing has changed.")
            return
        path = self._path
        with self.services.reporting():
            await asyncio.to_thread(save_keys, path, changes)
            self.state.mark_saved(path)
            self._note_changes()
            self._keys.refresh()
            self._show_key()
            self._show_file()
            self.services.notify(f"{len(changes)} changed: saved to {path}")


def _possible_values(key: Key) -> list[Any]:
    """The values of a key that has few; an empty list for the others."""
    if isinstance(key.default, bool):
        return [True, False, "auto"] if "auto" in key.kind else [True, False]
    return list(key.choices)
