"""Tokenised training data: what the model reads, and which tokens count in the loss.

The training form is ``Question: {q}\\nAnswer: {a}`` and the end-of-sequence token, with loss on the answer and that
token only. Labels are marked by position, never by token id: with many tokenizers padding and end-of-sequence are the
same token (transformers#23530), and a mask by id would forget to teach the model to stop.
"""

import hashlib
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from lora_tui.engine.data.chat_template import ConversationEncoder, NotEncodableError, common_prefix, single_bos
from lora_tui.engine.data.examples import (
    Conversation,
    Example,
    PlainText,
    PromptCompletion,
    QuestionAnswer,
    searchable_text,
)
from lora_tui.engine.data.holdout import draw_documents, draw_holdout, question_digest
from lora_tui.engine.data.reworded import EVERYDAY, reads_as_written, reworded
from lora_tui.engine.data.training_text import prompt_text
from lora_tui.engine.models.loaded_checks import unknown_token
from lora_tui.engine.training.everyday import everyday_in_turn
from lora_tui.engine.training.packing import EncodedExample
from lora_tui.errors import LoraTuiError
from lora_tui.text import count


class TextDataset(Sequence[EncodedExample]):
    """Sequence of tokenised examples: token ids and label mask, each ``(tokens,)``.

    `max_length` is in tokens: longer examples lose their end (`truncated` counts them) and those without a label left
    are dropped (`dropped` holds source and reason). An example that contains one of `keywords`, in any case, is flagged
    for weighted sampling. `reworded_share` (0-1) of an example's readings have its question in other words (`as_read`).
    `stops` are the tokens that end an answer of the model, as its generation configuration says. `known_tokens` is how
    many tokens the model has; examples with one beyond are dropped.
    Raises `LoraTuiError` when nothing is left to train on, or the tokenizer has no end-of-sequence token.
    """

    def __init__(
        self,
        examples: Iterable[Example],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int = 1024,
        keywords: Sequence[str] = (),
        stops: Collection[int] = (),
        reworded_share: float = 0.0,
        seed: int = 0,
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
        self._keywords = tuple(keyword.casefold() for keyword in keywords)
        self.truncated = 0
        self.dropped: list[tuple[str, str]] = []
        self._examples: list[EncodedExample] = []
        self._texts: list[Example] = []
        self.held_out_texts: list[Example] = []
        self._reworded_share, self._seed, self.max_length = reworded_share, seed, max_length
        self.extend(examples)
        if not self._examples:
            reason = f": {self.dropped[0][0]}: {self.dropped[0][1]}" if self.dropped else ""
            raise LoraTuiError(f"No example is left to train on{reason}.")

    def extend(self, examples: Iterable[Example]) -> None:
        """Add examples behind those that are there."""
        for example in examples:
            self._add(example, self.max_length)

    def _add(self, example: Example, max_length: int) -> None:
        try:
            input_ids, is_label = self._encode(example)
        except NotEncodableError as problem:
            self.dropped.append((example.source, str(problem)))
            return
        if (unknown := unknown_token(self._tokenizer, input_ids, self._known_tokens)) is not None:
            self.dropped.append((example.source, unknown))
            return
        if len(input_ids) > max_length:
            self.truncated += 1
            input_ids, is_label = input_ids[:max_length], is_label[:max_length]
        if not any(is_label[1:]):
            self.dropped.append((example.source, f"no answer token within {max_length} tokens"))
            return
        text = searchable_text(example).casefold()
        has_keyword = any(keyword in text for keyword in self._keywords)
        self._examples.append(EncodedExample(tuple(input_ids), tuple(is_label), has_keyword, example.source))
        self._texts.append(example)

    def hold_out(
        self,
        share: float,
        seed: int,
        documents: Mapping[int, str] | None = None,
        before: Mapping[int, int] | None = None,
    ) -> list[EncodedExample]:
        """Take a share (0-0.5) of the examples out of the dataset and return them, in the order they are drawn.

        The same data and seed divide the same way; see `draw_documents` and `draw_holdout` for how, and for when
        nothing is taken. `documents` names the document of a question, by its digest. `before` is the place of each
        question that was held out when the run began: one that goes on divides as it did. Their text is kept in
        `held_out_texts`.
        """
        examples, digests = self._examples, [question_digest(text) for text in self._texts]
        if before is None:
            drawn = draw_documents(digests, documents or {}, share, seed) or draw_holdout(digests, share, seed)
        else:
            drawn = [index for index, digest in enumerate(digests) if digest in before]
            drawn.sort(key=lambda index: before[digests[index]])
        self.held_out_texts = [self._texts[index] for index in drawn]
        kept = sorted(set(range(len(examples))).difference(drawn))
        self._examples = [examples[index] for index in kept]
        self._texts = [self._texts[index] for index in kept]
        return [examples[index] for index in drawn]

    def as_read(self, index: int, epoch: int) -> EncodedExample:
        """Return an example as this epoch (from 0) reads it: with its question in other words where its turn is.

        In the place of an everyday example each epoch reads another one.
        """
        example = self._examples[index]
        if example.source == EVERYDAY:
            return self._everyday(index, epoch)
        if reads_as_written(index, epoch, self._reworded_share):
            return example
        text = reworded(self._texts[index], index, epoch, self._seed)
        if text is self._texts[index]:
            return example
        return self._exchanged(example, text)

    def _everyday(self, index: int, epoch: int) -> EncodedExample:
        """Return what this epoch reads in the place of an everyday example; those lie together, behind the others."""
        first = next(place for place, one in enumerate(self._examples) if one.source == EVERYDAY)
        text = everyday_in_turn(index - first, epoch, len(self._examples) - first)
        return self._exchanged(self._examples[index], text)

    def _exchanged(self, example: EncodedExample, text: Example) -> EncodedExample:
        input_ids, is_label = self._encode(text)
        end = self.max_length
        changed = replace(example, input_ids=tuple(input_ids[:end]), is_label=tuple(is_label[:end]))
        return changed if changed.labels and max(changed.input_ids) < self._known_tokens else example

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: Any) -> Any:
        return self._examples[index]

    @property
    def texts(self) -> Sequence[Example]:
        """The examples as they were read."""
        return self._texts

    @property
    def tokens(self) -> int:
        """Tokens of all examples together."""
        return sum(len(example.input_ids) for example in self._examples)

    @property
    def label_tokens(self) -> int:
        """Tokens that count in the loss, of all examples together."""
        return sum(example.labels for example in self._examples)

    def fingerprint(self) -> str:
        """SHA-256 of all token ids and labels: datasets train the same model only if theirs are equal."""
        digest = hashlib.sha256()
        for example in self._examples:
            digest.update(repr((example.input_ids, example.is_label, example.has_keyword)).encode())
        return digest.hexdigest()

    def _encode(self, example: Example) -> tuple[list[int], list[bool]]:
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
