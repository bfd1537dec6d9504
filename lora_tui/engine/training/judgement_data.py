"""The training data of preference training: judgements as tokens, with the log probabilities that they began with.

Those *reference* log probabilities are the model's own before its first step: with a new adapter, which changes nothing
yet, the frozen base's; where training goes on from an adapter, that adapter's. They are computed once, by one pass
without gradient over all judgements, and kept in the run's folder. Computed in each step instead, they would cost a
third of every epoch (a forward pass beside one forward and backward pass) and a second set of weights where training
goes on from an adapter; a resumed run could not have the ones it began with to the last bit.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from transformers import PreTrainedTokenizerBase

from lora_tui.engine.data.chat_template import NotEncodableError
from lora_tui.engine.data.examples import Example, JudgedAnswer, Judgement, Preference
from lora_tui.engine.data.holdout import draw_holdout, question_digest
from lora_tui.engine.training.encoding import EncodedDataset, ExampleEncoder
from lora_tui.engine.training.objective import EncodedJudgement, EncodedPreference, EncodedVerdict
from lora_tui.engine.training.packing import EncodedExample
from lora_tui.engine.training.step import GradientStep
from lora_tui.errors import LoraTuiError
from lora_tui.files import write_atomically

REFERENCE_FILE = "reference.safetensors"
"""The reference log probabilities in a run's folder."""

_TOKENS_AT_ONCE = 65_536
"""Tokens between two looks at whether the run is to stop, while references are computed."""


class JudgementDataset(EncodedDataset[EncodedJudgement]):
    """Sequence of preferences or single verdicts as tokens.

    With `unpaired` a preference is two verdicts, as in KTO. `max_length`, `stops` and `known_tokens` are those of
    `ExampleEncoder`; a preference whose answers are no longer different once they are cut is dropped, as what cannot be
    tokenised is (`dropped` holds source and reason). Raises `LoraTuiError` when nothing is left to train on.
    """

    def __init__(
        self,
        judgements: Iterable[Judgement],
        tokenizer: PreTrainedTokenizerBase,
        *,
        unpaired: bool,
        max_length: int = 1024,
        stops: Collection[int] = (),
        known_tokens: int | None = None,
    ) -> None:
        self._encoder = ExampleEncoder(tokenizer, max_length, stops, known_tokens)
        self.max_length = max_length
        self.dropped: list[tuple[str, str]] = []
        self._items: list[EncodedJudgement] = []
        self._texts: list[Example] = []
        self.held_out_texts: list[Example] = []
        for judgement in judgements:
            self._add(judgement, unpaired=unpaired)
        if unpaired:
            self._items = _with_others(self._items, max_length)
        if not self._items:
            reason = f": {self.dropped[0][0]}: {self.dropped[0][1]}" if self.dropped else ""
            raise LoraTuiError(f"No {'verdict' if unpaired else 'preference'} is left to train on{reason}.")

    def _add(self, judgement: Judgement, *, unpaired: bool) -> None:
        try:
            found = list(self._encoded(judgement, unpaired=unpaired))
        except NotEncodableError as problem:
            self.dropped.append((judgement.source, str(problem)))
            return
        self._items += found
        answers = (judgement.chosen, judgement.rejected) if isinstance(judgement, Preference) else (judgement.example,)
        self._texts += answers[: len(found)]

    def _encoded(self, judgement: Judgement, *, unpaired: bool) -> Iterable[EncodedJudgement]:
        source, encode = judgement.source, self._encoder.encode
        match judgement:
            case Preference():
                chosen, rejected = encode(judgement.chosen), encode(judgement.rejected)
                if chosen.input_ids == rejected.input_ids:
                    raise NotEncodableError(f"both answers are the same within {self.max_length:,} tokens")
                if not unpaired:
                    return [EncodedPreference(chosen, rejected, source)]
                return [EncodedVerdict(chosen, chosen, True, source), EncodedVerdict(rejected, rejected, False, source)]
            case JudgedAnswer(example=example, desirable=desirable) if unpaired:
                answer = encode(example)
                return [EncodedVerdict(answer, answer, desirable, source)]
        raise NotEncodableError("one answer alone prefers nothing; --method kto learns from single verdicts")

    def hold_out(self, share: float, seed: int, digests: Collection[int] | None = None) -> list[EncodedJudgement]:
        """Take a share (0-0.5) of the questions out of the dataset and return their judgements.

        The same data and seed divide the same way (`draw_holdout`). `digests` are the questions that were held out when
        the run began, for one that goes on.
        """
        asked = [question_digest(text) for text in self._texts]
        drawn = draw_holdout(asked, share, seed)
        if digests is not None:
            drawn = [index for index, digest in enumerate(asked) if digest in digests]
        kept = sorted(set(range(len(asked))).difference(drawn))
        found = [self._items[index] for index in drawn]
        self.held_out_texts = _wanted(found, [self._texts[index] for index in drawn])
        self._items, self._texts = [self._items[index] for index in kept], [self._texts[index] for index in kept]
        return found

    def as_read(self, index: int, epoch: int) -> EncodedJudgement:
        """Return a judgement as this epoch reads it: each the same."""
        return self._items[index]

    def set_references(self, references: Sequence[tuple[float, float]]) -> None:
        """Put the reference log probabilities beside the judgements, in their order."""
        self._items = with_references(self._items, references)

    @property
    def texts(self) -> Sequence[Example]:
        """The questions with the answers that are wanted: the better ones, and those that are desirable."""
        return _wanted(self._items, self._texts)

    def fingerprint(self) -> str:
        """SHA-256 of all token ids and labels: datasets train the same model only if theirs are equal."""
        return fingerprint(self._items)


