"""What generation reads: documents, the files of a run that they came from, and the chunks they were cut into.

Documents and chunks belong to no run: the same text read again is the same row. `run_documents` says which files a run
saw, the skipped ones included, each with its reason.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from lora_tui.store.connection import Store

_CHUNK = "id, document_id, position, first_character, last_character, tokens, heading, text"


@dataclass(frozen=True, slots=True)
class ChunkRow:
    """A passage: the characters ``first_character:last_character`` of its document, and the heading it stands under."""

    id: str
    document_id: str
    position: int
    first_character: int
    last_character: int
    tokens: int
    heading: str
    text: str


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of a run. `document_id` is None, and `skipped` the reason, where it was not used."""

    path: str
    document_id: str | None
    bytes: int
    chunks: int
    skipped: str | None


async def put_document(
    t: Store, document_id: str, characters: int, encoding: str, chunking: str, chunks: Sequence[ChunkRow]
) -> None:
    """Store a document and its chunks inside the caller's transaction; what is there already stays."""
    await t.execute(
        "INSERT OR IGNORE INTO documents(id, characters, encoding, read_at) VALUES (?, ?, ?, ?)",
        (document_id, characters, encoding, time.time()),
    )
    await t.execute_many(
        f"INSERT OR IGNORE INTO chunks({_CHUNK}, chunking) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                c.id,
                c.document_id,
                c.position,
                c.first_character,
                c.last_character,
                c.tokens,
                c.heading,
                c.text,
                chunking,
            )
            for c in chunks
        ],
    )


async def put_file(t: Store, run_id: int, file: SourceFile) -> None:
    """Record a file of a run inside the caller's transaction; a resumed run replaces what it saw before."""
    await t.execute(
        "INSERT OR REPLACE INTO run_documents(run_id, path, document_id, bytes, chunks, skipped)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (run_id, file.path, file.document_id, file.bytes, file.chunks, file.skipped),
    )


async def files(store: Store, run_id: int) -> list[SourceFile]:
    """Return the files of a run, used and skipped, by path."""
    return await store.all(SourceFile, "SELECT * FROM run_documents WHERE run_id=? ORDER BY path", (run_id,))


async def chunk(store: Store, chunk_id: str) -> ChunkRow | None:
    """Return one chunk, or None."""
    return await store.one(ChunkRow, f"SELECT {_CHUNK} FROM chunks WHERE id=?", (chunk_id,))


async def chunk_at(store: Store, document_id: str, chunking: str, position: int) -> ChunkRow | None:
    """Return the chunk at a position (from 0) of a document that was cut in one way, or None."""
    return await store.one(
        ChunkRow,
        f"SELECT {_CHUNK} FROM chunks WHERE document_id=? AND chunking=? AND position=?",
        (document_id, chunking, position),
    )
