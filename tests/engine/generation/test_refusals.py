"""Error answers of servers as people meet them: what each means, and what of it is shown."""

import json
from typing import Any

import pytest

from lora_tui.engine.generation.client.refusals import error_in_answer, meaning_of, read_error

SENT = {"model": "m-7b", "messages": [], "max_tokens": 10, "temperature": 0.0, "logprobs": True, "top_logprobs": 10}


def meaning(status: int, message: str = "", body: Any = None, **more: Any) -> str:
    said = {"error": {"message": message, **more}} if body is None else body
    return meaning_of(read_error(status, json.dumps(said)), SENT, "m-7b")


@pytest.mark.parametrize(
    ("status", "message", "more", "what"),
    [
        (403, "You may not request logprobs from this model.", {}, "parameter"),
        (400, "Unsupported parameter: 'max_tokens' is not supported with this model.", {}, "parameter"),
        (400, "Unsupported value: 'temperature' does not support 0 with this model.", {}, "parameter"),
        (500, "logprobs is not supported for models created with logits_all=False", {}, "parameter"),
        (400, "m-7b is not a valid model ID", {"code": 400}, "model"),
        (400, "Model Not Exist", {"code": "invalid_request_error"}, "model"),
        (404, "model 'm-7b' not found, try pulling it first", {}, "model"),
        (400, "The requested model 'm-7b' is not supported by any provider", {"code": "model_not_supported"}, "model"),
        (403, "Project does not have access to model `m-7b`", {"code": "model_not_found"}, "model"),
        (400, "The model `m-7b` has been decommissioned", {"code": "model_decommissioned"}, "model"),
        (400, "No models loaded. Please load a model", {}, "model"),
        (402, "Insufficient Balance", {}, "credit"),
        (402, "This request requires more credits", {}, "credit"),
        (400, "Your credit balance is too low to access the API", {}, "credit"),
        (429, "You exceeded your current quota, please check your plan", {"code": "insufficient_quota"}, "credit"),
        (401, "Incorrect API key provided", {}, "key"),
        (400, "API key not valid. Please pass a valid API key.", {}, "key"),
        (403, "Country not supported", {}, "forbidden"),
        (400, "The response was filtered", {"code": "content_filter"}, "filtered"),
        (400, "The prompt triggered Azure OpenAI's content management policy", {}, "filtered"),
        (403, "m-7b requires moderation on this provider. Your input was flagged", {}, "filtered"),
        (400, "Bad", {"innererror": {"code": "ResponsibleAIPolicyViolation"}}, "filtered"),
        (400, "This model's maximum context length is 512 tokens", {}, "context"),
        (500, "Context size has been exceeded.", {}, "context"),
        (429, "Rate limit reached for requests per minute", {}, "rate"),
        (429, "Request too large for m-7b on tokens per min (TPM): Limit 100, Requested 900", {}, "too_large"),
        (503, "Loading model", {}, "busy"),
        (529, "Overloaded", {}, "busy"),
        (500, "The engine is currently overloaded", {}, "busy"),
        (502, "Bad gateway", {}, "server"),
        (504, "The upstream server took too long to answer", {}, "server"),
        (503, "The queue is too long", {}, "busy"),
        (429, "The queue is too long", {}, "rate"),
        (408, "Waiting took too long", {}, "server"),
        (503, "The moderation service is temporarily unavailable", {}, "busy"),
        (502, "nginx: temperature of the upstream", {}, "server"),
        (413, "The prompt is too long", {}, "context"),
        (408, "", {}, "server"),
        (400, "The plain HTTP request was sent to HTTPS port", {}, "tls"),
        (400, "Bad request", {}, "other"),
        (418, "I am a teapot", {}, "other"),
    ],
)
def test_each_kind_of_refusal_is_told_by_what_it_says(
    status: int, message: str, more: dict[str, Any], what: str
) -> None:
    assert meaning(status, message, **more) == what


def test_a_quota_of_a_minute_is_a_rate_limit() -> None:
    """Google says the same words of both, and adds when to come back."""
    details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "38s"}]
    said = {"code": 429, "message": "You exceeded your current quota, please check your plan and billing details."}
    assert meaning(429, body=[{"error": {**said, "details": details}}]) == "rate"
    assert meaning(429, body=[{"error": said}]) == "credit"


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (
            [{"error": {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"}}],
            "API key not valid.",
        ),
        (
            {"object": "error", "message": "Invalid model: m", "type": "invalid_model", "code": "1500"},
            "Invalid model: m",
        ),
        ({"detail": [{"loc": ["body", "top_p"], "msg": "must be less"}]}, "body.top_p: must be less"),
        ({"detail": "Not Found"}, "Not Found"),
        ({"error": "model is busy"}, "model is busy"),
        ({"error": {"message": 5}}, '{"error": {"message": 5}}'),
        ("plain", '"plain"'),
        ([], "[]"),
    ],
)
def test_what_a_server_says_is_found_in_any_form(body: Any, shown: str) -> None:
    assert read_error(400, json.dumps(body)).message == shown


@pytest.mark.parametrize(
    "body", ["", "<html>", "[" * 100_000, '{"error": ' * 50_000, "\x00", "null", '{"error": [[[]]]}']
)
def test_no_body_breaks_the_reading_of_an_error(body: str) -> None:
    assert meaning_of(read_error(500, body), SENT, "m-7b") in ("server", "other")
    assert error_in_answer(body) is None or body.startswith('{"error": [')


def test_an_error_inside_an_answer_has_the_status_that_it_names() -> None:
    found = error_in_answer('{"error": {"message": "Rate limit exceeded: per-min.", "code": 429}}')
    assert found is not None
    assert meaning_of(found, SENT, "m-7b") == "rate"
    found = error_in_answer('{"choices": [{"error": {"message": "Provider overloaded"}, "message": {"content": ""}}]}')
    assert found is not None
    assert found.status == 503
    assert error_in_answer('{"choices": [{"message": {"content": ""}}]}') is None
