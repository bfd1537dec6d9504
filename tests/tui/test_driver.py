"""The terminal's driver: it never waits for a slow terminal, and a dead one is noticed once."""

import asyncio
import os
import pty
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from textual import events
from textual.message import Message

from lora_tui.tui.driver import InputParser, SteadyDriver, TerminalWriter

FRAME = "x" * 4096


class Pipe:
    """A pipe that is read only when the test says so."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self.events: list[str] = []
        self.out = TerminalWriter(
            self.writer, lambda: self.events.append("recovered"), lambda: self.events.append("gone")
        )

    def read(self, least: int) -> bytes:
        data = b""
        while len(data) < least:
            data += os.read(self.reader, 1 << 16)
        return data


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    calls_of = Pipe()
    yield calls_of
    for descriptor in (calls_of.reader, calls_of.writer):
        try:
            os.close(descriptor)
        except OSError:
            continue


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_what_is_written_arrives_in_order(pipe: Pipe) -> None:
    for number in range(100):
        pipe.out.write(f"{number} ")
    pipe.out.end()
    assert pipe.read(290).decode() == "".join(f"{number} " for number in range(100))


def test_a_terminal_that_takes_nothing_never_makes_the_writer_wait_and_is_painted_anew_later(pipe: Pipe) -> None:
    began = time.monotonic()
    for _ in range(2000):
        pipe.out.write(FRAME)
    pipe.out.write("\x1b[?1049l")
    assert time.monotonic() - began < 10.0, "8 MB into a pipe that holds 64 kB"
    assert pipe.events == []
    taken = bytearray()

    def drain() -> None:
        while not taken.endswith(b"\x1b[?1049l"):
            taken.extend(os.read(pipe.reader, 1 << 16))

    reader = threading.Thread(target=drain, daemon=True)
    reader.start()
    wait_for(lambda: pipe.events == ["recovered"])
    reader.join(5)
    assert len(taken) < 2000 * len(FRAME), "frames were dropped"
    assert taken.endswith(b"\x1b[?1049l"), "what sets the terminal's mode was not"


def test_a_terminal_that_has_gone_is_told_once_and_written_to_no_more(pipe: Pipe) -> None:
    os.close(pipe.reader)
    for _ in range(5):
        pipe.out.write(FRAME)
        time.sleep(0.02)
    wait_for(lambda: pipe.events)
    assert pipe.events == ["gone"]
    pipe.out.end()


def test_half_a_character_is_no_reason_to_fail(pipe: Pipe) -> None:
    pipe.out.write("a\ud800b")
    pipe.out.end()
    assert pipe.read(3) == b"a?b"


class Input:
    """The input side of a driver, on a pseudo-terminal, without an app."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.master, self.slave = pty.openpty()
        self.messages: list[Any] = []
        self.gone = 0
        driver: Any = object.__new__(SteadyDriver)
        driver._debug = False
        driver.fileno = self.slave
        driver.exit_event = threading.Event()
        driver._reported_gone = False
        driver._loop = loop
        driver._app = SimpleNamespace(terminal_gone=self._count)
        driver.process_message = self.messages.append
        self.driver = driver
        self.thread = threading.Thread(target=driver.run_input_thread, daemon=True)
        self.thread.start()

    def _count(self) -> None:
        self.gone += 1


def keys(messages: list[Any]) -> list[str]:
    return [message.key for message in messages if hasattr(message, "key")]


def test_bytes_that_are_no_text_do_not_end_the_app() -> None:
    async def drive() -> Input:
        side = Input(asyncio.get_running_loop())
        import tty

        tty.setraw(side.slave)
        os.write(side.master, b"a\xff\xfeb")
        os.write(side.master, "é".encode()[:1])
        await asyncio.sleep(0.05)
        os.write(side.master, "é".encode()[1:])
        for _ in range(200):
            if "b" in keys(side.messages) and len(side.messages) >= 5:
                break
            await asyncio.sleep(0.01)
        side.driver.exit_event.set()
        side.thread.join(2)
        return side

    side = asyncio.run(drive())
    pressed = keys(side.messages)
    assert pressed[0] == "a"
    assert "b" in pressed
    assert any("é" in str(getattr(message, "character", "")) for message in side.messages), "in two halves"
    assert side.gone == 0


def test_the_end_of_the_input_is_told_once_and_the_thread_ends() -> None:
    async def drive() -> Input:
        side = Input(asyncio.get_running_loop())
        os.close(side.master)
        for _ in range(300):
            if side.gone and not side.thread.is_alive():
                break
            await asyncio.sleep(0.01)
        return side

    side = asyncio.run(drive())
    assert side.gone == 1
    assert not side.thread.is_alive(), "it must not spin on a dead terminal"


def parsed(*pieces: str) -> list[Message]:
    """What these pieces of input mean, read one after the other."""
    parser = InputParser()
    return [message for piece in pieces for message in parser.feed(piece)]


COLOURED = "evil\x1b[31m \x07\x1b\x1b[A" * 3000


@pytest.mark.parametrize("size", [1, 3, 4096, 1 << 20])
def test_a_paste_is_one_event_whatever_is_in_it_and_however_it_is_cut(size: int) -> None:
    sent = f"a\x1b[200~{COLOURED}\x1b[201~b\x1b[A"
    messages = parsed(*(sent[at : at + size] for at in range(0, len(sent), size)))
    assert [getattr(message, "key", None) or message.text for message in messages] == ["a", COLOURED, "b", "up"]  # type: ignore[attr-defined]


def test_a_paste_that_the_terminal_does_not_mark_is_no_thousand_keys() -> None:
    line = "one line of a listing, " * 4
    pasted, enter = parsed(f"{line}\r{line}\r")
    assert isinstance(pasted, events.Paste)
    assert pasted.text == f"{line}\n{line}"
    assert isinstance(enter, events.Key)
    assert enter.key == "enter"
    assert keys(parsed("typed fast")) == keys(parsed(*"typed fast"))


def test_no_more_is_read_than_the_app_can_work_off() -> None:
    async def drive() -> Input:
        side = Input(asyncio.get_running_loop())
        import tty

        waiting = side.driver._app._message_queue = asyncio.Queue()
        side.driver._app.screen = SimpleNamespace(focused=None, _message_queue=asyncio.Queue())
        side.driver.process_message = waiting.put_nowait
        tty.setraw(side.slave)
        os.write(side.master, b"x\x1b[A" * 200)
        await asyncio.sleep(0.3)
        assert 50 <= waiting.qsize() < 60
        for _ in range(500):
            await asyncio.sleep(0.01)
            while not waiting.empty():
                side.messages.append(waiting.get_nowait())
            if len(side.messages) == 400:
                break
        side.driver.exit_event.set()
        side.thread.join(2)
        return side

    assert keys(asyncio.run(drive()).messages) == ["x", "up"] * 200
