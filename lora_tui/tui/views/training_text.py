"""A training run as text: the newest step, the plan, the aggregator's weights, scores and answers."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from textual.content import Content

from lora_tui.machine import DeviceLoad
from lora_tui.protocol.agreement import ScoreAgreement
from lora_tui.protocol.choice import METHOD_EXAMPLES
from lora_tui.protocol.comparison import comparison_from, questions_text, verdict_text
from lora_tui.store.rows import Evaluation, Sample
from lora_tui.text import controls_text, duration, one_line, question_of
from lora_tui.tui.curve import bar
from lora_tui.tui.text import DIM, lr_text, memory_text, metric_name, number, safe_line, score_mark, short_count, styled
from lora_tui.tui.views.agreement import agreement_lines, people_text, share_text, weight_shares
from lora_tui.tui.views.runs import choice_lines, comparison_content
from lora_tui.tui.views.training import TrainingView

_TREND_STEPS = 10
"""Steps over which the trend of the loss is given."""

_BAR_WIDTH = 11

_HANGING_FROM = 50
"""Cells of a line from which on what does not fit goes on below its value, not below its label."""

_RANKS_SHOWN = 4
"""Devices that train together of which each has a line."""


def status_lines(view: TrainingView, load: DeviceLoad | None, now: float, width: int) -> Content:
    """The newest step, the device and the time left, one figure a line of `width` cells; first of all the plan."""
    if not view.step:
        return plan_lines(view, width)
    step = view.step
    figures = [("loss", number(step.get("loss"), ".4f"), _trend(view))]
    if view.judges and "reward_accuracy" in step:
        figures += _rewards(step)
    if len(view.held_out.xs):
        figures.append(("unseen", *_held_out(view)))
    figures += [
        ("rate", lr_text(step.get("lr")), _schedule(view)),
        ("grad", number(step.get("grad_norm"), ".2f"), f"clipped {view.clipped:,} of {view.steps_done:,}"),
        ("speed", *_speed(view)),
        ("memory", _memory_used(view), _memory(view, load)),
    ]
    if load is not None and view.live:
        figures.append(("load", *_device_load(load)))
    if score := _score(view):
        figures.append(("score", *score))
        if (people := view.people(view.evaluations[-1])) is not None:
            figures.append(("people", f"{people.value:.2f}", f"{people.low:.2f}–{people.high:.2f}, as ratings tell"))
    figures += [_remaining(view, now), *_ranks(view)]
    return Content("\n").join([_figure(*figure, width=width) for figure in figures])


def status_line(view: TrainingView, load: DeviceLoad | None, now: float) -> Content:
    """The same on two lines, for a small terminal."""
    if not view.step:
        if view.comparison is not None:
            found = comparison_from(view.comparison)
            return styled((verdict_text(found), "bold"), "\n", (questions_text(found), DIM))
        return styled((view.starting(), DIM)) if view.live else plan_lines(view)
    step = view.step
    # The header shows the step; this shows how the run ended, or what is left.
    over = () if view.live else (ending_words(view),)
    left = _remaining(view, now)[1:] if view.live else ()
    first: list[Any] = [("loss ", DIM), (number(step.get("loss"), ".4f"), "bold")]
    if not view.judges or "reward_accuracy" not in step:
        first.append(f" {_trend(view)}")
    else:  # which leave no room for it
        first += [("  margin ", DIM), number(step.get("reward_margin"), ".2f"), ("  right ", DIM), _share(step)]
    first += [("  rate ", DIM), lr_text(step.get("lr")), ("  grad ", DIM), number(step.get("grad_norm"), ".2f")]
    loads = view.ranks.get("ranks") or ()
    waits = f"{len(loads)} ranks wait up to {100 * max(load['wait'] for load in loads):.0f} %" if loads else ""
    figures = (*over, *_speed(view), _memory_used(view), *left, waits)
    return styled(*first, "\n", " · ".join(filter(None, figures)))


def _rewards(step: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What a step of preference training tells beside its loss: by how much the better answers are preferred now."""
    sides = [
        f"{name} {number(step.get(key), '+.2f')}"
        for name, key in (("better", "chosen_reward"), ("worse", "rejected_reward"))
        if step.get(key) is not None
    ]
    margin = ("margin", number(step.get("reward_margin"), ".2f"), ", ".join(sides))
    return [margin, ("right", _share(step), "of this step's preferences")]


