"""What earlier runs of the store have asked about the same text, so that another run brings new pairs.

Earlier are the runs with the same model: whoever takes a better one wants the same questions answered better. Known are
their accepted pairs about passages with the very same content; of one that was changed nothing is known. A proposal
that repeats one of them is no pair of this run: it is counted with the items of a reply that cannot be used.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from lora_tui.config.load import with_values
from lora_tui.config.models import Settings
from lora_tui.config.written import with_written, written_keys
from lora_tui.engine.generation.generation_model import Proposals
from lora_tui.engine.generation.near_duplicates import NearDuplicates
from lora_tui.store import generation as store_generation
from lora_tui.store.connection import Store
from lora_tui.text import count, one_line

_PAGE = 10_000
_SEED = "data_generation.seed"


@dataclass
class EarlierPairs:
    """The questions that `runs` (ids, the oldest first) have asked about this run's files; `known` is how many."""

    runs: Sequence[int] = ()
    known: int = 0
    repeated: int = 0
    """Proposals of this run that repeated one of them."""
    _pairs: set[int] = field(default_factory=set)  # ids of those that are known
    _questions: NearDuplicates = field(default_factory=NearDuplicates)

    @classmethod
    async def load(cls, store: Store, run_id: int, model: str) -> "EarlierPairs":
        """Read the accepted pairs of the other runs of `model` about the documents that this run has read."""
        earlier = cls(await store_generation.other_runs(store, run_id, model))
        await earlier.read_more(store, run_id)
        return earlier

    async def read_more(self, store: Store, run_id: int) -> None:
        """Read what is known about the documents that the run has read since."""
        after, questions = 0, list[str]()
        while page := await store_generation.accepted_about_documents(store, run_id, self.runs, after, _PAGE):
            questions += [question for pair_id, question in page if pair_id not in self._pairs]
            self._pairs.update(pair_id for pair_id, _ in page)
            after = page[-1][0]
        if questions:
            await asyncio.to_thread(self._questions.add_all, questions)
            self.known += len(questions)

    def without_repeated(self, proposals: Proposals) -> Proposals:
        """Return the proposals without those that repeat a known question; each of these is refused with it."""
        if not self.known:
            return proposals
        found = [(pair, self._questions.find(pair.question)) for pair in proposals.pairs]
        repeated = [f"an earlier run has asked «{one_line(known[0], 80)}»" for _, known in found if known is not None]
        self.repeated += len(repeated)
        pairs = tuple(pair for pair, known in found if known is None)
        return replace(proposals, pairs=pairs, refused=(*proposals.refused, *repeated))

    def note(self) -> str:
        """Say what is known; empty where nothing is."""
        if not self.known:
            return ""
        are = "is" if self.known == 1 else "are"
        return f"{count(self.known, 'pair')} about these files {are} known from earlier runs; this one looks for others"

    def nothing_new(self) -> str:
        """Say why a run has found nothing, and what to do."""
        return (
            f"Nothing new: {count(self.known, 'pair')} about these files are known from "
            f"run {', '.join(map(str, self.runs))}, and no other was found.\n"
            "Train on those, add files or change the model; or delete the earlier runs to ask the same again."
        )


async def seeded_for_run(store: Store, run_id: int, settings: Settings) -> Settings:
    """Return the settings with a seed of the run's own, unless somebody has written one.

    The first run over a folder has the default; each further one counts from there, so that it does not begin with the
    same passages and kinds of question as the one before.
    """
    if _SEED in written_keys(settings):
        return settings
    before = await store_generation.runs_over_folder(store, run_id, settings.data_generation.input_folder)
    if not before:
        return settings
    seeded = with_values(settings, {_SEED: settings.data_generation.seed + before})
    return with_written(seeded, written_keys(settings))
