"""What a Llama does between its matrix products, on a GPU: the functions of `cpu_ops`, by Triton kernels.

Whether the kernels can be used is decided here, once a device and precision. Their modules are imported when they are
first asked for, since Triton may be missing.
"""

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Protocol

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from lora_tui.engine.training.fast.cpu_ops import HeadLayout
from lora_tui.engine.training.packing import varlen_attention

_WIDEST_HEAD = 128
"""Widest head that the attention's blocks were chosen for: two sums of a wider one do not fit into registers."""

Pair = tuple[Tensor, Tensor]
TwoPairs = tuple[Pair, Pair]
Triple = tuple[Tensor, Tensor, Tensor]
SeedsAndRate = tuple[Tensor, float]


class _Kernels(Protocol):
    """What the module `kernels` holds."""

    def rms_norm_forward(self, x: Tensor, weight: Tensor, eps: float, addend: Tensor | None = None) -> Triple: ...
    def rms_norm_backward(
        self, grad: Tensor, x: Tensor, weight: Tensor, rstd: Tensor, addend: Tensor | None = None
    ) -> Tensor: ...
    def rotate(
        self, x: Tensor, cos: Tensor, sin: Tensor, sign: float = 1.0, rotated_heads: int | None = None
    ) -> Tensor: ...
    def rotate_backward(
        self, grad_q: Tensor, grad_k: Tensor, grad_v: Tensor, cos: Tensor, sin: Tensor, key_heads: int
    ) -> Tensor: ...
    def cross_entropy_(self, logits: Tensor, targets: Tensor) -> Tensor: ...


class _LowRankKernels(Protocol):
    """What the module `low_rank_kernels` holds."""

    def gated_forward(self, gate: Tensor, up: Tensor, low_rank: Pair | None = None) -> Tensor: ...
    def gated_backward(
        self, grad: Tensor, gate: Tensor, up: Tensor, low_rank: TwoPairs | None = None, drop: SeedsAndRate | None = None
    ) -> Tensor: ...
    def dropout_xa_(self, xa: Tensor, x: Tensor, a: Tensor, seeds: Tensor, rate: float, scale: float) -> None: ...
    def dropout_grad_a(self, grad_xa: Tensor, x: Tensor, seeds: Tensor, rate: float) -> Tensor: ...
    def dropout_grad_x(
        self, grad_xa: Tensor, a: Tensor, seeds: Tensor, rate: float, total: Tensor | None
    ) -> Tensor: ...
    def dropout(self, x: Tensor, seeds: Tensor, rate: float) -> Tensor: ...
    def add_kept_(self, total: Tensor, part: Tensor, seeds: Tensor, rate: float) -> None: ...


class _AttentionKernels(Protocol):
    """What the module `attention_kernels` holds."""

    MAX_SEQLEN: int

    def attention_forward(
        self, x: Tensor, key_heads: int, cu_seqlens: Tensor, max_seqlen: int, scaling: float
    ) -> Pair: ...
    def attention_backward(
        self, grad: Tensor, x: Tensor, y: Tensor, lse: Tensor, cu_seqlens: Tensor, max_seqlen: int, scaling: float
    ) -> Triple: ...


@cache
def kernels() -> _Kernels:
    """The kernels of norm, rotation and cross-entropy. Raises `ImportError` without Triton, as the next ones do."""
    from lora_tui.engine.training.fast import kernels as module

    return module


@cache
def low_rank_kernels() -> _LowRankKernels:
    """The kernels of the gated unit, of LoRA's products and of dropout."""
    from lora_tui.engine.training.fast import low_rank_kernels as module

    return module


@cache
def attention_kernels() -> _AttentionKernels:
    """The kernels of attention."""
    from lora_tui.engine.training.fast import attention_kernels as module

    return module


@lru_cache(maxsize=8)
def unusable_reason(device: torch.device, dtype: torch.dtype) -> str | None:
    """Say in a few words what keeps the kernels from being used on `device` in `dtype`; None where they can be."""
    if device.type != "cuda":
        return "they are for GPUs"
    try:
        from lora_tui.engine.training.fast import kernel_selftest
    except ImportError:
        return "Triton is not installed"
    with torch.cuda.device(device):  # Triton asks the current one
        return kernel_selftest.failure_reason(device, dtype)


