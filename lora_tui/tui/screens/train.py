"""Train: the loss, the score with the aggregator's weights, and what the model answers now."""

import socket
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal, Vertical
from textual.content import Content

from lora_tui.machine import DeviceLoad, device_load
from lora_tui.protocol.backend import ChatTarget, ForecastText
from lora_tui.store import training as store_training
from lora_tui.store.connection import Store
from lora_tui.store.feedback import ratings
from lora_tui.store.queries.preferences import preferences_state
from lora_tui.store.queries.runs import RunLine, weight_history
from lora_tui.store.rows import Evaluation, Sample
from lora_tui.tui.actions import AppActions
from lora_tui.tui.axes import UNITS, Unit
from lora_tui.tui.screens.base import RunScreen, keys_line, titled
from lora_tui.tui.screens.probe import open_probe
from lora_tui.tui.services import AppServices
from lora_tui.tui.text import styled
from lora_tui.tui.views import training_text
from lora_tui.tui.views.reviews import said_words
from lora_tui.tui.views.runs import PLAN_TITLE
from lora_tui.tui.views.training import PLOTS, TrainingView, drawn_plot, plot_names, second_plot
from lora_tui.tui.widgets.line_plot import PLOT_KEYS, LinePlot
from lora_tui.tui.widgets.panel import Line, Panel, set_title
from lora_tui.tui.widgets.row_list import Cell, Column, RowList

if TYPE_CHECKING:
    from lora_tui.config.models import Settings

_ANSWER_COLUMNS = (
    Column("prompt", 0, share=2, least=16),
    Column("expected", 0, share=2, least=17, rank=2),
    Column("says", 0, share=3, least=26),
    Column("agrees", 6),
    Column("rated", 5, rank=1),
)
"""What the model says stays when all that can be left out has gone. The cells are those of `sample_cells`."""

_PLOT_SECONDS = 0.5
_CLOCK_SECONDS = 1.0
"""How often the device's load is measured and the clock drawn: training has better uses for the time."""


