"""The process that reads HTML, DOCX, PPTX, EPUB and PDF files, and the parent's side of it.

What reads files that anybody made is apart: it gets no keys, `MEMORY_BYTES` and `DEADLINE` seconds a file, and may
crash. One process serves a whole folder; after a file that it did not survive, the next begins another. It is a module
run by the same Python (``-P``: nothing in the current folder is imported), and is spoken to in bytes: a line of JSON
with sizes, then as many bytes.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Self

import psutil

from lora_tui.engine.generation.extraction.blocks import UnusableFile

DEADLINE = 30.0
"""Seconds of the processor that a file may take. 20 MB of the worst kind that is linear take about 8."""

_WALL_FACTOR = 4
"""On a busy machine a file may take as many times its deadline by the clock; then it hangs."""

MEMORY_BYTES = 1 << 30
"""Address space of the process; a page of 20 MB needs about 200 MB of it."""

_VARIABLES = ("PATH", "SYSTEMROOT", "LD_LIBRARY_PATH", "TMPDIR", "TEMP", "VIRTUAL_ENV", "PYTHONHOME")
"""What the process gets of the environment: no variable that could hold a key."""


class TextExtractor:
    """Reader of one file after another in a process of its own, which begins with the first; use it with ``with``."""

    def __init__(self, deadline: float = DEADLINE) -> None:
        self._deadline = deadline
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def extract(self, suffix: str, data: bytes) -> str:
        """Return the text in the bytes of a file; blocks. Raises `UnusableFile`."""
        try:
            process = self._process = self._process or _begin()
        except OSError as problem:
            raise UnusableFile(f"no process could be started to read it ({problem.strerror or problem})") from problem
        done, late = threading.Event(), threading.Event()
        watch = threading.Thread(target=self._end_late, args=(process, done, late), daemon=True)
        watch.start()
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            _send(process.stdin, {"suffix": suffix}, data)
            answer = _receive(process.stdout)
        except OSError:
            answer = None
        finally:
            done.set()
            watch.join()
        if answer is None:
            self.close()
            if late.is_set():
                raise UnusableFile(f"reading it took longer than {self._deadline:.0f} s; split it, or save it as .txt")
            raise UnusableFile("its reader crashed over it: it is damaged, or made to do that")
        header, text = answer
        if reason := header.get("problem"):
            raise UnusableFile(str(reason))
        return text.decode()

    def _end_late(self, process: subprocess.Popen[bytes], done: threading.Event, late: threading.Event) -> None:
        """Kill the process once it has worked for longer than the deadline, or has hung for a few times as long."""
        began, worked = time.monotonic(), _processor_seconds(process.pid)
        while not done.wait(min(0.5, self._deadline)):
            waited = time.monotonic() - began
            if _processor_seconds(process.pid) - worked > self._deadline or waited > max(
                1.0, self._deadline * _WALL_FACTOR
            ):
                late.set()
                process.kill()
                return

    def close(self) -> None:
        """End the process, if there is one."""
        if (process := self._process) is not None:
            self._process = None
            process.kill()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):  # what was still to be written has no reader
                        pipe.close()
            process.wait()


def _begin() -> subprocess.Popen[bytes]:
    paths = [str(Path(__file__).parents[4]), *(path for path in sys.path if path)]
    environment = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    environment |= {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUTF8": "1"}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", __spec__.name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,  # Ctrl+C is the parent's to handle
    )


def _processor_seconds(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:  # it has ended
        return 0.0
    return float(times.user + times.system)


def _send(pipe: IO[bytes], header: dict[str, Any], body: bytes) -> None:
    pipe.write(json.dumps({**header, "bytes": len(body)}).encode() + b"\n")
    pipe.write(body)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> tuple[dict[str, Any], bytes] | None:
    """Return a header and its bytes, or None if the other side is gone."""
    line = pipe.readline()
    if not line.endswith(b"\n"):
        return None
    header = json.loads(line)
    body = pipe.read(header["bytes"])
    return (header, body) if len(body) == header["bytes"] else None


def _html(data: bytes) -> str:
    from lora_tui.engine.generation.encodings import decode_page
    from lora_tui.engine.generation.extraction.html import html_text

    return html_text(decode_page(data))


def _docx(data: bytes) -> str:
    from lora_tui.engine.generation.extraction.docx import docx_text

    return docx_text(data)


def _pptx(data: bytes) -> str:
    from lora_tui.engine.generation.extraction.pptx import pptx_text

    return pptx_text(data)


def _epub(data: bytes) -> str:
    from lora_tui.engine.generation.extraction.epub import epub_text

    return epub_text(data)


def _pdf(data: bytes) -> str:
    from lora_tui.engine.generation.extraction.pdf import pdf_text

    return pdf_text(data)


_READERS: dict[str, Callable[[bytes], str]] = {
    ".html": _html,
    ".htm": _html,
    ".docx": _docx,
    ".pptx": _pptx,
    ".epub": _epub,
    ".pdf": _pdf,
}


def extract_here(suffix: str, data: bytes) -> str:
    """Return the text in the bytes of a file, read in this process. Raises `UnusableFile`, and nothing else."""
    try:
        return _READERS[suffix](data)
    except UnusableFile:
        raise
    except MemoryError as problem:
        raise UnusableFile(f"reading it takes more than {MEMORY_BYTES >> 30} GB of memory; split it") from problem
    except Exception as problem:  # parsers raise anything over a damaged file; it is named and skipped
        raise UnusableFile(f"it cannot be read as {suffix} ({type(problem).__name__}: {problem})"[:300]) from problem


def _serve() -> None:
    """Answer on standard output what comes on standard input, until that ends."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # Windows; a lower limit that is set already
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    while (request := _receive(sys.stdin.buffer)) is not None:
        header, data = request
        request = None
        try:
            text, problem = extract_here(header["suffix"], data).encode("utf-8", "replace"), ""
        except UnusableFile as found:
            text, problem = b"", str(found)
        del data
        _send(answers, {"problem": problem}, text)


if __name__ == "__main__":
    _serve()
