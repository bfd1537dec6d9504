"""What may leave this machine: names that others can use in place of its paths, and a check that none was left.

A base model is known to others by its name on the hub; a folder of this machine is known to nobody. Files that name
such folders are written anew; `find_private` then reads all of them, and what it finds is not sent.
"""

import json
import re
import struct
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import tomli_w

from lora_tui.config.hub_names import data_name, hub_dataset
from lora_tui.engine.data.compressed import HUB_EXTRA
from lora_tui.engine.data.parquet import SUFFIX as PARQUET
from lora_tui.engine.models.adapter_source import ADAPTER_METADATA, WEIGHTS, AdapterSource
from lora_tui.engine.models.builtin import BUILTIN, HUB_NAME
from lora_tui.engine.models.checksums import write_checksums
from lora_tui.engine.models.tokenizer_files import TOKENIZER_FILES
from lora_tui.errors import UsageError
from lora_tui.secrets import find_secret
from lora_tui.text import one_line

UNKNOWN_BASE = "BASE_MODEL"
"""Stands for a base model that lies in a folder, in commands that others read."""

CARD = "README.md"

_CONFIG = "config.toml"
_SENT = (WEIGHTS, "adapter_config.json", ADAPTER_METADATA, _CONFIG, CARD, *TOKENIZER_FILES)
"""Files of an adapter that are of use to others."""

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_TEXT = (".json", ".jsonl", ".md", ".toml", ".jinja", ".txt", ".yaml", ".py")
_LARGE_VOCABULARIES = ("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt")


def public_base(source: AdapterSource) -> str:
    """Return the name of an adapter's base model on the hub; empty where it has none, as a folder."""
    name = source.trained_on or ""
    if name in (BUILTIN, HUB_NAME):
        return HUB_NAME
    if source.metadata.get("base_path") or name.endswith(".gguf") or not _HUB_NAME.fullmatch(name):
        return ""
    return "" if Path(name).exists() else name


def public_dataset(source: AdapterSource) -> str:
    """Return the data set of the hub that an adapter was trained on; empty where it was a file."""
    file = str((source.metadata.get("data") or {}).get("file") or "")
    try:
        dataset = hub_dataset(file)
    except ValueError:
        return ""
    return "" if dataset is None else dataset.repo


def private_names(source: AdapterSource) -> dict[str, str]:
    """Return what stands in an adapter's files for this machine alone, with what others may read instead."""
    base = public_base(source) or UNKNOWN_BASE
    paths = [str(source.metadata.get("base_path") or ""), source.trained_on or ""]
    found = {path: base for path in paths if "/" in path and path != base}
    folders = {source.folder, source.folder.absolute(), *([source.run_folder.absolute()] if source.run_folder else [])}
    # A relative folder's bare name, such as "out", is a part of many words.
    return found | {str(folder): "." for folder in folders if len(folder.parts) > 1}


def copy_public(source: AdapterSource, target: Path, card: str) -> list[str]:
    """Copy an adapter's files without this machine's paths, with `card` as its card; returns what was left out.

    Raises `OSError`.
    """
    left_out = []
    for path in sorted(source.folder.iterdir()):
        if path.name not in _SENT or not path.is_file():
            left_out.append(path.name)
            continue
        if path.name != CARD:
            (target / path.name).write_bytes(_public_content(path, source))
    (target / CARD).write_text(card, encoding="utf-8")
    write_checksums(target)
    return [name for name in left_out if name != "SHA256SUMS"]


def _public_content(path: Path, source: AdapterSource) -> bytes:
    """Return a file's bytes with what only this machine understands left out or named as others know it."""
    base = public_base(source)
    short = base or Path(source.trained_on or UNKNOWN_BASE).name
    match path.name:
        case "adapter_config.json":
            content: Any = json.loads(path.read_bytes())
            content["base_model_name_or_path"] = base or None
        case name if name == ADAPTER_METADATA:
            content = json.loads(path.read_bytes())
            content["base_model"] = short
            content.pop("base_path", None)
            if isinstance(content.get("data"), dict) and content["data"].get("file"):
                content["data"]["file"] = data_name(str(content["data"]["file"]))
        case "tokenizer_config.json":
            content = json.loads(path.read_bytes())
            if "/" in str(content.get("name_or_path") or "") and not _HUB_NAME.fullmatch(content["name_or_path"]):
                content["name_or_path"] = base or None
        case name if name == _CONFIG:
            return tomli_w.dumps(_public_settings(path, short)).encode()
        case _:
            return path.read_bytes()
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def _public_settings(path: Path, base: str) -> dict[str, Any]:
    """Return how an adapter was trained: what else the configuration says is of this machine and its endpoints."""
    tuning = dict(tomllib.loads(path.read_text(encoding="utf-8")).get("fine_tuning") or {})
    tuning["model_name"] = base
    tuning["train_data_file"] = data_name(str(tuning.get("train_data_file") or ""))
    training = {key: value for key, value in dict(tuning.get("training") or {}).items() if key != "save_dir"}
    return {"fine_tuning": {**tuning, "training": training}}


def find_private(folder: Path, names: list[str]) -> Iterator[str]:
    """Yield a sentence for each file of `folder` that holds one of `names` (paths of this machine) or a secret."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        shown = path.relative_to(folder).as_posix()
        texts: Iterable[str]
        unit = "line"
        if path.suffix == ".safetensors":
            texts = [_header(path)]
        elif path.suffix in _TEXT:
            texts = path.read_text(encoding="utf-8", errors="replace").split("\n")
        elif path.suffix == PARQUET:
            texts, unit = _rows(path), "row"
        else:
            continue
        try:
            for number, text in enumerate(texts, start=1):
                if (name := next((name for name in names if name in text), None)) is not None:
                    yield f"{shown} {unit} {number} names a path of this machine ({name})"
                    break
                if path.name not in _LARGE_VOCABULARIES and (kind := find_secret(text)) is not None:
                    yield f"{shown} {unit} {number} seems to hold {kind}"
                    break
        except UsageError as problem:
            yield f"{shown} cannot be looked through: {problem}"


def _rows(path: Path) -> Iterator[str]:
    """Yield the rows of a Parquet file as JSON. Raises `UsageError` where it cannot be read."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as problem:
        raise UsageError(f"it is a Parquet file, which needs an extra: {HUB_EXTRA}.") from problem
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(1024):
                yield from (json.dumps(row, ensure_ascii=False, default=str) for row in batch.to_pylist())
    except (pa.ArrowException, OSError, UnicodeDecodeError) as problem:
        raise UsageError(one_line(str(problem), 120)) from problem


def _header(path: Path) -> str:
    """Return the text at the beginning of a file of tensors."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return file.read(min(length, 100_000_000)).decode("utf-8", "replace")