class TrainScreen(RunScreen):
    """The mode in which a training run is followed."""

    CSS_PATH = "train.tcss"

    MODE = "train"
    AUTO_FOCUS = "#answers"
    STOP_MESSAGE = "Stopping: the step is finished and saved first."
    LESSON = "01-tokens-and-loss"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "start", "Start", id="train.start", tooltip="Train with the current configuration"),
        Binding("R", "resume", "Resume", id="train.resume", tooltip="Go on exactly where this run was"),
        Binding("x", "stop", "Stop and keep", id="train.stop", tooltip="Finish the step, save, end; resumable"),
        Binding("p", "probe", "Find a rate", show=False, id="train.probe", tooltip="Try rising rates, propose one"),
        Binding("p", "checkpoint", "Checkpoint now", id="train.checkpoint", tooltip="Save after this step and go on"),
        Binding("c", "chat", "Chat with it", id="train.chat", tooltip="Talk to this run's newest checkpoint"),
        Binding("e", "export", "Export", id="train.export",
                tooltip="Write this run's adapter, or merged weights, for other programs"),
        Binding("w", "rate", "Rate answers", id="train.rate",
                tooltip="Say of one answer after the other whether it is good: one key each"),
        Binding("d", "learn", "Learn from ratings", show=False, id="train.learn",
                tooltip="Train this adapter further on what you said: ratings, verdicts, edits (DPO, or KTO)"),
        Binding("r", "report", "Did it help?", show=False, id="train.report",
                tooltip="Did fine-tuning help? This run's adapter against its base model on held-out questions"),
        Binding("v", "plot", "Next plot", id="train.plot", tooltip="Loss, score, learning rate, speed"),
        Binding("l", "log", "Log scale", id="train.log", tooltip="Logarithmic loss axis"),
        Binding("a", "unit", "Steps, tokens, time", show=False, id="train.unit",
                tooltip="Plot over steps, examples or tokens seen, or time"),
        Binding("z", "zoom", "Zoom", show=False, id="train.zoom", tooltip="Magnify the plots around their cursor"),
        Binding("left", "cursor(-1)", "Read out", show=False, id="train.cursor-left",
                tooltip="Move the plots' cursor, which reads their values out"),
        Binding("right", "cursor(1)", "Read out", show=False, id="train.cursor-right",
                tooltip="Move the plots' cursor, which reads their values out"),
        Binding("escape", "reset_plots", "Whole plot", show=False, id="train.whole",
                tooltip="Put the plots' cursor away and end the zoom"),
        Binding("tab", "lower", "Answers", show=False, id="train.lower",
                tooltip="In a small terminal: weights or answers below"),
        Binding("left_square_bracket", "evaluation(-1)", "Earlier answers", show=False, key_display="[",
                id="train.earlier", tooltip="What it answered at the evaluation before"),
        Binding("right_square_bracket", "evaluation(1)", "Later answers", show=False, key_display="]",
                id="train.later", tooltip="What it answered at the next evaluation"),
    ]  # fmt: skip

    def __init__(self, services: AppServices, actions: AppActions) -> None:
        super().__init__(services, actions, self._forecast)
        self._view: TrainingView | None = None
        self._samples: list[Sample] = []
        self._shown_evaluation: Evaluation | None = None
        self._back = 0
        """How many evaluations before the newest are shown; 0 follows it."""
        self._ratings: dict[int, int] = {}
        self._weights: tuple[dict[str, float], dict[str, float]] = ({}, {})
        """The aggregator's weights at the run's first evaluation, and now."""
        self._agreement = services.agreement_reader("evaluation")
        self._device_load: DeviceLoad | None = None
        self._plot = "loss"
        """Which of `PLOTS` is in the large place."""
        self._unit: Unit = "step"
        """What the plots count along x."""
        self._plotted_at = 0.0
        self._ticked_at = 0.0
        self._plots_stale = True
        self._host = socket.gethostname()
        self._said: tuple[int, int] = (0, 0)
        """How many preferences and how many single verdicts people have given."""
        self._said_state: tuple[Any, ...] | None = None

    async def _forecast(self, settings: "Settings") -> ForecastText:
        """What a training with these settings will be, on the pairs that were taken here if any were."""
        pairs = self.state.training_file if settings.fine_tuning.method == "sft" else None
        return await self.services.backend.forecast_training(settings, pairs)

    def compose_body(self) -> ComposeResult:
        """Plots and current figures above; score, weights and answers below."""
        yield Panel(PLAN_TITLE, id="plan")
        yield Line(id="now-line")
        with Horizontal(id="plots"):
            with titled(Container(id="plot-box", classes="box"), "Loss"):
                yield LinePlot(id="plot")
            with Vertical(id="side"):
                yield Panel("Now", id="now")
                with titled(Container(id="second-box", classes="box"), "Learning rate"):
                    yield LinePlot(id="second")
        yield Line(id="score-line")
        with Horizontal(id="lower"):
            with Vertical(id="scores"):
                with titled(Container(id="score-box", classes="box"), "Score"):
                    yield LinePlot("the first evaluation draws it", id="score-plot")
                yield Panel("Weights", id="weights")
            with titled(Container(id="answers-box", classes="box"), "What it answers"):
                yield RowList(self._answer_row, _ANSWER_COLUMNS, id="answers", empty="no evaluation yet")

    # Following the run

    async def show_no_run(self) -> None:
        """Show the plan where the plots will be."""
        self._view = None
        self.show_next_step()
        self.show_run_in_bar(None)
        self.set_class(True, "-before")
        await self._plan.update(self.state.settings, self.forecast)
        plan = self.query_one("#plan", Panel)
        plan.show(self._plan.content(plan.content_size.width), self._plan.title)
        self.query_one("#weights", Panel).show(training_text.weight_lines({}, {}, 0))

    async def open_run(self, store: Store, run: RunLine) -> None:
        """Begin to follow another run, at its newest evaluation."""
        self._view = TrainingView(run)
        self._back, self._shown_evaluation = 0, None
        self._plots_stale = True

    async def follow_run(self, store: Store, run: RunLine, *, changed: bool, moved: bool) -> None:
        """Read the steps and evaluations that have come, and draw what is new."""
        view = self._view
        assert view is not None
        view.run = run
        news = (changed or moved) and await view.follow(store)
        if news or self._shown_evaluation is None:
            await self._read_answers(store, view)
        if news or moved:
            await self._read_weights(store, view)
            self._plots_stale = True
        if await self._agreement.update(store, run.id, len(view.evaluations), changed=changed or moved):
            view.known, news = self._agreement.known, True
        if not view.live and (changed or moved or self._said_state is None):
            await self._count_said(store)
        tick = time.monotonic() - self._ticked_at >= _CLOCK_SECONDS
        if tick:
            self._ticked_at = time.monotonic()
            if view.live:
                self._device_load = device_load(view.run.pid if view.run.host == self._host else None)
        if news or moved or self._plots_stale or tick:
            self._draw(view, news=news or moved)
        if view.live and not view.plan and run.id in self.state.begun:
            await self._plan.update(self.state.settings, self.forecast)

    async def _count_said(self, store: Store) -> None:
        """Count what people have said, where that is something else by now."""
        state = await preferences_state(store)
        if state != self._said_state:
            self._said_state = state
            counted = await self.services.attempt(self.services.backend.count_said(self.state.settings))
            self._said, self._plots_stale = counted or (0, 0), True

    async def _read_answers(self, store: Store, view: TrainingView) -> None:
        """Read the answers of the evaluation in view, when it is another one now."""
        evaluations = view.answered
        if not evaluations:
            return
        self._back = min(self._back, len(evaluations) - 1)
        wanted = evaluations[-1 - self._back]
        if self._shown_evaluation is None or wanted.id != self._shown_evaluation.id:
            self._shown_evaluation = wanted
            self._samples = await store_training.samples(store, wanted.id)
            self._ratings = await ratings(store, view.run.id)

    async def _read_weights(self, store: Store, view: TrainingView) -> None:
        """Read the weights at the first evaluation of the run, and the newest."""
        evaluations = view.evaluations
        start = dict(evaluations[0].weights) if evaluations else {}
        newest = await weight_history(store, "evaluation") or ([] if view.live else evaluations)
        now = dict(newest[-1].weights) if newest else start
        self._weights = start or now, now

    # Drawing

    def _draw(self, view: TrainingView, *, news: bool) -> None:
        now = time.time()
        before = view.live and not view.step
        self.set_class(before, "-before")
        if not before and self.focused is None:
            self.query_one("#answers").focus()  # a small terminal hid it, and what is hidden loses the focus
        if before:
            room = self.query_one("#plan", Panel).content_size.width or 76
            forecast = self._plan.content(room) if view.run.id in self.state.begun else None
            self.query_one("#plan", Panel).show(training_text.plan_with_warnings(view, room, forecast), "Plan")
        title = (
            "Result"
            if view.comparison and not view.step
            else "Plan"
            if not view.step
            else "Now"
            if view.live
            else "Last step"
        )
        self.query_one("#now", Panel).show(self._now_text(view, now), title)
        self.query_one("#now-line", Line).show(training_text.status_line(view, self._device_load, now))
        place = f"step {view.steps_done:,}/{view.steps:,}" if view.steps else view.phase() or ""
        self.show_run_in_bar(view.run, place if self.size.width < 100 else training_text.ending_text(view) or place)
        done = training_text.result_words(view) if not view.live and view.checkpoint else ""
        steps = [("chat", "chat with it"), ("learn", said_words(*self._said)), ("export", "export it"),
                 ("rate", "rate its answers"), ("report", "did it help?")]  # fmt: skip
        go_on = ("resume", "go on")
        steps = [*steps, go_on] if view.run.state == "finished" else [go_on, *steps]
        self.show_next_step(done, *steps, state=view.run.state)
        if view.comparison is not None and not view.step:
            self.show_next_step("Evaluated", ("report", "worst answers, report"), ("rate", "rate its answers"))
        if self._plot not in plot_names(view):
            self._plot = "loss"
        if self._plots_stale and time.monotonic() - self._plotted_at >= _PLOT_SECONDS:
            self._plots_stale = False
            self._plotted_at = time.monotonic()
            self._draw_plots(view)
        if news:
            start, weights = self._weights
            panel = self.query_one("#weights", Panel)
            panel.show(
                training_text.weight_lines(start, weights, panel.content_size.width or 36, view.known), "Weights"
            )
            weighed = training_text.weight_line(start, weights, self.size.width - 2, view.known)
            self.query_one("#score-line", Line).show(styled((training_text.score_line(view) + "\n", "bold"), weighed))
            self._draw_answers(view)

    def _now_text(self, view: TrainingView, now: float) -> Content:
        """The figures of the moment, and the run's warnings where there is room."""
        room = self.query_one("#now", Panel).content_size
        panel = training_text.status_lines(view, self._device_load, now, room.width or 44)
        if view.warnings and (self.has_class("-tall") or room.height > len(panel.plain.splitlines()) + 1):
            panel = styled(panel, "\n\n", training_text.warning_lines(view.warnings, room.width))
        return panel

    def _draw_plots(self, view: TrainingView) -> None:
        self._draw_plot(view, self.query_one("#plot", LinePlot), self._plot)
        set_title(self.query_one("#plot-box"), PLOTS[self._plot], keys_line(self, PLOT_KEYS))
        second = second_plot(view, self._plot)
        self._draw_plot(view, self.query_one("#second", LinePlot), second)
        set_title(self.query_one("#second-box"), PLOTS[second])
        self._draw_plot(view, self.query_one("#score-plot", LinePlot), "score")
        set_title(self.query_one("#score-box"), training_text.score_title(view))

    def _draw_plot(self, view: TrainingView, plot: LinePlot, name: str) -> None:
        """Draw one of `PLOTS`."""
        drawn = drawn_plot(view, name, self._unit)
        plot.set_empty_text(training_text.empty_plot_text(view, name))
        plot.show(
            drawn.series,
            unit=self._unit,
            end_x=view.x_of(view.steps, self._unit) or None,
            level=drawn.level,
            limits=drawn.limits,
            least_height=drawn.least_height,
            decimals=drawn.decimals,
        )

    def _draw_answers(self, view: TrainingView) -> None:
        shown = self._shown_evaluation
        rows = self.query_one("#answers", RowList)
        rows.show(len(self._samples) if shown is not None else 0)
        if shown is None:
            coming = "The first evaluation shows what it answers."
            rows.set_empty_text(coming if view.live else "This run was not evaluated.")
            set_title(self.query_one("#answers-box"), "What it answers")
            return
        width = self.size.width - (0 if self.size.width < 100 else 42 if self.size.width < 140 else 56)
        set_title(self.query_one("#answers-box"), training_text.answers_title(view, shown, self._back, width))

    def _answer_row(self, index: int) -> Sequence[Cell]:
        if index >= len(self._samples):
            return []
        sample = self._samples[index]
        return training_text.sample_cells(sample, self._ratings.get(sample.id))

    def redraw(self) -> None:
        """Draw plots and texts anew."""
        self._plots_stale = True
        self.services.poll_soon()
        if self._view is not None:
            self._draw(self._view, news=True)

    # Keys

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer only what can be done now."""
        view = self._view
        if action in ("stop", "checkpoint"):
            return view is not None and view.run.state == "running"
        if action == "chat":
            return view is not None and bool(view.checkpoint)
        if action == "report":
            return view is not None and not view.live and (bool(view.checkpoint) or view.run.mode == "evaluate")
        if action == "export":
            return view is not None and bool(view.checkpoint) and not view.live
        if action == "learn":
            return view is not None and not view.live and bool(view.checkpoint) and any(self._said)
        if action == "rate":
            return view is not None and bool(view.evaluations)
        if action == "lower":
            return self.size.width < 100
        if action in ("plot", "log", "unit", "zoom", "cursor"):
            return view is not None and bool(view.loss.xs)
        if action == "evaluation":
            return view is not None and len(view.answered) > 1
        return super().check_action(action, parameters)

    async def action_rate(self) -> None:
        """Rate the answers of the run in view, one after the other."""
        from lora_tui.tui.screens.rating import open_rating

        if self._view is not None:
            await open_rating(self.services, self._view.run.id, "sample")

    async def action_learn(self) -> None:
        """Train this run's adapter further on what people have said."""
        if self._view is not None:
            await self.actions.learn_from_said(self._view.run.id)

    def action_probe(self) -> None:
        """Try rising learning rates on the data, and propose one."""
        open_probe(self.services, self.actions)

    async def action_checkpoint(self) -> None:
        """Save a checkpoint after this step."""
        await self.send("checkpoint", "A checkpoint is saved after this step.")

    def action_chat(self) -> None:
        """Chat with the best checkpoint of a run that has ended, the newest of a live one."""
        if self._view is not None:
            best = self._view.best is not None and not self._view.live
            self.services.open_chat(ChatTarget(self._view.run.id, "best" if best else "last"))

    def action_export(self) -> None:
        """Choose what of the run to export, then where to."""
        if self._view is not None:
            self.actions.ask_export(self._view.run)

    def action_report(self) -> None:
        """Show whether fine-tuning helped, and where the report is."""
        from lora_tui.tui.screens.report import ReportScreen

        if self._view is not None:
            self.services.open_screen(ReportScreen(self.services, self.actions, self._view.run))

    def action_plot(self) -> None:
        """Show the next of the plots in the large place."""
        names = plot_names(self._view)
        self._plot = names[(names.index(self._plot) + 1) % len(names)]
        if self._view is not None:
            self._draw_plots(self._view)

    def action_log(self) -> None:
        """Switch the large plot between linear and logarithmic."""
        plot = self.query_one("#plot", LinePlot)
        plot.set_log(not plot.log_scale)

    def action_unit(self) -> None:
        """Plot over the next unit: steps, examples or tokens seen, time."""
        self._unit = UNITS[(UNITS.index(self._unit) + 1) % len(UNITS)]
        if self._view is not None:
            self._draw_plots(self._view)

    def action_zoom(self) -> None:
        """Magnify all plots around the cursor."""
        for plot in self.query(LinePlot):
            plot.zoom()

    def action_cursor(self, by: int) -> None:
        """Move the cursor of the large plot; the others read out the same moment."""
        large = self.query_one("#plot", LinePlot)
        large.move_cursor(by)
        for plot in self.query(LinePlot):
            plot.set_cursor(large.cursor)

    def action_reset_plots(self) -> None:
        """Put the cursor away and end the zoom."""
        for plot in self.query(LinePlot):
            plot.reset_view()

    def action_lower(self) -> None:
        """Show answers instead of plots in a small terminal, or back."""
        self.toggle_class("-answers")

    async def action_evaluation(self, by: int) -> None:
        """Show the answers of another evaluation."""
        if self._view is None or self.store is None or not self._view.answered:
            return
        self._back = min(max(0, self._back - by), len(self._view.answered) - 1)
        await self._read_answers(self.store, self._view)
        self._draw_answers(self._view)

    @on(RowList.Chosen, "#answers")
    def _open_answer(self, event: RowList.Chosen) -> None:
        from lora_tui.tui.screens.answer import AnswerScreen

        if self._view is not None and event.index < len(self._samples):
            screen = AnswerScreen(self.services, self._view.run.id, self._samples, event.index)
            self.services.open_screen(screen, self._answer_closed)

    async def _answer_closed(self, _: Any) -> None:
        """Show the new ratings, and the weights they have changed."""
        if self._view is not None and self.store is not None:
            self._ratings = await ratings(self.store, self._view.run.id)
            await self._read_weights(self.store, self._view)
            self._draw(self._view, news=True)
