"""The reader of a run's folder: its files, read and cut into passages a batch at a time, and stored.

A folder of more than `WHOLE_BYTES` is not read in the order of its paths but in steps that spread over it, so that what
has been read so far stands for the whole: calls begin when `FIRST_PASSAGES` are there. Which files come first is a
function of the folder and of what an earlier run has of it. What the store has cut before is not cut again.

A batch is two threads' work and one transaction: a file alone costs a dozen changes of threads.
"""

import asyncio
import hashlib
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from lora_tui.config.generation import DataGeneration
from lora_tui.engine.generation import chunks, documents
from lora_tui.engine.generation.corpus import Corpus, Source, content_id, title_of
from lora_tui.engine.generation.documents import Candidate, Document, OpenFile, UnusableFile
from lora_tui.engine.generation.extraction.worker import TextExtractor
from lora_tui.engine.generation.structure import headings
from lora_tui.errors import LoraTuiError
from lora_tui.secrets import find_secret
from lora_tui.store import generation as store_generation
from lora_tui.store.connection import Store
from lora_tui.store.rows import ChunkRow, SourceFile
from lora_tui.text import one_line

WHOLE_BYTES = 8_000_000
"""A folder of no more is read in the order of its paths, and whole before the first call: seconds."""

FIRST_PASSAGES = 1_000
"""Passages of a larger one that are read before the first call."""

FOLDER = "folder"
"""The kind of event that tells how much of a large folder has been read."""

_BATCH_BYTES, _BATCH_FILES = 500_000, 64
_TOPICS_OF_FILE = 8
_MAX_NAMED = 12
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass
class _Reading:
    """What is known of one file of a batch: what was opened, its document, or why it cannot be used."""

    candidate: Candidate
    reason: str | None
    opened: OpenFile | None = None
    document: Document | None = None
    known: int = 0  # passages that the store has of it
    rows: Sequence[ChunkRow] = ()
    topics: Sequence[str] = ()
    warnings: Sequence[str] = ()


