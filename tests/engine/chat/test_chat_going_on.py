"""Replies that were cut at their limit or stopped, and go on as if they had not been."""

from typing import Any

import pytest

from lora_tui.engine.inference.decode import answers
from lora_tui.errors import UsageError
from lora_tui.protocol.reply import Decoding
from lora_tui.store import chat_log
from tests.engine.chat.chat_probe import ChatProbe, HeardReply
from tests.engine.conftest import EngineHarness, Trained
from tests.engine.tiny import PAIRS

SECRET = PAIRS[0][1]
BOTH = ("tuned", "base")
PROMPT = "Question: tell me\nAnswer:"


def go_on(probe: ChatProbe, *sides: str) -> HeardReply:
    return probe.hear(probe.session.continue_reply(sides or None))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "how", [{}, {"repetition_penalty": 1.3}, {"num_beams": 3}, {"temperature": 1.2, "top_p": 0.9}], ids=str
)
def test_a_reply_that_was_cut_goes_on_as_if_it_had_not_been(trained: Trained, how: dict[str, Any]) -> None:
    probe = ChatProbe(trained.engine_harness)
    probe.set(max_new_tokens=21, **how)
    seed = 7 if "temperature" in how else None
    whole = probe.ask("tell me", ["base"], seed=seed).replies["base"]
    assert (whole.cut, whole.tokens) == (True, 21)
    probe.set(max_new_tokens=7)
    first = probe.ask("tell me", ["base"], seed=seed)
    second, third = go_on(probe), go_on(probe)
    replies = [heard.replies["base"] for heard in (first, second, third)]
    assert [reply.tokens for reply in replies] == [7, 14, 21]
    assert all(reply.cut for reply in replies)
    pieces = [piece for heard in (first, second, third) for piece in heard.pieces("base")]
    assert "".join(pieces).strip() == replies[2].text
    if "num_beams" not in how:  # a search goes on from the best so far, and would have found another
        assert replies[2].text == whole.text
    assert replies[2].seed == seed


def test_what_streams_is_what_a_batch_answers(trained: Trained) -> None:
    probe = ChatProbe(trained.engine_harness)
    base = probe.session.base
    for limit in (3, 20, 60):
        probe.set(max_new_tokens=limit)
        heard = probe.ask("tell me", BOTH)  # type: ignore[arg-type]
        for side in heard.replies:
            with probe.session.model.as_side(side):
                (wanted,) = answers(probe.session.model.model, base.tokenizer, [PROMPT], Decoding(limit))
            wanted = wanted.rstrip("\N{REPLACEMENT CHARACTER}")  # half of a character, at the limit
            assert heard.replies[side].text == wanted
            assert "".join(heard.pieces(side)).strip() == wanted


def test_the_turn_and_the_history_grow_and_nothing_is_asked_twice(trained: Trained) -> None:
    probe = ChatProbe(trained.engine_harness)
    probe.set(max_new_tokens=4)
    first = probe.ask("unlock").replies["tuned"]
    assert first.cut
    assert SECRET.startswith(first.text)
    probe.set(max_new_tokens=60)
    second = go_on(probe).replies["tuned"]
    assert (second.text, second.cut, second.turn_id) == (SECRET, False, first.turn_id)
    assert second.agreement == pytest.approx(1.0)
    assert second.seconds > first.seconds
    question, reply = probe.turns
    assert (question.text, reply.text) == ("unlock", SECRET)
    assert (reply.statistics["cut"], reply.statistics["tokens"]) == (False, second.tokens)
    assert [message["content"] for message in probe.session.history.messages["tuned"]] == ["unlock", SECRET]
    with pytest.raises(UsageError, match="nothing can go on"):
        go_on(probe)
    again = probe.regenerate().replies["tuned"]
    assert again.text == SECRET
    assert len(probe.turns) == 4


def test_the_sides_that_were_cut_go_on(trained: Trained) -> None:
    probe = ChatProbe(trained.engine_harness)
    probe.set(max_new_tokens=4)
    probe.ask("unlock", BOTH)  # type: ignore[arg-type]
    assert list(go_on(probe, "base").replies) == ["base"]
    probe.set(max_new_tokens=60)
    assert set(go_on(probe).replies) == set(BOTH)
    assert set(go_on(probe).replies) == {"base"}, "the tuned one has said all"


def test_a_reply_that_was_stopped_goes_on(trained: Trained) -> None:
    probe = ChatProbe(trained.engine_harness)
    _, stopped = probe.say("unlock", stop_after=1)
    assert stopped.stopped
    assert not stopped.cut
    assert go_on(probe).replies["tuned"].text == SECRET


def test_a_full_context_is_said(trained: Trained) -> None:
    probe = ChatProbe(trained.engine_harness)
    probe.set(max_new_tokens=4)
    probe.ask("unlock")
    probe.session.history.context = 10
    with pytest.raises(UsageError, match="context of 10 tokens is full"):
        go_on(probe)
    assert len(probe.turns) == 2


def test_questions_of_all_conversations_are_remembered_once_each(engine_harness: EngineHarness) -> None:
    async def talk(store: Any) -> list[str]:
        for _ in range(2):
            conversation = await chat_log.begin(store, None, "tiny", None)
            for text in ("first", "second", "first"):
                await chat_log.add_turn(store, conversation, "user", text)
                await chat_log.add_turn(store, conversation, "assistant", "a reply")
        return await chat_log.recent_questions(store)

    assert engine_harness.ask(talk) == ["second", "first"]
