"""The planner: the next call for pairs, with the passage and the kind of pair (slot) that it asks for.

A pass asks `num_examples_per_file` pairs of every file, in calls of as many pairs as a reply has room for. The passages
of a file take turns: each call goes to the next one, and the next pass goes on where the last one ended; with a topic
tree, `PassageTurns` chooses them by quotas. Tasks are planned shortly before they run, so that their slots can balance
what there is by then. Their keys make planning repeatable: after a crash the same pass is planned again, and the tasks
that are there already stay.

The sampling plan: each dimension of a slot (topic, question type, difficulty, audience) is drawn by itself, with
p(value) proportional to max(0, target - observed) + epsilon, where `target` is the value's fair share and `observed`
its share of the pairs that were accepted or asked for. A value that lags is drawn more often, one that leads is not
quite forbidden. With a topic tree, a question type that leads among the pairs of its topic is drawn less often, too.
The same seed and the same counts draw the same slot.
"""

import asyncio
import itertools
import random
import sys
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from types import MappingProxyType

from lora_tui.config.generation import DataGeneration
from lora_tui.engine.generation import chunks
from lora_tui.engine.generation.corpus import Corpus, Source, title_of
from lora_tui.engine.generation.focus import FocusSentences
from lora_tui.engine.generation.generation_model import UNSTEERED, PairRequest, Slot, Steering
from lora_tui.engine.generation.passage_turns import PassageTurns
from lora_tui.engine.generation.question_types import QUESTION_TYPES
from lora_tui.engine.generation.topic_tree import TopicTree, refresh_tree
from lora_tui.engine.models.builtin import BUILTIN
from lora_tui.store import generation as store_generation
from lora_tui.store import tasks
from lora_tui.store.connection import Store
from lora_tui.store.rows import ChunkRow, NewTask, PairRow, TaskRow

GENERATE, JUDGE, ANALYSE, CHECK = "generate", "judge", "analyse", "check"
"""The kinds of task."""

TOKENS_PER_PAIR = 200
"""Tokens of a reply that a pair takes with its quotation."""

_MAX_PAIRS_PER_CALL = 5
_MAX_AVOIDED, _MAX_AVOIDED_BUILTIN = 8, 500
"""Questions of a passage that a request names as asked: in a prompt each costs tokens, the built-in model compares."""

_MIN_FRUITLESS = 10
_MOST_BEGINNINGS = 24
"""Files whose first passages the built-in model is told: those of a folder about one thing, not of a library."""

_AT_HAND = 1024

DIFFICULTIES: Mapping[str, str] = {
    "easy": "answered by one sentence of the passage",
    "medium": "answered by putting two or three sentences of the passage together",
    "hard": "needs the connection between several statements of the passage",
}

AUDIENCES: Mapping[str, str] = {
    "a beginner": "use plain words",
    "a student": "be precise and explain terms",
    "a practitioner": "be concrete and to the point",
    "an expert": "use the field's terms",
}

_EPSILON = 0.02


class SlotCounts:
    """How many pairs were accepted or asked for: `counts` is a histogram of values by dimension of the slot."""

    def __init__(self) -> None:
        self.counts: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def add(self, slot: Slot, count: int = 1) -> None:
        """Count `count` more pairs of a slot; negative for pairs that were asked for and not kept."""
        for dimension, value in asdict(slot).items():
            self.counts[dimension][value] += count
        if slot.area:
            self.counts[f"types of {slot.area}"][slot.question_type] += count

    def draw(self, topics: Sequence[str], rng: random.Random, area: str = "") -> Slot:
        """Draw a slot; `topics` are the topics of its passage (at least one), `area` is its topic in the tree."""
        beside = self.counts[f"types of {area}"] if area else {}
        return Slot(
            topic=draw_value(topics, self.counts["topic"], rng),
            question_type=draw_value(tuple(QUESTION_TYPES), self.counts["question_type"], rng, beside),
            difficulty=draw_value(tuple(DIFFICULTIES), self.counts["difficulty"], rng),
            audience=draw_value(tuple(AUDIENCES), self.counts["audience"], rng),
            area=area,
        )


def draw_value(
    values: Sequence[str], observed: Mapping[str, int], rng: random.Random, beside: Mapping[str, int] | None = None
) -> str:
    """Draw one of `values` with p proportional to max(0, fair share - observed share) + epsilon.

    With a second count `beside`, to the product of both.
    """
    weights = _lags(values, observed)
    if beside:
        weights = [one * other for one, other in zip(weights, _lags(values, beside), strict=True)]
    return rng.choices(values, weights)[0]


def _lags(values: Sequence[str], observed: Mapping[str, int]) -> list[float]:
    """Return how far each value is behind its fair share, plus epsilon; 1 for each where nothing was counted."""
    total = sum(max(0, observed.get(value, 0)) for value in values)
    share = 1 / len(values)
    return [max(0.0, share - max(0, observed.get(value, 0)) / total) + _EPSILON if total else 1.0 for value in values]


