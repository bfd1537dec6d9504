"""What a Llama does between its matrix products, by compiled code on the CPU: one pass where torch takes four to eight.

The functions are the forward and backward passes of `cpu_ops`, which calls them where `usable` says so. torch makes a
tensor for each step of a formula: with bfloat16 weights two cores spent more time on that, and on finding memory for
it, than on matrix products. The code is ``training.c`` in `engine/compiled`, where the structures are explained.
"""

import ctypes
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from lora_tui.engine.compiled.library import TRAINING, load_library

_log = logging.getLogger(__name__)

_KINDS = {torch.float32: 0, torch.bfloat16: 1}
LANES = 16

MOST_PRODUCTS = 3
"""Low-rank products that `low_rank_up` adds at most."""

MOST_SIZE = 16384
"""Numbers that a token's line has at most in low-rank products: a few lines lie on a thread's stack."""

_Address, _Count, _Float = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class _Norm(ctypes.Structure):
    _fields_ = (
        *((name, _Address) for name in ("x", "weight", "grad", "y", "factors")),
        *((name, _Count) for name in ("rows", "width", "x_kind", "weight_kind", "grad_kind")),
        ("eps", _Float),
    )


class _Gate(ctypes.Structure):
    _fields_ = (
        *((name, _Address) for name in ("gate", "up", "grad", "y", "grad_gate", "grad_up")),
        *((name, _Count) for name in ("size", "kind")),
    )


class _Seen(ctypes.Structure):
    _fields_ = (
        *((name, _Address) for name in ("values", "dropped")),
        *((name, _Count) for name in ("drops", "size", "kind")),
    )


class _Down(ctypes.Structure):
    _fields_ = (
        ("x", _Seen),
        *((name, _Address) for name in ("matrix", "low", "sums", "low_other")),
        *((name, _Count) for name in ("tokens", "ranks", "stride", "other_stride")),
        ("scale", _Float),
    )


class _Up(ctypes.Structure):
    _fields_ = (
        *((name, _Address * MOST_PRODUCTS) for name in ("low", "matrix")),
        ("seen", _Seen * MOST_PRODUCTS),
        *((name, _Count * MOST_PRODUCTS) for name in ("ranks", "stride")),
        *((name, _Address) for name in ("bias", "y")),
        *((name, _Count) for name in ("products", "tokens", "size", "kind")),
    )


class _Heads(ctypes.Structure):
    _fields_ = (
        *((name, _Address) for name in ("x", "y", "cosines", "sines")),
        *((name, _Count) for name in ("tokens", "groups", "group", "width", "x_kind", "y_kind", "to_heads")),
    )


@cache
def unusable_reason() -> str | None:
    """Why torch computes instead: there is no compiled code, or it is wrong on this machine; None where it is used."""
    found = load_library(TRAINING)
    if isinstance(found, str):
        reason: str | None = found
    else:  # in a thread of its own: whoever computes may be noting what is kept, to compute it again
        with ThreadPoolExecutor(1) as apart:
            reason = apart.submit(_mistake).result()
    if reason is not None:
        _log.info("training is computed by torch alone instead of compiled code, which is slower: %s", reason)
    return reason


