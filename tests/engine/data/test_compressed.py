"""Training files that are compressed or Parquet: read as plain ones are, and bounded."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from lora_tui.engine.data.examples import QuestionAnswer
from lora_tui.engine.data.read import read_examples
from lora_tui.errors import UsageError
from tests.extras import needed

RECORDS = [{"instruction": "name it", "input": "a ü", "output": "x"}, {"instruction": "and", "output": "y"}]
TEXT = "".join(json.dumps(one) + "\n" for one in RECORDS)


def zstd(data: bytes, path: Path) -> Path:
    with needed("pyarrow").CompressedOutputStream(str(path), "zstd") as stream:
        stream.write(data)
    return path


def write(path: Path, kind: str, data: bytes) -> Path:
    if kind == "zstd":
        return zstd(data, path)
    path.write_bytes(gzip.compress(data) if kind == "gzip" else data)
    return path


@pytest.mark.parametrize("kind", ["plain", "gzip", "zstd"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", TEXT),
        ("a.json", json.dumps(RECORDS)),
        ("a.csv", "instruction,output\nname it a ü,x\nand,y\n"),
        ("a.txt", "Question: name it a ü\nAnswer: x\n\nQuestion: and\nAnswer: y\n"),
        ("bom.jsonl", "\ufeff" + TEXT),
    ],
)
def test_a_compressed_file_is_read_as_the_plain_one(tmp_path: Path, name: str, content: str, kind: str) -> None:
    suffix = {"plain": "", "gzip": ".gz", "zstd": ".zst"}[kind]
    found = read_examples(write(tmp_path / f"{name}{suffix}", kind, content.encode()))
    assert [(one.question, one.answer) for one in found.examples if isinstance(one, QuestionAnswer)] == [
        ("name it a ü", "x"),
        ("and", "y"),
    ]


def test_the_first_bytes_tell_and_not_the_name(tmp_path: Path) -> None:
    assert len(read_examples(write(tmp_path / "a.jsonl", "gzip", TEXT.encode())).examples) == 2


def test_parts_that_were_put_together_are_read_to_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(TEXT.encode()) + gzip.compress(TEXT.encode()))
    assert len(read_examples(path).examples) == 4
    both = zstd(TEXT.encode(), tmp_path / "one").read_bytes() * 2
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(both)
    assert len(read_examples(path).examples) == 4


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
@pytest.mark.parametrize("harm", ["cut", "garbled"])
def test_a_damaged_file_is_named(tmp_path: Path, kind: str, harm: str) -> None:
    data = "".join(json.dumps({"question": f"q{n * 7919}?", "answer": f"{n * n}"}) + "\n" for n in range(3000))
    path = write(tmp_path / "a.jsonl.x", kind, data.encode())
    content = bytearray(path.read_bytes())
    if harm == "cut":
        content = content[: len(content) // 2]
    else:
        content[len(content) // 2 :] = b"garbage" * 10
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"a\.jsonl\.x is damaged: it cannot be expanded"):
        read_examples(path)


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_a_file_that_expands_without_end_is_refused_early(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_tui.engine.data.compressed._ALWAYS", 100_000)
    path = write(tmp_path / "a.jsonl.x", kind, (b" " * 999 + b"\n") * 30_000)
    with pytest.raises(UsageError, match="expands to more than"):
        read_examples(path)


def test_without_the_extra_its_name_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zst = zstd(TEXT.encode(), tmp_path / "a.jsonl.zst")
    table = parquet(tmp_path / "a.parquet", RECORDS)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    for path in (zst, table):
        with pytest.raises(UsageError, match=r'pip install "lora-tui\[hub\]"'):
            read_examples(path)


def parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pa = needed("pyarrow")
    needed("pyarrow.parquet").write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("form", ["messages", "prompt-completion", "alpaca", "sharegpt"])
def test_an_exported_parquet_file_is_read_as_the_exported_lines(tmp_path: Path, form: str) -> None:
    from lora_tui.engine.export.dataset_folder import write_records
    from lora_tui.engine.export.datasets import record_of

    needed("pyarrow")
    examples = [QuestionAnswer("a?", "1", ""), QuestionAnswer("b?", "2\n3", "")]
    records = [record_of(one, form) for one in examples]
    for name in ("x.parquet", "x.jsonl"):
        write_records(tmp_path / name, records)
    ours, lines = (read_examples(tmp_path / name) for name in ("x.parquet", "x.jsonl"))
    assert ours.forms == lines.forms
    assert [str(one).replace(".parquet:row ", ".jsonl:") for one in ours.examples] == [str(e) for e in lines.examples]


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", RECORDS)
    path.write_bytes(path.read_bytes()[:-20] + b"x" * 20)
    with pytest.raises(UsageError, match=r"a\.parquet is damaged"):
        read_examples(path)
    path.write_bytes(b"PAR1")
    with pytest.raises(UsageError, match=r"a\.parquet is damaged"):
        read_examples(path)


def test_a_parquet_file_that_expands_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_tui.engine.data.parquet.MAX_EXPANDED_BYTES", 1_000_000)
    path = parquet(tmp_path / "a.parquet", [{"question": "x" * 1000, "answer": "y" * 1000}] * 5000)
    assert path.stat().st_size < 100_000
    with pytest.raises(UsageError, match="expands to more than"):
        read_examples(path)
