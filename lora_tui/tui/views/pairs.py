"""A run's pairs: a window on the list of those that match a filter, and a row or one pair as text.

A hundred thousand pairs are 800 kB of ids; their texts stay in the store. What the run does is followed by its events,
so a tick costs what has happened since the last one, however many pairs there are.
"""

import re
from array import array
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from textual.content import Content

from lora_tui.store import events
from lora_tui.store.connection import Store
from lora_tui.store.queries.generation import PairDetail, PairFilter, PairLine, pair_ids, pair_lines, pairs_matching
from lora_tui.store.queries.runs import events_of_kinds
from lora_tui.store.rows import DecisionRow
from lora_tui.text import one_line
from lora_tui.tui.curve import bar
from lora_tui.tui.text import DIM, metric_name, number, safe_line, safe_text, styled
from lora_tui.tui.theme import VERDICT_COLOURS, VERDICT_GLYPHS, VERDICT_WORDS

_MARGIN = 150
"""Rows that are read beyond those in view, so that a page up or down finds them there."""

_MOST_KEPT = 2000
_BATCH = 2000
_STYLES = {"accepted": "good", "rejected": "dim", "review": "warn", "waiting": "other"}

_SOFT_BREAK = re.compile(r"(?<=\S)\n(?=[^\s#>|*+\-\d])")
"""A line's end inside a paragraph: not before a list, a table, a heading, a quotation or an indented line."""

_BAR = 14
_NAME = 21


class PairWindow:
    """The pairs of one run that match a filter, in the order they were proposed."""

    def __init__(self, run_id: int, wanted: PairFilter | None = None) -> None:
        self.run_id = run_id
        self.filter = wanted or PairFilter()
        self.ids: array[int] = array("q")
        self._lines: OrderedDict[int, PairLine] = OrderedDict()
        self._cursor: int | None = None
        self._newest = 0

    def __len__(self) -> int:
        return len(self.ids)

    def line(self, index: int) -> PairLine | None:
        """The row at an index, where it has been read."""
        found = self._lines.get(self.ids[index])
        if found is not None:
            self._lines.move_to_end(found.id)
        return found

    def index_of(self, pair_id: int) -> int | None:
        """Where a pair stands; None when the filter leaves it out."""
        index = bisect_left(self.ids, pair_id)
        return index if index < len(self.ids) and self.ids[index] == pair_id else None

    async def refilter(self, store: Store, wanted: PairFilter) -> None:
        """Look at other pairs of the run."""
        ids = await pair_ids(store, self.run_id, wanted)
        self.filter = wanted
        self.ids = ids
        self._newest = max(self._newest, ids[-1] if ids else 0)

    async def follow(self, store: Store) -> bool:
        """Take in what has happened since the last call; returns whether the list is another one now."""
        if self._cursor is None:
            self._cursor = await events.last_id(store, self.run_id)
            await self.refilter(store, self.filter)
            return True
        fresh = await pair_ids(store, self.run_id, self.filter, after=self._newest)
        if fresh:
            self._newest = fresh[-1]
            for pair_id in fresh:
                self._add(pair_id)
        decided = await self._decided(store)
        if decided:
            await self._place(store, decided)
        return bool(fresh or decided)

    async def _decided(self, store: Store) -> list[int]:
        """The pairs whose verdict or text has changed since the last call."""
        decided: dict[int, None] = {}
        while batch := await events_of_kinds(store, self.run_id, ("pair",), self._cursor or 0, _BATCH):
            self._cursor = batch[-1].id
            decided |= dict.fromkeys(int(e.payload["pair"]) for e in batch if e.payload.get("pair") is not None)
            if len(batch) < _BATCH:
                break
        return list(decided)

    async def _place(self, store: Store, decided: list[int]) -> None:
        """Put pairs where they belong now: in, out, and their rows to be read anew."""
        for pair_id in decided:
            self._lines.pop(pair_id, None)
        if self.filter == PairFilter():
            return
        matching = await pairs_matching(store, self.run_id, self.filter, decided)
        for pair_id in decided:
            if pair_id in matching:
                self._add(pair_id)
            elif (index := self.index_of(pair_id)) is not None:
                self.ids.pop(index)

    def _add(self, pair_id: int) -> None:
        """Put an id where it belongs, once."""
        if not self.ids or pair_id > self.ids[-1]:
            self.ids.append(pair_id)
        elif self.index_of(pair_id) is None:
            self.ids.insert(bisect_left(self.ids, pair_id), pair_id)

    async def read(self, store: Store, view: range) -> bool:
        """Read the rows in view, and some beyond; returns whether any was new."""
        first, last = max(0, view.start - _MARGIN), min(len(self.ids), view.stop + _MARGIN)
        if all(self.ids[index] in self._lines for index in view):
            return False
        missing = [pair_id for pair_id in self.ids[first:last] if pair_id not in self._lines]
        self._lines.update(await pair_lines(store, missing))
        while len(self._lines) > _MOST_KEPT:
            self._lines.popitem(last=False)
        return True


def next_state(wanted: PairFilter) -> PairFilter:
    """The filter after this one when filters are gone through: all, accepted, rejected, review, waiting, all …"""
    order = [None, "accepted", "rejected", "review", "waiting"]
    return replace(wanted, state=order[(order.index(wanted.state) + 1) % len(order)])