def further_topics(all_topics: Iterable[str], own: Iterable[str], rng: random.Random, most: int = 6) -> tuple[str, ...]:
    """Return up to `most` topics that are not the passage's own, in a random order."""
    own_folded = {topic.casefold() for topic in own}
    others = sorted({topic for topic in all_topics if topic.casefold() not in own_folded})
    return tuple(rng.sample(others, min(most, len(others))))


def pairs_by_call(chosen: DataGeneration) -> list[int]:
    """Return how many pairs each call of a file and pass asks for."""
    most = max(1, min(_MAX_PAIRS_PER_CALL, chosen.generation.max_tokens // TOKENS_PER_PAIR))
    calls, rest = divmod(chosen.num_examples_per_file, most)
    return [most] * calls + ([rest] if rest else [])


@dataclass(frozen=True, slots=True)
class _PlannedCall:
    """A call that is planned next: passage (by position), how many pairs, the topic and pass it belongs to."""

    source: Source
    position: int
    count: int
    key: str
    area: str
    round: int


class _PassagesAtHand(dict[str, ChunkRow]):
    """The passages of the last calls by id, those that were planned by document and position as well."""

    def __init__(self) -> None:
        self._ids: dict[tuple[str, int], str] = {}

    def at(self, document_id: str, position: int) -> ChunkRow | None:
        """Return a passage that was planned before, if it is at hand."""
        return self.get(self._ids.get((document_id, position), ""))

    def keep(self, row: ChunkRow, *, planned: bool = False) -> None:
        """Keep a passage longest of all; the one that was kept longest ago goes."""
        self.pop(row.id, None)
        self[row.id] = row
        if planned:
            self._ids[row.document_id, row.position] = row.id
        if len(self) > _AT_HAND:
            oldest = self.pop(next(iter(self)))
            self._ids.pop((oldest.document_id, oldest.position), None)


class Planner:
    """Plans the tasks of a run, pass after pass without an end; `round` is the current pass, `slots` the counts.

    Questions of `earlier_runs` (ids) about a passage are named in its requests as those to avoid. `turns` chooses the
    passages by quotas; without, those of a file come one after the other. `new_passages` are asked about first.
    `asked` has the files (paths) that an earlier process has asked about.

    The corpus may grow: a file's turns in the first pass come once it is read. While others are still to be read, it is
    asked about again only within its share of the folder's bytes.
    """

    def __init__(
        self,
        store: Store,
        run_id: int,
        corpus: Corpus,
        chosen: DataGeneration,
        first_round: int,
        earlier_runs: Sequence[int] = (),
        turns: PassageTurns | None = None,
        tree: TopicTree | None = None,
        new_passages: Mapping[str, Sequence[int]] = MappingProxyType({}),
        asked: Collection[str] = (),
    ) -> None:
        self._turns = turns
        self.tree = tree
        self._focus = FocusSentences()
        self._passages = _PassagesAtHand()
        self._store = store
        self._earlier_runs = earlier_runs
        self._run_id = run_id
        self._corpus = corpus
        self._chosen = chosen
        self._pairs_by_call = pairs_by_call(chosen)
        self._sources = list(corpus.sources)
        self._begun: dict[str, str] = {}  # the first passages of the first sources, by document
        self._is_whole = corpus.is_whole
        self.growing = asyncio.Lock()
        """Held while topics change, by what reads on or what groups them."""
        self._asked_before = asked if first_round > 1 else ()
        self._first: deque[tuple[Source, int]] = deque()  # turns of files that were never asked about: with the call
        self._seen = 0  # files of the corpus whose first turns are there
        self._passes = self._later_passes(max(2, first_round))
        self._calls_of: Counter[str] = Counter()  # that were planned, by path
        self._early = 0  # files in a row that had no turn before the folder was read
        self._new_passages: deque[tuple[Source, int]] = deque()
        self.add_new_passages(new_passages)
        self._planned_before: Set[str] | None = None  # keys of what an earlier process has planned
        self.slots = SlotCounts()
        self.round = first_round

    @property
    def fruitless_limit(self) -> int:
        """Calls in a row without an accepted pair after which the folder is exhausted: about one for every passage."""
        if not self._is_whole:
            return sys.maxsize
        calls = len(self._pairs_by_call)
        return max(_MIN_FRUITLESS, sum(max(calls, source.chunks) for source in self._sources))

    def add_new_passages(self, new: Mapping[str, Sequence[int]]) -> None:
        """Have passages (by path and position) of files that have been read asked about first."""
        if new:
            files = {source.path: source for source in self._sources if source.path in new}
            self._new_passages += [(source, position) for path, source in files.items() for position in new[path]]

    async def grow(self, sources: Sequence[Source], new: Mapping[str, Sequence[int]]) -> None:
        """Take over files that have been read since, with their `new` passages, from the corpus and the store."""
        if self.tree is not None:
            await refresh_tree(self.tree, self._store, self._run_id, self._corpus)
        if self._turns is not None:
            self._turns.add(sources)
        self._sources += sources
        self._is_whole = self._corpus.is_whole
        self.add_new_passages(new)

    async def plan(self, wanted: int) -> int:
        """Store up to `wanted` more pending tasks and return how many: fewer where more has to be read first."""
        if self._planned_before is None:
            self._planned_before = await tasks.keys_of_kind(self._store, self._run_id, GENERATE)
        calls: list[_PlannedCall] = []
        areas = self.slots.counts["area"].copy()
        while len(calls) < wanted and (call := self._next_call()) is not None:
            source, position, count, key = call
            if key in self._planned_before:
                continue  # before the run was interrupted
            area = ""
            if self._turns is not None and self.tree is not None:
                if position is None:
                    position = self._turns.take(source.path, areas)
                area = str(self.tree.topic_of(source.document_id, position) or "")
            areas[area] += count
            calls.append(_PlannedCall(source, position or 0, count, key, area, self.round))
        if not calls:
            return 0
        rows = await self._rows_of(calls)
        planned: list[NewTask] = []
        for one, row in zip(calls, rows, strict=True):
            rng = random.Random(f"{self._chosen.seed}/{one.key}")  # noqa: S311  # variety, no secret
            slot = self.slots.draw(self._topics_of(row, one.source.path), rng, one.area)
            self.slots.add(slot, one.count)
            known = {**asdict(slot), "count": one.count}
            planned.append(NewTask(GENERATE, one.key, row.id, round=one.round, source=one.source.path, slot=known))
        await self._store.together(lambda t: tasks.add_tasks(t, self._run_id, planned))
        return len(planned)

    async def _rows_of(self, calls: Sequence["_PlannedCall"]) -> list[ChunkRow]:
        """Return the passages of calls."""

        places = [(one.source.document_id, one.position) for one in calls]
        rows = {place: row for place in places if (row := self._passages.at(*place)) is not None}

        async def read(t: Store) -> None:
            for document, position in places:
                if (document, position) not in rows:
                    row = await store_generation.chunk_at(t, document, self._corpus.chunking, position)
                    assert row is not None, "the reader has stored it"
                    rows[document, position] = row

        if len(rows) < len(set(places)):
            await self._store.read_together(read)
        for row in rows.values():
            self._passages.keep(row, planned=True)
        return [rows[place] for place in places]

    async def passage(self, chunk_id: str) -> ChunkRow:
        """Return a passage; those of the last calls are at hand, since the judges of a pair follow its writer."""
        row = self._passages.get(chunk_id)
        if row is None:
            row = await self._store.read_together(lambda t: store_generation.chunk(t, chunk_id))
            assert row is not None, "tasks and pairs refer to stored chunks"
        self._passages.keep(row)
        return row

    def _next_call(self) -> tuple[Source, int | None, int, str] | None:
        """Return the next call's file, passage (None: its turn decides), pairs and key; None where there is none yet.

        New passages come first, then files that were never asked about, then all files in turn.
        """
        if self._new_passages:
            source, position = self._new_passages.popleft()
            return source, position, self._pairs_by_call[0], f"new/{position}/{source.path}"
        sources = self._sources
        while True:
            if not self._first and self._seen < len(sources):
                source = sources[self._seen]
                self._seen += 1
                if source.path not in self._asked_before:
                    self._first.extend((source, call) for call in range(len(self._pairs_by_call)))
                continue
            if self._first:
                number = 1
                source, call = self._first.popleft()
            elif not self._is_whole and self._early > len(sources) * len(self._pairs_by_call):
                self._early = 0
                return None
            else:
                number, source, call = next(self._passes)
            self.round = max(self.round, number)
            count, key = self._pairs_by_call[call], f"{number}/{call}/{source.path}"
            if number > 1 and not self._is_whole and not self._early_turn(source):
                self._early += 1
                continue
            self._early = 0
            if self._turns is None:
                self._calls_of[source.path] += 1
                return source, ((number - 1) * len(self._pairs_by_call) + call) % source.chunks, count, key
            if self._turns.has_turn(source.path, number):
                self._calls_of[source.path] += 1
                return source, None, count, key

    def _later_passes(self, number: int) -> Iterator[tuple[int, Source, int]]:
        """Yield pass, file and call without an end, of whichever files have been read by then."""
        for turn in itertools.count(number):
            for source in self._sources:
                for call in range(len(self._pairs_by_call)):
                    yield turn, source, call

    def _early_turn(self, source: Source) -> bool:
        """Whether a file may be asked about again before the others are read: within its share of all bytes."""
        share = source.bytes / max(1, self._corpus.bytes)
        return (self._calls_of[source.path] + 1) * self._pairs_by_call[0] <= share * self._chosen.total_examples

    def reweigh(self, weights: Mapping[int, float]) -> None:
        """Take over the weights of topics that people have changed; what is planned already stays."""
        if self.tree is not None and self._turns is not None:
            self.tree.reweigh(weights)
            self._turns.reweigh()

    def report(self, task: TaskRow, row: ChunkRow, kept: int) -> None:
        """Take into account how many pairs a call brought that no gate refused."""
        self._focus.release(row.id, task.id)
        if self._turns is not None:
            self._turns.report(task.source, row.position, kept)

    async def request(
        self, task: TaskRow, row: ChunkRow, directives: Sequence[str], steering: Steering = UNSTEERED
    ) -> PairRequest:
        """Return the request that a planned task sends to the model."""
        own = self._topics_of(row, task.source)
        asked, quoted = await self._store.read_together(partial(self._said_about, row))
        rng = random.Random(f"{self._chosen.seed}/{task.key}/topics")  # noqa: S311  # variety, no secret
        return PairRequest(
            passage=row.passage,
            slot=slot_of(task),
            count=int(task.slot["count"]),
            further_topics=further_topics(self._chosen.topics or self._corpus.topics, own, rng),
            directives=tuple(directives),
            avoid=tuple(asked),
            opening=await self._opening(row),
            beginnings=await self._beginnings(),
            focus=self._focus_of(task, row, quoted),
            steering=steering,
        )

    async def _said_about(self, row: ChunkRow, t: Store) -> tuple[list[str], list[str]]:
        """Return questions on a passage, which a request is to avoid, and what was quoted of it."""
        runs = (self._run_id, *self._earlier_runs)
        most = _MAX_AVOIDED_BUILTIN if self._chosen.model == BUILTIN else _MAX_AVOIDED
        said = await store_generation.said_about(t, runs, row)
        quoted = [evidence for chunk, run, _, evidence in said if (chunk, run) == (row.id, self._run_id)]
        return [question for _, _, question, _ in said[:most]], quoted[::-1] if self._has_focus else []

    @property
    def _has_focus(self) -> bool:
        """Whether requests name sentences of the passage: not to the model that keeps count itself."""
        return self._turns is not None and self._chosen.model != BUILTIN

    def _focus_of(self, task: TaskRow, row: ChunkRow, quoted: Sequence[str]) -> tuple[str, ...]:
        """Return sentences of a passage that nothing was asked about."""
        if not self._has_focus:
            return ()
        rng = random.Random(f"{self._chosen.seed}/{task.key}/focus")  # noqa: S311  # variety, no secret
        return self._focus.take(row.id, task.id, row.text, quoted, int(task.slot["count"]), rng)

    async def _opening(self, row: ChunkRow) -> str:
        """Return the first passage of a later one's document, for the model that resolves bare nouns by rule."""
        if row.position == 0 or self._chosen.model != BUILTIN:
            return ""
        first = await store_generation.chunk_at(self._store, row.document_id, self._corpus.chunking, 0)
        return first.passage if first is not None else ""

    async def _beginnings(self) -> tuple[str, ...]:
        """Return the first passages of the folder's first files, for the same model: one may name what all tell of."""
        if self._chosen.model != BUILTIN:
            return ()
        documents = list(dict.fromkeys(source.document_id for source in self._sources[:_MOST_BEGINNINGS]))
        for document in documents:
            if document not in self._begun:  # several calls may read the same at once
                first = await store_generation.chunk_at(self._store, document, self._corpus.chunking, 0)
                self._begun[document] = first.passage if first is not None else ""
        return tuple(self._begun[document] for document in documents)

    def _topics_of(self, row: ChunkRow, path: str) -> Sequence[str]:
        """Return the topics of a passage: its own headings, the one it stands under, or its file's name."""
        return _headings_of(row.text) or (row.heading or title_of(path),)


@lru_cache(maxsize=_AT_HAND)  # they are needed when a call is planned, and when it is made
def _headings_of(text: str) -> tuple[str, ...]:
    return tuple(chunks.headings(text))


def slot_of(row: TaskRow | PairRow) -> Slot:
    """Return the slot of a task, or of the task that a pair was written for."""
    return slot_from(row.slot)


def slot_from(stored: Mapping[str, object]) -> Slot:
    """Return a slot as the store has it."""
    return Slot(
        topic=str(stored["topic"]),
        question_type=str(stored["question_type"]),
        difficulty=str(stored["difficulty"]),
        audience=str(stored["audience"]),
        area=str(stored.get("area") or ""),
    )