def usable(*tensors: Tensor, multiple: int = LANES) -> bool:
    """Whether compiled code takes these: float32 or bfloat16 on the CPU, without gaps, last size a multiple."""
    return (
        all(
            one.dtype in _KINDS
            and one.device.type == "cpu"
            and one.shape[-1] % multiple == 0
            and one.is_contiguous()
            and not one.is_nested
            for one in tensors
        )
        and unusable_reason() is None
    )


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``x · factor · weight`` in the weight's precision, and the factors, float32 ``(rows,)``; x is ``(…, width)``."""
    y = torch.empty(x.shape, dtype=weight.dtype)
    factors = torch.empty(x.numel() // x.shape[-1])
    norm = _norm(x, weight, factors, y)
    norm.eps = eps
    _call("rms_norm", norm)
    return y, factors


def rms_norm_gradient(x: Tensor, weight: Tensor, factors: Tensor, grad: Tensor) -> Tensor:
    """The gradient of x, in its precision, for one of the result, which has x's shape."""
    grad_x = torch.empty_like(x)
    norm = _norm(x, weight, factors, grad_x)
    norm.grad, norm.grad_kind = grad.data_ptr(), _KINDS[grad.dtype]
    _call("rms_norm_gradient", norm)
    return grad_x


def _norm(x: Tensor, weight: Tensor, factors: Tensor, y: Tensor) -> _Norm:
    width = x.shape[-1]
    return _Norm(
        x=x.data_ptr(), weight=weight.data_ptr(), y=y.data_ptr(), factors=factors.data_ptr(),
        rows=x.numel() // width, width=width, x_kind=_KINDS[x.dtype], weight_kind=_KINDS[weight.dtype],
    )  # fmt: skip


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """``silu(gate) · up``, of one shape and precision."""
    y = torch.empty_like(up)
    _call("swiglu", _Gate(gate=gate.data_ptr(), up=up.data_ptr(), y=y.data_ptr(), **_size(up)))
    return y


def swiglu_gradient(gate: Tensor, up: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of both, for one of the result; all of one shape and precision."""
    grads = torch.empty_like(gate), torch.empty_like(up)
    addresses = {"grad_gate": grads[0].data_ptr(), "grad_up": grads[1].data_ptr()}
    _call(
        "swiglu_gradient", _Gate(gate=gate.data_ptr(), up=up.data_ptr(), grad=grad.data_ptr(), **addresses, **_size(up))
    )
    return grads


def _size(x: Tensor) -> dict[str, int]:
    return {"size": x.numel(), "kind": _KINDS[x.dtype]}


def by_key_head(x: Tensor, key_heads: int, width: int, cos: Tensor | None = None, sin: Tensor | None = None) -> Tensor:
    """``(T, heads · width)`` as ``(key heads, T, group, width)`` in float32, copied, with each head turned.

    `cos` and `sin` are those of the angles, float32 ``(T, 1, width / 2)``; without them nothing is turned.
    """
    tokens = x.shape[0]
    group = x.shape[1] // (key_heads * width)
    y = torch.empty(key_heads, tokens, group, width)
    _turn(x, y, cos, sin, tokens, to_heads=True)
    return y


def by_token(x: Tensor, dtype: torch.dtype, cos: Tensor | None = None, sin: Tensor | None = None) -> Tensor:
    """The way back: ``(key heads, T, group, width)`` as ``(T, heads · width)`` in `dtype`."""
    key_heads, tokens, group, width = x.shape
    y = torch.empty(tokens, key_heads * group * width, dtype=dtype)
    _turn(x, y, cos, sin, tokens, to_heads=False)
    return y


def _turn(x: Tensor, y: Tensor, cos: Tensor | None, sin: Tensor | None, tokens: int, *, to_heads: bool) -> None:
    key_heads, _, group, width = (y if to_heads else x).shape
    addresses = [None if one is None else one.data_ptr() for one in (cos, sin)]
    heads = _Heads(
        x=x.data_ptr(), y=y.data_ptr(), cosines=addresses[0], sines=addresses[1], tokens=tokens, groups=key_heads,
        group=group, width=width, x_kind=_KINDS[x.dtype], y_kind=_KINDS[y.dtype], to_heads=to_heads,
    )  # fmt: skip
    _call("turn_heads", heads)


def low_rank_down(x: Tensor, dropped: Tensor | None, matrix: Tensor, scale: float, low: Tensor) -> None:
    """Write ``scale · seen(x) · matrixᵀ`` into `low` ``(T, ranks)``, float32, whose lines may have gaps between them.

    `x` is ``(T, size)``, of which the flat positions `dropped`, int64 and ascending, count as zeros; `matrix` is
    ``(ranks, size)``, float32.
    """
    ranks = matrix.shape[0]
    down = _Down(x=_seen(x, dropped), matrix=matrix.data_ptr(), low=low.data_ptr(), tokens=len(x), ranks=ranks)
    down.stride, down.scale = low.stride(0), scale
    _call("low_rank_down", down)


def low_rank_sums(x: Tensor, dropped: Tensor | None, low: Tensor) -> Tensor:
    """``lowᵀ · seen(x)``, float32 ``(ranks, size)``, for `low` ``(T, ranks)`` and the `x` of `low_rank_down`."""
    sums = torch.empty(low.shape[1], x.shape[1])
    down = _Down(x=_seen(x, dropped), sums=sums.data_ptr(), low_other=low.data_ptr(), tokens=len(x), ranks=len(sums))
    down.other_stride = low.stride(0)
    _call("low_rank_sums", down)
    return sums


def low_rank_up(
    products: Sequence[tuple[Tensor, Tensor, Tensor | None]], dtype: torch.dtype, bias: Tensor | None = None
) -> Tensor:
    """The sum of ``low · matrix`` of some products, with zeros where each has `dropped`, and of a bias in `dtype`.

    A product is low ``(T, ranks)``, matrix ``(ranks, size)``, both float32, and flat positions, or None. Returns
    ``(T, size)`` in `dtype`, rounded once.
    """
    tokens, size = products[0][0].shape[0], products[0][1].shape[1]
    y = torch.empty(tokens, size, dtype=dtype)
    up = _Up(y=y.data_ptr(), products=len(products), tokens=tokens, size=size, kind=_KINDS[dtype])
    up.bias = None if bias is None else bias.data_ptr()
    for place, (low, matrix, dropped) in enumerate(products):
        up.low[place], up.matrix[place] = low.data_ptr(), matrix.data_ptr()
        up.ranks[place], up.stride[place] = matrix.shape[0], low.stride(0)
        up.seen[place] = _seen(y, dropped)
    _call("low_rank_up", up)
    return y


def _seen(x: Tensor, dropped: Tensor | None) -> _Seen:
    seen = _Seen(values=x.data_ptr(), size=x.shape[1], kind=_KINDS[x.dtype])
    if dropped is not None:
        seen.dropped, seen.drops = dropped.data_ptr(), len(dropped)
    return seen


def _call(name: str, what: ctypes.Structure) -> None:
    library = load_library(TRAINING)
    assert not isinstance(library, str), "usable() has said so"
    library[name](ctypes.byref(what), torch.get_num_threads())


def _mistake() -> str | None:
    """Compute a little with each function and compare it with torch; say which is wrong on this machine, or None."""
    for dtype in _KINDS:
        generator = torch.Generator().manual_seed(0)
        x, other, grad = (torch.randn(5, 64, generator=generator).to(dtype) for _ in range(3))
        for name, found, expected in (*_passing_cases(x, other, grad), *_low_rank_cases(x, other, generator)):
            allowed = 1e-4 if found.dtype == torch.float32 else 2e-2  # of a result that is rounded once
            if not torch.allclose(found.float(), expected.float(), rtol=allowed, atol=allowed):
                return f"it computes something else on this machine ({name}, {dtype})"
    return None


_Case = tuple[str, Tensor, Tensor]
"""What is computed, what was found, and what torch says."""


def _passing_cases(x: Tensor, other: Tensor, grad: Tensor) -> Iterator[_Case]:
    """Norm, gated unit and rotation with their gradients; all are ``(5, 64)``, of one precision."""
    leaf, other_leaf = x.float().requires_grad_(), other.float().requires_grad_()
    expected = functional.rms_norm(leaf, (64,), other[0].float(), 1e-6)
    y, factors = rms_norm(x, other[0], 1e-6)
    yield "norm", y, expected
    (of_norm,) = torch.autograd.grad(expected, leaf, grad.float())
    yield "the norm's gradient", rms_norm_gradient(x, other[0], factors, grad), of_norm
    expected = functional.silu(leaf) * other_leaf
    yield "gated unit", swiglu(x, other), expected
    gradients = torch.autograd.grad(expected, (leaf, other_leaf), grad.float())
    for found, wanted in zip(swiglu_gradient(x, other, grad), gradients, strict=True):
        yield "the gated unit's gradient", found, wanted
    cos, sin = (part.float()[:, None, :16].contiguous() for part in (other, grad))
    first, second = x.float().view(5, 2, 32).transpose(0, 1)[:, :, None].chunk(2, dim=-1)
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
    heads = by_key_head(x, 2, 32, cos, sin)
    yield "rotation", heads, turned
    yield "order of heads", by_token(by_key_head(x, 2, 32), x.dtype), x
    yield (
        "rotation back",
        by_token(heads, torch.float32, cos, -sin),
        x.float() * (cos**2 + sin**2).repeat(1, 1, 4)[:, 0],
    )


def _low_rank_cases(x: Tensor, other: Tensor, generator: torch.Generator) -> Iterator[_Case]:
    """LoRA's products of `x` ``(5, 64)``, with an odd number of tokens and ranks, and with dropout."""
    dropped = torch.arange(3, x.numel(), 7)
    seen = x.float().flatten().index_fill(0, dropped, 0.0).view(5, 64)
    matrix, low = torch.randn(6, 64, generator=generator), torch.empty(5, 8)
    low_rank_down(x, dropped, matrix, 0.5, low[:, :6])
    yield "product with A", low[:, :6], 0.5 * seen @ matrix.T
    yield "gradient of A", low_rank_sums(x, dropped, low[:, :6]), low[:, :6].T @ seen
    kept = torch.ones(x.numel()).index_fill(0, dropped, 0.0).view(5, 64)
    expected = low[:, :6] @ matrix * kept + low[:, :6] @ matrix + other[0].float()
    products = [(low[:, :6], matrix, dropped), (low[:, :6], matrix, None)]
    yield "product with B", low_rank_up(products, x.dtype, other[0].contiguous()), expected
