"""What the engine does for conversations: a thread beside the jobs', a bridge to the caller's loop, an orderly end."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from lora_tui.engine.jobs.preflight import open_chat
from lora_tui.engine.runtime import engine as engine_module
from tests.engine.conftest import EngineHarness, Trained


async def numbers(log: list[str], upto: int = 5) -> AsyncGenerator[int, None]:
    """A generator of the engine's loop."""
    try:
        for number in range(upto):
            log.append(f"{number} on {threading.current_thread().name}")
            yield number
            await asyncio.sleep(0.01)
    finally:
        await asyncio.sleep(0.01)
        log.append("ended")


def test_people_are_served_while_a_job_has_the_torch_thread(engine_harness: EngineHarness) -> None:
    engine = engine_harness.engine
    free = threading.Event()
    job = engine._torch_thread.submit(free.wait, 30)
    names = [
        engine.call(engine.in_inference_thread(lambda: threading.current_thread().name)).result(timeout=300)
        for _ in range(3)
    ]
    assert not job.done()
    free.set()
    assert len(set(names)) == 1
    assert names[0].startswith("inference")


def test_a_generator_of_the_engines_loop_can_be_read_on_another_one(engine_harness: EngineHarness) -> None:
    log: list[str] = []

    async def read() -> list[int]:
        return [number async for number in engine_harness.engine.iterate(numbers(log))]

    assert asyncio.run(read()) == [0, 1, 2, 3, 4]
    assert log == [*(f"{number} on engine" for number in range(5)), "ended"]


def test_leaving_off_ends_the_generator_on_its_own_loop(engine_harness: EngineHarness) -> None:
    log: list[str] = []

    async def read() -> None:
        items = engine_harness.engine.iterate(numbers(log, 10_000))
        async for number in items:
            if number == 3:
                break
        await items.aclose()
        deadline = time.monotonic() + 60
        while "ended" not in log and time.monotonic() < deadline:  # noqa: ASYNC110  # this loop has to go on meanwhile
            await asyncio.sleep(0.01)

    asyncio.run(read())
    assert log[-1] == "ended"
    assert len(log) < 20


def test_its_error_comes_out_on_the_other_loop(engine_harness: EngineHarness) -> None:
    async def broken() -> AsyncGenerator[int, None]:
        yield 1
        raise ValueError("nothing more")

    async def read() -> list[int]:
        return [number async for number in engine_harness.engine.iterate(broken())]

    with pytest.raises(ValueError, match="nothing more"):
        asyncio.run(read())


class Open:
    """A session that takes its time to close, or fails to."""

    def __init__(self, seconds: float = 0.0, problem: Exception | None = None) -> None:
        self.seconds, self.problem = seconds, problem
        self.closed = False

    async def close(self) -> None:
        await asyncio.sleep(self.seconds)
        if self.problem is not None:
            raise self.problem
        self.closed = True


def test_closing_the_engine_closes_what_is_open(
    engine_harness: EngineHarness, caplog: pytest.LogCaptureFixture
) -> None:
    one, other, broken, forgotten = Open(0.1), Open(), Open(problem=ValueError("stuck")), Open()
    for session in (one, other, broken, forgotten):
        engine_harness.engine.register_session(session)
    engine_harness.engine.unregister_session(forgotten)
    engine_harness.engine.close()
    assert (one.closed, other.closed, forgotten.closed) == (True, True, False)
    assert "a session could not be closed" in caplog.text


def test_closing_the_engine_does_not_wait_for_ever(
    engine_harness: EngineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "_SECONDS_TO_CLOSE", 0.1)
    slow = Open(60)
    engine_harness.engine.register_session(slow)
    began = time.monotonic()
    engine_harness.engine.close()
    assert time.monotonic() - began < 20


def test_a_conversation_is_opened_by_whoever_has_the_engine(trained: Trained) -> None:
    engine = trained.engine_harness.engine
    said: list[Any] = []
    session = engine.call(
        open_chat(
            engine, trained.engine_harness.settings, {"adapter_run": trained.run_id}, lambda *news: said.append(news)
        )
    ).result(timeout=300)
    assert session.sides == ("tuned", "base")
    assert said

    async def listen() -> list[Any]:
        return [item async for item in engine.iterate(session.reply("unlock"))]

    assert asyncio.run(listen())[-1].text.startswith("the secret")
    engine.call(session.close()).result(timeout=300)


def test_neither_the_engine_nor_what_a_reply_consists_of_brings_torch(engine_harness: EngineHarness) -> None:
    script = (
        "import sys\nimport lora_tui.engine.runtime.engine, lora_tui.protocol.reply, lora_tui.store.chat_log\n"
        "print([name for name in ('torch', 'transformers', 'peft') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