def _share(step: Mapping[str, Any]) -> str:
    return f"{number(100 * float(step['reward_accuracy']), '.0f')} %"


def _figure(name: str, value: str, more: str = "", *, width: int = 10_000) -> Content:
    """One line: name, value and a remark, of which the last parts are left out where they would not fit."""
    room = width - max(len(name), 7) - len(value) - 2
    while len(more) > room:
        more = more[: max(more.rfind(" · "), more.rfind(", "), 0)]
        if not more:
            break
    return styled((f"{name:<7}", DIM), (value, "bold"), (f"  {more}" if more else "", DIM))


def _trend(view: TrainingView) -> str:
    """By how much the smoothed loss has changed in the last steps, with a sign."""
    known = [y for y in view.smooth.ys[-_TREND_STEPS - 1 :] if not math.isnan(y)]
    if len(known) < 2:
        return ""
    change = known[-1] - known[0]
    sign = "▼" if change < 0 else "▲" if change > 0 else "="
    return f"{sign} {abs(change):.2g} over {len(known) - 1} steps"


def _held_out(view: TrainingView) -> tuple[str, str]:
    """The loss on held-out examples at the newest evaluation, and its change since the one before."""
    losses = [float(loss) for loss in view.held_out.ys]
    change = losses[-1] - losses[-2] if len(losses) > 1 else 0.0
    sign = "▼" if change < 0 else "▲"
    return number(losses[-1], ".4f"), f"{sign} {abs(change):.2g}, held out" if change else "held out"


def _schedule(view: TrainingView) -> str:
    scheduler = view.settings.get("scheduler", {})
    warmup = int(scheduler.get("warmup_steps") or 0)
    where = f"warm-up {view.steps_done} of {warmup}" if view.steps_done < warmup else "warm-up done" if warmup else ""
    return ", ".join(filter(None, (str(scheduler.get("type", "")), where)))


def _speed(view: TrainingView) -> tuple[str, str]:
    seconds = number(view.step.get("seconds"), ".2g")
    return f"{short_count(view.step.get('tokens_per_s'))} tokens/s", f"{seconds} s a step"


def _ranks(view: TrainingView) -> list[tuple[str, str, str]]:
    """What each of several devices computes, and how long it waits for the others; of many, the two extremes."""
    loads = view.ranks.get("ranks") or ()
    if len(loads) <= _RANKS_SHOWN:
        return [(f"rank {load['rank']}", *_rank_load(load)) for load in loads]
    by_wait = sorted(loads, key=lambda load: load["wait"])
    slow, fast = ((f"rank {load['rank']}", *_rank_load(load)) for load in (by_wait[0], by_wait[-1]))
    every = sum(load["tokens_per_s"] for load in loads)
    return [("ranks", str(len(loads)), f"{short_count(every)} tokens/s"), slow, fast]


def _rank_load(load: Mapping[str, Any]) -> tuple[str, str]:
    device = one_line(str(load.get("device") or ""), 12)
    waits = f"waits {100 * load['wait']:.0f} %"
    return f"{short_count(load['tokens_per_s'])} tokens/s", f"{waits}, {device}" if device else waits


def _memory_used(view: TrainingView) -> str:
    return memory_text((view.step.get("memory_mb") or 0) * 1e6)


def _memory(view: TrainingView, load: DeviceLoad | None) -> str:
    """The memory there is, and what is recomputed to save some."""
    of = f"of {memory_text(load.memory_total)}" if load is not None and load.memory_total else ""
    checkpointing = view.plan.get("gradient_checkpointing")
    if checkpointing is None:
        return of
    words = {False: "no checkpointing", "none": "no checkpointing", True: "checkpointing"}
    return f"{of} · {words.get(checkpointing, f'{checkpointing} checkpointing')}"


def _device_load(load: DeviceLoad) -> tuple[str, str]:
    """Utilisation of the GPU where there is one, else of the CPU: value and remark."""
    gpu = load.gpus[0] if load.gpus else None
    if gpu is not None and gpu.utilisation is not None:
        more = [f"{gpu.temperature} °C" if gpu.temperature is not None else ""]
        more += [f"{gpu.power:.0f} W" if gpu.power is not None else ""]
        return f"GPU {gpu.utilisation} %", " · ".join(filter(None, more))
    return f"CPU {number(load.process_cpu)} %", f"machine {number(load.machine_cpu)} %"


