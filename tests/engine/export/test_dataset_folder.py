"""A dataset folder names where each example comes from, keeps documents together, and is read by other tools."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lora_tui.cli.request import Request, check_request
from lora_tui.engine.data.examples import Conversation, Example, Message, PlainText, QuestionAnswer
from lora_tui.engine.export.dataset_card import dataset_entry
from lora_tui.engine.export.dataset_folder import FolderPlan, split_by_document, write_dataset
from lora_tui.engine.export.datasets import RECORDS
from lora_tui.engine.export.provenance import FIELDS, Origins
from lora_tui.errors import LoraTuiError, UsageError
from tests.extras import needed


def origin(document: str, number: int = 1) -> dict[str, Any]:
    values: dict[str, Any] = dict.fromkeys(FIELDS)
    return values | {
        "document": document,
        "document_id": "0f",
        "passage": "ab",
        "characters": [0, 9],
        "evidence": "so",
        "writer": "w",
        "judge": "j",
        "score": 8.5,
        "weights": 1,
        "run": 1,
        "id": number,
    }


def example_set() -> tuple[list[Example], Origins]:
    """Twelve pairs about four documents, and two texts about one of them."""
    pairs: list[Example] = [QuestionAnswer(f"Who is {n}?", f"The {n}th «keeper» | of it.", f"f:{n}") for n in range(12)]
    texts: list[Example] = [PlainText(f"Document number {n}.", f"f:{20 + n}") for n in range(2)]
    found: list[dict[str, Any] | None] = [origin(f"d{n % 4}.md", n) for n in range(12)]
    runs = {1: {"writer": "w`|", "judges": ["j"], "settings": {"chunk_tokens": 400}}}
    return pairs + texts, Origins([*found, origin("d1.md"), origin("d1.md")], runs, {1: {"judge": 0.5}})


def written(folder: Path, form: str = "messages", *, share: float = 0.3, parquet: bool = False) -> dict[str, Any]:
    examples, origins = example_set()
    source = folder.parent / "pairs.jsonl"
    source.write_text("…")
    folder.mkdir()
    plan = FolderPlan("my_data", form, share, 42, with_provenance=True, parquet=parquet)
    return write_dataset(folder, examples, origins, plan, source)


def records(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_no_document_is_on_both_sides_of_the_split(tmp_path: Path) -> None:
    files = written(tmp_path / "data")
    sides: dict[str, set[str]] = {}
    for name, facts in files.items():
        rows = records(tmp_path / "data" / name)
        assert len(rows) == facts["records"]
        for row in rows:
            sides.setdefault(row["provenance"]["document"], set()).add(
                "validation" if "validation" in name else "train"
            )
    assert Counter(side for found in sides.values() for side in found) == {"train": 3, "validation": 1}


@pytest.mark.parametrize("seed", range(20))
def test_a_share_of_the_documents_is_drawn_whole_whatever_the_seed(seed: int) -> None:
    documents = [f"d{n % 30}" for n in range(300)]
    drawn = split_by_document(documents, 0.1, seed)
    assert drawn.count(True) == 30
    assert len({document for document, is_drawn in zip(documents, drawn, strict=True) if is_drawn}) == 3
    shuffled = split_by_document(documents[::-1], 0.1, seed)
    assert shuffled == drawn[::-1], "the order of the file does not matter"
    assert split_by_document(["one"] * 9, 0.1, seed) == [False] * 9
    assert split_by_document(["a"] * 6 + ["b"] * 4, 0.1, seed).count(True) == 4, "the smallest, where none is small"


def test_the_manifest_has_the_hash_of_every_file_and_what_it_was_made_of(tmp_path: Path) -> None:
    written(tmp_path / "data")
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    for name, facts in manifest["files"].items():
        assert hashlib.sha256((tmp_path / "data" / name).read_bytes()).hexdigest() == facts["sha256"]
    assert manifest["documents"]["d1.md"]["examples"] == 5
    assert manifest["weights"] == {"1": {"judge": 0.5}}
    assert manifest["runs"]["1"]["settings"] == {"chunk_tokens": 400}
    assert manifest["split"]["train"] + manifest["split"]["validation"] == 14
    assert manifest["score"] == {"mean": 8.5, "least": 8.5}


def test_datasets_and_trl_read_the_folder_by_its_card(tmp_path: Path) -> None:
    datasets, trl = needed("datasets"), needed("trl")
    files = written(tmp_path / "data")
    found = datasets.load_dataset(str(tmp_path / "data"), cache_dir=str(tmp_path / "cache"))
    assert {name: split.num_rows for name, split in found.items()} == {
        name: files[f"{name}.jsonl"]["records"] for name in ("train", "validation")
    }
    assert trl.is_conversational(found["train"][0])
    assert found["train"][0]["provenance"]["characters"] == [0, 9]
    texts = datasets.load_dataset(str(tmp_path / "data"), "documents", cache_dir=str(tmp_path / "cache"))
    assert sum(split.num_rows for split in texts.values()) == 2


def test_parquet_holds_the_same_records(tmp_path: Path) -> None:
    datasets = needed("datasets")
    parquet = needed("pyarrow.parquet")
    written(tmp_path / "lines")
    written(tmp_path / "data", parquet=True)
    rows = parquet.read_table(tmp_path / "data" / "train.parquet").to_pylist()
    assert rows == records(tmp_path / "lines" / "train.jsonl")
    found = datasets.load_dataset(str(tmp_path / "data"), split="validation", cache_dir=str(tmp_path / "cache"))
    assert found.num_rows == len(records(tmp_path / "lines" / "validation.jsonl"))


DOCUMENTED: Mapping[str, set[str]] = {
    "": {"file_name", "formatting", "columns", "tags"},
    "columns": {"prompt", "query", "response", "messages"},
    "tags": {"role_tag", "content_tag", "user_tag", "assistant_tag", "system_tag"},
}
"""The keys of LLaMA-Factory's data/README.md that we use."""


