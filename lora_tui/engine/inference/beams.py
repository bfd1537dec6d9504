"""Beam search on a model in its fast form: the continuations that transformers' search finds, sooner.

The prompt's keys and values are there once for all beams; what a beam has written is the only thing that moves when
beams change places. Scores, candidates and the end of the search follow transformers' ``_beam_search``: a finished
continuation is worth its log-probability divided by its length to the power of `length_penalty`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lora_tui.engine.inference.fast_model import FastModel
from lora_tui.engine.inference.key_values import PromptAttention, SharedPrefixAttention, Span
from lora_tui.engine.inference.matrices import RowAdapters
from lora_tui.engine.inference.token_choice import penalised
from lora_tui.protocol.reply import Decoding

_NEVER = -1.0e9
"""Score of what is not to be chosen, as in transformers."""

_KNOWN_OPTIONS = {
    "bos_token_id", "eos_token_id", "pad_token_id", "transformers_version", "_from_model_config", "do_sample",
    "temperature", "top_p", "top_k", "max_length", "max_new_tokens", "num_beams", "repetition_penalty",
    "length_penalty", "early_stopping", "use_cache",
}  # fmt: skip
"""Entries of a generation configuration that are obeyed here, or that do not bear on a beam search."""


@dataclass(frozen=True, slots=True)
class BeamOptions:
    """What a model's generation configuration says of beam search."""

    length_penalty: float = 1.0
    early_stopping: bool | str = False


def beams_are_known(model: PreTrainedModel) -> bool:
    """Whether a model's generation configuration asks for nothing that is not done here."""
    options = model.generation_config.to_diff_dict()
    return all(name in _KNOWN_OPTIONS or not value for name, value in options.items())


def configured_beams(model: PreTrainedModel) -> BeamOptions:
    """The options of a model's generation configuration."""
    penalty, stopping = (getattr(model.generation_config, name) for name in ("length_penalty", "early_stopping"))
    return BeamOptions(1.0 if penalty is None else float(penalty), False if stopping is None else stopping)


@dataclass(frozen=True, slots=True)
class _Finished:
    score: float
    tokens: tuple[int, ...]
    ended: bool = True


@dataclass
class BeamSearch:
    """A search for the likeliest continuation of the tokens `prompt`, with at most `longest` new tokens."""

    model: FastModel
    adapter: str | None
    prompt: Sequence[int]
    ends: frozenset[int]
    decoding: Decoding
    longest: int
    options: BeamOptions

    @torch.inference_mode()
    def run(self, should_stop: Callable[[], bool], on_step: Callable[[int], None]) -> list[int]:
        """Return the best continuation's tokens, without its end token; stops early when `should_stop` says so."""
        model, beams = self.model, self.decoding.num_beams
        adapters = RowAdapters(everywhere=self.adapter)
        device = model.device
        prompt = torch.tensor(self.prompt, device=device)
        prefix, cache = model.new_cache(), model.new_cache()
        prefix.reserve(1, len(prompt))
        spans = [Span(0, 0, len(prompt), 0)]
        hidden = model.hidden(
            prompt, torch.arange(len(prompt), device=device), PromptAttention(prefix, spans, model.scaling), adapters
        )
        logits = model.logits(hidden[-1:], adapters)
        written: list[list[int]] = [[]]
        scores = torch.zeros(1, device=device)
        finished = [_Finished(_NEVER, (), False)] * beams
        for step in range(1, self.longest + 1):
            stopped = should_stop() or step == self.longest
            candidates = self._candidates(logits, scores, written)
            finished = self._with_finished(finished, candidates, step, stopped)
            running = [
                (score + (_NEVER if stopped or tokens[-1] in self.ends else 0.0), parent, tokens)
                for score, parent, tokens in candidates
            ]
            running = sorted(running, key=lambda one: -one[0])[:beams]
            on_step(step)
            if stopped or not self._may_improve(running[0][0], finished, step):
                break
            order = torch.tensor([parent for _, parent, _ in running], device=device)
            cache.reserve(beams, step)
            if step > 1:
                cache.reorder(order, step - 1)
            written = [tokens for _, _, tokens in running]
            scores = torch.tensor([score for score, _, _ in running], device=device)
            positions = torch.full((beams,), len(prompt) + step - 1, device=device)
            attention = SharedPrefixAttention(prefix, len(prompt), cache, beams, step - 1, model.scaling)
            last = torch.tensor([tokens[-1] for tokens in written], device=device)
            logits = model.logits(model.hidden(last, positions, attention, adapters), adapters)
        best = list(finished[0].tokens)
        return best[:-1] if best and best[-1] in self.ends else best

    def _candidates(
        self, logits: Tensor, scores: Tensor, written: Sequence[list[int]]
    ) -> list[tuple[float, int, list[int]]]:
        """The likeliest next tokens of all beams: score, number of the beam that goes on, all that it has written."""
        log_probabilities = logits.log_softmax(-1)
        if self.decoding.repetition_penalty != 1.0:
            seen = torch.tensor([[*self.prompt, *tokens] for tokens in written], device=logits.device)
            log_probabilities = penalised(log_probabilities, seen, self.decoding.repetition_penalty)
        kept = max(2, 1 + len(self.ends)) * self.decoding.num_beams
        vocabulary = logits.shape[-1]
        best = (log_probabilities + scores[:, None]).view(-1).topk(min(kept, log_probabilities.numel()))
        return [
            (score, place // vocabulary, [*written[place // vocabulary], place % vocabulary])
            for score, place in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]

    def _with_finished(
        self, finished: list[_Finished], candidates: list[tuple[float, int, list[int]]], step: int, stopped: bool
    ) -> list[_Finished]:
        """The best finished continuations, as many as there are beams, the best first."""
        beams = self.decoding.num_beams
        if self.options.early_stopping is True and all(one.ended for one in finished):
            return finished
        new = [
            _Finished(score / step**self.options.length_penalty, tuple(tokens))
            for score, _, tokens in candidates[:beams]  # further ones only make sure that enough beams go on
            if stopped or tokens[-1] in self.ends
        ]
        return sorted([*finished, *new], key=lambda one: -one.score)[:beams]

    def _may_improve(self, best_running: float, finished: list[_Finished], step: int) -> bool:
        """Whether a running beam may still become better than the worst finished one."""
        penalty = self.options.length_penalty
        if self.options.early_stopping is True and all(one.ended for one in finished):
            return False
        length = self.longest if self.options.early_stopping == "never" and penalty > 0.0 else step
        worst = finished[-1].score if all(one.ended for one in finished) else _NEVER
        return best_running / float(length**penalty) > worst