def _score(view: TrainingView) -> tuple[str, str] | None:
    """The newest score; its controls, the best and the target as a remark; None before the first evaluation."""
    best = view.best
    if best is None:
        return None
    newest = view.evaluations[-1]
    shown = f"{best.score:.2f} " if f"{best.score:.2f}" != f"{newest.score:.2f}" else ""
    which = f"at step {best.step:,}" if best is newest else f"best {shown}at step {best.step:,}"
    said = [controls_text(newest.controls, newest.controls_kept), which]
    if view.best_by_controls:  # first, since no title beside it says it
        said = [f"best {best.score:.2f} (better on controls)", said[0]]
    if view.judges:  # no target ends it: answers to test prompts do not tell how much is preferred
        return f"{newest.score:.2f}", " · ".join(filter(None, ("of test prompts", *said)))
    return f"{newest.score:.2f}", " · ".join(filter(None, (*said, f"target {view.target:g}")))


def ending_text(view: TrainingView) -> str:
    """Why the run has ended; empty for one that has failed or is live."""
    return {
        "steps": "all steps taken",
        "target_score": "target score reached",
        "patience": "score stopped rising",
        "request": "stopped on request",
    }.get(view.stopped_by, "")


def ending_words(view: TrainingView) -> str:
    """The state of a run that has ended, and why; "stopped on request" says both."""
    why = ending_text(view)
    return why if why.startswith(view.run.state) else " · ".join(filter(None, (view.run.state, why)))


def empty_plot_text(view: TrainingView, plot: str) -> str:
    """What a plot (``loss``, ``margin``, ``score``, ``rate`` or ``speed``) shows as long as it has no points."""
    if plot == "score":
        return "the first evaluation draws it" if view.live else "it was not evaluated"
    return "the first step draws the first point" if view.live else "no step was taken"


def _remaining(view: TrainingView, now: float) -> tuple[str, str, str]:
    """The time left of a live run, or how far one that has ended came: name, value and remark."""
    if not view.live:
        return "done", f"step {view.steps_done:,} of {view.steps:,}", ending_text(view) or view.run.state
    if view.run.state == "stopping":
        return "left", "stopping", "saving after this step"
    phase = view.phase() or ""
    if view.steps and view.steps_done >= view.steps:
        return "left", "the last evaluation", phase
    seconds = view.step.get("eta_s")
    if seconds is None:
        return "left", "–", phase
    if phase:
        return "left", duration(seconds), phase
    ends = datetime.fromtimestamp(now + seconds).astimezone()
    return "left", duration(seconds), f"ends about {ends:%H:%M}"


def plan_lines(view: TrainingView, width: int = 0) -> Content:
    """What the run is going to do: data, steps, parameters, device, and what was left out of the data.

    What was chosen is broken into lines of `width` cells; 0: however long they are.
    """
    plan = view.plan
    if not plan:
        return styled((view.starting(), DIM)) if view.live else _no_step(view)
    trained, total = plan.get("trainable_parameters") or 0, plan.get("parameters") or 0
    held_out = f", {plan['held_out']:,} held out" if plan.get("held_out") else ""
    held_out += f", {plan['everyday']:,} everyday ones beside" if plan.get("everyday") else ""
    lines = [
        _figure(
            "data",
            f"{plan.get('examples', 0):,} {examples_word(view)}",
            f"{short_count(plan.get('tokens'))} tokens{held_out}",
        ),
        _figure("steps", f"{plan.get('steps', 0):,}", f"{short_count(plan.get('label_tokens'))} label tokens an epoch"),
        _figure("trains", f"{trained / 1e6:.2f} M", f"of {total / 1e6:,.0f} M parameters"),
        _figure("device", *_device(plan)),
    ]
    if plan.get("begins_with"):
        lines.append(
            _figure(
                "goes on", one_line(str(plan["begins_with"]).rpartition("checkpoints/")[2], 60), "from this adapter"
            )
        )
    left_out = [f"{plan[key]:,} {key}" for key in ("skipped", "dropped", "truncated") if plan.get(key)]
    if len(plan.get("forms") or {}) > 1:
        forms = ", ".join(f"{count:,} {one_line(str(form), 20)}" for form, count in plan["forms"].items())
        read, used = sum(plan["forms"].values()), plan.get("examples", 0) + plan.get("held_out", 0)
        lines.insert(1, _figure("forms", "", forms if read == used else f"of {read:,} read: {forms}"))
    if left_out:
        lines.append(_figure("but", ", ".join(left_out)))
    for counted in (plan.get("reasons") or {}).values():
        lines += [_figure("", f"{times:,}", one_line(str(reason), 120)) for reason, times in counted.items()]
    lines += choice_lines(plan.get("chosen") or (), room=width)
    if phase := view.phase():
        lines.append(styled((phase, "$accent")))
    if not view.live:
        lines.append(_no_step(view))
    return Content("\n").join(lines)


