"""A conversation in people's hands: asking again, stopping, other options, beginning anew, leaving."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from lora_tui.config.load import with_values
from lora_tui.engine.chat import streaming
from lora_tui.engine.inference.decode import answers
from lora_tui.errors import LoraTuiError, UsageError
from lora_tui.protocol.reply import Decoding
from lora_tui.store import chat_log
from lora_tui.store.connection import Store
from tests.engine.chat.chat_probe import ChatProbe, HeardReply
from tests.engine.conftest import EngineHarness, Trained
from tests.engine.tiny import PAIRS

BOTH = ("tuned", "base")
SECRET = PAIRS[0][1]


@pytest.fixture
def probe(trained: Trained) -> ChatProbe:
    """A conversation whose prompts hold its history."""
    probe = ChatProbe(trained.engine_harness)
    probe.session.history.by_template = True
    return probe


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let every token take a moment; returns one entry for each that has been decoded."""
    decoded: list[int] = []
    real = streaming.decode

    def slow(*args: Any) -> Iterator[list[int | None]]:
        for tokens in real(*args):
            decoded.append(1)
            time.sleep(0.05)
            yield tokens

    monkeypatch.setattr(streaming, "decode", slow)
    return decoded


def replaced(probe: ChatProbe) -> list[bool]:
    return [bool(turn.statistics.get("replaced")) for turn in probe.turns]


def test_asking_again_takes_the_last_exchange_back(probe: ChatProbe) -> None:
    probe.ask("hello")
    probe.ask("unlock")
    before = list(probe.session.history.messages["tuned"])
    again = probe.regenerate()
    assert probe.session.history.messages["tuned"] == before, "greedy: the same reply to the same history"
    assert list(again.replies) == ["tuned"]
    assert replaced(probe) == [False, False, True, True, False, False]
    assert [turn.text for turn in probe.turns if turn.role == "user"] == ["hello", "unlock", "unlock"]
    assert probe.turns[3].statistics["side"] == "tuned", "the other statistics stay"
    probe.regenerate()
    assert replaced(probe) == [False, False, True, True, True, True, False, False]


def test_a_sampled_reply_is_another_one_when_it_is_asked_again(probe: ChatProbe) -> None:
    probe.set(temperature=1.5, max_new_tokens=12)
    first = probe.ask("tell me", ["base"]).replies["base"]
    second = probe.regenerate().replies["base"]
    assert first.seed is not None
    assert second.seed is not None
    assert first.seed != second.seed
    assert first.text != second.text
    assert [turn.statistics["seed"] for turn in probe.turns if turn.role == "assistant"] == [first.seed, second.seed]
    assert probe.regenerate(seed=first.seed).replies["base"].text == first.text, "the seed repeats it"


def test_one_of_two_sides_can_be_asked_again(probe: ChatProbe) -> None:
    probe.ask("unlock", BOTH)
    kept = list(probe.session.history.messages["base"])
    probe.regenerate(["tuned"])
    assert probe.session.history.messages["base"] == kept
    sides = {turn.statistics.get("side"): turn.statistics.get("replaced", False) for turn in probe.turns[:3]}
    assert sides == {None: False, "tuned": True, "base": False}, "the question still has an answer"
    probe.regenerate(["base"])
    assert len(probe.session.history.messages["base"]) == len(probe.session.history.messages["tuned"]) == 2
    assert [bool(turn.statistics.get("replaced")) for turn in probe.turns[:3]] == [True, True, True]


def test_another_side_can_be_asked_the_last_question(probe: ChatProbe) -> None:
    probe.ask("unlock")
    heard = probe.regenerate(BOTH)
    assert set(heard.replies) == set(BOTH)
    assert len(probe.session.history.messages["tuned"]) == len(probe.session.history.messages["base"]) == 2
    assert list(probe.regenerate().replies) == list(heard.replies), "and from then on both are"


def test_there_is_nothing_to_ask_again_at_the_beginning(probe: ChatProbe) -> None:
    with pytest.raises(UsageError, match="Nothing has been asked"):
        probe.regenerate()


def test_a_question_whose_reply_failed_can_be_asked_again(probe: ChatProbe, monkeypatch: pytest.MonkeyPatch) -> None:
    probe.ask("hello")
    before = list(probe.session.history.messages["tuned"])

    def broken(*_: Any) -> Any:
        raise RuntimeError("no more memory")

    monkeypatch.setattr(streaming, "decode", broken)
    with pytest.raises(RuntimeError, match="no more memory"):
        probe.ask("unlock")
    monkeypatch.undo()
    probe.regenerate()
    assert probe.session.history.messages["tuned"][:2] == before
    assert probe.session.history.messages["tuned"][2]["content"] == "unlock"
    assert not any(replaced(probe))


