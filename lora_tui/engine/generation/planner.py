"""Which kind of pair is asked for next: slots drawn against what there is already.

Each dimension (topic, question type, difficulty, audience) is drawn for itself, with p(value) proportional to
max(0, target - observed) + epsilon: `target` is the value's fair share, `observed` its share of what has been accepted
or asked for. A value that lags is drawn more often, one that leads is not quite forbidden. The same seed and the same
counts draw the same slot.

What is asked next: passes over the folder, a few calls a file and pass, each with a passage and a slot.

A pass asks `num_examples_per_file` pairs of every file, in calls of as many pairs as a reply has room for. A file of
several passages rotates: the next call goes to its next passage, the next pass goes on where the last one ended. Tasks
are planned shortly before they are done, so that their slots lean against what there is by then. Their keys make
planning repeatable: after a crash the same pass is planned again, and what is there already stays.
"""

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from lora_tui.engine.generation import chunks
from lora_tui.engine.generation.corpus import Corpus, Source, title_of
from lora_tui.engine.generation.generation_model import PairRequest, Slot
from lora_tui.store import corpus as store_corpus
from lora_tui.store import generation as store_generation
from lora_tui.store import tasks
from lora_tui.store.connection import Store
from lora_tui.store.corpus import ChunkRow
from lora_tui.store.generation import PairRow
from lora_tui.store.tasks import NewTask, TaskRow

QUESTION_TYPES: Mapping[str, str] = {
    "fact": "a fact: who, what, when, where or how much",
    "definition": "what a term means, or how to tell it from a similar one",
    "reason": "why something is so",
    "procedure": "how something works or is done, step by step",
    "comparison": "how two things the passage names differ or agree",
    "consequence": "what follows if something happens or is left out",
    "application": "how to use what the passage says in a concrete situation",
    "exception": "a limit, an exception or a common mistake",
}
"""The kinds of question and how the prompt describes them."""

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
    """How often each value of each dimension has been accepted or asked for."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[str]] = {
            "topic": Counter(),
            "question_type": Counter(),
            "difficulty": Counter(),
            "audience": Counter(),
        }

    def add(self, slot: Slot, count: int = 1) -> None:
        """Count `count` more pairs of a slot; negative for those that came to nothing."""
        for dimension, value in asdict(slot).items():
            self._counts[dimension][value] += count

    def of(self, dimension: str) -> Mapping[str, int]:
        """Return the counts of one dimension."""
        return self._counts[dimension]

    def draw(self, topics: Sequence[str], rng: random.Random) -> Slot:
        """Draw a slot; `topics` are those that the passage can serve (at least one)."""
        return Slot(
            topic=pick(topics, self._counts["topic"], rng),
            question_type=pick(tuple(QUESTION_TYPES), self._counts["question_type"], rng),
            difficulty=pick(tuple(DIFFICULTIES), self._counts["difficulty"], rng),
            audience=pick(tuple(AUDIENCES), self._counts["audience"], rng),
        )


def pick(values: Sequence[str], observed: Mapping[str, int], rng: random.Random) -> str:
    """Draw one of `values` with p proportional to max(0, fair share - observed share) + epsilon."""
    total = sum(max(0, observed.get(value, 0)) for value in values)
    share = 1 / len(values)
    weights = [
        max(0.0, share - max(0, observed.get(value, 0)) / total) + _EPSILON if total else 1.0 for value in values
    ]
    return rng.choices(values, weights)[0]


def further_topics(all_topics: Iterable[str], own: Iterable[str], rng: random.Random, most: int = 6) -> tuple[str, ...]:
    """Return up to `most` topics that are not the passage's own, in a random order."""
    own_folded = {topic.casefold() for topic in own}
    others = sorted({topic for topic in all_topics if topic.casefold() not in own_folded})
    return tuple(rng.sample(others, min(most, len(others))))


GENERATE, JUDGE, ANALYSE = "generate", "judge", "analyse"
"""The kinds of task."""

