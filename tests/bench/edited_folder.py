"""What an edit costs: passages that are new after a sentence was put into a file, and how fast a folder is read again.

    python -m tests.bench.edited_folder FOLDER [--passages 200000]

Of every .md and .txt file, 20 copies get one sentence each at the border of two paragraphs of the first third; with its
headings, and with them taken out. `--passages` makes up as many passages in 20 files and reads them twice into a store.
"""

import argparse
import asyncio
import json
import random
import re
import resource
import tempfile
import time
from pathlib import Path
from statistics import mean

from lora_tui.config.generation import DataGeneration
from lora_tui.engine.generation.chunks import split
from lora_tui.engine.generation.corpus import content_id
from lora_tui.store import runs
from lora_tui.store.connection import Store
from tests.engine.generation.whole_folder import read_folder

SENTENCE = "A sentence that somebody has put into the document afterwards, at some border or other.\n\n"
_HEADING = re.compile(r"^#.*\n", re.MULTILINE)
_EDITS = 20


def passages(text: str) -> set[str]:
    """Return the ids of a text's passages, by content."""
    return {content_id(chunk.context, text[chunk.start : chunk.end]) for chunk in split(text, 400, 40)}


def new_after_edit(text: str, rng: random.Random) -> int:
    """Return how many passages are new once a sentence was put in."""
    borders = [found.end() for found in re.finditer(r"\n\n", text)]
    at = rng.choice(borders[: max(1, len(borders) // 3)])
    return len(passages(text[:at] + SENTENCE + text[at:]) - passages(text))


def edits(texts: list[str]) -> dict[str, float]:
    """Return the passages of an average text, and how many of them one edit makes new."""
    rng = random.Random(1)
    usable = [text for text in texts if "\n\n" in text]
    new = [new_after_edit(text, rng) for text in usable for _ in range(_EDITS)]
    return {
        "passages": round(mean(len(passages(text)) for text in usable), 1),
        "new_after_an_edit": round(mean(new), 2),
    }


def made_up(folder: Path, count: int) -> None:
    """Write 20 files with about `count` passages in all into a new folder."""
    folder.mkdir()
    rng = random.Random(1)
    words = [f"word{number}" for number in range(5000)]
    sentences = [" ".join(rng.choices(words, k=12)).capitalize() + "." for _ in range(2000)]
    for number in range(20):
        with (folder / f"{number:02}.md").open("w") as file:
            for part in range(count // 20):
                file.write(f"## Part {number} {part}\n\n" if part % 10 == 0 else "")
                file.write(" ".join(rng.choices(sentences, k=12)) + "\n\n")


async def read_twice(count: int) -> list[dict[str, float]]:
    """Read a made-up folder into a new store, and again; return seconds, and memory at the peak in MB."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "input")
        made_up(folder, count)
        async with await Store.open(Path(name, "store.db")) as store:
            for _ in range(2):
                began, worked = time.monotonic(), time.process_time()
                run = await runs.create(store, "generate", {}, {})
                chosen = DataGeneration(input_folder=str(folder))
                corpus = await read_folder(store, run, chosen, print, lambda done, total: None)
                found.append(
                    {
                        "passages": corpus.passages,
                        "seconds": round(time.monotonic() - began, 1),
                        "cpu_seconds": round(time.process_time() - worked, 1),
                        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                    }
                )
    return found


def measure(folder: Path, count: int) -> dict[str, object]:
    """Return everything that is measured."""
    files = sorted([*folder.rglob("*.md"), *folder.rglob("*.txt")])
    texts = [path.read_text(encoding="utf-8") for path in files]
    without = _HEADING.sub("", "\n\n".join(texts))
    found: dict[str, object] = {"files": len(texts), "with_headings": edits(texts), "all_in_one": edits([without])}
    return found | ({"read_first_and_again": asyncio.run(read_twice(count))} if count else {})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--passages", type=int, default=0)
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.folder, arguments.passages)))
