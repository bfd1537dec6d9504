"""Requests of the OpenAI API, read and checked: what is asked of which model, or an error in the API's own shape.

What would change an answer and is not known here is refused; what only shades it is ignored, and named in the reply's
headers. The server itself, models and tokens are not known here.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_tui.text import one_line

MOST_CHOICES = 64
"""Answers that one request may ask for: ``n`` times its prompts."""

MOST_LOGPROBS = 20
_MOST_STOPS = 16
_LONGEST_STOP = 500

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}

_REFUSED = {
    "tools": "tools", "functions": "functions", "logit_bias": "logit_bias", "echo": "echo", "suffix": "suffix",
    "audio": "audio", "prompt_logprobs": "prompt_logprobs", "guided_json": "guided decoding",
    "guided_regex": "guided decoding", "guided_choice": "guided decoding", "guided_grammar": "guided decoding",
    "structured_outputs": "guided decoding", "use_beam_search": "beam search",
}  # fmt: skip
"""Fields that would change what the answer is; refused unless they are empty."""

_IGNORED = ("presence_penalty", "frequency_penalty", "top_k", "min_p", "reasoning_effort", "verbosity")
"""Fields that shade an answer; ignored, and named in the reply's header."""


class ApiError(Exception):
    """A request that is not answered: HTTP status, and the fields of OpenAI's ``error`` object."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, retry_after: int = 0
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.retry_after = retry_after

    def as_json(self) -> dict[str, Any]:
        """The body of the reply."""
        kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What a chat or a completion asks for.

    A chat has `messages`, a completion `prompts`: texts or tokens. `max_tokens` is None where it is left to the server,
    `top_logprobs` where no log-probabilities are wanted. `ignored` are fields that were given for nothing.
    """

    model: str
    messages: tuple[Mapping[str, str], ...] = ()
    prompts: tuple[str | tuple[int, ...], ...] = ()
    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    n: int = 1
    stop: tuple[str, ...] = ()
    seed: int | None = None
    stream: bool = False
    include_usage: bool = False
    top_logprobs: int | None = None
    ignored: tuple[str, ...] = ()

    @property
    def is_chat(self) -> bool:
        """Whether it is a conversation that is to be answered, and not a text that goes on."""
        return bool(self.messages)


def read_request(body: bytes, *, chat: bool) -> GenerationRequest:
    """Read the body of ``/v1/chat/completions`` or ``/v1/completions``; raises `ApiError` for what is wrong with it."""
    fields = _object(body)
    _refuse_unsupported(fields)
    model = fields.get("model")
    if not isinstance(model, str) or not model:
        raise ApiError(400, "You must provide a model parameter.", param="model")
    _text(model, "model")
    options = fields.get("stream_options") or {}
    if not isinstance(options, Mapping):
        raise _wrong("stream_options", "an object")
    stream = _switch(fields, "stream")
    request = GenerationRequest(
        model,
        messages=_messages(fields.get("messages")) if chat else (),
        prompts=() if chat else _prompts(fields.get("prompt")),
        max_tokens=_max_tokens(fields),
        temperature=_number(fields, "temperature", 0.0, 2.0, 1.0),
        top_p=_number(fields, "top_p", 0.0, 1.0, 1.0),
        repetition_penalty=_number(fields, "repetition_penalty", 0.01, 10.0, 1.0),
        n=_whole(fields, "n", 1, MOST_CHOICES) or 1,
        stop=_stops(fields.get("stop")),
        seed=_whole(fields, "seed", -(2**63), 2**63 - 1),
        stream=stream,
        include_usage=stream and _switch(options, "include_usage"),
        top_logprobs=_chat_logprobs(fields) if chat else _whole(fields, "logprobs", 0, MOST_LOGPROBS),
        ignored=tuple(name for name in _IGNORED if fields.get(name)),
    )
    if request.n * max(1, len(request.prompts)) > MOST_CHOICES:
        raise ApiError(400, f"At most {MOST_CHOICES} answers can be asked for in one request.", param="n")
    best_of = _whole(fields, "best_of", 1, MOST_CHOICES)
    if best_of is not None and best_of != request.n:
        raise _unsupported("best_of")
    return request


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as problem:
        reason = one_line(str(problem), 120) if isinstance(problem, ValueError) else "nested too deeply"
        raise ApiError(400, f"We could not parse the JSON body of your request: {reason}.") from problem
    if not isinstance(fields, Mapping):
        raise ApiError(400, "The body of the request must be a JSON object.")
    return fields


