"""Runs: the list of all runs, to be compared, resumed, stopped, exported, named and deleted."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical
from textual.timer import Timer
from textual.widgets import Input

from lora_tui.protocol.backend import ChatTarget
from lora_tui.store.queries.run_figures import RunFigures, run_figures
from lora_tui.store.queries.runs import RunLine, checkpoints, newest_event
from lora_tui.store.rows import LIVE_STATES, RESUMABLE_MODES, RESUMABLE_STATES, TRAINING_MODES, WAITING
from lora_tui.text import count
from lora_tui.tui.actions import AppActions
from lora_tui.tui.dialogs import Choice, ChoiceDialog, TextDialog
from lora_tui.tui.screens.base import ModeScreen, keys_line, titled
from lora_tui.tui.screens.compare import CompareScreen, Comparison, ComparisonKeys
from lora_tui.tui.screens.probe import ProbeScreen
from lora_tui.tui.screens.queue import QueueActions
from lora_tui.tui.screens.report import ReportScreen
from lora_tui.tui.screens.sweep import SweepScreen
from lora_tui.tui.services import AppServices
from lora_tui.tui.text import DIM, styled
from lora_tui.tui.views.run_list import COMPARED, MARKS, RunList, columns_at, run_cells
from lora_tui.tui.views.runs import run_text
from lora_tui.tui.widgets.panel import Panel, set_title
from lora_tui.tui.widgets.row_list import Cell, Column, RowList

_READ_AT_ONCE = 200
"""Runs whose figures are read at a time, so that the first of a thousand are on the screen at once."""

_SEARCH_DELAY = 0.15

_OF_A_RUN = "mark rename copy resume stop talk export rate report delete move sweep".split()  # of the row at hand


class RunsScreen(ModeScreen, ComparisonKeys):
    """The mode with the list of runs."""

    CSS_PATH = "runs.tcss"

    MODE = "runs"
    AUTO_FOCUS = "#runs"
    LESSON = "07-overfitting-and-early-stopping"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "mark", "Mark", id="runs.mark", tooltip="Mark this run, to compare it with others"),
        Binding("slash", "search", "Search", key_display="/", id="runs.search",
                tooltip="Find runs by their words: kind, state, name, model, data; escape ends it"),
        Binding("f", "kind", "Kind", id="runs.kind", tooltip="Show one kind of runs: train, generate, export, …"),
        Binding("o", "sort", "Sort", id="runs.sort", tooltip="Sort by the next column; O turns the order round"),
        Binding("O", "reverse", "Reverse", show=False, id="runs.reverse", tooltip="Turn the order round"),
        Binding("c", "compare", "Compare", id="runs.compare",
                tooltip="Curves, settings and answers of the marked runs, over the whole screen"),
        Binding("R", "resume", "Resume", id="runs.resume", tooltip="Go on exactly where this run was"),
        Binding("x", "stop", "Stop", id="runs.stop",
                tooltip="Ask this run to save and end, whoever owns it; take one that waits out of the queue"),
        Binding("a", "queue", "Add to queue", id="runs.queue",
                tooltip="Add to the queue: this run again, a run with the settings of now, or a sweep"),
        Binding("W", "work", "Work the queue", show=False, id="runs.work",
                tooltip="Begin what waits in the queue, one after the other; once more: begin nothing more"),
        Binding("K,shift+up", "reorder(-1)", "Earlier", show=False, id="runs.earlier",
                tooltip="Move this run one place towards the front of the queue"),
        Binding("J,shift+down", "reorder(1)", "Later", show=False, id="runs.later",
                tooltip="Move this run one place towards the end of the queue"),
        Binding("S", "sweep", "Sweep", show=False, id="runs.sweep",
                tooltip="The runs of this sweep as a table, the best first, with their curves"),
        Binding("t", "talk", "Chat", id="runs.chat", tooltip="Talk to this run's adapter"),
        Binding("e", "export", "Export", id="runs.export", tooltip="Adapter, merged weights, or the dataset"),
        Binding("w", "rate", "Rate", show=False, id="runs.rate",
                tooltip="Say of this run's pairs, or its answers, whether they are good: one key each"),
        Binding("r", "report", "Report", show=False, id="runs.report",
                tooltip="Did fine-tuning help? This run's adapter against its base model on held-out questions"),
        Binding("n", "rename", "Name", show=False, id="runs.name", tooltip="Give this run a name"),
        Binding("d", "delete", "Delete", show=False, id="runs.delete", tooltip="Delete this run; asks first"),
        Binding("y", "copy", "Copy", show=False, id="runs.copy", tooltip="Copy the folder of this run"),
        Binding("v", "serve", "Serve", show=False, id="runs.serve",
                tooltip="Serve this run's adapter as OpenAI does; where a server runs, show it"),
        Binding("v", "plot", "Other curves", show=False, id="runs.plot",
                tooltip="Compare loss, score, learning rate or speed"),
        Binding("a", "unit", "Steps, tokens, time", show=False, id="runs.unit",
                tooltip="Plot over steps, examples or tokens seen, or time"),
        Binding("z", "zoom", "Zoom", show=False, id="runs.zoom", tooltip="Magnify the plot around its cursor"),
        Binding("l", "log", "Log scale", show=False, id="runs.log", tooltip="Logarithmic axis"),
        Binding("left", "cursor(-1)", "Read out", show=False, id="runs.cursor-left",
                tooltip="Move the plot's cursor, which reads its values out"),
        Binding("right", "cursor(1)", "Read out", show=False, id="runs.cursor-right",
                tooltip="Move the plot's cursor, which reads its values out"),
        Binding("tab", "part", "Settings, answers", show=False, id="runs.part",
                tooltip="In a small terminal: the next part of the comparison"),
        Binding("escape", "all", "All runs", show=False, id="runs.all",
                tooltip="End search and kind; then put the marks away"),
    ]  # fmt: skip

    def __init__(self, services: AppServices, actions: AppActions) -> None:
        super().__init__(services)
        self.actions = actions
        self._queue = QueueActions(services, actions)
        self._list = RunList()
        self._figures: dict[int, tuple[object, RunFigures]] = {}
        """Figures by run, each with the state of the run that they were read in."""
        self._columns = columns_at(80)
        self._find = Input(placeholder="kind, state, name, model, data", id="find-run", compact=True)
        self._search_timer: Timer | None = None
        self._detail_shown: tuple[int, str] | None = None
        """Id and state of the run whose details are shown."""

    def compose_body(self) -> ComposeResult:
        """The list above, the run under the cursor or the comparison of the marked ones below."""
        with Vertical(id="runs-parts"):
            with titled(Container(id="runs-box", classes="box"), "Runs"):
                yield RowList(self._row, (), id="runs", empty="No runs yet. 1 generates, 2 trains.")
                yield self._find
            yield Panel("This run", id="run-detail")
            yield Comparison(self.services, id="comparison")

    def on_resize(self) -> None:
        """Show the columns that fit."""
        self._columns = columns_at(self.size.width)
        self._draw_list()

    @property
    def _run(self) -> RunLine | None:
        """The run under the cursor."""
        cursor = self.query_one(RowList).cursor
        return self._list.rows[cursor].run if cursor < len(self._list.rows) else None

    def _row(self, index: int) -> Sequence[Cell]:
        return run_cells(self._list.rows[index], self._columns) if index < len(self._list.rows) else []

    async def update(self, *, changed: bool) -> None:
        """Show the runs of the last poll with their figures, and the run under the cursor or the comparison."""
        read = await self._read_figures() if self.store is not None else False
        if changed or read or self._list.total != len(self.state.runs):
            self._arrange()
        elif self.state.live_run is not None:
            self.query_one(RowList).refresh()  # its time goes on
        self.show_run_in_bar(self.state.live_run, no_run=styled((count(len(self.state.runs), "run"), DIM)))
        await self._show_below()

    async def _read_figures(self) -> bool:
        """Read the figures of runs that have changed, some at a time; returns whether there were any."""
        store = self.store
        assert store is not None
        keys = {run.id: (run.state, run.ended_at, run.best_score) for run in self.state.runs}
        stale = [
            run.id
            for run in self.state.runs
            if run.state in LIVE_STATES or run.id not in self._figures or self._figures[run.id][0] != keys[run.id]
        ][:_READ_AT_ONCE]
        for run_id, figures in (await run_figures(store, stale)).items() if stale else ():
            self._figures[run_id] = keys[run_id], figures
        if len(stale) == _READ_AT_ONCE:
            self.services.poll_soon()
        return bool(stale)

    def _arrange(self) -> None:
        """Choose and order the rows anew; the cursor stays on its run."""
        rows, run = self.query_one(RowList), self._run
        self._list.arrange(self.state.runs, {run_id: figures for run_id, (_, figures) in self._figures.items()})
        rows.show(len(self._list.rows))
        if run is not None and rows.cursor:
            rows.cursor = self._list.index_of(run.id) or 0
        self._draw_list()

    def _draw_list(self) -> None:
        """Draw the rows, with the sort column marked in the headings."""
        rows, shown = self.query_one(RowList), self._list
        rows.columns = tuple(Column(one.name, one.width, one.right, one.share, one.least) for one in self._columns)
        names = [column.name for column in self._columns]
        rows.sorted_by = (names.index(shown.sort), shown.arrow == "▼") if shown.sort in names else None
        is_all = not (shown.kind or shown.search)
        rows.set_empty_text("No runs yet. 1 generates, 2 trains." if is_all else "No run matches; escape shows all.")
        rows.refresh()
        words = {"search": "search", "kind": "kind", "sort": "sort", "mark": "mark", "queue": "queue", "choose": "open"}
        work = "pause" if self.services.backend.works_queue else "begin"
        queued = {"reorder": "move", "stop": "take out", "work": work, "queue": "add"}
        waits = self._run is not None and self._run.position is not None and self._run.state not in LIVE_STATES
        set_title(self.query_one("#runs-box"), shown.title(), keys_line(self, queued if waits else words))

    @on(RowList.Moved)
    async def _show_below(self) -> None:
        """Show the run under the cursor below the list, or the comparison where several are marked."""
        store = self.store
        chosen = [run for run_id in self._list.marked if (run := self.state.run(run_id)) is not None]
        self.set_class(len(chosen) > 1, "-comparing")
        if store is not None and len(chosen) > 1:
            await self.query_one(Comparison).show(store, chosen)
            return
        run = self._run
        if run is None or store is None:
            return
        key = run.id, f"{run.state} {run.name} {run.best_score} {run.held_out_loss}"
        if key == self._detail_shown and run.state not in LIVE_STATES:
            return
        if key != self._detail_shown:
            self.refresh_bindings()
            self._draw_list()
        self._detail_shown = key
        found = await checkpoints(store, run.id)
        step = await newest_event(store, run.id, "step")
        steps = int(step.payload.get("step") or 0) if step is not None else 0
        self.query_one("#run-detail", Panel).show(run_text(run, Path.cwd(), found, steps))

    @on(RowList.Chosen)
    def _chosen(self) -> None:
        if self._run is not None and self._run.mode == "serve":
            self.action_serve()
        elif self._run is not None and self._run.mode == "probe" and self._run.state != WAITING:
            self.services.open_screen(ProbeScreen(self.services, self._run.id))
        elif self._run is not None and self._run.state == WAITING:
            self.services.notify(f"Run {self._run.id} has not begun: it waits in the queue.")
        elif self._run is not None:
            self.services.show_run(self._run)

    @on(RowList.HeadingChosen)
    def _heading_chosen(self, event: RowList.HeadingChosen) -> None:
        """Sort by the column that was clicked; the other way round where it is sorted by it."""
        self._list.sort_by(self._columns[event.index])
        self._arrange()

    # Which runs are listed

    def action_search(self) -> None:
        """Open the search line."""
        self._find.display = True
        self._find.focus()

    def action_kind(self) -> None:
        """Show the next kind of runs."""
        self._list.next_kind()
        self._arrange()

    def action_sort(self) -> None:
        """Sort by the next column."""
        self._list.next_sort(self.size.width)
        self._arrange()

    def action_reverse(self) -> None:
        """Turn the order round."""
        self._list.reverse = not self._list.reverse
        self._arrange()

    async def action_all(self) -> None:
        """End search and kind; where there is neither, put away the plot's cursor, then the marks."""
        plot = self.query_one(Comparison).plot
        if self._find.display or self._list.kind or self._list.search:
            self._find.value = self._list.kind = self._list.search = ""
            self._find.display = False
            self.query_one(RowList).focus()
        elif plot.is_moved:
            plot.reset_view()
        else:
            self._list.marked = []
        self._arrange()
        await self._show_below()

    @on(Input.Changed, "#find-run")
    def _search_typed(self) -> None:
        if self._search_timer is not None:
            self._search_timer.stop()
        self._search_timer = self.set_timer(_SEARCH_DELAY, self._search)

    def _search(self) -> None:
        if self._find.value != self._list.search:
            self._list.search = self._find.value
            self._arrange()

    @on(Input.Submitted, "#find-run")
    def _search_entered(self) -> None:
        self._search()
        self.query_one(RowList).focus()

    # Keys

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer only what can be done with the run under the cursor."""
        run = self._run if self.is_mounted and self.state.runs else None
        if action in ("compare", "plot", "unit", "part", "zoom", "log", "cursor"):
            return len(self._list.marked) > 1
        if action == "serve":
            return self._can_serve(run)
        if action == "queue":
            return len(self._list.marked) < 2
        if action == "work":
            return any(one.position is not None for one in self.state.runs)
        if run is None:
            return action not in _OF_A_RUN
        live, has_adapter = run.state in LIVE_STATES, run.mode in TRAINING_MODES and run.folder is not None
        resumable = run.state in RESUMABLE_STATES and run.mode in RESUMABLE_MODES
        queued = run.position is not None and not live
        offered = {"resume": resumable, "stop": live or queued, "reorder": queued, "sweep": run.group_id is not None}
        offered |= {"talk": has_adapter, "export": has_adapter, "delete": not live}
        offered["export"] |= run.mode == "generate" and not live
        offered["report"] = not live and (has_adapter or run.mode == "evaluate")
        offered["rate"] = run.mode in (*TRAINING_MODES, "generate", "evaluate")
        return offered.get(action, True)

    def _can_serve(self, run: RunLine | None) -> bool:
        """Whether there is an adapter to serve under the cursor, or a server to show."""
        if len(self._list.marked) > 1:
            return False
        if any(one.mode == "serve" and one.state in LIVE_STATES for one in self.state.runs):
            return True
        return run is not None and (run.mode == "serve" or (run.mode in TRAINING_MODES and run.folder is not None))

    def action_serve(self) -> None:
        """Serve the run's adapter, or show the server."""
        from lora_tui.tui.screens.server import open_server

        open_server(self.services, self.actions, self._run)

    async def action_rate(self) -> None:
        """Rate what the run under the cursor has, one after the other."""
        from lora_tui.tui.screens.rating import open_rating

        if self._run is not None:
            await open_rating(self.services, self._run.id)

    def action_report(self) -> None:
        """Show whether fine-tuning helped, and where the report is."""
        if self._run is not None:
            self.services.open_screen(ReportScreen(self.services, self.actions, self._run))

    async def action_mark(self) -> None:
        """Mark or unmark the run under the cursor; the oldest mark goes when there are too many."""
        if self._run is None:
            return
        if self._run.mode not in COMPARED:
            self.services.notify(f"Marks are for comparing runs that train or evaluate; this one is {self._run.mode}.")
            return
        marked = self._list.marked
        if self._run.id in marked:
            marked.remove(self._run.id)
        else:
            self._list.marked = [*marked, self._run.id][-len(MARKS) :]
        self._arrange()
        self.refresh_bindings()
        await self._show_below()

    def action_compare(self) -> None:
        """Compare the marked runs on a sheet of its own."""
        chosen = [run for run_id in self._list.marked if (run := self.state.run(run_id)) is not None]
        self.services.open_screen(CompareScreen(self.services, chosen))

    async def action_resume(self) -> None:
        """Go on with the run."""
        if self._run is not None:
            await self.actions.resume(self._run)

    async def action_stop(self) -> None:
        """Ask the run's owner to save and end; take one that waits out of the queue."""
        run = self._run
        if run is not None and run.position is not None and run.state not in LIVE_STATES:
            await self._queue.take_out(run)
        elif run is not None:
            saved = "; its work is saved" if run.mode in RESUMABLE_MODES else ""
            await self.actions.stop(run.id, f"Run {run.id} is asked to stop{saved}.")

    def action_queue(self) -> None:
        """Ask what to add to the queue."""
        self._queue.ask_to_add(self._run)

    async def action_work(self) -> None:
        """Work through the queue, or begin nothing more of it."""
        await self._queue.switch()

    async def action_reorder(self, by: int) -> None:
        """Move the run under the cursor in the queue."""
        if self._run is not None:
            await self._queue.move(self._run, by)

    def action_sweep(self) -> None:
        """Show the sweep that the run under the cursor belongs to."""
        if self._run is not None and self._run.group_id is not None:
            self.services.open_screen(SweepScreen(self.services, self.actions, self._run.group_id))

    def action_talk(self) -> None:
        """Chat with the run's adapter."""
        if self._run is not None:
            self.services.open_chat(ChatTarget(self._run.id, "last" if self._run.state in LIVE_STATES else "best"))

    def action_export(self) -> None:
        """Choose what to export, then where to."""
        if self._run is not None and self._run.mode == "generate":
            self.actions.ask_dataset(self._run)
        elif self._run is not None:
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
            self._list.marked = [number for number in self._list.marked if self.state.run(number) is not None]

        details = run_text(run, Path.cwd(), (), 0)
        self.services.ask(ChoiceDialog(f"Delete run {run.id}?", choices, details=details), chosen)

    def action_copy(self) -> None:
        """Send the run's folder to the clipboard."""
        if self._run is not None and self._run.folder is not None:
            self.services.copy(self._run.folder)
