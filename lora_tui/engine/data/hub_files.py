"""Which files of a data set's repository hold a split: what its card says, else what the files are called.

The rules are those of the `datasets` library (``README.md``'s ``configs``; ``train-00000-of-00002.parquet``,
``data/validation.jsonl``), so that a name means here what it means there. A script in the repository is never run:
where there are no files that can be read, the hub's own conversion to Parquet is (`CONVERTED`). Pure functions.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_tui.engine.data.compressed import inner_suffix
from lora_tui.engine.data.parquet import SUFFIX as PARQUET
from lora_tui.errors import UsageError
from lora_tui.text import one_line

CONVERTED = "refs/convert/parquet"
"""The branch to which the hub itself converts what is public: ``SUBSET/SPLIT/0000.parquet``."""

READABLE = (PARQUET, ".jsonl", ".ndjson", ".json", ".csv", ".tsv")

_NO_DATA = {f"{name}.json" for name in ("dataset_info", "dataset_infos", "dataset_dict", "config", "manifest", "state")}

_SPLIT_WORDS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "eval", "evaluation"),
    "validation": ("validation", "valid", "val", "dev"),
}
_SHARD = re.compile(r"(?:^|/)(?P<split>\w[\w.]*?)-\d{5}-of-\d{5,}(?:-[0-9a-f]+)?\.\w+(?:\.\w+)?$")
_CONVERTED_PATH = re.compile(r"[^/]+/[^/]+/\d{4,}\.parquet")
_LISTED = 12


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository, by its path there, and its bytes."""

    path: str
    size: int


@dataclass(frozen=True, slots=True)
class SplitFiles:
    """The files of one split of one subset, in order; `subset` is empty where there is only one."""

    subset: str
    split: str
    files: tuple[HubFile, ...]


def readable_files(files: Iterable[HubFile]) -> list[HubFile]:
    """Return those files of a repository that could hold examples, in the order of their paths."""
    return sorted(
        (
            file
            for file in files
            if inner_suffix(Path(file.path)) in READABLE
            and file.path not in _NO_DATA
            and not any(part.startswith((".", "__")) for part in file.path.split("/"))
        ),
        key=lambda file: file.path,
    )


def find_split(repo: str, files: Sequence[HubFile], card: Mapping[str, Any], subset: str, split: str) -> SplitFiles:
    """Return the files of a split; an empty `subset` or `split` is the data set's own default ("train").

    `card` is the head of its README.md. Raises `UsageError` where there is no such subset or split, with those there
    are, or where one has to be chosen.
    """
    by_subset = _from_card(files, card) or _from_names(files)
    if not subset:
        subset = _default_subset(repo, by_subset, card)
    elif subset not in by_subset:
        raise UsageError(f"The data set {repo} has no subset {subset}; it has {_names(by_subset)}.")
    splits = {name: found for name, found in by_subset[subset].items() if found}
    if not splits:
        raise UsageError(f"The data set {repo} names no file that is there and can be read for its subset {subset}.")
    split = _known_split(repo, splits, split)
    return SplitFiles("" if len(by_subset) == 1 else subset, split, tuple(splits[split]))


def is_converted(files: Iterable[HubFile]) -> bool:
    """Whether files lie as the hub's own conversion puts them, as those of a commit of that branch do."""
    found = readable_files(files)
    return bool(found) and all(_CONVERTED_PATH.fullmatch(file.path) for file in found)


def converted_split(repo: str, files: Sequence[HubFile], subset: str, split: str) -> SplitFiles:
    """Return a split of the hub's conversion; what of it is partial counts as it is."""
    by_subset: dict[str, dict[str, list[HubFile]]] = {}
    for file in readable_files(files):
        if _CONVERTED_PATH.fullmatch(file.path):
            parts = file.path.split("/")
            by_subset.setdefault(parts[0], {}).setdefault(parts[1].removeprefix("partial-"), []).append(file)
    if not by_subset:
        raise UsageError(
            f"The data set {repo} holds no Parquet, JSON or CSV file, and the hub has no conversion of it: download it "
            "and write it as JSON Lines. Its script, where it has one, is not run."
        )
    if not subset:
        subset = _default_subset(repo, by_subset, {})
    if subset not in by_subset:
        raise UsageError(f"The data set {repo} has no subset {subset}; it has {_names(by_subset)}.")
    splits = by_subset[subset]
    split = _known_split(repo, splits, split)
    return SplitFiles(subset, split, tuple(splits[split]))


