"""A sweep's runs as a table, the best first, and the curves of the best below it."""

from collections.abc import Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical

from lora_tui.protocol.backend import ChatTarget
from lora_tui.protocol.choice import axis_names, setting_text, varied_names
from lora_tui.store.queries.sweeps import SweepRow, ranked, sweep_rows
from lora_tui.text import count, duration
from lora_tui.tui.actions import AppActions
from lora_tui.tui.dialogs import Dialog
from lora_tui.tui.screens.base import titled
from lora_tui.tui.screens.compare import Comparison, ComparisonKeys
from lora_tui.tui.services import AppServices
from lora_tui.tui.text import number
from lora_tui.tui.theme import state_label
from lora_tui.tui.views.run_list import MARKS
from lora_tui.tui.widgets.key_hints import KeyHints
from lora_tui.tui.widgets.panel import set_title
from lora_tui.tui.widgets.row_list import Cell, Column, RowList

_AXES = 2
"""Settings that differ and are in the table however narrow it is; others only where there is room."""

_SECONDS = 2.0
"""How often the table is read anew while it is open."""


class SweepScreen(Dialog[None], ComparisonKeys):
    """Sheet with the runs of a sweep over the whole screen."""

    LESSON = "03-hyper-parameters"
    AUTO_FOCUS = "#sweep-runs"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "dismiss", "Back", id="sweep.close"),
        Binding("t", "talk", "Chat", id="sweep.chat", tooltip="Talk to this run's adapter"),
        Binding("e", "export", "Export", id="sweep.export", tooltip="Adapter, merged weights, GGUF"),
        Binding("v", "plot", "Other curves", id="sweep.plot"),
        Binding("a", "unit", "Steps, tokens, time", id="sweep.unit"),
        Binding("left", "cursor(-1)", "Read out", show=False, id="sweep.cursor-left"),
        Binding("right", "cursor(1)", "Read out", show=False, id="sweep.cursor-right"),
        Binding("tab", "part", "Settings, answers", show=False, id="sweep.part"),
    ]

    def __init__(self, services: AppServices, actions: AppActions, group_id: int) -> None:
        super().__init__()
        self._services = services
        self._actions = actions
        self._group_id = group_id
        self._rows: list[SweepRow] = []
        self._names: dict[str, str] = {}

    def compose(self) -> ComposeResult:
        """The table, the comparison of the best, and the keys."""
        with Vertical(classes="sheet"):
            with titled(Container(id="sweep-box", classes="box"), f"Sweep {self._group_id}"):
                yield RowList(self._cells, (), id="sweep-runs", empty="…")
            yield Comparison(self._services)
            yield KeyHints()

    async def on_mount(self) -> None:
        """Read the runs, and read them anew while they go on."""
        await self._services.guarded(self._read)()
        self.set_interval(_SECONDS, self._services.guarded(self._read))

    async def _read(self) -> None:
        store = self._services.reader.store
        if store is None:
            return
        self._rows = ranked(await sweep_rows(store, self._group_id))
        self._names = axis_names(row.point for row in self._rows)
        rows = self.query_one(RowList)
        always = list(varied_names([row.point for row in self._rows]))[:_AXES]
        axes = [
            Column(name, min(18, max(9, len(name) + 1)), right=True, rank=0 if key in always else 6)
            for key, name in self._names.items()
        ]
        figures = [("loss", 7, 3), ("held-out", 8, 2), ("score", 6, 0), ("right", 6, 1), ("time", 7, 4)]
        rows.columns = (
            Column("run", 6),
            *axes,
            *(Column(name, width, right=True, rank=rank) for name, width, rank in figures),
            Column("state", 0, rank=5),
        )
        rows.show(len(self._rows))
        done = sum(row.state == "finished" for row in self._rows)
        of = f"{done} of {count(len(self._rows), 'run')} finished, the best first"
        set_title(self.query_one("#sweep-box"), f"Sweep {self._group_id} · {of}")
        best = [self._services.state.run(row.run_id) for row in self._rows if row.loss is not None][: len(MARKS)]
        if chosen := [run for run in best if run is not None]:
            await self.query_one(Comparison).show(store, chosen)

    def _cells(self, index: int) -> Sequence[Cell]:
        if index >= len(self._rows):
            return []
        row = self._rows[index]
        mark = MARKS[index] if index < len(MARKS) and row.loss is not None else " "
        state = state_label(row.state)[0]
        right = "–" if row.asked is None else f"{row.right}/{row.asked}"
        return [
            (f"{mark} {row.run_id}", "accent" if mark != " " else "strong"),
            *((setting_text(key, row.point[key]) if key in row.point else "–", "strong") for key in self._names),
            (number(row.loss, ".3g"), ""),
            (number(row.held_out_loss, ".3f"), ""),
            (number(row.score, ".2f"), "strong"),
            (right, "good" if row.asked and row.right == row.asked else ""),
            ("–" if row.seconds is None else duration(row.seconds), ""),
            (f"  {state}", "bad" if row.state in ("failed", "interrupted") else "dim"),
        ]

    @property
    def _run_id(self) -> int | None:
        """The run under the cursor."""
        cursor = self.query_one(RowList).cursor
        return self._rows[cursor].run_id if cursor < len(self._rows) else None

    @on(RowList.Chosen)
    def _chosen(self) -> None:
        """Show the run that was opened, on Train."""
        run = self._services.state.run(self._run_id)
        if run is not None:
            self.dismiss()
            self._services.show_run(run)

    def action_talk(self) -> None:
        """Chat with the run's adapter."""
        run = self._services.state.run(self._run_id)
        if run is not None and run.folder is not None:
            self.dismiss()
            self._services.open_chat(ChatTarget(run.id, "best"))

    def action_export(self) -> None:
        """Choose what to export of the run under the cursor."""
        run = self._services.state.run(self._run_id)
        if run is not None and run.folder is not None:
            self._actions.ask_export(run)