def low_rank_kernels_usable(device: torch.device, dtype: torch.dtype, rank: int) -> bool:
    """Tell whether kernels may compute low-rank products of a `rank`, where the others can be used.

    The gated unit adds them in passing then, and what is dropped is drawn inside their products.
    """
    from lora_tui.engine.training.fast import kernel_selftest

    with torch.cuda.device(device if device.type == "cuda" else -1):
        return kernel_selftest.low_rank_kernels_pass(device, dtype, rank)


def attention_kernels_usable(device: torch.device, dtype: torch.dtype, heads: int, key_heads: int, width: int) -> bool:
    """Tell whether attention may be computed by kernels of ours, where the others can be used.

    On GPUs before Hopper torch's own kernel, which is made for them, is left to do it, as it is for wider heads than
    were measured.
    """
    if width > _WIDEST_HEAD:
        return False
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (9, 0):
        return False
    from lora_tui.engine.training.fast import kernel_selftest

    with torch.cuda.device(device if device.type == "cuda" else -1):
        return kernel_selftest.attention_kernels_pass(device, dtype, heads, key_heads, width)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x = x.contiguous()
        normed, rstd, _ = kernels().rms_norm_forward(x, weight, eps)
        ctx.save_for_backward(x, weight, rstd)
        return normed

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        x, weight, rstd = ctx.saved_tensors  # type: ignore[attr-defined]  # torch types the context without it
        return kernels().rms_norm_backward(grad.contiguous(), x, weight, rstd), None, None


class _AddRmsNorm(torch.autograd.Function):
    """Where the residual stream goes on and its norm branches off: both gradients meet in one kernel."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, x: Tensor, addend: Tensor | None, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        x, addend = x.contiguous(), None if addend is None else addend.contiguous()
        normed, rstd, total = kernels().rms_norm_forward(x, weight, eps, addend)
        ctx.save_for_backward(total, weight, rstd)
        ctx.adds = addend is not None  # type: ignore[attr-defined]
        return total, normed

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_total: Tensor, grad: Tensor) -> tuple[Tensor | None, ...]:
        total, weight, rstd = ctx.saved_tensors  # type: ignore[attr-defined]
        grad_x = kernels().rms_norm_backward(grad.contiguous(), total, weight, rstd, grad_total.contiguous())
        return grad_x, grad_x if ctx.adds else None, None, None  # type: ignore[attr-defined]


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return low_rank_kernels().gated_forward(gate, up)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, ...]:
        gate, up = ctx.saved_tensors  # type: ignore[attr-defined]
        return low_rank_kernels().gated_backward(grad.contiguous(), gate, up).chunk(2, dim=1)


class _SwiGluOfHalves(torch.autograd.Function):
    """The same of gate and up side by side: autograd would join their gradients by a copy."""

    @staticmethod
    def forward(ctx: FunctionCtx, both: Tensor) -> Tensor:
        ctx.save_for_backward(both)
        gate, up = both.chunk(2, dim=1)
        return low_rank_kernels().gated_forward(gate, up)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tensor:
        (both,) = ctx.saved_tensors  # type: ignore[attr-defined]
        gate, up = both.chunk(2, dim=1)
        return low_rank_kernels().gated_backward(grad.contiguous(), gate, up)


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return kernels().rotate(x.contiguous(), cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors  # type: ignore[attr-defined]
        # The transpose of a rotation is the rotation by the opposite angle.
        return kernels().rotate(grad.contiguous(), cos, sin, -1.0), None, None


class _RotatedHeads(torch.autograd.Function):
    """Queries, keys and values that came out of one product, for an attention that takes them apart."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, cos: Tensor, sin: Tensor, key_heads: int) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        rotated = kernels().rotate(x, cos, sin, 1.0, x.shape[1] - key_heads)
        return rotated[:, : -2 * key_heads], rotated[:, -2 * key_heads : -key_heads], rotated[:, -key_heads:]

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors  # type: ignore[attr-defined]
        grad_q, grad_k, grad_v = (grad.contiguous() for grad in grads)
        return kernels().rotate_backward(grad_q, grad_k, grad_v, cos, sin, grad_k.shape[1]), None, None, None


