"""The wire format of OpenAI-compatible chat completions: addresses, request parameters, answers and error bodies.

Servers differ in the parameters they know: `max_tokens` or `max_completion_tokens`, no penalties, no log-probabilities.
The first request uses everything; a refusal (HTTP 400 and its kin) removes the parameter that the message names or, if
it names none and no request of this shape was ever answered, the next one of a list. What `Capabilities` has learned
holds for the rest of the run. The form of the reply is the caller's to choose: its refusal is only reported.

Pure: nothing is sent from here, and the client's library is not imported, so that a job can look at an address without
it. Nothing that a server sends is trusted in its form.
"""

import ipaddress
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin, urlsplit, urlunsplit

from lora_tui.engine.data.survey import estimate_tokens
from lora_tui.engine.generation.client.enforcement import (
    ENFORCEMENT_PARAMETERS,
    Enforcement,
    enforcement_parameters,
)
from lora_tui.secrets import redact
from lora_tui.store.rows import AttemptEnd

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def request_body(parameters: Mapping[str, Any]) -> bytes:
    """Return the body of a request, ``extra_body`` laid out beside the other parameters."""
    sent = {name: value for name, value in parameters.items() if name != "extra_body"}
    sent |= parameters.get("extra_body", {})
    return _ENCODER.encode(sent).encode("utf-8", "replace")


def is_loopback(url: str) -> bool:
    """Tell whether an address names this machine."""
    host = urlsplit(url).hostname or ""
    return host == "localhost" or host.endswith(".localhost") or host.startswith("127.") or host == "::1"


def is_own_network(url: str) -> bool:
    """Tell whether an address names this machine or one of the network it is in: nobody there asks for money."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return is_loopback(url) or "." not in host or host.endswith((".local", ".lan", ".internal", ".home.arpa"))


def shown_url(url: str) -> str:
    """Return an address without user, password, query and fragment."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    return urlunsplit((parts.scheme, f"{host}:{parts.port}" if parts.port else host, parts.path.rstrip("/"), "", ""))


def redirected_base(address: str, location: str) -> str | None:
    """Return the base address that a redirect leads to, or None where that is another host, or a weaker connection.

    `location` is what an endpoint at the base `address` has answered to a request for completions. From http to https
    on the same host is no other host.
    """
    try:
        target = urljoin(f"{address.rstrip('/')}/chat/completions", location)
        old, new = urlsplit(address), urlsplit(target)
        safer = (old.scheme, new.scheme) == ("http", "https") and new.port in (None, 443)
        same = new.hostname == old.hostname and (safer or (new.scheme, new.port) == (old.scheme, old.port))
    except ValueError:
        return None
    path = new.path.rstrip("/")
    if not location or not same or not path.endswith("/completions"):
        return None
    path = path.removesuffix("/completions").removesuffix("/chat")
    return urlunsplit((new.scheme, old.netloc if not safer else new.netloc, path, "", ""))


_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_TOKENS_KEYS = ("max_tokens", "max_completion_tokens")
_SUSPECTS: Mapping[str, Sequence[str]] = {
    **ENFORCEMENT_PARAMETERS,
    **{name: (name,) for name in ("logprobs", "presence_penalty", "frequency_penalty", "top_p", "temperature")},
    **dict.fromkeys(_TOKENS_KEYS, _TOKENS_KEYS),
}
"""Parameters that a server may not know, the likeliest first, and the words by which a refusal names each."""

MOST_CHARACTERS = 200_000
"""Characters of a reply that are read and kept; one of some hundred tokens has a few thousand."""

_MOST_TOKENS = 100_000_000
"""The most tokens that one call can have used; a count above is none."""

_LARGEST_LOGPROB = 1e6
_LONGEST_ID = 200
_TEXT_PARTS = ("text", "output_text")