def result_words(view: TrainingView) -> str:
    """What training has come to: "Trained: score 0.93", of preferences how many of the last step's are told right."""
    stopped = f"{view.run.state} at step {view.steps_done:,}".capitalize()
    came_to = "Trained" if view.run.state == "finished" else stopped
    return came_to + _result(view)


def _result(view: TrainingView) -> str:
    if view.judges and view.accuracy.last is not None:
        margin = "" if view.margin.last is None else f", margin {number(view.margin.last, '+.2f')}"
        return f": {number(100 * view.accuracy.last, '.0f')} % of preferences right{margin}"
    return f": score {view.best.score:.2f}" if view.best is not None else ""


def examples_word(view: TrainingView) -> str:
    """What a run trains on, as a plural."""
    return METHOD_EXAMPLES.get(str(view.plan.get("method")), METHOD_EXAMPLES["sft"])[1]


def _device(plan: Mapping[str, Any]) -> tuple[str, str]:
    """What a run trains on, and in which precision and parts."""
    device, dtype = one_line(str(plan.get("device", "")), 20), one_line(str(plan.get("dtype", "")), 20)
    if (ranks := plan.get("ranks") or 1) == 1:
        return device, dtype
    parts = "each a part of the model" if plan.get("parallel") == "fsdp" else "each the whole model"
    return f"{ranks} × {device.partition(':')[0]}", f"{dtype}, {parts}"


def _no_step(view: TrainingView) -> Content:
    """How a run without a step has ended: what an evaluation has found, or the first line of an error."""
    if view.comparison is not None:
        return comparison_content(comparison_from(view.comparison))
    ended = _figure("done", "no step", ending_text(view) or view.run.state)
    why = (view.run.error or "").partition("\n")[0]
    return styled(ended, "\n", safe_line(why, 300, "$error")) if why else ended


def plan_with_warnings(view: TrainingView, width: int, forecast: Content | None = None) -> Content:
    """The plan and the warnings, shown until the first step; before there is a plan, what was forecast."""
    plan = plan_lines(view, width)
    if forecast is not None and not view.plan:
        plan = styled(plan, "\n\n", forecast)
    return styled(plan, "\n\n", warning_lines(view.warnings, width)) if view.warnings else plan


def weight_lines(
    start: Mapping[str, float], now: Mapping[str, float], width: int, known: ScoreAgreement | None = None
) -> Content:
    """What is known of the score, and its weights as shares of the evidence: bars, first values, direction of moves."""
    if not now:
        return Content.styled("The first evaluation shows them.", DIM)
    name_width = min(14, max(6, width - 24))
    bar_width = min(_BAR_WIDTH, max(4, width - name_width - 17))
    first, shares = weight_shares(start), weight_shares(now)
    lines = agreement_lines(known, width)
    lines.append(styled((f"{'':{name_width}} {'':{bar_width}} {'start':>6} {'now':>6}", DIM)))
    top = max(map(abs, shares.values())) or 1.0
    for name, share in shares.items():
        before = first.get(name, share)
        lines.append(
            styled(
                f"{one_line(metric_name(name), name_width):<{name_width}} ",
                (f"{bar(abs(share) / top, bar_width - 1):<{bar_width}}", "$accent" if share >= 0 else "$warning"),
                (f" {share_text(before):>6}", DIM),
                f" {share_text(share):>6}",
                (f" {_sign(share - before)}", "bold"),
            )
        )
    return Content("\n").join(lines)


