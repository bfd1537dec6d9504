"""Products with a model's weights, for a few tokens at a time: packed once, adapters beside them.

Decoding reads every weight for every token, so its speed is that at which they come out of memory. Layers that share
their input are one product. On a CPU with bfloat16 torch's products want them in oneDNN's own order: as they lie, a
product with 2 to 32 rows takes 1.4 to 2 times as long (SmolLM2's shapes, two cores). float32 keeps its weights where
they are, one below the other, and packs only what is wide, once several rows are computed.

LoRA stands beside the product, in float32 on the CPU: one model serves the base and any number of adapters at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import Linear as PeftLinear
from torch import Tensor, nn
from torch.nn import functional

from lora_tui.machine import free_memory

_PACKED_ROWS = 8
"""Rows that packed weights are laid out for; other numbers are computed as well."""

_MEMORY_SHARE = 0.5
"""Share of the free memory that packed copies of a model's weights take at most, all together."""


class UnsupportedError(Exception):
    """The model cannot be computed here; the text says why, to be put after a colon."""


@dataclass(frozen=True, slots=True)
class LowRank:
    """LoRA beside one product: ``x @ down @ up`` is added; `down` ``(in, ranks)``, `up` ``(ranks, out)``, scaled."""

    down: Tensor
    up: Tensor

    def added_to(self, y: Tensor, x: Tensor) -> Tensor:
        """`y` ``(rows, out)`` with what the adapter adds for `x` ``(rows, in)``; may be `y` itself."""
        if self.down.dtype == y.dtype:
            return y.addmm_(x @ self.down, self.up)
        return y.add_((x.to(self.down.dtype) @ self.down) @ self.up)


@dataclass(frozen=True, slots=True)
class RowAdapters:
    """Which adapter computes which rows: `everywhere` all of them, `parts` the rows with these numbers each."""

    everywhere: str | None = None
    parts: tuple[tuple[str, Tensor], ...] = ()

    @classmethod
    def of(cls, names: Sequence[str | None], device: torch.device) -> "RowAdapters":
        """The adapters of rows, by name; None is the base model."""
        different = dict.fromkeys(names)
        if len(different) == 1:
            return cls(everywhere=names[0])
        rows = {name: [row for row, own in enumerate(names) if own == name] for name in different if name is not None}
        return cls(parts=tuple((name, torch.tensor(own, device=device)) for name, own in rows.items()))


BASE = RowAdapters()
"""No adapter on any row."""


class PackingBudget:
    """Bytes that packed copies of a model's weights may still take, by the memory that was free before the first."""

    def __init__(self) -> None:
        self._left = _MEMORY_SHARE * free_memory()

    def take(self, size: int) -> bool:
        """Whether so many bytes are left; they are then spent."""
        fits = size <= self._left
        self._left -= size if fits else 0
        return fits


