"""A folder read to its end before anything is asked, where a run reads on beside its calls."""

from collections.abc import Callable

from lora_tui.config.generation import DataGeneration
from lora_tui.engine.generation.corpus import Corpus
from lora_tui.engine.generation.folder_reader import FolderReader
from lora_tui.store.connection import Store


async def read_folder(
    store: Store,
    run_id: int,
    chosen: DataGeneration,
    warn: Callable[[str], None],
    progress: Callable[[int, int], None],
    sent_to: str | None = None,
) -> Corpus:
    """Read every file of the input folder into the store and return the corpus. Raises as `FolderReader.open` does."""
    with await FolderReader.open(store, run_id, chosen, warn, sent_to) as reader:
        await reader.read_first(progress)
        while not reader.corpus.is_whole:
            reader.corpus.add(await reader.read_batch())
            progress(reader.done, reader.total)
        return reader.corpus
