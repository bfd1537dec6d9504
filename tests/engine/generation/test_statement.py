"""Plain statements become pairs by the configured model."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest

from lora_tui.engine.jobs.format_file import StatementModel
from lora_tui.engine.runtime.context import RunContext
from lora_tui.errors import LoraTuiError, UnreachableError
from lora_tui.store.connection import Store
from tests.engine.generation.generation_harness import GenerationHarness
from tests.openai_server import MALFORMED, http


def convert(
    harness: GenerationHarness, work: Callable[[Callable[[str], Awaitable[tuple[str, str]]]], Awaitable[Any]]
) -> Any:
    async def story() -> Any:
        from concurrent.futures import ThreadPoolExecutor

        from lora_tui.engine.runtime.context import EventWriter
        from lora_tui.store import runs

        async with await Store.open(harness.store) as store:
            run_id = await runs.create(store, "format", {}, {})
            writer = EventWriter(store, run_id, on_failure=lambda: None)
            with ThreadPoolExecutor(1) as pool:
                ctx = RunContext(run_id, harness.settings(), {}, store, False, writer, pool)
                try:
                    async with aclosing(StatementModel(ctx)) as writes:
                        return await work(writes)
                finally:
                    await writer.close()

    return asyncio.run(story())


def test_a_statement_becomes_a_pair(harness: GenerationHarness) -> None:
    assert convert(harness, lambda writes: writes("Bees dance {in} the hive.")) == (
        "What about Bees?",
        "Bees dance {in} the hive.",
    )
    assert harness.server.received[0].body["response_format"]["type"] == "json_schema"


def test_a_statement_of_which_nothing_is_made_fails_alone(harness: GenerationHarness) -> None:
    async def work(writes: Callable[[str], Awaitable[tuple[str, str]]]) -> tuple[str, str]:
        harness.server.next_faults.extend([MALFORMED, MALFORMED])
        with pytest.raises(LoraTuiError, match="two unusable replies") as raised:
            await writes("Bees dance.")
        assert not isinstance(raised.value, UnreachableError)
        return await writes("Ants walk.")

    assert convert(harness, work)[1] == "Ants walk."


def test_a_key_that_a_model_says_comes_into_no_file(
    harness: GenerationHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "ghp_aB1cD2eF3gH4iJ5kL6mN7oP8qR9sT0uV1wX2"
    said = f'{{"question": "What about bees?", "answer": "They dance to {key}."}}'

    async def work(writes: Callable[[str], Awaitable[tuple[str, str]]]) -> tuple[str, str]:
        with monkeypatch.context() as patched:
            patched.setattr(harness.server, "_content", lambda *_: ("statement", said))
            with pytest.raises(LoraTuiError, match="which the statement does not") as raised:
                await writes("Bees dance.")
        assert key not in str(raised.value)
        return await writes(f"Ants hold {key}.")

    assert key in convert(harness, work)[1], "what a user has written is theirs"


def test_a_key_that_is_refused_ends_them_all(harness: GenerationHarness) -> None:
    harness.server.next_faults.append(http(401))
    with pytest.raises(UnreachableError, match="refuses the key"):
        convert(harness, lambda writes: writes("Bees dance."))


def test_without_a_key_there_is_no_writer(harness: GenerationHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    harness.values["base_url"] = ""
    with pytest.raises(UnreachableError, match="OPENAI_API_KEY is not set"):
        convert(harness, lambda writes: writes("Bees dance."))
