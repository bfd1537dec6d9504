"""What a run's output file holds: its accepted pairs as training text, or pairs and texts as JSON Lines.

JSON Lines are written where the run wrote more than pairs, and where the file's name ends in .jsonl: a pair has
``question`` and ``answer``, a document ``text``, a conversation ``messages``, as training reads them. Pairs about facts
that are held out are left out, and written beside it, with their passage, for the knowledge test.
"""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_tui.engine.data.knowledge import KnowledgeQuestion, knowledge_lines
from lora_tui.engine.data.training_text import normalise_pair
from lora_tui.engine.generation.held_out_facts import is_held_out
from lora_tui.engine.generation.texts.text_plan import PHRASING
from lora_tui.store import generation as store_generation
from lora_tui.store import runs, texts
from lora_tui.store.connection import Store
from lora_tui.store.texts import TextRow

_PAGE = 500


@dataclass(frozen=True, slots=True)
class RecordOptions:
    """How a run's records are written: as its settings were when it ran."""

    has_texts: bool
    held_out_facts: float
    seed: int

    def in_json(self, path: Path) -> bool:
        """Whether the file is JSON Lines."""
        return self.has_texts or path.suffix.lower() in (".jsonl", ".ndjson")


async def options_of(store: Store, run_id: int) -> RecordOptions:
    """Return how the records of a run are written."""
    run = await runs.get(store, run_id)
    chosen: Mapping[str, Any] = run.settings.get("data_generation", {}) if run is not None else {}
    more = [form for form in chosen.get("forms") or () if form != "qa"]
    wordings = (chosen.get("mix") or {}).get("phrasings", 0)
    share, seed = float(chosen.get("held_out_facts", 0.0)), int(chosen.get("seed", 0))
    return RecordOptions(bool(more or wordings), share, seed)


async def pairs_of(store: Store, run_id: int, options: RecordOptions) -> AsyncIterator[list[tuple[str, str]]]:
    """Yield pages of the question and answer of each accepted pair that is trained on."""
    after = 0
    if options.held_out_facts <= 0:
        while page := await store_generation.accepted_texts(store, run_id, after, _PAGE):
            after = page[-1][0]
            yield [(question, answer) for _, question, answer in page]
        return
    async for rows in _pages_with_passages(store, run_id):
        yield [(row.question, row.answer) for row, held_out in _held_out(rows, options) if not held_out]


async def json_records(store: Store, run_id: int, options: RecordOptions) -> AsyncIterator[str]:
    """Yield pages of a run's records as JSON Lines: first its pairs, then its texts."""
    async for page in pairs_of(store, run_id, options):
        normal = (normalise_pair(question, answer) for question, answer in page)
        yield "".join(_line({"question": question, "answer": answer}) for question, answer in normal)
    after = 0
    while found := await texts.accepted(store, run_id, after, _PAGE):
        after = found[-1].id
        yield "".join(_line(text_record(row)) for row in found)


async def knowledge_records(store: Store, run_id: int, options: RecordOptions) -> AsyncIterator[str]:
    """Yield pages of the pairs that are held out as JSON Lines, each with its document and passage."""
    if options.held_out_facts <= 0:
        return
    async for rows in _pages_with_passages(store, run_id):
        yield knowledge_lines(
            [
                KnowledgeQuestion(row.question, row.answer, row.source, row.passage)
                for row, held_out in _held_out(rows, options)
                if held_out
            ]
        )


def text_record(row: TextRow) -> dict[str, Any]:
    """Return a text as the record that training reads."""
    if row.form == PHRASING:
        question, answer = normalise_pair(row.title, row.body)
        return {"question": question, "answer": answer}
    if row.messages:
        return {"messages": row.messages}
    return {"text": texts.document_text(row.title, row.body)}


async def _pages_with_passages(store: Store, run_id: int) -> AsyncIterator[list[texts.PairWithPassage]]:
    after = 0
    while page := await texts.accepted_with_passages(store, run_id, after, _PAGE):
        after = page[-1].id
        yield page


def _held_out(rows: list[texts.PairWithPassage], options: RecordOptions) -> list[tuple[texts.PairWithPassage, bool]]:
    share, seed = options.held_out_facts, options.seed
    return [(row, is_held_out(row.evidence, row.passage, share, seed)) for row in rows]


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"
