"""A dataset as a folder that others can use as it is: examples, split by document, and what they need to be trusted.

    train.jsonl, validation.jsonl        the examples in one of the forms of `datasets`, or as Parquet
    documents_train.jsonl, …             plain texts, which have a form of their own, where there are any
    dataset_info.json                    the entries that LLaMA-Factory reads
    manifest.json                        hashes of the files, documents, models, settings and weights
    README.md                            the dataset card, whose head the Hugging Face Hub and `datasets` read

Examples of one document stay together: they share facts, so a split by example would train on what it tests. Nothing of
a file is random but by the seed: the same examples give the same folder, but for the date.
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_tui import __version__
from lora_tui.config.hub_names import is_hub_name
from lora_tui.engine.data.examples import Example, PlainText
from lora_tui.engine.data.holdout import question_digest
from lora_tui.engine.export.dataset_card import card_text, dataset_entry
from lora_tui.engine.export.datasets import record_of
from lora_tui.engine.export.provenance import Origins
from lora_tui.errors import LoraTuiError, UsageError
from lora_tui.files import sha256_of

TRAIN, VALIDATION = "train", "validation"


@dataclass(frozen=True, slots=True)
class FolderPlan:
    """How a dataset is written: its name, form, the share of examples (0-0.5) to validate with, and the file format."""

    name: str
    form: str
    share: float
    seed: int
    with_provenance: bool
    parquet: bool

    @property
    def suffix(self) -> str:
        """The suffix of the files of examples."""
        return ".parquet" if self.parquet else ".jsonl"


def split_by_document(documents: Sequence[str], share: float, seed: int) -> list[bool]:
    """Return for each example whether it is validated with, given the document that each is about.

    Whole documents are drawn by a hash of name and seed until about `share` of the examples is reached; the smallest
    one where none is small enough. One document alone is not divided.
    """
    sizes = Counter(documents)
    if share <= 0 or len(sizes) < 2:
        return [False] * len(documents)
    wanted, taken, drawn = share * len(documents), 0, set[str]()
    ranked = sorted(sizes, key=lambda name: hashlib.blake2b(f"{seed}\0{name}".encode("utf-8", "replace")).digest())
    for name in ranked:
        if taken + sizes[name] <= wanted:
            drawn.add(name)
            taken += sizes[name]
    return [document in (drawn or {min(ranked, key=sizes.__getitem__)}) for document in documents]


def write_dataset(
    folder: Path, examples: Sequence[Example], origins: Origins, plan: FolderPlan, source: Path
) -> dict[str, Any]:
    """Write the folder's files, read the examples back, and return what was written, by name of the file.

    Raises `LoraTuiError` for an example that the form cannot hold, and where what was read back differs.
    """
    groups = [origins.document(n) or f"question {question_digest(one)}" for n, one in enumerate(examples)]
    validated = split_by_document(groups, plan.share, plan.seed)
    records: dict[str, list[dict[str, Any]]] = {}
    record: dict[str, Any]
    for example, provenance, in_validation in zip(examples, origins.of_examples, validated, strict=True):
        part = VALIDATION if in_validation else TRAIN
        if isinstance(example, PlainText):
            part, record = f"documents_{part}", {"text": example.text}
        else:
            record = record_of(example, plan.form)
        if plan.with_provenance:
            record["provenance"] = provenance
        records.setdefault(part, []).append(record)
    files = {}
    for part in sorted(records):
        file = folder / f"{part}{plan.suffix}"
        write_records(file, records[part])
        files[file.name] = _facts(file, len(records[part]))
    entries = {f"{plan.name}_{Path(name).stem}": dataset_entry(name, plan.form) for name in files}
    _write_json(folder / "dataset_info.json", entries)
    manifest = _manifest(origins, plan, source, files, groups, validated)
    _write_json(folder / "manifest.json", manifest)
    (folder / "README.md").write_text(card_text(plan.name, plan.form, manifest), encoding="utf-8")
    return files


def write_records(file: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write records as JSON Lines or Parquet, by the file's suffix, and read them back.

    Raises `UsageError` where Parquet is not installed, `LoraTuiError` where what was read back differs.
    """
    if file.suffix == ".parquet":
        pa, parquet = _pyarrow()
        parquet.write_table(pa.Table.from_pylist([dict(record) for record in records]), file)
        same = parquet.read_table(file).num_rows == len(records)
    else:
        with file.open("w", encoding="utf-8", newline="\n") as lines:
            lines.writelines(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records)
        with file.open(encoding="utf-8", newline="\n") as lines:
            same = all(json.loads(line) == record for line, record in zip(lines, records, strict=True))
    if not same:
        raise LoraTuiError(f"{file.name}: what was read back is not what was written; is the disk damaged?")


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as problem:
        raise UsageError('--parquet needs an extra: pip install "lora-tui[parquet]".') from problem
    return pa, parquet


def _facts(file: Path, records: int) -> dict[str, Any]:
    return {"records": records, "bytes": file.stat().st_size, "sha256": sha256_of(file)}


def _source_facts(source: Path, records: int) -> dict[str, Any]:
    """What is known of the training data that a dataset is made from; of one on the hub, its name."""
    if is_hub_name(source):
        return {"dataset": str(source), "records": records}
    return {"file": source.name, **_facts(source, records)}


def _manifest(
    origins: Origins,
    plan: FolderPlan,
    source: Path,
    files: Mapping[str, Any],
    groups: Sequence[str],
    validated: Sequence[bool],
) -> dict[str, Any]:
    documents: dict[str, dict[str, Any]] = {}
    for index, provenance in enumerate(origins.of_examples):
        if provenance is not None:
            entry = documents.setdefault(
                provenance["document"],
                {
                    "document_id": provenance["document_id"],
                    "split": VALIDATION if validated[index] else TRAIN,
                    "examples": 0,
                },
            )
            entry["examples"] += 1
    scores = [one["score"] for one in origins.of_examples if one is not None and one["score"] is not None]
    return {
        "made_by": f"lora-tui {__version__}",
        "made_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "made_from": _source_facts(source, len(groups)),
        "form": plan.form,
        "files": files,
        "split": {
            "by": "document",
            "share": plan.share,
            "seed": plan.seed,
            "train": validated.count(False),
            "validation": validated.count(True),
        },
        "provenance": {"known": origins.known, "unknown": len(groups) - origins.known, "given": plan.with_provenance},
        "score": {"mean": round(sum(scores) / len(scores), 3), "least": min(scores)} if scores else None,
        "documents": dict(sorted(documents.items())),
        "runs": {str(number): run for number, run in sorted(origins.runs.items())},
        "weights": {str(version): values for version, values in sorted(origins.weights.items())},
    }


def _write_json(file: Path, value: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
