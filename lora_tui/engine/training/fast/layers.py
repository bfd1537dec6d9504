"""Which of a model's layers are computed by this package, and the swap for the length of a step.

A layer is taken only if it is known to be the plain one: by its exact class, not by its name, and with nothing attached
to it. The model's own layers stay where they are and serve evaluation, generation and saving; on a GPU the weights of
those that share their input are moved into one tensor (`joint`).
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple, Self

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import Linear as PeftLinear
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.activations import SiLUActivation

from lora_tui.engine.training.fast import blocks, gpu_ops
from lora_tui.engine.training.fast.attention import packed_rotary_attention
from lora_tui.engine.training.fast.dropout import Dropped
from lora_tui.engine.training.fast.feed_forward import HIGHEST_RANK, can_be_fused, feed_forward
from lora_tui.engine.training.fast.fused_projections import Adapted, FusedProjection
from lora_tui.engine.training.fast.linear import Linear, lora_linears
from lora_tui.engine.training.fast.pointwise import rms_norm, swiglu
from lora_tui.engine.training.packing import has_varlen_kernel

_FAMILIES = ("llama.modeling_llama.Llama", "mistral.modeling_mistral.Mistral", "qwen2.modeling_qwen2.Qwen2")
_FAMILIES_WITH_NORMED_HEADS = ("qwen3.modeling_qwen3.Qwen3",)


class _Operations(NamedTuple):
    """What the layers between the matrix products are computed by, on this device."""

    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    swiglu: Callable[[Tensor, Tensor], Tensor]
    attention: Callable[..., Tensor] | None


@dataclass
class _RowState:
    """What belongs to the row under way. A GPU's backward pass runs on a thread of its own and must see it, too."""

    draws: Any = None


class _ThreadRowState(threading.local):
    """The same on the CPU, where rows are computed side by side, each on one thread from end to end."""

    draws: Any = None


@dataclass(frozen=True, slots=True)
class _Rounded:
    """The trained matrices as a GPU's products take them: in the model's precision, rounded together at each step."""

    exact: list[Tensor]
    copies: list[Tensor]

    @classmethod
    def of(cls, adapted: Sequence[Any]) -> "_Rounded":
        exact, copies = [], []
        for layer in adapted:
            (adapter,) = layer.active_adapters
            for matrix in (layer.lora_A[adapter].weight, layer.lora_B[adapter].weight):
                exact.append(matrix)
                copies.append(torch.empty_like(matrix, dtype=layer.base_layer.weight.dtype, requires_grad=False))
        return cls(exact, copies)

    @torch.no_grad()
    def take(self) -> None:
        """Round the matrices as they are now."""
        pairs = list(zip(self.copies, self.exact, strict=True))
        dense = [(copy, matrix) for copy, matrix in pairs if copy.is_contiguous()]
        if dense:  # asked for at once; one with gaps between its rows would have each asked for by itself
            torch._foreach_copy_([copy for copy, _ in dense], [matrix for _, matrix in dense])
        for copy, matrix in pairs:
            if not copy.is_contiguous():
                copy.copy_(matrix)

    def of_layer(self, number: int) -> tuple[Tensor, Tensor]:
        """Both matrices of a layer."""
        return self.copies[2 * number], self.copies[2 * number + 1]

    def place(self, copies: Mapping[int, tuple[Tensor, Tensor]]) -> None:
        """Round the matrices of some layers, given by number, into these."""
        for number, pair in copies.items():
            self.copies[2 * number : 2 * number + 2] = pair


