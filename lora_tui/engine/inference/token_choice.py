"""How the next token is chosen from the model's scores, and which tokens end an answer.

Small, and apart from `decode`: decoders, beams and jobs choose by it, and `decode` imports those. Nothing here draws
from torch's global random state, which belongs to the trainer of this process.
"""

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lora_tui.protocol.reply import Decoding


def stop_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that end an answer: the generation configuration's and the tokenizer's."""
    own = {int(tokenizer.eos_token_id)} if tokenizer.eos_token_id is not None else set()
    return configured_stop_ids(model) | own


def configured_stop_ids(model: PreTrainedModel) -> frozenset[int]:
    """The tokens that end an answer by the generation configuration alone, which is what other programs go by."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    listed = configured if isinstance(configured, list) else [configured]
    return frozenset(int(token) for token in listed if token is not None)


def random_generator(seed: int | None) -> torch.Generator:
    """A generator of its own for a reply: it repeats a `seed`, or begins anywhere."""
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator


def penalised(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Repetition penalty of Keskar et al. (2019): divide positive logits of `seen` tokens, multiply negative ones."""
    if penalty == 1.0:
        return logits
    occurred = logits.gather(1, seen)
    return logits.scatter(1, seen, torch.where(occurred > 0, occurred / penalty, occurred * penalty))


def choose(logits: Tensor, decoding: Decoding, generator: torch.Generator) -> Tensor:
    """Pick one token a row from logits ``(rows, vocabulary)``: the likeliest, or by sampling from the nucleus."""
    if decoding.temperature == 0.0:
        return logits.argmax(-1)
    probabilities = (logits / decoding.temperature).softmax(-1)
    if decoding.top_p < 1.0:
        ordered, order = probabilities.sort(-1, descending=True)
        outside = ordered.cumsum(-1) - ordered >= decoding.top_p
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered.masked_fill(outside, 0.0))
    drawn = torch.multinomial(probabilities.cpu(), 1, generator=generator)
    return drawn.squeeze(-1).to(logits.device)
