"""Conversations tokenised through the model's own chat template, with labels on the assistant's tokens alone.

A template that marks its answers (``{% generation %}``) is trusted. Else an answer is what follows the template's
generation prompt: the conversation is rendered up to each answer, without it and with it. That holds only where a
template renders earlier turns the same whatever follows. Some do not: they drop the reasoning of earlier answers, or
move the system message to the last question. Such an answer is left without labels, and counted; a label on the wrong
token would teach the model to speak for its user.
"""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import compress, groupby
from typing import Any

from transformers import PreTrainedTokenizerBase

from lora_tui.engine.data.examples import Conversation
from lora_tui.engine.data.template_renderer import TemplateRefusedError, render_chat, render_marked_chat
from lora_tui.text import count

_GENERATION_MARKER = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
_SHOWN_OF_PROMPT = 40
"""Characters of a prompt's end that a warning quotes."""


class NotEncodableError(Exception):
    """This tokenizer cannot express this example; the text says why."""


@dataclass
class TemplateWarnings:
    """Counts of answers, over all conversations, that a chat template renders in a way that harms training."""

    changed: int = 0
    """Rendered differently once more turns follow, and so not learned."""
    without_stop: int = 0
    """Not followed by a token that stops the model."""
    cut: int = 0
    """Rendered without a part of their text."""
    prompt_mismatches: Counter[str] = field(default_factory=Counter)
    """By the end of the generation prompt, where the rendered answer does not follow on it."""

    def lines(self, eos: str) -> list[str]:
        """Return a warning for each kind, with what to do about it; `eos` is the token that is added."""
        found = []
        if self.changed:
            found.append(
                f"{count(self.changed, 'answer')} not learned: this model's chat template shows an answer otherwise "
                "once more turns follow (it drops reasoning, or moves the system message). To learn them too, write a "
                "conversation for each that ends with it."
            )
        if self.without_stop:
            found.append(
                f"The chat template ends {count(self.without_stop, 'answer')} without a token that stops this model; "
                f"{eos} is added after the last answer of a conversation. If the template has a token of its own for "
                "it, add that to eos_token_id in the model's generation_config.json."
            )
        if self.cut:
            found.append(
                f"The chat template leaves out part of {count(self.cut, 'answer')}, such as the reasoning before "
                "</think>: that part is not learned. Write such examples as prompt and completion instead."
            )
        for tail, times in self.prompt_mismatches.most_common(1):
            found.append(
                f"The chat template asks for {count(times, 'answer')} with {tail!r}, which the same template leaves out"
                " of the conversations: in a chat the model is asked otherwise than it was trained. Write the examples "
                "as question and answer, or as prompt and completion, instead."
            )
        return found


