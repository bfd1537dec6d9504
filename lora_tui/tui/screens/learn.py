"""Learn: the lessons, each with a panel that fills from the user's own runs."""

from collections.abc import Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Markdown, Static

from lora_tui.tui.screens.base import ModeScreen, titled
from lora_tui.tui.services import AppServices
from lora_tui.tui.store_reader import Throttle
from lora_tui.tui.text import DIM, styled
from lora_tui.tui.views.lessons import LessonRuns, lesson, lesson_panel, lessons
from lora_tui.tui.views.training import TrainingView
from lora_tui.tui.widgets.line_plot import LinePlot
from lora_tui.tui.widgets.panel import set_title
from lora_tui.tui.widgets.row_list import Cell, Column, RowList

_ON_SCORES = "06-adaptive-scores"
"""The lesson whose panel shows what ratings say of the score."""


class LearnScreen(ModeScreen):
    """The mode for lessons: list, text, and what the user's own run shows of it."""

    CSS_PATH = "learn.tcss"

    MODE = "learn"
    AUTO_FOCUS = "#lesson-box"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left_square_bracket,p", "step(-1)", "Previous", key_display="[", id="learn.previous"),
        Binding("right_square_bracket,n", "step(1)", "Next lesson", key_display="]", id="learn.next"),
        Binding("t", "try", "Try it", id="learn.try", tooltip="Go to the screen where this lesson happens"),
    ]

    def __init__(self, services: AppServices) -> None:
        super().__init__(services)
        self._shown = ""
        """Id of the lesson that is shown."""
        self._training: TrainingView | None = None
        self._agreement = services.agreement_reader("evaluation")
        self._panel_throttle = Throttle(2.0)
        self._panel_text: Content | None = None

    def compose_body(self) -> ComposeResult:
        """List, lesson, own run."""
        with Horizontal(id="learn-parts"):
            with titled(Container(id="lessons-box", classes="box"), "Lessons"):
                yield RowList(self._row, (Column("", 2, right=True), Column("", 0)), headings=False, id="lessons")
            with Horizontal(id="lesson-parts"):
                with VerticalScroll(id="lesson-box", classes="box"):
                    yield Markdown("", open_links=False, id="lesson")
                with titled(Vertical(id="own-box", classes="box"), "In your own run"):
                    yield LinePlot("", id="own-plot")
                    with VerticalScroll(id="own-scroll"):
                        yield Static(id="own-words", markup=False)

    async def on_mount(self) -> None:
        """Show the lesson that was asked for, else the first."""
        self.query_one(RowList).show(len(lessons()))
        wanted = self.state.requested_lesson or lessons()[0].id
        self.state.requested_lesson = None
        await self.open(wanted)

    def _row(self, index: int) -> Sequence[Cell]:
        entry = lessons()[index]
        return [(str(entry.number), "accent"), (entry.title, "strong" if entry.id == self._shown else "")]

    async def open(self, lesson_id: str) -> None:
        """Show a lesson from its top."""
        entry = lesson(lesson_id)
        if entry.id == self._shown:
            return
        self._shown = entry.id
        rows = self.query_one(RowList)
        rows.cursor = lessons().index(entry)
        rows.refresh()
        box = self.query_one("#lesson-box")
        set_title(box, f"{entry.number} · {entry.title}")
        await self.query_one("#lesson", Markdown).update(entry.text)
        box.scroll_home(animate=False)
        self._panel_throttle.reset()
        self.services.poll_soon()

    async def update(self, *, changed: bool) -> None:
        """Show the lesson that another screen asks for, and fill the panel from the runs in view."""
        if self.state.requested_lesson is not None and self._shown:
            wanted, self.state.requested_lesson = self.state.requested_lesson, None
            await self.open(wanted)
        place = f"lesson {lesson(self._shown).number} of {len(lessons())}"
        self.show_run_in_bar(self.state.live_run, no_run=styled((place, DIM)))
        store = self.store
        if store is None:
            hint = Content("Nothing to show yet. First steps (ctrl+p) shows the whole way once, with 1.")
            self.query_one("#own-words", Static).update(hint)
            return
        run = self.state.run_on("train")
        if run is not None and self._shown == _ON_SCORES and await self._agreement.update(store, run.id):
            self._panel_throttle.reset()
        if not self._shown or not self._panel_throttle.due():
            return
        if run is None:
            self._training = None
        else:
            if self._training is None or self._training.run.id != run.id:
                self._training = TrainingView(run)
            self._training.run = run
            await self._training.follow(store)
        runs = LessonRuns(store, self._training, self.state.run_on("generate"), self._agreement.known)
        panel = await lesson_panel(self._shown, runs)
        plot = self.query_one("#own-plot", LinePlot)
        plot.display = bool(panel.series)
        plot.show(panel.series, level=panel.level, unit=panel.unit)
        if self._panel_text is None or not self._panel_text.is_same(panel.text):
            self._panel_text = panel.text
            self.query_one("#own-words", Static).update(panel.text)
        self._panel_throttle.done()

    @on(RowList.Moved, "#lessons")
    @on(RowList.Chosen, "#lessons")
    async def _chosen(self, event: RowList.Moved | RowList.Chosen) -> None:
        await self.open(lessons()[event.index].id)

    async def action_step(self, by: int) -> None:
        """Show the lesson before or after."""
        index = lessons().index(lesson(self._shown)) + by
        if 0 <= index < len(lessons()):
            await self.open(lessons()[index].id)

    def action_try(self) -> None:
        """Go to the mode where the lesson happens."""
        where = {"04": "generate", "05": "train", "09": "chat", "08": "configure", "03": "configure"}
        self.services.go_to(where.get(self._shown[:2], "train"))
