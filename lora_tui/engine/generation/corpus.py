"""The corpus of a run: the files that have been read so far, and those that were skipped.

It grows while the folder is read beside the calls (`folder_reader`, `background_reading`). The passages are in the
store; in memory there is one small record for each file, and a sample of the headings, which are the topics that
prompts refer to.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import NamedTuple

_MAX_TOPICS = 400


@dataclass(frozen=True, slots=True)
class Source:
    """A file that is used: its path in the folder, its number of passages, and its size in bytes."""

    path: str
    document_id: str
    chunks: int
    bytes: int = 0


class CorpusSize(NamedTuple):
    """How many files a run has read, and how many passages they have."""

    files: int
    passages: int


@dataclass
class Corpus:
    """The files of a run, in the order in which they were read. `chunking` identifies how they were cut.

    `paths` are those of all files that may be used, `unread` of how many it is not known yet whether they can be;
    `bytes` is the size of all of them.
    """

    chunking: str
    paths: Sequence[str] = ()
    unread: int = 0
    bytes: int = 0
    sources: list[Source] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    passages: int = 0
    """The number of passages in all `sources`."""
    grows: bool = False
    """Whether calls began before the folder was read: its topics are its files then, to the end."""
    _topics: dict[str, None] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """Whether the whole folder has been read."""
        return self.unread == 0

    @property
    def size(self) -> CorpusSize:
        """How much there is so far."""
        return CorpusSize(len(self.sources), self.passages)

    @property
    def topics(self) -> tuple[str, ...]:
        """Headings and file names, of the first files alone."""
        return tuple(self._topics)

    @property
    def wants_topics(self) -> bool:
        """Whether further topics are kept."""
        return len(self._topics) < _MAX_TOPICS

    def add(self, sources: Iterable[Source]) -> None:
        """Add files that have been read."""
        for source in sources:
            self.sources.append(source)
            self.passages += source.chunks

    def add_topics(self, topics: Iterable[str]) -> None:
        """Add topics of a file, as far as there is room."""
        for topic in topics:
            if not self.wants_topics:
                return
            self._topics[topic] = None


def title_of(name: str) -> str:
    """Return a file's name as a topic: "deep/how-bees_dance.md" is "how bees dance"."""
    return " ".join(PurePosixPath(name).stem.replace("-", " ").replace("_", " ").split())


def content_id(context: str, text: str) -> str:
    """Return the identity of a passage by what models see of it: BLAKE2b of 16 bytes, in hexadecimal."""
    return hashlib.blake2b(f"{context}\0{text}".encode("utf-8", "replace"), digest_size=16).hexdigest()
