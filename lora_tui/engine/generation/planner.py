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

import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType

from lora_tui.config.generation import DataGeneration
from lora_tui.engine.generation import chunks
from lora_tui.engine.generation.corpus import Corpus, Source, title_of
from lora_tui.engine.generation.focus import FocusSentences
from lora_tui.engine.generation.generation_model import UNSTEERED, PairRequest, Slot, Steering
from lora_tui.engine.generation.passage_turns import PassageTurns
from lora_tui.engine.generation.question_types import QUESTION_TYPES
from lora_tui.engine.generation.topic_tree import TopicTree
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


class Planner:
    """Plans the tasks of a run, pass after pass without an end; `round` is the current pass, `slots` the counts.

    Questions of `earlier_runs` (ids) about a passage are named in its requests as those to avoid. `turns` chooses the
    passages by quotas; without, those of a file come one after the other. `new_passages` are asked about first.
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
    ) -> None:
        self._turns = turns
        self.tree = tree
        self._focus = FocusSentences()
        self._store = store
        self._earlier_runs = earlier_runs
        self._run_id = run_id
        self._corpus = corpus
        self._chosen = chosen
        self._pairs_by_call = pairs_by_call(chosen)
        self._calls = (
            (number, source, call, count)
            for number in itertools.count(first_round)
            for source in corpus.sources
            for call, count in enumerate(self._pairs_by_call)
        )
        self._new_passages = (
            (source, position) for source in corpus.sources for position in new_passages.get(source.path, ())
        )
        self.slots = SlotCounts()
        self.round = first_round

    @property
    def fruitless_limit(self) -> int:
        """Calls in a row without an accepted pair after which the folder is exhausted: about one for every passage."""
        calls = len(self._pairs_by_call)
        return max(_MIN_FRUITLESS, sum(max(calls, source.chunks) for source in self._corpus.sources))

    async def plan(self, wanted: int) -> None:
        """Store `wanted` more pending tasks."""
        added = 0
        while added < wanted:
            source, position, count, key = self._next_call()
            if await tasks.task_by_key(self._store, self._run_id, GENERATE, key) is not None:
                continue  # planned before the run was interrupted
            area = ""
            if self._turns is not None and self.tree is not None:
                if position is None:
                    position = self._turns.take(source.path, self.slots.counts["area"])
                area = str(self.tree.topic_of(source.document_id, position) or "")
            row = await store_generation.chunk_at(self._store, source.document_id, self._corpus.chunking, position or 0)
            assert row is not None, "read_folder has stored it"
            slot = self.slots.draw(self._topics_of(row, source.path), random.Random(f"{self._chosen.seed}/{key}"), area)  # noqa: S311
            task = NewTask(
                GENERATE, key, row.id, round=self.round, source=source.path, slot={**asdict(slot), "count": count}
            )
            async with self._store.transaction() as t:
                await tasks.add_tasks(t, self._run_id, [task])
            self.slots.add(slot, count)
            added += 1

    def _next_call(self) -> tuple[Source, int | None, int, str]:
        """Return the next call's file, passage (None: its turn decides), pairs and key: new passages come first."""
        if (new := next(self._new_passages, None)) is not None:
            source, position = new
            return source, position, self._pairs_by_call[0], f"new/{position}/{source.path}"
        while True:
            self.round, source, call, count = next(self._calls)
            key = f"{self.round}/{call}/{source.path}"
            if self._turns is None:
                return source, ((self.round - 1) * len(self._pairs_by_call) + call) % source.chunks, count, key
            if self._turns.has_turn(source.path, self.round):
                return source, None, count, key

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
        runs = (self._run_id, *self._earlier_runs)
        most = _MAX_AVOIDED_BUILTIN if self._chosen.model == BUILTIN else _MAX_AVOIDED
        rng = random.Random(f"{self._chosen.seed}/{task.key}/topics")  # noqa: S311  # variety, no secret
        return PairRequest(
            passage=row.passage,
            slot=slot_of(task),
            count=int(task.slot["count"]),
            further_topics=further_topics(self._chosen.topics or self._corpus.topics, own, rng),
            directives=tuple(directives),
            avoid=tuple(await store_generation.questions_of_chunk(self._store, runs, row.id, most)),
            opening=await self._opening(row),
            focus=await self._focus_of(task, row),
            steering=steering,
        )

    async def _focus_of(self, task: TaskRow, row: ChunkRow) -> tuple[str, ...]:
        """Return sentences of a passage that nothing was asked about; none for the model that keeps count itself."""
        if self._turns is None or self._chosen.model == BUILTIN:
            return ()
        quoted = await store_generation.evidence_of_chunk(self._store, self._run_id, row.id)
        rng = random.Random(f"{self._chosen.seed}/{task.key}/focus")  # noqa: S311  # variety, no secret
        return self._focus.take(row.id, task.id, row.text, quoted, int(task.slot["count"]), rng)

    async def _opening(self, row: ChunkRow) -> str:
        """Return the first passage of a later one's document, for the model that resolves bare nouns by rule."""
        if row.position == 0 or self._chosen.model != BUILTIN:
            return ""
        first = await store_generation.chunk_at(self._store, row.document_id, self._corpus.chunking, 0)
        return first.passage if first is not None else ""

    def _topics_of(self, row: ChunkRow, path: str) -> Sequence[str]:
        """Return the topics of a passage: its own headings, the one it stands under, or its file's name."""
        return chunks.headings(row.text) or [row.heading or title_of(path)]


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