def filter_words(wanted: PairFilter) -> str:
    """Which pairs a filter shows: "rejected, from bees.md, «dance»"."""
    words = [VERDICT_WORDS.get(wanted.state, wanted.state) if wanted.state else "all"]
    words += [f"from {one_line(wanted.source, 40)}"] if wanted.source else []
    words += [f"«{one_line(wanted.search, 40)}»"] if wanted.search else []
    return ", ".join(words)


def pair_cells(pair: PairLine, *, narrow: bool) -> list[tuple[str, str]]:
    """A pair's row: verdict, score, type, topic, question, and why it is not accepted; three of them where narrow."""
    look = _STYLES.get(pair.state, "")
    verdict = f"{VERDICT_GLYPHS.get(pair.state, '·')} {VERDICT_WORDS.get(pair.state, pair.state)}"
    score = number(pair.score, ".1f") if pair.score is not None else ""
    question = (one_line(pair.question, 300), "")
    if narrow:
        return [(verdict, look), (score, look), question]
    why = one_line(pair.reason, 300) if pair.state in ("rejected", "review") else ""
    return [
        (verdict, look),
        (score, look),
        (pair.question_type, "dim"),
        (one_line(pair.topic, 300), "dim"),
        question,
        (why, "dim"),
    ]


def passage(detail: PairDetail) -> Content:
    """The passage with the evidence in reverse; brackets mark it as well, for terminals without colour."""
    text = _SOFT_BREAK.sub(" ", detail.passage)
    found = _find(text, detail.pair.evidence)
    if found is None:
        quoted = ("\n\nThe evidence it names is not in the passage:\n", "$warning")
        return styled(
            safe_text(text), *((quoted, safe_text(detail.pair.evidence, "italic")) if detail.pair.evidence else ())
        )
    start, end = found
    return styled(
        safe_text(text[:start]),
        ("▐", "$accent"),
        safe_text(text[start:end], "reverse"),
        ("▌", "$accent"),
        safe_text(text[end:]),
    )


def _find(text: str, evidence: str) -> tuple[int, int] | None:
    """Where the evidence stands in the passage, whatever its white space; None when it does not."""
    words = evidence.split()
    if not words:
        return None
    found = re.search(r"\s+".join(re.escape(word) for word in words), text, re.IGNORECASE)
    return found.span() if found else None


def in_force(detail: PairDetail) -> DecisionRow | None:
    """The decision that holds: the newest that was not taken back."""
    return next((decision for decision in detail.decisions if decision.undone_at is None), None)


def _who(decision: DecisionRow) -> str:
    names = {"aggregator": "the aggregator", "gate": "a check before the judge", "person": "you"}
    return names.get(decision.decided_by, one_line(decision.decided_by, 40))


def verdict(detail: PairDetail) -> Content:
    """The verdict with its score, who gave it, and why."""
    pair = detail.pair
    newest = in_force(detail)
    colour = VERDICT_COLOURS.get(pair.state, "")
    head = f"{VERDICT_GLYPHS.get(pair.state, '·')} {VERDICT_WORDS.get(pair.state, pair.state)}"
    parts: list[Any] = [(head, f"bold {colour}")]
    if pair.score is not None:
        threshold = f" of 10, threshold {newest.threshold:g}" if newest and newest.threshold is not None else " of 10"
        parts += [(f"  {pair.score:.1f}", "bold"), (threshold, DIM)]
    if newest is not None:
        parts.append((f"\nby {_who(newest)}, weights {newest.weights_version or '–'}", DIM))
    if pair.reason:
        parts += ["\n", safe_text(pair.reason)]
    return styled(*parts)


def measures(detail: PairDetail) -> Content:
    """Each metric as a bar with its value and the weight it had in the newest decision by weights."""
    if not detail.metrics:
        return Content.styled("Nothing was measured: it never reached the judge.", DIM)
    weights: Mapping[str, float] = next((d.weights for d in detail.decisions if d.weights), {})
    lines = [styled((f"{'':{_NAME}}{'':{_BAR}} value weight", DIM))]
    for metric in sorted(detail.metrics, key=lambda m: (-weights.get(m.name, 0.0), m.name)):
        weight = weights.get(metric.name)
        lines.append(
            styled(
                f"{one_line(metric_name(metric.name), _NAME):{_NAME}}",
                (f"{bar(metric.value, _BAR):{_BAR}}", "$accent"),
                f" {metric.value:5.2f}",
                (f"  {weight:.2f}" if weight is not None else "     –", DIM),
            )
        )
    return Content("\n").join(lines)


def judge_words(detail: PairDetail) -> Content:
    """What the judge said, where it said anything."""
    said = list(dict.fromkeys(m.detail for m in detail.metrics if m.detail and m.detail.strip(": ")))
    return Content("\n").join([safe_text(words, limit=2000) for words in said]) if said else Content("")


def history(detail: PairDetail) -> Content:
    """Other decisions and earlier wordings, newest first; nothing where there is just one."""
    lines: list[Content] = []
    holds = in_force(detail)
    for decision in detail.decisions:
        if decision is not holds:
            when = "before" if decision.undone_at is None else "taken back"
            verdict = VERDICT_WORDS.get(decision.verdict, decision.verdict)
            lines.append(styled((f"{when}: {verdict} by {_who(decision)}", DIM)))
    lines += [
        styled(("edited; it was: ", DIM), safe_line(edit.question, 200))
        for edit in detail.edits
        if edit.undone_at is None
    ]
    return Content("\n").join(lines)
