"""Addresses of endpoints: how they are shown, and whether they leave this machine.

What an endpoint's model has been found to understand, learned from what it refuses.

Every server speaks a dialect: json_schema or only json_object, `max_tokens` or `max_completion_tokens`, no penalties,
no log-probabilities. The first request uses everything; a refusal (HTTP 400 and its kin) takes the feature out that the
message names or, where it names none and nothing like this request has ever been answered, the next one of a ladder.
What was learned holds for the rest of the run. Pure: this module sends nothing.

What comes over the wire, taken apart without trust in its form: answers, error bodies, broken connections.
"""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from lora_tui.engine.data.survey import estimate_tokens
from lora_tui.engine.generation.generation_model import Usage
from lora_tui.secrets import redact

OPENAI_URL = "https://api.openai.com/v1"
"""Where requests go when ``data_generation.base_url`` is empty."""


def is_loopback(url: str) -> bool:
    """Tell whether an address names this machine."""
    host = urlsplit(url).hostname or ""
    return host == "localhost" or host.endswith(".localhost") or host.startswith("127.") or host == "::1"


def shown_url(url: str) -> str:
    """Return an address without user, password, query and fragment."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    return urlunsplit((parts.scheme, f"{host}:{parts.port}" if parts.port else host, parts.path.rstrip("/"), "", ""))


_OPTIONAL = ("logprobs", "presence_penalty", "frequency_penalty", "top_p", "temperature")
_STRUCTURE_WORDS = ("response_format", "json_schema", "json_object", "structured", "grammar", "guided")
_CONTEXT_WORDS = ("context length", "context_length", "context window", "context size", "maximum context", "too long")


@dataclass(frozen=True, slots=True)
class Ask:
    """One request in our words. `schema` is the JSON schema of the reply, or None for plain text."""

    model: str
    messages: Sequence[Mapping[str, str]]
    max_tokens: int
    temperature: float
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    schema: Mapping[str, object] | None = None
    logprobs: bool = False


@dataclass
class Capabilities:
    """The dialect of one model at one endpoint."""

    tokens_key: str = "max_tokens"
    structures: list[str] = field(default_factory=lambda: ["json_schema", "json_object", "none"])
    dropped: set[str] = field(default_factory=set)
    _proven: set[tuple[str, ...]] = field(default_factory=set)
    _swapped: bool = False

    def parameters(self, ask: Ask) -> dict[str, Any]:
        """Return the request as the endpoint is believed to understand it."""
        parameters: dict[str, Any] = {
            "model": ask.model,
            "messages": [dict(message) for message in ask.messages],
            self.tokens_key: ask.max_tokens,
        }
        wanted = {
            "temperature": ask.temperature,
            "top_p": ask.top_p,
            "presence_penalty": ask.presence_penalty,
            "frequency_penalty": ask.frequency_penalty,
            "logprobs": True if ask.logprobs else None,
        }
        parameters |= {k: v for k, v in wanted.items() if v is not None and k not in self.dropped}
        if "logprobs" in parameters:
            parameters["top_logprobs"] = 10
        if ask.schema is not None and self.structures[0] != "none":
            parameters["response_format"] = _response_format(self.structures[0], ask.schema)
        return parameters

    def understood(self, ask: Ask) -> bool:
        """Tell whether a request of this shape has been answered before."""
        return _shape(self.parameters(ask)) in self._proven

    def answered(self, parameters: Mapping[str, Any]) -> None:
        """Note that a request of this shape was understood."""
        self._proven.add(_shape(parameters))

    def refused(self, parameters: Mapping[str, Any], message: str) -> str | None:
        """Learn from a refusal; returns what is left out from now on, in words, or None where nothing explains it."""
        text = message.lower()
        if exceeds_context(text):
            return None
        if "response_format" in parameters and any(word in text for word in _STRUCTURE_WORDS):
            return self._step_down()
        for name in _OPTIONAL:
            if name in parameters and name in text:
                return self._drop(name)
        if not self._swapped and ("max_completion_tokens" in text or "max_tokens" in text):
            return self._swap()
        if _shape(parameters) in self._proven:
            return None
        return self._next_guess(parameters)

    def _next_guess(self, parameters: Mapping[str, Any]) -> str | None:
        if "response_format" in parameters:
            return self._step_down()
        for name in _OPTIONAL[:3]:
            if name in parameters:
                return self._drop(name)
        return None if self._swapped else self._swap()

    def _step_down(self) -> str:
        gone = self.structures.pop(0)
        return f"response_format {gone}"

    def _drop(self, name: str) -> str:
        self.dropped.add(name)
        return name

    def _swap(self) -> str:
        gone, self._swapped = self.tokens_key, True
        self.tokens_key = "max_completion_tokens" if gone == "max_tokens" else "max_tokens"
        return gone


def exceeds_context(message: str) -> bool:
    """Tell whether an error text says that prompt and reply are too long for the model."""
    return any(word in message.lower() for word in _CONTEXT_WORDS)


def _shape(parameters: Mapping[str, Any]) -> tuple[str, ...]:
    form = parameters.get("response_format", {}).get("type", "")
    return (*sorted(parameters), form)


def _response_format(structure: str, schema: Mapping[str, object]) -> dict[str, object]:
    if structure == "json_object":
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"name": "reply", "schema": schema, "strict": True}}


TokenLogprobs = tuple[str, Mapping[str, float]]
"""A token of a reply, and the log-probabilities of the candidates at its place."""


class NotAnAnswer(Exception):  # noqa: N818  # a finding about one body
    """A body that is not JSON; the text is its beginning."""


_NO_TEXT = re.compile("[\0\ud800-\udfff]")


def cleaned(text: str) -> str:
    """Return a reply as the store can hold it: NULs and halves of surrogate pairs become U+FFFD."""
    return _NO_TEXT.sub("\N{REPLACEMENT CHARACTER}", text)


@dataclass(frozen=True, slots=True)
class Reply:
    """What the endpoint answered to an attempt that its `CallRecord` has not been told the end of.

    `text` is empty where the answer has no choices or no content; `refusal` then says why, if the server does.
    """

    attempt: int
    text: str
    finish_reason: str
    refusal: str
    usage: Usage
    logprobs: tuple[TokenLogprobs, ...]
    request_id: str | None


def read_reply(
    attempt: int, body: str, headers: Mapping[str, str], prompt_tokens: int, without_key: Callable[[str], str]
) -> Reply:
    """Return the answer in `body`; `prompt_tokens` is our estimate where nobody counts. Raises `NotAnAnswer`.

    Of the text only the endpoint's own key is taken out: what else may be a secret there is for the gates to refuse.
    """
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        raise NotAnAnswer(body[:80]) from None
    choices = _get(answer, "choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = _get(choice, "message")
    content = _get(message, "content")
    text = without_key(cleaned(content)) if isinstance(content, str) else ""
    refusal = _get(message, "refusal") or _get(_get(answer, "error"), "message") or ""
    return Reply(
        attempt=attempt,
        text=text,
        finish_reason=str(_get(choice, "finish_reason") or ""),
        refusal=redact(without_key(cleaned(str(refusal))))[:300],
        usage=_usage(_get(answer, "usage"), prompt_tokens, text),
        logprobs=_logprobs(_get(_get(choice, "logprobs"), "content")),
        request_id=headers.get("x-request-id"),
    )


def _get(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _usage(counted: Any, prompt_tokens: int, text: str) -> Usage:
    """Return the tokens the server counted; where it counts none, our estimate."""
    prompt, completion = _get(counted, "prompt_tokens"), _get(counted, "completion_tokens")
    cached = _get(_get(counted, "prompt_tokens_details"), "cached_tokens")
    return Usage(
        prompt if isinstance(prompt, int) else prompt_tokens,
        completion if isinstance(completion, int) else estimate_tokens(text),
        cached if isinstance(cached, int) else 0,
    )


def _logprobs(content: Any) -> tuple[TokenLogprobs, ...]:
    """Return the tokens of a reply with their candidates; empty where anything about them is not as documented."""
    if not isinstance(content, list):
        return ()
    found: list[TokenLogprobs] = []
    for entry in content:
        token, top = _get(entry, "token"), _get(entry, "top_logprobs")
        if not isinstance(token, str):
            return ()
        candidates: dict[str, float] = {}
        for candidate in top if isinstance(top, list) else []:
            name, value = _get(candidate, "token"), _get(candidate, "logprob")
            if isinstance(name, str) and isinstance(value, int | float):
                candidates[name] = float(value)
        found.append((token, candidates))
    return tuple(found)


def message_of(body: object, code: str | None, text: str) -> str:
    """Return what the server says about an error, without the client's wrapping."""
    for place in (
        _get(body, "message"),
        _get(_get(body, "error"), "message"),
        _get(body, "detail"),
        _get(body, "error"),
    ):
        if isinstance(place, str) and place:
            return f"{place} [{code}]" if code and code not in place else place
    return text


def _chain(problem: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    current: BaseException | None = problem
    while current is not None and current not in found:
        found.append(current)
        current = current.__cause__ or current.__context__
    return found


def innermost(problem: BaseException) -> str:
    """Return the reason at the bottom of a connection error: the client's own text says only that there was one."""
    last = _chain(problem)[-1]
    if isinstance(last, ConnectionError) and last.errno:  # asyncio's own text hides "Connection refused"
        return os.strerror(last.errno)
    return getattr(last, "strerror", None) or str(last) or type(last).__name__


def never_connected(problem: BaseException) -> bool:
    """Tell a connection that could not be made (refused, unknown host, certificate) from one that broke."""
    return any(type(link).__name__ == "ConnectError" for link in _chain(problem))
