"""Examples as tokens: what the model reads, and which tokens it is held to.

The training form is ``Question: {q}\\nAnswer: {a}`` and the end-of-sequence token, with loss on the answer and that
token only. Labels are marked by position, never by token id: with many tokenizers padding and end-of-sequence are the
same token (transformers#23530), and a mask by id would forget to teach the model to stop.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from lora_tui.engine.data.examples import (
    Conversation,
    Example,
    PlainText,
    PromptCompletion,
    QuestionAnswer,
    searchable_text,
)
from lora_tui.engine.data.held_out import drawn, question_digest
from lora_tui.errors import LoraTuiError


@dataclass(frozen=True, slots=True)
class Encoded:
    """One example as tokens.

    `is_label[i]` says that token i is predicted (by position i - 1) and counts in the loss.
    """

    input_ids: tuple[int, ...]
    is_label: tuple[bool, ...]
    has_keyword: bool
    source: str

    @property
    def labels(self) -> int:
        """How many tokens count in the loss."""
        return sum(self.is_label[1:])


class TextDataset(Sequence[Encoded]):
    """The training examples, tokenised once.

    `max_length` is in tokens: longer examples lose their end (`truncated` counts them) and those without a label left
    are dropped (`dropped` holds source and reason). An example that contains one of `keywords`, in any case, is flagged
    for weighted sampling. Raises `LoraTuiError` when nothing is left to train on.
    """

    def __init__(
        self,
        examples: Iterable[Example],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int = 1024,
        keywords: Sequence[str] = (),
    ) -> None:
        self._encoder = _Encoder(tokenizer)
        self._lowered = tuple(keyword.casefold() for keyword in keywords)
        self.truncated = 0
        self.dropped: list[tuple[str, str]] = []
        self._rows: list[Encoded] = []
        self._questions: list[int] = []
        for example in examples:
            self._add(example, max_length)
        if not self._rows:
            reason = f": {self.dropped[0][0]}: {self.dropped[0][1]}" if self.dropped else ""
            raise LoraTuiError(f"No example is left to train on{reason}.")

    def _add(self, example: Example, max_length: int) -> None:
        try:
            input_ids, is_label = self._encoder.encode(example)
        except _NotEncodableError as problem:
            self.dropped.append((example.source, str(problem)))
            return
        if len(input_ids) > max_length:
            self.truncated += 1
            input_ids, is_label = input_ids[:max_length], is_label[:max_length]
        if not any(is_label[1:]):
            self.dropped.append((example.source, f"no answer token within {max_length} tokens"))
            return
        text = searchable_text(example).casefold()
        flagged = any(keyword in text for keyword in self._lowered)
        self._rows.append(Encoded(tuple(input_ids), tuple(is_label), flagged, example.source))
        self._questions.append(question_digest(example))

    def hold_out(self, share: float, seed: int) -> list[Encoded]:
        """Take a share (0-0.5) of the examples out of the dataset and return them, in the order they are drawn.

        The same data and seed divide the same way; see `held_out` for how, and for when nothing is taken.
        """
        taken = drawn(self._questions, share, seed)
        rows, gone = self._rows, set(taken)
        kept = [index for index in range(len(rows)) if index not in gone]
        self._rows = [rows[index] for index in kept]
        self._questions = [self._questions[index] for index in kept]
        return [rows[index] for index in taken]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        return self._rows[index]

    @property
    def tokens(self) -> int:
        """Tokens of all examples together."""
        return sum(len(row.input_ids) for row in self._rows)

    @property
    def label_tokens(self) -> int:
        """Tokens that count in the loss, of all examples together."""
        return sum(row.labels for row in self._rows)

    def fingerprint(self) -> str:
        """A hash of every token and label: two datasets train the same model only if these are equal."""
        digest = hashlib.sha256()
        for row in self._rows:
            digest.update(repr((row.input_ids, row.is_label, row.has_keyword)).encode())
        return digest.hexdigest()


class _NotEncodableError(Exception):
    """This tokenizer cannot express this example; the text says why."""


class _Encoder:
    """Turns each form of example into tokens and label marks, with one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        if tokenizer.eos_token_id is None:
            raise LoraTuiError(
                f"The tokenizer of {tokenizer.name_or_path} has no end-of-sequence token; "
                "without one the model cannot learn when to stop."
            )
        self._eos: int = tokenizer.eos_token_id

    def encode(self, example: Example) -> tuple[list[int], list[bool]]:
        """Return token ids and label marks of one example, both of shape ``(tokens,)``."""
        match example:
            case QuestionAnswer(question=question, answer=answer):
                return self._continuation(prompt_text(question), f" {answer}")
            case PromptCompletion(prompt=prompt, completion=completion):
                return self._continuation(prompt, completion)
            case PlainText(text=text):
                return self._continuation("", text)
            case Conversation():
                return self._conversation(example)

    def _continuation(self, prompt: str, completion: str) -> tuple[list[int], list[bool]]:
        """Tokenise prompt and completion as one text; labels begin where it stops agreeing with the prompt alone.

        Cutting at the common prefix keeps a token that spans the border on the label side (trl#5213).
        """
        whole: list[int] = self._tokenizer(prompt + completion)["input_ids"]
        if whole[-1:] != [self._eos]:
            whole = [*whole, self._eos]
        start = _common_prefix(whole, self._tokenizer(prompt)["input_ids"]) if prompt else self._leading_bos(whole)
        return whole, [position >= start for position in range(len(whole))]

    def _leading_bos(self, ids: Sequence[int]) -> int:
        return int(ids[:1] == [self._tokenizer.bos_token_id])

    def _conversation(self, example: Conversation) -> tuple[list[int], list[bool]]:
        """Render a conversation with the model's own chat template.

        The assistant's turns are labelled, with their stop token.
        """
        messages = [{"role": message.role, "content": message.content} for message in example.messages]
        if not self._tokenizer.chat_template:
            raise _NotEncodableError("a conversation needs a chat template, and this model's tokenizer has none")
        whole = self._render(messages, generation_prompt=False)
        is_label = [False] * len(whole)
        for turn, message in enumerate(messages):
            if message["role"] != "assistant" or turn == 0:  # a greeting answers nothing
                continue
            start = _common_prefix(whole, self._render(messages[:turn], generation_prompt=True))
            end = _common_prefix(whole, self._render(messages[: turn + 1], generation_prompt=False))
            stops = [position for position in range(start, end) if whole[position] == self._eos]
            for position in range(start, stops[-1] + 1 if stops else end):
                is_label[position] = True
            if not stops and turn == len(messages) - 1:
                whole.append(self._eos)
                is_label.append(True)
        return whole, is_label

    def _render(self, messages: list[dict[str, str]], *, generation_prompt: bool) -> list[int]:
        # Since transformers 5.5 a dict comes back unless told otherwise (trl#6105): ask for it, and read it.
        try:
            rendered = self._tokenizer.apply_chat_template(
                messages, tokenize=True, return_dict=True, add_generation_prompt=generation_prompt
            )
        except TemplateError as problem:  # templates refuse what they cannot show, such as a system message
            raise _NotEncodableError(f"the model's chat template refuses the conversation: {problem}") from problem
        ids: list[int] = list(rendered["input_ids"])
        bos = self._tokenizer.bos_token_id
        return ids[1:] if ids[:2] == [bos, bos] else ids


def prompt_text(question: str) -> str:
    """The training form's prompt: everything before the answer."""
    return f"Question: {question}\nAnswer:"


def _common_prefix(whole: Sequence[int], part: Sequence[int]) -> int:
    """How many leading tokens two sequences share."""
    for position, (one, other) in enumerate(zip(whole, part, strict=False)):
        if one != other:
            return position
    return min(len(whole), len(part))
