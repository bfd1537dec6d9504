"""Texts of 20 MB in many forms, read into a store: seconds, processor seconds, passages, and memory at the peak.

    python -m tests.bench.large_texts [FORM …] [--megabytes 20]

Each form is a folder of one file, read by a process of its own as a run reads it. Memory is that of the process and of
the one that takes text out of HTML, DOCX and PDF, added; `resource` counts pages that they share twice.
"""

import argparse
import asyncio
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from lora_tui.config.generation import DataGeneration
from lora_tui.store import runs
from lora_tui.store.connection import Store
from tests.engine.generation.file_makers import docx_file, docx_paragraph, pdf_file
from tests.engine.generation.whole_folder import read_folder

SENTENCE = "The keeper of the light at Lorvik had a dog, a boat and a stove that smoked. "


def _repeated(unit: str) -> Callable[[int], bytes]:
    return lambda size: (unit * (size // len(unit.encode()))).encode()


FORMS: dict[str, tuple[str, Callable[[int], bytes]]] = {
    "prose": (".txt", _repeated(SENTENCE * 5 + "\n\n")),
    "no blank lines": (".txt", _repeated(SENTENCE + "\n")),
    "one line": (".txt", _repeated(SENTENCE)),
    "one line, no stops": (".txt", _repeated("rope sail tar mast keel ")),
    "one word": (".txt", _repeated("a")),
    "markdown": (".md", _repeated(f"# The light\n\n{SENTENCE * 3}\n\n- rope\n- tar\n\n```\nx = 1\n\ny = 2\n```\n\n")),
    "restructuredtext": (
        ".txt",
        _repeated(f"The light\n=========\n\n.. note:: {SENTENCE}\n\n:rope: tar\n\n{SENTENCE}\n\n"),
    ),
    "table of commas": (".txt", _repeated('17,3.5,"Lorvik, north","a dog, a boat",1902-04-01\n')),
    "code": (".txt", _repeated("def keeper(dog: int) -> str:\n    return f'{dog}'  # smoked\n\n\n")),
    "windows line ends": (".txt", _repeated(SENTENCE + "\r\n\r\n")),
    "utf-16": (".txt", lambda size: (SENTENCE * (size // 2 // len(SENTENCE))).encode("utf-16")),
    "japanese": (".txt", _repeated("東京は日本の首都です。")),
    "with one emoji": (".txt", lambda size: (SENTENCE * (size // len(SENTENCE) - 1)).encode() + "😀".encode()),
    "list of one-word lines": (".txt", _repeated("- tar\n")),
    "html, flat": (".html", _repeated(f"<p>{SENTENCE}</p>\n")),
    "html, nested": (".html", lambda size: b"<ul><li>" * (size // 18) + b"text" + b"</li></ul>" * (size // 18)),
    "html, table": (".html", _repeated("<tr><td>Lorvik</td><td>17</td></tr>")),
    "docx, unpacked": (
        ".docx",
        lambda size: docx_file(docx_paragraph(SENTENCE) * (size // len(docx_paragraph(SENTENCE)))),
    ),
    "docx, unpacked ten times": (".docx", lambda size: docx_file(docx_paragraph(SENTENCE) * (10 * size // 140))),
    "pdf, 500 pages": (".pdf", lambda _: pdf_file([[(72, 720 - 14 * row, SENTENCE) for row in range(45)]] * 500)),
}


def read(folder: Path) -> str:
    """Read the folder as a run does; returns the figures of this process."""

    async def story() -> str:
        async with await Store.open(folder.parent / "store.db") as store:
            run_id = await runs.create(store, "generate", {}, {})
            chosen = DataGeneration(input_folder=str(folder))
            corpus = await read_folder(store, run_id, chosen, lambda warning: None, lambda done, total: None)
            return f"{corpus.passages:,} passages"

    began = time.monotonic()
    try:
        found = asyncio.run(story())
    except Exception as problem:  # noqa: BLE001  # a file that is not read is a figure, too
        found = str(problem).splitlines()[0][-70:]
    wall = time.monotonic() - began
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = sum(usage.ru_utime + usage.ru_stime for usage in (own, children))
    # Not ru_maxrss, which begins with that of the process that began this one.
    status = Path("/proc/self/status").read_text()
    memory = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    return f"{wall:8.1f} s {processor:8.1f} s {memory:6.0f} {memory + children.ru_maxrss / 1024:6.0f} MB   {found}"


def main() -> None:
    """Measure the forms named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("forms", nargs="*", default=list(FORMS))
    parser.add_argument("--megabytes", type=float, default=20)
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.read:
        print(read(chosen.read))
        return
    print(f"{'form':26} {'wall':>8}   {'processor':>8}   own, both MB")
    for form in chosen.forms:
        suffix, make = FORMS[form]
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place, "in")
            folder.mkdir()
            (folder / f"text{suffix}").write_bytes(make(round(chosen.megabytes * 1_000_000)))
            command = [sys.executable, "-m", "tests.bench.large_texts", "--read", str(folder)]
            done = subprocess.run(command, env=os.environ, capture_output=True, text=True)
            print(f"{form:26} {done.stdout.strip() or done.stderr.strip()[-200:]}", flush=True)


if __name__ == "__main__":
    main()
