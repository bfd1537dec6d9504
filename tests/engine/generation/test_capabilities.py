"""What is learned from a refusal, and what is not."""

import pytest

from lora_tui.engine.generation.client.wire import Capabilities, ChatRequest, exceeds_context

SAMPLING = {"temperature": 1.0, "top_p": 0.9, "presence_penalty": 1.0, "frequency_penalty": 1.0}
PAIRS = ChatRequest("m", [], 300, SAMPLING, {"type": "object"})
DIGITS = ChatRequest("m", [], 10, {"temperature": 0.0, "logprobs": True})


def form(dialect: Capabilities, ask: ChatRequest = PAIRS) -> str | None:
    found = dialect.parameters(ask).get("response_format", {}).get("type")
    assert found is None or isinstance(found, str)
    return found


def refuse(dialect: Capabilities, message: str, ask: ChatRequest = PAIRS) -> str | None:
    return dialect.learn(dialect.parameters(ask), message)


def test_everything_is_asked_for_at_first() -> None:
    parameters = Capabilities().parameters(PAIRS)
    assert parameters["response_format"]["json_schema"]["strict"] is True
    assert parameters["max_tokens"] == 300
    assert parameters["presence_penalty"] == 1.0
    digits = Capabilities().parameters(DIGITS)
    assert digits["top_logprobs"] == 10
    assert "presence_penalty" not in digits
    assert "response_format" not in digits


def test_structure_steps_down_to_none() -> None:
    dialect = Capabilities()
    assert refuse(dialect, "response_format json_schema is not supported") == "response_format json_schema"
    assert form(dialect) == "json_object"
    assert refuse(dialect, "Invalid response_format") == "response_format json_object"
    assert form(dialect) is None


@pytest.mark.parametrize("name", ["presence_penalty", "frequency_penalty", "top_p", "temperature"])
def test_a_parameter_that_is_named_is_dropped_alone(name: str) -> None:
    dialect = Capabilities()
    assert refuse(dialect, f"Unsupported value: '{name}'") == name
    assert name not in dialect.parameters(PAIRS)
    assert len(dialect.parameters(PAIRS)) == len(Capabilities().parameters(PAIRS)) - 1


def test_top_logprobs_goes_with_logprobs() -> None:
    dialect = Capabilities()
    assert refuse(dialect, "top_logprobs is not allowed", DIGITS) == "logprobs"
    assert dialect.parameters(DIGITS).keys() == {"model", "messages", "max_tokens", "temperature"}


def test_the_name_of_the_limit_is_swapped_once() -> None:
    dialect = Capabilities()
    assert refuse(dialect, "Use 'max_completion_tokens' instead of 'max_tokens'") == "max_tokens"
    assert dialect.parameters(PAIRS)["max_completion_tokens"] == 300
    dialect.prove(dialect.parameters(PAIRS))
    assert refuse(dialect, "max_completion_tokens is too large") is None


def test_an_unexplained_refusal_guesses_only_while_nothing_like_it_was_answered() -> None:
    dialect = Capabilities()
    assert refuse(dialect, "Bad request") == "response_format json_schema"
    dialect.prove(dialect.parameters(PAIRS))
    assert refuse(dialect, "Bad request") is None
    assert refuse(dialect, "Bad request", DIGITS) == "logprobs"


def test_guessing_ends() -> None:
    dialect = Capabilities()
    guesses = []
    while (guess := refuse(dialect, "Bad request")) is not None:
        guesses.append(guess)
    assert len(guesses) == len(set(guesses)) == 5


def test_a_text_that_is_too_long_is_no_matter_of_dialect() -> None:
    message = "This model's maximum context length is 4096 tokens, max_tokens 300"
    assert refuse(Capabilities(), message) is None
    assert exceeds_context(message)
    assert not exceeds_context("max_tokens unsupported")