TOKENS_A_PAIR = 200
"""What a reply needs for a pair with its quotation."""

_MOST_A_CALL = 5
_MOST_AVOIDED = 8
_LEAST_FRUITLESS = 10


@dataclass(frozen=True, slots=True)
class Plan:
    """How a pass is divided into calls."""

    pairs_per_file: int
    reply_tokens: int
    seed: int
    topics: tuple[str, ...]
    """Topics from the configuration; empty where the folder's own are used."""

    @property
    def counts(self) -> list[int]:
        """How many pairs each call of a file and pass asks for."""
        most = max(1, min(_MOST_A_CALL, self.reply_tokens // TOKENS_A_PAIR))
        calls, rest = divmod(self.pairs_per_file, most)
        return [most] * calls + ([rest] if rest else [])


class Planner:
    """Plans the tasks of a run, pass after pass, for as long as it is asked to."""

    def __init__(
        self, store: Store, run_id: int, corpus: Corpus, plan: Plan, slots: SlotCounts, first_round: int
    ) -> None:
        self._store = store
        self._run_id = run_id
        self._corpus = corpus
        self._plan = plan
        self._slots = slots
        self._calls = self._endless(first_round)
        self.round = first_round

    @property
    def fruitless_limit(self) -> int:
        """Calls without a new accepted pair after which the folder is exhausted: about one for every passage."""
        calls = len(self._plan.counts)
        return max(_LEAST_FRUITLESS, sum(max(calls, source.chunks) for source in self._corpus.sources))

    async def plan(self, wanted: int) -> None:
        """Add `wanted` tasks to those that are pending."""
        added = 0
        while added < wanted:
            self.round, source, call, count = next(self._calls)
            key = f"{self.round}/{call}/{source.path}"
            if await tasks.task_by_key(self._store, self._run_id, GENERATE, key) is not None:
                continue  # planned before the run was interrupted
            position = ((self.round - 1) * len(self._plan.counts) + call) % source.chunks
            row = await store_corpus.chunk_at(self._store, source.document_id, self._corpus.chunking, position)
            assert row is not None, "read_folder has stored it"
            slot = self._slots.draw(self._topics_of(row, source.path), random.Random(f"{self._plan.seed}/{key}"))  # noqa: S311
            task = NewTask(
                GENERATE, key, row.id, round=self.round, source=source.path, slot={**asdict(slot), "count": count}
            )
            async with self._store.transaction() as t:
                await tasks.add_tasks(t, self._run_id, [task])
            self._slots.add(slot, count)
            added += 1

    async def request(self, task: TaskRow, row: ChunkRow, directives: Sequence[str]) -> PairRequest:
        """Return what a planned task asks the model."""
        own = self._topics_of(row, task.source)
        rng = random.Random(f"{self._plan.seed}/{task.key}/topics")  # noqa: S311  # variety, no secret
        return PairRequest(
            passage=row.text,
            slot=slot_of(task),
            count=int(task.slot["count"]),
            further_topics=further_topics(self._plan.topics or self._corpus.topics, own, rng),
            directives=tuple(directives),
            avoid=tuple(await store_generation.questions_of_chunk(self._store, self._run_id, row.id, _MOST_AVOIDED)),
        )

    def _topics_of(self, row: ChunkRow, path: str) -> Sequence[str]:
        """Return the topics that a passage serves: its own headings, the one it stands under, or its file's name."""
        return chunks.headings(row.text) or [row.heading or title_of(path)]

    def _endless(self, first_round: int) -> Iterator[tuple[int, Source, int, int]]:
        number = first_round
        while True:
            for source in self._corpus.sources:
                for call, count in enumerate(self._plan.counts):
                    yield number, source, call, count
            number += 1


def slot_of(row: TaskRow | PairRow) -> Slot:
    """Return the slot that a task was planned with, or that a pair was asked for with."""
    return Slot(*(str(row.slot[name]) for name in ("topic", "question_type", "difficulty", "audience")))