def _known_split(repo: str, splits: Mapping[str, Any], split: str) -> str:
    """Return the split that is meant; raises `UsageError` where there is none such, or one has to be chosen."""
    if not split:
        split = "train" if "train" in splits else next(iter(splits)) if len(splits) == 1 else ""
    if split not in splits:
        missing = f"no split {split or 'train'}"
        raise UsageError(f"The data set {repo} has {missing}; name one of {_names(splits)}, as in hf:{repo}:SPLIT.")
    return split


def _default_subset(repo: str, by_subset: Mapping[str, Any], card: Mapping[str, Any]) -> str:
    for one in _configs(card):
        if one.get("default") and str(one.get("config_name")) in by_subset:
            return str(one["config_name"])
    if len(by_subset) == 1 or "default" in by_subset:
        return "default" if "default" in by_subset else next(iter(by_subset))
    first = next(iter(by_subset))
    raise UsageError(f"The data set {repo} has several subsets: {_names(by_subset)}. Name one: hf:{repo}/{first}.")


def _configs(card: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = card.get("configs")
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _from_card(files: Sequence[HubFile], card: Mapping[str, Any]) -> dict[str, dict[str, list[HubFile]]]:
    """Return the files by subset and split as the card's ``configs`` name them; nothing where it names none."""
    found: dict[str, dict[str, list[HubFile]]] = {}
    usable = readable_files(files)
    for config in _configs(card):
        folder = str(config.get("data_dir") or "").strip("/")
        inside = [file for file in usable if not folder or file.path.startswith(f"{folder}/")]
        named = config.get("data_files")
        splits: dict[str, list[HubFile]] = {}
        if named is None:
            splits = _by_name(inside)
        else:
            for entry in named if isinstance(named, list) else [named]:
                split, patterns = "train", entry
                if isinstance(entry, dict):
                    split, patterns = str(entry.get("split") or "train"), entry.get("path")
                chosen = splits.setdefault(split, [])
                for pattern in patterns if isinstance(patterns, list) else [patterns]:
                    fits = _glob(f"{folder}/{pattern}" if folder else str(pattern))
                    chosen += [file for file in usable if fits.fullmatch(file.path) and file not in chosen]
        found[str(config.get("config_name") or "default")] = splits
    return found if any(any(splits.values()) for splits in found.values()) else {}


def _from_names(files: Sequence[HubFile]) -> dict[str, dict[str, list[HubFile]]]:
    """Return the files by split as their names tell it: those of the commonest suffix, Parquet before all others."""
    usable = readable_files(files)
    by_suffix: dict[str, list[HubFile]] = {}
    for file in usable:
        by_suffix.setdefault(inner_suffix(Path(file.path)), []).append(file)
    chosen = by_suffix.get(PARQUET) or max(by_suffix.values(), key=len)
    return {"default": _by_name(chosen)}


def _by_name(files: Sequence[HubFile]) -> dict[str, list[HubFile]]:
    """Return the files by split: shards name theirs, other files and folders have its word; without any, all train."""
    sharded: dict[str, list[HubFile]] = {}
    for file in files:
        if (shard := _SHARD.search(file.path)) is not None:
            sharded.setdefault(shard["split"], []).append(file)
    if sharded:
        return sharded
    worded: dict[str, list[HubFile]] = {}
    for file in files:
        for split, words in _SPLIT_WORDS.items():
            if re.search(rf"(?:^|[^a-z0-9])(?:{'|'.join(words)})(?:[^a-z]|$)", file.path.lower()):
                worded.setdefault(split, []).append(file)
                break
    return worded or {"train": list(files)}


def _glob(pattern: str) -> re.Pattern[str]:
    """Return a card's pattern as a regular expression: ``*`` stays in a folder, ``**`` does not."""
    pieces = re.split(r"(\*\*/?|\*|\?|\[[^]]*\]|\{[^}]*\})", pattern.removeprefix("./"))
    written = ""
    for piece in pieces:
        match piece:
            case "**/":
                written += "(?:.*/)?"
            case "**":
                written += ".*"
            case "*":
                written += "[^/]*"
            case "?":
                written += "[^/]"
            case _ if piece.startswith("[") and piece.endswith("]"):
                inside = piece[1:-1].replace("\\", r"\\")
                written += f"[{'^' + inside[1:] if inside.startswith('!') else inside}]"
            case _ if piece.startswith("{"):
                written += f"(?:{'|'.join(map(re.escape, piece[1:-1].split(',')))})"
            case _:
                written += re.escape(piece)
    try:
        return re.compile(written)
    except re.error:
        return re.compile(re.escape(pattern))


def _names(found: Iterable[str]) -> str:
    names = [one_line(name, 40) for name in found]
    more = f" and {len(names) - _LISTED:,} others" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
