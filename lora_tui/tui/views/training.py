"""State of one training run, followed in the store: curves, evaluations, plan, progress; and the plots of them.

`training_text` words the state, `LinePlot` draws the plots.
"""

import asyncio
import time
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lora_tui.protocol.agreement import Estimate, ScoreAgreement
from lora_tui.store import events, runs
from lora_tui.store import training as store_training
from lora_tui.store.connection import Store
from lora_tui.store.queries.runs import RunLine, events_of_kinds, newest_event, step_columns
from lora_tui.store.rows import LIVE_STATES, Evaluation, Event
from lora_tui.text import progress_text
from lora_tui.tui.axes import Unit
from lora_tui.tui.curve import Curve, ExponentialAverage, Series

_EVENT_KINDS = ("step", "evaluation", "plan", "progress", "checkpoint", "warning", "note", "started", "done", "ranks")
_NEWEST_KINDS = ("plan", "progress", "checkpoint", "step", "ranks")
"""Events of which the view has the newest one's payload, in a field of the same name."""

_PLOTTED = ("loss", "lr", "tokens_per_s", "grad_norm", "tokens", "seconds")
"""Columns of a step that curves are made of."""

_BATCH = 2000
"""Events that are read at once."""

_WARNINGS = 20
"""Warnings that are kept, the newest."""

_MIN_SPAN, _MAX_SPAN = 4.0, 50.0
"""The loss is smoothed over about a twentieth of the run's steps, within these limits."""


PLOTS = {
    "loss": "Loss",
    "margin": "Reward margin",
    "right": "Told apart rightly",
    "score": "Score",
    "rate": "Learning rate",
    "speed": "Tokens per second",
}
"""Titles of the plots that take turns in the large place."""

_OF_JUDGEMENTS = ("margin", "right")
"""Plots of preference training alone."""

_LEAST_LOSS = 0.05
"""The least height of the loss axis: differences of a thousandth are no slope."""


