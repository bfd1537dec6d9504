"""Training in words and curves: one run's steps, evaluations, weights and answers, followed as they come."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from lora_tui.machine import DeviceLoad
from lora_tui.store import events, runs
from lora_tui.store import training as store_training
from lora_tui.store.connection import Store
from lora_tui.store.looking import RunLine, events_of_kinds, newest_event, step_columns
from lora_tui.store.rows import LIVE_STATES, Evaluation, Event, Sample
from lora_tui.text import one_line
from lora_tui.tui.curve import Curve, Smoothed, bar
from lora_tui.tui.plain import DIM, Content, agreement, brief, duration, gib, line, number, rate, styled
from lora_tui.tui.views.pair import metric_name

_KINDS = ("step", "evaluation", "plan", "progress", "checkpoint", "warning", "note", "started", "done")
_BATCH = 2000
_RECENT = 10
_WARNINGS = 20
_BAR = 12
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
    _average: Smoothed = field(default_factory=Smoothed)
    _cursor: int | None = None
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
        seen = False
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
        self._average = Smoothed(min(_LONGEST_AVERAGE, max(_SHORTEST_AVERAGE, self.steps / 20)))
        columns = await step_columns(store, self.run.id, 0)
        for step, loss, lr, tokens_per_s, grad_norm in zip(
            columns.step, columns.loss, columns.lr, columns.tokens_per_s, columns.grad_norm, strict=True
        ):
            self._point(step, loss, lr, tokens_per_s, grad_norm)
        for event in await events_of_kinds(store, self.run.id, ("warning",), 0, _WARNINGS):
            self._take(event)
        await self._evaluated(store)

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
                self._average = Smoothed(min(_LONGEST_AVERAGE, max(_SHORTEST_AVERAGE, self.steps / 20)))
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
        self.loss.put(step, loss)
        self.smooth.put(step, self._average.put(loss))
        self.lr.put(step, lr)
        self.speed.put(step, speed)
        limit = float(self.settings.get("optimizer", {}).get("max_grad_norm", 1.0))
        self.clipped += bool(grad_norm is not None and grad_norm > limit)

    async def _evaluated(self, store: Store) -> None:
        found = await store_training.evaluations(store, self.run.id)
        self.evaluations = [evaluation for evaluation in found if evaluation.model == "tuned"]
        self.base = next((evaluation for evaluation in found if evaluation.model == "base"), None)
        self.score, self.held_out = Curve(), Curve()
        for evaluation in sorted(self.evaluations, key=lambda e: e.step):
            self.score.put(evaluation.step, evaluation.score)
            if evaluation.held_out_loss is not None:
                self.held_out.put(evaluation.step, evaluation.held_out_loss)

    def phase(self) -> str | None:
        """What is being done where it is not a step: loading, fetching; None while steps go on."""
        done, total = self.progress.get("done") or 0, self.progress.get("total") or 0
        if not self.live or not self._phase_is_newest or (total and done >= total):
            return None
        words = one_line(str(self.progress.get("phase", "")), 60)
        return f"{words} {100 * done // total} %" if total > 1 else f"{words} …"


def now_lines(view: TrainingView, load: DeviceLoad | None, now: float) -> Content:
    """The figures of the moment, one a line."""
    if not view.step:
        return plan_lines(view)
    step, lines = view.step, []
    lines.append(_figure("loss", number(step.get("loss"), ".4f"), _trend(view)))
    if len(view.held_out.xs):
        lines.append(_held_out(view))
    lines.append(_figure("rate", rate(step.get("lr")), _schedule(view)))
    lines.append(
        _figure("grad", number(step.get("grad_norm"), ".2f"), f"clipped {view.clipped:,} of {view.steps_done:,}")
    )
    a_step = f"{number(step.get('seconds'), '.2g')} s a step"
    lines.append(_figure("speed", f"{brief(step.get('tokens_per_s'))} tokens/s", a_step))
    lines.append(_memory(view, load))
    if load is not None and view.live:
        lines.append(_figure("load", *_load(load)))
    lines.append(_left(view, now))
    return Content("\n").join(lines)


def now_line(view: TrainingView, load: DeviceLoad | None, now: float) -> Content:
    """The same on two lines, for a small terminal."""
    if not view.step:
        return styled((view.phase() or "starting", DIM)) if view.live else plan_lines(view)
    step = view.step
    left = _left(view, now).plain.removeprefix("left").strip()
    memory = f"{number((step.get('memory_mb') or 0) / 1024, '.1f')} GiB"
    first: list[Any] = [("loss ", DIM), (number(step.get("loss"), ".4f"), "bold"), f" {_trend(view)}"]
    first += [
        ("  rate ", DIM),
        rate(step.get("lr")),
        ("  grad ", DIM),
        number(step.get("grad_norm"), ".2f"),
    ]
    second = [f"{brief(step.get('tokens_per_s'))} tokens/s · {number(step.get('seconds'), '.2g')} s a step · {memory}"]
    return styled(*first, "\n", *second, (f" · {left}", DIM))


def _figure(name: str, value: str, more: str = "") -> Content:
    return styled((f"{name:<7}", DIM), (value, "bold"), (f"  {more}" if more else "", DIM))


def _trend(view: TrainingView) -> str:
    """How the smoothed loss has moved lately, as a sign and a number."""
    known = [y for y in view.smooth.ys[-_RECENT - 1 :] if not math.isnan(y)]
    if len(known) < 2:
        return ""
    moved = known[-1] - known[0]
    sign = "▼" if moved < 0 else "▲" if moved > 0 else "="
    return f"{sign} {abs(moved):.2g} over {len(known) - 1} steps"


def _held_out(view: TrainingView) -> Content:
    """The loss on the held-out examples at the newest evaluation, and where it has gone since the one before."""
    losses = [float(loss) for loss in view.held_out.ys]
    moved = losses[-1] - losses[-2] if len(losses) > 1 else 0.0
    sign = "▼" if moved < 0 else "▲"
    return _figure("unseen", number(losses[-1], ".4f"), f"{sign} {abs(moved):.2g}, held out" if moved else "held out")


def _schedule(view: TrainingView) -> str:
    scheduler = view.settings.get("scheduler", {})
    warmup = int(scheduler.get("warmup_steps") or 0)
    where = f"warm-up {view.steps_done} of {warmup}" if view.steps_done < warmup else "warm-up done" if warmup else ""
    return ", ".join(filter(None, (str(scheduler.get("type", "")), where)))


def _memory(view: TrainingView, load: DeviceLoad | None) -> Content:
    used = f"{(view.step.get('memory_mb') or 0) / 1024:.1f} GiB"
    of = f"of {gib(load.memory_total)}" if load is not None and load.memory_total else ""
    checkpointing = view.plan.get("gradient_checkpointing")
    more = of if checkpointing is None else f"{of} · {_checkpointing(checkpointing)}"
    return _figure("memory", used, more)


def _checkpointing(value: object) -> str:
    return (
        "no checkpointing"
        if value in (False, "none")
        else "checkpointing"
        if value is True
        else f"{value} checkpointing"
    )


def _load(load: DeviceLoad) -> tuple[str, str]:
    """What the device is doing: the GPU where there is one, else the cores."""
    gpu = load.gpus[0] if load.gpus else None
    if gpu is not None and gpu.utilisation is not None:
        more = [f"{gpu.temperature} °C" if gpu.temperature is not None else ""]
        more += [f"{gpu.power:.0f} W" if gpu.power is not None else ""]
        return f"GPU {gpu.utilisation} %", " · ".join(filter(None, more))
    return f"CPU {number(load.process_cpu)} %", f"machine {number(load.machine_cpu)} %"


def _left(view: TrainingView, now: float) -> Content:
    if not view.live:
        return _figure("done", f"step {view.steps_done:,} of {view.steps:,}", view.run.state)
    if view.run.state == "stopping":
        return _figure("left", "stopping", "saving after this step")
    seconds = view.step.get("eta_s")
    if seconds is None:
        return _figure("left", "–")
    ends = datetime.fromtimestamp(now + seconds).astimezone()
    return _figure("left", duration(seconds), f"ends about {ends:%H:%M}")


def plan_lines(view: TrainingView) -> Content:
    """What a run is going to do, before its first step."""
    plan = view.plan
    if not plan:
        return styled((view.phase() or ("starting …" if view.live else view.run.state), DIM))
    trained, total = plan.get("trainable_parameters") or 0, plan.get("parameters") or 0
    held_out = f", {plan['held_out']:,} held out" if plan.get("held_out") else ""
    lines = [
        _figure("data", f"{plan.get('examples', 0):,} examples", f"{brief(plan.get('tokens'))} tokens{held_out}"),
        _figure("steps", f"{plan.get('steps', 0):,}", f"{brief(plan.get('label_tokens'))} label tokens an epoch"),
        _figure("trains", f"{trained / 1e6:.2f} M", f"of {total / 1e6:,.0f} M parameters"),
        _figure("device", one_line(str(plan.get("device", "")), 20), one_line(str(plan.get("dtype", "")), 20)),
    ]
    left_out = [f"{plan[key]:,} {key}" for key in ("skipped", "dropped", "truncated") if plan.get(key)]
    if len(plan.get("forms") or {}) > 1:
        forms = ", ".join(f"{count:,} {one_line(str(form), 20)}" for form, count in plan["forms"].items())
        lines.insert(1, _figure("forms", "", forms))
    if left_out:
        lines.append(_figure("but", ", ".join(left_out)))
    for counted in (plan.get("reasons") or {}).values():
        lines += [_figure("", f"{times:,}", one_line(str(reason), 120)) for reason, times in counted.items()]
    if phase := view.phase():
        lines.append(styled((phase, "$accent")))
    return Content("\n").join(lines)


def first_lines(view: TrainingView, width: int) -> Content:
    """The plan of a run that has begun, with what it warns of, until its first step."""
    plan = plan_lines(view)
    return styled(plan, "\n\n", warning_lines(view.warnings, width)) if view.warnings else plan


def weight_lines(start: Mapping[str, float], now: Mapping[str, float], width: int) -> Content:
    """The aggregator's weights as bars, with where they began and which way they went."""
    if not now:
        return Content.styled("The first evaluation shows them.", DIM)
    name_width = min(14, max(6, width - _BAR - 14))
    lines = [styled((f"{'':{name_width}}{'':{_BAR}} start  now", DIM))]
    top = max(now.values())
    for name, weight in sorted(now.items(), key=lambda item: -item[1]):
        before = start.get(name, weight)
        moved = weight - before
        sign = "▲" if moved > 5e-4 else "▼" if moved < -5e-4 else " "
        lines.append(
            styled(
                f"{one_line(metric_name(name), name_width):<{name_width}}",
                (f"{bar(weight / top, _BAR - 1):<{_BAR}}", "$accent"),
                (f" {before:5.3f}"[:6], DIM),
                f" {weight:5.3f}",
                (f" {sign}", "bold"),
            )
        )
    return Content("\n").join(lines)