class _RotaryAttention(torch.autograd.Function):
    """The rotation and the attention after it; of what came out of the product nothing is kept."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, x: Tensor, cos: Tensor, sin: Tensor, cu_seqlens: Tensor, numbers: tuple[int, int, float]
    ) -> Tensor:
        key_heads, max_seqlen, scaling = numbers
        rotated = kernels().rotate(x, cos, sin, 1.0, x.shape[1] - key_heads)
        y, lse = attention_kernels().attention_forward(rotated, key_heads, cu_seqlens, max_seqlen, scaling)
        ctx.numbers = numbers  # type: ignore[attr-defined]
        ctx.save_for_backward(rotated, y, lse, cos, sin, cu_seqlens)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        rotated, y, lse, cos, sin, cu_seqlens = ctx.saved_tensors  # type: ignore[attr-defined]
        key_heads, max_seqlen, scaling = ctx.numbers  # type: ignore[attr-defined]
        grad_q, grad_k, grad_v = attention_kernels().attention_backward(
            grad.contiguous(), rotated, y, lse, cu_seqlens, max_seqlen, scaling
        )
        return kernels().rotate_backward(grad_q, grad_k, grad_v, cos, sin, key_heads), None, None, None, None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """What `cpu_ops.rms_norm` computes."""
    y: Tensor = _RmsNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    return y


def add_rms_norm(x: Tensor, addend: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``x + addend``, or `x` without one, and its norm."""
    both: tuple[Tensor, Tensor] = _AddRmsNorm.apply(x, addend, weight, eps)  # type: ignore[no-untyped-call]
    return both


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """What `cpu_ops.swiglu` computes."""
    flat = (values.reshape(-1, values.shape[-1]).contiguous() for values in (gate, up))
    y: Tensor = _SwiGlu.apply(*flat)  # type: ignore[no-untyped-call]
    return y.view(gate.shape)


def swiglu_of_halves(both: Tensor) -> Tensor:
    """``silu(gate) * up`` ``(…, width)`` of gate and up side by side ``(…, 2 · width)``."""
    flat = both.reshape(-1, both.shape[-1])
    y: Tensor = _SwiGluOfHalves.apply(flat)  # type: ignore[no-untyped-call]
    return y.view(*both.shape[:-1], -1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions for `x` ``(T, heads, width)``; the angles' cosines and sines are ``(T, width)``."""
    y: Tensor = _Rotation.apply(x, cos.contiguous(), sin.contiguous())  # type: ignore[no-untyped-call]
    return y


def rotated_heads(x: Tensor, cos: Tensor, sin: Tensor, key_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of `x` ``(T, heads, width)``, in which they lie in turn, the first two rotated.

    There are `key_heads` heads of keys, and of values; the angles' cosines and sines are ``(T, width)``.
    """
    qkv: tuple[Tensor, Tensor, Tensor] = _RotatedHeads.apply(x, cos.contiguous(), sin.contiguous(), key_heads)  # type: ignore[no-untyped-call]
    return qkv


def rotary_attention(
    x: Tensor, cos: Tensor, sin: Tensor, cu_seqlens: Tensor, key_heads: int, max_seqlen: int, scaling: float
) -> Tensor:
    """Causal attention over the spans between `cu_seqlens`, ``(T, heads, width)``; `x` and angles as above.

    `cu_seqlens` ``(spans + 1,)`` are int32, on the device, and no span is longer than `max_seqlen`.
    """
    numbers = (key_heads, max_seqlen, scaling)
    y: Tensor = _RotaryAttention.apply(x, cos.contiguous(), sin.contiguous(), cu_seqlens, numbers)  # type: ignore[no-untyped-call]
    return y


def packed_rotary_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    angles: tuple[Tensor, Tensor],
    heads: HeadLayout,
    spans: Sequence[tuple[int, int]],
    cu_seqlens: Tensor,
) -> Tensor:
    """What `cpu_ops.packed_rotary_attention` computes, by torch's kernel for spans of any length."""
    tokens = len(query)
    q, k = (rotate(x.view(tokens, -1, heads.width), *angles) for x in (query, key))
    v = value.view(tokens, -1, heads.width)
    return varlen_attention(q, k, v, heads.scaling, spans, cu_seqlens).view(tokens, -1)
