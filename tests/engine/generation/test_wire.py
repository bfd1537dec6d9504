"""Answers of any form are taken apart without an exception."""

import json
from typing import Any

import pytest

from lora_tui.engine.generation.client.wire import MOST_CHARACTERS, ChatReply, NotJson, read_reply
from lora_tui.engine.generation.replies import _expected_levels
from lora_tui.scoring.judge import parse_reply
from tests.openai_server import token_logprobs


def read(body: Any) -> ChatReply:
    text = body if isinstance(body, str) else json.dumps(body)
    return read_reply(1, text, {"x-request-id": "r1"}, 100, lambda shown: shown.replace("KEY", "[key]"))


def answer(**message: Any) -> dict[str, Any]:
    return {"choices": [{"message": message, "finish_reason": "stop"}]}


def test_an_answer_as_documented() -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}
    usage |= {"completion_tokens_details": {"reasoning_tokens": 1}}
    reply = read(answer(content="hello KEY") | {"usage": usage})
    assert (reply.text, reply.finish_reason, reply.usage.request_id) == ("hello KEY", "stop", "r1")
    assert reply.usage.reply == "hello [key]", "only what is kept as a record"
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.cached_tokens) == (5, 2, 4)
    assert reply.usage.reasoning_tokens == 1


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        "null",
        "5",
        {"choices": None},
        {"choices": []},
        {"choices": ["x"]},
        {"choices": [{"message": None}]},
        answer(),
        answer(content=None),
        answer(content=[{"type": "thinking", "thinking": "x"}]),
        {"choices": {"0": {}}},
    ],
)
def test_an_answer_without_content_is_empty(body: Any) -> None:
    reply = read(body)
    assert reply.text == ""
    assert reply.usage.prompt_tokens == 100


@pytest.mark.parametrize("body", ["", "<html>", '{"choices": [', "[" * 100_000])
def test_what_is_no_json_is_no_answer(body: str) -> None:
    with pytest.raises(NotJson):
        read(body)


def test_a_refusal_and_an_error_in_disguise_say_why() -> None:
    assert read(answer(content=None, refusal="I must not")).refusal == "I must not"
    assert read({"error": {"message": "model overloaded"}}).refusal == "model overloaded"


@pytest.mark.parametrize(
    "content",
    [None, "x", [], [{}], [{"token": 5}], [{"token": "5", "top_logprobs": [{"token": "5", "logprob": "high"}]}]],
)
def test_log_probabilities_of_another_form_are_none_or_empty(content: Any) -> None:
    body = answer(content="5")
    body["choices"][0]["logprobs"] = {"content": content}
    assert all(not candidates for _, candidates in read(body).logprobs)


def levels(text: str, tokens: list[str]) -> list[float] | None:
    parsed = parse_reply(text)
    assert parsed is not None
    body = answer(content=text)
    body["choices"][0]["logprobs"] = {"content": [token_logprobs(token) for token in tokens]}
    return _expected_levels(parsed, text, read(body).logprobs)


def test_levels_are_expected_from_the_digits_own_tokens() -> None:
    assert levels("5 4 3", ["5", " ", "4", " ", "3"]) == pytest.approx([4.8, 3.8, 2.8])
    assert levels("5 4 3", ["5", " 4", " 3"]) == pytest.approx([4.8, 3.8, 2.8])


def test_digits_in_the_thoughts_are_not_mistaken_for_the_levels() -> None:
    text = "<think>1 or 2?</think>5 4 3"
    assert levels(text, ["<think>", "1", " or ", "2", "?", "</think>", "5", " 4", " 3"]) == pytest.approx(
        [4.8, 3.8, 2.8]
    )


@pytest.mark.parametrize("tokens", [[], ["5 4 3"], ["5", " 4"], ["x", " 4", " 3"]])
def test_without_a_token_for_each_digit_there_is_no_expectation(tokens: list[str]) -> None:
    assert levels("5 4 3", tokens) is None


def test_an_answer_in_parts_is_its_text_parts() -> None:
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}
    assert read(answer(content=[thought, {"type": "text", "text": "x"}, {"type": "text", "text": "y"}])).text == "xy"


def test_an_answer_that_a_server_took_for_reasoning_is_one_where_it_ended() -> None:
    body = answer(content=None, reasoning_content="5 5 5")
    assert read(body).text == "5 5 5"
    body["choices"][0]["finish_reason"] = "length"
    assert read(body).text == "", "cut off in its thoughts"


@pytest.mark.parametrize("counted", [10**30, -5, 1.5, True, "9", None, float("nan"), [1]])
def test_a_count_that_cannot_be_one_is_replaced_by_the_estimate(counted: Any) -> None:
    usage = read(answer(content="x" * 40) | {"usage": {"prompt_tokens": counted, "completion_tokens": counted}}).usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (100, 10)


def test_a_reply_of_megabytes_is_cut_and_no_key_is_kept_of_it() -> None:
    reply = read(answer(content="sk-proj-abcdefghijklmnop " + "y" * 5_000_000))
    assert len(reply.text) == MOST_CHARACTERS
    assert "sk-proj-abcdefghijklmnop" not in reply.usage.reply


def test_log_probabilities_of_any_size_are_read() -> None:
    body = answer(content="5")
    top = [{"token": str(n), "logprob": value} for n, value in enumerate([10**400, -(10**400), -0.1], start=3)]
    body["choices"][0]["logprobs"] = {"content": [{"token": "5", "top_logprobs": top}]}
    assert read(body).logprobs == (("5", {"5": -0.1}),)


def test_a_request_id_is_kept_short_and_without_keys() -> None:
    def kept(written: str) -> str | None:
        return read_reply(
            1, "{}", {"x-request-id": written}, 1, lambda text: text.replace("KEY", "[key]")
        ).usage.request_id

    assert kept("req-KEY-1") == "req-[key]-1"
    assert kept("req-sk-proj-abcdefghijklmnop") == "req-[redacted]"
    assert len(kept("r" * 5000) or "") == 200