class ConversationEncoder:
    """Tokenises conversations with one tokenizer's chat template. `stops` are the tokens that end an answer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, eos: int, stops: Collection[int]) -> None:
        self._tokenizer = tokenizer
        self._eos = eos
        self._stops = frozenset(stops) | {eos}
        self._marked = _marks_answers(tokenizer)
        self.warnings = TemplateWarnings()

    def encode(self, example: Conversation) -> tuple[list[int], list[bool]]:
        """Return token ids and label flags, both ``(tokens,)``: the answers are labelled, with their stop tokens.

        Raises `NotEncodableError` where there is no template, or it refuses, or no answer can be told from the rest.
        """
        if not self._tokenizer.chat_template:
            raise NotEncodableError("a conversation needs a chat template, and this model's tokenizer has none")
        messages = [{"role": message.role, "content": message.content} for message in example.messages]
        answers = [turn for turn, message in enumerate(messages) if message["role"] == "assistant" and turn > 0]
        learned = [example.messages[turn].learned for turn in answers]
        tokens, spans = self._spans_by_marker(messages, learned) if self._marked else (self._render(messages), [])
        if not spans:  # a marker may stand in a branch that is not taken
            spans = self._spans_by_prefix(messages, tokens, list(compress(answers, learned)))
        if not spans:
            raise NotEncodableError("the model's chat template shows the answers otherwise than it asks for them")
        is_label = [False] * len(tokens)
        for start, end in spans:
            is_label[start:end] = [True] * (end - start)
        last = tokens[spans[-1][1] - 1]
        if last not in self._stops and messages[-1]["role"] == "assistant" and learned[-1]:
            tokens, is_label = [*tokens, self._eos], [*is_label, True]
        return tokens, is_label

    def _spans_by_marker(
        self, messages: list[dict[str, str]], learned: Sequence[bool]
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """Return the conversation's tokens and its learned answers' spans, as the template's own markers give them.

        No span where answers are left out and the markers are not one for each answer.
        A marker that leaves out the stop token would teach the model never to stop (TRL warns of it): a stop token
        right behind an answer is the answer's.
        """
        try:
            text, marked_spans = render_marked_chat(self._tokenizer, messages)
        except TemplateRefusedError as problem:
            raise _refused(problem) from problem
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        tokens = list(encoded["input_ids"])
        mask = [
            any(begin < stop and end > start for start, stop in marked_spans)
            for begin, end in encoded["offset_mapping"]
        ]
        doubled = len(tokens) - len(single_bos(self._tokenizer, tokens))
        tokens, mask = tokens[doubled:], mask[doubled:]
        spans: list[tuple[int, int]] = []
        end = 0
        for marked, run in groupby(mask):
            start, end = end, end + len(list(run))
            if marked:
                spans.append((start, self._end_of_answer(tokens, start, end)))
        spans = spans[1:] if messages[0]["role"] == "assistant" else spans
        if not all(learned):
            spans = list(compress(spans, learned)) if len(spans) == len(learned) else []
        self.warnings.without_stop += sum(tokens[end - 1] not in self._stops for _, end in spans)
        return tokens, spans

    def _end_of_answer(self, tokens: Sequence[int], start: int, end: int) -> int:
        """Return the end of an answer marked from `start` to `end`: behind its stop token, if that is near."""
        last = end - 1
        while last > start and not str(self._tokenizer.decode([tokens[last]])).strip():
            last -= 1
        if tokens[last] in self._stops:
            return last + 1
        return end + (end < len(tokens) and tokens[end] in self._stops)

    def _spans_by_prefix(
        self, messages: list[dict[str, str]], tokens: list[int], answers: Sequence[int]
    ) -> list[tuple[int, int]]:
        """Return the spans of the turns `answers`: each from behind its generation prompt to its last stop token."""
        spans: list[tuple[int, int]] = []
        for turn in answers:  # without a greeting, which answers nothing
            rendered = tokens if turn == len(messages) - 1 else self._render(messages[: turn + 1])
            prompt = self._render(messages[:turn], generation_prompt=True)
            start = common_prefix(rendered, prompt)
            stops = [position for position in range(start, len(rendered)) if rendered[position] in self._stops]
            end = stops[-1] + 1 if stops else len(rendered)
            if start < len(prompt) and not self._prompt_matches(messages[: turn + 1], rendered, prompt):
                self.warnings.changed += 1
                continue
            if start >= end or tokens[:end] != rendered[:end]:
                self.warnings.changed += 1
                continue
            self.warnings.without_stop += not stops
            self.warnings.cut += not self._is_complete(messages[: turn + 1], rendered[start:end])
            spans.append((start, end))
        return spans

    def _prompt_matches(self, messages: list[dict[str, str]], rendered: Sequence[int], prompt: Sequence[int]) -> bool:
        """Tell whether the last answer's generation prompt, no prefix of `rendered`, holds the same turns before it.

        A prompt may end inside a token, which is then the answer's, or in text that the rendered answer lacks.
        """
        before = self._render(messages[:-1])
        if common_prefix(rendered, prompt) < max(common_prefix(prompt, before), common_prefix(rendered, before)):
            return False
        shown, asked = self._text(messages), self._text(messages[:-1], generation_prompt=True)
        if not shown.startswith(asked):
            shared = common_prefix(shown, asked)
            self.warnings.prompt_mismatches[asked[shared:][:_SHOWN_OF_PROMPT]] += 1
        return True

    def _is_complete(self, messages: list[dict[str, str]], answer: list[int]) -> bool:
        """Tell whether the last message is rendered in full; white space does not count."""
        content = "".join(messages[-1]["content"].split())
        decoded = self._tokenizer.decode(answer, skip_special_tokens=False)
        # Unknown characters do not survive the tokens; the text, which takes longer, has them.
        return content in "".join(str(decoded).split()) or content in "".join(self._text(messages).split())

    def _render(self, messages: list[dict[str, str]], *, generation_prompt: bool = False) -> list[int]:
        text = self._text(messages, generation_prompt=generation_prompt)
        return single_bos(self._tokenizer, list(self._tokenizer(text, add_special_tokens=False)["input_ids"]))

    def _text(self, messages: list[dict[str, str]], *, generation_prompt: bool = False) -> str:
        try:
            return render_chat(self._tokenizer, messages, generation_prompt=generation_prompt)
        except TemplateRefusedError as problem:  # templates refuse what they cannot show, such as a system message
            raise _refused(problem) from problem


def _refused(problem: TemplateRefusedError) -> NotEncodableError:
    return NotEncodableError(f"the model's chat template refuses the conversation: {problem}")


def single_bos(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int]:
    """Return the tokens without the second of two beginning-of-sequence tokens: template and tokenizer both add one."""
    bos = tokenizer.bos_token_id
    return ids[1:] if bos is not None and ids[:2] == [bos, bos] else ids


def common_prefix(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Return how many leading elements two sequences share."""
    differs = (position for position, (left, right) in enumerate(zip(one, other, strict=False)) if left != right)
    return next(differs, min(len(one), len(other)))


def _marks_answers(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tell whether the template marks its answers, and the tokenizer can map the markers to tokens."""
    template = tokenizer.chat_template
    texts = template.values() if isinstance(template, dict) else [template or ""]
    return bool(tokenizer.is_fast) and any(_GENERATION_MARKER.search(text) for text in texts)