def weight_line(
    start: Mapping[str, float], now: Mapping[str, float], width: int, known: ScoreAgreement | None = None
) -> Content:
    """The same for a small terminal: what is known of the score, and the largest shares on two lines."""
    if not now:
        return styled(("weights ", DIM), ("the first evaluation shows them", DIM))
    first, shares = weight_shares(start), weight_shares(now)
    lines = agreement_lines(known, width)[:1]
    parts: list[Any] = [*([lines[0], "\n"] if lines else []), ("weights", DIM)]
    column, room = len("weights"), 2
    for name, share in shares.items():
        entry, sign = f"{metric_name(name)} {share_text(share)}", _sign(share - first.get(name, share)).strip()
        between = "  "
        if column + len(entry) + len(sign) + 2 > width:
            room -= 1
            if not room:
                break
            indent = len("weights") + 2 if width >= _HANGING_FROM else 0
            between, column = "\n" + " " * indent, indent - 2
        column += 2 + len(entry) + len(sign)
        parts += [between, entry, (sign, "bold")]
    return styled(*parts)


def _sign(change: float) -> str:
    """The direction in which a share has moved; a space for less than half a hundredth."""
    return "▲" if change > 5e-3 else "▼" if change < -5e-3 else " "


def score_title(view: TrainingView) -> str:
    """The newest score, the best, the controls, and where there is room the target; the plot shows that too."""
    best = view.best
    if best is None:
        return "Score"
    newest = view.evaluations[-1]
    further = f", best {best.score:.2f}" if f"{best.score:.2f}" != f"{newest.score:.2f}" else ""
    controls = f", controls {newest.controls_kept}/{newest.controls}" if newest.controls else ""
    if view.judges:
        return f"Test prompts {newest.score:.2f}{controls}"
    target = "" if further and controls else f" → target {view.target:g}"
    return f"Score {newest.score:.2f}{further}{controls}{target}"


def score_line(view: TrainingView) -> str:
    """The same as a line, with the step of the best."""
    score = _score(view)
    if score is None and view.base is not None:
        return f"Score {view.base.score:.2f}  before training · target {view.target:g}"
    if score is None:
        return "Score: no evaluation yet"
    people = people_text(view.people(view.evaluations[-1]))
    return " · ".join(filter(None, (f"Score {score[0]}  {score[1]}", people)))


def answers_title(view: TrainingView, shown: Evaluation, back: int, width: int) -> str:
    """The title over the answers of an evaluation, `back` before the newest, in so many cells."""
    if shown.model == "base":
        return f"What the base model answers (score {shown.score:.2f})"
    title = "What it answers now" if back == 0 else "What it answered then"
    people = people_text(view.people(shown))
    place = f"{len(view.evaluations) - back} of {len(view.evaluations)}, step {shown.step}, score {shown.score:.2f}"
    place += f", controls {shown.controls_kept}/{shown.controls}" if shown.controls else ""
    if people and width > len(title) + len(place) + len(people) + 10:
        place += f", {people}"
    if width > len(title) + len(place) + 19:
        place = f"evaluation {place}"
    return f"{title} ({place})"


def sample_cells(sample: Sample, rating: int | None) -> list[tuple[str, str]]:
    """The cells of a test prompt: prompt, expected answer, answer, score and rating."""
    wanted = sample.reference if sample.kind == "expected" else f"not: {sample.reference}"
    if sample.kind == "unrelated":
        wanted = "nothing that is taught"
    style = "good" if sample.score >= 0.9 else "" if sample.score >= 0.4 else "warn"
    stars = f"{rating}★" if rating else ""
    return [
        (one_line(question_of(sample.prompt), 200), ""),
        (one_line(wanted, 300), "dim"),
        (one_line(sample.answer, 300) or "(nothing)", ""),
        (score_mark(sample.score), style),
        (stars, "accent"),
    ]


def warning_lines(warnings: Sequence[str], width: int) -> Content:
    """The warnings of a run, the newest first, one line each."""
    return Content("\n").join(
        [styled(("! ", "bold $warning"), safe_line(warning, max(20, width * 2))) for warning in reversed(warnings)]
    )