@pytest.mark.parametrize("form", RECORDS)
def test_the_entry_for_llama_factory_names_columns_and_roles_that_are_there(tmp_path: Path, form: str) -> None:
    written(tmp_path / "data", form)
    entries = json.loads((tmp_path / "data" / "dataset_info.json").read_text())
    assert {"my_data_train", "my_data_validation"} <= set(entries)
    for entry in entries.values():
        rows = records(tmp_path / "data" / entry["file_name"])
        assert set(entry) <= DOCUMENTED[""]
        assert set(entry["columns"]) <= DOCUMENTED["columns"]
        assert set(entry["columns"].values()) <= set(rows[0])
        if tags := entry.get("tags"):
            assert set(tags) == DOCUMENTED["tags"]
            turns = [turn for row in rows for turn in row[entry["columns"]["messages"]]]
            assert {turn[tags["role_tag"]] for turn in turns} == {tags["user_tag"], tags["assistant_tag"]}
            assert all(turn[tags["content_tag"]] for turn in turns)
    assert dataset_entry("documents_train.jsonl", form) == {
        "file_name": "documents_train.jsonl",
        "columns": {"prompt": "text"},
    }


def test_the_card_shows_foreign_names_as_they_are(tmp_path: Path) -> None:
    written(tmp_path / "data")
    card = (tmp_path / "data" / "README.md").read_text()
    assert card.startswith("---\n")
    assert "`w′¦`" in card, "a name cannot end the code it stands in, nor a cell of the table"
    assert "14 examples, made from 4 documents" in card
    assert all(f"`{name}`" in card for name in FIELDS)


def test_a_conversation_that_the_form_cannot_hold_is_named(tmp_path: Path) -> None:
    turns = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"), Message("assistant", "d"))
    plan = FolderPlan("x", "alpaca", 0.0, 1, with_provenance=False, parquet=False)
    with pytest.raises(LoraTuiError, match="f:7 is not one question"):
        write_dataset(tmp_path, [Conversation(turns, "f:7")], Origins([None]), plan, tmp_path)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"split": 0.7, "export_format": "messages"}, "from 0 to 0.5"),
        ({"run": "train", "parquet": True}, "belongs to --run export"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        check_request(Request(**{"run": "export", **options}))
