"""Where each example of a training file comes from, as far as the store knows: found again by its words.

A training file holds text alone, and people edit it. An example has a provenance where an accepted pair or text of the
store, of the newest run that has it, says the very same; one that was worded anew in the file has none.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lora_tui.config.models import Settings
from lora_tui.engine.data.examples import Conversation, Example, PlainText, PromptCompletion, QuestionAnswer
from lora_tui.engine.generation.texts.text_plan import PHRASING
from lora_tui.engine.generation.training_records import text_record
from lora_tui.store import provenance as store_provenance
from lora_tui.store import runs
from lora_tui.store.connection import Store
from lora_tui.store.provenance import OriginRow, Table

_PAGE = 2000
_AT_ONCE = 400

_OWN_AFFAIRS = (
    "input_folder",
    "output_file",
    "db_path",
    "base_url",
    "base_urls",
    "judge_base_urls",
    "api_key_env",
    "api_key_envs",
    "extractors",
)
"""Settings that say nothing of the data, but of somebody's machine and network."""

FIELDS: Mapping[str, str] = {
    "document": "the file it is about, as a path in the input folder",
    "document_id": "SHA-256 of that file's bytes (and of how they were read, where it is no UTF-8 text)",
    "passage": "hash of the passage with the headings above it; the same wherever that text stands",
    "characters": "where the passage begins and ends in the document's text",
    "heading": "the heading that the passage stands under",
    "evidence": "the words of the passage that hold the answer",
    "writer": "the model that wrote it",
    "judge": "the model or models that judged it",
    "score": "0-10, as the judge and the metrics gave it",
    "threshold": "the score from which it was accepted",
    "weights": "version of the weights that made the score; manifest.json has them",
    "decided_by": "who accepted it: `aggregator` (its score), or `person`",
    "run": "the run of the store that wrote it, whichever runs have kept it since; null where that run was deleted",
    "id": "its number in the store: of a pair, as the run that wrote it has it, or of a text",
}
"""What a provenance says, by field; any of it may be unknown (null)."""


@dataclass
class Origins:
    """The provenance of examples in their order, None where it is not known, and what they refer to.

    `runs` has writer, judges and settings of each run that wrote them, `weights` the aggregator's by version.
    """

    of_examples: list[dict[str, Any] | None]
    runs: dict[int, dict[str, Any]] = field(default_factory=dict)
    weights: dict[int, dict[str, Any]] = field(default_factory=dict)

    @property
    def known(self) -> int:
        """How many examples have one."""
        return sum(one is not None for one in self.of_examples)

    @property
    def documents(self) -> set[str]:
        """The documents that examples are known to be about."""
        return {one["document"] for one in self.of_examples if one is not None}

    def document(self, index: int) -> str | None:
        """Return the document of an example, None where it is not known."""
        found = self.of_examples[index]
        return None if found is None else str(found["document"])


async def find_origins(store: Store, examples: Sequence[Example]) -> Origins:
    """Look every example up in the store."""
    wanted = {key: None for key in map(_key, examples) if key is not None}
    found: dict[bytes, tuple[Table, int]] = {}
    after = 0
    while pairs := await store_provenance.accepted_pairs(store, after, _PAGE):
        after = pairs[-1].id
        for pair in pairs:
            if (key := _pair_key(pair.question, pair.answer)) in wanted:
                found[key] = ("pairs", pair.id)
    after = 0
    while texts := await store_provenance.accepted_texts(store, after, _PAGE):
        after = texts[-1].id
        for text in texts:
            key = _pair_key(text.title, text.body) if text.form == PHRASING else _record_key(text_record(text))
            if key in wanted:
                found[key] = ("texts", text.id)
    rows = {table: await _rows(store, table, found.values()) for table in ("pairs", "texts")}
    first = await _first(store, list(rows["pairs"]))
    origins, models = Origins([]), dict[int, dict[str, Any]]()
    for example in examples:
        place = found.get(_key(example) or b"")
        row = rows[place[0]].get(place[1]) if place is not None else None
        if row is None or place is None:
            origins.of_examples.append(None)
            continue
        number, run_id = first.get(row.id, (row.id, row.run_id)) if place[0] == "pairs" else (row.id, row.run_id)
        seen = row.run_id if run_id is None else run_id
        if seen not in models:
            models[seen] = await _run(store, seen)
        if run_id is not None:
            origins.runs[run_id] = models[run_id]
        run = models[seen] | ({"judges": ()} if run_id is None else {})  # pairs are kept of runs of the same model
        origins.of_examples.append(_provenance(row, run) | {"run": run_id, "id": number})
    versions = {one["weights"] for one in origins.of_examples if one is not None and one["weights"] is not None}
    origins.weights = await store_provenance.weights(store, sorted(versions)) if versions else {}
    return origins


