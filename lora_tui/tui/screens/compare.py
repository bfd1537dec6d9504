"""Two to four runs beside each other: their curves in one plot, what is set differently, answers to the same prompts.

`Comparison` is the part of a screen that shows it, below the list of runs and on a sheet of its own.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.dom import DOMNode
from textual.widgets import Static

from lora_tui.store import runs, training
from lora_tui.store.connection import Store
from lora_tui.store.queries.runs import RunLine
from lora_tui.store.rows import Run, Sample
from lora_tui.text import is_right, missing_words, one_line, question_of
from lora_tui.tui.axes import UNITS, Unit
from lora_tui.tui.curve import Curve, Series
from lora_tui.tui.dialogs import Dialog
from lora_tui.tui.screens.base import keys_line, titled
from lora_tui.tui.services import AppServices
from lora_tui.tui.text import DIM, safe_line, styled
from lora_tui.tui.views.run_list import MARKS
from lora_tui.tui.views.runs import differences
from lora_tui.tui.views.training import TrainingView
from lora_tui.tui.widgets.key_hints import KeyHints
from lora_tui.tui.widgets.line_plot import PLOT_KEYS, LinePlot
from lora_tui.tui.widgets.panel import set_title

_STYLES = ("first", "second", "third", "level")
_COLOURS = ("$accent", "$secondary", "$success", "$warning")
_PARTS = ("plot", "settings", "answers")
_LEAST_LOSS = 0.05
_OF_UNIT = {"step": "by step", "examples": "by examples seen", "tokens": "by tokens seen", "time": "by time"}
_LOSS, _SCORE, _HELD_OUT, _RATE, _SPEED = "Loss", "Score", "Loss on held-out examples", "Learning rate", "Tokens/s"
_KEY = 24
_WIDE_ANSWER = 40
"""Columns of an answer from which the runs' answers stand beside each other."""