class FolderReader:
    """Reads a folder batch by batch into the store; the files of each are handed to whoever asks for the next.

    `sent_to` is the address that passages will be sent to, if that is another machine: then there is a warning of files
    that seem to hold a secret. The output file is never read. Use it with ``with``: other formats have a process.
    """

    def __init__(
        self,
        store: Store,
        run_id: int,
        chosen: DataGeneration,
        candidates: Sequence[Candidate],
        warn: Callable[[str], None],
        sent_to: str | None = None,
    ) -> None:
        self._store = store
        self._run_id = run_id
        self._chosen = chosen
        self._warn = warn
        self._sent_to = sent_to
        self._extractor = TextExtractor()
        self._waiting = list(reversed(candidates))  # the next one last
        self._seen: dict[str, str] = {}  # paths by document
        self.total = len(candidates)
        chunking = f"{chunks.VERSION}/{chosen.chunk_tokens}/{chosen.chunk_overlap}"
        used = [candidate for candidate in candidates if candidate.skipped is None]
        paths = tuple(candidate.name for candidate in used)
        self.corpus = Corpus(chunking, paths, self.total, sum(candidate.bytes for candidate in used))

    @classmethod
    async def open(
        cls,
        store: Store,
        run_id: int,
        chosen: DataGeneration,
        warn: Callable[[str], None],
        sent_to: str | None = None,
        first: Callable[[Candidate], int] = lambda _: 0,
    ) -> Self:
        """Return the reader of the input folder, whose files are listed now.

        Of a large folder, those for which `first` returns a lower number are read before the others. Raises
        `UsageError` if the folder cannot be listed, `LoraTuiError` if it is empty.
        """
        folder, output = Path(chosen.input_folder), Path(chosen.output_file)
        candidates = await asyncio.to_thread(documents.list_files, folder, output, chosen.extractors)
        return cls(store, run_id, chosen, reading_order(candidates, first), warn, sent_to)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._extractor.close()

    @property
    def done(self) -> int:
        """How many of the `total` files have been read or skipped."""
        return self.total - len(self._waiting)

    async def read_first(self, progress: Callable[[int, int], None], needed: Collection[str] = ()) -> None:
        """Read as much as the first calls need, into the corpus: all of a small folder.

        Of a large one `FIRST_PASSAGES`, and the files with the paths `needed`. Raises `LoraTuiError` if no file of the
        folder can be used.
        """
        corpus = self.corpus
        enough = math.inf if corpus.bytes <= WHOLE_BYTES else FIRST_PASSAGES
        missing = set(needed)
        progress(0, self.total)
        while self._waiting and (corpus.passages < enough or missing):
            sources = await self.read_batch()
            missing.difference_update(source.path for source in sources)
            missing.difference_update(name for name, _ in corpus.skipped)
            corpus.add(sources)
            progress(self.done, self.total)
        corpus.grows = not corpus.is_whole
        progress(self.done, self.total)
        if not corpus.sources:
            name, reason = min(corpus.skipped)
            raise LoraTuiError(
                f"data_generation.input_folder: no file in {self._chosen.input_folder} can be used"
                f" ({one_line(name, 60)}: {reason}"
                + (f"; {len(corpus.skipped) - 1} more" if len(corpus.skipped) > 1 else "")
                + ").\nPut .txt or .md files into it."
            )

    async def read_batch(self) -> list[Source]:
        """Read some more files and return those that can be used; the caller adds them to the corpus."""
        corpus, store = self.corpus, self._store
        batch = [_Reading(candidate, candidate.skipped) for candidate in self._next_candidates()]
        await asyncio.to_thread(self._open, batch)
        await store.read_together(lambda t: self._look_up(t, batch))
        await asyncio.to_thread(self._cut, batch, corpus.wants_topics)
        await store.together(lambda t: self._keep(t, batch))
        found: list[Source] = []
        for one in batch:
            name = one.candidate.name
            if one.document is None or one.reason is not None:
                corpus.skipped.append((name, one.reason or "it cannot be read"))
                continue
            corpus.add_topics(one.topics)
            for warning in one.warnings:
                self._warn(f"{one_line(name, 80)}{warning}")
            found.append(Source(name, one.document.id, one.known or len(one.rows), one.candidate.bytes))
        corpus.unread = len(self._waiting)
        if not self._waiting:
            corpus.skipped.sort()
            _warn_of_skipped(corpus.skipped, self._warn)
        return found

    def _next_candidates(self) -> Iterator[Candidate]:
        """Yield the files of a batch: one alone where a reader or command takes its time, many where they are text."""
        size = number = 0
        while self._waiting and number < _BATCH_FILES and size <= _BATCH_BYTES:
            is_slow = self._waiting[-1].path.suffix.lower() not in documents.NATIVE
            if is_slow and self._waiting[-1].skipped is None:
                if not number:
                    yield self._waiting.pop()
                return
            candidate = self._waiting.pop()
            size, number = size + candidate.bytes, number + 1
            yield candidate

    def _open(self, batch: Sequence[_Reading]) -> None:
        """Read the files, and the text of those that are text; blocks."""
        for one in batch:
            if one.reason is None:
                try:
                    opened = documents.open_file(one.candidate.path, self._chosen.extractors)
                    if opened.id is None:
                        one.document = self._unless_seen(one, opened.read())
                    else:
                        one.opened = opened
                except UnusableFile as problem:
                    one.reason = str(problem)

    def _unless_seen(self, one: _Reading, document: Document) -> Document:
        """Return a document that no other file has; raises `UnusableFile`."""
        if document.id in self._seen:
            raise UnusableFile(f"the same content as {self._seen[document.id]}")
        self._seen[document.id] = one.candidate.name
        return document

    async def _look_up(self, t: Store, batch: Sequence[_Reading]) -> None:
        """Find out which documents the store has cut before: taking the text out of a file again would take seconds."""
        for one in batch:
            known = one.opened.id if one.opened is not None else one.document.id if one.document is not None else None
            if known is None:
                continue
            one.known = await store_generation.chunk_count(t, known, self.corpus.chunking)
            if one.known and one.opened is not None:
                texts = await store_generation.chunk_texts(t, known, self.corpus.chunking)
                one.document = Document(known, "\n\n".join(texts), "", None)

    def _cut(self, batch: Sequence[_Reading], wants_topics: bool) -> None:
        """Take the text out of what is more than text, and cut what the store does not have; blocks."""
        size, overlap = self._chosen.chunk_tokens, self._chosen.chunk_overlap
        for one in batch:
            try:
                if one.opened is not None:
                    one.document = self._unless_seen(one, one.document or one.opened.read(self._extractor))
                    one.opened = None
                if one.document is None or one.reason is not None:
                    continue
                if not one.known:
                    one.rows = _passages(one.document, self.corpus.chunking, size, overlap)
            except UnusableFile as problem:
                one.reason = str(problem)
                continue
            if wants_topics:
                one.topics = (title_of(one.candidate.name), *headings(one.document.text, _TOPICS_OF_FILE))
            one.warnings = list(self._warnings(one.document))

    def _warnings(self, document: Document) -> Iterator[str]:
        if document.encoding_warning:
            yield f": {document.encoding_warning}."
        if self._sent_to and (kind := find_secret(document.text)):
            yield f" seems to hold {kind}; its text is sent to {self._sent_to}."

    async def _keep(self, t: Store, batch: Sequence[_Reading]) -> None:
        """Store the batch's documents with their passages, and that this run has read or skipped its files."""
        for one in batch:
            name, size, document = one.candidate.name, one.candidate.bytes, one.document
            if document is None or one.reason is not None:
                file = SourceFile(name, None, size, 0, one.reason or "it cannot be read")
            else:
                if not one.known:
                    await store_generation.add_document(
                        t, document.id, len(document.text), document.encoding, self.corpus.chunking, one.rows
                    )
                file = SourceFile(name, document.id, size, one.known or len(one.rows), None)
            await store_generation.add_source_file(t, self._run_id, file)


