"""What people and terminals do to the app: sizes that change without end, keys in any order, and large pastes."""

import asyncio
import fcntl
import os
import random
import re
import signal
import struct
import sys
import termios
import threading
import time
from pathlib import Path

import tests.tui.conftest  # noqa: F401  # style sheets are parsed once
from tests.campaign.scenario import Try, scenario
from tests.e2e.screen import AppTerminal
from tests.tui.app_harness import AppHarness, create_training_run, screen_text

_KEYS = "f1 f2 f3 f4 f5 f6 f7 1 2 3 question_mark escape tab down up enter n / ctrl+p ctrl+b ctrl+t ctrl+o".split()
_SIZES = 12


@scenario("app-resizes", tries=10, short=1, seconds=150)
def app_resizes(random: random.Random, folder: Path) -> Try:
    """A storm of sizes, from one cell to 200 columns, while keys move from screen to screen: the app still draws."""

    async def storm() -> Try:
        harness = AppHarness(folder / "store.db")
        await harness.populate(create_training_run)
        async with harness.app((100, 30)) as (app, pilot):
            await pilot.press(random.choice(_KEYS[:6]))
            for number in range(_SIZES):
                columns = random.randint(1, random.choice((9, 200)))
                await pilot.resize_terminal(columns, random.randint(1, random.choice((5, 60))))
                await pilot.press(random.choice(_KEYS))
                if not app.is_running:
                    return Try(False, number + 1, f"the app ended after {number + 1} sizes")
            await pilot.resize_terminal(100, 30)
            await pilot.press(*["escape"] * 5, "f1")
            await pilot.pause()
            return Try("1 GENERATE" in screen_text(app), _SIZES, "Generate is not on the screen after it")

    return asyncio.run(storm())


_TYPED = [
    "words ", "\x1b[A", "\x1b[C\x1b[D", "\x1b[I\x1b[O", "\x1b[<35;10;10M", "\x1b[<0;3;3M\x1b[<0;3;3m", "\x7f", "é",
]  # fmt: skip
_PASTED = [
    "text ", "\x1b[31mred\x1b[0m", "\x1b]52;c;cm0=\x07",
    "\x1b", "\0\x08\x07", "\n", "\r", "\u202e", "日本", "\x1b[A", "\x9b2J",
]  # fmt: skip
_ACTS = bytes(range(32)) + b"\x7f"
"""Bytes that would leave the prompt, or the app, or send what stands there."""


@scenario("app-terminal", tries=4, short=0, seconds=240)
def app_terminal(random: random.Random, folder: Path) -> Try:
    """Bytes as terminals and people send them to Chat, then SIGTERM: it ends soon, and nothing unclean was drawn."""
    asyncio.run(AppHarness(folder / "training_data.db").populate(create_training_run))
    faults = 0
    with AppTerminal([sys.executable, "-m", "lora_tui"], cwd=folder, env=os.environ) as terminal:
        terminal.shows("GENERATE")
        terminal.press("3")
        terminal.shows("Ask something")
        for _ in range(10):
            faults += 1
            kind = random.choice(["keys", "paste", "unmarked", "bytes", "size"])
            size = int(10 ** random.uniform(1, 5))
            if kind == "size":
                columns, rows = random.randint(1, 200), random.randint(1, 60)
                fcntl.ioctl(terminal._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
                terminal.signal(signal.SIGWINCH)
            elif kind == "bytes":
                _type(terminal, b"\xff\xfe\xc3" + random.randbytes(40).translate(None, _ACTS))
            elif kind == "keys":
                _type(terminal, "".join(random.choice(_TYPED) for _ in range(min(size, 300))).encode())
            elif kind == "paste":
                pasted = "".join(random.choice(_PASTED) for _ in range(size // 4))
                _type(terminal, f"\x1b[200~{pasted}\x1b[201~".encode())
            else:
                _type(terminal, b"one line of a listing that goes on and on, " * (size // 40))
            terminal.listen(0.2)
            if terminal.process.poll() == 0:  # a click left the field, and a "q" among the bytes the app
                return Try("Traceback" not in terminal.output, faults, "it left with a traceback")
            if terminal.process.poll() is not None:
                return Try(False, faults, f"it ended with {terminal.process.returncode} after {kind}")
        began = time.monotonic()
        terminal.signal(signal.SIGTERM)
        status = terminal.wait(timeout=60)
        taken = time.monotonic() - began
        drawn = re.sub(r"\x1b\]22;\w*\x07", "", terminal.output)  # Textual's own, for the form of the pointer
        unclean = [sign for sign in ("\x07", "\x1b]52", "\u202e", "Traceback") if sign in drawn]
    if status != 143 or taken > 30 or unclean:
        return Try(False, faults, f"status {status} after {taken:.1f} s; it wrote {unclean or 'nothing unclean'}")
    return Try("\x1b[?1049l" in terminal.output, faults, "the terminal was left in the other screen")


def _type(terminal: AppTerminal, data: bytes) -> None:
    """Send bytes, reading what is drawn meanwhile: a terminal that nobody reads stops both sides."""

    def write() -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(terminal._master, rest) :]

    writing = threading.Thread(target=write, daemon=True)
    writing.start()
    deadline = time.monotonic() + 100
    while writing.is_alive():
        assert time.monotonic() < deadline, "what is typed is not read"
        terminal.listen(0.05)