class Comparison(Container):
    """The comparison of the runs that are marked; `show` says which, the actions are the keys of its screen."""

    def __init__(self, services: AppServices, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self._services = services
        self._views: list[TrainingView] = []
        self._showing = asyncio.Lock()
        self._shown = _LOSS
        self._unit: Unit = "examples"
        self._part = 0
        self._rows: list[Run | None] = []
        """The runs as they are stored, with their settings."""
        self._answers: list[tuple[str, dict[int, Sample]]] = []
        """Prompts, each with the runs' answers by the run's position."""

    def compose(self) -> ComposeResult:
        """Plot and settings side by side, answers below; in a small terminal one of them at a time."""
        with Horizontal(id="compare-parts"):
            with titled(Container(id="compare-plot-box", classes="box"), _LOSS):
                yield LinePlot("none of these runs has taken a step", id="compare-plot")
            with titled(VerticalScroll(id="compare-settings-box", classes="box"), "What is set differently"):
                yield Static(id="compare-settings", markup=False)
        with titled(VerticalScroll(id="compare-answers-box", classes="box"), "The same prompts"):
            yield Static(id="compare-answers", markup=False)

    @property
    def plot(self) -> LinePlot:
        """The plot of all runs."""
        return self.query_one("#compare-plot", LinePlot)

    async def show(self, store: Store, chosen: Sequence[RunLine]) -> None:
        """Compare these runs; what has come since the last call is read, and all of it drawn where there is any."""
        async with self._showing:  # a key and a poll may come at once, and would read each step twice
            await self._show(store, chosen)

    async def _show(self, store: Store, chosen: Sequence[RunLine]) -> None:
        known = {view.run.id: view for view in self._views}
        views = [known.get(run.id) or TrainingView(run) for run in chosen]
        changed = [run.id for run in chosen] != list(known)
        for view, run in zip(views, chosen, strict=True):
            view.run = run
            changed = await view.follow(store) or changed
        if not changed:
            return
        rows = [await runs.get(store, view.run.id) for view in views]
        answers = await self._read_answers(store, views)
        # All at once: a resize or a key may draw while something is read.
        self._views, self._rows, self._answers = views, rows, answers
        self._draw()
        self._draw_settings()
        self._draw_answers()

    def on_resize(self) -> None:
        """Lay settings and answers out anew, once their boxes have their new sizes."""
        self.call_after_refresh(self._draw_settings)
        self.call_after_refresh(self._draw_answers)

    def _title_of(self, position: int) -> str:
        run = self._views[position].run
        return f"{MARKS[position]} {one_line(run.name, 20) if run.name else run.id}"

    def _curve(self, view: TrainingView) -> Curve:
        curves = {_LOSS: view.smooth, _SCORE: view.score, _HELD_OUT: view.held_out, _RATE: view.lr, _SPEED: view.speed}
        return curves[self._shown]

    def _draw(self) -> None:
        series = []
        for position, view in enumerate(self._views):
            curve, style = view.over(self._curve(view), self._unit), _STYLES[position]
            points = self._shown in (_SCORE, _HELD_OUT)
            if points:
                series.append(Series("", curve, style="faint"))
            kind: Any = "points" if points else "line"
            series.append(Series(self._title_of(position), curve, kind, style, MARKS[position]))
        limits = {_SCORE: (0.0, 1.0), _RATE: (0.0, 0.0), _SPEED: (0.0, 0.0)}.get(self._shown)
        least = _LEAST_LOSS if self._shown in (_LOSS, _HELD_OUT) else 0.0
        decimals = 2 if self._shown == _SCORE else None
        self.plot.show(series, unit=self._unit, limits=limits, least_height=least, decimals=decimals)
        box = self.query_one("#compare-plot-box")
        set_title(box, f"{self._shown} {_OF_UNIT[self._unit]}", keys_line(self.screen, PLOT_KEYS))

    def _draw_settings(self) -> None:
        if self._rows:
            self.query_one("#compare-settings", Static).update(self._settings())

    def _settings(self) -> Content:
        """The keys whose values differ, a column for each run; model and data come first."""
        modes = {view.run.mode for view in self._views}
        sections = {"fine_tuning": modes != {"generate"}, "data_generation": bool(modes & {"generate", "quickstart"})}
        settings = [
            {"data": view.run.data, **{name: row.settings.get(name, {}) for name, kept in sections.items() if kept}}
            for view, row in zip(self._views, self._rows, strict=True)
            if row is not None
        ]
        found, same = differences(settings)
        names = [str(view.run.id) for view in self._views]
        title = " against ".join(names) if len(names) < 3 else ", ".join(names)  # as long as fits beside the plot
        set_title(self.query_one("#compare-settings-box"), f"{title}: what is set differently")
        if not found:
            return Content.styled("Nothing: these runs had the same settings.", DIM)
        room = max(40, self.query_one("#compare-settings").content_size.width)
        keys = min(_KEY, max(10, room - 8 * len(self._views)))
        width = max(8, (room - keys) // len(self._views))
        head = [(f"{self._title_of(n):<{width}}", f"bold {_COLOURS[n]}") for n in range(len(self._views))]
        lines = [styled(" " * keys, *head)]
        for key, values in found:
            shown = [safe_line(value, width - 1).plain.ljust(width) for value in values]
            lines.append(styled((one_line(key, keys - 1).ljust(keys), DIM), *shown))
        lines.append(Content.styled(f"({same:,} more are the same)", DIM))
        return Content("\n").join(lines)

    async def _read_answers(self, store: Store, views: Sequence[TrainingView]) -> list[tuple[str, dict[int, Sample]]]:
        """Return each prompt with its answers at the best evaluation of every run."""
        by_prompt: dict[str, dict[int, Sample]] = {}
        for position, view in enumerate(views):
            best = view.best
            for sample in await training.samples(store, best.id) if best is not None else ():
                by_prompt.setdefault(sample.prompt, {})[position] = sample
        return list(by_prompt.items())

    def _draw_answers(self) -> None:
        shown = self.query_one("#compare-answers", Static)
        if not self._answers:
            shown.update(Content.styled("None of these runs was evaluated.", DIM))
            return
        parts: list[Any] = []
        room = max(40, shown.content_size.width)
        width = (room - 2) // max(1, len(self._views)) - 2
        for prompt, answers in self._answers:
            reference = next(iter(answers.values())).reference
            kind = next(iter(answers.values())).kind
            wanted = f"{'expected' if kind == 'expected' else 'should not say'}: {reference}"
            asked = styled(safe_line(question_of(prompt), room, "bold"), "   ", safe_line(wanted, room, DIM))
            parts += [asked.truncate(room, ellipsis=True), "\n"]
            if width >= _WIDE_ANSWER:
                cells = [
                    self._answer(n, answers.get(n)).truncate(width, ellipsis=True) for n in range(len(self._views))
                ]
                parts += ["  ", *[styled(cell, " " * (width + 2 - cell.cell_length)) for cell in cells], "\n"]
            else:
                for n in range(len(self._views)):
                    parts += ["  ", self._answer(n, answers.get(n)), "\n"]
        shown.update(styled(*parts))

    def _answer(self, position: int, sample: Sample | None) -> Content:
        """A run's answer with a mark for right or wrong, and what is missing of the expected one."""
        mark = (f"{MARKS[position]} ", _COLOURS[position])
        if sample is None:
            return styled(mark, ("was not asked" if self._views[position].evaluations else "not evaluated yet", DIM))
        right = is_right(sample.kind, sample.reference, sample.answer, sample.score)
        answer = safe_line(sample.answer, 300) if sample.answer.strip() else Content("(nothing)")
        missing = missing_words(sample.reference, sample.answer) if sample.kind == "expected" and not right else []
        lacks = f"  ({one_line(' '.join(missing), 40)} missing)" if missing and sample.answer.strip() else ""
        return styled(mark, ("✓ ", "bold $success") if right else ("✗ ", "bold $error"), answer, (lacks, DIM))

    # What its screen's keys do

    def next_plot(self) -> None:
        """Show the next curves; losses on held-out examples where a run has them."""
        held_out = any(len(view.held_out.xs) for view in self._views)
        kinds = [_LOSS, _SCORE, *([_HELD_OUT] if held_out else []), _RATE, _SPEED]
        self._shown = kinds[(kinds.index(self._shown) + 1) % len(kinds)] if self._shown in kinds else _LOSS
        self._draw()

    def next_unit(self) -> None:
        """Plot over the next unit: examples, tokens, time, steps."""
        self._unit = UNITS[(UNITS.index(self._unit) + 1) % len(UNITS)]
        self._draw()

    def next_part(self) -> None:
        """In a small terminal, show the next of plot, settings and answers."""
        self.set_class(False, f"-part-{_PARTS[self._part]}")
        self._part = (self._part + 1) % len(_PARTS)
        self.set_class(True, f"-part-{_PARTS[self._part]}")


class ComparisonKeys(DOMNode):
    """The actions of a screen around a `Comparison`, for its keys."""

    def action_plot(self) -> None:
        """Show the next curves."""
        self.query_one(Comparison).next_plot()

    def action_unit(self) -> None:
        """Plot over the next unit."""
        self.query_one(Comparison).next_unit()

    def action_cursor(self, by: int) -> None:
        """Move the plot's cursor."""
        self.query_one(Comparison).plot.move_cursor(by)

    def action_zoom(self) -> None:
        """Magnify the plot around its cursor."""
        self.query_one(Comparison).plot.zoom()

    def action_part(self) -> None:
        """Show the next part in a small terminal."""
        self.query_one(Comparison).next_part()

    def action_log(self) -> None:
        """Switch between a linear and a logarithmic axis."""
        plot = self.query_one(Comparison).plot
        plot.set_log(not plot.log_scale)


class CompareScreen(Dialog[None], ComparisonKeys):
    """Sheet that compares the runs that were marked, over the whole screen."""

    LESSON = "07-overfitting-and-early-stopping"
    AUTO_FOCUS = "#compare-answers-box"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "dismiss", "Back", id="compare.close"),
        Binding("v", "plot", "Other curves", id="compare.plot"),
        Binding("a", "unit", "Steps, tokens, time", id="compare.unit"),
        Binding("left", "cursor(-1)", "Read out", id="compare.cursor-left"),
        Binding("right", "cursor(1)", "Read out", show=False, id="compare.cursor-right"),
        Binding("z", "zoom", "Zoom", id="compare.zoom"),
        Binding("l", "log", "Log scale", id="compare.log"),
        Binding("tab", "part", "Settings, answers", show=False, id="compare.part"),
    ]

    def __init__(self, services: AppServices, chosen: Sequence[RunLine]) -> None:
        super().__init__()
        self._services = services
        self._chosen = chosen

    def compose(self) -> ComposeResult:
        """The comparison, and the keys."""
        with Vertical(classes="sheet"):
            yield Comparison(self._services)
            yield KeyHints()

    async def on_mount(self) -> None:
        """Read the runs and show all of it."""
        if (store := self._services.reader.store) is not None:
            await self.query_one(Comparison).show(store, self._chosen)
