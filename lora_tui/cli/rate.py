"""Rating in lines: a pair or an answer is shown, one key judges it, the next one follows.

At a terminal a key acts at once, without enter; on a pipe each line has one (``g`` or ``good``). Every rating is stored
before the next one is asked for, so whatever ends the program loses none. What is asked about and what became of it is
data on stdout, the keys and everything else narration on stderr; with ``--json`` stdout has an ``item`` before each
question and a ``rating`` after it.
"""

import shutil
import sys
import textwrap
import time
from collections.abc import Coroutine, Mapping
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from typing import Any, TextIO, TypeVar

from lora_tui.cli.rate_keys import BAD, GOOD, HINT, AnswerKeys, answer_keys
from lora_tui.cli.request import Request
from lora_tui.engine.review.preferences import count_said
from lora_tui.engine.review.queued_ratings import (
    agreement_so_far,
    next_to_rate,
    queue_to_rate,
    rate_item,
    rating_totals,
    undo_item,
)
from lora_tui.engine.runtime.engine import Engine
from lora_tui.protocol.agreement import ScoreAgreement, agreement_text
from lora_tui.protocol.backend import ReviewResult
from lora_tui.protocol.rating import (
    ROUND,
    SUBJECTS,
    RatingItem,
    RatingQueue,
    RatingTotals,
    evidence_span,
    unwrapped,
)
from lora_tui.terminal.report import PREFIX, done_line, json_line
from lora_tui.text import clean, count, one_line, question_of

T = TypeVar("T")

_EFFECT = {
    "pair": "A good pair is accepted, a bad one rejected, whatever its score; the training file follows.",
    "sample": "A rating teaches the score; good is an answer that you would accept.",
}
_DONE = {"pair": {True: "good: accepted", False: "bad: rejected"}, "sample": {True: "good", False: "bad"}}

_PASSAGE = 700
"""Characters of a passage that are shown, around its evidence."""

_LABEL = 11
_WIDEST = 100
_INTERRUPTED = 130


def rate_mode(engine: Engine, request: Request, out: TextIO) -> int:
    """Ask for ratings until the person leaves or nothing is left; returns the exit status."""
    run_id = request.resume if isinstance(request.resume, int) else None
    subject = None if request.what is None else SUBJECTS[request.what]
    queue = engine.call(queue_to_rate(engine.open_store, run_id, subject)).result()
    output = _JsonOutput(out, queue) if request.json_lines else _LineOutput(out, queue)
    sitting = _Sitting(engine, queue, output)
    status = 0
    with answer_keys() as read_key:
        try:
            sitting.ask_until_end(read_key)
        except KeyboardInterrupt:
            status = _INTERRUPTED
    output.end(sitting.learned(), status)
    return status


@dataclass(frozen=True)
class Learned:
    """What a sitting has come to: its ratings, and the weights of the score before and after."""

    rated: int
    good: int
    bad: int
    skipped: int
    totals: RatingTotals
    agreement: ScoreAgreement
    before: Mapping[str, float] = field(default_factory=dict)
    after: Mapping[str, float] = field(default_factory=dict)
    preferences: int = 0
    """Preferences that all that was said in the store makes, this sitting's ratings among it."""


