"""The packaged lessons, and what the user's own runs show of each: a few lines, and curves where there are any."""

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from textual.content import Content

from lora_tui.protocol.agreement import ScoreAgreement
from lora_tui.store import generation as store_generation
from lora_tui.store import training as store_training
from lora_tui.store.chat_log import turns
from lora_tui.store.connection import Store
from lora_tui.store.queries.generation import PairFilter, pair_ids, pair_lines
from lora_tui.store.queries.runs import RunLine, newest_conversation, weight_history
from lora_tui.text import count, memory_size
from lora_tui.tui.axes import Unit
from lora_tui.tui.curve import Series
from lora_tui.tui.text import DIM, lr_text, metric_name, number, safe_line, score_mark, styled
from lora_tui.tui.views import training_text
from lora_tui.tui.views.agreement import reliability_lines, reliability_series
from lora_tui.tui.views.training import TrainingView

_REJECTED = 8
"""Rejected pairs that the panel on judging shows, the newest."""

NONE_YET = "Nothing to show yet: this fills from your own run as soon as there is one."


@dataclass(frozen=True, slots=True)
class Lesson:
    """A packaged lesson; `id` is its file's name without suffix, `text` is Markdown without the title."""

    id: str
    title: str
    text: str

    @property
    def number(self) -> int:
        """Its place among the lessons, from 1, as its file's name has it."""
        return int(self.id.partition("-")[0])


@cache
def lessons() -> tuple[Lesson, ...]:
    """Every lesson, in order."""
    folder = files("lora_tui") / "lessons"
    found = []
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".md"):
            head, _, text = entry.read_text(encoding="utf-8").partition("\n")
            found.append(Lesson(entry.name.removesuffix(".md"), head.lstrip("# ").strip(), text.strip()))
    return tuple(found)


def lesson(lesson_id: str) -> Lesson:
    """The lesson of that id; the first where there is none."""
    return next((entry for entry in lessons() if entry.id == lesson_id), lessons()[0])


@dataclass(frozen=True)
class LessonPanel:
    """What the user's own runs show of a lesson: a text, and a plot above it with a level where there is one."""

    text: Content
    series: Sequence[Series] = ()
    level: tuple[float, str] | None = None
    unit: Unit = "step"


@dataclass
class LessonRuns:
    """The runs in view, which panels are filled from, and what ratings say of the score."""

    store: Store
    training: TrainingView | None
    generation: RunLine | None
    known: ScoreAgreement | None = None


async def lesson_panel(lesson_id: str, runs: LessonRuns) -> LessonPanel:
    """The panel of a lesson; it has a placeholder text where the runs have nothing to show yet."""
    fill = _PANELS.get(lesson_id)
    panel = await fill(runs) if fill is not None else None
    return panel or LessonPanel(Content.styled(NONE_YET, DIM))


def _facts(*facts: tuple[str, str]) -> Content:
    """Names and values in two columns."""
    width = max(len(name) for name, _ in facts) + 2
    return Content("\n").join([styled((name.ljust(width), DIM), (value, "bold")) for name, value in facts])


async def _loss(runs: LessonRuns) -> LessonPanel | None:
    view = runs.training
    if view is None or not view.loss.xs:
        return None
    first, now = next((y for y in view.loss.ys if not math.isnan(y)), None), view.smooth.last
    choices = "" if now is None else f"The model is as unsure as if it chose among {math.exp(min(now, 50)):.1f} tokens."
    if view.judges:  # not of tokens, but of which answer is better
        choices = "This run learned which answers are better: its loss is that of the choice, not of tokens."
    text = styled(
        _facts(("run", str(view.run.id)), ("first step", number(first, ".3f")), ("now, smoothed", number(now, ".3f"))),
        (f"\n\n{choices}", "$accent"),
    )
    return LessonPanel(text, [Series("raw", view.loss, style="faint"), Series("smoothed", view.smooth)])


async def _low_rank(runs: LessonRuns) -> LessonPanel | None:
    view = runs.training
    if view is None or not view.plan:
        return None
    lora, plan = view.settings.get("lora", {}), view.plan
    trained, total = plan.get("trainable_parameters") or 0, plan.get("parameters") or 1
    targets = lora.get("target_modules")
    named = targets if isinstance(targets, str) else ", ".join(targets or ())
    share = 100 * trained / total
    return LessonPanel(
        styled(
            _facts(
                ("rank r", str(lora.get("r"))), ("alpha", str(lora.get("alpha"))),
                ("trained", f"{trained:,}"), ("of", f"{total:,} parameters"), ("share", f"{share:.2f} %"),
            ),
            ("\nin    ", DIM), safe_line(named, 120),
        )
    )  # fmt: skip


async def _hyper_parameters(runs: LessonRuns) -> LessonPanel | None:
    view = runs.training
    if view is None or not view.lr.xs:
        return None
    training, scheduler = view.settings.get("training", {}), view.settings.get("scheduler", {})
    batch = int(training.get("batch_size") or 0) * int(training.get("gradient_accumulation_steps") or 0)
    text = _facts(
        ("highest rate", lr_text(view.settings.get("optimizer", {}).get("lora_lr"))), ("now", lr_text(view.lr.last)),
        ("schedule", f"{scheduler.get('type')}, warm-up {scheduler.get('warmup_steps')}"),
        ("batch", f"{batch} examples a step"), ("steps", f"{view.steps:,}"),
        ("clipped", f"{view.clipped:,} of {view.steps_done:,} steps"),
    )  # fmt: skip
    return LessonPanel(text, [Series("learning rate", view.lr, style="second")])


