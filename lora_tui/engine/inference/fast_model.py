"""A Llama-like model as decoding wants it: the same weights, without what transformers does around each layer.

Known are the families whose layers are laid out like Llama's: Llama, Mistral, Qwen2 and Qwen3, by their exact classes
and with nothing attached to them. What a token costs is then its products, a norm, a rotation and an attention a layer.
The formulas and the precision of each step are transformers'. On a CPU a few tokens at a time go through compiled code,
any number where the processor multiplies matrices (AMX).
"""

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.activations import SiLUActivation

from lora_tui.engine.inference.compiled_step import CompiledSteps, StepLayer, StepShape
from lora_tui.engine.inference.key_values import Attention, CachedAttention, KeyValueCache
from lora_tui.engine.inference.matrices import BASE, JoinedLinear, PackingBudget, RowAdapters, UnsupportedError
from lora_tui.engine.models.huge_pages import start_moving_to_huge_pages
from lora_tui.engine.models.loaded_checks import is_plain_layer

_log = logging.getLogger(__name__)

_SCORED_ROWS = 128
"""Rows whose scores of all tokens are there at once, some 50 MB for Llama's vocabulary."""

_ROTARY_KINDS = ("default", "linear", "llama3", "yarn")
"""Rotary positions that do not depend on how long the text is."""


@dataclass(frozen=True, slots=True)
class _Norm:
    """A root mean square norm; `twice` is its weight, two times one after the other.

    On a CPU torch computes it in eight passes. The mean of a vector with its own opposite after it is 0 and its
    variance the mean square: one pass of the kernel for the other norm gives the same.
    """

    weight: Tensor
    eps: float
    twice: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return functional.rms_norm(x, self.weight.shape, self.weight, self.eps)
        both = torch.cat([x, -x], dim=-1)
        y: Tensor = torch.native_layer_norm(both, both.shape[-1:], self.twice, None, self.eps)[0]
        return y[..., : x.shape[-1]]


@dataclass(frozen=True, slots=True)
class _Layer:
    attention_norm: _Norm
    query_key_value: JoinedLinear
    head_norms: tuple[_Norm, _Norm] | None
    output: JoinedLinear
    feed_forward_norm: _Norm
    gate_up: JoinedLinear
    down: JoinedLinear

    @property
    def products(self) -> tuple[JoinedLinear, JoinedLinear, JoinedLinear, JoinedLinear]:
        return self.query_key_value, self.output, self.gate_up, self.down