class JoinedLinear:
    """One or several linear layers with the same input, computed as one product ``(rows, in) -> (rows, out)``."""

    def __init__(self, layers: Sequence[nn.Module], budget: PackingBudget | None = None) -> None:
        self._layers: list[Any] = list(layers)
        self._budget = budget or PackingBudget()
        plain = [_plain(layer) for layer in layers]
        self.weights = [layer.weight for layer in plain]
        self.out_features = sum(weight.shape[0] for weight in self.weights)
        self.biases = [layer.bias for layer in plain]
        self._bias = _joined_bias(plain)
        self._adapters: dict[str, LowRank | None] = {}
        self._packed: Tensor | None = None
        self._int8: tuple[Tensor, Tensor] | None = None
        self._may_pack = True
        first = self.weights[0]
        self._on_cpu = first.device.type == "cpu"
        self._half = first.dtype == torch.bfloat16
        self._weight = first if len(self.weights) == 1 else None
        if self._weight is None and self._on_cpu:
            self._weight = self._join()

    def __call__(self, x: Tensor, adapters: RowAdapters = BASE) -> Tensor:
        """The product of `x` ``(rows, in)``, contiguous, with bias and adapters: ``(rows, out)``, a new tensor."""
        y = self._product(x)
        if adapters.everywhere is not None:
            low_rank = self.low_rank(adapters.everywhere)
            return y if low_rank is None else low_rank.added_to(y, x)
        for name, rows in adapters.parts:
            if (low_rank := self.low_rank(name)) is not None:
                y[rows] = low_rank.added_to(y[rows], x[rows])
        return y

    def read_int8(self) -> None:
        """From now on compute single rows with the weights as whole numbers of -127 to 127, a scale for each output.

        Half of the bytes of bfloat16, a quarter of those of float32. Only on a CPU.
        """
        if self._on_cpu:
            self.int8_weights()

    def int8_weights(self) -> tuple[Tensor, Tensor]:
        """The weights as 8-bit numbers ``(out, in)``, and what each output is scaled by ``(out,)``; made once."""
        if self._int8 is None:
            weight = torch.cat([own.detach() for own in self.weights]).float()
            scale = (weight.abs().amax(dim=1) / 127).clamp_(min=torch.finfo(torch.float32).tiny)
            whole = (weight / scale[:, None]).round_().to(torch.int8)
            self._int8 = whole, scale.to(self.weights[0].dtype)
        return self._int8

    def attach(self, layers: Sequence[nn.Module]) -> bool:
        """Take the adapters from these layers from now on, as they are now; whether the weights are still the same.

        PEFT puts a layer of its own in the place of one that it adapts, and training changes what is in it.
        """
        self._layers = list(layers)
        self._adapters.clear()
        return all(_plain(layer).weight is weight for layer, weight in zip(layers, self.weights, strict=True))

    def fingerprint(self) -> Tensor:
        """Some 64 values of each weight, by which it is told whether somebody has changed them."""
        samples = [weight.detach().view(-1)[:: max(1, weight.numel() // 64)] for weight in self.weights]
        return torch.cat(samples).float()

    def _product(self, x: Tensor) -> Tensor:
        rows = x.shape[0]
        if rows == 1 and self._int8 is not None:
            y: Tensor = torch._weight_int8pack_mm(x, *self._int8)
            return y if self._bias is None else y.add_(self._bias)
        if self._may_pack and self._on_cpu and (self._half or (rows > 1 and self._is_wide())):
            self._pack()  # only now: compiled code reads the weights where they are
        if self._packed is not None and (self._half or rows > 1):
            y = torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, "none", [], "")
        elif self._weight is None:
            y = torch.cat([functional.linear(x, weight) for weight in self.weights], dim=1)
            y = y if self._bias is None else y.add_(self._bias)
        elif rows == 1 and self._on_cpu:
            y = torch.mv(self._weight, x[0])[None]  # in bfloat16 1.5 times as fast as the product of matrices
            y = y if self._bias is None else y.add_(self._bias)
        else:
            y = functional.linear(x, self._weight, self._bias)
        return y

    def _is_wide(self) -> bool:
        return self.out_features > 2 * self.weights[0].shape[1]

    def _pack(self) -> None:
        """Pack the weights, where oneDNN and the memory allow it."""
        self._may_pack = False
        size = sum(weight.numel() * weight.element_size() for weight in self.weights)
        if not _can_pack(self.weights[0].dtype) or not self._budget.take(size):
            return
        joined = torch.cat([weight.detach() for weight in self.weights])
        self._packed = torch.ops.mkldnn._reorder_linear_weight(joined, _PACKED_ROWS)

    def _join(self) -> Tensor:
        """Move the weights into one tensor, one below the other; the layers go on with their part of it."""
        joined = torch.cat([weight.detach() for weight in self.weights])
        for weight, part in zip(
            self.weights, torch.split(joined, [weight.shape[0] for weight in self.weights]), strict=True
        ):
            weight.data = part
        return joined

    def is_adapted(self, adapters: RowAdapters) -> bool:
        """Whether any of these adapters adds something here."""
        names = [adapters.everywhere, *(name for name, _ in adapters.parts)]
        return any(name is not None and self.low_rank(name) is not None for name in names)

    def low_rank(self, name: str) -> LowRank | None:
        """What an adapter adds; None where it has nothing here."""
        if name not in self._adapters:
            self._adapters[name] = _low_rank(self._layers, name)
        return self._adapters[name]


def _can_pack(dtype: torch.dtype) -> bool:
    """Whether this processor's oneDNN computes with packed weights; half precision takes instructions of its own."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]  # torch's own lacks types
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype != torch.float16 or bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())


def _plain(layer: Any) -> nn.Linear:
    """The linear layer under an adapter, or the layer itself. Raises `UnsupportedError` for any other kind."""
    plain = layer
    if isinstance(layer, LoraLayer):
        if type(layer) is not PeftLinear or layer.merged or getattr(layer, "lora_variant", None):
            raise UnsupportedError("an adapter of another form than plain LoRA")
        if any(layer.lora_bias.values()) or getattr(layer, "fan_in_fan_out", False):
            raise UnsupportedError("an adapter with biases")
        plain = layer.base_layer
    if type(plain) is not nn.Linear or _is_watched(layer) or _is_watched(plain):
        raise UnsupportedError(f"a linear layer of the kind {type(plain).__name__}")
    return plain


def _is_watched(module: nn.Module) -> bool:
    """Whether something else wants to see what goes in or comes out."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__)


def _joined_bias(layers: Sequence[nn.Linear]) -> Tensor | None:
    if all(layer.bias is None for layer in layers):
        return None
    none = [layer.weight.new_zeros(layer.weight.shape[0]) for layer in layers]
    return torch.cat([own if layer.bias is None else layer.bias for layer, own in zip(layers, none, strict=True)])


def _low_rank(layers: Sequence[Any], name: str) -> LowRank | None:
    """An adapter's matrices for layers computed as one: A side by side, B on the diagonal; None where it has none."""
    with torch.no_grad():
        downs, ups, before = [], [], 0
        outs = [_plain(layer).weight.shape[0] for layer in layers]
        for layer, out in zip(layers, outs, strict=True):
            if isinstance(layer, LoraLayer) and name in layer.lora_A:
                down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
                weight = _plain(layer).weight
                dtype = torch.float32 if weight.device.type == "cpu" else weight.dtype
                downs.append(down.to(dtype).t())
                padding = (before, sum(outs) - before - out)
                ups.append(functional.pad((up.to(torch.float32) * layer.scaling[name]).to(dtype).t(), padding))
            before += out
        if not downs:
            return None
        return LowRank(torch.cat(downs, dim=1).contiguous(), torch.cat(ups).contiguous())
