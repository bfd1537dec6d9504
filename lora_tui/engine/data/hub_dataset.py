"""A split of a data set on the Hugging Face hub: its commit and files looked up, fetched into the hub's own cache.

A look-up is written down (`_looked_up`), so that a commit which has been read once is read again without a network,
and the counts of a forecast, which asks with every key that somebody types, come from this machine alone. Files come
through huggingface_hub: its token, mirror (``HF_ENDPOINT``), cache and offline switch hold. No script is ever run.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_tui.config.hub_names import HubDataset
from lora_tui.config.paths import cache_folder, private_folder
from lora_tui.engine.data.hub_files import CONVERTED, HubFile, converted_split, find_split, is_converted, readable_files
from lora_tui.errors import LoraTuiError, UnreachableError, UsageError
from lora_tui.files import write_atomically
from lora_tui.text import one_line

log = logging.getLogger(__name__)

MAX_FETCHED_BYTES = 4 * 10**9
"""What is fetched without being asked for in part: all of it is read into memory, where it takes several times that."""

FETCHING = "fetching the data set"
"""The phase of fetching, counted in kB."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class PinnedDataset:
    """A data set by its commit, and the files that hold the split, in order."""

    dataset: HubDataset
    files: tuple[HubFile, ...]


def look_up(dataset: HubDataset) -> PinnedDataset:
    """Return the data set by its commit, with its files; what is pinned and known is not asked for again.

    Raises `UnreachableError` where the hub cannot be reached or refuses, `UsageError` where it has no such split.
    """
    if dataset.is_pinned and (known := last_look_up(dataset)) is not None:
        return known
    from huggingface_hub import HfApi

    try:
        found = _ask(HfApi(), dataset)
    except LoraTuiError:
        raise
    except Exception as problem:  # its own, httpx's and the system's: there is no common one
        known = last_look_up(dataset)
        also = f"\nAs it was last read: {known.dataset}" if known is not None else ""
        refusal = hub_refusal(problem, dataset.repo, "dataset")
        raise UnreachableError(f"{refusal}{also}") from problem
    for name in (dataset, found.dataset):
        _write_down(name, found)
    return found


