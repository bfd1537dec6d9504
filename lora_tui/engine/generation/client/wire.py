"""What comes over the wire, taken apart without trust in its form: answers, error bodies, broken connections."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lora_tui.engine.generation.chunks import estimate_tokens
from lora_tui.engine.generation.generation_model import Usage
from lora_tui.engine.generation.replies import cleaned

TokenLogprobs = tuple[str, Mapping[str, float]]
"""A token of a reply, and the log-probabilities of the candidates at its place."""


class NotAnAnswer(Exception):  # noqa: N818  # a finding about one body
    """A body that is not JSON; the text is its beginning."""


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
    attempt: int, body: str, headers: Mapping[str, str], prompt_tokens: int, redact: Callable[[str], str]
) -> Reply:
    """Return the answer in `body`; `prompt_tokens` is our estimate where nobody counts. Raises `NotAnAnswer`."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        raise NotAnAnswer(body[:80]) from None
    choices = _get(answer, "choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = _get(choice, "message")
    content = _get(message, "content")
    text = redact(cleaned(content)) if isinstance(content, str) else ""
    refusal = _get(message, "refusal") or _get(_get(answer, "error"), "message") or ""
    return Reply(
        attempt=attempt,
        text=text,
        finish_reason=str(_get(choice, "finish_reason") or ""),
        refusal=redact(cleaned(str(refusal)))[:300],
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
