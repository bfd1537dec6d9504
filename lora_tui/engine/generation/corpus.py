"""The corpus of a run: the folder's files, read, cut into passages and stored, and the files that were skipped.

Afterwards the passages are in the store; in memory there is one small record for each file, and a sample of the
headings, which are the topics that prompts refer to. What the store has cut before is not cut again.
"""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lora_tui.config.generation import DataGeneration
from lora_tui.engine.generation import chunks, documents
from lora_tui.engine.generation.documents import Candidate, Document, UnusableFile
from lora_tui.engine.generation.extraction.worker import TextExtractor
from lora_tui.engine.generation.structure import headings
from lora_tui.errors import LoraTuiError
from lora_tui.secrets import find_secret
from lora_tui.store import generation as store_generation
from lora_tui.store.connection import Store
from lora_tui.store.rows import ChunkRow, SourceFile
from lora_tui.text import one_line

_MAX_TOPICS = 400
_TOPICS_OF_FILE = 8
_MAX_NAMED = 12


@dataclass(frozen=True, slots=True)
class Source:
    """A file that is used: its path in the folder, and its number of passages."""

    path: str
    document_id: str
    chunks: int


@dataclass(frozen=True, slots=True)
class Corpus:
    """The files of a run. `chunking` identifies how they were cut, `topics` are headings and file names."""

    sources: tuple[Source, ...]
    chunking: str
    topics: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]

    @property
    def passages(self) -> int:
        """The number of passages in all files."""
        return sum(source.chunks for source in self.sources)


async def read_folder(
    store: Store,
    run_id: int,
    chosen: DataGeneration,
    warn: Callable[[str], None],
    progress: Callable[[int, int], None],
    sent_to: str | None = None,
) -> Corpus:
    """Read every file of the input folder into the store and return the corpus.

    `sent_to` is the address that passages will be sent to, if that is another machine: then there is a warning of files
    that seem to hold a secret. The output file is never read. Raises `LoraTuiError` if no file can be used.
    """
    folder, size, overlap = Path(chosen.input_folder), chosen.chunk_tokens, chosen.chunk_overlap
    candidates = await asyncio.to_thread(documents.list_files, folder, Path(chosen.output_file), chosen.extractors)
    chunking = f"{chunks.VERSION}/{size}/{overlap}"
    sources: list[Source] = []
    skipped: list[tuple[str, str]] = []
    topics: dict[str, None] = {}
    seen: dict[str, str] = {}
    with TextExtractor() as extractor:
        for number, candidate in enumerate(candidates):
            progress(number, len(candidates))
            reason = candidate.skipped
            if reason is None:
                try:
                    opened = await asyncio.to_thread(documents.open_file, candidate.path, chosen.extractors)
                    document = await _known_document(store, opened.id, chunking)
                    if document is None:
                        document = await asyncio.to_thread(opened.read, extractor)
                    del opened
                    if document.id in seen:
                        raise UnusableFile(f"the same content as {seen[document.id]}")
                    source = await _store_document(store, run_id, candidate, document, chunking, size, overlap)
                except UnusableFile as problem:
                    reason = str(problem)
                else:
                    seen[document.id] = candidate.name
                    sources.append(source)
                    if len(topics) < _MAX_TOPICS:
                        own = headings(document.text, _TOPICS_OF_FILE)
                        topics |= dict.fromkeys((title_of(candidate.name), *own))
                    _warn_of_document(candidate.name, document, sent_to, warn)
                    del document  # before the next one is read: a large text is in memory once
                    continue
            skipped.append((candidate.name, reason))
            async with store.transaction() as t:
                file = SourceFile(candidate.name, None, candidate.bytes, 0, reason)
                await store_generation.add_source_file(t, run_id, file)
    progress(len(candidates), len(candidates))
    _warn_of_skipped(skipped, warn)
    if not sources:
        name, reason = skipped[0]
        raise LoraTuiError(
            f"data_generation.input_folder: no file in {folder} can be used ({one_line(name, 60)}: {reason}"
            + (f"; {len(skipped) - 1} more" if len(skipped) > 1 else "")
            + ").\nPut .txt or .md files into it."
        )
    return Corpus(tuple(sources), chunking, tuple(list(topics)[:_MAX_TOPICS]), tuple(skipped))


def title_of(name: str) -> str:
    """Return a file's name as a topic: "deep/how-bees_dance.md" is "how bees dance"."""
    return " ".join(PurePosixPath(name).stem.replace("-", " ").replace("_", " ").split())


def content_id(context: str, text: str) -> str:
    """Return the identity of a passage by what models see of it: BLAKE2b of 16 bytes, in hexadecimal."""
    return hashlib.blake2b(f"{context}\0{text}".encode("utf-8", "replace"), digest_size=16).hexdigest()


async def _known_document(store: Store, document_id: str | None, chunking: str) -> Document | None:
    """Return a document that the store has cut before, as far as its passages hold its text; None where there is none.

    Taking the text out of a file again would take seconds, or what a command costs.
    """
    if document_id is None or not await store_generation.chunk_count(store, document_id, chunking):
        return None
    texts: list[str] = []
    while row := await store_generation.chunk_at(store, document_id, chunking, len(texts)):
        texts.append(row.text)
    return Document(document_id, "\n\n".join(texts), "", None)


async def _store_document(
    store: Store, run_id: int, candidate: Candidate, document: Document, chunking: str, size: int, overlap: int
) -> Source:
    """Store a document with its passages, unless the store has them, and that this run reads it."""
    known = await store_generation.chunk_count(store, document.id, chunking)
    rows = [] if known else await asyncio.to_thread(_passages, document, chunking, size, overlap)
    async with store.transaction() as t:
        await store_generation.add_document(t, document.id, len(document.text), document.encoding, chunking, rows)
        file = SourceFile(candidate.name, document.id, candidate.bytes, known or len(rows), None)
        await store_generation.add_source_file(t, run_id, file)
    return Source(candidate.name, document.id, known or len(rows))


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


def _warn_of_document(name: str, document: Document, sent_to: str | None, warn: Callable[[str], None]) -> None:
    if document.encoding_warning:
        warn(f"{one_line(name, 80)}: {document.encoding_warning}.")
    if sent_to and (kind := find_secret(document.text)):
        warn(f"{one_line(name, 80)} seems to hold {kind}; its text is sent to {sent_to}.")


def _warn_of_skipped(skipped: list[tuple[str, str]], warn: Callable[[str], None]) -> None:
    for name, reason in skipped[:_MAX_NAMED]:
        warn(f"{one_line(name, 80)} is skipped: {reason}.")
    if len(skipped) > _MAX_NAMED:
        warn(f"{len(skipped) - _MAX_NAMED} more files are skipped; the store lists them all.")
