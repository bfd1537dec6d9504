"""Prompts of a conversation: each side's own past, as much of it as the model's context holds."""

from typing import Any

import pytest

from lora_tui.engine.chat.history import History
from lora_tui.engine.models.loaded_checks import context_tokens
from lora_tui.errors import UsageError
from tests.engine.chat.chat_probe import ChatProbe
from tests.engine.conftest import Trained
from tests.engine.tiny import make_model, make_tokenizer


def history(context: int | None, exchanges: int = 5, *, by_template: bool = True) -> History:
    found = History(make_tokenizer(), by_template, context)
    for number in range(exchanges):
        found.add("base", f"question {number}", f"answer {number}")
    return found


def length(found: History, text: str) -> int:
    return len(found.tokenizer(text)["input_ids"])


def test_the_whole_past_is_in_the_prompt_where_it_fits() -> None:
    for context in (None, 1024):
        found = history(context)
        prompt = found.prompt("base", "and now?", 50)
        assert all(f"question {number}" in prompt.text and f"answer {number}" in prompt.text for number in range(5))
        assert (prompt.forgotten, prompt.max_new_tokens) == (0, 50)
        assert "question" not in found.prompt("tuned", "and now?", 50).text


def test_the_oldest_exchanges_are_left_out_until_the_reply_has_its_room() -> None:
    whole = length(history(None), history(None).prompt("base", "and now?", 20).text)
    for context in range(whole + 20, 80, -1):
        found = history(context)
        prompt = found.prompt("base", "and now?", 20)
        assert length(found, prompt.text) + 20 <= context
        assert prompt.max_new_tokens == 20
        kept = [number for number in range(5) if f"question {number}" in prompt.text]
        assert kept == list(range(prompt.forgotten, 5))
        assert [number for number in range(5) if f"answer {number}" in prompt.text] == kept
        if prompt.forgotten:  # and no exchange too many
            found.messages["base"] = found.messages["base"][2 * prompt.forgotten - 2 :]
            found.context = None
            assert length(found, found.prompt("base", "and now?", 20).text) + 20 > context
    assert prompt.forgotten > 2
    assert len(history(60).messages["base"]) == 10, "what is left out is not thrown away"


def test_a_reply_longer_than_the_context_leaves_half_of_it_to_the_past_and_is_cut() -> None:
    found = history(200, exchanges=2)
    prompt = found.prompt("base", "and now?", 5000)
    assert prompt.forgotten < 2
    assert prompt.max_new_tokens == 200 - length(found, prompt.text) >= 100


def test_a_question_that_fills_the_context_alone_is_refused() -> None:
    found = history(64)
    with pytest.raises(UsageError, match=r"The question is \d+ tokens long, and this model's context holds 64"):
        found.prompt("base", "why " * 64, 20)
    nearly = found.prompt("base", "why " * 8, 60)
    assert nearly.forgotten == 5
    assert 0 < nearly.max_new_tokens < 60


def test_the_training_form_holds_the_last_question_alone() -> None:
    prompt = history(None, by_template=False).prompt("base", "and now?", 20)
    assert prompt.text == "Question: and now?\nAnswer:"
    assert history(64, exchanges=50, by_template=False).prompt("base", "and now?", 20).forgotten == 0


def test_a_template_does_not_begin_twice() -> None:
    tokenizer = make_tokenizer(adds_bos=True)
    tokenizer.chat_template = "<|endoftext|>" + tokenizer.chat_template
    text = History(tokenizer, True, None).prompt("base", "hi", 20).text
    assert tokenizer(text)["input_ids"].count(tokenizer.bos_token_id) == 1


def test_the_context_is_the_models_own() -> None:
    assert context_tokens(make_model(make_tokenizer(), max_position_embeddings=77)) == 77

    class Config:
        def get_text_config(self) -> Any:
            return self

    class Endless:
        config = Config()

    assert context_tokens(Endless()) is None  # type: ignore[arg-type]


def test_a_conversation_that_outgrows_the_context_says_so_once(trained: Trained) -> None:
    probe = ChatProbe(trained.engine_harness)
    probe.session.history.by_template = True
    probe.session.history.context = 150
    notes = [probe.ask(f"number {number}?", ["base"]).notes for number in range(8)]
    said = [note for note in notes if note]
    assert len(said) == 1
    assert "longer than this model's context (150 tokens with the reply)" in said[0][0]
    assert notes[0] == []
    probe.wait(probe.session.clear())
    probe.set(max_new_tokens=60)
    assert sum(len(probe.ask(f"number {number}?", ["base"]).notes) for number in range(8)) == 1, "and of a new one, too"


def test_a_question_that_cannot_be_held_is_not_stored(trained: Trained) -> None:
    probe = ChatProbe(trained.engine_harness)
    probe.session.history.context = 32
    with pytest.raises(UsageError, match="context holds 32"):
        probe.ask("why " * 50)
    assert probe.turns == []
    assert probe.ask("hello").replies