async def _rows(store: Store, table: str, places: Iterable[tuple[Table, int]]) -> dict[int, OriginRow]:
    named: Table = "pairs" if table == "pairs" else "texts"
    ids = [number for kind, number in places if kind == named]
    found: dict[int, OriginRow] = {}
    for start in range(0, len(ids), _AT_ONCE):
        found |= {row.id: row for row in await store_provenance.origins(store, named, ids[start : start + _AT_ONCE])}
    return found


async def _first(store: Store, pairs: Sequence[int]) -> dict[int, tuple[int, int | None]]:
    """Return which pair of which run each pair that was kept of an earlier one was first."""
    found: dict[int, tuple[int, int | None]] = {}
    for start in range(0, len(pairs), _AT_ONCE):
        found |= await store_provenance.written_as(store, pairs[start : start + _AT_ONCE])
    return found


async def _run(store: Store, run_id: int) -> dict[str, Any]:
    """Return what a run's settings say of its models; those of an older version may lack keys."""
    run = await runs.get(store, run_id)
    chosen: dict[str, Any] = dict(run.settings.get("data_generation", {})) if run is not None else {}
    defaults = Settings().data_generation
    writer = str(chosen.get("model") or defaults.model)
    judges = list(dict.fromkeys(chosen.get("judge_models") or [])) or [str(chosen.get("judge_model") or writer)]
    shown = {key: value for key, value in chosen.items() if key not in _OWN_AFFAIRS}
    return {"writer": writer, "judges": judges, "settings": shown}


def _provenance(row: OriginRow, run: Mapping[str, Any]) -> dict[str, Any]:
    has_place = row.first_character is not None and row.last_character is not None
    return {
        "document": row.source,
        "document_id": row.document_id,
        "passage": row.content_id or None,
        "characters": [row.first_character, row.last_character] if has_place else None,
        "heading": row.heading or None,
        "evidence": row.evidence or None,
        "writer": run["writer"],
        "judge": row.judges.replace(",", ", ") if row.judges else ", ".join(run["judges"]) or None,
        "score": None if row.score is None else round(row.score, 3),
        "threshold": row.threshold,
        "weights": row.weights_version,
        "decided_by": row.decided_by,
    }


def _key(example: Example) -> bytes | None:
    """Return the hash of an example's words, None for one that generation never writes."""
    match example:
        case QuestionAnswer(question=question, answer=answer):
            return _pair_key(question, answer)
        case PlainText(text=text):
            return _record_key({"text": text})
        case Conversation(messages=messages):
            turns = [{"role": message.role, "content": message.content} for message in messages]
            if [turn["role"] for turn in turns] == ["user", "assistant"]:
                return _pair_key(turns[0]["content"], turns[1]["content"])
            return _record_key({"messages": turns})
        case PromptCompletion():
            return None


def _pair_key(question: str, answer: str) -> bytes:
    return _digest("pair", question, answer)


def _record_key(record: Mapping[str, Any]) -> bytes:
    if "text" in record:
        return _digest("text", record["text"])
    turns = [(turn.get("role", ""), turn.get("content", "")) for turn in record.get("messages", ())]
    return _digest("messages", json.dumps(turns, ensure_ascii=False))


def _digest(*parts: str) -> bytes:
    joined = "\0".join(" ".join(part.split()) for part in parts)
    return hashlib.blake2b(joined.encode("utf-8", "surrogatepass"), digest_size=16).digest()
