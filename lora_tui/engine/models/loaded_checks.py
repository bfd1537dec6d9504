"""A loaded model looked at once: are its weights all there and numbers, and does it know the tokenizer's tokens.

transformers draws weights that a file lacks at random, computes with NaN in silence, and looks up a token beyond the
embedding as whatever lies there (an ``IndexError`` on a CPU, a crash of the whole device on a GPU).
"""

import logging
from collections.abc import Collection
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from lora_tui.engine.models.build_lock import constructing
from lora_tui.errors import LoraTuiError
from lora_tui.text import count, one_line

log = logging.getLogger(__name__)

_LARGEST_WEIGHT = 1e15
"""No weight is as large: a flipped bit of an exponent makes one of 10**38."""


_PLAIN_FAMILIES = (
    "llama.modeling_llama.Llama",
    "mistral.modeling_mistral.Mistral",
    "qwen2.modeling_qwen2.Qwen2",
    "qwen3.modeling_qwen3.Qwen3",
)
"""Families whose layers are laid out like Llama's, as transformers names their classes."""


def is_plain_layer(module: nn.Module, kind: str) -> bool:
    """Tell whether a module is the `kind` of layer, such as ``MLP``, of a family whose layers are like Llama's."""
    name = f"{type(module).__module__}.{type(module).__qualname__}"
    return name in {f"transformers.models.{family}{kind}" for family in _PLAIN_FAMILIES}


def check_size(config: PretrainedConfig, held: int, place: str, *, trust_remote_code: bool) -> None:
    """Raise `LoraTuiError` where the configuration describes a far larger model than the `held` numbers of the weights.

    transformers takes the memory first: with one wrong size 15 GB for a model of 1 MB. Here the model is built without
    memory, on the meta device; what cannot be is left to transformers. Packed weights hold up to 16 numbers in one.
    """
    try:
        with constructing(), torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except Exception:  # it is told where the model is really built
        log.info("the model of %s cannot be built without memory", place, exc_info=True)
        return
    wanted = sum(parameter.numel() for parameter in model.parameters())
    if wanted > held * (16 if getattr(config, "quantization_config", None) else 2):
        raise LoraTuiError(
            f"{place}: config.json describes a model of {wanted:,} numbers, and the weights hold {held:,}: they are "
            "not of one model. Take them from the publisher again."
        )


def check_weights(model: PreTrainedModel, missing: Collection[str], place: str) -> None:
    """Raise `LoraTuiError` where the model of `place` lacks weights, or has some that are not finite."""
    if missing:
        raise LoraTuiError(
            f"{place} lacks {count(len(missing), 'tensor')} of its model, such as {min(missing)}: its config.json and "
            "its weights are not of one model, or a file is missing. Take them from the publisher again."
        )
    tensors = [(name, one) for name, one in model.named_parameters() if one.is_floating_point() and one.numel()]
    if not tensors:
        return
    with torch.inference_mode():  # the least and the greatest in one pass, and one wait for the device
        bounds = torch.stack([torch.stack(torch.aminmax(_countable(one))).float().abs().max() for _, one in tensors])
    wrong = [name for (name, _), bound in zip(tensors, bounds.tolist(), strict=True) if not bound < _LARGEST_WEIGHT]
    if wrong:
        more = f" and {count(len(wrong) - 1, 'more tensor')}" if len(wrong) > 1 else ""
        raise LoraTuiError(
            f"{place} is damaged: {wrong[0]}{more} holds values that are no numbers (NaN, or without bounds). "
            "Nothing can be learned from it: take its weights from the publisher again."
        )


def _countable(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor in a type that can be searched: there is no order among float8 values."""
    return tensor.float() if tensor.element_size() == 1 else tensor


def compute_once(model: PreTrainedModel | PeftModel) -> None:
    """Send two tokens through a model in evaluation mode; raises ValueError where what comes out are no numbers.

    A configuration can be believed until then: a base of the rotary positions of 0, a text in the place of a number.
    """
    ids = torch.tensor([[0, min(1, known_tokens(model) - 1)]], device=model.device)
    with torch.inference_mode():
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    if not torch.isfinite(logits).all():
        raise ValueError("what it computes are no numbers (NaN)")


def known_tokens(model: PreTrainedModel | PeftModel) -> int:
    """Return how many tokens the model's embedding has; those beyond cannot be read."""
    embedding = model.get_input_embeddings()
    return int(getattr(embedding, "num_embeddings", 0) or embedding.weight.shape[0])


def position_limit(model: PreTrainedModel | PeftModel) -> int | None:
    """Return how many tokens a model with a table of positions (GPT-2, OPT) can read; None for one without a table.

    Beyond it there is nothing to look up. Rotary positions go on, if with less use.
    """
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not limit:
        return None
    tokens = model.get_input_embeddings()
    tables = (one for one in model.modules() if isinstance(one, nn.Embedding) and one is not tokens)
    return (
        int(limit) if any(table.num_embeddings in (limit, limit + 2) for table in tables) else None
    )  # OPT has two more


def context_tokens(model: PreTrainedModel | PeftModel) -> int | None:
    """Return the context length of `model` in tokens; None where its configuration does not say."""
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(longest) if longest else None


def fit_tokenizer(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, place: str) -> None:
    """Give the tokenizer a padding token that the model knows, and guard the model against those that it does not.

    Padding is masked, so any token will do. Tokens are often added to a tokenizer and forgotten in the model (``[PAD]``
    for Llama 2). Raises `LoraTuiError` where the end-of-sequence token is one of them.
    """
    known = known_tokens(model)
    eos = tokenizer.eos_token_id
    if eos is not None and not 0 <= eos < known:
        raise LoraTuiError(
            f"{place}: the end-of-sequence token {tokenizer.eos_token} is number {eos:,}, and the model knows "
            f"{known:,} tokens: it was added to the tokenizer and not to the model. Take the model's own tokenizer."
        )
    if tokenizer.pad_token_id is None or not 0 <= tokenizer.pad_token_id < known:
        tokenizer.pad_token = tokenizer.eos_token
    if max(tokenizer.get_vocab().values(), default=0) >= known:
        model.get_input_embeddings().register_forward_pre_hook(_Guard(tokenizer, known, place))


def unknown_token(tokenizer: PreTrainedTokenizerBase, ids: Collection[int], known: int) -> str | None:
    """Say which of these tokens the model does not know; None where it knows them all."""
    beyond = next((number for number in ids if number >= known), None)
    if beyond is None:
        return None
    token = one_line(str(tokenizer.convert_ids_to_tokens(beyond)), 40)
    return (
        f'"{token}" is token {beyond:,}, and the model knows {known:,}: it was added to the tokenizer and not to the '
        "model (resize_token_embeddings)"
    )


class _Guard:
    """Forward hook of an embedding: refuses tokens that it has no row for, by name."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, known: int, place: str) -> None:
        self._tokenizer, self._known, self._place = tokenizer, known, place

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        ids = inputs[0] if inputs and isinstance(inputs[0], Tensor) else None
        if ids is None or not ids.numel() or int(ids.max()) < self._known:
            return
        what = unknown_token(self._tokenizer, ids.flatten().tolist(), self._known)
        raise LoraTuiError(f"{self._place} cannot read this text: {what}. Take the model's own tokenizer.")