@dataclass
class TrainingView:
    """A training run as it is known so far; `follow` brings it up to date.

    Curves are over optimizer steps: `loss` in nats a label token and smoothed in `smooth`, `speed` in tokens a second.
    `plan`, `step`, `progress`, `checkpoint` and `ranks` are the payloads of the newest event of their kind.
    """

    run: RunLine
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The run's ``fine_tuning`` section."""
    loss: Curve = field(default_factory=Curve)
    smooth: Curve = field(default_factory=Curve)
    lr: Curve = field(default_factory=Curve)
    speed: Curve = field(default_factory=Curve)
    score: Curve = field(default_factory=Curve)
    held_out: Curve = field(default_factory=Curve)
    margin: Curve = field(default_factory=Curve)
    """In preference training: the mean reward of the better answers less that of the others."""
    accuracy: Curve = field(default_factory=Curve)
    """The share of preferences that the model tells right, 0-1."""
    base_score: Curve = field(default_factory=Curve)
    """The base model's score, as a point at step 0, which `score` begins with too; empty where it was not asked."""
    tokens: Curve = field(default_factory=Curve)
    """Tokens seen so far, by step."""
    seconds: Curve = field(default_factory=Curve)
    """Seconds that the steps have taken so far, by step."""
    evaluations: list[Evaluation] = field(default_factory=list)
    """Those of the model in training."""
    base: Evaluation | None = None
    """That of the base model, made before the first step; None where it was not asked."""
    plan: Mapping[str, Any] = field(default_factory=dict)
    step: Mapping[str, Any] = field(default_factory=dict)
    progress: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: Mapping[str, Any] = field(default_factory=dict)
    ranks: Mapping[str, Any] = field(default_factory=dict)
    """What each of several devices did in the last second; empty where one trains alone."""
    warnings: list[str] = field(default_factory=list)
    clipped: int = 0
    """Steps whose gradient norm was above ``max_grad_norm``."""
    stopped_by: str = ""
    """Why the run has ended, from its result: ``steps``, ``target_score``, ``patience`` or ``request``."""
    known: ScoreAgreement | None = None
    """What ratings say of the score; None before it was asked."""
    comparison: Mapping[str, Any] | None = None
    """What an evaluation has found on held-out questions, from its result."""
    _loss_average: ExponentialAverage = field(default_factory=ExponentialAverage)
    _event_cursor: int | None = None
    _ended_at: float | None = None
    _phase_is_newest: bool = False
    _phase_name: str | None = None
    _phase_since: float = 0.0

    @property
    def live(self) -> bool:
        """Whether a process owns the run: queued, running or stopping."""
        return self.run.state in LIVE_STATES

    @property
    def judges(self) -> bool:
        """Whether the run learns from preferences or verdicts in place of answers."""
        return str(self.plan.get("method") or self.settings.get("method") or "sft") != "sft"

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run; 0 before they are known."""
        return int(self.step.get("steps") or self.plan.get("steps") or 0)

    @property
    def steps_done(self) -> int:
        """Optimizer steps so far."""
        return int(self.step.get("step") or 0)

    @property
    def target(self) -> float:
        """The score at which training stops."""
        return float(self.settings.get("training", {}).get("target_score", 1.0))

    @property
    def best(self) -> Evaluation | None:
        """The evaluation with the highest mean over answers and controls, the first of equals.

        Of preference training the newest: answers to test prompts do not tell how much is preferred.
        """
        if self.judges:
            return self.evaluations[-1] if self.evaluations else None
        return max(self.evaluations, key=lambda e: (e.rank, -e.step), default=None)

    @property
    def best_by_controls(self) -> bool:
        """Whether another evaluation scored higher than the best, and did worse on the controls."""
        return not self.judges and store_training.passed_over(self.evaluations) is not None

    def people(self, evaluation: Evaluation) -> Estimate | None:
        """The mean that people would give the answers of an evaluation; None where ratings do not tell."""
        return None if self.known is None else self.known.means.get(evaluation.id)

    async def follow(self, store: Store) -> bool:
        """Read what has happened since the last call; returns whether anything has."""
        if self._event_cursor is None:
            await self._read_all(store)
            return True
        changed = await self._read_end(store)
        while batch := await events_of_kinds(store, self.run.id, _EVENT_KINDS, self._event_cursor, _BATCH):
            self._event_cursor = batch[-1].id
            changed = True
            for event in batch:
                self._apply(event)
            if any(event.kind == "evaluation" for event in batch):
                await self._read_evaluations(store)
            if len(batch) < _BATCH:
                break
        return changed

    async def _read_all(self, store: Store) -> None:
        """Read everything so far: steps from their rows, the rest from events."""
        row = await runs.get(store, self.run.id)
        assert row is not None, "it was listed"
        self.settings = row.settings.get("fine_tuning", {})
        self._event_cursor = await events.last_id(store, self.run.id)
        newest = {kind: await newest_event(store, self.run.id, kind) for kind in _NEWEST_KINDS}
        for event in newest.values():
            if event is not None:
                self._apply(event, new=False)
        progress, step = newest["progress"], newest["step"]
        self._phase_is_newest = self.live and progress is not None and (step is None or progress.id > step.id)
        steps = await step_columns(store, self.run.id)
        columns = zip(steps.step, *(getattr(steps, name) for name in _PLOTTED), strict=True)
        for number, (step, *values) in enumerate(columns, start=1):
            self._add_step(step, *values)
            if number % _BATCH == 0:
                await asyncio.sleep(0)  # a hundred thousand steps take a second: keys are heard meanwhile
        for event in await events_of_kinds(store, self.run.id, ("warning",), 0, _WARNINGS):
            self._apply(event)
        if self.judges:
            await self._read_rewards(store)
        await self._read_evaluations(store)
        await self._read_end(store)

    async def _read_rewards(self, store: Store) -> None:
        """Read the rewards of all steps so far from their events: the rows of steps have no columns for them."""
        after = 0
        while batch := await events_of_kinds(store, self.run.id, ("step",), after, _BATCH):
            after = batch[-1].id
            for event in batch:
                if event.id <= (self._event_cursor or 0):
                    self._add_rewards(event.payload)
            await asyncio.sleep(0)

    async def _read_end(self, store: Store) -> bool:
        """Read why the run has ended, once for each time it ends; returns whether that is new."""
        if self._ended_at == self.run.ended_at:
            return False
        self._ended_at, self.stopped_by = self.run.ended_at, ""
        if not self.live and (row := await runs.get(store, self.run.id)) is not None:
            result = row.result or {}
            self.stopped_by, self.comparison = str(result.get("stopped_by", "")), result.get("comparison")
        return True

    def _apply(self, event: Event, *, new: bool = True) -> None:
        """Update the state from an event; `new` is not set for those from before the run was opened."""
        payload = event.payload
        if event.kind in _NEWEST_KINDS:
            setattr(self, event.kind, payload)
        if event.kind == "step" and new:
            self._phase_is_newest = False
            self._add_step(payload.get("step", 0), *(payload.get(name) for name in _PLOTTED))
            self._add_rewards(payload)
        elif event.kind == "evaluation":
            self._phase_is_newest = False
        elif event.kind == "progress":
            self._phase_is_newest = new and self.live
            if payload.get("phase") != self._phase_name:
                self._phase_name, self._phase_since = payload.get("phase"), event.at
        elif event.kind == "warning":
            self.warnings = [*self.warnings, str(payload.get("message", ""))][-_WARNINGS:]

    def _add_rewards(self, step: Mapping[str, Any]) -> None:
        """Add what a step of preference training has told of its rewards; others tell nothing."""
        if "reward_accuracy" in step:
            self.margin.add(step.get("step", 0), step.get("reward_margin"))
            self.accuracy.add(step.get("step", 0), step["reward_accuracy"])

    def _add_step(
        self,
        step: float,
        loss: float | None,
        lr: float | None,
        speed: float | None,
        grad_norm: float | None,
        tokens: float | None,
        seconds: float | None,
    ) -> None:
        """Add a step to the curves; the values are those of `_PLOTTED`."""
        if not self.loss.xs:
            self._loss_average = ExponentialAverage(min(_MAX_SPAN, max(_MIN_SPAN, self.steps / 20)))
        self.loss.add(step, loss)
        self.smooth.add(step, self._loss_average.update(loss))
        self.lr.add(step, lr)
        self.speed.add(step, speed)
        for total, more in ((self.tokens, tokens), (self.seconds, seconds)):
            newest = not total.xs or total.xs[-1] < step
            before = (total.ys[-1] if total.xs else 0.0) if newest else total.at(step - 0.5) or 0.0
            total.add(step, before + (more or 0.0))
        limit = float(self.settings.get("optimizer", {}).get("max_grad_norm", 1.0))
        self.clipped += bool(grad_norm is not None and grad_norm > limit)

    @property
    def examples_per_step(self) -> int:
        """Examples that an optimizer step sees."""
        training = self.settings.get("training", {})
        return int(training.get("batch_size") or 1) * int(training.get("gradient_accumulation_steps") or 1)

    def over(self, curve: Curve, unit: Unit) -> Curve:
        """A curve of this run over something else than its steps."""
        if unit == "step":
            return curve
        if unit == "examples":
            return Curve(array("d", (self.x_of(step, unit) for step in curve.xs)), curve.ys[:])
        return curve.along(self.tokens if unit == "tokens" else self.seconds)

    def x_of(self, step: float, unit: Unit) -> float:
        """What a step is in another unit: examples or tokens seen, or seconds of work; an estimate for one to come."""
        if unit == "step":
            return step
        if unit == "examples":
            return step * self.examples_per_step
        return (self.tokens if unit == "tokens" else self.seconds).between(step)

    async def _read_evaluations(self, store: Store) -> None:
        """Read all evaluations; a resumed run may have replaced some."""
        evaluations = await store_training.evaluations(store, self.run.id)
        self.evaluations = [evaluation for evaluation in evaluations if evaluation.model == "tuned"]
        self.score, self.held_out, self.base_score = Curve(), Curve(), Curve()
        of_base = [evaluation for evaluation in evaluations if evaluation.model == "base"]
        self.base = of_base[-1] if of_base else None
        if self.base is not None:
            self.base_score.add(0, self.base.score)
            self.score.add(0, self.base.score)
            if (loss := of_base[0].held_out_loss) is not None:
                self.held_out.add(0, loss)
        for evaluation in sorted(self.evaluations, key=lambda e: e.step):
            self.score.add(evaluation.step, evaluation.score)
            if evaluation.held_out_loss is not None:
                self.held_out.add(evaluation.step, evaluation.held_out_loss)

    @property
    def answered(self) -> list[Evaluation]:
        """All whose answers can be looked at: the base model's first."""
        return [*([self.base] if self.base is not None else []), *self.evaluations]

    def starting(self) -> str:
        """What a live run does before its plan is known, and for how long."""
        since = self.run.started_at or self.run.created_at
        return self.phase() or progress_text("starting: PyTorch is loaded first", 0, 0, time.time() - since)

    def phase(self) -> str | None:
        """What a live run does other than steps, how far and for how long: loading, fetching; None while it steps."""
        done, total = self.progress.get("done") or 0, self.progress.get("total") or 0
        if not self.live or not self._phase_is_newest or (total and done >= total):
            return None
        text = progress_text(str(self.progress.get("phase", "")), done, total, time.time() - self._phase_since)
        return text if total > 1 else f"{text} …"


