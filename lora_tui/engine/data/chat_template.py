"""A conversation as tokens, through the model's own chat template: which of them are what the assistant is to write.

A template that marks its answers (``{% generation %}``) is believed. Else an answer is what comes after the prompt with
which the template asks for it: the conversation is rendered up to each answer, without it and with it. That holds only
where a template shows earlier turns the same whatever follows. Some do not: they drop the reasoning of earlier answers,
or move the system message to the last question. Such an answer is left without labels, and counted; a label on the
wrong token would teach the model to speak for its user.
"""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from lora_tui.engine.data.examples import Conversation
from lora_tui.text import count

_MARKER = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
_TAIL = 40


class NotEncodableError(Exception):
    """This tokenizer cannot express this example; the text says why."""


@dataclass
class Remarks:
    """What a chat template did to the answers, over all conversations; each counts answers."""

    hidden: int = 0
    """Shown otherwise once others follow, and so not learned."""
    unstopped: int = 0
    """Without a token after them that stops the model."""
    shortened: int = 0
    """Shown without a part of what was written."""
    asked_otherwise: Counter[str] = field(default_factory=Counter)
    """By what the template's prompt ends in, which the answer does not follow on."""

    def lines(self, eos: str) -> list[str]:
        """Return a warning for each, with the way out."""
        found = []
        if self.hidden:
            found.append(
                f"{count(self.hidden, 'answer')} not learned: this model's chat template shows an answer otherwise once"
                " more turns follow (it drops reasoning, or moves the system message). To learn them too, write a "
                "conversation for each that ends with it."
            )
        if self.unstopped:
            found.append(
                f"The chat template ends {count(self.unstopped, 'answer')} without a token that stops this model; "
                f"{eos} is added after the last answer of a conversation. If the template has a token of its own for "
                "it, add that to eos_token_id in the model's generation_config.json."
            )
        if self.shortened:
            found.append(
                f"The chat template leaves out part of {count(self.shortened, 'answer')}, such as the reasoning before "
                "</think>: that part is not learned. Write such examples as prompt and completion instead."
            )
        for tail, times in self.asked_otherwise.most_common(1):
            found.append(
                f"The chat template asks for {count(times, 'answer')} with {tail!r}, which the same template leaves out"
                " of the conversations: in a chat the model is asked otherwise than it was trained. Write the examples "
                "as question and answer, or as prompt and completion, instead."
            )
        return found