class _Sitting:
    """The questions of one sitting, in order, and what was answered."""

    def __init__(self, engine: Engine, queue: RatingQueue, output: "_Output") -> None:
        self._engine = engine
        self._queue = queue
        self._output = output
        self._answered: list[tuple[RatingItem, bool | None]] = []
        """What was asked, and whether it is good; None where it was skipped."""
        self._before: Mapping[str, float] | None = None
        self._after: Mapping[str, float] = {}

    def ask_until_end(self, read_key: AnswerKeys) -> None:
        """Ask about one after the other, until the person ends it or nothing is left."""
        store = self._engine.open_store
        self._output.begin(self._totals())
        item: RatingItem | None = None
        while True:
            if item is None:
                skipped = {asked.id for asked, good in self._answered if good is None}
                item = self._call(next_to_rate(store, self._queue, skipped))
            if item is None:
                return
            read_key.forget_ratings()
            self._output.item(item, self._rated + 1)
            match read_key(self._output.prompt, self._output.say):
                case None | "quit":
                    return
                case "undo":
                    item = self._take_back() or item
                case "skip":
                    self._answered.append((item, None))
                    self._output.skipped(item)
                    item = None
                case word:
                    self._rate(item, good=word == GOOD)
                    item = None

    @property
    def _rated(self) -> int:
        return sum(good is not None for _, good in self._answered)

    def _totals(self) -> RatingTotals:
        return self._call(rating_totals(self._engine.open_store, self._queue))

    def _rate(self, item: RatingItem, *, good: bool) -> None:
        result = self._call(rate_item(self._engine.open_store, item, good=good))
        self._answered.append((item, good))
        self._note(result)
        self._output.rated(item, good=good, result=result)

    def _take_back(self) -> RatingItem | None:
        """Take the last answer back; returns what it was about, which is asked again."""
        if not self._answered:
            self._output.say("nothing to take back")
            return None
        item, good = self._answered.pop()
        if good is not None and (result := self._call(undo_item(self._engine.open_store, item))) is not None:
            self._note(result)
        self._output.undone(item)
        return item

    def _note(self, result: ReviewResult) -> None:
        if result.after:
            self._before = result.before if self._before is None else self._before
            self._after = result.after

    def learned(self) -> Learned:
        """What the sitting has come to."""
        given = [good for _, good in self._answered if good is not None]
        agreement = self._call(agreement_so_far(self._engine.open_store, self._queue))
        return Learned(
            len(given),
            sum(given),
            len(given) - sum(given),
            len(self._answered) - len(given),
            self._totals(),
            agreement,
            self._before or {},
            self._after,
            self._call(count_said(self._engine.open_store, {}))[0],
        )

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for work on the store. Ctrl+c does not stop it: it ends after this, with what was begun stored."""
        pending: Future[T] = self._engine.call(work)
        try:
            return pending.result()
        except KeyboardInterrupt:
            pending.result()
            raise


class _Output:
    """How the questions and what becomes of them are written."""

    def __init__(self, out: TextIO, queue: RatingQueue) -> None:
        self._out = out
        self._queue = queue

    def begin(self, totals: RatingTotals) -> None:
        """The sitting begins."""

    def item(self, item: RatingItem, number: int) -> None:
        """Show what is asked about: the `number`-th rating of the sitting."""

    def prompt(self) -> None:
        """A key is waited for."""

    def say(self, text: str) -> None:
        """Write a remark."""
        print(f"{PREFIX}{clean(text)}", file=sys.stderr, flush=True)

    def rated(self, item: RatingItem, *, good: bool, result: ReviewResult) -> None:
        """An item was rated."""

    def skipped(self, item: RatingItem) -> None:
        """An item was skipped."""

    def undone(self, item: RatingItem) -> None:
        """The last answer was taken back."""

    def end(self, learned: Learned, status: int) -> None:
        """The sitting is over."""


class _LineOutput(_Output):
    """Plain lines of the terminal's width."""

    def begin(self, totals: RatingTotals) -> None:
        queue = self._queue
        for line in (
            f"run {queue.run_id}: {count(totals.left, queue.noun)} to rate. {_EFFECT[queue.subject]}",
            "One in four is drawn at random, the others are those that teach the score most.",
        ):
            print(_wrapped(PREFIX + line, sys.stderr), file=sys.stderr)
        self._left = totals.left

    def item(self, item: RatingItem, number: int) -> None:
        width = _width()
        aim = min(ROUND, self._left)
        place = f"{number} of {aim}" if number <= aim else str(number)
        # Not by which model an answer is: who knows that judges the model.
        origin = f" · {one_line(item.origin, 60)}" if item.subject == "pair" else ""
        head = f"{place} · {self._queue.noun} {item.id}{origin} "
        lines = ["", head + "─" * max(0, width - len(head))]
        for label, text in (
            ("passage", _marked_passage(item)),
            ("question", question_of(item.question)),
            ("answer", item.answer or "(nothing)"),
            ("reference", item.reference),
        ):
            if text:
                lines += _labelled(label, clean(text), width)
        self._write("\n".join(lines))

    def prompt(self) -> None:
        print(f"{HINT} > ", end="", file=sys.stderr, flush=True)

    def rated(self, item: RatingItem, *, good: bool, result: ReviewResult) -> None:
        said = ""
        if result.scores is not None:
            said = f" · the score had said {result.scores[0]:.{1 if item.subject == 'pair' else 2}f}"
        self._write(f"{item.subject} {item.id} {_DONE[item.subject][good]}{said}")

    def skipped(self, item: RatingItem) -> None:
        self._write(f"{item.subject} {item.id} skipped")

    def undone(self, item: RatingItem) -> None:
        self._write(f"{item.subject} {item.id} taken back")

    def end(self, learned: Learned, status: int) -> None:
        if status:
            print(file=sys.stderr)
        self._write("\n" + "\n".join(_wrapped(line, self._out) for line in _learned_lines(learned, self._queue)))

    def _write(self, text: str) -> None:
        self._out.write(text + "\n")
        self._out.flush()


