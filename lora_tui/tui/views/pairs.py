"""A run's pairs: a window on the ids that match a filter, and a pair as table cells or as text.

A hundred thousand pairs are 800 kB of ids; their texts stay in the store. What the run does is followed by its events,
so a tick costs what has happened since the last one, however many pairs there are.
"""

import re
from array import array
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from textwrap import wrap
from typing import Any

from textual.content import Content

from lora_tui.protocol.rating import evidence_span, unwrapped
from lora_tui.store import events
from lora_tui.store.connection import Store
from lora_tui.store.queries.generation import (
    PairDetail,
    PairFilter,
    PairLine,
    PairOrder,
    pair_ids,
    pair_lines,
    pairs_matching,
    sorted_pair_ids,
)
from lora_tui.store.queries.runs import events_of_kinds
from lora_tui.store.rows import DecisionRow
from lora_tui.text import one_line
from lora_tui.tui.curve import bar
from lora_tui.tui.text import DIM, metric_name, number, safe_line, safe_text, styled
from lora_tui.tui.theme import VERDICT_COLOURS, VERDICT_WORDS, verdict_label

_ABOVE_EVIDENCE = 2
"""Lines of the passage that stay in view above its evidence."""

_MARGIN = 150
"""Pairs that are loaded beyond those in view, so that a page up or down finds them loaded."""

_CACHE_SIZE = 2000
"""Pairs that stay loaded, the most recently shown."""

_BATCH = 2000
"""Events that are read at once."""

_STATE_STYLES = {"accepted": "good", "rejected": "dim", "review": "warn", "waiting": "other"}

_BAR = 7
_NAME = 21

_ORDERS = (
    PairOrder(),
    PairOrder("score"),
    PairOrder("score", descending=True),
    *(PairOrder(column) for column in ("question", "answer", "why not", "type", "topic", "verdict")),
)
"""The cycle of orders, from the one in which pairs were proposed."""


class PairWindow:
    """The ids of a run's pairs that match a filter, in some order, a cache of those in view, and which are marked."""

    def __init__(self, run_id: int) -> None:
        self.run_id = run_id
        self.filter = PairFilter()
        self.order = PairOrder()
        self.marked: set[int] = set()
        """Ids of the pairs that the next verdict is for."""
        self.is_stale = False
        """Whether a sorted list has to be read again: that costs as much as the list is long."""
        self.ids: array[int] = array("q")
        self._cache: OrderedDict[int, PairLine] = OrderedDict()
        self._event_cursor: int | None = None
        self._newest_id = 0

    def __len__(self) -> int:
        return len(self.ids)

    def row(self, index: int) -> PairLine | None:
        """The pair at an index; None where it is not loaded."""
        found = self._cache.get(self.ids[index])
        if found is not None:
            self._cache.move_to_end(found.id)
        return found

    @property
    def is_sorted(self) -> bool:
        """Whether the order is another one than that in which pairs were proposed."""
        return self.order != PairOrder()

    def index_of(self, pair_id: int) -> int | None:
        """The index of a pair; None where it does not match the filter."""
        if self.is_sorted:
            return self.ids.index(pair_id) if pair_id in self.ids else None
        index = bisect_left(self.ids, pair_id)
        return index if index < len(self.ids) and self.ids[index] == pair_id else None

    async def read_ids(self, store: Store) -> None:
        """Read all ids that match, in order."""
        if self.is_sorted:
            self.ids = await sorted_pair_ids(store, self.run_id, self.filter, self.order)
        else:
            self.ids = await pair_ids(store, self.run_id, self.filter)
        self._newest_id = max([self._newest_id, *(self.ids if self.is_sorted else self.ids[-1:])])
        self.is_stale = False

    async def follow(self, store: Store) -> bool:
        """Update the ids from what has happened since the last call; returns whether anything has.

        A sorted list only becomes stale.
        """
        if self._event_cursor is None:
            self._event_cursor = await events.last_id(store, self.run_id)
            await self.read_ids(store)
            return True
        fresh = await pair_ids(store, self.run_id, self.filter, after=self._newest_id)
        decided = await self._changed_ids(store)
        for pair_id in decided:
            self._cache.pop(pair_id, None)
        if fresh:
            self._newest_id = fresh[-1]
        if self.is_sorted:
            self.is_stale |= bool(fresh or decided)
            return bool(decided)
        for pair_id in fresh:
            self._add(pair_id)
        if decided:
            await self._reposition(store, decided)
        return bool(fresh or decided)

    async def _changed_ids(self, store: Store) -> list[int]:
        """The pairs whose verdict or text has changed since the last call."""
        decided: dict[int, None] = {}
        while batch := await events_of_kinds(store, self.run_id, ("pair",), self._event_cursor or 0, _BATCH):
            self._event_cursor = batch[-1].id
            decided |= dict.fromkeys(int(e.payload["pair"]) for e in batch if e.payload.get("pair") is not None)
            if len(batch) < _BATCH:
                break
        return list(decided)

    async def _reposition(self, store: Store, decided: list[int]) -> None:
        """Add or remove changed pairs as they match the filter now."""
        if self.filter == PairFilter():
            return
        matching = await pairs_matching(store, self.run_id, self.filter, decided)
        for pair_id in decided:
            if pair_id in matching:
                self._add(pair_id)
            elif (index := self.index_of(pair_id)) is not None:
                self.ids.pop(index)

    def _add(self, pair_id: int) -> None:
        """Insert an id in order, unless it is there."""
        if self.index_of(pair_id) is None:
            self.ids.insert(bisect_left(self.ids, pair_id), pair_id)

    async def load(self, store: Store, view: range) -> bool:
        """Load the pairs at these indices and some beyond; returns whether one of them was missing."""
        first, last = max(0, view.start - _MARGIN), min(len(self.ids), view.stop + _MARGIN)
        if all(self.ids[index] in self._cache for index in view):
            return False
        missing = [pair_id for pair_id in self.ids[first:last] if pair_id not in self._cache]
        self._cache.update(await pair_lines(store, missing))
        while len(self._cache) > _CACHE_SIZE:
            self._cache.popitem(last=False)
        return True


