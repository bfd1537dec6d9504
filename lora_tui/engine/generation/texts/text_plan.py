"""The plan of texts: how many of each form a run wants, and which passage or pair the next one is about.

A form's number follows from the accepted pairs and the mix of the configuration. Passages about which pairs were
accepted come first, then the others of the folder, spread over it; when all have had their turn, they are written about
again as another kind of text. The order is a function of the run's pairs and its seed: planning it twice gives the same
tasks.
"""

import hashlib
import math
from bisect import bisect_right
from collections.abc import AsyncIterator, Mapping

from lora_tui.config.generation import DataGeneration
from lora_tui.engine.generation.corpus import Corpus
from lora_tui.engine.generation.texts.text_prompts import STYLES
from lora_tui.store import generation as store_generation
from lora_tui.store import tasks, texts
from lora_tui.store.connection import Store
from lora_tui.store.rows import NewTask

TEXT = "text"
"""The kind of task that writes a text and has it judged."""

PHRASING = "phrasing"
"""The form of a further wording of a pair."""

_DOCUMENTS = ("rewrite", "summary")
_ROUNDS = {"rewrite": len(STYLES), "summary": 1, "dialogue": 2}
"""How often a passage is written about in a form, at most."""

_PAGE = 500


def forms_of(chosen: DataGeneration) -> list[str]:
    """Return the forms that a configuration asks for beside pairs, those with a share in the mix alone."""
    wanted = [form for form in dict.fromkeys(chosen.forms) if form != "qa" and _per_pair(chosen, form) > 0]
    return [*([PHRASING] if chosen.mix.phrasings else []), *wanted]


def wanted_texts(chosen: DataGeneration, pairs: int) -> dict[str, int]:
    """Return how many texts of each form belong to so many accepted pairs."""
    return {form: math.ceil(_per_pair(chosen, form) * pairs - 1e-9) for form in forms_of(chosen)}


def _per_pair(chosen: DataGeneration, form: str) -> float:
    mix = chosen.mix
    shares = {"rewrite": mix.rewrite, "summary": mix.summary, "dialogue": mix.dialogue, PHRASING: mix.phrasings}
    return float(shares[form])


def variant_of(chunk_id: str, turn: int) -> int:
    """Return which kind of text a passage gets in its nth turn (from 0): another one each time, and each passage."""
    return int.from_bytes(hashlib.blake2b(chunk_id.encode(), digest_size=4).digest()) + turn


class TextPlan:
    """The tasks of a run's texts, form by form, each an iterator that ends when its form has no further turn."""

    def __init__(self, store: Store, run_id: int, corpus: Corpus, chosen: DataGeneration) -> None:
        self._store = store
        self._run_id = run_id
        self._corpus = corpus
        self._chosen = chosen

    def tasks_of(self, form: str) -> AsyncIterator[NewTask]:
        """Return the tasks of a form in the order in which they are to be done."""
        return self._wordings() if form == PHRASING else self._turns(form)

    async def _wordings(self) -> AsyncIterator[NewTask]:
        """One task for each accepted pair: its further wordings are written by one call."""
        after = 0
        while page := await store_generation.pairs(self._store, self._run_id, ("accepted",), after, _PAGE):
            after = page[-1].id
            for pair in page:
                slot = {"form": PHRASING, "variant": 0, "count": self._chosen.mix.phrasings}
                yield NewTask(TEXT, f"{PHRASING}/{pair.id}", pair.chunk_id, pair.id, 0, pair.source, slot)

    async def _turns(self, form: str) -> AsyncIterator[NewTask]:
        for turn in range(_ROUNDS[form]):
            with_pairs = await texts.passages_with_pairs(self._store, self._run_id)
            for chunk_id, source in sorted(with_pairs, key=lambda one: self._rank(form, one[0])):
                yield self._task(form, turn, chunk_id, source)
            if form not in _DOCUMENTS:
                continue
            known = {chunk_id for chunk_id, _ in with_pairs}
            async for chunk_id, source in self._all_passages(form):
                if chunk_id not in known:
                    yield self._task(form, turn, chunk_id, source)

    def _task(self, form: str, turn: int, chunk_id: str, source: str) -> NewTask:
        slot: Mapping[str, object] = {"form": form, "variant": variant_of(chunk_id, turn), "count": 1}
        return NewTask(TEXT, f"{form}/{turn}/{chunk_id}", chunk_id, None, turn, source, slot)

    async def _all_passages(self, form: str) -> AsyncIterator[tuple[str, str]]:
        """Every passage of the folder once, in steps that spread over it; no list of them is held."""
        number = self._corpus.passages
        step = next(
            step for step in range(max(1, round(number * 0.618)), 2 * number + 2) if math.gcd(step, number) == 1
        )
        place = self._rank(form, "") % number
        starts: list[int] = []
        total = 0
        for source in self._corpus.sources:
            starts.append(total)
            total += source.chunks
        for _ in range(number):
            index = bisect_right(starts, place) - 1
            source = self._corpus.sources[index]
            position = place - starts[index]
            chunking = self._corpus.chunking
            row = await store_generation.chunk_at(self._store, source.document_id, chunking, position)
            if row is not None:
                yield row.id, source.path
            place = (place + step) % number

    def _rank(self, form: str, name: str) -> int:
        text = f"{self._chosen.seed}/{form}/{name}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())


async def is_planned(store: Store, run_id: int, task: NewTask) -> bool:
    """Return whether a task was planned before: by an earlier process of the run."""
    return await tasks.task_by_key(store, run_id, TEXT, task.key) is not None
