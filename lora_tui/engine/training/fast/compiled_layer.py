"""A whole decoder layer as one step of autograd, on the CPU where there is compiled code.

Autograd would take a dozen steps, each with tensors of its own: finding memory for them, adding up the gradients of
what several products read, and Python itself cost more than the products, which bfloat16 instructions make cheap. Here
what a layer keeps lies in two blocks of known sizes, sums are formed where they are used, and nothing is copied to be
laid out anew. The products are torch's, what is between them `compiled_ops`.

What is kept for the backward pass: both inputs of the norms in float32, the inputs of what is trained, queries, keys
and values as the products gave them, what attention returns, and the feed-forward's two inner products.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from lora_tui.engine.training.fast import compiled_ops
from lora_tui.engine.training.fast.compiled_ops import AttentionInputs
from lora_tui.engine.training.fast.cpu_ops import HeadLayout
from lora_tui.engine.training.fast.dropout import StoredMask
from lora_tui.engine.training.fast.linear import LoraLinearSpec


@dataclass(frozen=True, slots=True, eq=False)
class CompiledLayer:
    """A decoder layer for one row: the weights and epsilons of its two norms, its heads, and its `linears`.

    `linears` are in the order of `linears_of`. `cos` and `sin` are those of the rotary angles, float32
    ``(T, width / 2)``. With `recomputes_feed_forward` its inner products are computed again for the backward pass.
    """

    norms: tuple[Tensor, Tensor]
    eps: tuple[float, float]
    heads: HeadLayout
    linears: Sequence[LoraLinearSpec]
    cos: Tensor
    sin: Tensor
    spans: Sequence[tuple[int, int]]
    recomputes_feed_forward: bool = False

    @property
    def trained(self) -> list[Tensor]:
        """The matrices A and B of each linear layer in turn."""
        return [matrix for linear in self.linears for matrix in linear.trained]

    def attention_inputs(self, query: Tensor, key: Tensor, value: Tensor) -> AttentionInputs:
        """What attention reads."""
        return AttentionInputs(query, key, value, self.cos, self.sin, self.spans, self.heads.width, self.heads.scaling)


@dataclass(slots=True, eq=False)
class _Kept:
    """What a layer keeps, as parts of two blocks.

    In the model's precision ``(T, …)``: the first norm's result, queries, keys, values, attention's result, gate, up;
    the second norm's result and the gated product, where what they go into is trained. The last four may be None: they
    are not needed, or computed again. In float32: the sum that the second norm reads, both norms' factors, attention's
    sums, and each linear layer's low-rank activations, None where it has none.
    """

    normed: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    attended: Tensor
    gate: Tensor | None
    up: Tensor | None
    normed_after: Tensor | None
    inner: Tensor | None
    middle: Tensor
    factors: tuple[Tensor, Tensor]
    log_sums: Tensor
    lows: list[Tensor | None]

    @classmethod
    def of(cls, layer: CompiledLayer, tokens: int, plain: Tensor, wide: Tensor) -> "_Kept":
        """The parts of two blocks, which `_empty_blocks` has made."""
        plain_sizes, wide_sizes = _sizes(layer)
        middle, before, after, log_sums, *lows = _parts(wide, wide_sizes, tokens)
        normed, query, key, value, attended, gate, up, normed_after, inner = _parts(plain, plain_sizes, tokens)
        return cls(
            normed, query, key, value, attended, _filled(gate), _filled(up), _filled(normed_after), _filled(inner),
            middle, (before, after), log_sums, [_filled(low) for low in lows],
        )  # fmt: skip


def _empty_blocks(layer: CompiledLayer, tokens: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    plain, wide = _sizes(layer)
    return torch.empty(tokens * sum(plain), dtype=dtype), torch.empty(tokens * sum(wide))


def _parts(block: Tensor, sizes: Sequence[int], tokens: int) -> list[Tensor]:
    """Matrices ``(tokens, size)`` one after the other."""
    starts = [0, *accumulate(tokens * size for size in sizes)]
    return [block.as_strided((tokens, size), (size, 1), start) for size, start in zip(sizes, starts, strict=False)]


def _filled(part: Tensor) -> Tensor | None:
    return part if part.shape[1] else None


def _sizes(layer: CompiledLayer) -> tuple[list[int], list[int]]:
    """Numbers of a token in each part of the two blocks."""
    query, key, value, output, gate, up, down = layer.linears
    hidden, inner = output.weight.shape
    widths = [len(linear.weight) for linear in (query, key, value)]
    gated = [len(gate.weight), len(up.weight)]
    gated += [hidden if gate.lora_a is not None or up.lora_a is not None else 0]
    gated += [len(gate.weight) if down.lora_a is not None else 0]
    plain = [hidden, *widths, inner, *([0] * 4 if layer.recomputes_feed_forward else gated)]
    ranks = [0 if linear.lora_a is None else len(linear.lora_a) for linear in layer.linears]
    return plain, [hidden, 1, 1, widths[0] // layer.heads.width, *ranks]


class _DecoderLayer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, layer: CompiledLayer, *_: Tensor) -> Tensor:
        tokens, dtype = len(x), layer.norms[0].dtype
        blocks = _empty_blocks(layer, tokens, dtype)
        kept = _Kept.of(layer, tokens, *blocks)
        masks = [linear.mask.index if isinstance(linear.mask, StoredMask) else None for linear in layer.linears]
        compiled_ops.norm_into(x, layer.norms[0], layer.eps[0], kept.normed, kept.factors[0])
        for place, y in enumerate((kept.query, kept.key, kept.value)):
            _project(kept.normed, layer.linears[place], masks[place], kept.lows[place], y)
        attention = layer.attention_inputs(kept.query, kept.key, kept.value)
        compiled_ops.attention(attention, kept.attended, kept.log_sums)
        y = torch.empty(x.shape, dtype=dtype)
        _project(kept.attended, layer.linears[3], masks[3], kept.lows[3], y)
        normed = torch.empty_like(y) if kept.normed_after is None else kept.normed_after
        compiled_ops.norm_into(x, layer.norms[1], layer.eps[1], normed, kept.factors[1], (y, kept.middle))
        inner = _gated(layer, kept, normed, masks[4:6])[2]
        _project(inner, layer.linears[6], masks[6], kept.lows[6], y)
        unmasked = [linear if linear.mask is None else replace(linear, mask=None) for linear in layer.linears]
        ctx.layer = replace(layer, linears=unmasked)  # type: ignore[attr-defined]  # torch types the context without it
        ctx.masked = [mask is not None for mask in masks]  # type: ignore[attr-defined]
        ctx.save_for_backward(x, *blocks, *(mask for mask in masks if mask is not None))
        return compiled_ops.add(kept.middle, y)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        layer: CompiledLayer = ctx.layer  # type: ignore[attr-defined]
        x, plain, wide, *given = ctx.saved_tensors  # type: ignore[attr-defined]
        masks = iter(given)
        dropped = [next(masks) if masked else None for masked in ctx.masked]  # type: ignore[attr-defined]
        kept = _Kept.of(layer, len(x), plain, wide)
        projections = [
            _Projection(linear, low, drop) for linear, low, drop in zip(layer.linears, kept.lows, dropped, strict=True)
        ]
        grad = grad.float().contiguous()
        grad_normed, of_feed_forward = _feed_forward_backward(layer, kept, projections[4:], grad.to(plain.dtype))
        grad_middle = torch.empty_like(x)
        rounded = None if plain.dtype == torch.float32 else torch.empty_like(grad_normed)
        compiled_ops.norm_gradient_into(
            kept.middle, layer.norms[1], kept.factors[1], grad_normed, grad_middle, grad, rounded
        )
        beside = grad_middle if rounded is None else rounded
        grads, of_attention = _attention_backward(layer, kept, projections[:4], beside)
        grad_x: Tensor | None = None
        if ctx.needs_input_grad[0]:  # type: ignore[attr-defined]
            _input_gradient(projections[:3], grads, grad_normed)
            grad_x = torch.empty_like(x)
            compiled_ops.norm_gradient_into(x, layer.norms[0], kept.factors[0], grad_normed, grad_x, grad_middle)
        return grad_x, None, *of_attention, *of_feed_forward


def _feed_forward_backward(
    layer: CompiledLayer, kept: _Kept, projections: Sequence["_Projection"], grad: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """The gradient of the second norm's result, and those of what is trained, for `grad`, that of the output."""
    gate, up, down = projections
    y_gate, y_up, normed, inner = kept.gate, kept.up, kept.normed_after, kept.inner
    if y_gate is None or y_up is None:
        normed = torch.empty_like(grad)
        compiled_ops.norm_into(kept.middle, layer.norms[1], layer.eps[1], normed, kept.factors[1])
        y_gate, y_up, inner = _gated(layer, kept, normed, [one.dropped for one in (gate, up)])
    of_down = down.trained_gradients(inner, grad)
    grad_inner = _input_gradient([down], [grad], torch.empty_like(y_gate))
    grads = compiled_ops.swiglu_gradient(y_gate, y_up, grad_inner)
    trained = [*gate.trained_gradients(normed, grads[0]), *up.trained_gradients(normed, grads[1]), *of_down]
    return _input_gradient([gate, up], grads, torch.empty_like(grad)), trained


