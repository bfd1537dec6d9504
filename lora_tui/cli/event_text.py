"""A run's events as text: one line each, safe for a terminal, the same for plain and live narration.

`RunProgress` is what has to be remembered for that: how many pairs are accepted, of how many, and which step it is.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lora_tui.protocol.choice import METHOD_EXAMPLES, chosen_rows, short_key
from lora_tui.protocol.comparison import comparison_from, questions_text, verdict_text
from lora_tui.protocol.endpoints import asked_count
from lora_tui.protocol.knowledge import knowledge_from, knowledge_summary, knowledge_title
from lora_tui.protocol.rate_probe import probe_line
from lora_tui.protocol.serving import announcement_lines
from lora_tui.secrets import redact
from lora_tui.store.rows import Event
from lora_tui.text import clean, controls_text, count, duration, one_line, power_text, progress_text, question_of

_MARKS = {"accepted": "✓", "rejected": "✗", "review": "?"}
"""A glyph for each verdict: it carries the meaning where there is no colour."""

GENERATING = "generating"
"""The phase whose progress is accepted pairs of the target."""


@dataclass
class RunProgress:
    """How far a run has got, from its events so far."""

    target: int = 0
    verdicts: dict[object, str] = field(default_factory=dict)
    kept: int = 0
    """Accepted pairs that were kept of an earlier run."""
    step: dict[str, Any] = field(default_factory=dict)
    phase: dict[str, Any] = field(default_factory=dict)
    phase_since: float = 0.0
    """When the phase began, in seconds since the epoch."""
    paused: bool = False
    waiting: bool = False
    """Whether the run waits for its endpoint, which does not answer."""
    retry: dict[str, Any] = field(default_factory=dict)
    """The newest call that failed and is tried again."""
    retry_at: float = 0.0
    """When it is, in seconds since the epoch."""
    latest: str = ""
    """The kind of the newest event that says what is being done: ``pair``, ``step`` or ``progress``."""
    score: float | None = None
    traffic: dict[str, Any] = field(default_factory=dict)
    """What a server has done so far; empty while it loads, and for every other run."""

    def update(self, event: Event) -> None:
        """Remember what an event says."""
        payload = event.payload
        if event.kind in ("pair", "step", "progress"):
            self.latest = event.kind
        if event.kind == "started":
            self.paused = self.waiting = False  # a pause ends with the process that was asked for it
            self.target = int(payload.get("config", {}).get("data_generation", {}).get("total_examples", 0))
        elif event.kind == "pair":
            # A pair can be judged again; its last verdict counts.
            self.verdicts[payload.get("pair", event.id)] = str(payload.get("verdict", ""))
        elif event.kind == "note":
            self.kept = int(payload.get("kept") or self.kept)
        elif event.kind == "step":
            self.step = payload
        elif event.kind == "progress":
            if payload.get("phase") != self.phase.get("phase"):
                self.phase_since = event.at
            self.phase = payload
            if payload.get("phase") == GENERATING:
                self.target = payload.get("total") or self.target
        elif event.kind in ("serving", "traffic"):
            self.traffic = payload
        elif event.kind == "paused":
            self.paused = bool(payload.get("paused"))
        elif event.kind == "waiting":
            self.waiting = bool(payload.get("waiting"))
        elif event.kind == "retry":
            self.retry, self.retry_at = payload, event.at + float(payload.get("seconds") or 0)
        elif event.kind == "evaluation" and payload.get("model", "tuned") == "tuned":
            self.score = payload.get("score")

    def count(self, verdict: str) -> int:
        """Return how many pairs have this verdict."""
        kept = self.kept if verdict == "accepted" else 0
        return kept + sum(1 for given in self.verdicts.values() if given == verdict)

    def generation_line(self) -> str:
        """Return the counts of pairs: "39 of 100 accepted, 21 rejected, 1 for review, paused"."""
        text = f"{self.count('accepted')} of {self.target} accepted, {self.count('rejected')} rejected"
        review = self.count("review")
        text += f", {review} for review" if review else ""
        endpoints = self.phase.get("endpoints") or ()
        if endpoints and (asked := asked_count(endpoints)) < len(endpoints):
            text += f", {asked} of {len(endpoints)} endpoints work"
        if self.paused:
            return f"{text}, paused"
        return f"{text}, waiting for the endpoint" if self.waiting else text


def event_lines(event: Event) -> list[str]:
    """Return an event as lines of narration; none for events that only move a progress display."""
    formatter = _FORMATTERS.get(event.kind)
    lines = [f"run {event.run_id}: {clean(str(event.payload.get('mode', '')))}"] if event.kind == "started" else []
    return lines if formatter is None else lines + formatter(event.payload)


def step_line(step: Mapping[str, Any]) -> str:
    """Return an optimizer step: "step 84/120  loss 0.412  lr 8.1e-4  grad 0.87  344 tokens/s  2m 56s left"."""
    parts = [f"step {step.get('step', 0)}/{step.get('steps') or '?'}", f"loss {_number(step.get('loss'), '.3f')}"]
    if "reward_accuracy" in step:
        parts.append(f"margin {_number(step.get('reward_margin'), '.2f')}")
        parts.append(f"{_number(100 * step['reward_accuracy'], '.0f')} % told right")
    parts.append(f"lr {power_text(step['lr']) if step.get('lr') else _number(step.get('lr'), 'g')}")
    if step.get("grad_norm") is not None:
        parts.append(f"grad {_number(step['grad_norm'], '.2f')}")
    parts.append(f"{_number(step.get('tokens_per_s'), ',.0f')} tokens/s")
    if step.get("eta_s") is not None:
        parts.append(f"{duration(step['eta_s'])} left")
    return "  ".join(parts)


def phase_line(phase: Mapping[str, Any], seconds: float | None = None) -> str:
    """Return a progress event: "fetching the built-in model  40 of 93 MB · 12s"; `seconds` is how long it has taken."""
    done, total = phase.get("done") or 0, phase.get("total") or 0
    text = progress_text(str(phase.get("phase", "")), done, total, seconds)
    return text + (f"  {one_line(str(phase['note']), 60)}" if phase.get("note") else "")


def retry_line(retry: Mapping[str, Any]) -> str:
    """Return a call that is tried again: "HTTP 503: overloaded; trying again in 4s (2 of 6)"."""
    which = f" ({retry['try']} of {retry['tries']})" if retry.get("tries") else ""
    reason = one_line(redact(str(retry.get("reason", ""))), 160)
    return f"{reason}; trying again in {duration(float(retry.get('seconds') or 0))}{which}"


def _number(value: Any, form: str) -> str:
    return "–" if value is None else format(value, form)


def _plan(payload: Mapping[str, Any]) -> list[str]:
    line = count(payload.get("examples") or 0, *METHOD_EXAMPLES.get(str(payload.get("method")), METHOD_EXAMPLES["sft"]))
    if payload.get("held_out"):
        line += f" and {payload['held_out']:,} held out"
    if payload.get("everyday"):
        line += f" and {payload['everyday']:,} everyday ones"
    forms: Mapping[str, int] = payload.get("forms") or {}
    if len(forms) > 1:
        read, used = sum(forms.values()), (payload.get("examples") or 0) + (payload.get("held_out") or 0)
        line += f" ({'' if read == used else f'of {read:,} read: '}"
        line += ", ".join(f"{number:,} {one_line(form)}" for form, number in forms.items()) + ")"
    line += f", {count(payload.get('steps') or 0, 'step')}"
    trained, total = payload.get("trainable_parameters"), payload.get("parameters")
    if trained and total:
        line += f"; {trained / 1e6:.2f} of {total / 1e6:,.0f} million parameters are trained"
    model, device = one_line(str(payload.get("model", ""))), f"{payload.get('device')} in {payload.get('dtype')}"
    if (ranks := payload.get("ranks") or 1) > 1:
        device += f", {ranks} ranks ({payload.get('parallel')})"
    return [
        f"{model} on {one_line(device)}: {line}",
        *([f"    goes on from {clean(str(payload['begins_with']))}"] if payload.get("begins_with") else []),
        *_left_out(payload.get("reasons") or {}),
        *_chosen(payload.get("chosen") or ()),
    ]


def _chosen(chosen: Sequence[Mapping[str, Any]]) -> list[str]:
    """The values that were chosen for what nobody has set: a line each, key and value in columns before the reason."""
    rows = [(short_key(key), value, reason) for key, value, reason in chosen_rows(chosen)]
    if not rows:
        return []
    wide, long = (max(len(row[column]) for row in rows) for column in (0, 1))
    return [
        "chosen for this run, since nobody has set it (--set fine_tuning.KEY=VALUE does):",
        *(f"    {key:<{wide}}  {value:<{long}}  {reason}" for key, value, reason in rows),
    ]


def _left_out(reasons: Mapping[str, Mapping[str, int]]) -> list[str]:
    """A line for each fate that examples have met, with how many met it for which reason."""
    return [
        f"    {sum(counted.values()):,} {fate}: "
        + "; ".join(f"{times:,} {one_line(reason, 90)}" for reason, times in counted.items())
        for fate, counted in reasons.items()
        if counted
    ]


def _pair(payload: Mapping[str, Any]) -> list[str]:
    verdict = str(payload.get("verdict", ""))
    score = _number(payload.get("score"), ".1f")
    line = f"{_MARKS.get(verdict, '·')} {score:>4}  {one_line(str(payload.get('question', '')), 90)}"
    if verdict != "accepted" and payload.get("reason"):
        line += f"  ({one_line(str(payload['reason']), 80)})"
    return [line]


def _text(payload: Mapping[str, Any]) -> list[str]:
    verdict = str(payload.get("verdict", ""))
    form, title = one_line(str(payload.get("form", "")), 20), one_line(str(payload.get("title", "")), 80)
    line = f"{_MARKS.get(verdict, '·')} {_number(payload.get('score'), '.1f'):>4}  {form}: {title}"
    if verdict != "accepted" and payload.get("reason"):
        line += f"  ({one_line(str(payload['reason']), 80)})"
    return [line]


def _analysis(payload: Mapping[str, Any]) -> list[str]:
    head = f"analysis {payload.get('version', '')} after {payload.get('at_accepted', 0)} accepted:"
    lines = [f"{head} {one_line(str(payload.get('text', '')), 300)}"]
    return [*lines, *(f"  from now on: {one_line(str(told), 240)}" for told in payload.get("directives") or ())]


def _topics(payload: Mapping[str, Any]) -> list[str]:
    groups = [one_line(str(name), 40) for name in payload.get("groups") or ()]
    return [f"{count(int(payload.get('topics') or 0), 'topic')}: {', '.join(groups)}"] if groups else []


def _batch(payload: Mapping[str, Any]) -> list[str]:
    name, state = one_line(str(payload.get("batch", "")), 60), str(payload.get("state", "")).replace("_", " ")
    failed = f", {payload['failed']:,} failed" if payload.get("failed") else ""
    done = f"{payload.get('answered') or 0:,} of {count(int(payload.get('requests') or 0), 'call')} answered"
    return [f"batch {name}: {one_line(state, 20)}, {done}{failed}"]


def _folder(payload: Mapping[str, Any]) -> list[str]:
    if payload.get("unread"):
        return []  # a note says it
    files, passages = count(int(payload.get("files") or 0), "file"), count(int(payload.get("passages") or 0), "passage")
    return [f"the folder is read: {files}, {passages}"]


def _paused(payload: Mapping[str, Any]) -> list[str]:
    if payload.get("paused"):
        return ["paused: calls in flight are still answered, nothing new is begun"]
    return ["the pause is over"]


def _evaluation(payload: Mapping[str, Any]) -> list[str]:
    model = str(payload.get("model", ""))
    whose = "base model" if model.startswith("base") else "evaluation"
    if model.endswith("_held_out"):  # a hundred answers; the comparison has the worst of them
        return []
    line = f"{whose} at step {payload.get('step', 0)}: score {_number(payload.get('score'), '.2f')}"
    if controls := controls_text(payload.get("controls"), payload.get("controls_kept")):
        line += f" · {controls}"
    if people := payload.get("people"):
        line += f", people would say {people['value']:.2f} ({people['low']:.2f}–{people['high']:.2f})"
    if payload.get("held_out_loss") is not None:
        line += f", held-out loss {payload['held_out_loss']:.3f}"
    lines = [line]
    for sample in payload.get("samples", ()):
        answer = one_line(str(sample.get("answer", "")), 90) or "(nothing)"
        question = one_line(question_of(str(sample.get("prompt", ""))), 40)
        lines.append(f"    {_number(sample.get('score'), '.2f')}  {question} → {answer}")
    return lines


def _comparison(payload: Mapping[str, Any]) -> list[str]:
    found = comparison_from(payload)
    return [f"{questions_text(found)}: {verdict_text(found)}"]


def _knowledge(payload: Mapping[str, Any]) -> list[str]:
    found = knowledge_from(payload)
    return [f"{knowledge_title(found)}: {knowledge_summary(found)}"]


def _checkpoint(payload: Mapping[str, Any]) -> list[str]:
    score = f", score {payload['score']:.2f}" if payload.get("score") is not None else ""
    kind = str(payload.get("kind", "")) or "checkpoint"
    return [f"saved ({kind}, step {payload.get('step', 0)}{score}): {clean(str(payload.get('path', '')))}"]


def _message(payload: Mapping[str, Any]) -> list[str]:
    return clean(redact(str(payload.get("message", "")))).splitlines()


def _warning(payload: Mapping[str, Any]) -> list[str]:
    return [f"warning: {line}" if n == 0 else f"  {line}" for n, line in enumerate(_message(payload))]


_FORMATTERS: dict[str, Callable[[Mapping[str, Any]], list[str]]] = {
    "started": lambda payload: ["goes on where it stopped"] if payload.get("resumed") else [],
    "pair": _pair,
    "text": _text,
    "analysis": _analysis,
    "topics": _topics,
    "batch": _batch,
    "folder": _folder,
    "paused": _paused,
    "evaluation": _evaluation,
    "comparison": _comparison,
    "knowledge": _knowledge,
    "checkpoint": _checkpoint,
    "note": _message,
    "plan": _plan,
    "probe": lambda payload: [probe_line(payload)],
    "serving": announcement_lines,
    "waiting": _message,
    "warning": _warning,
}