class FastModel:
    """A model's weights and forward pass for decoding. Raises `UnsupportedError` for one that is not known."""

    def __init__(self, model: PreTrainedModel) -> None:
        decoder: Any = model.model if is_plain_layer(model, "ForCausalLM") else None
        if decoder is None:
            raise UnsupportedError(f"another architecture ({type(model).__name__})")
        config = model.config
        _check_parts(model)
        self.max_tokens = _window(config)
        first = decoder.layers[0].self_attn
        self._width = int(first.head_dim)
        self._heads = first.q_proj.weight.shape[0] // self._width
        self._key_heads = first.k_proj.weight.shape[0] // self._width
        self.scaling = float(first.scaling)
        if type(decoder.embed_tokens) is not nn.Embedding:
            raise UnsupportedError(f"an embedding of the kind {type(decoder.embed_tokens).__name__}")
        self._embed = decoder.embed_tokens  # called as a module: it may refuse tokens that it does not know
        self._embedding: Tensor = decoder.embed_tokens.weight
        self._rotary = decoder.rotary_emb
        self._angles: tuple[Tensor, Tensor] | None = None
        budget = PackingBudget()
        self._layers = [_layer(layer, budget) for layer in decoder.layers]
        self._norm = _norm(decoder.norm)
        self._head = JoinedLinear([model.lm_head], budget)
        start_moving_to_huge_pages([self._embedding, *(one for part in self._products() for one in part.weights)])
        self._fingerprint = self._sampled()
        self._form = _form(self._embedding)
        self._int8 = False
        self._steps = self._compiled()

    def new_cache(self) -> KeyValueCache:
        """An empty cache of this model's shape."""
        return KeyValueCache(len(self._layers), self._key_heads, self._width, self._embedding)

    def read_int8(self) -> None:
        """Compute a few tokens at a time with 8-bit weights from now on, on a CPU; prompts are read as before.

        For SmolLM2-135M the scores then differ by 2.5 % (root mean square), with llama.cpp's Q4_1 by 6.7 %.
        """
        for product in self._products():
            product.read_int8()
        self._int8 = self.device.type == "cpu"
        self._steps = self._compiled()

    @property
    def vocabulary(self) -> int:
        """Tokens that the model tells apart."""
        return self._head.out_features

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._embedding.device

    def attach(self, model: PreTrainedModel) -> bool:
        """Take adapters from `model` as they are now; whether its weights are still those that this was made of.

        The weights are told by a sample of each. Raises `UnsupportedError` for adapters that cannot be computed.
        """
        _check_parts(model)
        if model.model.embed_tokens is not self._embed or _form(self._embedding) != self._form:
            return False
        layers = [joined for layer in model.model.layers for joined in _joined_layers(layer)] + [[model.lm_head]]
        same = [product.attach(own) for product, own in zip(self._products(), layers, strict=True)]
        if not all(same) or not torch.equal(self._fingerprint, self._sampled()):
            return False
        self._steps = self._compiled()
        return True

    def hidden(self, tokens: Tensor, positions: Tensor, attention: Attention, adapters: RowAdapters = BASE) -> Tensor:
        """Hidden states after the last norm ``(rows, hidden)`` of `tokens` ``(rows,)`` at `positions` ``(rows,)``."""
        x: Tensor = self._embed(tokens)
        cos, sin = self._angles_at(positions)
        if self._steps is not None and len(tokens) <= self._steps.most_rows and isinstance(attention, CachedAttention):
            return self._steps.hidden(x, cos, sin, attention.rows(), adapters)
        rows, heads, rotated_heads, half = len(tokens), self._heads, self._heads + self._key_heads, self._width // 2
        for number, layer in enumerate(self._layers):
            parts = layer.query_key_value(layer.attention_norm(x), adapters).view(rows, -1, self._width)
            plain = parts[:, :rotated_heads]
            if layer.head_norms is not None:
                query_norm, key_norm = layer.head_norms
                plain = torch.cat([query_norm(plain[:, :heads]), key_norm(plain[:, heads:])], dim=1)
            rotated = (plain * cos).addcmul_(plain.roll(half, -1), sin)
            y = attention(number, rotated[:, :heads], rotated[:, heads:], parts[:, rotated_heads:])
            x += layer.output(y, adapters)
            gate, up = layer.gate_up(layer.feed_forward_norm(x), adapters).chunk(2, dim=1)
            x += layer.down(functional.silu(gate).mul_(up), adapters)
        return self._norm(x)

    def logits(self, hidden: Tensor, adapters: RowAdapters = BASE) -> Tensor:
        """Scores of the next token ``(rows, vocabulary)``, float32, for hidden states ``(rows, hidden)``."""
        if self._steps is not None and len(hidden) <= self._steps.most_rows and not self._head.is_adapted(adapters):
            return self._steps.scores(hidden)
        return self._head(hidden, adapters).float()

    def log_probabilities(self, hidden: Tensor, targets: Tensor, adapter: str | None) -> Tensor:
        """Log-probability in nats of each row's target ``(rows,)`` after hidden states ``(rows, hidden)``, float32."""
        adapters = RowAdapters(everywhere=adapter)
        if self._steps is not None and len(hidden) <= self._steps.most_rows and not self._head.is_adapted(adapters):
            return self._steps.log_probabilities(hidden, targets)
        found = [
            self._head(own, adapters).float().log_softmax(-1).gather(-1, own_targets[:, None])[:, 0]
            for own, own_targets in zip(
                torch.split(hidden, _SCORED_ROWS), torch.split(targets, _SCORED_ROWS), strict=True
            )
        ]
        return torch.cat(found)

    def _compiled(self) -> CompiledSteps | None:
        """Steps in compiled code, with the adapters as they are now; None where torch computes them."""
        if self.device.type != "cpu":
            return None
        first = self._layers[0]
        head_eps = first.head_norms[0].eps if first.head_norms else 0.0
        shape = StepShape(
            self._heads, self._key_heads, self._width, self.scaling, first.attention_norm.eps, head_eps, self._norm.eps
        )
        layers = [
            StepLayer(
                layer.attention_norm.weight,
                layer.feed_forward_norm.weight,
                layer.head_norms and (layer.head_norms[0].weight, layer.head_norms[1].weight),
                layer.products,
            )
            for layer in self._layers
        ]
        try:
            return CompiledSteps(shape, layers, self._norm.weight, self._head, int8=self._int8)
        except UnsupportedError as error:
            _announce_uncompiled(str(error))
            return None

    def _angles_at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines ``(rows, 1, width)``: a half of the sines is negative, as the rotation wants."""
        last = int(positions.max())
        if self._angles is None or last >= len(self._angles[0]):
            every = torch.arange(max(256, 2 * (last + 1)), device=positions.device)
            cos, sin = self._rotary(self._embedding[:1], every[None])
            half = self._width // 2
            self._angles = cos[0, :, None], torch.cat([-sin[0, :, :half], sin[0, :, half:]], dim=1)[:, None]
        cosines, sines = self._angles
        return cosines[positions], sines[positions]

    def _products(self) -> list[JoinedLinear]:
        return [product for layer in self._layers for product in layer.products] + [self._head]

    def _sampled(self) -> Tensor:
        return torch.cat([product.fingerprint() for product in self._products()])


_lock = threading.Lock()
_known: WeakKeyDictionary[PreTrainedModel, FastModel] = WeakKeyDictionary()


def fast_model(model: PreTrainedModel | PeftModel) -> FastModel | str:
    """The fast form of a model, made once and kept as long as the model; or why there is none, in a few words.

    Adapters are read anew each time: training changes them.
    """
    base: PreTrainedModel = model.get_base_model() if isinstance(model, PeftModel) else model
    with _lock, torch.inference_mode(False), torch.no_grad():  # training may go on with weights that are moved here
        try:
            found = _known.get(base)
            if found is None or not found.attach(base):
                found = _known[base] = FastModel(base)
        except UnsupportedError as error:
            _known.pop(base, None)
            return str(error)
        return found


def forget(model: PreTrainedModel | PeftModel) -> None:
    """Give the memory of a model's fast form back; it is made again when it is next asked for."""
    base: PreTrainedModel = model.get_base_model() if isinstance(model, PeftModel) else model
    with _lock:
        _known.pop(base, None)


