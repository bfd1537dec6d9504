"""What compiled code computes between the products: torch's values forward and backward, on any number of threads."""

import ctypes
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lora_tui.engine.training.fast import compiled_ops, cpu_ops
from lora_tui.engine.training.fast.cpu_ops import HeadLayout
from lora_tui.engine.training.fast.dropout import StoredMask
from lora_tui.engine.training.fast.linear import LoraLinearSpec, are_compiled, lora_linears
from lora_tui.engine.training.loss import label_cross_entropy
from tests.engine.compiled import needs_compiler

pytestmark = needs_compiler

DTYPES = (torch.float32, torch.bfloat16)


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(dtype)


def values(compute: Callable[..., Tensor], inputs: list[Tensor], grad: Tensor) -> list[Tensor]:
    """The result, and the gradients of all inputs."""
    leaves = [one.clone().requires_grad_() for one in inputs]
    y = compute(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad.to(y.dtype))]


def assert_alike(
    compute: Callable[..., Tensor], inputs: list[Tensor], monkeypatch: pytest.MonkeyPatch, calls_at_least: int = 2
) -> None:
    """Compiled code gives torch's values, and the same bits on one and on three threads."""
    assert compiled_ops.unusable_reason() is None
    grad = random(*compute(*inputs).shape, seed=9)
    calls: list[str] = []
    call = compiled_ops._call
    monkeypatch.setattr(compiled_ops, "_call", lambda name, what: (calls.append(name), call(name, what)))
    ours = values(compute, inputs, grad)
    assert len(calls) >= calls_at_least, "forward and backward"
    threads = torch.get_num_threads()
    torch.set_num_threads(3 if threads != 3 else 2)
    again = values(compute, inputs, grad)
    torch.set_num_threads(threads)
    assert all(torch.equal(*pair) for pair in zip(ours, again, strict=True))
    monkeypatch.setattr(compiled_ops, "usable", lambda *_, **__: False)
    theirs = values(compute, inputs, grad)
    for mine, torchs in zip(ours, theirs, strict=True):
        assert (mine.dtype, mine.shape) == (torchs.dtype, torchs.shape)
        allowed = 2e-6 if mine.dtype == torch.float32 else 4e-3
        assert (mine.float() - torchs.float()).norm() <= allowed * torchs.float().norm()