def weight_line(start: Mapping[str, float], now: Mapping[str, float]) -> Content:
    """The weights on one line, for a small terminal."""
    parts: list[Any] = [("weights ", DIM)]
    for name, weight in sorted(now.items(), key=lambda item: -item[1]):
        moved = weight - start.get(name, weight)
        parts += [
            f"{metric_name(name)} {weight:.2f}",
            ("▲" if moved > 5e-4 else "▼" if moved < -5e-4 else "", "bold"),
            " ",
        ]
    return styled(*parts)


def score_title(view: TrainingView) -> str:
    """The score so far and where it is to go."""
    newest = view.evaluations[-1] if view.evaluations else None
    best = view.best
    if newest is None or best is None:
        return "Score"
    return f"Score {newest.score:.2f}, best {best.score:.2f} at step {best.step} → target {view.target:.2f}"


def answer_cells(sample: Sample, rating: int | None, *, narrow: bool) -> list[tuple[str, str]]:
    """A test prompt's row: prompt, what is wanted, what it says, how well that agrees."""
    wanted = sample.reference if sample.kind == "expected" else f"not: {sample.reference}"
    look = "good" if sample.score >= 0.9 else "" if sample.score >= 0.4 else "warn"
    stars = f"{rating}★" if rating else ""
    cells = [(one_line(question_of(sample.prompt), 200), ""), (one_line(wanted, 300), "dim")]
    cells += [(one_line(sample.answer, 300) or "(nothing)", ""), (agreement(sample.score), look), (stars, "accent")]
    return [cells[0], cells[2], cells[3]] if narrow else cells


def question_of(prompt: str) -> str:
    """A test prompt without the training form round it."""
    inner = prompt.strip()
    if inner.startswith("Question:"):
        inner = inner.removeprefix("Question:").removesuffix("Answer:").strip()
    return inner or prompt


def warning_lines(warnings: Sequence[str], width: int) -> Content:
    """The warnings of a run, the newest first, one line each."""
    return Content("\n").join(
        [styled(("! ", "bold $warning"), line(words, max(20, width * 2))) for words in reversed(warnings)]
    )


def stamp(at: float) -> str:
    """A time of day: "14:32"."""
    return time.strftime("%H:%M", time.localtime(at))
