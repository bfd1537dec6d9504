"""Replies of the OpenAI API: the answers of one request as they come, whole or as chunks of a stream."""

import json
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from lora_tui.engine.inference.sequences import DecodedToken
from lora_tui.engine.serving.text_stream import TextStream, token_text

DONE = b"data: [DONE]\n\n"
"""How a stream ends."""


def encoded(value: Mapping[str, Any]) -> bytes:
    """JSON as it is sent."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def server_event(value: Mapping[str, Any]) -> bytes:
    """A chunk of a stream."""
    return b"data: " + encoded(value) + b"\n\n"


@dataclass
class Answer:
    """One choice of a reply: its text so far, why it has ended, and the log-probabilities that were not sent yet."""

    stream: TextStream
    text: str = ""
    tokens: int = 0
    finish_reason: Literal["stop", "length"] | None = None
    logprobs: list[DecodedToken] = field(default_factory=list)

    def take(self, token: DecodedToken) -> str:
        """Take the next token; returns the text that may be sent now."""
        added = ""
        if token.token is not None:
            self.tokens += 1
            if token.logprob is not None:
                self.logprobs.append(token)
            added = self.stream.add(token.token)
        if token.ended and not self.stream.is_stopped:
            added += self.stream.finish()
        if token.ended or self.stream.is_stopped:
            self.finish_reason = "length" if token.ended == "length" and not self.stream.is_stopped else "stop"
        self.text += added
        return added

    def taken_logprobs(self) -> list[DecodedToken]:
        """The tokens whose log-probabilities were not sent yet."""
        taken, self.logprobs = self.logprobs, []
        return taken


@dataclass
class ReplyWriter:
    """The JSON of one request's reply, a chat's or a completion's."""

    tokenizer: PreTrainedTokenizerBase
    model: str
    is_chat: bool
    prompt_tokens: int
    has_logprobs: bool
    answers: Sequence[Answer]
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self) -> dict[str, Any]:
        """The reply in one piece, when all answers have ended."""
        choices = [self._choice(place, answer) for place, answer in enumerate(self.answers)]
        kind = "chat.completion" if self.is_chat else "text_completion"
        return {**self._head(kind), "choices": choices, "usage": self.usage()}

    def opening(self, place: int) -> dict[str, Any]:
        """The first chunk of a chat's answer, which says who speaks."""
        return self._chunk([self._delta(place, {"role": "assistant", "content": ""})])

    def chunk(self, place: int, added: str) -> dict[str, Any]:
        """A chunk with what an answer has gained, and why it has ended if it has."""
        answer = self.answers[place]
        logprobs = self._logprobs(answer.taken_logprobs(), len(answer.text) - len(added))
        if not self.is_chat:
            choice = {"index": place, "text": added, "logprobs": logprobs, "finish_reason": answer.finish_reason}
            return self._chunk([choice])
        delta = {"content": added} if added or answer.finish_reason is None else {}
        return self._chunk([self._delta(place, delta, logprobs, answer.finish_reason)])

    def usage_chunk(self) -> dict[str, Any]:
        """The last chunk, with the counts of tokens, where they were asked for."""
        return {**self._chunk([]), "usage": self.usage()}

    def usage(self) -> dict[str, int]:
        """Counts of tokens; those of a prompt count once, however many choices there are."""
        written = sum(answer.tokens for answer in self.answers)
        total = self.prompt_tokens + written
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": written, "total_tokens": total}

    def _head(self, kind: str) -> dict[str, Any]:
        prefix = "chatcmpl" if self.is_chat else "cmpl"
        return {"id": f"{prefix}-{self.id}", "object": kind, "created": self.created, "model": self.model}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self.is_chat else "text_completion"
        return {**self._head(kind), "choices": choices}

    def _choice(self, place: int, answer: Answer) -> dict[str, Any]:
        logprobs = self._logprobs(answer.taken_logprobs(), 0)
        if not self.is_chat:
            return {"index": place, "text": answer.text, "logprobs": logprobs, "finish_reason": answer.finish_reason}
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        return {"index": place, "message": message, "logprobs": logprobs, "finish_reason": answer.finish_reason}

    def _delta(
        self, place: int, delta: Mapping[str, str], logprobs: Any = None, finish_reason: str | None = None
    ) -> dict[str, Any]:
        return {"index": place, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}

    def _logprobs(self, tokens: Iterable[DecodedToken], offset: int) -> dict[str, Any] | None:
        if not self.has_logprobs:
            return None
        if self.is_chat:
            return {"content": [self._logprob(token) for token in tokens], "refusal": None}
        listed = [token for token in tokens if token.token is not None]
        texts = [token_text(self.tokenizer, token.token or 0)[0] for token in listed]
        offsets = [offset + sum(map(len, texts[:place])) for place in range(len(texts))]
        top = [{token_text(self.tokenizer, one)[0]: value for one, value in token.top} for token in listed]
        return {
            "tokens": texts,
            "token_logprobs": [token.logprob for token in listed],
            "top_logprobs": top,
            "text_offset": offsets,
        }

    def _logprob(self, token: DecodedToken) -> dict[str, Any]:
        entry = self._entry(token.token or 0, token.logprob)
        return {**entry, "top_logprobs": [self._entry(one, value) for one, value in token.top]}

    def _entry(self, token: int, logprob: float | None) -> dict[str, Any]:
        text, data = token_text(self.tokenizer, token)
        return {"token": text, "logprob": logprob, "bytes": data}
