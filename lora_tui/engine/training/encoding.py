"""Examples as tokens: what the model reads, and which tokens count in the loss.

The training form is ``Question: {q}\\nAnswer: {a}`` and the end-of-sequence token, with loss on the answer and that
token only. Labels are marked by position, never by token id: with many tokenizers padding and end-of-sequence are the
same token (transformers#23530), and a mask by id would forget to teach the model to stop.
"""

import sys
from collections.abc import Collection, Sequence
from typing import Any, Protocol, TypeVar

from transformers import PreTrainedTokenizerBase

from lora_tui.engine.data.chat_template import ConversationEncoder, NotEncodableError, common_prefix, single_bos
from lora_tui.engine.data.examples import Conversation, Example, PlainText, PromptCompletion, QuestionAnswer
from lora_tui.engine.data.training_text import prompt_text
from lora_tui.engine.models.loaded_checks import unknown_token
from lora_tui.engine.training.packing import EncodedExample
from lora_tui.errors import LoraTuiError
from lora_tui.text import count


class ExampleEncoder:
    """Tokenises examples of every form; longer ones than `max_length` tokens lose their end (`truncated` counts them).

    `stops` are the tokens that end an answer of the model, as its generation configuration says. `known_tokens` is how
    many tokens the model has. Raises `LoraTuiError` where the tokenizer has no end-of-sequence token.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int = 1024,
        stops: Collection[int] = (),
        known_tokens: int | None = None,
    ) -> None:
        if tokenizer.eos_token_id is None:
            raise LoraTuiError(
                f"The tokenizer of {tokenizer.name_or_path} has no end-of-sequence token; "
                "without one the model cannot learn when to stop."
            )
        self._tokenizer = tokenizer
        self._eos: int = tokenizer.eos_token_id
        self._eos_is_no_stop = bool(stops) and self._eos not in stops
        self._conversations = ConversationEncoder(tokenizer, self._eos, stops)
        self._known_tokens = known_tokens or sys.maxsize
        self._split_tokens = 0
        self.max_length = max_length
        self.truncated = 0

    def encode(self, example: Example) -> EncodedExample:
        """Return an example as tokens, no more than `max_length`.

        Raises `NotEncodableError` where this tokenizer or model cannot express it, or no token is left to learn.
        """
        input_ids, is_label = self.tokens_and_labels(example)
        if (unknown := unknown_token(self._tokenizer, input_ids, self._known_tokens)) is not None:
            raise NotEncodableError(unknown)
        if len(input_ids) > self.max_length:
            self.truncated += 1
            input_ids, is_label = input_ids[: self.max_length], is_label[: self.max_length]
        if not any(is_label[1:]):
            raise NotEncodableError(f"no answer token within {self.max_length} tokens")
        return EncodedExample(tuple(input_ids), tuple(is_label), False, example.source)

    def is_known(self, example: EncodedExample) -> bool:
        """Tell whether the model has all tokens of an example."""
        return max(example.input_ids) < self._known_tokens

    def tokens_and_labels(self, example: Example) -> tuple[list[int], list[bool]]:
        """Return token ids and label marks of one example, both of shape ``(tokens,)``."""
        match example:
            case QuestionAnswer(question=question, answer=answer):
                return self._continuation(prompt_text(question), f" {answer}")
            case PromptCompletion(prompt=prompt, completion=completion):
                return self._continuation(prompt, completion)
            case PlainText(text=text):
                return self._continuation("", text)
            case Conversation():
                return self._conversations.encode(example)

    @property
    def warnings(self) -> list[str]:
        """What the tokenizer and its chat template did to the examples that their author may not expect."""
        eos = str(self._tokenizer.eos_token)
        found = self._conversations.warnings.lines(eos)
        if self._split_tokens:
            found.append(
                f"In {count(self._split_tokens, 'example')} the prompt ends inside a token, which is learned with the "
                "completion. End prompts before a space and begin completions with it."
            )
        if self._eos_is_no_stop:
            found.append(
                f"{eos}, with which examples end, is not in eos_token_id of the model's generation_config.json: other "
                "programs than this one may write on after an answer."
            )
        return found

    def _continuation(self, prompt: str, completion: str) -> tuple[list[int], list[bool]]:
        """Tokenise prompt and completion as one text; labels begin where it stops agreeing with the prompt alone.

        Cutting at the common prefix keeps a token that spans the boundary on the label side (trl#5213).
        """
        whole = self._tokens(prompt + completion)
        if whole[-1:] != [self._eos]:
            whole = [*whole, self._eos]
        start = int(whole[:1] == [self._tokenizer.bos_token_id])
        if prompt:
            before = self._tokens(prompt)
            start = common_prefix(whole, before)
            # Some tokenizers end every text themselves; that is no token across the boundary.
            self._split_tokens += start < len(before) - (before[-1:] == [self._eos])
        return whole, [position >= start for position in range(len(whole))]

    def _tokens(self, text: str) -> list[int]:
        """The tokens of a text; a beginning-of-sequence token that is written out in it is not doubled."""
        return single_bos(self._tokenizer, list(self._tokenizer(text)["input_ids"]))


class Tokenised(Protocol):
    """An example, or a judgement with one or two of them, as tokens."""

    @property
    def input_ids(self) -> Sequence[int]:
        """All its tokens."""

    @property
    def labels(self) -> int:
        """How many of them count in the loss."""


Item = TypeVar("Item", bound=Tokenised)


class EncodedDataset(Sequence[Item]):
    """What data sets of tokenised items share: they are a sequence of them, and can be counted."""

    _encoder: ExampleEncoder
    _items: list[Item]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: Any) -> Any:
        return self._items[index]

    @property
    def tokens(self) -> int:
        """Tokens of all items together; of a preference, those of both answers."""
        return sum(len(item.input_ids) for item in self._items)

    @property
    def label_tokens(self) -> int:
        """Tokens that count in the loss, of all items together."""
        return sum(item.labels for item in self._items)

    @property
    def truncated(self) -> int:
        """How many examples or answers lost their end."""
        return self._encoder.truncated

    @property
    def warnings(self) -> list[str]:
        """What the tokenizer and its chat template did to the examples that their author may not expect."""
        return self._encoder.warnings