FastForm = tuple[FastModel, str | None]
"""A model's fast form, and the name of the adapter that computes with it; None is the base model."""


def fast_form(model: PreTrainedModel | PeftModel, prompts: Sequence[Sequence[int]], new_tokens: int) -> FastForm | None:
    """The fast form of a model for prompts of tokens and so many new ones, and the adapter that computes with it now.

    None where transformers' own forward is to be used instead. The log says once why.
    """
    found = fast_model(model)
    if isinstance(found, str):
        _announce(found)
        return None
    longest = max(map(len, prompts)) + new_tokens
    if not all(prompts) or (found.max_tokens is not None and longest > found.max_tokens):
        return None
    try:
        return found, active_adapter(model)
    except UnsupportedError as error:
        _announce(str(error))
        return None


@cache
def _announce(reason: str) -> None:
    _log.info("answers are decoded by transformers' own forward pass, which is slower: the model has %s", reason)


@cache
def _announce_uncompiled(reason: str) -> None:
    _log.info("tokens are decoded by torch's products instead of compiled code, which is slower: %s", reason)


def active_adapter(model: PreTrainedModel | PeftModel) -> str | None:
    """The adapter that computes with a model now; None for the base model. Raises `UnsupportedError` for several."""
    for module in model.modules():
        if isinstance(module, LoraLayer):
            if module.disable_adapters or not module.active_adapters:
                return None
            if len(module.active_adapters) > 1:
                raise UnsupportedError("several adapters at once")
            return str(module.active_adapters[0])
    return None


def _joined_layers(layer: Any) -> list[list[nn.Module]]:
    """The linear layers of a decoder layer, those together that share their input, in the order of `_Layer`."""
    attention, feed_forward = layer.self_attn, layer.mlp
    return [
        [attention.q_proj, attention.k_proj, attention.v_proj],
        [attention.o_proj],
        [feed_forward.gate_proj, feed_forward.up_proj],
        [feed_forward.down_proj],
    ]


def _layer(layer: Any, budget: PackingBudget) -> _Layer:
    attention = layer.self_attn
    query_key_value, output, gate_up, down = (JoinedLinear(joined, budget) for joined in _joined_layers(layer))
    return _Layer(
        _norm(layer.input_layernorm),
        query_key_value,
        (_norm(attention.q_norm), _norm(attention.k_norm)) if hasattr(attention, "q_norm") else None,
        output,
        _norm(layer.post_attention_layernorm),
        gate_up,
        down,
    )


def _norm(module: Any) -> _Norm:
    return _Norm(module.weight, float(module.variance_epsilon), torch.cat([module.weight, module.weight]).detach())


def _check_parts(model: PreTrainedModel) -> None:
    """Raise `UnsupportedError` where a part of the model is not the plain one of its family."""
    kinds = {parameter.dtype for name, parameter in model.named_parameters() if "lora_" not in name}
    if len(kinds) > 1 or not kinds <= {torch.float32, torch.bfloat16, torch.float16}:
        raise UnsupportedError("weights of several precisions")
    devices = {parameter.device for parameter in model.parameters()}
    if len(devices) > 1:
        raise UnsupportedError("weights on several devices")
    if any(type(parameter).__name__ == "DTensor" for parameter in model.parameters()):
        raise UnsupportedError("weights of which this process has a part")
    if model.config.rope_parameters.get("rope_type", "default") not in _ROTARY_KINDS:
        raise UnsupportedError("rotary positions that depend on the text's length")
    for module in model.modules():
        if isinstance(module, AuxiliaryTrainingWrapper):
            raise UnsupportedError("layers that are trained whole")
        name = type(module).__name__
        watched = module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__
        for part in ("RMSNorm", "MLP", "Attention", "DecoderLayer", "Model"):
            ours = name.endswith(part) and type(module).__module__.startswith("transformers.models.")
            if ours and (watched or not is_plain_layer(module, part)):
                raise UnsupportedError(f"a layer of the kind {name}")
        if name.endswith("MLP") and not isinstance(module.act_fn, nn.SiLU | SiLUActivation):
            raise UnsupportedError("another activation than SiLU")


def _form(weight: Tensor) -> tuple[torch.dtype, torch.device]:
    """What ``model.to`` changes of a weight, which stays the same parameter."""
    return weight.dtype, weight.device


def _window(config: Any) -> int | None:
    """Tokens beyond which attention would no longer see all; None where it always does."""
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    if window is None or (kinds is not None and "sliding_attention" not in kinds):
        return None
    return int(window)