def reading_order(candidates: Sequence[Candidate], first: Callable[[Candidate], int]) -> list[Candidate]:
    """Return the files in the order in which they are read: that of their paths, or of a large folder, spread over it.

    In a large one, those with a lower number by `first` come before the others.
    """
    if sum(candidate.bytes for candidate in candidates if candidate.skipped is None) <= WHOLE_BYTES:
        return list(candidates)
    number = len(candidates)
    step = next(n for n in range(max(1, round(number * _GOLDEN)), 2 * number + 2) if math.gcd(n, number) == 1)
    return sorted((candidates[turn * step % number] for turn in range(number)), key=first)


def _passages(document: Document, chunking: str, size: int, overlap: int) -> list[ChunkRow]:
    return [
        ChunkRow(
            id=hashlib.sha256(f"{document.id}|{chunking}|{chunk.start}|{chunk.end}".encode()).hexdigest(),
            document_id=document.id,
            position=position,
            first_character=chunk.start,
            last_character=chunk.end,
            tokens=chunk.tokens,
            heading=chunk.heading,
            text=(text := document.text[chunk.start : chunk.end]),
            context=chunk.context,
            content_id=content_id(chunk.context, text),
        )
        for position, chunk in enumerate(chunks.split(document.text, size, overlap))
    ]


def _warn_of_skipped(skipped: Sequence[tuple[str, str]], warn: Callable[[str], None]) -> None:
    for name, reason in skipped[:_MAX_NAMED]:
        warn(f"{one_line(name, 80)} is skipped: {reason}.")
    if len(skipped) > _MAX_NAMED:
        warn(f"{len(skipped) - _MAX_NAMED} more files are skipped; the store lists them all.")