class ConversationEncoder:
    """Renders conversations with one tokenizer's template. `stops` are the tokens that end an answer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, eos: int, stops: Collection[int]) -> None:
        self._tokenizer = tokenizer
        self._eos = eos
        self._stops = frozenset(stops) | {eos}
        self._marked = _marks_answers(tokenizer)
        self.remarks = Remarks()

    def encode(self, example: Conversation) -> tuple[list[int], list[bool]]:
        """Return token ids and label marks, both ``(tokens,)``: the answers are labelled, with their stop tokens.

        Raises `NotEncodableError` where there is no template, or it refuses, or no answer can be told from the rest.
        """
        if not self._tokenizer.chat_template:
            raise NotEncodableError("a conversation needs a chat template, and this model's tokenizer has none")
        messages = [{"role": message.role, "content": message.content} for message in example.messages]
        whole, runs = self._by_marker(messages) if self._marked else (self._render(messages), [])
        if not runs:  # a marker may stand in a branch that is not taken
            runs = self._by_prefix(messages, whole)
        if not runs:
            raise NotEncodableError("the model's chat template shows the answers otherwise than it asks for them")
        is_label = [False] * len(whole)
        for start, end in runs:
            is_label[start:end] = [True] * (end - start)
        last = whole[runs[-1][1] - 1]
        if last not in self._stops and messages[-1]["role"] == "assistant":
            whole, is_label = [*whole, self._eos], [*is_label, True]
        return whole, is_label

    def _by_marker(self, messages: list[dict[str, str]]) -> tuple[list[int], list[tuple[int, int]]]:
        """The whole conversation and where its answers are, as the template itself marks them.

        A marker that leaves out the stop token would teach the model never to stop (TRL warns of it): a stop token
        right behind an answer is the answer's.
        """
        rendered = self._apply(messages, return_assistant_tokens_mask=True)
        whole, mask = list(rendered["input_ids"]), list(rendered["assistant_masks"])
        doubled = len(whole) - len(single_bos(self._tokenizer, whole))
        whole, mask = whole[doubled:], mask[doubled:]
        runs: list[tuple[int, int]] = []
        start = None
        for position, marked in enumerate([*mask, 0]):
            if marked and start is None:
                start = position
            elif not marked and start is not None:
                runs.append((start, self._stop(whole, start, position)))
                start = None
        runs = runs[1:] if messages[0]["role"] == "assistant" else runs
        self.remarks.unstopped += sum(whole[end - 1] not in self._stops for _, end in runs)
        return whole, runs

    def _stop(self, whole: Sequence[int], start: int, end: int) -> int:
        """Where an answer that is marked from `start` to `end` stops: behind its stop token, if that is near."""
        last = end - 1
        while last > start and not str(self._tokenizer.decode([whole[last]])).strip():
            last -= 1
        if whole[last] in self._stops:
            return last + 1
        return end + (end < len(whole) and whole[end] in self._stops)

    def _by_prefix(self, messages: list[dict[str, str]], whole: list[int]) -> list[tuple[int, int]]:
        """Where the answers are: each from behind the template's prompt for it to its last stop token."""
        runs: list[tuple[int, int]] = []
        for turn, message in enumerate(messages):
            if message["role"] != "assistant" or turn == 0:  # a greeting answers nothing
                continue
            upto = whole if turn == len(messages) - 1 else self._render(messages[: turn + 1])
            prompt = self._render(messages[:turn], generation_prompt=True)
            start = common_prefix(upto, prompt)
            stops = [position for position in range(start, len(upto)) if upto[position] in self._stops]
            end = stops[-1] + 1 if stops else len(upto)
            if start < len(prompt) and not self._asked(messages[: turn + 1], upto, prompt):
                self.remarks.hidden += 1
                continue
            if start >= end or whole[:end] != upto[:end]:
                self.remarks.hidden += 1
                continue
            self.remarks.unstopped += not stops
            self.remarks.shortened += not self._shown(messages[: turn + 1], upto[start:end])
            runs.append((start, end))
        return runs

    def _asked(self, messages: list[dict[str, str]], upto: Sequence[int], prompt: Sequence[int]) -> bool:
        """Tell whether what was said before the last answer is the same in its prompt, which does not lead up to it.

        A prompt may end inside a token, which then is the answer's, or in words that the answer does not follow on.
        """
        before = self._render(messages[:-1])
        if common_prefix(upto, prompt) < max(common_prefix(prompt, before), common_prefix(upto, before)):
            return False
        shown, asked = self._text(messages), self._text(messages[:-1], generation_prompt=True)
        if not shown.startswith(asked):
            shared = common_prefix(shown, asked)
            self.remarks.asked_otherwise[asked[shared:][:_TAIL]] += 1
        return True

    def _shown(self, messages: list[dict[str, str]], answer: list[int]) -> bool:
        """Tell whether the last message is there in full; white space does not count."""
        content = "".join(messages[-1]["content"].split())
        decoded = self._tokenizer.decode(answer, skip_special_tokens=False)
        # Unknown characters do not survive the tokens; the text, which takes longer, has them.
        return content in "".join(str(decoded).split()) or content in "".join(self._text(messages).split())

    def _render(self, messages: list[dict[str, str]], *, generation_prompt: bool = False) -> list[int]:
        rendered = self._apply(messages, add_generation_prompt=generation_prompt)
        return single_bos(self._tokenizer, list(rendered["input_ids"]))

    def _text(self, messages: list[dict[str, str]], *, generation_prompt: bool = False) -> str:
        return str(
            self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation_prompt)
        )

    def _apply(self, messages: list[dict[str, str]], **options: bool) -> Any:
        # Since transformers 5.5 a dict comes back unless told otherwise (trl#6105): ask for it, and read it.
        try:
            return self._tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **options)
        except TemplateError as problem:  # templates refuse what they cannot show, such as a system message
            raise NotEncodableError(f"the model's chat template refuses the conversation: {problem}") from problem


def single_bos(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int]:
    """Return the tokens with one beginning-of-sequence token where text and tokenizer have each put one."""
    bos = tokenizer.bos_token_id
    return ids[1:] if bos is not None and ids[:2] == [bos, bos] else ids


def common_prefix(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Return how many leading elements two sequences share."""
    for position, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return position
    return min(len(one), len(other))


def _marks_answers(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tell whether the template marks its answers, and the tokenizer can say which tokens lie between the marks."""
    template = tokenizer.chat_template
    texts = template.values() if isinstance(template, dict) else [template or ""]
    return bool(tokenizer.is_fast) and any(_MARKER.search(text) for text in texts)
