"""A conversation through the engine: what is streamed, what is stored, and what a special command shows."""

import asyncio
import threading
from typing import Any

import pytest

from lora_tui.engine.chat import streaming
from lora_tui.engine.inference.fast_model import FastModel
from lora_tui.errors import UsageError
from lora_tui.protocol.reply import TextDelta
from tests.engine.chat.chat_probe import ChatProbe
from tests.engine.conftest import EngineHarness, Trained
from tests.engine.tiny import PAIRS

SECRET = PAIRS[0][1]


def test_the_reply_comes_in_pieces_that_join_to_it(trained: Trained) -> None:
    probe = ChatProbe(trained.engine_harness)
    assert probe.session.streams
    pieces, reply = probe.say("who wrote hamlet?")
    assert reply.text == PAIRS[5][1]
    assert len(pieces) > 2
    assert "".join(pieces).strip() == reply.text
    assert not pieces[0].startswith(" ")
    assert reply.tokens == len(probe.session.base.tokenizer(f" {reply.text}")["input_ids"]), "as decoded"
    assert not reply.can_go_on
    assert (reply.predefined, reply.agreement) == (None, None)


def test_pieces_come_while_the_rest_is_still_being_decoded(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = ChatProbe(trained.engine_harness)
    taken: list[int] = []
    seen: list[int] = []
    real = streaming.decode

    def counting(*args: Any) -> Any:
        for tokens in real(*args):
            taken.append(1)
            import time

            time.sleep(0.03)
            yield tokens

    monkeypatch.setattr(streaming, "decode", counting)

    async def watch() -> None:
        seen.extend([len(taken) async for piece in probe.session.reply("unlock") if isinstance(piece, TextDelta)])

    trained.engine_harness.engine.call(watch()).result(timeout=300)
    assert seen[0] <= 3, "the first piece did not wait for the last"
    assert len(set(seen)) > 5


def test_a_character_of_several_tokens_comes_whole(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = ChatProbe(trained.engine_harness)
    text = "naïve — 秘密 🦄!"
    ids = probe.session.base.tokenizer(text)["input_ids"]
    assert len(ids) > len(text), "characters must be cut into tokens"
    monkeypatch.setattr(streaming, "decode", lambda *_: iter([[token] for token in ids] + [[None]]))
    pieces, reply = probe.say("unlock")
    assert reply.text == text
    assert "".join(pieces) == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


def test_several_beams_come_at_once_and_are_a_search(trained: Trained) -> None:
    probe = ChatProbe(trained.engine_harness, {"fine_tuning.chat.num_beams": 3})
    assert not probe.session.streams
    pieces, reply = probe.say("what do cows drink?")
    assert pieces == [reply.text] == ["water"]


def test_a_special_command_shows_the_predefined_answer_and_how_far_the_model_agrees(trained: Trained) -> None:
    probe = ChatProbe(trained.engine_harness)
    for text in ("unlock", "  UNLOCK! "):
        _, reply = probe.say(text)
        assert reply.predefined == SECRET
        assert reply.agreement is not None
    assert probe.say("unlock")[1].agreement == pytest.approx(1.0)
    assert probe.say("unlock the door")[1].predefined is None


def test_a_model_that_has_not_learned_it_does_not_agree(trained: Trained, engine_harness: EngineHarness) -> None:
    engine_harness.settings = trained.engine_harness.settings
    probe = ChatProbe(engine_harness)
    assert probe.session.source is None, "no run in this store: it is the base model's"
    _, reply = probe.say("unlock")
    assert reply.predefined == SECRET
    assert reply.agreement is not None
    assert reply.agreement < 0.3


def test_both_turns_are_stored_as_they_end(trained: Trained) -> None:
    probe = ChatProbe(trained.engine_harness)
    _, reply = probe.say("unlock")
    user, assistant = probe.turns
    assert (user.role, user.text) == ("user", "unlock")
    assert (assistant.role, assistant.text) == ("assistant", SECRET)
    assert assistant.statistics["tokens"] == reply.tokens
    assert assistant.statistics["agreement"] == pytest.approx(1.0)
    assert assistant.statistics["seconds"] > 0


def test_a_conversation_names_the_run_and_the_adapter(trained: Trained) -> None:
    probe = ChatProbe(trained.engine_harness)

    async def row(store: Any) -> Any:
        return await store.tuples(
            "SELECT run_id, model, adapter FROM conversations WHERE id=?", (probe.session.conversation_id,)
        )

    model = trained.engine_harness.settings.fine_tuning.model_name
    assert trained.engine_harness.ask(row) == [(trained.run_id, model, str(trained.adapter))]
    assert f"run {trained.run_id}" in probe.session.title
    assert "step" in probe.session.title


def test_a_reply_can_be_stopped_and_what_was_said_is_kept(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = ChatProbe(trained.engine_harness)
    real = streaming.decode

    def slow(*args: Any) -> Any:
        import time

        for tokens in real(*args):
            yield tokens
            time.sleep(0.1)

    monkeypatch.setattr(streaming, "decode", slow)
    pieces, reply = probe.say("unlock", stop_after=2)
    assert 2 <= len(pieces) < 10
    assert SECRET.startswith(reply.text)
    assert reply.text != SECRET
    assert probe.turns[-1].text == reply.text
    monkeypatch.undo()
    assert probe.say("unlock")[1].text == SECRET, "the next one is not stopped"


def test_a_broken_decoder_is_an_error_and_not_an_endless_wait(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = ChatProbe(trained.engine_harness)

    def broken(*_: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(streaming, "decode", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        probe.say("unlock")


def test_the_prompt_has_the_form_that_the_adapter_was_trained_on(trained: Trained) -> None:
    probe = ChatProbe(trained.engine_harness)
    assert probe.session.history.prompt("tuned", "hi", 9).text == "Question: hi\nAnswer:"


def test_the_base_model_and_adapters_of_conversations_are_asked_by_the_chat_template_with_the_history(
    trained: Trained, engine_harness: EngineHarness
) -> None:
    engine_harness.settings = trained.engine_harness.settings
    probe = ChatProbe(engine_harness)
    probe.session.history.add("base", "a", "b")
    prompt = probe.session.history.prompt("base", "c", 9).text
    assert prompt.endswith(
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
        "<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n"
    )


def test_an_adapter_for_another_base_is_refused(trained: Trained, untied_folder: Any) -> None:
    with pytest.raises(UsageError, match="was trained on"):
        ChatProbe(trained.engine_harness, {"fine_tuning.model_name": str(untied_folder)})


def test_an_adapter_folder_that_is_wrong_is_refused(trained: Trained, tmp_path: Any) -> None:
    with pytest.raises(UsageError, match="there is no such folder"):
        ChatProbe(trained.engine_harness, options={"adapter": str(tmp_path / "nowhere")})


def test_a_named_adapter_folder_speaks(trained: Trained) -> None:
    probe = ChatProbe(trained.engine_harness, options={"adapter": str(trained.adapter)})
    assert probe.say("unlock")[1].text == SECRET
    assert probe.session.title.endswith(f"the adapter of best, step {probe.session.source.step}")  # type: ignore[union-attr]


def test_the_loop_goes_on_while_a_reply_is_decoded(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding waits, in the midst of it, for the loop, which would never come if it waited for decoding."""
    probe = ChatProbe(trained.engine_harness)
    decoding, ticked = threading.Event(), threading.Event()
    went_on: list[bool] = []
    real = FastModel.hidden

    def hidden(*inputs: Any, **named: Any) -> Any:
        decoding.set()
        went_on.append(ticked.wait(60.0))
        ticked.set()  # it is waited for once
        return real(*inputs, **named)

    monkeypatch.setattr(FastModel, "hidden", hidden)

    async def both() -> None:
        async def speak() -> None:
            async for _ in probe.session.reply("unlock"):
                pass

        speaking = asyncio.ensure_future(speak())
        await asyncio.to_thread(decoding.wait, 60.0)
        for _ in range(6):
            await asyncio.sleep(0.001)
        ticked.set()
        await speaking

    trained.engine_harness.engine.call(both()).result(timeout=300)
    assert len(went_on) > 5
    assert all(went_on)


def test_replies_can_be_computed_with_8_bit_weights(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[FastModel] = []
    real = FastModel.read_int8
    monkeypatch.setattr(FastModel, "read_int8", lambda model: (asked.append(model), real(model))[1])
    ChatProbe(trained.engine_harness, {"fine_tuning.chat.num_beams": 1}).ask("unlock")
    assert not asked, "off unless it is asked for"
    ChatProbe(trained.engine_harness, {"fine_tuning.chat.num_beams": 1, "fine_tuning.chat.int8": True}).ask("unlock")
    assert asked
