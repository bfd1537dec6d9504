"""Names of data sets on the Hugging Face hub, as a key or an option takes them in place of a file.

    hf:OWNER/NAME[/SUBSET][@REVISION][:SPLIT[[FIRST:LAST]]]

`hf:owner/name` alone is the split "train" as it is today; a run writes down the commit it has read, so that it reads
the same when it goes on. The slice counts records from 0, as in `datasets`: `[:1000]` are the first thousand. Addresses
copied from a browser are taken as well. Nothing is looked up here: no network, no pydantic.
"""

import re
from dataclasses import dataclass, replace
from pathlib import PurePath

PREFIX = "hf:"

_WORD = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_NAME = re.compile(
    rf"hf:(?P<repo>{_WORD}/{_WORD})(?:/(?P<subset>[^@:\[\]]+))?(?:@(?P<revision>[^:\[\]]+))?"
    r"(?::(?P<split>[A-Za-z0-9_.-]+)?(?:\[(?P<first>\d{0,12}):(?P<last>\d{0,12})\])?)?"
)
_COPIED = re.compile(r"(?:hf:/{1,2}|https?:/{1,2}(?:www\.)?huggingface\.co/)datasets/")
"""Before OWNER/NAME in an address; a path has lost one of its two slashes."""

_COMMIT = re.compile(r"[0-9a-f]{40}")

FORM = "hf:OWNER/NAME/SUBSET@REVISION:SPLIT[:1000], of which hf:OWNER/NAME is enough"


@dataclass(frozen=True, slots=True)
class HubDataset:
    """A split of a data set on the hub; what is empty is the data set's own default.

    `first` and `last` bound the records that are taken, counted from 0, `last` not included; None: to the end.
    """

    repo: str
    subset: str = ""
    revision: str = ""
    split: str = ""
    first: int = 0
    last: int | None = None

    def __str__(self) -> str:
        taken = "" if (self.first, self.last) == (0, None) else f"[{self.first or ''}:{_shown(self.last)}]"
        parts = (f"/{self.subset}" if self.subset else "", f"@{self.revision}" if self.revision else "")
        return f"{PREFIX}{self.repo}{''.join(parts)}" + (f":{self.split}{taken}" if self.split or taken else "")

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, which always holds the same."""
        return _COMMIT.fullmatch(self.revision) is not None

    def pinned(self, commit: str, subset: str, split: str) -> "HubDataset":
        """Return the same records by the commit that holds them."""
        return replace(self, revision=commit, subset=subset, split=split)


def is_hub_name(name: str | PurePath) -> bool:
    """Whether what stands in place of a file means a data set on the hub, rightly written or not."""
    text = str(name)
    return text.startswith(PREFIX) or _COPIED.match(text) is not None


def hub_dataset(name: str | PurePath) -> HubDataset | None:
    """Return the data set that `name` means; None where it means a file. Raises `ValueError` for a wrong form."""
    text = str(name).strip()
    if not is_hub_name(text):
        return None
    if (copied := _COPIED.match(text)) is not None:
        owner, _, rest = text[copied.end() :].partition("/")
        text = f"{PREFIX}{owner}/{re.split('[/?#]', rest, maxsplit=1)[0]}"
    found = _NAME.fullmatch(text)
    if found is None or ".." in text:
        raise ValueError(f"must be a file, or a data set of the hub: {FORM}")
    first, last = int(found["first"] or 0), int(found["last"]) if found["last"] else None
    if last is not None and last <= first:
        raise ValueError(f"takes no record: the slice [{first}:{last}] is empty")
    return HubDataset(found["repo"], found["subset"] or "", found["revision"] or "", found["split"] or "", first, last)


def data_name(file: str) -> str:
    """Return what a training file is called without its folders; a data set of the hub by its own name."""
    return file if is_hub_name(file) else PurePath(file).name


def _shown(last: int | None) -> str:
    return "" if last is None else str(last)
