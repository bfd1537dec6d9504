"""C of ours, compiled for this processor when it is first needed, where there is a compiler, and kept in the cache.

It is compiled here rather than shipped, so that it may use all that the processor has, as Triton's kernels are.
``CC`` names another compiler, as everywhere; ``CC=false`` does without.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from lora_tui.config.paths import cache_folder, private_folder
from lora_tui.errors import LoraTuiError
from lora_tui.files import write_atomically
from lora_tui.text import one_line

DECODING, TRAINING = (Path(__file__).with_name(name) for name in ("decoding.c", "training.c"))

_log = logging.getLogger(__name__)

_FLAGS = ("-O3", "-std=gnu11", "-ffp-contract=fast", "-fno-math-errno", "-shared", "-fPIC", "-pthread", "-w")
_PROCESSOR_FLAGS = (("-march=native",), ("-mcpu=native",), ())
"""All that this processor has, in the words of different compilers."""

_SECONDS = 120
"""Longest that a compilation may take; 2 to 5 s of processor time are usual."""


class CompilationError(Exception):
    """There is no compiled code; the text says why, to be put after a colon."""


@cache
def load_library(source: Path) -> ctypes.CDLL | str:
    """The library made of a C file, or why there is none, in a few words. It is made once for each processor.

    `source` may include what lies beside it.
    """
    try:
        compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
        code = b"".join(file.read_bytes() for file in (*sorted(source.parent.glob("*.h")), source))
        identity = "\0".join([*compiler, *_FLAGS, platform.machine(), _processor()]).encode()
        folder = private_folder(cache_folder() / "compiled")
        path = folder / f"{source.stem}-{hashlib.sha256(identity + code).hexdigest()[:16]}.so"
        if not path.exists():
            write_atomically(path, _compile(compiler, source), own=True)
        if hasattr(os, "getuid") and path.stat().st_uid != os.getuid():
            return f"{path} belongs to somebody else"
        return ctypes.CDLL(str(path))
    except (OSError, ValueError, LoraTuiError, CompilationError) as problem:  # ValueError: a quotation mark in CC
        return str(problem) or type(problem).__name__


def _compile(compiler: list[str], source: Path) -> bytes:
    """The library of a C file. Raises `CompilationError` and `OSError`."""
    _log.info("compiling %s for this processor, once", source.name)
    said = ""
    for processor in _PROCESSOR_FLAGS:
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder, "made.so")
            command = [*compiler, *_FLAGS, *processor, "-o", str(made), str(source), "-lm"]
            try:
                done = subprocess.run(
                    command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, check=False
                )
            except FileNotFoundError:
                raise CompilationError(f"there is no C compiler ({compiler[0]})") from None
            except subprocess.TimeoutExpired:
                raise CompilationError(f"the C compiler took more than {_SECONDS} s") from None
            if done.returncode == 0:
                return made.read_bytes()
            said = one_line(done.stderr.decode(errors="replace").strip().partition("\n")[0])
    raise CompilationError(f"the C compiler failed ({said or 'it said nothing'})")


def _processor() -> str:
    """What tells this processor's instructions from those of another that shares the folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
