"""Data sets of the hub as training data: a fake hub, looked up, fetched and read as `datasets` would."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lora_tui.config.hub_names import HubDataset, hub_dataset
from lora_tui.engine.data.examples import Conversation, PlainText, QuestionAnswer
from lora_tui.engine.data.hub_dataset import look_up
from lora_tui.engine.data.hub_files import HubFile, find_split
from lora_tui.engine.data.read import read_examples
from lora_tui.engine.data.survey import survey
from lora_tui.errors import LoraTuiError, UnreachableError, UsageError
from tests.extras import needed
from tests.hub_server import FakeHub


@pytest.fixture(scope="module")
def server() -> Iterator[FakeHub]:
    with FakeHub() as running:
        yield running


@pytest.fixture
def hub(server: FakeHub, tmp_path: Path) -> Iterator[FakeHub]:
    server.reset()
    with server.used(tmp_path):
        yield server


def lines(*pairs: tuple[str, str]) -> str:
    return "".join(json.dumps({"question": question, "answer": answer}) + "\n" for question, answer in pairs)


def parquet(rows: list[dict[str, Any]], path: Path) -> bytes:
    pa = needed("pyarrow")
    needed("pyarrow.parquet").write_table(pa.Table.from_pylist(rows), path)
    return path.read_bytes()


def questions(name: str) -> list[str]:
    return [one.question for one in read_examples(Path(name)).examples if isinstance(one, QuestionAnswer)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf:o/n", HubDataset("o/n")),
        ("hf:o/n:test", HubDataset("o/n", split="test")),
        ("hf:o/n/sub@v1.0:test[10:20]", HubDataset("o/n", "sub", "v1.0", "test", 10, 20)),
        ("hf:o/n@refs/pr/3:train[:5]", HubDataset("o/n", "", "refs/pr/3", "train", 0, 5)),
        ("hf:o/n:[:5]", HubDataset("o/n", last=5)),
        ("https://huggingface.co/datasets/o/n/viewer/default/train", HubDataset("o/n")),
        ("https:/huggingface.co/datasets/o/n", HubDataset("o/n")),
        ("hf://datasets/o/n", HubDataset("o/n")),
    ],
)
def test_a_name_of_the_hub_is_read_and_written_alike(text: str, expected: HubDataset) -> None:
    assert hub_dataset(text) == expected
    assert hub_dataset(str(expected)) == expected
    assert hub_dataset(Path(text)) == expected


@pytest.mark.parametrize("text", ["hf:", "hf:name", "hf:o/../x", "hf:o/n:train[5:2]", "hf:o/n:a b", "hf:/etc/passwd"])
def test_a_wrong_name_of_the_hub_is_refused_as_one(text: str) -> None:
    with pytest.raises(ValueError, match=r"hub|slice"):
        hub_dataset(text)
    with pytest.raises(UsageError, match=r"hub|slice"):
        read_examples(Path(text))


def test_a_split_is_fetched_once_and_then_read_without_the_hub(hub: FakeHub) -> None:
    hub.dataset("o/n", {"train.jsonl": lines(("a?", "1"), ("b?", "2")), "test.jsonl": lines(("c?", "3"))})
    assert questions("hf:o/n") == ["a?", "b?"]
    assert questions("hf:o/n:test") == ["c?"]
    pinned = str(look_up(HubDataset("o/n")).dataset)
    asked = len(hub.requests)
    assert questions(pinned) == ["a?", "b?"]
    assert len(hub.requests) == asked


def test_a_pinned_data_set_stays_as_it_was_when_the_hub_has_another(hub: FakeHub) -> None:
    repo = hub.dataset("o/n", {"train.jsonl": lines(("a?", "1"))})
    pinned = str(look_up(HubDataset("o/n")).dataset)
    repo.commit({"train.jsonl": lines(("changed?", "1")).encode()})
    assert questions("hf:o/n") == ["changed?"]
    assert questions(pinned) == ["a?"]


def test_the_card_says_which_files_are_a_split_of_a_subset(hub: FakeHub) -> None:
    card = """---
configs:
- config_name: short
  data_files:
  - split: train
    path: "s/*.jsonl"
- config_name: long
  default: true
  data_files:
  - split: train
    path: ["l/a.jsonl", "l/**/b.jsonl"]
  - split: validation
    path: l/v.jsonl