def _attention_backward(
    layer: CompiledLayer, kept: _Kept, projections: Sequence["_Projection"], grad: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """The gradients of queries, keys and values, and those of what is trained, for `grad`, that of the output."""
    *heads, output = projections
    of_output = output.trained_gradients(kept.attended, grad)
    grad_attended = _input_gradient([output], [grad], torch.empty_like(kept.attended))
    grads = [torch.empty_like(one) for one in (kept.query, kept.key, kept.value)]
    attention = layer.attention_inputs(kept.query, kept.key, kept.value)
    compiled_ops.attention_gradient(attention, kept.log_sums, grad_attended, grads)
    pairs = zip(heads, grads, strict=True)
    trained = [gradient for one, grad_y in pairs for gradient in one.trained_gradients(kept.normed, grad_y)]
    return grads, [*trained, *of_output]


@dataclass(slots=True, eq=False)
class _Projection:
    """A linear layer in the backward pass: its low-rank activations, what was dropped, their gradient once known."""

    linear: LoraLinearSpec
    low: Tensor | None
    dropped: Tensor | None
    grad_low: Tensor | None = None

    def trained_gradients(self, x: Tensor | None, grad: Tensor) -> list[Tensor]:
        """Those of A and B, if they are trained, for an input and the gradient of the output."""
        linear = self.linear
        if linear.lora_a is None or linear.lora_b is None:
            return []
        assert x is not None
        assert self.low is not None
        self.grad_low = torch.empty_like(self.low)
        compiled_ops.low_rank_down(grad, None, linear.lora_b.T.contiguous(), linear.scale, self.grad_low)
        grad_b = compiled_ops.low_rank_sums(grad, None, self.low).T.contiguous()
        return [compiled_ops.low_rank_sums(x, self.dropped, self.grad_low), grad_b]


def _project(x: Tensor, linear: LoraLinearSpec, dropped: Tensor | None, low: Tensor | None, y: Tensor) -> None:
    """Write the output of a linear layer, and its low-rank activations where it has some."""
    if low is not None and linear.lora_a is not None and linear.lora_b is not None:
        compiled_ops.low_rank_down(x, dropped, linear.lora_a, linear.scale, low)
        compiled_ops.low_rank_up([(low, linear.lora_b.T.contiguous(), None)], y.dtype, linear.bias, y)
        y.addmm_(x, linear.weight.T)
    elif linear.bias is None:
        torch.mm(x, linear.weight.T, out=y)
    else:
        torch.addmm(linear.bias, x, linear.weight.T, out=y)


def _input_gradient(projections: Sequence[_Projection], grads: Sequence[Tensor], total: Tensor) -> Tensor:
    """Write the gradient of the input that linear layers share, for those of their outputs, into `total`."""
    products = [(one.grad_low, one.linear.lora_a, one.dropped) for one in projections]
    low_ranks = [(low, a, dropped) for low, a, dropped in products if low is not None and a is not None]
    if low_ranks:
        compiled_ops.low_rank_up(low_ranks, total.dtype, None, total)
    for place, (one, grad) in enumerate(zip(projections, grads, strict=True)):
        if place == 0 and not low_ranks:
            torch.mm(grad, one.linear.weight, out=total)
        else:
            total.addmm_(grad, one.linear.weight)
    return total


def _gated(
    layer: CompiledLayer, kept: _Kept, normed: Tensor, dropped: Sequence[Tensor | None]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gate, up and their gated product, in what is kept where that has room."""
    ys = []
    for place, drop, room in ((4, dropped[0], kept.gate), (5, dropped[1], kept.up)):
        linear = layer.linears[place]
        ys.append(normed.new_empty(len(normed), len(linear.weight)) if room is None else room)
        _project(normed, linear, drop, kept.lows[place], ys[-1])
    return ys[0], ys[1], compiled_ops.swiglu(ys[0], ys[1], kept.inner)


def decoder_layer(x: Tensor, layer: CompiledLayer) -> Tensor:
    """The output of a decoder layer for the residual stream `x`, float32 ``(T, hidden)``."""
    y: Tensor = _DecoderLayer.apply(x, layer, *layer.trained)  # type: ignore[no-untyped-call]
    return y


def layer_forward(
    module: Any, specs: Sequence[Callable[[Tensor], LoraLinearSpec]], recomputes_feed_forward: Callable[[], bool]
) -> Callable[..., Tensor]:
    """What is called in the place of the `forward` of a decoder layer of transformers.

    `specs` describe its linear layers for an input, of which the width alone is read.
    """
    attention, norms = module.self_attn, (module.input_layernorm, module.post_attention_layernorm)
    width = attention.head_dim
    heads = HeadLayout(attention.k_proj.out_features // width, width, float(attention.scaling))
    eps = norms[0].variance_epsilon, norms[1].variance_epsilon

    def compute(x: Tensor, *, position_embeddings: tuple[Tensor, Tensor], spans: Any, **_: Any) -> Tensor:
        cos, sin = (one[0, :, : width // 2].float().contiguous() for one in position_embeddings)
        linears, weights = _described(module, specs), (norms[0].weight, norms[1].weight)
        layer = CompiledLayer(weights, eps, heads, linears, cos, sin, spans, recomputes_feed_forward())
        return decoder_layer(x.squeeze(0).contiguous(), layer).unsqueeze(0)

    def forward(hidden_states: Tensor, **more: Any) -> Tensor:
        y: Tensor
        if hidden_states.dtype != torch.float32:
            y = type(module).forward(module, hidden_states, **more)
        elif module.gradient_checkpointing and module.training and torch.is_grad_enabled():
            y = module._gradient_checkpointing_func(partial(compute, **more), hidden_states)
        else:
            y = compute(hidden_states, **more)
        return y

    return forward


def _described(module: Any, specs: Sequence[Callable[[Tensor], LoraLinearSpec]]) -> list[LoraLinearSpec]:
    return [spec_of(linear.weight[:0]) for spec_of, linear in zip(specs, linears_of(module), strict=True)]


def linears_of(layer: Any) -> list[Any]:
    """The linear layers of a decoder layer of transformers: queries, keys, values, output, gate, up, down."""
    attention, gated = layer.self_attn, layer.mlp
    projections = (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
    return [*projections, gated.gate_proj, gated.up_proj, gated.down_proj]


def is_compilable(module: Any, specs: Sequence[Callable[[Tensor], LoraLinearSpec]]) -> bool:
    """Whether `decoder_layer` takes a decoder layer of transformers, which is plain and has no hooks.

    What a row drops must come as positions, which is for the caller to know.
    """
    linears, dtype = _described(module, specs), module.input_layernorm.weight.dtype
    norms = [norm.weight for norm in (module.input_layernorm, module.post_attention_layernorm)]
    return (
        not hasattr(module.self_attn, "q_norm")
        and module.self_attn.head_dim % (2 * compiled_ops.LANES) == 0
        and compiled_ops.usable(*norms)
        and all(norm.dtype == dtype for norm in norms)
        and all(_is_compilable_linear(linear, dtype) for linear in linears)
    )


def _is_compilable_linear(linear: LoraLinearSpec, dtype: torch.dtype) -> bool:
    matrices = [matrix for matrix in (linear.lora_a, linear.lora_b) if matrix is not None]
    return (
        linear.weight.dtype == dtype
        and compiled_ops.usable(linear.weight, *([] if linear.bias is None else [linear.bias]))
        and len(linear.weight) % compiled_ops.LANES == 0
        and (linear.bias is None or linear.bias.dtype == dtype)
        and linear.compute_copies is None
        and (not matrices or max(linear.weight.shape) <= compiled_ops.MOST_SIZE)
        and all(matrix.dtype == torch.float32 and matrix.is_contiguous() for matrix in matrices)
    )
