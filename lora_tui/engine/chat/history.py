"""History of a conversation, a list of messages for each side, and the prompt that it makes with the next question.

Each side sees its own former replies. A prompt takes the form that the adapter was trained on: ``Question: … Answer:``,
which holds the last question alone, or the model's own chat template with the history, as much of it as the model's
context holds.
"""

from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from lora_tui.engine.data.chat_template import single_bos
from lora_tui.engine.data.template_renderer import TemplateRefusedError, render_chat, template_file
from lora_tui.engine.data.training_text import prompt_text
from lora_tui.errors import UsageError
from lora_tui.protocol.reply import Side


@dataclass(frozen=True, slots=True)
class Prompt:
    """Text for the model to continue, for at most `max_new_tokens`; the oldest `forgotten` exchanges are left out."""

    text: str
    max_new_tokens: int
    forgotten: int = 0


@dataclass
class History:
    """Messages of both sides, as chat templates take them, and the model's context in tokens (None: not configured)."""

    tokenizer: PreTrainedTokenizerBase
    by_template: bool
    context: int | None
    messages: dict[Side, list[dict[str, str]]] = field(default_factory=lambda: {"tuned": [], "base": []})

    def add(self, side: Side, question: str, reply: str) -> None:
        """Append an exchange."""
        self.messages[side] += [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]

    def drop_last(self, side: Side) -> None:
        """Remove a side's last exchange."""
        del self.messages[side][-2:]

    def replace_last(self, side: Side, reply: str) -> None:
        """Put a longer reply in the place of a side's last one."""
        self.messages[side][-1] = {"role": "assistant", "content": reply}

    def clear(self) -> None:
        """Remove all messages."""
        for messages in self.messages.values():
            messages.clear()

    def prompt(self, side: Side, question: str, max_new_tokens: int, written: int = 0) -> Prompt:
        """Return the prompt with which `side` answers `question`.

        The oldest exchanges are left out until the reply has its `max_new_tokens` (or half of the context, if that is
        less). With `written`, the tokens that its reply has already, `question` is that of the last exchange, which
        goes on. Raises `UsageError` when the question, and what is written, fill the context.
        """
        past = self.messages[side] if self.by_template else []
        if written:
            past = past[:-2]
        if self.context is None:
            return Prompt(self._rendered(past, question), max_new_tokens)
        room = min(max_new_tokens, self.context // 2)
        for forgotten in range(len(past) // 2 + 1):
            text = self._rendered(past[2 * forgotten :], question)
            used = len(self.tokenizer(text)["input_ids"]) + written
            if used + room <= self.context:
                break
        if used >= self.context and written:
            raise UsageError(f"The reply cannot go on: this model's context of {self.context:,} tokens is full.")
        if used >= self.context:
            raise UsageError(
                f"The question is {used:,} tokens long, and this model's context holds {self.context:,} with the reply."
            )
        return Prompt(text, min(max_new_tokens, self.context - used), forgotten)

    def _rendered(self, past: list[dict[str, str]], question: str) -> str:
        if not self.by_template:
            return prompt_text(question)
        turns = [*past, {"role": "user", "content": question}]
        try:
            rendered = render_chat(self.tokenizer, turns, generation_prompt=True)
        except TemplateRefusedError as problem:
            where = template_file(self.tokenizer)
            raise UsageError(
                f"The chat template in {where} refuses the question: {problem}.\n"
                "Ask otherwise, or take the file from the model's publisher again."
            ) from problem
        # Where the tokenizer adds the beginning-of-sequence token by itself, the template's own is left out.
        ids = self.tokenizer(rendered)["input_ids"]
        return rendered if single_bos(self.tokenizer, ids) == ids else rendered.removeprefix(self.tokenizer.bos_token)