_NEVER_GUESSED = ("top_p", "temperature")
_PENALTIES = ("presence_penalty", "frequency_penalty")
_CONTEXT_WORDS = ("context length", "context_length", "context window", "context size", "maximum context", "too long")


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One request, not yet fitted to a server: `sampling` are parameters that it may not know.

    `schema` is the JSON schema of the reply, or None for plain text; `enforcement` how the server is to hold the model
    to it. Penalties go out only where it is not: they push against the braces and keys that have to come again. Of the
    requests that wait for a place, those that go `ahead` get theirs first.
    """

    model: str
    messages: Sequence[dict[str, str]]
    max_tokens: int
    sampling: Mapping[str, float | bool]
    schema: Mapping[str, object] | None = None
    enforcement: Enforcement = "none"
    ahead: bool = False


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """One request to go on with a text (``/completions``), up to one of the texts in `stop`."""

    model: str
    prompt: str
    max_tokens: int
    sampling: Mapping[str, float]
    stop: Sequence[str] = ()
    ahead: bool = False


Request = ChatRequest | CompletionRequest


def estimated_prompt_tokens(request: Request) -> int:
    """Return about how many tokens the text of a request has."""
    if isinstance(request, CompletionRequest):
        return estimate_tokens(request.prompt)
    return sum(estimate_tokens(message["content"]) for message in request.messages)


@dataclass
class Capabilities:
    """The parameters that one model at one endpoint understands, learned from its refusals."""

    tokens_key: str = "max_tokens"
    dropped: set[str] = field(default_factory=set)
    _proven: set[tuple[str, ...]] = field(default_factory=set)
    _tokens_key_swapped: bool = False

    def parameters(self, request: Request) -> dict[str, Any]:
        """Return the request's parameters as far as the endpoint is believed to understand them."""
        sampling = {name: value for name, value in request.sampling.items() if name not in self.dropped}
        if isinstance(request, CompletionRequest):
            text = {"model": request.model, "prompt": request.prompt, "max_tokens": request.max_tokens}
            return text | {"stop": list(request.stop)} | sampling
        parameters: dict[str, Any] = {
            "model": request.model,
            "messages": [dict(message) for message in request.messages],
            self.tokens_key: request.max_tokens,
        }
        form = {} if request.schema is None else enforcement_parameters(request.enforcement, request.schema)
        parameters |= {name: value for name, value in sampling.items() if not form or name not in _PENALTIES}
        if "logprobs" in parameters:
            parameters["top_logprobs"] = 10
        return parameters | form

    def is_proven(self, request: Request) -> bool:
        """Tell whether a request of this shape was answered before."""
        return _shape(self.parameters(request)) in self._proven

    def prove(self, parameters: Mapping[str, Any]) -> None:
        """Record that a request of this shape was answered."""
        self._proven.add(_shape(parameters))

    def learn(self, parameters: Mapping[str, Any], message: str) -> str | None:
        """Learn from a refusal; returns the parameter that is left out from now on, or None if nothing explains it.

        One of `ENFORCEMENT_PARAMETERS` is only named, not left out: without it the request would be another one.
        """
        text = message.lower()
        if exceeds_context(text):
            return None
        fixed = _TOKENS_KEYS if self._tokens_key_swapped else ()
        sent = parameters.keys() | parameters.get("extra_body", {}).keys()
        suspects = [name for name in _SUSPECTS if name in sent and name not in fixed]
        found = [name for name in suspects if any(word in text for word in _SUSPECTS[name])]
        if not found and _shape(parameters) not in self._proven:
            found = [name for name in suspects if name not in _NEVER_GUESSED]
        return self._leave_out(found[0]) if found else None

    def _leave_out(self, name: str) -> str:
        if name in ENFORCEMENT_PARAMETERS:
            return name
        if name in _TOKENS_KEYS:
            self._tokens_key_swapped = True
            self.tokens_key = _TOKENS_KEYS[1 - _TOKENS_KEYS.index(name)]
        else:
            self.dropped.add(name)
        return name


def exceeds_context(message: str) -> bool:
    """Tell whether an error text says that prompt and reply are too long for the model."""
    return any(word in message.lower() for word in _CONTEXT_WORDS)