---
"""
    files = {"README.md": card, "s/x.jsonl": lines(("s?", "1")), "s/deep/x.jsonl": lines(("not me?", "1"))}
    files |= {"l/a.jsonl": lines(("a?", "1")), "l/d/e/b.jsonl": lines(("b?", "1")), "l/v.jsonl": lines(("v?", "1"))}
    hub.dataset("o/n", files)  # type: ignore[arg-type]
    assert questions("hf:o/n") == ["a?", "b?"]
    assert questions("hf:o/n:validation") == ["v?"]
    assert questions("hf:o/n/short") == ["s?"]
    with pytest.raises(UsageError, match="has no subset other; it has short, long"):
        read_examples(Path("hf:o/n/other"))
    with pytest.raises(UsageError, match="no split test; name one of train, validation"):
        read_examples(Path("hf:o/n:test"))


@pytest.mark.parametrize(
    ("paths", "split", "expected"),
    [
        (["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "x.jsonl"], "", 2),
        (["data/test-00000-of-00001-0a1b2c.parquet", "data/train-00000-of-00001.parquet"], "test", 1),
        (["my-dev-set.json", "train/a.json", "train/b.json"], "validation", 1),
        (["my-dev-set.json", "train/a.json", "train/b.json"], "train", 2),
        (["one.csv", "two.csv", "dataset_info.json", ".hidden/three.csv"], "", 2),
        (["constraint.jsonl", "x.jsonl"], "", 2),  # "train" inside a word is no split
        (["train.jsonl.gz", "train2.txt"], "", 1),
    ],
)
def test_without_a_card_names_of_files_tell_the_split(paths: list[str], split: str, expected: int) -> None:
    found = find_split("o/n", [HubFile(path, 1) for path in paths], {}, "", split)
    assert len(found.files) == expected


def test_a_slice_fetches_no_more_files_than_it_needs(hub: FakeHub) -> None:
    shards = {f"data/train-{n:05}-of-00003.jsonl": lines((f"{n}a?", "1"), (f"{n}b?", "1")) for n in range(3)}
    hub.dataset("o/n", shards)  # type: ignore[arg-type]
    assert questions("hf:o/n:train[:2]") == ["0a?", "0b?"]
    assert questions("hf:o/n:train[1:3]") == ["0b?", "1a?"]
    assert not any("00002" in path for path in hub.paths("GET"))
    assert questions("hf:o/n:train[5:]") == ["2b?"]


def test_a_script_is_not_run_and_the_hubs_own_conversion_is_read(hub: FakeHub, tmp_path: Path) -> None:
    repo = hub.dataset("o/n", {"n.py": "raise SystemExit('run!')", "data.zip": b"PK"})
    with pytest.raises(UsageError, match=r"holds no Parquet, JSON or CSV file.*script, where it has one, is not run"):
        read_examples(Path("hf:o/n"))
    rows = parquet([{"question": "a?", "answer": "1"}], tmp_path / "x.parquet")
    other = parquet([{"question": "other?", "answer": "1"}], tmp_path / "y.parquet")
    repo.commit({"one/train/0000.parquet": rows, "two/train/0000.parquet": other}, "refs/convert/parquet")
    assert questions("hf:o/n/one") == ["a?"]
    with pytest.raises(UsageError, match="several subsets: one, two"):
        read_examples(Path("hf:o/n"))
    pinned = look_up(HubDataset("o/n", "two")).dataset
    assert questions(str(pinned)) == ["other?"]
    for kept in (tmp_path / "own" / "hub").iterdir():
        kept.unlink()  # as on another machine
    assert questions(str(pinned)) == ["other?"]
    assert not any(path.endswith(".py") for path in hub.paths("GET"))


def test_parquet_of_conversations_is_read_as_files_are_and_bad_rows_are_named(hub: FakeHub, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "id": 1},
        {"messages": [{"role": "user", "content": "only me", "name": "x"}], "id": 2},
        {"messages": [{"role": "user", "content": "q2"}, {"role": "assistant", "content": None}], "id": 3},
    ]
    hub.dataset("o/n", {"data/train-00000-of-00001.parquet": parquet(rows, tmp_path / "x.parquet")})
    found = read_examples(Path("hf:o/n"))
    (example,) = found.examples
    assert isinstance(example, Conversation)
    assert [message.content for message in example.messages] == ["q", "a"]
    assert example.source.endswith("data/train-00000-of-00001.parquet:row 1")
    assert [one.location for one in found.skipped] == ["row 2", "row 3"]
    assert "no assistant turn" in found.skipped[0].reason


def test_columns_of_no_form_are_named(hub: FakeHub, tmp_path: Path) -> None:
    hub.dataset("o/n", {"train.parquet": parquet([{"label": 1, "tokens": [1]}], tmp_path / "x.parquet")})
    with pytest.raises(UsageError, match=r"the columns \(label, tokens\) tell no known form; expected messages"):
        read_examples(Path("hf:o/n"))


def test_compressed_shards_are_read(hub: FakeHub) -> None:
    content = gzip.compress((json.dumps({"text": "plain"}) + "\n").encode())
    hub.dataset("o/n", {"train.jsonl.gz": content})
    (example,) = read_examples(Path("hf:o/n")).examples
    assert isinstance(example, PlainText)


def test_a_corrupt_record_is_named_with_file_and_line(hub: FakeHub) -> None:
    hub.dataset("o/n", {"train.jsonl": lines(("a?", "1")) + "{broken\n"})
    with pytest.raises(UsageError, match=r"hf:o/n@[0-9a-f]{40}:train train.jsonl line 2: not valid JSON"):
        read_examples(Path("hf:o/n"))


def test_what_the_hub_refuses_is_said_with_what_to_do(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match=r"no data set o/none, or shows it to others only.*HF_TOKEN"):
        read_examples(Path("hf:o/none"))
    hub.dataset("o/n", {"train.jsonl": lines(("a?", "1"))}, private=True)
    assert questions("hf:o/n") == ["a?"]
    with hub.used(tmp_path / "elsewhere", token=None), pytest.raises(UnreachableError, match="HF_TOKEN"):
        read_examples(Path("hf:o/n"))
    hub.dataset("o/g", {"train.jsonl": ""}, gated=True)
    with (
        hub.used(tmp_path / "elsewhere", token=None),
        pytest.raises(UnreachableError, match=r"agreed to its terms: do so at https://huggingface\.co/datasets/o/g"),
    ):
        read_examples(Path("hf:o/g"))
    with pytest.raises(UnreachableError, match="no such revision"):
        read_examples(Path("hf:o/n@v9"))
    assert hub.requests


def test_without_the_hub_a_name_says_which_commit_is_here(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.dataset("o/n", {"train.jsonl": lines(("a?", "1"))})
    read_examples(Path("hf:o/n"))
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UnreachableError, match=r"cannot be reached[\s\S]*last read: hf:o/n@[0-9a-f]{40}:train"):
        read_examples(Path("hf:o/n"))


def test_more_than_is_read_into_memory_is_refused_with_a_part_to_ask_for(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_tui.engine.data.hub_dataset.MAX_FETCHED_BYTES", 10)
    hub.dataset("o/n", {"train.jsonl": lines(("a?", "1"))})
    with pytest.raises(UsageError, match=r"hf:o/n:train\[:10000\]"):
        read_examples(Path("hf:o/n"))
    assert questions("hf:o/n:train[:1]") == ["a?"]


def test_a_forecast_asks_the_hub_nothing(hub: FakeHub) -> None:
    hub.dataset("o/n", {"train.jsonl": lines(("a?", "1"), ("b?", "2"))})
    before = survey(Path("hf:o/n"))
    assert before.exists
    assert "when training begins" in (before.problem or "")
    assert not hub.requests
    read_examples(Path("hf:o/n"))
    asked = len(hub.requests)
    found = survey(Path("hf:o/n"))
    assert (found.problem, found.examples) == (None, 2)
    assert len(hub.requests) == asked
    assert "hub" in (survey(Path("hf:nonsense")).problem or "")


def test_the_same_as_the_datasets_library_finds(hub: FakeHub, tmp_path: Path) -> None:
    datasets = needed("datasets")
    folder = tmp_path / "data"
    (folder / "data").mkdir(parents=True)
    for n in range(2):
        (folder / "data" / f"train-{n:05}-of-00002.jsonl").write_text(lines((f"{n}?", "1")))
    (folder / "data" / "valid.jsonl").write_text(lines(("v?", "1")))
    (folder / "data" / "dev-00000-of-00001.jsonl").write_text(lines(("d?", "1")))
    theirs = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    hub.dataset("o/n", {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*.jsonl")})
    assert questions("hf:o/n") == theirs["train"]["question"][:]
    with pytest.raises(LoraTuiError):
        read_examples(Path("hf:o/n:nothing"))
