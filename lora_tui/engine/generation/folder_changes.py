"""What has changed in a folder since it was read before, passage by passage, and the pairs that outlast it.

A run over a folder that an earlier run of its model has read, or a run that goes on, asks about new passages first;
with ``data_generation.keep_pairs`` it keeps the accepted pairs whose passage is still there, so that an edit costs no
more than what it changed.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from lora_tui.engine.generation.corpus import Corpus, Source
from lora_tui.engine.generation.documents import Candidate
from lora_tui.engine.generation.folder_reader import FOLDER
from lora_tui.engine.runtime.context import RunContext
from lora_tui.store import folders
from lora_tui.store.connection import Store
from lora_tui.store.queries.runs import newest_event
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
    store: Store, corpus: Corpus, before: "EarlierReading", check: Callable[[], None] = lambda: None
) -> FolderChanges | None:
    """Return what has changed since an earlier reading; None where nothing has.

    `check` is called for each file that has changed, and may raise.
    """
    now = {source.path for source in corpus.sources}
    gone = [path for path in before.documents if path not in now]
    found = await _changed_files(store, corpus.chunking, corpus.sources, before, gone, check)
    if not before.documents or not (found.files or gone):
        return None
    still_there = {source.document_id for source in corpus.sources}
    gone_passages = 0 if found.lost <= still_there else len(found.known - found.found)
    as_before = corpus.passages - sum(file.new for file in found.files)
    return FolderChanges(before.since, found.files, gone, gone_passages, found.new, as_before)


@dataclass(slots=True)
class _Changed:
    """What is found of the files that have changed.

    `lost` are documents that were theirs, with the passages (content ids) `known`; `found` are those of now.
    """

    files: list[ChangedFile] = field(default_factory=list)
    new: dict[str, list[int]] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    known: set[str] = field(default_factory=set)
    found: set[str] = field(default_factory=set)


async def _changed_files(
    store: Store,
    chunking: str,
    sources: Sequence[Source],
    before: "EarlierReading",
    gone: Sequence[str],
    check: Callable[[], None],
) -> _Changed:
    documents = before.documents
    changed = [one for one in sources if documents.get(one.path) != one.document_id and before.knows(one.path)]
    lost = {documents[path] for path in gone} | {documents[one.path] for one in changed if one.path in documents}
    result = _Changed(lost=lost)
    for document in lost:
        check()
        result.known.update(await folders.content_ids(store, document, chunking))
    renamed = set(documents.values())
    for source in changed:
        check()
        ids = await folders.content_ids(store, source.document_id, chunking)
        result.found.update(ids)
        is_known = source.document_id in renamed
        positions = [] if is_known else [n for n, one in enumerate(ids) if one not in result.known]
        if sum(map(len, result.new.values())) < _MAX_NEW and positions:
            result.new[source.path] = positions
        result.files.append(ChangedFile(source.path, len(positions), source.chunks, source.path not in documents))
    return result


@dataclass(frozen=True, slots=True)
class EarlierReading:
    """The documents (by path) that run `since` found in the folder; `since` is 0 where nobody has read it.

    `earlier` is the run whose pairs can be kept: `since`, but for a resumed run, which compares with itself.
    `is_partial` tells that the reading was ended before it was through: of other files it is not known whether they
    are new. `at` is when it began, in seconds since the epoch. `asked` has the paths of files with pairs to keep.
    """

    since: int
    documents: Mapping[str, str]
    earlier: int
    is_partial: bool = False
    at: float = 0.0
    asked: Collection[str] = ()

    @classmethod
    async def load(cls, ctx: RunContext) -> "EarlierReading":
        """Return the newest earlier reading, or a resumed run's own; to be asked before the folder is read.

        A run that was killed before its first call has none of its own: it begins anew.
        """
        store, run_id = ctx.store, ctx.run_id
        earlier = await folders.reading_before(store, run_id) or 0
        goes_on = ctx.resumed and await folders.has_read(store, run_id)
        if ctx.resumed and not goes_on:
            async with store.transaction() as t:
                await folders.forget_reading(t, run_id)
        since = run_id if goes_on else earlier
        if not since:
            return cls(0, {}, earlier)
        told = await newest_event(store, since, FOLDER)
        keeps = ctx.settings.data_generation.keep_pairs and earlier
        return cls(
            since,
            await folders.documents_of(store, since),
            earlier,
            is_partial=told is not None and bool(told.payload.get("unread")),
            at=await folders.began_at(store, since),
            asked=await folders.files_with_pairs(store, earlier) if keeps else (),
        )

    def knows(self, path: str) -> bool:
        """Whether the reading tells if a file is new."""
        return not self.is_partial or path in self.documents

    def order(self, candidate: Candidate) -> int:
        """Return when a file of a large folder is to be read: those with pairs to keep, changed ones, the others."""
        if candidate.name in self.asked:
            return 0
        return 1 if self.since and (candidate.modified > self.at or candidate.name not in self.documents) else 2

    async def compare(self, ctx: RunContext, corpus: Corpus) -> FolderChanges | None:
        """Compare with what was read now, say what has changed, and keep the pairs that outlast it if they are wanted.

        A run that goes on no longer asks about passages that are gone. Where the folder is still being read, pairs are
        kept as far as it is, and the rest waits for its end.
        """
        store, run_id = ctx.store, ctx.run_id
        changes = await changes_since(store, corpus, self, ctx.raise_if_stopping) if corpus.is_whole else None
        keeps = ctx.settings.data_generation.keep_pairs and self.earlier > 0
        goes_on = self.since == run_id
        notes = [] if changes is None else [changes.text()]
        if goes_on and changes is not None:
            async with store.transaction() as t:
                await folders.forget_files(t, run_id, list(changes.gone))
                await folders.cancel_outdated(t, run_id)
            if outdated := await folders.outdated_pairs(store, run_id):
                notes.append(f"{count(outdated, 'accepted pair')} of this run are about passages that are gone")
        kept = 0
        if keeps:
            threshold = ctx.settings.data_generation.evaluation_threshold
            had = await folders.kept_pairs(store, run_id)
            await keep_pairs(store, run_id, self.earlier, threshold)
            kept = await folders.kept_pairs(store, run_id)
            if kept > had or not (goes_on or had or corpus.grows):
                notes.append(_kept_text(kept, self.earlier))
                if below := await folders.pairs_below(store, self.earlier, threshold):
                    are = "is" if below == 1 else "are"
                    notes.append(f"{below:,} {are} left out, below evaluation_threshold = {threshold:g}")
        elif changes is not None and not goes_on:
            notes.append(
                "New ones are asked about first; data_generation.keep_pairs = true keeps the pairs on the others"
            )
        if notes:
            ctx.emit("note", message=". ".join(notes), **({"kept": kept} if kept else {}))
        return changes

    async def new_passages(
        self, ctx: RunContext, corpus: Corpus, sources: Sequence[Source]
    ) -> Mapping[str, Sequence[int]]:
        """Return which passages of files that have just been read are new, by path; none where nobody has read before.

        What was moved there from a file that is gone counts as new as long as the folder is being read.
        """
        if not self.documents:
            return {}
        found = await _changed_files(ctx.store, corpus.chunking, sources, self, (), lambda: None)
        return found.new


def _kept_text(kept: int, earlier: int) -> str:
    if not kept:
        return f"No pair of run {earlier} is kept"
    are, their = ("is", "its passage is as it was") if kept == 1 else ("are", "their passages are as they were")
    return f"{count(kept, 'pair')} of run {earlier} {are} kept: {their}"


async def keep_pairs(store: Store, run_id: int, earlier: int, threshold: float) -> None:
    """Copy the accepted pairs of an earlier run whose passage is still there into this run; those it has stay."""
    after = 0
    while page := await folders.pairs_to_keep(store, run_id, earlier, threshold, after, _PAGE):
        async with store.transaction() as t:
            for kept in page:
                await folders.keep_pair(t, run_id, kept)
        after = page[-1].pair_id
