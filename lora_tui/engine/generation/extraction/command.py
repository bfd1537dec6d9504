"""Readers that the user names: a command for a suffix (``data_generation.extractors``), whose output is the text.

Apart, as each kind of file has a module of its own. No shell takes part: the command is split as a shell would split
it, ``{file}`` stands for the file, which is put at the end where it is missing. The command gets the user's environment
without what holds keys, no input, and `DEADLINE`.
"""

import contextlib
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile

from lora_tui.engine.generation.encodings import decode, mended
from lora_tui.engine.generation.extraction.blocks import MAX_CHARACTERS, UnusableFile, without_controls
from lora_tui.secrets import find_secret, is_key_variable
from lora_tui.text import one_line

DEADLINE = 300.0
"""Seconds that a command may take over a file: recognising the text of a scan takes minutes."""

FILE = "{file}"
_PRIVATE = re.compile(r"PASSW|CREDENTIAL|SECRET|TOKEN|_KEY$")
_MAX_BYTES = 4 * MAX_CHARACTERS


def command_for(path: Path, commands: Mapping[str, str]) -> str | None:
    """Return the command for a file's suffix, which is written with or without its dot; None where there is none."""
    suffix = path.suffix.lower().lstrip(".")
    return next((command for name, command in commands.items() if suffix and name.lower().lstrip(".") == suffix), None)


def command_text(command: str, path: Path, deadline: float = DEADLINE) -> str:
    """Return what a command writes about a file; blocks. Raises `UnusableFile` with the reason."""
    words = shlex.split(command)
    program = one_line(words[0], 40)
    # An absolute path is no option, whatever the file is called.
    filled = [word.replace(FILE, str(path.absolute())) for word in words]
    arguments = filled if any(FILE in word for word in words) else [*filled, str(path.absolute())]
    with TemporaryFile() as output, TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env=_environment(),
                start_new_session=True,  # Ctrl+C is ours to handle, and what it starts ends with it
            )
        except OSError as problem:
            raise UnusableFile(f"its extractor {program} cannot be started ({problem.strerror})") from problem
        try:
            status = process.wait(deadline)
        except subprocess.TimeoutExpired as problem:
            raise UnusableFile(f"its extractor {program} took longer than {deadline:.0f} s") from problem
        finally:
            with contextlib.suppress(OSError):  # all have ended
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if status:
            errors.seek(max(0, errors.seek(0, os.SEEK_END) - 4000))
            said = errors.read().decode("utf-8", "replace").strip().rpartition("\n")[2]
            said = one_line(said, 120) or "no message"
            raise UnusableFile(f"its extractor {program} ended with status {status}: {said}")
        output.seek(0)
        data = output.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise UnusableFile(f"its extractor {program} wrote more than {_MAX_BYTES // 2**20} MB")
    return without_controls(mended(decode(data)[0])) if data else ""


def _environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if not (is_key_variable(name) or _PRIVATE.search(name.upper()) or find_secret(value))
    }