class _JsonOutput(_Output):
    """One JSON object a line: ``started``, then ``item`` and ``rating``, ``skipped`` or ``undone``, and ``done``."""

    def begin(self, totals: RatingTotals) -> None:
        self._write("started", mode="rate", subject=self._queue.subject, **asdict(totals))

    def item(self, item: RatingItem, number: int) -> None:
        self._write("item", number=number, **asdict(item))

    def rated(self, item: RatingItem, *, good: bool, result: ReviewResult) -> None:
        before, after = result.scores or (None, None)
        self._write(
            "rating",
            rating=GOOD if good else BAD,
            target=float(good),
            score=before,
            score_after=after,
            weights=dict(result.after),
            **asdict(item),
        )

    def skipped(self, item: RatingItem) -> None:
        self._write("skipped", subject=item.subject, id=item.id)

    def undone(self, item: RatingItem) -> None:
        self._write("undone", subject=item.subject, id=item.id)

    def end(self, learned: Learned, status: int) -> None:
        result = {
            "rated": learned.rated,
            "good": learned.good,
            "bad": learned.bad,
            "skipped": learned.skipped,
            "ratings": asdict(learned.totals),
            "agreement": learned.agreement.as_json(),
            "weights_before": dict(learned.before),
            "weights": dict(learned.after),
            "preferences": learned.preferences,
        }
        state = "interrupted" if status else "finished"
        self._out.write(done_line(self._queue.run_id, time.time(), state, status, result, None) + "\n")
        self._out.flush()

    def _write(self, event: str, **payload: Any) -> None:
        self._out.write(json_line(event, self._queue.run_id, time.time(), payload) + "\n")
        self._out.flush()


def _width() -> int:
    """Columns of what is shown."""
    return min(shutil.get_terminal_size().columns, _WIDEST)


def _wrapped(line: str, stream: TextIO) -> str:
    """A line, wrapped between words where it is for a terminal."""
    return "\n".join(textwrap.wrap(line, _width())) if stream.isatty() else line


def _marked_passage(item: RatingItem) -> str:
    """The part of a passage around its evidence, which stands between bars; with a line for evidence it lacks."""
    passage = "\n".join(line for line in unwrapped(item.passage).splitlines() if line.strip())
    span = evidence_span(passage, item.evidence)
    if span is None:
        missing = f"\nThe evidence it names is not in the passage: {item.evidence}" if item.evidence else ""
        shown = passage[:_PASSAGE] + ("…" if len(passage) > _PASSAGE else "")
        return shown + missing if passage else ""
    first, last = span
    room = max(100, _PASSAGE - (last - first)) // 2
    before, after = passage[:first], passage[last:]
    if len(before) > room:
        before = "…" + before[-room:].partition(" ")[2]
    if len(after) > room:
        after = after[:room].rpartition(" ")[0] + " …"
    return f"{before}▐{passage[first:last]}▌{after}"


def _labelled(label: str, text: str, width: int) -> list[str]:
    """Text of any number of lines, wrapped beside its label."""
    room = max(20, width - _LABEL)
    wrapped = [line for part in text.splitlines() for line in textwrap.wrap(part, room) or [""]] or [""]
    return [f"{'' if number else label:<{_LABEL}}{line}" for number, line in enumerate(wrapped)]


def _learned_lines(learned: Learned, queue: RatingQueue) -> list[str]:
    """What a sitting has come to, in lines."""
    if not learned.rated:
        lines = ["Nothing was rated."]
    else:
        skipped = f", {learned.skipped} skipped" if learned.skipped else ""
        lines = [f"{count(learned.rated, queue.noun)} rated: {learned.good} good, {learned.bad} bad{skipped}."]
    moved = sorted(learned.after, key=lambda name: -abs(learned.after[name] - learned.before.get(name, 0.0)))
    changes = [
        f"{name} {learned.before.get(name, 0.0):.3f} → {learned.after[name]:.3f}"
        for name in moved[:3]
        if f"{learned.before.get(name, 0.0):.3f}" != f"{learned.after[name]:.3f}"
    ]
    if changes:
        lines.append(f"Weights of the score that moved most: {', '.join(changes)}.")
    elif learned.after:
        lines.append("The weights of the score hardly moved.")
    totals = learned.totals
    lines.append(
        f"In all {count(totals.rated, 'rating')} of {queue.noun}s: {totals.good} good, {totals.bad} bad,"
        f" {totals.audit} of them drawn at random; {totals.left:,} left in run {queue.run_id}."
    )
    lines.append(f"How well the score agrees with them: {agreement_text(learned.agreement)}.")
    if learned.preferences:
        said = count(learned.preferences, "preference")
        lines.append(f"What was said so far makes {said}: lora-tui --run train --method dpo learns from it.")
    return lines