def _wanted(items: Sequence[EncodedJudgement], texts: Sequence[Example]) -> list[Example]:
    return [text for item, text in zip(items, texts, strict=True) if getattr(item, "desirable", True)]


def fingerprint(items: Iterable[EncodedJudgement]) -> str:
    """SHA-256 of the token ids, labels and verdicts of judgements."""
    digest = hashlib.sha256()
    for item in items:
        parts = [(part.input_ids, part.is_label) for part in item.measured]
        digest.update(repr((parts, getattr(item, "desirable", None))).encode())
    return digest.hexdigest()


def with_references(
    items: Sequence[EncodedJudgement], references: Sequence[tuple[float, float]]
) -> list[EncodedJudgement]:
    """Return the judgements with their reference log probabilities."""
    return [replace(item, reference=reference) for item, reference in zip(items, references, strict=True)]


def reference_log_probs(
    gradient_step: GradientStep,
    items: Sequence[EncodedJudgement],
    folder: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[tuple[float, float]]:
    """Return the summed log probabilities of each judgement's `measured` sequences under the model as it is now.

    They are read from `folder` where they were kept for these very judgements, else computed, without dropout, and
    kept. `progress` is told of tokens done and of all; what it raises ends the computation.
    """
    identity, path = fingerprint(items), folder / REFERENCE_FILE
    kept = _read(path, identity)
    if kept is None:
        measured = [part for item in items for part in item.measured]
        kept = torch.cat(list(_in_pieces(gradient_step, measured, progress))).cpu()
        write_atomically(path, save({"log_probs": kept}, metadata={"judgements": identity}))
    values = kept.view(-1, 2).tolist()
    return [(one, other) for one, other in values]


def _in_pieces(
    gradient_step: GradientStep, measured: Sequence[EncodedExample], progress: Callable[[int, int], None]
) -> Iterable[torch.Tensor]:
    total, done, start = sum(len(part.input_ids) for part in measured), 0, 0
    while start < len(measured):
        end, tokens = start, 0
        while end < len(measured) and (end == start or tokens + len(measured[end].input_ids) <= _TOKENS_AT_ONCE):
            tokens += len(measured[end].input_ids)
            end += 1
        progress(done, total)
        yield gradient_step.log_probs(measured[start:end])
        start, done = end, done + tokens
    progress(total, total)


def _read(path: Path, identity: str) -> torch.Tensor | None:
    """The log probabilities that were kept for the judgements of this identity; None where there are none."""
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("judgements") == identity:
                found: torch.Tensor = file.get_tensor("log_probs")
                return found
    except (OSError, SafetensorError):  # not there, or damaged: they are computed anew
        return None
    return None


def _with_others(items: Sequence[EncodedJudgement], max_length: int) -> list[EncodedJudgement]:
    """Give each verdict the answer of the one before it, behind its own question, as KTO's baseline needs it.

    A single verdict, and one whose predecessor asks the same, gets what there is: its own answer counts as much as any
    other where none is another's.
    """
    verdicts = [item for item in items if isinstance(item, EncodedVerdict)]
    others = [_another(verdicts, index) for index in range(len(verdicts))]
    return [replace(one, other=_crossed(one, other, max_length)) for one, other in zip(verdicts, others, strict=True)]


def _another(verdicts: Sequence[EncodedVerdict], index: int) -> EncodedVerdict:
    """The nearest verdict before this one, going round, on another question; the one before it where all ask one."""
    asked = _question(verdicts[index].answer)
    for back in range(1, min(len(verdicts), 64)):
        other = verdicts[index - back]
        if _question(other.answer) != asked:
            return other
    return verdicts[index - 1]


def _question(answer: EncodedExample) -> tuple[int, ...]:
    return answer.input_ids[: _start_of_answer(answer)]


def _start_of_answer(example: EncodedExample) -> int:
    return example.is_label.index(True)


def _crossed(one: EncodedVerdict, other: EncodedVerdict, max_length: int) -> EncodedExample:
    """The question of one verdict with the answer of another."""
    start, behind = _start_of_answer(one.answer), _start_of_answer(other.answer)
    ids = one.answer.input_ids[:start] + other.answer.input_ids[behind:]
    labels = (False,) * start + other.answer.is_label[behind:]
    return EncodedExample(ids[:max_length], labels[:max_length], False, one.source)
