"""Runs: the list of all runs, to be compared, resumed, stopped, exported, named and deleted."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical

from lora_tui.protocol.backend import ChatTarget
from lora_tui.store.queries.runs import RunLine, checkpoints, newest_event
from lora_tui.store.rows import LIVE_STATES, RESUMABLE_STATES, TRAINING_MODES
from lora_tui.text import count
from lora_tui.tui.actions import AppActions
from lora_tui.tui.dialogs import Choice, ChoiceDialog, TextDialog
from lora_tui.tui.screens.base import ModeScreen, titled
from lora_tui.tui.services import AppServices
from lora_tui.tui.text import DIM, styled
from lora_tui.tui.views.runs import run_cells, run_text
from lora_tui.tui.widgets.panel import Panel
from lora_tui.tui.widgets.row_list import Cell, Column, RowList

_NARROW = (
    Column("run", 5), Column("what", 12), Column("state", 13), Column("score", 5, right=True),
    Column("time", 8, right=True), Column("begun", 0),
)  # fmt: skip
_COLUMNS = (
    Column("run", 5), Column("what", 12), Column("state", 13), Column("score", 5, right=True),
    Column("time", 8, right=True), Column("begun", 12), Column("model", 22), Column("data", 0),
)  # fmt: skip
_MOST_COMPARED = 4


class RunsScreen(ModeScreen):
    """The mode with the list of runs."""

    CSS_PATH = "runs.tcss"

    MODE = "runs"
    AUTO_FOCUS = "#runs"
    LESSON = "07-overfitting-and-early-stopping"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "mark", "Mark", id="runs.mark", tooltip="Mark this run, to compare it with others"),
        Binding(
            "c", "compare", "Compare", id="runs.compare", tooltip="Curves, settings and answers of the marked runs"
        ),
        Binding("R", "resume", "Resume", id="runs.resume", tooltip="Go on exactly where this run was"),
        Binding("x", "stop", "Stop", id="runs.stop", tooltip="Ask this run to save and end, whoever owns it"),
        Binding("t", "talk", "Chat", id="runs.chat", tooltip="Talk to this run's adapter"),
        Binding("e", "export", "Export", id="runs.export", tooltip="Adapter, merged weights or the dataset"),
        Binding("n", "rename", "Name", show=False, id="runs.name", tooltip="Give this run a name"),
        Binding("d", "delete", "Delete", show=False, id="runs.delete", tooltip="Delete this run; asks first"),
        Binding("y", "copy", "Copy", show=False, id="runs.copy", tooltip="Copy the folder of this run"),
    ]

    def __init__(self, services: AppServices, actions: AppActions) -> None:
        super().__init__(services)
        self.actions = actions
        self._marked: list[int] = []
        """Ids of the runs to compare, the oldest mark first."""
        self._detail_shown: tuple[int, str] | None = None
        """Id and state of the run whose details are shown."""

    def compose_body(self) -> ComposeResult:
        """The list above, the run under the cursor below."""
        with Vertical(id="runs-parts"):
            with titled(Container(id="runs-box", classes="box"), "Runs"):
                yield RowList(self._row, _COLUMNS, id="runs", empty="No runs yet. 1 generates, 2 trains.")
            yield Panel("This run", id="run-detail")

    def on_resize(self) -> None:
        """Show as many columns as fit."""
        self.query_one(RowList).columns = _NARROW if self.size.width < 100 else _COLUMNS

    @property
    def _run(self) -> RunLine | None:
        """The run under the cursor."""
        cursor = self.query_one(RowList).cursor
        return self.state.runs[cursor] if cursor < len(self.state.runs) else None

    def _row(self, index: int) -> Sequence[Cell]:
        if index >= len(self.state.runs):
            return []
        run = self.state.runs[index]
        return run_cells(run, marked=run.id in self._marked, narrow=self.size.width < 100)

    async def update(self, *, changed: bool) -> None:
        """Show the runs of the last poll, and the run under the cursor."""
        rows = self.query_one(RowList)
        if rows.count != len(self.state.runs):
            rows.show(len(self.state.runs))
        elif changed or self.state.live_run is not None:
            rows.refresh()
        self.show_run_in_bar(self.state.live_run, no_run=styled((count(len(self.state.runs), "run"), DIM)))
        await self._show_detail()

    @on(RowList.Moved)
    async def _show_detail(self) -> None:
        """Show the run under the cursor below the list."""
        run, store = self._run, self.store
        if run is None or store is None:
            return
        key = run.id, f"{run.state} {run.name} {run.best_score} {run.held_out_loss}"
        if key == self._detail_shown and run.state not in LIVE_STATES:
            return
        if key != self._detail_shown:
            self.refresh_bindings()
        self._detail_shown = key
        found = await checkpoints(store, run.id)
        step = await newest_event(store, run.id, "step")
        steps = int(step.payload.get("step") or 0) if step is not None else 0
        self.query_one("#run-detail", Panel).show(run_text(run, Path.cwd(), found, steps))

    @on(RowList.Chosen)
    def _chosen(self) -> None:
        if self._run is not None:
            self.services.show_run(self._run)

    # Keys

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer only what can be done with the run under the cursor."""
        run = self._run if self.is_mounted and self.state.runs else None
        if action == "compare":
            return len(self._marked) > 1
        if run is None:
            return action not in ("mark", "rename", "copy", "resume", "stop", "talk", "export", "delete")
        live, has_adapter = run.state in LIVE_STATES, run.mode in TRAINING_MODES and run.folder is not None
        resumable = run.state in RESUMABLE_STATES and run.mode in ("generate", "train", "quickstart")
        offered = {"resume": resumable, "stop": live, "talk": has_adapter, "export": has_adapter, "delete": not live}
        return offered.get(action, True)

    def action_mark(self) -> None:
        """Mark or unmark the run under the cursor; the oldest mark goes when there are too many."""
        if self._run is None:
            return
        if self._run.id in self._marked:
            self._marked.remove(self._run.id)
        else:
            self._marked = [*self._marked, self._run.id][-_MOST_COMPARED:]
        self.query_one(RowList).refresh()
        self.refresh_bindings()

    def action_compare(self) -> None:
        """Compare the marked runs."""
        from lora_tui.tui.screens.compare import CompareScreen

        chosen = [run for run in self.state.runs if run.id in self._marked]
        self.services.open_screen(CompareScreen(self.services, chosen))

    async def action_resume(self) -> None:
        """Go on with the run."""
        if self._run is not None:
            await self.actions.resume(self._run)

    async def action_stop(self) -> None:
        """Ask the run's owner to save and end."""
        if self._run is not None:
            run_id = self._run.id
            await self.actions.stop(run_id, f"Run {run_id} is asked to stop; its work is saved.")

    def action_talk(self) -> None:
        """Chat with the run's adapter."""
        if self._run is not None:
            self.services.open_chat(ChatTarget(self._run.id, "last" if self._run.state in LIVE_STATES else "best"))

    def action_export(self) -> None:
        """Choose what to export, then where to."""
        if self._run is not None:
            self.actions.ask_export(self._run)

    def action_rename(self) -> None:
        """Name the run."""
        run = self._run
        if run is not None:
            question = TextDialog(f"Name of run {run.id}:", run.name)
            self.services.ask(question, lambda name: self.actions.rename(run, name))

    def action_delete(self) -> None:
        """Ask, then delete."""
        run = self._run
        if run is None:
            return
        choices = [
            Choice("row", "r", "Delete it from the list", "its folder stays"),
            Choice("files", "f", "Delete it with its folder", run.folder or "it has none"),
            Choice("cancel", "c", "Cancel"),
        ]

        async def chosen(choice: str) -> None:
            await self.actions.delete(run, with_files=choice == "files")
            self._marked = [number for number in self._marked if self.state.run(number) is not None]

        details = run_text(run, Path.cwd(), (), 0)
        self.services.ask(ChoiceDialog(f"Delete run {run.id}?", choices, details=details), chosen)

    def action_copy(self) -> None:
        """Send the run's folder to the clipboard."""
        if self._run is not None and self._run.folder is not None:
            self.services.copy(self._run.folder)