@dataclass
class FastLayers:
    """The replacements for one model: `forwards` pairs a module with what is called in its place.

    `unsupported_reason` says why PEFT's own layers are used (None: they are replaced), `slower_reason` why those
    between them are not the fastest; `replaced` counts the replaced layers by kind.
    """

    forwards: list[tuple[nn.Module, blocks.Forward]] = field(default_factory=list)
    unsupported_reason: str | None = None
    slower_reason: str | None = None
    replaced: dict[str, int] = field(default_factory=dict)
    row: _RowState | _ThreadRowState = field(default_factory=_ThreadRowState)
    recomputes_feed_forward: bool = False
    uses_kernels: bool = False
    adds_low_ranks: bool = False
    has_dropout: bool = False
    rounded: "_Rounded | None" = None
    _described: dict[nn.Module, Callable[[Tensor], Linear]] = field(default_factory=dict)
    _adapted: dict[nn.Module, Adapted] = field(default_factory=dict)

    @classmethod
    def of(cls, model: PeftModel, *, packed: bool) -> Self:
        """Look through `model`; `packed` says that its attention may be computed span by span."""
        on_cpu = next(model.parameters()).device.type == "cpu"
        layers = cls(row=_ThreadRowState() if on_cpu else _RowState())
        adapted = [module for module in model.modules() if isinstance(module, LoraLayer)]
        layers.unsupported_reason = next((reason for module in adapted if (reason := _why_not_plain(module))), None)
        if layers.unsupported_reason is not None:
            return layers
        device = next(model.parameters()).device
        dtype = next(model.parameters()).dtype
        reason = gpu_ops.unusable_reason(device, dtype)
        if reason is None or (device.type == "cuda" and dtype == torch.bfloat16):
            layers.rounded = _Rounded.of(adapted)
        for number, module in enumerate(adapted):
            layers._take("linear", module, layers._linear(module, number))
        layers._describe_frozen(model)
        if reason is None:
            layers.adds_low_ranks = _tried_ranks(adapted, device, dtype)
            attention = blocks.varlen_rotary_attention if packed and _takes_varlen(model) else None
            layers.uses_kernels = True
            layers._replace_blocks(model, _Operations(gpu_ops.rms_norm, gpu_ops.swiglu, attention))
            layers._take_layers(model)
        elif on_cpu:
            layers._replace_blocks(model, _Operations(rms_norm, swiglu, packed_rotary_attention if packed else None))
            layers._take_embedding(model)
        elif device.type == "cuda":
            layers.slower_reason = f"the kernels for what is between the matrix products cannot be used: {reason}"
        return layers

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Let the replacements be called inside the block. What is trained must not change meanwhile."""
        if self.rounded is not None:
            self.rounded.take()
        for module, forward in self.forwards:
            module.forward = forward  # an instance's attribute hides its class's method
        try:
            yield
        finally:
            for module, _ in self.forwards:
                del module.forward

    def _take(self, kind: str, module: nn.Module, forward: blocks.Forward) -> None:
        self.forwards.append((module, forward))
        self.replaced[kind] = self.replaced.get(kind, 0) + 1

    def _replace_blocks(self, model: nn.Module, by_hand: "_Operations") -> None:
        for module in model.modules():
            if "forward" in module.__dict__:  # somebody else has replaced it already
                continue
            if _is(module, "RMSNorm") and not module.weight.requires_grad:
                self._take("norm", module, blocks.norm(module, by_hand.rms_norm))
            elif _is(module, "MLP") and isinstance(module.act_fn, nn.SiLU | SiLUActivation):
                self._take("mlp", module, self._mlp(module, by_hand.swiglu))
            elif by_hand.attention and _is(module, "Attention") and not module.attention_dropout:
                self._take("attention", module, self._attention(module, by_hand.attention))

    def _take_layers(self, model: nn.Module) -> None:
        """Let norms be computed with the additions beside them, in layers whose norms are computed by kernels."""
        taken = {module for module, _ in self.forwards}
        for module in model.modules():
            if not _is(module, "DecoderLayer") or "forward" in module.__dict__:
                continue
            norms: tuple[Any, Any] = (module.input_layernorm, module.post_attention_layernorm)
            if taken.issuperset(norms) and not any(_has_hooks(norm) for norm in norms):
                self._take("layer", module, blocks.layer(module))

    def _take_embedding(self, model: nn.Module) -> None:
        """Begin the sum that the layers add to in float32, where nobody else but norms taken by hand reads it."""
        taken = {id(module) for module, _ in self.forwards}
        norms = [module for module in model.modules() if "Norm" in type(module).__name__]
        if norms and all(id(norm) in taken for norm in norms):
            for module in model.modules():
                if isinstance(module, nn.Embedding):
                    self._take("embedding", module, blocks.embedding(module))

    def _linear(self, module: Any, number: int) -> blocks.Forward:
        (adapter,) = module.active_adapters
        dropout = module.lora_dropout[adapter]
        rate = dropout.p if isinstance(dropout, nn.Dropout) else 0.0
        self.has_dropout = self.has_dropout or rate > 0.0
        matrices = module.lora_A[adapter].weight, module.lora_B[adapter].weight
        adapted = Adapted(number, module.base_layer, *matrices, module.scaling[adapter], dropout, rate)
        self._adapted[module] = adapted

        def describe(x: Tensor) -> Linear:
            rounded = self.rounded.of_layer(number) if self.rounded is not None else None
            plain = Linear(adapted.base.weight, adapted.base.bias, *matrices, adapted.scale, None, rounded)
            return self._dropping(plain, [adapted], x)

        self._described[module] = describe
        return lambda x: lora_linears(x, [describe(x)])[0]

    def _dropping(self, layer: Linear, adapted: Sequence[Adapted], x: Tensor) -> Linear:
        """`layer`, which stands for the `adapted` ones, with what the row under way drops of its input."""
        draws, rate = self.row.draws, adapted[0].rate if adapted else 0.0
        if rate == 0.0 or draws is None or not adapted[0].dropout.training:
            return layer
        # Of several layers the marks are seeds in rows: only where a GPU draws inside the products are layers joined.
        drawn = [draws.dropped(one.number, x.shape[-1], rate, x.device, x.dtype) for one in adapted]
        dropped = drawn[0] if len(drawn) == 1 else Dropped(torch.stack([one.marks for one in drawn]), rate)
        inside = self.adds_low_ranks and adapted[0].rank <= HIGHEST_RANK
        return replace(layer, scale=layer.scale / (1.0 - rate), dropped=dropped, draws_inside=inside)

    def _describe_frozen(self, model: nn.Module) -> None:
        for module in model.modules():
            if type(module) is nn.Linear and not any(entry.requires_grad for entry in module.parameters()):
                self._described[module] = partial(_frozen, module)

    def _linears(self, *modules: Any) -> list[Callable[[Tensor], Linear]] | None:
        """How to describe layers that are about to be computed; None where one of them is not plain."""
        if any(module not in self._described or _has_hooks(module) for module in modules):
            return None
        return [self._described[module] for module in modules]

    def _together(self, *modules: Any) -> Callable[[Tensor], tuple[Tensor, ...]]:
        """The outputs of layers that share their input."""
        described = self._linears(*modules)
        if described is None:
            return lambda x: tuple(module(x) for module in modules)
        return lambda x: lora_linears(x, [describe(x) for describe in described])

    def _joined(self, *modules: Any) -> Callable[[Tensor], Linear] | None:
        """How to describe layers that share their input as one, also where nothing of them is trained.

        None on the CPU, where it saves nothing, and where they are too unlike.
        """
        if not self.uses_kernels or self._linears(*modules) is None:
            return None
        joint = FusedProjection.of(
            [self._adapted.get(m, m) for m in modules], HIGHEST_RANK if self.adds_low_ranks else 0
        )
        if joint is None:
            return None
        if joint.adapted:
            assert self.rounded is not None
            self.rounded.place(joint.copies())
        return lambda x: self._dropping(joint.linear, joint.adapted, x)

    def _mlp(self, module: Any, gated: Callable[[Tensor, Tensor], Tensor]) -> blocks.Forward:
        joined = self._joined(module.gate_proj, module.up_proj)
        together = self._together(module.gate_proj, module.up_proj)
        down = self._linears(module.down_proj) if self.adds_low_ranks else None

        def inner(x: Tensor) -> Tensor:
            if joined is None:
                return module.down_proj(gated(*together(x)))  # type: ignore[no-any-return]
            both = joined(x)
            # A GPU's draws depend on tokens and columns, not on the width: any input describes the last layer.
            if down is not None and can_be_fused(both, last := down[0](x)):
                return feed_forward(x, both, last)
            return module.down_proj(gpu_ops.gated_unit(*lora_linears(x, [both])))  # type: ignore[no-any-return]

        def forward(x: Tensor) -> Tensor:
            if not (self.recomputes_feed_forward and torch.is_grad_enabled()):
                return inner(x)
            again: Tensor = checkpoint(inner, x, use_reentrant=False, preserve_rng_state=False)
            return again

        return forward

    def _attention(self, module: Any, attend: Callable[..., Tensor]) -> blocks.Forward:
        layers = (module.q_proj, module.k_proj, module.v_proj)
        if hasattr(module, "q_norm") or (joined := self._joined(*layers)) is None:
            return blocks.attention(module, blocks.apart(module, self._together(*layers), attend))
        return blocks.attention(module, blocks.together(module, joined))

    def set_dropout_rng(self, draws: Any) -> None:
        """Draw the dropout of the next row from `draws`, a `DropoutRng` or what draws like one; None drops nothing.

        On the CPU this holds for the calling thread.
        """
        self.row.draws = draws


def _why_not_plain(module: Any) -> str | None:
    """Say what keeps an adapted layer from being computed by `lora_linear`; None for a plain one."""
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


def _is(module: nn.Module, kind: str) -> bool:
    """Tell whether a module is the `kind` of layer of a family whose layers are the plain ones."""
    name = f"{type(module).__module__}.{type(module).__qualname__}"
    return name in {f"transformers.models.{family}{kind}" for family in (*_FAMILIES, *_FAMILIES_WITH_NORMED_HEADS)}


def _has_hooks(module: nn.Module) -> bool:
    """Tell whether somebody wants to be told when a layer is called, or has replaced what a frozen one calls."""
    if type(module) is nn.Linear and "forward" in module.__dict__:
        return True
    inner = [module, *module.children()]
    return any(entry._forward_hooks or entry._forward_pre_hooks or entry._backward_hooks for entry in inner)


def _tried_ranks(adapted: Sequence[Any], device: torch.device, dtype: torch.dtype) -> bool:
    """Try the kernels that compute low-rank parts, for the highest rank of the model that they hold."""
    ranks = [rank for layer in adapted for rank in layer.r.values() if rank <= HIGHEST_RANK]
    return bool(ranks) and gpu_ops.adds_low_ranks(device, dtype, max(ranks))


def _takes_varlen(model: nn.Module) -> bool:
    """Tell whether queries as wide as the model's go through the variable-length kernel and the rotation before it."""
    attentions: list[Any] = [module for module in model.modules() if _is(module, "Attention")]
    widths = {int(module.head_dim) for module in attentions}
    in_precision_of = attentions[0].k_proj.weight if attentions else torch.empty(0)
    # A kernel's block is a power of two wide.
    return all(has_varlen_kernel(in_precision_of.new_empty(0, width)) and width.bit_count() == 1 for width in widths)


def _frozen(module: nn.Linear, _: Tensor) -> Linear:
    return Linear(module.weight, module.bias)