def _refuse_unsupported(fields: Mapping[str, Any]) -> None:
    for name, what in _REFUSED.items():
        if fields.get(name):
            raise _unsupported(name, what)
    form = fields.get("response_format")
    if form is not None and (not isinstance(form, Mapping) or form.get("type") != "text"):
        raise _unsupported("response_format", "a form of reply")
    if fields.get("tool_choice") not in (None, "none", "auto"):
        raise _unsupported("tool_choice", "tools")
    if fields.get("modalities") not in (None, ["text"]):
        raise _unsupported("modalities")


def _unsupported(name: str, what: str = "") -> ApiError:
    message = f"'{name}' is not supported by this server" + (f": it does not know {what}." if what else ".")
    return ApiError(400, message, param=name, code="unsupported_parameter")


def _wrong(name: str, wanted: str) -> ApiError:
    return ApiError(400, f"Invalid value for '{name}': it must be {wanted}.", param=name, code="invalid_value")


def _switch(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise _wrong(name, "true or false")


def _number(fields: Mapping[str, Any], name: str, least: float, most: float, default: float) -> float:
    value = fields.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise _wrong(name, f"a number from {least:g} to {most:g}")
    return float(value)


def _whole(fields: Mapping[str, Any], name: str, least: int, most: int) -> int | None:
    value = fields.get(name)
    if value is None or (name == "logprobs" and value is False):
        return None
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise _wrong(name, f"a whole number from {least:,} to {most:,}")
    return value


def _max_tokens(fields: Mapping[str, Any]) -> int | None:
    newer = _whole(fields, "max_completion_tokens", 1, 2**31)
    return _whole(fields, "max_tokens", 1, 2**31) if newer is None else newer


def _chat_logprobs(fields: Mapping[str, Any]) -> int | None:
    top = _whole(fields, "top_logprobs", 0, MOST_LOGPROBS)
    if not _switch(fields, "logprobs"):
        if top:
            raise ApiError(400, "'top_logprobs' needs 'logprobs' to be true.", param="top_logprobs")
        return None
    return top or 0


def _stops(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > _MOST_STOPS or not all(isinstance(one, str) for one in stops):
        raise _wrong("stop", f"a text, or a list of at most {_MOST_STOPS} texts")
    if any(len(one) > _LONGEST_STOP for one in stops):
        raise _wrong("stop", f"texts of at most {_LONGEST_STOP} characters")
    return tuple(_text(one, "stop") for one in stops if one)


def _messages(value: Any) -> tuple[Mapping[str, str], ...]:
    if not isinstance(value, list) or not value:
        raise _wrong("messages", "a list of at least one message")
    return tuple(_message(one, f"messages[{place}]") for place, one in enumerate(value))


def _message(message: Any, place: str) -> Mapping[str, str]:
    if not isinstance(message, Mapping):
        raise _wrong(place, "an object with role and content")
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        known = ", ".join(_ROLES)
        raise ApiError(400, f"Invalid value for '{place}.role': this server knows {known}.", param=f"{place}.role")
    if message.get("tool_calls"):
        raise _unsupported(f"{place}.tool_calls", "tools")
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(_part(one, f"{place}.content") for one in content)
    if content is None and role == "assistant":
        content = ""
    if not isinstance(content, str):
        raise _wrong(f"{place}.content", "a text, or a list of parts of type text")
    return {"role": _ROLES[role], "content": _text(content, f"{place}.content")}


def _part(part: Any, place: str) -> str:
    if isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    if isinstance(part, Mapping) and isinstance(part.get("type"), str):
        raise ApiError(400, f"'{place}': this server reads text, not {one_line(part['type'], 40)}.", param=place)
    raise _wrong(place, "a list of parts of type text")


def _prompts(value: Any) -> tuple[str | tuple[int, ...], ...]:
    wrong = _wrong("prompt", "a text, a list of texts, or tokens")
    if isinstance(value, str):
        return (_text(value, "prompt"),)
    if not isinstance(value, list) or not value:
        raise wrong
    if all(isinstance(one, str) for one in value):
        return tuple(_text(one, "prompt") for one in value)
    rows: Sequence[Any] = [value] if all(_is_token(one) for one in value) else value
    if not all(isinstance(row, list) and row and all(_is_token(one) for one in row) for row in rows):
        raise wrong
    return tuple(tuple(row) for row in rows)


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _text(value: str, place: str) -> str:
    """Return a text; half of a character pair, which JSON can hold, is in none."""
    try:
        value.encode()
    except UnicodeEncodeError as problem:
        raise ApiError(
            400, f"'{place}' holds what is not text in Unicode (a lone surrogate).", param=place
        ) from problem
    return value
