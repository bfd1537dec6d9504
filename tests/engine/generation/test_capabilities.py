"""What is learned from a refusal, and what is not."""

from dataclasses import replace

import pytest

from lora_tui.engine.generation.client.enforcement import Enforcement, gbnf
from lora_tui.engine.generation.client.wire import Capabilities, ChatRequest, exceeds_context
from lora_tui.engine.generation.prompts import PAIR_SCHEMA, PAIRS_SCHEMA

SAMPLING = {"temperature": 1.0, "top_p": 0.9, "presence_penalty": 1.0, "frequency_penalty": 1.0}
PLAIN = ChatRequest("m", [], 300, SAMPLING)
PAIRS = ChatRequest("m", [], 300, SAMPLING, PAIR_SCHEMA, "json_schema")
DIGITS = ChatRequest("m", [], 10, {"temperature": 0.0, "logprobs": True})


def refuse(dialect: Capabilities, message: str, ask: ChatRequest = PAIRS) -> str | None:
    return dialect.learn(dialect.parameters(ask), message)


def test_everything_is_asked_for_at_first() -> None:
    parameters = Capabilities().parameters(PLAIN)
    assert parameters["max_tokens"] == 300
    assert parameters["presence_penalty"] == 1.0
    digits = Capabilities().parameters(DIGITS)
    assert digits["top_logprobs"] == 10
    assert "presence_penalty" not in digits
    assert "response_format" not in digits


ENFORCED: list[tuple[Enforcement, str]] = [
    ("json_schema", "response_format"),
    ("json_object_schema", "response_format"),
    ("json_object", "response_format"),
    ("tool_call", "tools"),
    ("grammar", "grammar"),
]


@pytest.mark.parametrize(("enforcement", "named"), ENFORCED)
def test_where_a_form_is_enforced_no_penalty_fights_it(enforcement: Enforcement, named: str) -> None:
    parameters = Capabilities().parameters(replace(PAIRS, enforcement=enforcement))
    assert named in parameters.keys() | parameters.get("extra_body", {}).keys()
    assert not parameters.keys() & {"presence_penalty", "frequency_penalty"}
    assert parameters["temperature"] == 1.0


@pytest.mark.parametrize(("enforcement", "named"), ENFORCED)
@pytest.mark.parametrize("message", ["{} is not supported", "Bad request"])
def test_a_form_that_is_refused_is_named_and_left_to_the_caller(
    enforcement: Enforcement, named: str, message: str
) -> None:
    dialect, asked = Capabilities(), replace(PAIRS, enforcement=enforcement)
    assert refuse(dialect, message.format(named), asked) == named
    assert refuse(dialect, message.format(named), asked) == named, "nothing was left out"


def test_each_way_to_enforce_a_form_is_a_shape_of_its_own() -> None:
    dialect = Capabilities()
    shapes = [replace(PAIRS, enforcement=enforcement) for enforcement, _ in ENFORCED] + [PLAIN]
    for shape in shapes:
        assert not dialect.is_proven(shape)
        dialect.prove(dialect.parameters(shape))


def test_the_grammar_of_a_schema() -> None:
    grammar = gbnf(PAIRS_SCHEMA)
    assert grammar.startswith("root ::= rule2\n")
    assert '"\\"evidence\\":" space string "," space "\\"question\\":" space string' in grammar
    assert 'rule1 ::= "[" space (rule0 ("," space rule0){0,4})? "]" space' in grammar
    assert 'rule2 ::= "{" space "\\"pairs\\":" space rule1 "}" space' in grammar


@pytest.mark.parametrize("name", ["presence_penalty", "frequency_penalty", "top_p", "temperature"])
def test_a_parameter_that_is_named_is_dropped_alone(name: str) -> None:
    dialect = Capabilities()
    assert refuse(dialect, f"Unsupported value: '{name}'", PLAIN) == name
    assert name not in dialect.parameters(PLAIN)
    assert len(dialect.parameters(PLAIN)) == len(Capabilities().parameters(PLAIN)) - 1


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
    assert refuse(dialect, "Bad request") == "response_format"
    dialect.prove(dialect.parameters(PAIRS))
    assert refuse(dialect, "Bad request") is None
    assert refuse(dialect, "Bad request", PLAIN) == "presence_penalty"
    assert refuse(dialect, "Bad request", DIGITS) == "logprobs"


def test_guessing_ends() -> None:
    dialect = Capabilities()
    guesses = []
    while (guess := refuse(dialect, "Bad request", PLAIN)) is not None:
        guesses.append(guess)
    assert guesses == ["presence_penalty", "frequency_penalty", "max_tokens"]


def test_a_text_that_is_too_long_is_no_matter_of_dialect() -> None:
    message = "This model's maximum context length is 4096 tokens, max_tokens 300"
    assert refuse(Capabilities(), message) is None
    assert exceeds_context(message)
    assert not exceeds_context("max_tokens unsupported")