@pytest.mark.parametrize(("x_dtype", "weight_dtype"), itertools.product(DTYPES, DTYPES))
def test_norm(x_dtype: torch.dtype, weight_dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = random(96, dtype=weight_dtype, seed=1)
    x = random(2, 7, 96, dtype=x_dtype) * 3
    assert_alike(lambda one: cpu_ops.rms_norm(one, weight, 1e-5), [x], monkeypatch)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gated_unit(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, up = random(5, 160, dtype=dtype) * 20, random(5, 160, dtype=dtype, seed=1)
    assert_alike(cpu_ops.swiglu, [gate, up], monkeypatch)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("key_heads", "group", "width", "spans"),
    [
        (1, 1, 32, [(0, 4), (4, 11)]),
        (2, 3, 64, [(0, 1), (1, 55), (55, 152)]),
        (1, 4, 96, [(0, 113)]),  # few enough that threads take the queries' heads one by one
        (2, 1, 128, [(0, 48), (48, 102)]),
    ],
)
def test_attention(
    dtype: torch.dtype,
    key_heads: int,
    group: int,
    width: int,
    spans: list[tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokens, heads = spans[-1][1], HeadLayout(key_heads, width, width**-0.5)
    query = random(tokens, key_heads * group * width, dtype=dtype)
    key, value = (random(tokens, key_heads * width, dtype=dtype, seed=seed) for seed in (1, 2))
    half = random(tokens, width // 2, seed=3)
    angles = tuple(torch.cat([part, part], dim=1).to(dtype) for part in (half.cos(), half.sin()))

    def attention(*inputs: Tensor) -> Tensor:
        return cpu_ops.packed_rotary_attention(*inputs, angles, heads, spans)  # type: ignore[arg-type]  # two

    assert_alike(attention, [query, key, value], monkeypatch)


@pytest.mark.parametrize("dtype", DTYPES)
def test_loss(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, hidden = random(208, 32, dtype=dtype, seed=1), random(23, 32, dtype=dtype) * 3
    targets = torch.arange(23) * 9
    assert_alike(lambda one: label_cross_entropy(one, weight, targets), [hidden], monkeypatch, calls_at_least=1)
    unlikely = label_cross_entropy(torch.eye(16) * 1e4, torch.eye(16), torch.arange(16).flip(0))
    assert torch.equal(unlikely, torch.full((16,), 1e4))


def test_what_compiled_code_cannot_read_is_left_to_torch() -> None:
    whole = random(4, 32)
    assert compiled_ops.usable(whole)
    for other in (whole.double(), whole.half(), whole.t(), random(4, 33), whole.to("meta")):
        assert not compiled_ops.usable(other)
    weight = torch.ones(33)
    assert cpu_ops.rms_norm(random(4, 33), weight, 1e-5).shape == (4, 33)


def test_gradients_of_another_form_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    x = random(6, 32).requires_grad_()
    y = cpu_ops.rms_norm(x, torch.ones(32), 1e-5)
    (expanded,) = torch.autograd.grad(y.sum(), x, retain_graph=True)  # the gradient of a sum has no memory of its own
    (plain,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert torch.equal(expanded, plain)


def linears(dtype: torch.dtype, rank: int, *, drops: bool) -> tuple[Tensor, list[LoraLinearSpec]]:
    """An input and three layers that share it: with a bias and drops of its own, without an adapter, and plain."""
    x = random(13, 64, dtype=dtype)
    specs = []
    for number, out in enumerate((96, 32, 48)):
        draws = random(x.numel(), seed=20 + number)
        mask = StoredMask((draws > 1.5).nonzero().flatten()) if drops else None
        weight = random(out, 64, dtype=dtype, seed=number) * 0.2
        bias = random(out, dtype=dtype, seed=5) if number == 0 else None
        lora_a, lora_b = random(rank, 64, seed=6 + number) * 0.2, random(out, rank, seed=9 + number) * 0.2
        adapter = (lora_a, lora_b) if number != 1 else (None, None)
        specs.append(LoraLinearSpec(weight, bias, *adapter, 1.5, mask if number != 1 else None))
    return x, specs


@pytest.mark.parametrize("drops", [False, True], ids=["whole", "dropout"])
@pytest.mark.parametrize("rank", [1, 6, 16, 64])
@pytest.mark.parametrize("dtype", DTYPES)
def test_lora(dtype: torch.dtype, rank: int, drops: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x, specs = linears(dtype, rank, drops=drops)
    trained = [matrix for spec in specs for matrix in spec.trained]

    def outputs(one: Tensor, *matrices: Tensor) -> Tensor:
        rest = iter(matrices)
        given = [spec if spec.lora_a is None else replace(spec, lora_a=next(rest), lora_b=next(rest)) for spec in specs]
        return torch.cat(lora_linears(one, given), dim=1)

    assert_alike(outputs, [x, *trained], monkeypatch)


def test_lora_of_other_precisions_and_masks_is_left_to_torch() -> None:
    x, (spec, _, plain) = linears(torch.bfloat16, 4, drops=True)
    assert are_compiled(x, [spec, plain])
    assert spec.lora_a is not None
    assert spec.lora_b is not None
    half = replace(spec, lora_a=spec.lora_a.bfloat16(), lora_b=spec.lora_b.bfloat16())
    masked = replace(spec, mask=StoredMask(torch.zeros(13, 64, dtype=torch.bool)))
    odd = replace(spec, weight=spec.weight[:95], lora_b=spec.lora_b[:95])
    copied = replace(spec, compute_copies=(spec.lora_a.bfloat16(), spec.lora_b.bfloat16()))
    biased = replace(spec, bias=random(96))
    for other in (half, masked, odd, copied, biased):
        assert not are_compiled(x, [plain, other])
    assert not are_compiled(x.double(), [plain])
    assert not are_compiled(x, [plain] * 4)


@pytest.fixture
def untested() -> Iterator[None]:
    """Nothing is known of the code, and nothing will be."""
    compiled_ops.unusable_reason.cache_clear()
    yield
    compiled_ops.unusable_reason.cache_clear()


@pytest.mark.parametrize(
    "name",
    [
        *("rms_norm", "rms_norm_gradient", "swiglu", "swiglu_gradient", "add", "cross_entropy_"),
        *("attention", "attention_gradient", "low_rank_down", "low_rank_sums", "low_rank_up"),
    ],
)
@pytest.mark.usefixtures("untested")
def test_code_that_computes_something_else_is_not_used(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    right = getattr(compiled_ops, name)

    def wrong(*arguments: Any) -> Any:
        found = right(*arguments)
        if found is None:  # it has written into an argument: one of the last
            written = arguments[1] if name == "attention" else arguments[-1]
            return [one.mul_(1.05) for one in (written if isinstance(written, list) else [written])]
        return tuple(one * 1.05 for one in found) if isinstance(found, tuple) else found * 1.05

    monkeypatch.setattr(compiled_ops, name, wrong)
    with caplog.at_level("INFO"):
        assert not compiled_ops.usable(random(3, 64))
        assert not compiled_ops.usable(random(3, 64))
    (record,) = caplog.records
    assert "it computes something else on this machine" in record.message


@pytest.mark.usefixtures("untested")
def test_it_is_tried_apart_from_what_is_computed_meanwhile() -> None:
    x, weight = random(3, 64).requires_grad_(), random(64, seed=1)
    y = checkpoint(lambda one: cpu_ops.rms_norm(one, weight, 1e-6), x, use_reentrant=False)
    y.sum().backward()  # what is computed again is what was computed first
    compiled_ops.unusable_reason.cache_clear()
    with torch.inference_mode():
        assert compiled_ops.unusable_reason() is None


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "pthread_setattr_default_np") and not os.environ.get("CI"), reason="not glibc"
)
def test_the_widest_lines_fit_a_thread_where_the_system_gives_little(monkeypatch: pytest.MonkeyPatch) -> None:
    low, matrix = random(9, 1), random(1, compiled_ops.MOST_SIZE)
    wanted = compiled_ops.low_rank_up([(low, matrix, None)], torch.float32)
    system = ctypes.CDLL(None)
    usual, little = ctypes.create_string_buffer(256), ctypes.create_string_buffer(256)
    system.pthread_getattr_default_np(usual)
    system.pthread_attr_init(little)
    system.pthread_attr_setstacksize(little, ctypes.c_size_t(1 << 18))
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 6)  # more than there are: new ones are made
    system.pthread_setattr_default_np(little)
    found = compiled_ops.low_rank_up([(low, matrix, None)], torch.float32)
    system.pthread_setattr_default_np(usual)
    assert torch.equal(found, wanted)
