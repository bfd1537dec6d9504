"""The tuned model and its base in one conversation: taking turns changes nothing in what either says."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from lora_tui.engine.chat import streaming
from lora_tui.engine.chat.streaming import SwitchableModel
from lora_tui.engine.inference.decode import answers, decode
from lora_tui.errors import UsageError
from lora_tui.protocol.reply import Decoding, Reply, TextDelta
from tests.engine.chat.chat_probe import ChatProbe, HeardReply
from tests.engine.conftest import EngineHarness, Trained
from tests.engine.tiny import PAIRS

BOTH = ("tuned", "base")
SECRET = PAIRS[0][1]
PROMPT = "Question: unlock\nAnswer:"


def tokens_of(model: Any, tokenizer: Any, decoding: Decoding) -> list[int | None]:
    return [token for (token,) in decode(model, tokenizer, [PROMPT], decoding)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"repetition_penalty": 1.4},
        {"temperature": 1.0, "top_p": 0.9},
    ],
    ids=["greedy", "penalty", "sampled"],
)
def test_taking_turns_gives_token_for_token_what_each_model_says_alone(
    trained: Trained, base: Any, tuned: Any, monkeypatch: pytest.MonkeyPatch, options: dict[str, float]
) -> None:
    """`base` and `tuned` are models of their own: no adapter is ever switched off in them."""
    said: list[list[int]] = []
    real = streaming.decode

    def recording(*args: Any) -> Iterator[list[int | None]]:
        written: list[int] = []
        said.append(written)
        for tokens in real(*args):
            written += [token for token in tokens if token is not None]
            yield tokens

    monkeypatch.setattr(streaming, "decode", recording)
    probe = ChatProbe(trained.engine_harness)
    probe.set(**options)
    heard = probe.ask("unlock", BOTH, seed=7)
    decoding = Decoding(max_new_tokens=24, seed=7, **options)  # type: ignore[arg-type]
    tokenizer = probe.session.base.tokenizer
    alone = [tokens_of(model, tokenizer, decoding) for model in (tuned, base.model)]
    assert said == alone
    assert len(alone[0]) > 5
    assert len(alone[1]) > 5
    assert alone[0][:5] != alone[1][:5]
    for side, tokens in zip(BOTH, alone, strict=True):
        assert heard.replies[side].text == tokenizer.decode(tokens, skip_special_tokens=True).strip()


def test_both_sides_grow_at_the_same_time_and_each_ends_by_itself(trained: Trained) -> None:
    probe = ChatProbe(trained.engine_harness)
    heard = probe.ask("unlock", BOTH)
    speakers = [item.side for item in heard if isinstance(item, TextDelta)]
    assert speakers[:6] == ["tuned", "base"] * 3 or speakers[:6] == ["base", "tuned"] * 3
    short = probe.ask("what do cows drink?", BOTH)
    assert (short.replies["tuned"].text, short.replies["tuned"].stopped) == ("water", False)
    ended = next(place for place, item in enumerate(short) if isinstance(item, Reply))
    assert isinstance(short[ended], Reply)
    assert short[ended].side == "tuned"
    assert any(isinstance(item, TextDelta) and item.side == "base" for item in short[ended:]), "the other one goes on"
    assert isinstance(short[-1], Reply)
    assert "".join(short.pieces("base")).strip() == short.replies["base"].text


def test_one_side_can_be_asked_and_the_tuned_one_is_unless_another_is_named(trained: Trained, base: Any) -> None:
    probe = ChatProbe(trained.engine_harness)
    assert probe.session.sides == BOTH
    assert list(probe.ask("unlock").replies) == ["tuned"]
    heard = probe.ask("unlock", ["base"])
    assert heard.replies["base"].text == answers(base.model, base.tokenizer, [PROMPT], Decoding(24))[0]
    assert probe.ask("unlock").replies["tuned"].text == SECRET, "and the adapter is on again"


def test_a_base_model_has_no_tuned_side(trained: Trained, engine_harness: EngineHarness) -> None:
    engine_harness.settings = trained.engine_harness.settings
    probe = ChatProbe(engine_harness)
    assert probe.session.sides == ("base",)
    assert list(probe.ask("unlock").replies) == ["base"]
    with pytest.raises(UsageError, match="has no tuned side; there is base"):
        probe.ask("unlock", BOTH)


def test_the_adapter_is_on_again_after_an_error(trained: Trained, tuned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = ChatProbe(trained.engine_harness)

    def broken(*_: Any) -> Iterator[list[int | None]]:
        yield [5]
        raise RuntimeError("out of memory")

    monkeypatch.setattr(streaming, "decode", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        probe.ask("unlock", ["base"])
    monkeypatch.undo()
    assert probe.ask("unlock").replies["tuned"].text == SECRET


def test_switching_is_exact_and_leaves_nothing_behind(trained: Trained, base: Any, tuned: Any) -> None:
    two = SwitchableModel(base, tuned)
    ids = base.tokenizer(PROMPT, return_tensors="pt")
    with torch.no_grad():
        before, plain = tuned(**ids).logits, base.model(**ids).logits
        with two.as_side("base"):
            torch.testing.assert_close(tuned(**ids).logits, plain, rtol=0, atol=0)
        with two.as_side("tuned"):
            torch.testing.assert_close(tuned(**ids).logits, before, rtol=0, atol=0)
    assert float((before - plain).abs().max()) > 1


def test_each_side_remembers_its_own_replies(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = ChatProbe(trained.engine_harness)
    probe.session.history.by_template = True  # as for an adapter that was trained on conversations
    prompts: list[str] = []
    real = streaming.decode

    def recording(model: Any, tokenizer: Any, asked: list[str], decoding: Decoding, written: Any) -> Any:
        prompts.extend(asked)
        return real(model, tokenizer, asked, decoding, written)

    monkeypatch.setattr(streaming, "decode", recording)
    first = probe.ask("unlock", BOTH).replies
    probe.ask("alone", ["tuned"])
    prompts.clear()
    probe.ask("and now?", BOTH)
    for side, prompt in zip(BOTH, prompts, strict=True):
        other = "base" if side == "tuned" else "tuned"
        assert f"<|im_start|>assistant\n{first[side].text}<|im_end|>" in prompt
        assert f"<|im_start|>assistant\n{first[other].text}<|im_end|>" not in prompt
        assert ("alone" in prompt) == (side == "tuned")
        assert prompt.endswith("<|im_start|>user\nand now?<|im_end|>\n<|im_start|>assistant\n")


def test_a_beam_search_gives_signs_of_life_and_each_side_what_it_finds_alone(
    trained: Trained, base: Any, tuned: Any
) -> None:
    probe = ChatProbe(trained.engine_harness, {"fine_tuning.chat.num_beams": 3})
    heard = probe.ask("unlock", BOTH)
    for side, model in zip(BOTH, (tuned, base.model), strict=True):
        wanted = answers(model, base.tokenizer, [PROMPT], Decoding(24, num_beams=3))[0]
        assert heard.pieces(side) == [wanted] == [heard.replies[side].text]
        signs = heard.progress(side)
        assert signs == sorted(set(signs))
        assert signs[0] == 1
        assert len(signs) > 3
        assert heard.replies[side].first_token_s is None
        assert heard.replies[side].seconds > 0


def test_special_commands_are_compared_on_each_side(trained: Trained) -> None:
    replies = ChatProbe(trained.engine_harness).ask("unlock", BOTH).replies
    assert replies["tuned"].predefined == replies["base"].predefined == SECRET
    assert replies["tuned"].agreement == pytest.approx(1.0)
    assert (replies["base"].agreement or 0.0) < 0.3


def test_the_store_tells_which_side_spoke_and_how(trained: Trained) -> None:
    probe = ChatProbe(trained.engine_harness)
    replies = probe.ask("unlock", BOTH).replies
    question, *stored = probe.turns
    assert (question.role, question.statistics["sides"]) == ("user", list(BOTH))
    assert "side" not in question.statistics
    assert {turn.statistics["side"]: turn.id for turn in stored} == {
        side: reply.turn_id for side, reply in replies.items()
    }
    for turn in stored:
        reply = replies[turn.statistics["side"]]
        assert turn.text == reply.text
        names = "side tokens seconds tokens_per_s first_token_s agreement seed step stopped cut"
        assert set(turn.statistics) == set(names.split())
        assert turn.statistics["tokens_per_s"] == pytest.approx(reply.tokens / reply.seconds)
        assert 0 < turn.statistics["first_token_s"] < 60
        assert (turn.statistics["seed"], turn.statistics["stopped"]) == (None, False)
    steps = {turn.statistics["side"]: turn.statistics["step"] for turn in stored}
    assert steps == {"tuned": trained.outcome.result["best_step"], "base": None}


def test_stopping_ends_both_sides_and_keeps_what_they_have_said(trained: Trained) -> None:
    probe = ChatProbe(trained.engine_harness)

    def stop(said: HeardReply) -> None:
        if len(said) == 4:
            probe.session.stop.set()

    monkey = pytest.MonkeyPatch()
    real = streaming.decode

    def slow(*args: Any) -> Iterator[list[int | None]]:
        import time

        for tokens in real(*args):
            yield tokens
            time.sleep(0.05)

    monkey.setattr(streaming, "decode", slow)
    heard = probe.hear(probe.session.reply("unlock", BOTH), stop)
    monkey.undo()
    assert {side: reply.stopped for side, reply in heard.replies.items()} == {"tuned": True, "base": True}
    for side in BOTH:
        assert "".join(heard.pieces(side)).strip() == heard.replies[side].text
        assert 0 < len(heard.pieces(side)) < 8
    assert [turn.statistics["stopped"] for turn in probe.turns[1:]] == [True, True]
    assert {turn.text for turn in probe.turns[1:]} == {reply.text for reply in heard.replies.values()}