def last_look_up(dataset: HubDataset) -> PinnedDataset | None:
    """Return what was found when this name was last looked up on this machine; nothing is asked of the hub."""
    try:
        content = json.loads(_looked_up(dataset).read_text(encoding="utf-8"))
        files = tuple(HubFile(str(file["path"]), int(file["size"])) for file in content["files"])
        found = dataset.pinned(str(content["commit"]), str(content["subset"]), str(content["split"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return PinnedDataset(found, files)


def fetch(pinned: PinnedDataset, file: HubFile) -> Path:
    """Return a file of the data set on this machine, fetched unless it is here. Raises `UnreachableError`."""
    from huggingface_hub import hf_hub_download

    dataset = pinned.dataset
    try:
        return Path(hf_hub_download(dataset.repo, file.path, repo_type="dataset", revision=dataset.revision))
    except Exception as problem:  # its own, httpx's and the system's: there is no common one
        raise hub_refusal(problem, dataset.repo, "dataset") from problem


def cached_file(pinned: PinnedDataset, file: HubFile) -> Path | None:
    """Return a file of the data set where it is on this machine already."""
    from huggingface_hub import try_to_load_from_cache

    dataset = pinned.dataset
    found = try_to_load_from_cache(dataset.repo, file.path, repo_type="dataset", revision=dataset.revision)
    return Path(found) if isinstance(found, str) else None


def check_size(pinned: PinnedDataset) -> None:
    """Raise `UsageError` where all of a split is more than can be read, or than the disk has room for."""
    size = sum(file.size for file in pinned.files)
    dataset = pinned.dataset
    if dataset.last is None and size > MAX_FETCHED_BYTES:
        part = f"hf:{dataset.repo}:{dataset.split}[:10000]"
        raise UsageError(
            f"{dataset} has {size / 1e9:,.1f} GB in {len(pinned.files):,} files, which is more than is read into "
            f"memory. Name a part of it, such as {part}"
        )
    from huggingface_hub.constants import HF_HUB_CACHE

    with suppress(OSError):
        there = next(folder for folder in (Path(HF_HUB_CACHE), *Path(HF_HUB_CACHE).parents) if folder.is_dir())
        missing = sum(file.size for file in pinned.files if cached_file(pinned, file) is None)
        free = shutil.disk_usage(there).free
        if dataset.last is None and missing > free:
            raise LoraTuiError(f"{dataset} needs {missing / 1e9:,.1f} GB in {there}, where {free / 1e9:,.1f} are free.")


def hub_refusal(problem: Exception, repo: str, kind: str) -> UnreachableError:
    """Return what an exception of huggingface_hub means for whoever asked for `repo`, a "dataset" or a "model"."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    what = "data set" if kind == "dataset" else kind
    address = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{repo}"
    match problem:
        case GatedRepoError():
            text = f"The {what} {repo} is given to those alone who have agreed to its terms: do so at {address}, then "
            text += "hf auth login, or export HF_TOKEN=…"
        case RevisionNotFoundError():
            text = f"The {what} {repo} has no such revision (a branch, a tag, or a commit)."
        case RepositoryNotFoundError():
            text = f"The hub has no {what} {repo}, or shows it to others only. Where it is yours: hf auth login, or "
            text += "export HF_TOKEN=…"
        case OfflineModeIsEnabled():
            text = f"The {what} {repo} is not on this machine, and HF_HUB_OFFLINE says that the hub is not to be asked."
        case HfHubHTTPError():
            status = getattr(problem.response, "status_code", 0)
            said = getattr(problem, "server_message", None) or str(problem).splitlines()[0]
            text = f"The hub refuses ({status}): {one_line(str(said), 300)}"
            text += " Is the token one that may write?" if status in (401, 403) and kind != "dataset" else ""
        case _:
            text = f"The hub cannot be reached for {repo}: {one_line(str(problem) or type(problem).__name__, 200)}."
    return UnreachableError(text)


def _ask(api: Any, dataset: HubDataset) -> PinnedDataset:
    """Look a data set up at the hub."""
    info = api.repo_info(
        dataset.repo, revision=dataset.revision or None, repo_type="dataset", files_metadata=True, timeout=30
    )
    files = [HubFile(one.rfilename, int(one.size or 0)) for one in info.siblings or ()]
    if is_converted(files):
        found = converted_split(dataset.repo, files, dataset.subset, dataset.split)
    elif not readable_files(files):
        from huggingface_hub.errors import RevisionNotFoundError

        files = []
        with suppress(RevisionNotFoundError):
            info = api.repo_info(dataset.repo, revision=CONVERTED, repo_type="dataset", files_metadata=True, timeout=30)
            files = [HubFile(one.rfilename, int(one.size or 0)) for one in info.siblings or ()]
        found = converted_split(dataset.repo, files, dataset.subset, dataset.split)
    else:
        card = _card(api, dataset.repo, info.sha, files)
        found = find_split(dataset.repo, files, card, dataset.subset, dataset.split)
    return PinnedDataset(dataset.pinned(str(info.sha), found.subset, found.split), found.files)


def _card(api: Any, repo: str, commit: str, files: list[HubFile]) -> Mapping[str, Any]:
    """Return the head of a data set's README.md; empty where there is none that can be read."""
    if not any(file.path == "README.md" for file in files):
        return {}
    from huggingface_hub.repocard import metadata_load

    path = api.hf_hub_download(repo, "README.md", repo_type="dataset", revision=commit)
    try:
        found = metadata_load(path)
    except ValueError as problem:
        log.info("the card of %s cannot be read: %s", repo, problem)
        return {}
    return found if isinstance(found, dict) else {}


def _looked_up(dataset: HubDataset) -> Path:
    """The file in which a look-up is written down."""
    name = hashlib.sha256(f"{dataset.repo}\n{dataset.subset}\n{dataset.revision}\n{dataset.split}".encode()).hexdigest()
    return cache_folder() / "hub" / f"{name[:32]}.json"


def _write_down(name: HubDataset, found: PinnedDataset) -> None:
    content = {
        "commit": found.dataset.revision,
        "subset": found.dataset.subset,
        "split": found.dataset.split,
        "files": [{"path": file.path, "size": file.size} for file in found.files],
    }
    path = _looked_up(name)
    try:
        private_folder(path.parent)
        write_atomically(path, json.dumps(content))
    except (OSError, LoraTuiError) as problem:  # it is asked for again next time
        log.info("%s cannot be written: %s", path, problem)
