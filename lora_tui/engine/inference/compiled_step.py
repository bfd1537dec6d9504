"""Decoding steps in compiled code: the tokens of a step go through all layers of a model in one call.

What a step takes is to read the weights once. torch takes some 120 products a token, each with a start and an end of
its own, and reaches 41 % of the memory's speed with them; one call reaches 68 (SmolLM2-135M, two cores). The code is
``decoding.c`` in `engine/compiled`, where the structures that are declared here are explained. A token's values do not
depend on what else is in the step.
"""

import ctypes
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lora_tui.engine.compiled.library import DECODING, load_library
from lora_tui.engine.inference.key_values import CachedRows
from lora_tui.engine.inference.matrices import JoinedLinear, LowRank, RowAdapters, UnsupportedError

_log = logging.getLogger(__name__)

_FLOAT32, _BFLOAT16, _INT8 = range(3)
_KINDS = {torch.float32: _FLOAT32, torch.bfloat16: _BFLOAT16}
_MULTIPLE = {_FLOAT32: 32, _BFLOAT16: 32, _INT8: 64}
"""What the number of inputs must be a multiple of, by kind of weights."""

_LANES = 16
_MOST_WIDTH = 256
_MOST_PARTS = 3
_PRODUCTS = 4
"""Products of a layer that adapters may stand beside."""

_SCORED_ROWS = 1024
"""Rows whose likelihoods are computed at once: each thread has 4 kB of scratch for each of them."""

_Address, _Count, _Float = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class _Part(ctypes.Structure):
    _fields_ = (("weight", _Address), ("bias", _Address), ("scales", _Address), ("outputs", _Count))


class _Product(ctypes.Structure):
    _fields_ = (
        ("part", _Part * _MOST_PARTS),
        ("parts", _Count),
        ("inputs", _Count),
        ("outputs", _Count),
        ("kind", _Count),
    )


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, _Address) for name in ("attention_norm", "feed_forward_norm", "query_norm", "key_norm")),
        *((name, _Product) for name in ("query_key_value", "output", "gate_up", "down")),
    )


class _Model(ctypes.Structure):
    _fields_ = (
        *((name, _Count) for name in ("kind", "layers", "hidden", "heads", "key_heads", "width", "inner")),
        *((name, _Float) for name in ("eps", "head_eps", "scaling", "last_eps")),
        ("layer", ctypes.POINTER(_Layer)),
        ("norm", _Address),
        ("head", _Product),
    )


class _LowRank(ctypes.Structure):
    _fields_ = (("down", _Address), ("up", _Address), ("ranks", _Count))


class _Step(ctypes.Structure):
    _fields_ = (
        ("rows", _Count),
        *((name, _Address) for name in ("cosines", "sines", "places", "lengths", "keys", "values")),
        ("capacity", _Count),
        *((name, _Address) for name in ("prefix_keys", "prefix_values")),
        *((name, _Count) for name in ("prefix_capacity", "prefix_tokens")),
        *((name, _Address) for name in ("adapters", "row_adapter")),
    )


def unusable_reason() -> str | None:
    """Why torch decodes instead: there is no compiled code, or it is wrong on this machine; None where it is used."""
    library = load_library(DECODING)
    return library if isinstance(library, str) else _mistake(library)


@dataclass(frozen=True, slots=True)
class StepShape:
    """What a step must know of a model besides its weights; `head_eps` is that of the norms of queries and keys."""

    heads: int
    key_heads: int
    width: int
    scaling: float
    eps: float
    head_eps: float
    last_eps: float


@dataclass(frozen=True, slots=True)
class StepLayer:
    """A decoder layer's weights: those of its norms, `head_norms` of queries and keys, and its four products."""

    attention_norm: Tensor
    feed_forward_norm: Tensor
    head_norms: tuple[Tensor, Tensor] | None
    products: tuple[JoinedLinear, JoinedLinear, JoinedLinear, JoinedLinear]


