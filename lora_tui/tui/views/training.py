"""One training run in curves: its steps and evaluations, followed as they come. `training_text` says it in words."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lora_tui.store import events, runs
from lora_tui.store import training as store_training
from lora_tui.store.connection import Store
from lora_tui.store.queries.runs import RunLine, events_of_kinds, newest_event, step_columns
from lora_tui.store.rows import LIVE_STATES, Evaluation, Event
from lora_tui.text import one_line
from lora_tui.tui.curve import Curve, ExponentialAverage

_KINDS = ("step", "evaluation", "plan", "progress", "checkpoint", "warning", "note", "started", "done")
_BATCH = 2000
_WARNINGS = 20
_SHORTEST_AVERAGE, _LONGEST_AVERAGE = 4.0, 50.0
"""Steps that the smoothed loss looks back, about: a twentieth of the run, within these."""


@dataclass
class TrainingView:
    """What is known of a training run; `follow` brings it up to date."""

    run: RunLine
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The run's ``fine_tuning`` section."""
    loss: Curve = field(default_factory=Curve)
    smooth: Curve = field(default_factory=Curve)
    lr: Curve = field(default_factory=Curve)
    speed: Curve = field(default_factory=Curve)
    score: Curve = field(default_factory=Curve)
    held_out: Curve = field(default_factory=Curve)
    evaluations: list[Evaluation] = field(default_factory=list)
    base: Evaluation | None = None
    plan: Mapping[str, Any] = field(default_factory=dict)
    step: Mapping[str, Any] = field(default_factory=dict)
    progress: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: Mapping[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    clipped: int = 0
    stopped_by: str = ""
    """Why a run that is over has ended, as its result says: ``steps``, ``target_score``, ``patience``, ``request``."""
    _average: ExponentialAverage = field(default_factory=ExponentialAverage)
    _cursor: int | None = None
    _ended_at: float | None = None
    _phase_is_newest: bool = False

    @property
    def live(self) -> bool:
        """Whether somebody works on it."""
        return self.run.state in LIVE_STATES

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
        """The evaluation with the highest score, the first of equals."""
        return max(self.evaluations, key=lambda e: (e.score, -e.step), default=None)

    async def follow(self, store: Store) -> bool:
        """Take in what has happened since the last call; returns whether anything has."""
        if self._cursor is None:
            await self._open(store)
            return True
        seen = await self._ended(store)
        while batch := await events_of_kinds(store, self.run.id, _KINDS, self._cursor, _BATCH):
            self._cursor = batch[-1].id
            seen = True
            for event in batch:
                self._take(event)
            if any(event.kind == "evaluation" for event in batch):
                await self._evaluated(store)
            if len(batch) < _BATCH:
                break
        return seen

    async def _open(self, store: Store) -> None:
        """Read what there is: rows for the steps, events for what has no rows."""
        row = await runs.get(store, self.run.id)
        assert row is not None, "it was listed"
        self.settings = row.settings.get("fine_tuning", {})
        self._cursor = await events.last_id(store, self.run.id)
        for kind in ("plan", "progress", "checkpoint", "step"):
            event = await newest_event(store, self.run.id, kind)
            if event is not None:
                self._take(event, new=False)
        self._average = ExponentialAverage(min(_LONGEST_AVERAGE, max(_SHORTEST_AVERAGE, self.steps / 20)))
        columns = await step_columns(store, self.run.id, 0)
        for step, loss, lr, tokens_per_s, grad_norm in zip(
            columns.step, columns.loss, columns.lr, columns.tokens_per_s, columns.grad_norm, strict=True
        ):
            self._point(step, loss, lr, tokens_per_s, grad_norm)
        for event in await events_of_kinds(store, self.run.id, ("warning",), 0, _WARNINGS):
            self._take(event)
        await self._evaluated(store)
        await self._ended(store)

    async def _ended(self, store: Store) -> bool:
        """Read why the run has ended, once for each of its ends; returns whether it has."""
        if self._ended_at == self.run.ended_at:
            return False
        self._ended_at, self.stopped_by = self.run.ended_at, ""
        if not self.live and (row := await runs.get(store, self.run.id)) is not None:
            self.stopped_by = str((row.result or {}).get("stopped_by", ""))
        return True

    def _take(self, event: Event, *, new: bool = True) -> None:
        payload = event.payload
        if event.kind == "step":
            self.step = payload
            if new:
                self._phase_is_newest = False
                self._point(
                    payload.get("step", 0), payload.get("loss"), payload.get("lr"), payload.get("tokens_per_s"),
                    payload.get("grad_norm"),
                )  # fmt: skip
        elif event.kind == "plan":
            self.plan = payload
            if not self.loss.xs:
                self._average = ExponentialAverage(min(_LONGEST_AVERAGE, max(_SHORTEST_AVERAGE, self.steps / 20)))
        elif event.kind == "progress":
            self.progress = payload
            self._phase_is_newest = new and self.live
        elif event.kind == "checkpoint":
            self.checkpoint = payload
        elif event.kind == "warning":
            self.warnings = [*self.warnings, str(payload.get("message", ""))][-_WARNINGS:]

    def _point(
        self, step: float, loss: float | None, lr: float | None, speed: float | None, grad_norm: float | None
    ) -> None:
        self.loss.add(step, loss)
        self.smooth.add(step, self._average.update(loss))
        self.lr.add(step, lr)
        self.speed.add(step, speed)
        limit = float(self.settings.get("optimizer", {}).get("max_grad_norm", 1.0))
        self.clipped += bool(grad_norm is not None and grad_norm > limit)

    async def _evaluated(self, store: Store) -> None:
        found = await store_training.evaluations(store, self.run.id)
        self.evaluations = [evaluation for evaluation in found if evaluation.model == "tuned"]
        self.base = next((evaluation for evaluation in found if evaluation.model == "base"), None)
        self.score, self.held_out = Curve(), Curve()
        for evaluation in sorted(self.evaluations, key=lambda e: e.step):
            self.score.add(evaluation.step, evaluation.score)
            if evaluation.held_out_loss is not None:
                self.held_out.add(evaluation.step, evaluation.held_out_loss)

    def phase(self) -> str | None:
        """What is being done where it is not a step: loading, fetching; None while steps go on."""
        done, total = self.progress.get("done") or 0, self.progress.get("total") or 0
        if not self.live or not self._phase_is_newest or (total and done >= total):
            return None
        words = one_line(str(self.progress.get("phase", "")), 60)
        return f"{words} {100 * done // total} %" if total > 1 else f"{words} …"
