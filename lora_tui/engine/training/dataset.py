"""The training data of supervised fine-tuning: tokenised examples, some of them held out, some read in other words."""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from lora_tui.engine.data.chat_template import NotEncodableError
from lora_tui.engine.data.examples import Example, searchable_text
from lora_tui.engine.data.holdout import draw_documents, draw_holdout, question_digest
from lora_tui.engine.data.reworded import EVERYDAY, reads_as_written, reworded
from lora_tui.engine.training.encoding import EncodedDataset, ExampleEncoder
from lora_tui.engine.training.everyday import everyday_in_turn
from lora_tui.engine.training.packing import EncodedExample
from lora_tui.errors import LoraTuiError


class TextDataset(EncodedDataset[EncodedExample]):
    """Sequence of tokenised examples: token ids and label mask, each ``(tokens,)``.

    `max_length` is in tokens: longer examples lose their end (`truncated` counts them) and those without a label left
    are dropped (`dropped` holds source and reason). An example that contains one of `keywords`, in any case, is flagged
    for weighted sampling. `reworded_share` (0-1) of an example's readings have its question in other words (`as_read`).
    `stops` and `known_tokens` are those of `ExampleEncoder`; examples with an unknown token are dropped.
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
        self._encoder = ExampleEncoder(tokenizer, max_length, stops, known_tokens)
        self._keywords = tuple(keyword.casefold() for keyword in keywords)
        self.dropped: list[tuple[str, str]] = []
        self._items: list[EncodedExample] = []
        self._texts: list[Example] = []
        self.held_out_texts: list[Example] = []
        self._reworded_share, self._seed, self.max_length = reworded_share, seed, max_length
        self.extend(examples)
        if not self._items:
            reason = f": {self.dropped[0][0]}: {self.dropped[0][1]}" if self.dropped else ""
            raise LoraTuiError(f"No example is left to train on{reason}.")

    def extend(self, examples: Iterable[Example]) -> None:
        """Add examples behind those that are there."""
        for example in examples:
            self._add(example)

    def _add(self, example: Example) -> None:
        try:
            encoded = self._encoder.encode(example)
        except NotEncodableError as problem:
            self.dropped.append((example.source, str(problem)))
            return
        text = searchable_text(example).casefold()
        has_keyword = any(keyword in text for keyword in self._keywords)
        self._items.append(replace(encoded, has_keyword=has_keyword))
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
        examples, digests = self._items, [question_digest(text) for text in self._texts]
        if before is None:
            drawn = draw_documents(digests, documents or {}, share, seed) or draw_holdout(digests, share, seed)
        else:
            drawn = [index for index, digest in enumerate(digests) if digest in before]
            drawn.sort(key=lambda index: before[digests[index]])
        self.held_out_texts = [self._texts[index] for index in drawn]
        kept = sorted(set(range(len(examples))).difference(drawn))
        self._items = [examples[index] for index in kept]
        self._texts = [self._texts[index] for index in kept]
        return [examples[index] for index in drawn]

    def as_read(self, index: int, epoch: int) -> EncodedExample:
        """Return an example as this epoch (from 0) reads it: with its question in other words where its turn is.

        In the place of an everyday example each epoch reads another one.
        """
        example = self._items[index]
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
        first = next(place for place, one in enumerate(self._items) if one.source == EVERYDAY)
        text = everyday_in_turn(index - first, epoch, len(self._items) - first)
        return self._exchanged(self._items[index], text)

    def _exchanged(self, example: EncodedExample, text: Example) -> EncodedExample:
        input_ids, is_label = self._encoder.tokens_and_labels(text)
        end = self.max_length
        changed = replace(example, input_ids=tuple(input_ids[:end]), is_label=tuple(is_label[:end]))
        return changed if changed.labels and self._encoder.is_known(changed) else example

    @property
    def texts(self) -> Sequence[Example]:
        """The examples as they were read."""
        return self._texts

    def fingerprint(self) -> str:
        """SHA-256 of all token ids and labels: datasets train the same model only if theirs are equal."""
        digest = hashlib.sha256()
        for example in self._items:
            digest.update(repr((example.input_ids, example.is_label, example.has_keyword)).encode())
        return digest.hexdigest()