def _shape(parameters: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what capabilities depend on: the parameters' names and the response format."""
    form = parameters.get("response_format", {})
    return (*sorted(parameters), *sorted(form), form.get("type", ""))


def names_a_parameter(message: str, parameters: Mapping[str, Any]) -> bool:
    """Tell whether an error text of the server names an optional parameter that was sent."""
    sent = [name for name in _SUSPECTS if name in parameters and name not in (*_TOKENS_KEYS, *_NEVER_GUESSED)]
    return any(word in message.lower() for name in sent for word in _SUSPECTS[name])


def sent_names(parameters: Mapping[str, Any]) -> list[str]:
    """Return the names of the parameters that were sent beside model and text: what a refusal may be about."""
    return [name for name in parameters if name not in ("model", "messages", "prompt", "stop", "extra_body")]


TokenLogprobs = tuple[str, Mapping[str, float]]
"""A token of a reply, and the log-probabilities of the candidate tokens at its position."""


class NotJson(Exception):  # noqa: N818  # a finding about one body
    """A body of HTTP 200 that is not JSON (a proxy's page, half a body); the text is that body."""


def cleaned(text: str) -> str:
    """Return a text as the store can hold it: NULs and halves of surrogate pairs become U+FFFD."""
    return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", text)


@dataclass(frozen=True, slots=True)
class ChatReply:
    """The answer to an attempt whose end has not been recorded yet: that depends on what the reader makes of it.

    `text` is empty where the answer has no choices or no content; `refusal` then says why, if the server does. `usage`
    is the attempt's end if the answer is of use; its tokens are the server's count or, where it counts none, our
    estimate.
    """

    attempt: int
    text: str
    finish_reason: str
    refusal: str
    logprobs: tuple[TokenLogprobs, ...]
    usage: AttemptEnd

    @property
    def is_cut_off(self) -> bool:
        """Whether the server ended the text for its length."""
        return self.finish_reason == "length"


def read_reply(
    attempt: int, body: str, headers: Mapping[str, str], prompt_tokens: int, without_key: Callable[[str], str]
) -> ChatReply:
    """Return the answer in `body`; `prompt_tokens` is our estimate. Raises `NotJson`.

    The text is what the model wrote, whatever it holds: a pair with a secret in it is refused later. Only its copy in
    the record of the attempt is `without_key`. The arguments of a tool call count as text, and so does a completion.
    """
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        raise NotJson(body) from None
    choices = _get(answer, "choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = _get(choice, "message")
    content = _text_of(_get(message, "content")) or _tool_arguments(message) or _get(choice, "text")
    if not content and _get(choice, "finish_reason") == "stop":
        # A server that parses reasoning, of a model that does none: what it wrote is all taken for reasoning.
        content = _get(message, "reasoning_content") or _get(message, "reasoning")
    text = cleaned(content[:MOST_CHARACTERS]) if isinstance(content, str) else ""
    refusal = _get(message, "refusal") or _get(_get(answer, "error"), "message") or ""
    usage = _get(answer, "usage")
    return ChatReply(
        attempt=attempt,
        text=text,
        finish_reason=str(_get(choice, "finish_reason") or ""),
        refusal=redact(without_key(cleaned(str(refusal))))[:300],
        logprobs=_logprobs(_get(_get(choice, "logprobs"), "content")),
        usage=AttemptEnd(
            status="ok",
            prompt_tokens=_count(usage, "prompt_tokens", prompt_tokens),
            completion_tokens=_count(usage, "completion_tokens", estimate_tokens(text)),
            cached_tokens=_count(
                _get(usage, "prompt_tokens_details"), "cached_tokens", _count(usage, "prompt_cache_hit_tokens", 0)
            ),
            reasoning_tokens=_count(_get(usage, "completion_tokens_details"), "reasoning_tokens", 0),
            http_status=200,
            request_id=stored_id(headers.get("x-request-id"), without_key),
            reply=redact(without_key(text)),
        ),
    )


def stored_id(written: str | None, without_key: Callable[[str], str]) -> str | None:
    """Return the number that a server or a gateway gave a request, as it may be stored: short, without keys."""
    return None if written is None else redact(without_key(cleaned(written[:1000])))[:_LONGEST_ID]


def _text_of(content: Any) -> Any:
    """Return the text of a message: where it comes in parts, its text parts without those that were only thought."""
    if not isinstance(content, list):
        return content
    parts = [part.get("text") if _get(part, "type") in _TEXT_PARTS else part for part in content]
    return "".join(part for part in parts if isinstance(part, str))


def _tool_arguments(message: Any) -> Any:
    """Return the arguments of the first tool call of a message, or None."""
    calls = _get(message, "tool_calls")
    return _get(_get(calls[0], "function"), "arguments") if isinstance(calls, list) and calls else None


def _get(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _count(counted: Any, name: str, estimate: int) -> int:
    """Return a number of tokens as the server counted it, or our estimate where that cannot be a count."""
    value = _get(counted, name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= _MOST_TOKENS else estimate


def _logprobs(content: Any) -> tuple[TokenLogprobs, ...]:
    """Return the tokens of a reply with their candidates; empty if anything about them is not as documented."""
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
            if isinstance(name, str) and isinstance(value, int | float) and abs(value) <= _LARGEST_LOGPROB:
                candidates[name] = float(value)
        found.append((token, candidates))
    return tuple(found)


def _causes(problem: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while problem is not None and problem not in found:
        found.append(problem)
        problem = problem.__cause__ or problem.__context__
    return found


def root_cause(problem: BaseException) -> str:
    """Return the reason at the root of a connection error: the client library's text says only that there was one."""
    last = _causes(problem)[-1]
    if isinstance(last, ConnectionError) and last.errno:  # asyncio's own text hides "Connection refused"
        return os.strerror(last.errno)
    return getattr(last, "strerror", None) or str(last) or type(last).__name__


def never_connected(problem: BaseException) -> bool:
    """Tell whether a connection could not be made (refused, unknown host, certificate), rather than broke."""
    return any(type(link).__name__ in ("ConnectError", "ConnectTimeout") for link in _causes(problem))