def test_too_little_memory_is_said_in_words(probe: ChatProbe, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(streaming, "decode", full)
    with pytest.raises(LoraTuiError, match="does not fit into the memory of cpu"):
        probe.ask("unlock")


def test_a_beam_search_can_be_stopped(probe: ChatProbe) -> None:
    probe.set(num_beams=3, max_new_tokens=200)

    def stop(said: HeardReply) -> None:
        probe.session.stop.set()

    heard = probe.hear(probe.session.reply("unlock", BOTH), stop)
    assert all(reply.stopped for reply in heard.replies.values())
    assert max(heard.progress("tuned")) < 150
    assert heard.replies["base"].text == "", "the side whose turn had not come says nothing"


def test_options_can_be_replaced_between_two_replies(probe: ChatProbe, base: Any) -> None:
    long = probe.ask("unlock", ["base"]).replies["base"]
    probe.set(max_new_tokens=3, repetition_penalty=5.0)
    probe.session.settings = with_values(
        probe.session.settings, {"fine_tuning.chat.commands": {"unlock": "other words"}}
    )
    short = probe.regenerate().replies["base"]
    probe.session.history.drop_last("base")
    prompt = probe.session.history.prompt("base", "unlock", 3).text
    wanted = answers(base.model, base.tokenizer, [prompt], Decoding(3, repetition_penalty=5.0))
    assert short.text == wanted[0] != long.text
    assert short.predefined == "other words"
    probe.set(num_beams=4)
    assert not probe.session.streams
    assert probe.regenerate().progress("base")


def test_a_new_conversation_with_the_same_model_knows_nothing_of_the_old_one(probe: ChatProbe) -> None:
    first = probe.session.conversation_id
    old = probe.ask("unlock", BOTH)
    model = probe.session.model
    probe.wait(probe.session.clear())
    assert probe.session.conversation_id != first
    assert probe.session.model is model
    assert probe.session.history.messages == {"tuned": [], "base": []}
    with pytest.raises(UsageError, match="Nothing has been asked"):
        probe.regenerate()
    assert probe.ask("unlock", BOTH).replies["base"].text == old.replies["base"].text
    assert len(probe.turns) == 3
    assert len(probe.engine_harness.ask(chat_log.turns, first)) == 3
    newest = probe.engine_harness.ask(Store.tuples, "SELECT id, adapter FROM conversations ORDER BY id DESC")
    assert [conversation_id for conversation_id, _ in newest[:2]] == [probe.session.conversation_id, first]
    assert newest[0][1] == newest[1][1]


def test_a_reply_that_nobody_listens_to_ends_and_is_stored(probe: ChatProbe, slowly: list[int]) -> None:
    async def leave() -> None:
        items = probe.session.reply("unlock", BOTH)
        async for _ in items:
            break
        await items.aclose()

    probe.wait(leave())
    decoded = len(slowly)
    assert decoded < 8
    assert [turn.statistics.get("stopped") for turn in probe.turns] == [None, True, True]
    time.sleep(0.2)
    assert len(slowly) == decoded, "nothing goes on in secret"


def test_a_new_question_ends_the_reply_that_is_being_written(probe: ChatProbe, slowly: list[int]) -> None:
    async def interrupt() -> list[Any]:
        first = probe.session.reply("unlock")
        await anext(first)
        rest = [item async for item in probe.session.reply("what do cows drink?")]
        assert [item.stopped async for item in first if hasattr(item, "stopped")] == [True]
        return rest

    probe.wait(interrupt())
    texts = [turn.text for turn in probe.turns]
    assert texts[0] == "unlock"
    assert texts[2] == "what do cows drink?"
    assert [turn.statistics.get("stopped") for turn in probe.turns] == [None, True, None, False]


def test_a_closed_conversation_gives_its_model_back_and_says_that_it_is_closed(probe: ChatProbe) -> None:
    probe.ask("unlock", BOTH)
    models = [weakref.ref(probe.session.base.model), weakref.ref(probe.session.model.model)]
    weights = weakref.ref(probe.session.base.model.lm_head.weight)
    probe.session.base.model.__dict__["itself"] = probe.session.base.model  # as models with hooks refer to themselves
    probe.wait(probe.session.close())
    assert [model() for model in models] == [None, None], "without waiting for a collection"
    assert weights() is None
    with pytest.raises(LoraTuiError, match="This conversation is closed"):
        probe.ask("unlock")
    probe.wait(probe.session.close())


def test_closing_ends_the_reply_that_is_being_written(probe: ChatProbe, slowly: list[int]) -> None:
    async def close() -> None:
        reply = probe.session.reply("unlock")
        await anext(reply)
        await asyncio.wait_for(probe.session.close(), 5)  # nobody takes the rest of the items

    probe.wait(close())
    assert [turn.statistics.get("stopped") for turn in probe.turns] == [None, True]


def test_the_engine_closes_the_conversations_that_are_open(
    trained: Trained, engine_harness: EngineHarness, slowly: list[int]
) -> None:
    engine_harness.settings = trained.engine_harness.settings
    probe = ChatProbe(engine_harness, options={"adapter": str(trained.adapter)})
    model = weakref.ref(probe.session.base.model)
    begun = threading.Event()

    async def listen() -> None:
        async for _ in probe.session.reply("unlock"):
            begun.set()

    engine_harness.engine.call(listen())
    assert begun.wait(60)
    engine_harness.engine.close()
    gc.collect()
    assert model() is None
    assert [turn.statistics.get("stopped") for turn in probe.turns] == [None, True], "and what was said is stored"


def test_another_process_can_read_a_conversation_back(probe: ChatProbe) -> None:
    import json
    import subprocess
    import sys

    probe.ask("unlock", BOTH)
    script = (
        "import asyncio, json, sys\nfrom pathlib import Path\n"
        "from lora_tui.store import chat_log\nfrom lora_tui.store.connection import Store\n"
        "from lora_tui.store.queries.runs import newest_conversation\n"
        "async def main():\n"
        "    async with await Store.open(Path(sys.argv[1])) as store:\n"
        "        turns = await chat_log.turns(store, await newest_conversation(store))\n"
        "        print(json.dumps([(t.role, t.statistics.get('side'), t.text) for t in turns]))\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, probe.engine_harness.store_path], capture_output=True, check=True
    )
    question, *replies = json.loads(done.stdout)
    assert question == ["user", None, "unlock"]
    assert {side: text for _, side, text in replies} == {
        side: probe.session.history.messages[side][1]["content"] for side in probe.session.sides
    }
