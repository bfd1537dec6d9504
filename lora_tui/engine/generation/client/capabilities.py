"""What an endpoint's model has been found to understand, learned from what it refuses.

Every server speaks a dialect: json_schema or only json_object, `max_tokens` or `max_completion_tokens`, no penalties,
no log-probabilities. The first request uses everything; a refusal (HTTP 400 and its kin) takes the feature out that the
message names or, where it names none and nothing like this request has ever been answered, the next one of a ladder.
What was learned holds for the rest of the run. Pure: this module sends nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

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
