"""Prompts of requests as tokens: a conversation through the model's chat template, or in the form it was trained on.

All of it happens on one thread of its own, with a tokenizer of its own: a long text takes milliseconds, and a tokenizer
does not bear two threads.
"""

import asyncio
import copy
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from lora_tui.engine.data.chat_template import single_bos
from lora_tui.engine.data.template_renderer import TemplateRefusedError, render_chat
from lora_tui.engine.data.training_text import prompt_text
from lora_tui.engine.inference.sequences import SequenceRequest
from lora_tui.engine.models.adapter_source import AdapterSource
from lora_tui.engine.models.base_model import BaseModel
from lora_tui.engine.models.loaded_checks import context_tokens, known_tokens
from lora_tui.engine.serving.api_requests import ApiError, GenerationRequest
from lora_tui.protocol.reply import Decoding


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """The sequences of a request, prompt by prompt and choice by choice, and how many tokens its prompts have."""

    sequences: tuple[SequenceRequest, ...]
    prompt_tokens: int
    strips: bool


class PromptBuilder:
    """Makes sequences of requests for one base model; an answer has `max_tokens` where a request leaves it open."""

    def __init__(self, base: BaseModel, max_tokens: int) -> None:
        self._tokenizer = copy.deepcopy(base.tokenizer)
        self._context = context_tokens(base.model)
        self._known = known_tokens(base.model)
        self._max_tokens = max_tokens
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prompts")

    @property
    def context(self) -> int | None:
        """Tokens that the model reads at most, prompt and answer together; None where it does not say."""
        return self._context

    async def prepare(
        self, request: GenerationRequest, source: AdapterSource | None, adapter: str | None
    ) -> PreparedRequest:
        """Return a request's sequences; `source` is what it is answered with, `adapter` the decoder's name for that.

        Raises `ApiError` for a prompt that the model cannot read, and `ChatTemplateError`.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._prepare, request, source, adapter)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _prepare(
        self, request: GenerationRequest, source: AdapterSource | None, adapter: str | None
    ) -> PreparedRequest:
        prompts = [self._chat_ids(request.messages, source)] if request.is_chat else map(self._ids, request.prompts)
        sequences, tokens = list[SequenceRequest](), 0
        for ids in prompts:
            tokens += len(ids)
            room = self._room(request, len(ids))
            decoding = Decoding(
                room, request.temperature, request.top_p or 1e-6, request.repetition_penalty, seed=request.seed
            )
            for _ in range(request.n):
                seed = None if request.seed is None else (request.seed + len(sequences)) % 2**63
                own = replace(decoding, seed=seed)
                sequences.append(SequenceRequest(ids, own, adapter, request.top_logprobs))
        return PreparedRequest(tuple(sequences), tokens, strips=request.is_chat)

    def _room(self, request: GenerationRequest, used: int) -> int:
        """How many tokens an answer may have; raises `ApiError` where the model's context does not hold them."""
        wanted = self._max_tokens if request.max_tokens is None else request.max_tokens
        if self._context is None:
            return wanted
        place = "messages" if request.is_chat else "prompt"
        if request.max_tokens is None and used < self._context:
            return min(wanted, self._context - used)
        if used + wanted <= self._context:
            return wanted
        asked = f"{used} in the {place}" + (f", {wanted} in the completion" if request.max_tokens is not None else "")
        total = used + (wanted if request.max_tokens is not None else 0)
        raise ApiError(
            400,
            f"This model's maximum context length is {self._context} tokens. However, you requested {total} tokens "
            f"({asked}). Please reduce the length of the {place}"
            + (" or completion." if request.max_tokens is not None else "."),
            param=place,
            code="context_length_exceeded",
        )

    def _ids(self, prompt: str | tuple[int, ...]) -> list[int]:
        ids = self._tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else list(prompt)
        if any(token >= self._known for token in ids):
            raise ApiError(
                400, f"The prompt has a token that this model of {self._known} does not know.", param="prompt"
            )
        if not ids and self._tokenizer.bos_token_id is not None:
            ids = [self._tokenizer.bos_token_id]
        if not ids:
            raise ApiError(400, "The prompt is empty, and this model has no token for a beginning.", param="prompt")
        return ids

    def _chat_ids(self, messages: Sequence[Mapping[str, str]], source: AdapterSource | None) -> list[int]:
        # An adapter of another program does not say; it was trained in its base model's own form, as a rule.
        by_template = source is None or bool(source.metadata.get("chat_template", not source.metadata))
        if not (by_template and self._tokenizer.chat_template):
            return self._ids(question_form(messages))
        try:
            rendered = render_chat(self._tokenizer, messages, generation_prompt=True)
        except TemplateRefusedError as problem:
            raise ApiError(400, f"The model's chat template refuses this: {problem}.", param="messages") from problem
        return self._ids(tuple(single_bos(self._tokenizer, self._tokenizer(rendered)["input_ids"])))


def question_form(messages: Sequence[Mapping[str, str]]) -> str:
    """Return a conversation in the form ``Question: … Answer:`` for a model that was trained on that.

    One question alone gives exactly the training form's prompt. Earlier exchanges stand before it, and system messages
    where they were said.
    """
    parts: list[str] = []
    for message in messages:
        text = message["content"].strip()
        if message["role"] == "user":
            parts.append(prompt_text(text))
        elif message["role"] == "assistant" and parts and parts[-1].endswith("Answer:"):
            parts[-1] += f" {text}"
        else:
            parts.append(text)
    if messages[-1]["role"] != "user":
        raise ApiError(400, "The last message must be the user's: it is what is answered.", param="messages")
    return "\n\n".join(parts)
