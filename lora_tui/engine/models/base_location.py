"""Where an adapter's base model is now: as it was named, where it lay, or where the configuration says it was moved.

An adapter's metadata has the base model's name as it was configured, which may be a path from a folder that is no
longer the current one, and since form 2 its absolute path and a hash of its weights: the same model is known again
wherever it lies. Without torch.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lora_tui.config.models import FineTuning
from lora_tui.engine.models.builtin import BUILTIN
from lora_tui.engine.models.model_files import weight_files
from lora_tui.errors import LoraTuiError, UnreachableError, UsageError

_DEFAULT_MODEL = FineTuning().model_name

_BLOCK, _APART, _MOST_BLOCKS = 1 << 12, 1 << 18, 1 << 13
"""Bytes of a block that is hashed, bytes from one to the next, and how many of a file at most.

No matrix of a model lies between two of them (2 GB: one in 256 kB; 14 GB: one in 1.7 MB), so that an edited or a merged
model is another one.
"""

_FOLDERS_UP = 5
"""Folders above an adapter in which a relative path of an older one is looked for: training began in one of them."""


def base_facts(name: str) -> dict[str, str]:
    """Return what an adapter's metadata keeps of a base model that lies on this machine; nothing of others."""
    path = Path(name).expanduser()
    if name == BUILTIN or not _is_model(path):
        return {}
    return {"base_path": str(path.absolute()), "base_sha256": _fingerprint(path)}


def base_of_adapter(adapter: Path, metadata: Mapping[str, Any], configured: str) -> str:
    """Return the name to load the base model of `adapter` by; `configured` is what the configuration names.

    Raises `UsageError` where that is another model, `UnreachableError` where the base model is no longer where it was.
    """
    trained_on = str(metadata.get("base_model") or configured)
    if configured in (trained_on, _DEFAULT_MODEL):
        found = _located(adapter, trained_on, metadata)
        if found is None:
            raise UnreachableError(
                f"The base model {trained_on} of the adapter {adapter} is no longer there. "
                "Name where it is now: --set fine_tuning.model_name=FOLDER"
            )
        return found
    if is_same_base(adapter, metadata, configured):
        return configured
    raise UsageError(
        f"The adapter {adapter} was trained on {trained_on}, but fine_tuning.model_name is {configured}, which is "
        f"another model. Remove the key, or set it to {trained_on} or where that is now."
    )


def is_same_base(adapter: Path, metadata: Mapping[str, Any], configured: str) -> bool:
    """Tell whether what the configuration names is the base model of `adapter`, by its weights where those are known.

    An older adapter does not know them: a model may then take the place of one that is gone.
    """
    path = Path(configured).expanduser()
    if configured == BUILTIN or not _is_model(path):
        return False
    if (written := metadata.get("base_sha256")) is not None:
        return bool(_fingerprint(path) == written)
    before = _located(adapter, str(metadata.get("base_model") or configured), metadata)
    return before is None or (Path(before).exists() and path.samefile(Path(before).expanduser()))


def _located(adapter: Path, trained_on: str, metadata: Mapping[str, Any]) -> str | None:
    """Return a name under which the base model is found; None for a path that leads nowhere."""
    path = Path(trained_on).expanduser()
    if trained_on == BUILTIN or path.exists():
        return trained_on
    if (known := metadata.get("base_path")) is not None:
        return str(known) if Path(known).exists() else None
    if not path.is_absolute():
        for above in list(adapter.absolute().parents)[:_FOLDERS_UP]:
            if _is_model(above / path):
                return str(above / path)
    looks_like_path = trained_on.startswith(("/", "./", "../", "~")) or path.suffix == ".gguf"
    return None if looks_like_path else trained_on


def _is_model(path: Path) -> bool:
    return (path / "config.json").is_file() or (path.suffix == ".gguf" and path.is_file())


def _fingerprint(path: Path) -> str:
    """Hash a model's weights by samples: each file's size, its end, and a block in every matrix of any size."""
    digest = hashlib.sha256()
    try:
        files = [path] if path.suffix == ".gguf" else sorted(weight_files(path), key=lambda file: file.name)
        for file in files:
            size = file.stat().st_size
            digest.update(size.to_bytes(8))
            with file.open("rb", buffering=0) as content:
                for place in range(0, size, max(_APART, size // _MOST_BLOCKS)):
                    content.seek(place)
                    digest.update(content.read(_BLOCK))
                content.seek(max(0, size - _BLOCK))
                digest.update(content.read(_BLOCK))
    except OSError as problem:
        raise LoraTuiError(f"The weights of {path} cannot be read: {problem.strerror or problem}.") from problem
    return digest.hexdigest()
