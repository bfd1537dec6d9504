"""What has changed in a folder since it was read before, passage by passage, and the pairs that outlast it.

A run over a folder that an earlier run of its model has read, or a run that goes on, asks about new passages first;
with ``data_generation.keep_pairs`` it keeps the accepted pairs whose passage is still there, so that an edit costs no
more than what it changed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lora_tui.engine.generation.corpus import Corpus
from lora_tui.engine.runtime.context import RunContext
from lora_tui.store import folders
from lora_tui.store.connection import Store
from lora_tui.text import count, one_line

_MAX_NAMED = 6
_MAX_NEW = 50_000
"""New passages that are remembered, to be asked about first."""

_PAGE = 1000


@dataclass(frozen=True, slots=True)
class ChangedFile:
    """A file with passages that were not there before; `is_added` where its path was not."""

    path: str
    new: int
    passages: int
    is_added: bool

    def text(self) -> str:
        """Say what is new of it."""
        name = one_line(self.path, 60)
        if self.is_added:
            return f"{name} is new ({count(self.passages, 'passage')})"
        return f"{name} is changed ({self.new:,} of {count(self.passages, 'passage')} new)"


@dataclass(frozen=True, slots=True)
class FolderChanges:
    """What is new in a folder since run `since` read it, and what is gone.

    `new` has the number of each new passage in its file, by path, `gone_passages` counts those that are nowhere now.
    """

    since: int
    files: Sequence[ChangedFile]
    gone: Sequence[str]
    gone_passages: int
    new: Mapping[str, Sequence[int]]
    kept_passages: int

    @property
    def new_passages(self) -> int:
        """The number of passages that were not there before."""
        return sum(file.new for file in self.files)

    def text(self) -> str:
        """Return what is told of it, in one line."""
        said = [file.text() for file in self.files] + [f"{one_line(path, 60)} is gone" for path in self.gone]
        more = len(said) - _MAX_NAMED
        named = "; ".join(said[:_MAX_NAMED]) + (f"; {more:,} more files" if more > 0 else "")
        return (
            f"Since run {self.since}: {named}. {count(self.new_passages, 'passage')} new, {self.gone_passages:,} gone,"
            f" {self.kept_passages:,} as before"
        )


async def changes_since(
    store: Store, corpus: Corpus, before: Mapping[str, str], since: int, check: Callable[[], None] = lambda: None
) -> FolderChanges | None:
    """Return what has changed since the folder held the documents `before` (by path); None where nothing has.

    `check` is called for each file that has changed, and may raise.
    """
    now = {source.path: source for source in corpus.sources}
    changed = [source for source in corpus.sources if before.get(source.path) != source.document_id]
    gone = [path for path in before if path not in now]
    if not before or not (changed or gone):
        return None
    still_there = {source.document_id for source in corpus.sources}
    lost = {before[path] for path in gone} | {before[source.path] for source in changed if source.path in before}
    known: set[str] = set()
    for document in lost:
        check()
        known.update(await folders.content_ids(store, document, corpus.chunking))
    files, new, found = list[ChangedFile](), dict[str, list[int]](), set[str]()
    renamed = set(before.values())
    for source in changed:
        check()
        ids = await folders.content_ids(store, source.document_id, corpus.chunking)
        found.update(ids)
        positions = [] if source.document_id in renamed else [n for n, one in enumerate(ids) if one not in known]
        if sum(map(len, new.values())) < _MAX_NEW and positions:
            new[source.path] = positions
        files.append(ChangedFile(source.path, len(positions), source.chunks, source.path not in before))
    gone_passages = 0 if lost <= still_there else len(known - found)
    as_before = corpus.passages - sum(file.new for file in files)
    return FolderChanges(since, files, gone, gone_passages, new, as_before)


@dataclass(frozen=True, slots=True)
class EarlierReading:
    """The documents (by path) that run `since` found in the folder; `since` is 0 where nobody has read it.

    `earlier` is the run whose pairs can be kept: `since`, but for a resumed run, which compares with itself.
    """

    since: int
    documents: Mapping[str, str]
    earlier: int

    @classmethod
    async def load(cls, ctx: RunContext) -> "EarlierReading":
        """Return the newest earlier reading, or a resumed run's own; to be asked before the folder is read.

        A run that was killed while it read has none of its own: it begins anew.
        """
        store, run_id = ctx.store, ctx.run_id
        earlier = await folders.reading_before(store, run_id) or 0
        goes_on = ctx.resumed and await folders.has_read(store, run_id)
        if ctx.resumed and not goes_on:
            async with store.transaction() as t:
                await folders.forget_reading(t, run_id)
        since = run_id if goes_on else earlier
        return cls(since, await folders.documents_of(store, since) if since else {}, earlier)

    async def compare(self, ctx: RunContext, corpus: Corpus) -> FolderChanges | None:
        """Compare with what was read now, say what has changed, and keep the pairs that outlast it if they are wanted.

        A run that goes on no longer asks about passages that are gone.
        """
        store, run_id = ctx.store, ctx.run_id
        changes = await changes_since(store, corpus, self.documents, self.since, ctx.raise_if_stopping)
        keeps = ctx.settings.data_generation.keep_pairs and self.earlier > 0
        goes_on = self.since == run_id
        notes = [] if changes is None else [changes.text()]
        if goes_on and changes is not None:
            async with store.transaction() as t:
                await folders.forget_files(t, run_id, list(changes.gone))
                await folders.cancel_outdated(t, run_id)
            if outdated := await folders.outdated_pairs(store, run_id):
                notes.append(f"{count(outdated, 'accepted pair')} of this run are about passages that are gone")
        if keeps:
            had = await folders.kept_pairs(store, run_id)
            await keep_pairs(store, run_id, self.earlier)
            kept = await folders.kept_pairs(store, run_id)
            if kept > had or not goes_on:
                notes.append(_kept_text(kept, self.earlier))
        elif changes is not None and not goes_on:
            notes.append(
                "New ones are asked about first; data_generation.keep_pairs = true keeps the pairs on the others"
            )
        if notes:
            ctx.emit("note", message=". ".join(notes))
        return changes


def _kept_text(kept: int, earlier: int) -> str:
    if not kept:
        return f"No pair of run {earlier} is kept: their passages are gone"
    are, their = ("is", "its passage is as it was") if kept == 1 else ("are", "their passages are as they were")
    return f"{count(kept, 'pair')} of run {earlier} {are} kept: {their}"


async def keep_pairs(store: Store, run_id: int, earlier: int) -> None:
    """Copy the accepted pairs of an earlier run whose passage is still there into this run; those it has stay."""
    after = 0
    while page := await folders.pairs_to_keep(store, run_id, earlier, after, _PAGE):
        async with store.transaction() as t:
            for kept in page:
                await folders.keep_pair(t, run_id, kept)
        after = page[-1].pair_id