@dataclass(frozen=True, slots=True)
class DrawnPlot:
    """What a plot shows: its series, a `level` with its label, y values that must be in view, its least height.

    `decimals` are those of its values where they are read out.
    """

    series: Sequence[Series]
    level: tuple[float, str] | None = None
    limits: tuple[float, float] | None = None
    least_height: float = 0.0
    decimals: int | None = None


def plot_names(view: TrainingView | None) -> list[str]:
    """The plots of a run, in the order in which they take turns."""
    judges = view is not None and view.judges
    return [name for name in PLOTS if judges or name not in _OF_JUDGEMENTS]


def second_plot(view: TrainingView, first: str) -> str:
    """The plot beside the large one: what tells most of the run and is not shown already."""
    wanted = ("margin", "rate") if view.judges else ("rate", "speed")
    return next(name for name in wanted if name != first)


def drawn_plot(view: TrainingView, name: str, unit: Unit) -> DrawnPlot:
    """One of `PLOTS`, over optimizer steps or another `unit`."""
    match name:
        case "loss":
            series = [
                Series("raw", view.over(view.loss, unit), style="faint"),
                Series("smoothed", view.over(view.smooth, unit)),
            ]
            if len(view.held_out.xs):
                series.append(Series("held out", view.over(view.held_out, unit), "points", "third", "◆"))
            return DrawnPlot(series, least_height=_LEAST_LOSS)
        case "margin":
            return DrawnPlot([Series("margin", view.over(view.margin, unit))], limits=(0.0, 0.0))
        case "right":
            return DrawnPlot([Series("told right", view.over(view.accuracy, unit))], limits=(0.0, 1.0))
        case "score":
            score = view.over(view.score, unit)
            points = [Series("", score, style="faint"), Series("score", score, "points", "third", "◆")]
            if view.base_score.xs:
                points.append(Series("base model", view.over(view.base_score, unit), "points", "second", "○"))
            shown = points[1:] if len(score.xs) < 2 else points
            return DrawnPlot(shown, level=(view.target, f"target {view.target:g}"), limits=(0.0, 1.0), decimals=2)
        case _:
            label, curve = ("learning rate", view.lr) if name == "rate" else ("tokens/s", view.speed)
            return DrawnPlot([Series(label, view.over(curve, unit), style="second")], limits=(0.0, 0.0))
