"""The upload of a folder to the Hugging Face hub: first a list of what would be sent, then that and nothing else.

The list lies in the folder (`LIST`), with a hash of each file. What has changed since, or was not named, is not sent
before it is listed anew. All files arrive in one commit, so that nobody sees half of them; what arrived before a link
broke is not sent again, for the hub knows files by their content. The token is huggingface_hub's affair.

"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lora_tui import __version__
from lora_tui.engine.data.hub_dataset import hub_refusal
from lora_tui.errors import LoraTuiError, UnreachableError, UsageError
from lora_tui.files import sha256_of, write_atomically

LIST = ".lora-tui-upload.json"
"""The list in the folder; never sent itself."""


@dataclass(frozen=True, slots=True)
class UploadFile:
    """A file by its path in the folder, with its bytes and their SHA-256."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Upload:
    """What is sent where: a repository "OWNER/NAME", its kind ("model" or "dataset"), and whether others see it.

    `made_from` tells of what the folder was made, so that it is not mistaken for another run's.
    """

    repo: str
    kind: str
    private: bool
    made_from: Mapping[str, Any]
    files: tuple[UploadFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def list_files(folder: Path) -> tuple[UploadFile, ...]:
    """Return the files of a folder, hidden ones left out. Raises `OSError`."""
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if not any(part.startswith(".") for part in name.split("/")):
            found.append(UploadFile(name, path.stat().st_size, sha256_of(path)))
    return tuple(found)


def write_list(folder: Path, upload: Upload) -> None:
    """Keep a list in its folder. Raises `LoraTuiError` where it cannot be written."""
    write_atomically(folder / LIST, json.dumps(asdict(upload), indent=1) + "\n")


def read_list(folder: Path) -> Upload | None:
    """Return the list that lies in a folder; None where there is none."""
    try:
        content = json.loads((folder / LIST).read_text(encoding="utf-8"))
        files = tuple(UploadFile(str(one["path"]), int(one["size"]), str(one["sha256"])) for one in content["files"])
        made_from = dict(content["made_from"])
        return Upload(str(content["repo"]), str(content["kind"]), bool(content["private"]), made_from, files)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise LoraTuiError(f"{folder / LIST} cannot be read: {problem!r}. Remove {folder}, and list anew.") from problem


def changed_since(folder: Path, listed: Upload) -> list[str]:
    """Return the names of files that are not as they were listed: others, new ones, or gone. Raises `OSError`."""
    then, now = set(listed.files), set(list_files(folder))
    return sorted({file.path for file in then ^ now})


def check_token() -> None:
    """Raise `UnreachableError` where huggingface_hub knows no token."""
    from huggingface_hub import get_token

    if get_token() is None:
        raise UnreachableError(
            "The hub does not know who sends this: hf auth login, or export HF_TOKEN=… (a token that may write)."
        )


def send(folder: Path, upload: Upload) -> tuple[str, str]:
    """Send what was listed, as one commit; returns the repository's address and the commit.

    Raises `UnreachableError` where the hub cannot be reached or refuses, `UsageError` where the repository is public
    and the list says private.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    try:
        address = api.create_repo(upload.repo, repo_type=upload.kind, private=upload.private, exist_ok=True)
        known = api.repo_info(upload.repo, repo_type=upload.kind)
        if upload.private and known.private is False:
            raise UsageError(f"{upload.repo} is there already, and public. List with --public, or name another.")
        operations = [CommitOperationAdd(file.path, str(folder / file.path)) for file in upload.files]
        done = api.create_commit(
            upload.repo, operations, commit_message=f"Upload with lora-tui {__version__}", repo_type=upload.kind
        )
    except LoraTuiError:
        raise
    except Exception as problem:  # its own, httpx's and the system's: there is no common one
        raise hub_refusal(problem, upload.repo, upload.kind) from problem
    return str(address), str(done.oid)