def next_filter(pair_filter: PairFilter) -> PairFilter:
    """The filter with the next state of the cycle: all, accepted, rejected, review, waiting, all …"""
    order = [None, "accepted", "rejected", "review", "waiting"]
    return replace(pair_filter, state=order[(order.index(pair_filter.state) + 1) % len(order)])


def filter_text(pair_filter: PairFilter) -> str:
    """A filter as text: "rejected, from bees.md, «dance»"."""
    state, source, search = pair_filter.state, pair_filter.source, pair_filter.search
    words = [VERDICT_WORDS.get(state, state) if state else "all", f"from {one_line(source, 40)}" if source else ""]
    return ", ".join(filter(None, [*words, f"«{one_line(search, 40)}»" if search else ""]))


def next_order(order: PairOrder) -> PairOrder:
    """The next order of the cycle: as proposed, lowest score first, highest first, question, answer …"""
    return _ORDERS[(_ORDERS.index(order) + 1) % len(_ORDERS)] if order in _ORDERS else _ORDERS[0]


def order_of_column(by: str, order: PairOrder) -> PairOrder:
    """The order that a click on a column's heading asks for; the other way round where it is sorted by it already."""
    return replace(order, descending=not order.descending) if by == order.by else PairOrder(by)


def order_text(order: PairOrder) -> str:
    """An order as text: "by score ▲"; empty for the order in which pairs were proposed."""
    return "" if order == PairOrder() else f"by {order.by} {'▼' if order.descending else '▲'}"


def pair_cells(pair: PairLine) -> list[tuple[str, str]]:
    """The cells of a pair: verdict as glyph and word, score, question, answer, why not, type, topic."""
    style = _STATE_STYLES.get(pair.state, "")
    glyph, _, verdict = verdict_label(pair.state).partition(" ")
    score = number(pair.score, ".1f") if pair.score is not None else ""
    why = _short_reason(pair.reason) if pair.state in ("rejected", "review") else ""
    return [
        (glyph, style),
        (verdict, style),
        (score, style),
        (one_line(pair.question, 300), ""),
        (one_line(pair.answer, 300), ""),
        (why, "dim"),
        (pair.question_type, "dim"),
        (one_line(pair.topic, 300), "dim"),
    ]


_SCORE_REASON = re.compile(r"scores [\d.]+ of 10, the threshold is [\d.]+([;:] )?")