async def _judged_pairs(runs: LessonRuns) -> LessonPanel | None:
    run, store = runs.generation, runs.store
    if run is None:
        return None
    counts = await store_generation.pair_counts(store, run.id)
    ids = await pair_ids(store, run.id, PairFilter(state="rejected"))
    lines = await pair_lines(store, ids[-_REJECTED:])
    parts: list[Any] = [
        ("✓ ", "$success"), f"{counts.get('accepted', 0):,} accepted   ",
        "✗ ", f"{counts.get('rejected', 0):,} rejected",
        (f"\n\nThe newest rejected pairs of run {run.id}:", DIM),
    ]  # fmt: skip
    for pair in reversed(list(lines.values())):
        score = "" if pair.score is None else f" {pair.score:.1f}"
        parts += [
            "\n\n✗",
            (score, "bold"),
            " ",
            safe_line(pair.question, 160),
            "\n  ",
            safe_line(pair.reason, 160, DIM),
        ]
    return LessonPanel(styled(*parts) if lines else styled(*parts[:4]))


async def _overlap_metrics(runs: LessonRuns) -> LessonPanel | None:
    view = runs.training
    if view is None or not view.evaluations:
        return None
    samples = await store_training.samples(runs.store, view.evaluations[-1].id)
    # An answer that is neither right nor wrong shows best where the metrics differ.
    expected = [sample for sample in samples if sample.kind == "expected"]
    if not expected:
        return None
    sample = min(expected, key=lambda s: abs(s.score - 0.5))
    parts: list[Any] = [
        ("wanted  ", DIM), safe_line(sample.reference, 200), "\n", ("says    ", DIM), safe_line(sample.answer, 200),
        "\n",
    ]  # fmt: skip
    width = max((len(metric_name(name)) for name in sample.metrics), default=0) + 2
    for name, value in sample.metrics.items():
        parts += [f"\n{metric_name(name):<{width}}", (number(value, ".2f"), "bold")]
    return LessonPanel(styled(*parts, (f"\n\nscore {sample.score:.2f}, step {view.evaluations[-1].step}", "$accent")))


async def _weights(runs: LessonRuns) -> LessonPanel | None:
    history = await weight_history(runs.store, "evaluation")
    if not history:
        return None
    newest = history[-1]
    weights = training_text.weight_lines(history[0].weights, newest.weights, 40)
    ratings = count(newest.version, "rating")
    hint = "" if newest.version else " Open an answer on Train and rate it: 1 to 5."
    moved: list[Any] = ["\n\n", weights, (f"\n\nmoved by {ratings}.{hint}", "$accent")]
    if runs.known is None:
        return LessonPanel(styled(*moved[1:]))
    text = styled(reliability_lines(runs.known), *moved)
    return LessonPanel(text, reliability_series(runs.known) if runs.known.curve else (), unit="score")


async def _stopping(runs: LessonRuns) -> LessonPanel | None:
    view = runs.training
    if view is None or not view.score.xs:
        return None
    best, training = view.best, view.settings.get("training", {})
    since = sum(1 for evaluation in view.evaluations if best is not None and evaluation.step > best.step)
    text = _facts(
        ("evaluations", str(len(view.evaluations))),
        ("best", f"{best.score:.2f} at step {best.step}" if best is not None else "–"),
        ("since then", f"{since} without gain, patience {training.get('patience')}"),
        ("target", number(view.target, ".2f")),
    )
    series = [Series("score", view.score, style="faint"), Series("score", view.score, "points", "third", "◆")]
    return LessonPanel(text, series, (view.target, "target"))


async def _memory(runs: LessonRuns) -> LessonPanel | None:
    view = runs.training
    if view is None or not view.plan:
        return None
    plan = view.plan
    widths = {"float32": 4, "bfloat16": 2, "float16": 2}
    weights = (plan.get("parameters") or 0) * widths.get(str(plan.get("dtype")), 4)
    adapter = (plan.get("trainable_parameters") or 0) * 16
    return LessonPanel(
        _facts(
            ("device", str(plan.get("device"))), ("precision", str(plan.get("dtype"))),
            ("weights", memory_size(weights)), ("adapter and AdamW", memory_size(adapter)),
            ("in use", memory_size((view.step.get("memory_mb") or 0) * 1e6)),
        )
    )  # fmt: skip


async def _conversation(runs: LessonRuns) -> LessonPanel | None:
    conversation_id = await newest_conversation(runs.store)
    if conversation_id is None:
        return None
    parts: list[Any] = [("Your last conversation\n", DIM)]
    for turn in (await turns(runs.store, conversation_id))[-4:]:
        parts += [("\nyou    " if turn.role == "user" else "\nmodel  ", "bold"), safe_line(turn.text, 200)]
        statistics = turn.statistics
        if turn.role == "assistant" and statistics.get("seconds"):
            speed = (statistics.get("tokens") or 0) / statistics["seconds"]
            parts.append((f"\n       {statistics.get('tokens')} tokens, {speed:.0f} a second", DIM))
            if statistics.get("agreement") is not None:
                parts.append((f", {score_mark(statistics['agreement'])}", "$accent"))
    return LessonPanel(styled(*parts))


_PANELS: dict[str, Callable[[LessonRuns], Awaitable[LessonPanel | None]]] = {
    "01-tokens-and-loss": _loss,
    "02-low-rank-adaptation": _low_rank,
    "03-hyper-parameters": _hyper_parameters,
    "04-data-and-judging": _judged_pairs,
    "05-bleu-and-rouge": _overlap_metrics,
    "06-adaptive-scores": _weights,
    "07-overfitting-and-early-stopping": _stopping,
    "08-memory-and-precision": _memory,
    "09-chatting-and-decoding": _conversation,
}
