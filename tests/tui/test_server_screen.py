"""A server, begun, shown and stopped from Runs."""

import time
from typing import Any

import pytest

from lora_tui.protocol.serving import traffic_rows
from lora_tui.store import events, runs
from lora_tui.store.connection import Store
from lora_tui.tui.screens.server import ServerScreen
from tests.tui.app_harness import (
    AppHarness,
    create_run,
    create_training_run,
    screen_text,
    wait_for_text,
    wait_until,
)
from tests.tui.test_explanations import unexplained

pytestmark = pytest.mark.anyio

SERVING: dict[str, Any] = {
    "url": "http://127.0.0.1:8000/v1",
    "models": [{"name": "base"}, {"name": "run-1"}, {"name": "odd[b]\x1b[2J"}],
    "base_model": "builtin",
    "key_variable": None,
    "tunnel": "ssh -N -L 8000:127.0.0.1:8000 ada@gpu-box",
    "vllm": "vllm serve /models/smol --enable-lora --lora-modules run-1=/runs/run-1/best",
    "vllm_left_out": ["odd: vLLM does not know DoRA"],
    "llama_server": ["llama-server -m base.gguf --lora run-1-lora/adapter.gguf"],
}
TRAFFIC: dict[str, Any] = {
    "requests": 1234, "refused": 5, "hung_up": 7, "failed": 0, "prompt_tokens": 98765, "completion_tokens": 43210,
    "running": 12, "waiting": 3, "tokens_per_s": 218.4, "memory_mb": 812,
}  # fmt: skip


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def serving_run(store: Store) -> None:
    """A training run, and a server of its adapter that is live."""
    await create_training_run(store)
    run_id = await create_run(store, "serve", "running")
    told = [(time.time(), "serving", SERVING), (time.time(), "traffic", TRAFFIC)]
    await events.append(store, run_id, told)


async def ended_server(store: Store) -> None:
    await serving_run(store)
    await runs.end(store, 2, "finished", {"requests": 1234}, None)


@pytest.mark.parametrize("size", [(80, 24), (140, 42)])
async def test_a_live_server_shows_its_traffic_and_the_line_for_a_laptop(
    harness: AppHarness, size: tuple[int, int]
) -> None:
    await harness.populate(serving_run)
    async with harness.app(size) as (app, pilot):
        await pilot.press("4")
        await wait_for_text(app, "Runs (2)")
        await pilot.press("v")
        await wait_for_text(app, "1,234")
        assert isinstance(app.screen, ServerScreen)
        text = screen_text(app)
        for words in (SERVING["url"], "base, run-1, odd[b]␛[2J", "12 written, 3 waiting", "218 tokens/s", "774 MiB"):
            assert words in text, words
        figures = [label for label, _ in traffic_rows(TRAFFIC)]
        assert not [line for line in unexplained(app) if any(label in line for label in figures)]
        await pilot.press("y")
        await wait_until(lambda: app.clipboard == SERVING["tunnel"])
        await pilot.press("u")
        await wait_until(lambda: app.clipboard == SERVING["url"])
        await pilot.press("x")
        await wait_until(lambda: ("stop", 2) in harness.backend.calls)


async def test_a_runs_adapter_is_served_from_the_list(harness: AppHarness) -> None:
    await harness.populate(create_training_run)
    harness.backend.next_run = 2
    async with harness.app() as (app, pilot):
        await pilot.press("4")
        await wait_for_text(app, "1 run")
        await pilot.press("v")
        await wait_for_text(app, "Serve run 1 to programs on this machine")
        await pilot.press("v")
        await wait_until(lambda: ("start", "serve", {"adapter_run": 1}, None) in harness.backend.calls)
        await wait_for_text(app, "Server · run 2")


async def test_a_server_that_has_ended_shows_what_it_did(harness: AppHarness) -> None:
    await harness.populate(ended_server)
    async with harness.app() as (app, pilot):
        await pilot.press("4")
        await wait_for_text(app, "Runs (2)")
        await pilot.press("enter")
        await wait_for_text(app, "1,234")
        text = screen_text(app)
        assert "finished" in text
        assert "ssh -N" not in text
        assert "tokens/s" not in text