def _without_score(reason: str) -> str:
    """The reason of a verdict without the score and the threshold, which stand beside it."""
    return _SCORE_REASON.sub("", reason)


def _short_reason(reason: str) -> str:
    """The reason of a verdict on one line: of a low score, which stands in its own column, what has cost most."""
    return one_line(_without_score(reason).removeprefix("most is lost by ") or reason, 300)


def passage_text(passage: str, evidence: str) -> Content:
    """The passage with its evidence in reverse video, and between bars for terminals without colour."""
    text = unwrapped(passage)
    if span := evidence_span(text, evidence):
        before, quoted, after = text[: span[0]], text[slice(*span)], text[span[1] :]
        marked = (("▐", "$accent"), safe_text(quoted, "reverse"), ("▌", "$accent"))
        return styled(safe_text(before), *marked, safe_text(after))
    if not evidence:
        return safe_text(text)
    missing = ("\n\nThe evidence it names is not in the passage:\n", "$warning")
    return styled(safe_text(text), missing, safe_text(evidence, "italic"))


def evidence_line(passage: str, evidence: str, width: int) -> int | None:
    """The line to begin with of a passage in lines of `width` cells, so that its evidence is in view; None: any."""
    text = unwrapped(passage)
    span = evidence_span(text, evidence)
    if span is None or width <= 0:
        return None
    above = text[: span[0]].split("\n")
    lines = sum(len(wrap(part, width)) or 1 for part in above[:-1]) + len(above[-1]) // width
    return max(0, lines - _ABOVE_EVIDENCE)


def _decision_in_force(detail: PairDetail) -> DecisionRow | None:
    """The newest decision that was not undone."""
    return next((decision for decision in detail.decisions if decision.undone_at is None), None)


def _decided_by(decision: DecisionRow) -> str:
    names = {"aggregator": "the score", "gate": "a check before the judge", "person": "you"}
    return names.get(decision.decided_by, one_line(decision.decided_by, 40))


def verdict_text(detail: PairDetail) -> Content:
    """The verdict with its score, who decided it, and the reason."""
    pair = detail.pair
    newest = _decision_in_force(detail)
    parts: list[Any] = [(verdict_label(pair.state), f"bold {VERDICT_COLOURS.get(pair.state, '')}")]
    if pair.score is not None:
        threshold = f" of 10, threshold {newest.threshold:g}" if newest and newest.threshold is not None else " of 10"
        parts += [(f"  {pair.score:.1f}", "bold"), (threshold, DIM)]
    if newest is not None:
        parts.append((f"\nby {_decided_by(newest)}, weights {newest.weights_version or '–'}", DIM))
    if reason := _without_score(pair.reason):
        parts += ["\n", safe_text(reason)]
    return styled(*parts)


def metrics_text(detail: PairDetail) -> Content:
    """Each metric as a bar, with its value and its weight in the newest decision that had weights."""
    if not detail.metrics:
        return Content.styled("Nothing was measured: it never reached the judge.", DIM)
    weights: Mapping[str, float] = next((d.weights for d in detail.decisions if d.weights), {})
    lines = [styled((f"{'':{_NAME}}{'':{_BAR}} value weight", DIM))]
    shared = [metric for metric in detail.metrics if "@" not in metric.name]  # each judge's own are in its words
    for metric in sorted(shared, key=lambda m: (-weights.get(m.name, 0.0), m.name)):
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


def judge_text(detail: PairDetail) -> Content:
    """The judge's explanations; empty where there are none."""
    explanations = dict.fromkeys(m.detail for m in detail.metrics if m.detail and m.detail.strip(": "))
    return Content("\n").join([safe_text(text, limit=2000) for text in explanations])


def history_text(detail: PairDetail) -> Content:
    """Decisions no longer in force and earlier wordings, the newest first; empty where there are none."""
    lines: list[Content] = []
    current = _decision_in_force(detail)
    for decision in detail.decisions:
        if decision is not current:
            when = "before" if decision.undone_at is None else "taken back"
            verdict = VERDICT_WORDS.get(decision.verdict, decision.verdict)
            lines.append(styled((f"{when}: {verdict} by {_decided_by(decision)}", DIM)))
    lines += [
        styled(("edited; it was: ", DIM), safe_line(edit.question, 200))
        for edit in detail.edits
        if edit.undone_at is None
    ]
    return Content("\n").join(lines)
