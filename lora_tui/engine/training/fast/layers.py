"""Which of a model's layers are computed by this package, and the swap for the length of a step.

A layer is replaced only if it is known to be the plain one: by its exact class, not by its name, and with nothing
attached to it. The model's own layers stay where they are and serve evaluation, generation and saving; on a GPU the
weights of those that share their input are moved into one tensor (`fused_projections`).
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import Linear as PeftLinear
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers.activations import SiLUActivation

from lora_tui.engine.models.loaded_checks import is_plain_layer
from lora_tui.engine.training.fast import cpu_ops, gpu_ops
from lora_tui.engine.training.fast.compiled_layer import is_compilable, layer_forward, linears_of
from lora_tui.engine.training.fast.cpu_ops import HeadLayout
from lora_tui.engine.training.fast.dropout import MAX_POSITIONS_RATE, MaskSource, SeededMask
from lora_tui.engine.training.fast.fused_projections import (
    MAX_KERNEL_RANK,
    AdaptedLinear,
    ComputeCopies,
    FusedProjection,
    can_fuse_feed_forward,
    feed_forward,
)
from lora_tui.engine.training.fast.linear import LoraLinearSpec, lora_linears
from lora_tui.engine.training.packing import has_varlen_kernel, varlen_attention

Forward = Callable[..., Any]
"""What is called in the place of a module's `forward`."""

SpecOf = Callable[[Tensor], LoraLinearSpec]
"""Describes a layer for one input, with what the current row drops of it."""

Norm = Callable[[Tensor, Tensor, float], Tensor]
Gate = Callable[[Tensor, Tensor], Tensor]
Attention = Callable[..., Tensor]

Spans = Sequence[tuple[int, int]]

AttentionCore = Callable[[Tensor, tuple[Tensor, Tensor], Spans, Tensor], Tensor]
"""Attention before its output layer: hidden states ``(1, T, hidden)``, cosines and sines ``(T, width)``, spans and
`cu_seqlens` to ``(T, heads · width)``."""


_LAYER_PARTS = ("input_layernorm", "post_attention_layernorm", "self_attn", "mlp")
"""What a decoder layer consists of."""


@dataclass
class _RowState:
    """Per-row state of the packed forward pass. A GPU's backward pass runs on a thread of its own and must see it."""

    dropout: MaskSource | None = None


class _ThreadRowState(threading.local):
    """The same on the CPU, where rows are computed side by side, each on one thread from end to end."""

    dropout: MaskSource | None = None


