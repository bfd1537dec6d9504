"""Two to four runs side by side: their curves in one plot, what is set differently, answers to the same prompts."""

from collections.abc import Sequence
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from lora_tui.store import runs, training
from lora_tui.store.connection import Store
from lora_tui.store.queries.runs import RunLine
from lora_tui.store.rows import Sample
from lora_tui.text import one_line
from lora_tui.tui.curve import Series
from lora_tui.tui.dialogs import Dialog
from lora_tui.tui.screens.base import titled
from lora_tui.tui.services import AppServices
from lora_tui.tui.text import DIM, safe_line, score_mark, styled
from lora_tui.tui.views.runs import differences
from lora_tui.tui.views.training import TrainingView
from lora_tui.tui.views.training_text import question_of
from lora_tui.tui.widgets.key_hints import KeyHints
from lora_tui.tui.widgets.line_plot import LinePlot
from lora_tui.tui.widgets.panel import set_title

_STYLES = ("first", "second", "third", "level")
_GLYPHS = "◆●▲■"
_SECTIONS = ("data_generation", "fine_tuning")
_KEY, _VALUE = 46, 24
_LOSS, _SCORE, _HELD_OUT = "Loss, smoothed", "Score", "Loss on held-out examples"


class CompareScreen(Dialog[None]):
    """Sheet that compares the runs that were marked."""

    LESSON = "07-overfitting-and-early-stopping"
    AUTO_FOCUS = "#compare-answers-box"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "dismiss", "Back", id="compare.close"),
        Binding("v", "plot", "Other curves", id="compare.plot"),
        Binding("l", "log", "Log scale", id="compare.log"),
    ]

    def __init__(self, services: AppServices, chosen: Sequence[RunLine]) -> None:
        super().__init__()
        self._services = services
        self._views = [TrainingView(run) for run in chosen]
        self._shown = _LOSS

    def compose(self) -> ComposeResult:
        """Plot above, settings and answers below."""
        with Vertical(classes="sheet"):
            with Container(id="compare-plot-box", classes="box"):
                yield LinePlot("none of these runs has taken a step", id="compare-plot")
            with Horizontal(id="compare-parts"):
                with titled(VerticalScroll(id="compare-settings-box", classes="box"), "What is set differently"):
                    yield Static(id="compare-settings", markup=False)
                with titled(VerticalScroll(id="compare-answers-box", classes="box"), "The same prompts"):
                    yield Static(id="compare-answers", markup=False)
            yield KeyHints()

    async def on_mount(self) -> None:
        """Read the runs and show all of it."""
        store = self._services.reader.store
        if store is None:
            return
        for view in self._views:
            await view.follow(store)
        self._draw()
        self.query_one("#compare-settings", Static).update(await self._settings(store))
        self.query_one("#compare-answers", Static).update(await self._answers(store))

    def _title_of(self, view: TrainingView) -> str:
        return one_line(view.run.name, 20) if view.run.name else f"run {view.run.id}"

    def _draw(self) -> None:
        series = []
        for view, look, glyph in zip(self._views, _STYLES, _GLYPHS, strict=False):
            if self._shown == _LOSS:
                series.append(Series(f"{glyph} {self._title_of(view)}", view.smooth, style=look))
            else:
                curve = view.score if self._shown == _SCORE else view.held_out
                series.append(Series(self._title_of(view), curve, "points", look, glyph))
        self.query_one("#compare-plot", LinePlot).show(series, limits=(0.0, 1.0) if self._shown == _SCORE else None)
        set_title(self.query_one("#compare-plot-box"), self._shown)

    async def _settings(self, store: Store) -> Content:
        """The keys whose values differ, a column for each run."""
        rows = [await runs.get(store, view.run.id) for view in self._views]
        settings = [
            {name: section for name, section in row.settings.items() if name in _SECTIONS}
            for row in rows
            if row is not None
        ]
        found = differences(settings)
        if not found:
            return Content.styled("Nothing: these runs had the same settings.", DIM)
        lines = [styled(" " * _KEY, *[(f"{self._title_of(view):<{_VALUE}}", "bold") for view in self._views])]
        for key, values in found:
            shown = [safe_line(value, _VALUE - 1).plain.ljust(_VALUE) for value in values]
            lines.append(styled((one_line(key, _KEY - 1).ljust(_KEY), DIM), *shown))
        return Content("\n").join(lines)

    async def _answers(self, store: Store) -> Content:
        """Each prompt with every run's answer at the run's best evaluation."""
        by_prompt: dict[str, list[tuple[str, Sample]]] = {}
        for view in self._views:
            best = view.best
            for sample in await training.samples(store, best.id) if best is not None else ():
                by_prompt.setdefault(sample.prompt, []).append((self._title_of(view), sample))
        if not by_prompt:
            return Content.styled("None of these runs was evaluated.", DIM)
        parts: list[Any] = []
        for prompt, answers in by_prompt.items():
            parts += [safe_line(question_of(prompt), 200, "bold"), "\n"]
            for name, sample in answers:
                parts += [
                    (f"  {name:<10} {score_mark(sample.score):<7} ", DIM),
                    safe_line(sample.answer or "(nothing)", 300),
                    "\n",
                ]
            parts.append("\n")
        return styled(*parts)

    def action_plot(self) -> None:
        """Show the next curves: losses, scores, and losses on held-out examples where a run has them."""
        held_out = any(len(view.held_out.xs) for view in self._views)
        kinds = [_LOSS, _SCORE, _HELD_OUT] if held_out else [_LOSS, _SCORE]
        self._shown = kinds[(kinds.index(self._shown) + 1) % len(kinds)]
        self._draw()

    def action_log(self) -> None:
        """Switch between a linear and a logarithmic axis."""
        plot = self.query_one("#compare-plot", LinePlot)
        plot.set_log(not plot.log_scale)
