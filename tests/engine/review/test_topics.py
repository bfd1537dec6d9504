"""Weights of topics are changed while a run generates: it asks nothing more about what is left out."""

import asyncio
import time
from collections.abc import Callable

import pytest

from lora_tui.engine.review.runs import weigh_topic
from lora_tui.engine.runtime.engine import Engine
from lora_tui.errors import UsageError
from lora_tui.store.connection import Store
from tests.engine.generation.conftest import harness, running_server, server  # noqa: F401  # fixtures
from tests.engine.generation.generation_harness import GenerationHarness
from tests.openai_server import made_up_text


def wait_for(found: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_live_run_takes_over_what_is_left_out(harness: GenerationHarness) -> None:  # noqa: F811
    harness.write("long.txt", made_up_text(9, 60))
    harness.server.held_after["generate"] = 2  # so that most is still to be asked, however long the change takes

    async def leave_out(number: int) -> None:
        async with await Store.open(harness.store) as store:
            with pytest.raises(UsageError, match="no topic 99"):
                await weigh_topic(store, 1, 99, 1.0)
            with pytest.raises(UsageError, match="0 to 8"):
                await weigh_topic(store, 1, number, -1.0)
            await weigh_topic(store, 1, number, 0.0)

    engine = Engine(harness.store)
    engine.start()
    try:
        run_id, future = engine.submit("generate", harness.settings(total_examples=14, max_concurrency=2))
        assert run_id == 1
        wait_for(lambda: bool(harness.value("SELECT COUNT(*) FROM pairs WHERE json_extract(slot, '$.area') > 0")))
        asyncio.run(leave_out(harness.value("SELECT number FROM topics WHERE name='long'")))
        wait_for(lambda: bool(harness.value("SELECT COUNT(*) FROM commands WHERE kind='topics' AND done_at > 0")))
        at = time.time()
        del harness.server.held_after["generate"]
        assert future.result(timeout=120).state in ("finished", "failed")
    finally:
        engine.close()
    planned = harness.rows("SELECT source FROM tasks WHERE kind='generate' AND created_at > ?", at)
    assert planned
    assert "long.txt" not in {source for (source,) in planned}
