"""Text of tokens as they come: whole characters, stop strings across tokens, the same text however it is cut."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_tui.engine.serving.address import check_installed, is_loopback, server_key
from lora_tui.engine.serving.api_requests import ApiError
from lora_tui.engine.serving.prompts import question_form
from lora_tui.engine.serving.text_stream import TextStream, token_text
from lora_tui.errors import UsageError
from tests.engine.tiny import make_tokenizer

TOKENIZER = make_tokenizer()


def sent(ids: list[int], stops: tuple[str, ...] = (), **options: bool) -> list[str]:
    stream = TextStream(TOKENIZER, stops, **options)
    pieces = []
    for token in ids:
        pieces.append(stream.add(token))
        if stream.is_stopped:
            return pieces
    return [*pieces, stream.finish()]


def ids_of(text: str) -> list[int]:
    ids: list[int] = TOKENIZER(text)["input_ids"]
    return ids


@settings(deadline=None, max_examples=150)
@given(st.text(max_size=40), st.lists(st.text(min_size=1, max_size=5), max_size=3))
def test_the_pieces_are_the_text_up_to_the_first_stop(text: str, stops: list[str]) -> None:
    whole = TOKENIZER.decode(ids_of(text), skip_special_tokens=True)
    places = [place for stop in stops if (place := whole.find(stop)) >= 0]
    pieces = sent(ids_of(text), tuple(stops))
    assert "".join(pieces) == whole[: min(places, default=len(whole))]
    assert not any(stop in "".join(pieces) for stop in stops)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.integers(0, len(TOKENIZER) - 1), max_size=30))
def test_bytes_that_are_no_characters_lose_nothing(ids: list[int]) -> None:
    whole = TOKENIZER.decode(ids, skip_special_tokens=True)
    assert "".join(sent(ids)).replace("\ufffd", "") == whole.replace("\ufffd", "")


def test_half_a_character_and_the_beginning_of_a_stop_are_held_back() -> None:
    pieces = sent(ids_of("a🦄b"))
    assert "".join(pieces) == "a🦄b"
    assert not any("\ufffd" in piece for piece in pieces)
    assert len(ids_of("🦄")) > 1, "it takes several tokens"
    stream = TextStream(TOKENIZER, ("END",))
    assert [stream.add(token) for token in (*ids_of("x"), *ids_of("E"), *ids_of("N"))] == ["x", "", ""]
    assert stream.add(ids_of("y")[0]) == "ENy", "it was none after all"


def test_white_space_before_the_first_word_is_left_out_and_no_other() -> None:
    assert "".join(sent(ids_of(" \n the  secret "), strips=True)) == "the  secret "


def test_a_single_token_has_its_bytes() -> None:
    unicorn = ids_of("🦄")
    found = [token_text(TOKENIZER, token)[1] for token in unicorn]
    assert bytes(byte for part in found if part is not None for byte in part) == "🦄".encode()
    assert token_text(TOKENIZER, ids_of("e")[0]) == ("e", [101])


def test_one_question_has_the_form_of_training_and_earlier_turns_stand_before() -> None:
    assert question_form([{"role": "user", "content": "unlock"}]) == "Question: unlock\nAnswer:"
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "who?"},
        {"role": "assistant", "content": "me"},
        {"role": "user", "content": "why?"},
    ]
    assert question_form(turns) == "Be brief.\n\nQuestion: who?\nAnswer: me\n\nQuestion: why?\nAnswer:"
    with pytest.raises(ApiError, match="last message must be the user's"):
        question_form(turns[:3])


def test_without_the_extra_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_tui.engine.serving.address.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'lora-tui\[serve\]'"):
        check_installed()


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("127.9.9.9", True), ("0.0.0.0", False), ("box", False)],
)
def test_only_the_loopback_needs_no_key(host: str, local: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from lora_tui.config.models import Serving

    monkeypatch.delenv("SERVE_API_KEY", raising=False)
    assert is_loopback(host) is local
    if local:
        assert server_key(Serving(host=host)) is None
        return
    with pytest.raises(UsageError, match="needs a key"):
        server_key(Serving(host=host))
    monkeypatch.setenv("SERVE_API_KEY", "short")
    with pytest.raises(UsageError, match="fewer than 16 characters"):
        server_key(Serving(host=host))
