"""What a Llama does between its matrix products, by compiled code on the CPU: one pass where torch takes four to eight.

The functions are the forward and backward passes of `cpu_ops`, which calls them where `usable` says so. torch makes a
tensor for each step of a formula: with bfloat16 weights two cores spent more time on that, and on finding memory for
it, than on matrix products. The code is ``training.c`` in `engine/compiled`, where the structures are explained.
"""

import ctypes
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
        *((name, _Address) for name in ("x", "weight", "grad", "y", "factors", "added", "total", "passed", "rounded")),
        *((name, _Count) for name in ("rows", "width", "x_kind", "weight_kind", "grad_kind")),
        ("eps", _Float),
    )


class _Gate(ctypes.Structure):
    _fields_ = (
        *((name, _Address) for name in ("gate", "up", "grad", "y", "grad_gate", "grad_up")),
        *((name, _Count) for name in ("size", "kind")),
    )


class _Surprise(ctypes.Structure):
    _fields_ = (
        *((name, _Address) for name in ("logits", "targets", "losses")),
        *((name, _Count) for name in ("rows", "size", "kind")),
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


class _Addition(ctypes.Structure):
    _fields_ = (*((name, _Address) for name in ("x", "added", "y")), *((name, _Count) for name in ("size", "kind")))


class _Attention(ctypes.Structure):
    kept: object
    """What `spans` points to."""
    _fields_ = (
        *((name, _Address) for name in ("query", "key", "value", "output", "grad")),
        *((name, _Address) for name in ("grad_query", "grad_key", "grad_value", "log_sums", "cosines", "sines")),
        *((name, _Address) for name in ("spans", "scratch")),
        *((name, _Count) for name in ("span_count", "tokens", "key_heads", "group", "width", "kind", "longest")),
        ("scaling", _Float),
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
    norm_into(x, weight, eps, y, factors)
    return y, factors


def norm_into(
    x: Tensor, weight: Tensor, eps: float, y: Tensor, factors: Tensor, added: tuple[Tensor, Tensor] | None = None
) -> None:
    """`rms_norm` written into `y` and `factors`; where something is `added`, of the sum, written behind it.

    What is added is of the weight's precision; x and the sum are then float32.
    """
    norm = _norm(x, weight, factors, y)
    norm.eps = eps
    if added is not None:
        norm.added, norm.total = (one.data_ptr() for one in added)
    _call("rms_norm", norm)


def rms_norm_gradient(x: Tensor, weight: Tensor, factors: Tensor, grad: Tensor) -> Tensor:
    """The gradient of x, in its precision, for one of the result, which has x's shape."""
    grad_x = torch.empty_like(x)
    norm_gradient_into(x, weight, factors, grad, grad_x)
    return grad_x


def norm_gradient_into(
    x: Tensor,
    weight: Tensor,
    factors: Tensor,
    grad: Tensor,
    grad_x: Tensor,
    passed: Tensor | None = None,
    rounded: Tensor | None = None,
) -> None:
    """`rms_norm_gradient` written into `grad_x`, to which `passed` is added; once more as bfloat16 into `rounded`.

    What is passed is float32, as x then is.
    """
    norm = _norm(x, weight, factors, grad_x)
    norm.grad, norm.grad_kind = grad.data_ptr(), _KINDS[grad.dtype]
    norm.passed = None if passed is None else passed.data_ptr()
    norm.rounded = None if rounded is None else rounded.data_ptr()
    _call("rms_norm_gradient", norm)


def _norm(x: Tensor, weight: Tensor, factors: Tensor, y: Tensor) -> _Norm:
    width = x.shape[-1]
    return _Norm(
        x=x.data_ptr(), weight=weight.data_ptr(), y=y.data_ptr(), factors=factors.data_ptr(),
        rows=x.numel() // width, width=width, x_kind=_KINDS[x.dtype], weight_kind=_KINDS[weight.dtype],
    )  # fmt: skip


def add(x: Tensor, added: Tensor) -> Tensor:
    """``x + added``, float32 as x is; what is added may be bfloat16."""
    y = torch.empty_like(x)
    sizes = {"size": x.numel(), "kind": _KINDS[added.dtype]}
    _call("add", _Addition(x=x.data_ptr(), added=added.data_ptr(), y=y.data_ptr(), **sizes))
    return y


def swiglu(gate: Tensor, up: Tensor, y: Tensor | None = None) -> Tensor:
    """``silu(gate) · up``, of one shape and precision; written into `y` where that is given."""
    y = torch.empty_like(up) if y is None else y
    _call("swiglu", _Gate(gate=gate.data_ptr(), up=up.data_ptr(), y=y.data_ptr(), **_size(up)))
    return y


def swiglu_gradient(
    gate: Tensor, up: Tensor, grad: Tensor, grads: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """The gradients of both, for one of the result; all of one shape and precision. Written into `grads` if given."""
    grads = (torch.empty_like(gate), torch.empty_like(up)) if grads is None else grads
    addresses = {"grad_gate": grads[0].data_ptr(), "grad_up": grads[1].data_ptr()}
    _call(
        "swiglu_gradient", _Gate(gate=gate.data_ptr(), up=up.data_ptr(), grad=grad.data_ptr(), **addresses, **_size(up))
    )
    return grads


def _size(x: Tensor) -> dict[str, int]:
    return {"size": x.numel(), "kind": _KINDS[x.dtype]}


@dataclass(frozen=True, slots=True, eq=False)
class AttentionInputs:
    """What an attention layer reads in both passes: query ``(T, heads · width)``, key and value ``(T, kv · width)``.

    Of one precision. `cos` and `sin` are those of the rotary angles, float32 ``(T, width / 2)``; `width` is a multiple
    of 32. Each of the `spans` attends to itself alone.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    cos: Tensor
    sin: Tensor
    spans: Sequence[tuple[int, int]]
    width: int
    scaling: float

    def structure(self, log_sums: Tensor) -> _Attention:
        """The C structure, but for results and scratch."""
        key_heads = self.key.shape[1] // self.width
        spans = (_Count * (2 * len(self.spans)))(*(place for span in self.spans for place in span))
        call = _Attention(
            query=self.query.data_ptr(), key=self.key.data_ptr(), value=self.value.data_ptr(),
            log_sums=log_sums.data_ptr(), cosines=self.cos.data_ptr(), sines=self.sin.data_ptr(),
            spans=ctypes.addressof(spans), span_count=len(self.spans), tokens=len(self.query),
            key_heads=key_heads, group=self.query.shape[1] // (key_heads * self.width), width=self.width,
            kind=_KINDS[self.query.dtype], longest=max(end - start for start, end in self.spans),
            scaling=self.scaling,
        )  # fmt: skip
        call.kept = spans
        return call


def attention(inputs: AttentionInputs, output: Tensor, log_sums: Tensor) -> None:
    """Write causal attention into `output`, like the query, and what its gradient reads into `log_sums` ``(T, heads)``.

    `log_sums`, float32, are the logarithms of the sums of the exponentials of each query's scores.
    """
    call = inputs.structure(log_sums)
    call.output = output.data_ptr()
    _attend("attention", call)


def attention_gradient(inputs: AttentionInputs, log_sums: Tensor, grad: Tensor, grads: Sequence[Tensor]) -> None:
    """Write the gradients of query, key and value into `grads`, which are like them, for `grad`, that of the output."""
    call = inputs.structure(log_sums)
    call.grad = grad.data_ptr()
    call.grad_query, call.grad_key, call.grad_value = (one.data_ptr() for one in grads)
    _attend("attention_gradient", call)


def _attend(name: str, call: _Attention) -> None:
    scratch = torch.empty(_function("attention_scratch")(ctypes.byref(call), torch.get_num_threads()))
    call.scratch = scratch.data_ptr()
    _call(name, call)


def cross_entropy_(logits: Tensor, targets: Tensor) -> Tensor:
    """The cross-entropy of each of `targets`, float32 ``(rows,)``; `logits` become the gradients of these losses."""
    losses = torch.empty(len(logits))
    call = _Surprise(logits=logits.data_ptr(), targets=targets.data_ptr(), losses=losses.data_ptr())
    call.rows, call.size, call.kind = len(logits), logits.shape[1], _KINDS[logits.dtype]
    _call("cross_entropy", call)
    return losses


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
    products: Sequence[tuple[Tensor, Tensor, Tensor | None]],
    dtype: torch.dtype,
    bias: Tensor | None = None,
    y: Tensor | None = None,
) -> Tensor:
    """The sum of ``low · matrix`` of some products, with zeros where each has `dropped`, and of a bias in `dtype`.

    A product is low ``(T, ranks)``, matrix ``(ranks, size)``, both float32, and flat positions, or None. Returns
    ``(T, size)`` in `dtype`, rounded once: `y`, where that is given.
    """
    tokens, size = products[0][0].shape[0], products[0][1].shape[1]
    y = torch.empty(tokens, size, dtype=dtype) if y is None else y
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
    _function(name)(ctypes.byref(what), torch.get_num_threads())


@cache
def _function(name: str) -> Callable[..., int]:
    library = load_library(TRAINING)
    assert not isinstance(library, str), "usable() has said so"
    found = library[name]  # another object at each asking
    found.restype = _Count
    return found


def _mistake() -> str | None:
    """Compute a little with each function and compare it with torch; say which is wrong on this machine, or None."""
    for dtype in _KINDS:
        generator = torch.Generator().manual_seed(0)
        x, other, grad = (torch.randn(5, 64, generator=generator).to(dtype) for _ in range(3))
        cases = *_passing_cases(x, other, grad), *_attention_cases(x, other, grad)
        for name, found, expected in (*cases, *_low_rank_cases(x, other, generator)):
            allowed = 1e-4 if found.dtype == torch.float32 else 2e-2  # of a result that is rounded once
            if not torch.allclose(found.float(), expected.float(), rtol=allowed, atol=allowed):
                return f"it computes something else on this machine ({name}, {dtype})"
    return None


_Case = tuple[str, Tensor, Tensor]
"""What is computed, what was found, and what torch says."""


def _passing_cases(x: Tensor, other: Tensor, grad: Tensor) -> Iterator[_Case]:
    """Norm, gated unit, addition and loss, with their gradients; all are ``(5, 64)``, of one precision."""
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
    yield "sum", add(x.float(), other), x.float() + other.float()
    expected = functional.cross_entropy(leaf, targets := torch.arange(5) * 13, reduction="none")
    yield "loss", cross_entropy_(of_loss := x.clone(), targets), expected
    yield "the loss's gradient", of_loss, torch.autograd.grad(expected.sum(), leaf)[0]


def _attention_cases(x: Tensor, other: Tensor, grad: Tensor) -> Iterator[_Case]:
    """Attention and its gradients: two heads of ``(5, 64)`` that share a key, in spans of one token and four."""
    inputs = [x, other[:, :32].contiguous(), grad[:, 32:].contiguous()]
    cos, sin = grad[:, :16].float().cos(), grad[:, :16].float().sin()
    leaves = [one.float().requires_grad_() for one in inputs]
    heads = [one.view(5, -1, 32).transpose(0, 1) for one in leaves]
    query, key = (
        torch.cat([one[..., :16] * cos - one[..., 16:] * sin, one[..., 16:] * cos + one[..., :16] * sin], -1)
        for one in heads[:2]
    )
    seen = torch.ones(5, 5, dtype=torch.bool).tril()
    seen[1:, 0] = False
    mixed = functional.scaled_dot_product_attention(query, key, heads[2], seen, scale=0.2, enable_gqa=True)
    expected = mixed.transpose(0, 1).reshape(5, 64)
    given = AttentionInputs(inputs[0], inputs[1], inputs[2], cos, sin, [(0, 1), (1, 5)], 32, 0.2)
    output, log_sums, grads = torch.empty_like(x), torch.empty(5, 2), [torch.empty_like(one) for one in inputs]
    attention(given, output, log_sums)
    yield "attention", output, expected
    attention_gradient(given, log_sums, grad, grads)
    for found, wanted in zip(grads, torch.autograd.grad(expected, leaves, grad.float()), strict=True):
        yield "the gradient of attention", found, wanted


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