@dataclass
class FastLayers:
    """The replacements for one model: `forwards` pairs a module with what is called in its place.

    `unsupported_reason` says why PEFT's own layers are used (None: they are replaced), `slower_reason` why those
    between them are not the fastest; `replaced` counts the replaced layers by kind. `uses_kernels` says that Triton's
    kernels compute what is between the products, `fuses_low_ranks` that they compute low-rank products as well,
    `has_dropout` that some layer drops. `recomputes_feed_forward` may be set from outside: feed-forwards then keep
    nothing but their input for the backward pass.
    """

    forwards: list[tuple[nn.Module, Forward]] = field(default_factory=list)
    unsupported_reason: str | None = None
    slower_reason: str | None = None
    replaced: dict[str, int] = field(default_factory=dict)
    row: _RowState | _ThreadRowState = field(default_factory=_ThreadRowState)
    recomputes_feed_forward: bool = False
    uses_kernels: bool = False
    fuses_low_ranks: bool = False
    has_dropout: bool = False
    sharded: bool = False
    compute_copies: ComputeCopies | None = None
    _specs: dict[nn.Module, SpecOf] = field(default_factory=dict)
    _adapted: dict[nn.Module, AdaptedLinear] = field(default_factory=dict)

    @classmethod
    def of(cls, model: PeftModel, *, packed: bool, sharded: bool = False) -> Self:
        """Decide what replaces `model`'s layers; `packed` says that its attention may be computed span by span.

        Weights that are `sharded` are gathered layer by layer: those of several projections cannot be moved into one.
        """
        first = next(model.parameters())
        device, dtype, on_cpu = first.device, first.dtype, first.device.type == "cpu"
        layers = cls(row=_ThreadRowState() if on_cpu else _RowState(), sharded=sharded)
        adapted = [module for module in model.modules() if isinstance(module, LoraLayer)]
        layers.unsupported_reason = next(
            (reason for module in adapted if (reason := _unsupported_reason(module))), None
        )
        if layers.unsupported_reason is not None:
            return layers
        reason = gpu_ops.unusable_reason(device, dtype)
        if reason is None or (device.type == "cuda" and dtype == torch.bfloat16):
            layers.compute_copies = ComputeCopies.of(adapted)
        for number, module in enumerate(adapted):
            layers._replace("linear", module, layers._lora_linear(module, number))
        layers._add_frozen_specs(model)
        if reason is None:
            layers.fuses_low_ranks = _low_rank_kernels_usable(adapted, device, dtype)
            layers.uses_kernels = True
            gpu_attention = gpu_ops.packed_rotary_attention if packed and _takes_varlen_kernel(model) else None
            layers._replace_blocks(model, gpu_ops.rms_norm, gpu_ops.swiglu, gpu_attention)
            layers._replace_decoder_layers(model)
        elif on_cpu:
            cpu_attention = cpu_ops.packed_rotary_attention if packed else None
            layers._replace_blocks(model, cpu_ops.rms_norm, cpu_ops.swiglu, cpu_attention)
            layers._replace_compiled_layers(model)
            layers._replace_embedding(model)
        elif device.type == "cuda":
            layers.slower_reason = f"the kernels for what is between the matrix products cannot be used: {reason}"
        return layers

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Let the replacements be called inside the block. What is trained must not change meanwhile."""
        if self.compute_copies is not None:
            self.compute_copies.refresh()
        for module, forward in self.forwards:
            module.forward = forward  # an instance's attribute hides its class's method
        try:
            yield
        finally:
            for module, _ in self.forwards:
                del module.forward

    def set_dropout_rng(self, rng: MaskSource | None) -> None:
        """Draw the dropout of the next row from `rng`; None drops nothing.

        On the CPU this holds for the calling thread.
        """
        self.row.dropout = rng

    def _replace(self, kind: str, module: nn.Module, forward: Forward) -> None:
        self.forwards.append((module, forward))
        self.replaced[kind] = self.replaced.get(kind, 0) + 1

    def _replace_blocks(self, model: nn.Module, rms_norm: Norm, swiglu: Gate, attention: Attention | None) -> None:
        """Replace norms, feed-forwards and attentions by functions of `cpu_ops` or `gpu_ops`."""
        for module in model.modules():
            if "forward" in module.__dict__:  # somebody else has replaced it already
                continue
            if is_plain_layer(module, "RMSNorm") and not module.weight.requires_grad:
                self._replace("norm", module, _norm_forward(module, rms_norm))
            elif is_plain_layer(module, "MLP") and isinstance(module.act_fn, nn.SiLU | SiLUActivation):
                self._replace("mlp", module, self._mlp_forward(module, swiglu))
            elif attention and is_plain_layer(module, "Attention") and not module.attention_dropout:
                self._replace("attention", module, self._attention_forward(module, attention))

    def _replace_decoder_layers(self, model: nn.Module) -> None:
        """Let norms be computed with the additions beside them, in layers whose norms are computed by kernels."""
        replaced = {module for module, _ in self.forwards}
        for module in model.modules():
            if not is_plain_layer(module, "DecoderLayer") or "forward" in module.__dict__:
                continue
            norms: tuple[Any, Any] = (module.input_layernorm, module.post_attention_layernorm)
            if replaced.issuperset(norms) and not any(_has_hooks(norm) for norm in norms):
                self._replace("layer", module, _decoder_layer_forward(module))

    def _replace_compiled_layers(self, model: nn.Module) -> None:
        """Let decoder layers that compiled code takes be one step each. Weights that are gathered are not looked at."""
        replaced = {module for module, _ in self.forwards}
        for module in model.modules():
            if self.sharded or not is_plain_layer(module, "DecoderLayer") or "forward" in module.__dict__:
                continue
            parts: list[Any] = [getattr(module, name) for name in _LAYER_PARTS]
            linears = linears_of(module)
            specs = self._specs_of(*linears)
            hooked = any(_has_hooks(part) for part in [module, *parts])
            rates = [self._adapted[linear].rate for linear in linears if linear in self._adapted]
            if specs is None or hooked or not replaced.issuperset(parts) or max(rates, default=0) > MAX_POSITIONS_RATE:
                continue
            if is_compilable(module, specs):
                self._replace("layer", module, layer_forward(module, specs, lambda: self.recomputes_feed_forward))

    def _replace_embedding(self, model: nn.Module) -> None:
        """Begin the residual stream in float32, where nobody else but norms of ours reads it."""
        replaced = {id(module) for module, _ in self.forwards}
        norms = [module for module in model.modules() if "Norm" in type(module).__name__]
        if norms and all(id(norm) in replaced for norm in norms):
            for module in model.modules():
                if isinstance(module, nn.Embedding):
                    self._replace("embedding", module, _embedding_forward(module))

    def _lora_linear(self, module: Any, number: int) -> Forward:
        (adapter,) = module.active_adapters
        dropout = module.lora_dropout[adapter]
        rate = dropout.p if isinstance(dropout, nn.Dropout) else 0.0
        self.has_dropout = self.has_dropout or rate > 0.0
        matrices = module.lora_A[adapter].weight, module.lora_B[adapter].weight
        adapted = AdaptedLinear(number, module.base_layer, *matrices, module.scaling[adapter], dropout, rate)
        self._adapted[module] = adapted

        def spec_of(x: Tensor) -> LoraLinearSpec:
            copies = self.compute_copies.of_layer(number) if self.compute_copies is not None else None
            spec = LoraLinearSpec(adapted.base.weight, adapted.base.bias, *matrices, adapted.scale, None, copies)
            return self._with_dropout(spec, [adapted], x)

        self._specs[module] = spec_of
        return lambda x: lora_linears(x, [spec_of(x)])[0]

    def _with_dropout(self, spec: LoraLinearSpec, adapted: Sequence[AdaptedLinear], x: Tensor) -> LoraLinearSpec:
        """`spec`, which stands for the `adapted` layers, with what the current row drops of their input."""
        rng, rate = self.row.dropout, adapted[0].rate if adapted else 0.0
        if rate == 0.0 or rng is None or not adapted[0].dropout.training:
            return spec
        masks = [rng.mask(one.number, x.shape[-1], rate, x.device, x.dtype) for one in adapted]
        # Layers are fused only where a GPU draws inside the products: then all masks are seeds.
        mask = masks[0] if len(masks) == 1 else SeededMask(torch.stack([one.saved()[0] for one in masks]), rate)
        in_kernels = self.fuses_low_ranks and adapted[0].rank <= MAX_KERNEL_RANK
        return replace(spec, scale=spec.scale / (1.0 - rate), mask=mask, drop_in_kernels=in_kernels)

    def _add_frozen_specs(self, model: nn.Module) -> None:
        for module in model.modules():
            if type(module) is nn.Linear and not any(entry.requires_grad for entry in module.parameters()):
                self._specs[module] = partial(_frozen_spec, module)

    def _specs_of(self, *modules: Any) -> list[SpecOf] | None:
        """How to describe layers that are about to be computed; None where one of them is not plain."""
        if any(module not in self._specs or _has_hooks(module) for module in modules):
            return None
        return [self._specs[module] for module in modules]

    def _projections(self, *modules: Any) -> Callable[[Tensor], tuple[Tensor, ...]]:
        """The outputs of layers that share their input."""
        specs = self._specs_of(*modules)
        if specs is None:
            return lambda x: tuple(module(x) for module in modules)
        return lambda x: lora_linears(x, [spec_of(x) for spec_of in specs])

    def _fused_spec(self, *modules: Any) -> SpecOf | None:
        """How to describe layers that share their input as one, also where nothing of them is trained.

        None on the CPU, where it saves nothing, and where they are too unlike.
        """
        if not self.uses_kernels or self.sharded or self._specs_of(*modules) is None:
            return None
        layers = [self._adapted.get(module, module) for module in modules]
        fused = FusedProjection.of(layers, MAX_KERNEL_RANK if self.fuses_low_ranks else 0)
        if fused is None:
            return None
        if fused.adapted:
            assert self.compute_copies is not None
            self.compute_copies.move(fused.places())
        return lambda x: self._with_dropout(fused.spec, fused.adapted, x)

    def _mlp_forward(self, module: Any, swiglu: Gate) -> Forward:
        fused_spec = self._fused_spec(module.gate_proj, module.up_proj)
        gate_and_up = self._projections(module.gate_proj, module.up_proj)
        down_spec = self._specs_of(module.down_proj) if self.fuses_low_ranks else None

        def inner(x: Tensor) -> Tensor:
            if fused_spec is None:
                return module.down_proj(swiglu(*gate_and_up(x)))  # type: ignore[no-any-return]
            both = fused_spec(x)
            # A GPU's draws depend on tokens and columns, not on the width: any input describes the last layer.
            if down_spec is not None and can_fuse_feed_forward(both, down := down_spec[0](x)):
                return feed_forward(x, both, down)
            return module.down_proj(gpu_ops.swiglu_of_halves(*lora_linears(x, [both])))  # type: ignore[no-any-return]

        def forward(x: Tensor) -> Tensor:
            if not (self.recomputes_feed_forward and torch.is_grad_enabled()):
                return inner(x)
            y: Tensor = checkpoint(inner, x, use_reentrant=False, preserve_rng_state=False)
            return y

        return forward

    def _attention_forward(self, module: Any, attention: Attention) -> Forward:
        layers = (module.q_proj, module.k_proj, module.v_proj)
        if hasattr(module, "q_norm") or (fused_spec := self._fused_spec(*layers)) is None:
            core = _separate_qkv_attention(module, self._projections(*layers), attention)
        else:
            core = _fused_qkv_attention(module, fused_spec)

        def forward(
            hidden_states: Tensor,
            position_embeddings: tuple[Tensor, Tensor],
            attention_mask: Tensor | None = None,
            *,
            spans: Spans,
            cu_seqlens: Tensor,
            **_: Any,
        ) -> tuple[Tensor, None]:
            cos, sin = position_embeddings
            y = core(hidden_states, (cos[0], sin[0]), spans, cu_seqlens)
            return module.o_proj(y.unsqueeze(0)), None

        return forward


def _separate_qkv_attention(
    module: Any, projections: Callable[[Tensor], tuple[Tensor, ...]], attention: Attention
) -> AttentionCore:
    """Queries, keys and values as `projections` gives them, and `attention` for what is done with them."""
    width = module.head_dim
    heads = HeadLayout(module.k_proj.out_features // width, width, float(module.scaling))
    normed = hasattr(module, "q_norm")

    def core(hidden: Tensor, angles: tuple[Tensor, Tensor], spans: Spans, cu_seqlens: Tensor) -> Tensor:
        # Not [0]: its backward pass would copy the gradient into a tensor of zeros.
        query, key, value = (x.squeeze(0) for x in projections(hidden))
        if normed:
            query = module.q_norm(query.view(len(query), -1, width)).flatten(1)
            key = module.k_norm(key.view(len(key), -1, width)).flatten(1)
        return attention(query, key, value, angles, heads, spans, cu_seqlens)

    return core


def _fused_qkv_attention(module: Any, fused_spec: SpecOf) -> AttentionCore:
    """Queries, keys and values out of one product, on a GPU."""
    width, scaling, weight = module.head_dim, float(module.scaling), module.o_proj.weight
    heads, key_heads = weight.shape[1] // width, module.k_proj.out_features // width
    usable = gpu_ops.attention_kernels_usable(weight.device, weight.dtype, heads, key_heads, width)
    kernels_max_seqlen = gpu_ops.attention_kernels().MAX_SEQLEN if usable else 0

    def core(hidden: Tensor, angles: tuple[Tensor, Tensor], spans: Spans, cu_seqlens: Tensor) -> Tensor:
        (qkv,) = lora_linears(hidden, [fused_spec(hidden)])
        x = qkv.view(hidden.shape[1], -1, width)
        max_seqlen = max(end - start for start, end in spans)
        if max_seqlen <= kernels_max_seqlen:
            y = gpu_ops.rotary_attention(x, *angles, cu_seqlens, key_heads, max_seqlen, scaling)
        else:
            y = varlen_attention(*gpu_ops.rotated_heads(x, *angles, key_heads), scaling, spans, cu_seqlens)
        return y.view(len(y), -1)

    return core


def _norm_forward(module: Any, rms_norm: Norm) -> Forward:
    def forward(x: Tensor) -> Tensor:
        return rms_norm(x, module.weight, module.variance_epsilon)

    return forward


def _decoder_layer_forward(module: Any) -> Forward:
    """A layer whose norms are computed with the additions beside them, on a GPU; not where it is to be recomputed."""
    before, after = module.input_layernorm, module.post_attention_layernorm

    def forward(hidden_states: Tensor, **more: Any) -> Tensor:
        if module.gradient_checkpointing and module.training and torch.is_grad_enabled():
            y: Tensor = type(module).forward(module, hidden_states, **more)  # which sees to it
            return y
        residual, normed = gpu_ops.add_rms_norm(hidden_states, None, before.weight, before.variance_epsilon)
        attended, _ = module.self_attn(hidden_states=normed, **more)
        residual, normed = gpu_ops.add_rms_norm(residual, attended, after.weight, after.variance_epsilon)
        return residual + module.mlp(normed)  # type: ignore[no-any-return]

    return forward


def _embedding_forward(module: nn.Embedding) -> Forward:
    """Begin the residual stream in float32, so that a bfloat16 model does not round it sixty times."""

    def forward(ids: Tensor) -> Tensor:
        return functional.embedding(ids, module.weight, module.padding_idx).float()

    return forward


def _unsupported_reason(module: Any) -> str | None:
    """Say what keeps an adapted layer from being computed by `lora_linears`; None for a plain one."""
    if type(module) is not PeftLinear:
        return f"LoRA on a layer of the type {type(module.get_base_layer()).__name__}"
    if type(module.base_layer) is not nn.Linear:
        return f"a base layer of the type {type(module.base_layer).__name__}"
    if len(module.active_adapters) != 1 or module.merged or module.disable_adapters:
        return "more than one adapter"
    (adapter,) = module.active_adapters
    if module.lora_variant:
        return "a variant of LoRA"
    if module.lora_B[adapter].bias is not None:
        return "LoRA with a bias"
    if type(module.lora_dropout[adapter]) not in (nn.Identity, nn.Dropout):
        return "a dropout of another kind"
    if any(parameter.requires_grad for parameter in module.base_layer.parameters()):
        return "trained base layers"
    return "hooks on its layers" if "forward" in module.__dict__ else None


def _has_hooks(module: nn.Module) -> bool:
    """Tell whether somebody listens to a layer's calls, or has replaced the `forward` of a frozen one."""
    if type(module) is nn.Linear and "forward" in module.__dict__:
        return True
    inner = [module, *module.children()]
    return any(entry._forward_hooks or entry._forward_pre_hooks or entry._backward_hooks for entry in inner)


def _low_rank_kernels_usable(adapted: Sequence[Any], device: torch.device, dtype: torch.dtype) -> bool:
    """Try the kernels that compute low-rank products, for the highest rank of the model that they hold."""
    ranks = [rank for layer in adapted for rank in layer.r.values() if rank <= MAX_KERNEL_RANK]
    return bool(ranks) and gpu_ops.low_rank_kernels_usable(device, dtype, max(ranks))


def _takes_varlen_kernel(model: nn.Module) -> bool:
    """Tell whether queries as wide as the model's go through the variable-length kernel and the rotation before it."""
    attentions: list[Any] = [module for module in model.modules() if is_plain_layer(module, "Attention")]
    widths = {int(module.head_dim) for module in attentions}
    in_precision_of = attentions[0].k_proj.weight if attentions else torch.empty(0)
    # A kernel's block is a power of two wide.
    return all(has_varlen_kernel(in_precision_of.new_empty(0, width)) and width.bit_count() == 1 for width in widths)


def _frozen_spec(module: nn.Linear, _: Tensor) -> LoraLinearSpec:
    return LoraLinearSpec(module.weight, module.bias)