@dataclass
class CompiledSteps:
    """A model's steps; the weights stay where they are, and are read there. Raises `UnsupportedError`."""

    shape: StepShape
    layers: Sequence[StepLayer]
    norm: Tensor
    head: JoinedLinear
    int8: bool = False
    _adapters: dict[tuple[str, ...], tuple[Any, list[LowRank]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._dtype = self.norm.dtype
        if self._dtype not in _KINDS or self.norm.device.type != "cpu":
            raise UnsupportedError("weights that are not float32 or bfloat16 on the CPU")
        library = load_library(DECODING)
        if isinstance(library, str) or (reason := unusable_reason()) is not None:
            raise UnsupportedError(f"no compiled code: {library if isinstance(library, str) else reason}")
        self._library = library
        self._kind = _KINDS[self._dtype]
        width, hidden = self.shape.width, len(self.norm)
        if width % 16 or width > _MOST_WIDTH or hidden % 16:
            raise UnsupportedError(f"heads of {width} numbers")
        self._held: list[Tensor] = []  # what the structures point to lives as long as they do
        rows = [self._layer(layer) for layer in self.layers]
        self._layers = (_Layer * len(rows))(*rows)
        shape = self.shape
        self._model = _Model(
            self._kind, len(rows), hidden, shape.heads, shape.key_heads, width, self._layers[0].down.inputs,
            shape.eps, shape.head_eps, shape.scaling, shape.last_eps,
            self._layers, self._address(self.norm), self._product(self.head),
        )  # fmt: skip
        library.most_rows.restype = _Count
        self.most_rows: int = library.most_rows(ctypes.byref(self._model))
        """Tokens beyond which torch is as fast; no number is, where a processor multiplies tiles or pairs of them."""

    def hidden(self, x: Tensor, cosines: Tensor, sines: Tensor, rows: CachedRows, adapters: RowAdapters) -> Tensor:
        """Hidden states after the last norm ``(rows, hidden)`` of tokens with the embeddings `x` ``(rows, hidden)``.

        `cosines` and signed `sines` are ``(rows, 1, width)``. Keys and values go into the cache. Raises `MemoryError`.
        """
        count = len(x)
        found = x.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        angles = [part.reshape(count, -1).float().contiguous() for part in (cosines, sines)]
        keys, values = _addresses(rows.cache.keys), _addresses(rows.cache.values)
        places, lengths = (_Count * count)(*rows.places), (_Count * count)(*rows.lengths)
        step = _Step(
            rows=count, cosines=angles[0].data_ptr(), sines=angles[1].data_ptr(),
            places=ctypes.addressof(places), lengths=ctypes.addressof(lengths),
            keys=ctypes.addressof(keys), values=ctypes.addressof(values), capacity=rows.cache.capacity,
        )  # fmt: skip
        if rows.prefix is not None:
            prefix_keys, prefix_values = _addresses(rows.prefix.keys), _addresses(rows.prefix.values)
            step.prefix_keys, step.prefix_values = ctypes.addressof(prefix_keys), ctypes.addressof(prefix_values)
            step.prefix_capacity, step.prefix_tokens = rows.prefix.capacity, rows.prefix_tokens
        names = _adapter_names(adapters, count)
        if any(names):
            different = tuple(sorted({name for name in names if name is not None}))
            table = self._low_ranks(different)
            row_adapter = (_Count * count)(*(-1 if name is None else different.index(name) for name in names))
            step.adapters, step.row_adapter = ctypes.addressof(table), ctypes.addressof(row_adapter)
        failed = self._library.decode_step(
            ctypes.byref(self._model), ctypes.byref(step), _Address(found.data_ptr()), torch.get_num_threads()
        )
        if failed:
            raise MemoryError("decoding")
        return found.to(self._dtype)

    def scores(self, hidden: Tensor) -> Tensor:
        """Scores of the next token ``(rows, vocabulary)``, float32, for hidden states ``(rows, hidden)``."""
        return _scores(self._library, self._model, hidden, self._model.head.outputs)

    def log_probabilities(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Log-probability in nats of each row's target ``(rows,)`` after hidden states ``(rows, hidden)``, float32.

        The scores of all other tokens are not kept. Raises `MemoryError`.
        """
        x, wanted = hidden.float().contiguous(), targets.contiguous()
        found = torch.empty(len(x))
        for parts in zip(*(torch.split(one, _SCORED_ROWS) for one in (x, wanted, found)), strict=True):
            rows, addresses = len(parts[0]), (_Address(part.data_ptr()) for part in parts)
            if self._library.decode_likelihoods(
                ctypes.byref(self._model), _Count(rows), *addresses, torch.get_num_threads()
            ):
                raise MemoryError("decoding")
        return found

    def _low_ranks(self, names: tuple[str, ...]) -> Any:
        """The table of adapters, as they were when it was made."""
        if names not in self._adapters:
            table = (_LowRank * (len(names) * len(self.layers) * _PRODUCTS))()
            every = (product.low_rank(name) for name in names for layer in self.layers for product in layer.products)
            found = [None if one is None else _whole_vectors(one) for one in every]
            for place, one in enumerate(found):
                if one is not None:
                    table[place] = _LowRank(one.down.data_ptr(), one.up.data_ptr(), one.up.shape[0])
            self._adapters[names] = table, [one for one in found if one is not None]
        return self._adapters[names][0]

    def _layer(self, layer: StepLayer) -> _Layer:
        norms = layer.head_norms or (None, None)
        return _Layer(
            *(self._address(norm) for norm in (layer.attention_norm, layer.feed_forward_norm, *norms)),
            *(self._product(product) for product in layer.products),
        )

    def _product(self, joined: JoinedLinear) -> _Product:
        kind = _INT8 if self.int8 else self._kind
        inputs = joined.weights[0].shape[1]
        if len(joined.weights) > _MOST_PARTS or inputs % _MULTIPLE[kind]:
            raise UnsupportedError(f"layers with {inputs} inputs")
        made = _Product(parts=len(joined.weights), inputs=inputs, outputs=joined.out_features, kind=kind)
        weights = joined.weights
        scales: Sequence[Tensor | None] = [None] * len(weights)
        if self.int8:
            whole, all_scales = joined.int8_weights()
            sizes = [weight.shape[0] for weight in joined.weights]
            weights, scales = list(torch.split(whole, sizes)), list(torch.split(all_scales.float(), sizes))
        for place, (weight, own) in enumerate(zip(weights, scales, strict=True)):
            bias = self._address(joined.biases[place])
            made.part[place] = _Part(self._address(weight), bias, self._address(own), weight.shape[0])
        return made

    def _address(self, tensor: Tensor | None) -> int | None:
        if tensor is None:
            return None
        if not tensor.is_contiguous():
            raise UnsupportedError("weights with gaps between them")
        self._held.append(tensor.detach())  # its memory, also where the weight is given other memory meanwhile
        return tensor.data_ptr()


def _scores(library: ctypes.CDLL, model: _Model, hidden: Tensor, vocabulary: int) -> Tensor:
    x = hidden.float().contiguous()
    found = torch.empty(len(x), vocabulary)
    addresses = _Address(x.data_ptr()), _Address(found.data_ptr())
    if library.decode_scores(ctypes.byref(model), _Count(len(x)), *addresses, torch.get_num_threads()):
        raise MemoryError("decoding")
    return found


def _whole_vectors(low_rank: LowRank) -> LowRank:
    """The same with a multiple of 16 ranks: compiled code computes as many at once."""
    missing = -low_rank.up.shape[0] % _LANES
    return LowRank(functional.pad(low_rank.down, (0, missing)), functional.pad(low_rank.up, (0, 0, 0, missing)))


def _adapter_names(adapters: RowAdapters, rows: int) -> list[str | None]:
    names: list[str | None] = [adapters.everywhere] * rows
    for name, own in adapters.parts:
        for row in own.tolist():
            names[row] = name
    return names


def _addresses(tensors: Sequence[Tensor]) -> Any:
    return (_Address * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


@cache
def _mistake(library: ctypes.CDLL) -> str | None:
    """Compute a product of each kind; say which is wrong on this machine, or None."""
    generator = torch.Generator().manual_seed(0)
    kinds = ((_FLOAT32, torch.float32), (_BFLOAT16, torch.bfloat16), (_INT8, torch.int8))
    for (kind, dtype), outputs in product(kinds, (37, 48)):
        weight = (torch.randn(outputs, 128, generator=generator) * 30).to(dtype)
        model = _Model(kind=_BFLOAT16 if kind == _BFLOAT16 else _FLOAT32, hidden=128)
        model.head = _Product(parts=1, inputs=128, outputs=outputs, kind=kind)
        scales = torch.rand(outputs, generator=generator)
        model.head.part[0] = _Part(weight.data_ptr(), None, scales.data_ptr(), outputs)
        x = torch.randn(35, 128, generator=generator).bfloat16().float()
        expected = x @ weight.float().t() * (scales if kind == _INT8 else 1.0)
        if not torch.allclose(_scores(library, model, x, outputs), expected, rtol=1e-2, atol=1e-2):
            return f"it computes something else on this machine ({dtype})"
    return None
