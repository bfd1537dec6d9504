"""What a Llama does between its matrix products, by compiled code on the CPU: one pass where torch takes four to eight.

The functions are the forward and backward passes of `cpu_ops`, which calls them where `usable` says so. torch makes a
tensor for each step of a formula: with bfloat16 weights two cores spent more time on that, and on finding memory for
it, than on matrix products. The code is ``training.c`` in `engine/compiled`, where the structures are explained.
"""

import ctypes
from functools import cache

import torch
from torch import Tensor

from lora_tui.engine.compiled.library import TRAINING, load_library

_KINDS = {torch.float32: 0, torch.bfloat16: 1}
_LANES = 16
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


class _Heads(ctypes.Structure):
    _fields_ = (
        *((name, _Address) for name in ("x", "y", "cosines", "sines")),
        *((name, _Count) for name in ("tokens", "groups", "group", "width", "x_kind", "y_kind", "to_heads")),
    )


@cache
def _library() -> ctypes.CDLL | None:
    found = load_library(TRAINING)
    return None if isinstance(found, str) else found


def usable(*tensors: Tensor, multiple: int = _LANES) -> bool:
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
        and _library() is not None
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


def _call(name: str, what: ctypes.Structure) -> None:
    library = _library()
    assert library is not None, "usable() has said so"
    library[name](ctypes.byref(what), torch.get_num_threads())
