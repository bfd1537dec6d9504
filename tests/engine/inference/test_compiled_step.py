"""Steps in compiled code: torch's values, the same bits whatever stands beside a token, and what happens without.

How near bfloat16 is to the truth is measured in test_fast_model.py.
"""

import os
import random
import signal
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_tui.engine.compiled import library
from lora_tui.engine.compiled.library import DECODING, load_library
from lora_tui.engine.inference import compiled_step
from lora_tui.engine.inference.compiled_step import CompiledSteps
from lora_tui.engine.inference.fast_model import FastModel
from lora_tui.engine.inference.key_values import (
    CachedAttention,
    KeyValueCache,
    PromptAttention,
    SharedPrefixAttention,
    Span,
    StepAttention,
)
from lora_tui.engine.inference.matrices import RowAdapters
from tests.engine.compiled import needs_compiler
from tests.engine.inference.test_fast_model import FAMILIES, adapted, fast_of, make
from tests.engine.tiny import make_tokenizer

pytestmark = needs_compiler

ROWS = 16
MANY_ROWS = 290
"""More than go through all layers together."""
DTYPES = (torch.float32, torch.bfloat16)


@pytest.fixture(scope="module")
def words() -> Any:
    return make_tokenizer()


def model_of(words: Any, family: str, dtype: torch.dtype) -> tuple[FastModel, CompiledSteps]:
    """The fast form of a model with two adapters, and its compiled steps."""
    model = adapted(make(family, words, dtype), name="first")
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model.add_adapter("second", model.peft_config["first"])
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B.second" in name:
                    parameter.normal_(std=0.3)
    fast = fast_of(model)
    assert fast._steps is not None
    fast._steps.most_rows = MANY_ROWS  # whatever this processor has
    return fast, fast._steps


def filled(fast: FastModel, places: int, tokens: int, seed: int = 0) -> KeyValueCache:
    """A cache that holds any numbers."""
    cache = fast.new_cache()
    cache.reserve(places, tokens)
    generator = torch.Generator().manual_seed(seed)
    for tensor in (*cache.keys, *cache.values):
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return cache


def pass_of(fast: FastModel, kind: str, rows: int) -> tuple[torch.Tensor, torch.Tensor, KeyValueCache, CachedAttention]:
    """Tokens, positions, cache and attention of a pass of a kind, of `rows` tokens."""
    draw = random.Random(rows)
    tokens = torch.tensor([draw.randrange(5, 60) for _ in range(rows)])
    if kind == "step":
        lengths = [draw.randrange(40) for _ in range(rows)]
        cache = filled(fast, rows, 48)
        return tokens, torch.tensor(lengths), cache, StepAttention(cache, lengths, fast.scaling)
    if kind == "prompt":
        first = rows // 2
        cache = filled(fast, 3, 30 + rows)
        spans = [Span(2, 0, first, 7), Span(0, first, rows, 30)]
        positions = torch.tensor([*range(7, 7 + first), *range(30, 30 + rows - first)])
        return tokens, positions, cache, PromptAttention(cache, spans, fast.scaling)
    prefix, cache = filled(fast, 1, 40, seed=1), filled(fast, rows, 16)
    attention = SharedPrefixAttention(prefix, 37, cache, rows, 5, fast.scaling)
    return tokens, torch.full((rows,), 42), cache, attention


@pytest.mark.parametrize("kind", ["step", "prompt", "prefix"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_values_are_torchs(words: Any, family: str, dtype: torch.dtype, kind: str) -> None:
    fast, steps = model_of(words, family, dtype)
    for rows in (2, 3, 8, 13, ROWS, 33, MANY_ROWS):
        names = ["first", None, "second"]
        adapters = RowAdapters.of([names[row % 3] for row in range(rows)], fast.device)
        found = []
        for own in (steps, None):
            fast._steps = own
            tokens, positions, cache, attention = pass_of(fast, kind, rows)
            hidden = fast.hidden(tokens, positions, attention, adapters)
            found.append((hidden, fast.logits(hidden, adapters), *cache.keys, *cache.values))
        for ours, torchs in zip(*found, strict=True):
            assert ours.dtype == torchs.dtype
            error = (ours.float() - torchs.float()).norm() / torchs.float().norm()
            assert error < (2e-6 if dtype == torch.float32 else 6e-2), (rows, error)


@pytest.mark.parametrize(
    ("family", "int8"), [("llama", False), ("qwen3", False), ("llama", True)], ids=["llama", "qwen3", "int8"]
)
@pytest.mark.parametrize("dtype", DTYPES)
@torch.no_grad()
def test_a_token_has_the_same_bits_whatever_is_beside_it(
    words: Any, dtype: torch.dtype, family: str, int8: bool
) -> None:
    fast, _ = model_of(words, family, dtype)
    if int8:
        fast.read_int8()
        assert fast._steps is not None
        fast._steps.most_rows = MANY_ROWS
    lengths = [random.Random(place).randrange(60) for place in range(ROWS)]
    tokens, names = torch.arange(5, 5 + ROWS), [("first", None, "second")[row % 3] for row in range(ROWS)]

    def scores(rows: list[int], threads: int = 2) -> list[torch.Tensor]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        cache = fast.new_cache()
        cache.reserve(len(rows), 64)
        whole = filled(fast, ROWS, 64)
        for own, other in zip((*cache.keys, *cache.values), (*whole.keys, *whole.values), strict=True):
            own[: len(rows)] = other[rows]
        own_lengths = [lengths[row] for row in rows]
        attention = StepAttention(cache, own_lengths, fast.scaling)
        adapters = RowAdapters.of([names[row] for row in rows], fast.device)
        hidden = fast.hidden(tokens[rows], torch.tensor(own_lengths), attention, adapters)
        found = fast.logits(hidden, adapters)
        torch.set_num_threads(before)
        return list(found)

    together = scores(list(range(ROWS)))
    for rows in ([0], [3], [15], [9, 2], [1, 4, 5], [7, 6, 5, 4, 3], list(range(15))):
        for threads in (1, 2, 3):
            for row, found in zip(rows, scores(rows, threads), strict=True):
                assert torch.equal(found, together[row]), (rows, row, threads)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", ["llama", "qwen3"])
@torch.no_grad()
def test_a_prompt_has_the_same_bits_in_parts_and_beside_others(words: Any, family: str, dtype: torch.dtype) -> None:
    fast, _ = model_of(words, family, dtype)
    draw = random.Random(1)
    prompts = [[draw.randrange(5, 60) for _ in range(tokens)] for tokens in (1, MANY_ROWS, 40)]

    def read(parts: list[list[tuple[int, int, int]]]) -> list[torch.Tensor]:
        """Passes over parts of prompts, ``(prompt, start, end)``; hidden states of each prompt's last token."""
        cache = fast.new_cache()
        cache.reserve(len(prompts), MANY_ROWS)
        found = [torch.empty(0)] * len(prompts)
        for one in parts:
            tokens = [token for place, start, end in one for token in prompts[place][start:end]]
            positions = [position for _, start, end in one for position in range(start, end)]
            spans, at = list[Span](), 0
            for place, start, end in one:
                spans.append(Span(place, at, at + end - start, start))
                at += end - start
            attention = PromptAttention(cache, spans, fast.scaling)
            hidden = fast.hidden(torch.tensor(tokens), torch.tensor(positions), attention)
            for span in spans:
                found[span.place] = hidden[span.end - 1]
        return found

    together = read([[(0, 0, 1), (2, 0, 40)], [(1, 0, MANY_ROWS - 1)], [(1, MANY_ROWS - 1, MANY_ROWS)]])
    alone = read([[(0, 0, 1)], [(1, 0, 7)], [(1, 7, 8), (2, 0, 33)], [(1, 8, MANY_ROWS), (2, 33, 40)]])
    for one, other in zip(together, alone, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", DTYPES)
@torch.no_grad()
def test_likelihoods_of_many_rows_are_computed_some_at_a_time(
    words: Any, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast, steps = model_of(words, "llama", dtype)
    hidden = torch.randn(37, len(steps.norm), generator=torch.Generator().manual_seed(3)).to(dtype)
    targets = torch.arange(37) % fast.vocabulary
    wanted = fast.logits(hidden).log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    together = fast.log_probabilities(hidden, targets, None)
    assert torch.allclose(together, wanted, atol=1e-5)
    rows = list[int]()
    computed = steps._library.decode_likelihoods
    monkeypatch.setattr(compiled_step, "_SCORED_ROWS", 16)

    def counted(model: Any, some: Any, *more: Any) -> int:
        rows.append(some.value)
        return int(computed(model, some, *more))

    monkeypatch.setattr(steps._library, "decode_likelihoods", counted)
    assert torch.equal(fast.log_probabilities(hidden, targets, None), together)
    assert rows == [16, 16, 5]


@torch.no_grad()
def test_eight_bits_are_those_of_the_scaled_weights(words: Any) -> None:
    fast, _ = model_of(words, "qwen2", torch.float32)
    fast.read_int8()
    eight = fast._steps
    rough = make("qwen2", words)
    with torch.no_grad():
        layers = [one for layer in rough.model.layers for one in (*layer.self_attn.children(), *layer.mlp.children())]
        for layer in [*layers, rough.lm_head]:
            if isinstance(layer, torch.nn.Linear):
                scale = layer.weight.abs().amax(1, keepdim=True) / 127
                layer.weight = torch.nn.Parameter((layer.weight / scale).round() * scale)
    wanted = fast_of(rough)
    found = []
    for own, steps in ((fast, eight), (wanted, None)):
        own._steps = steps
        tokens, positions, _, attention = pass_of(own, "step", 3)
        found.append(own.logits(own.hidden(tokens, positions, attention)))
    assert torch.allclose(*found, atol=1e-4)


@torch.no_grad()
def test_threads_and_forked_processes_compute_at_once(words: Any) -> None:
    fast, _ = model_of(words, "llama", torch.float32)

    def score() -> torch.Tensor:
        tokens, positions, _, attention = pass_of(fast, "step", 5)
        return fast.hidden(tokens, positions, attention)

    wanted, wrong = score(), list[int]()

    def work() -> None:
        with torch.no_grad():
            wrong.extend(1 for _ in range(20) if not torch.equal(score(), wanted))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    child = os.fork()
    if child == 0:  # pragma: no cover  # in another process
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(60)  # what waits for ever holds everything open that was open here
        os._exit(0 if torch.equal(fast._steps.hidden(*_inputs(fast)), wanted) else 1)  # type: ignore[union-attr]  # it has steps
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _inputs(fast: FastModel) -> tuple[Any, ...]:
    """What the step of five rows takes, with nothing that torch computes on several threads."""
    tokens, positions, _, attention = pass_of(fast, "step", 5)
    return fast._embed(tokens), *fast._angles_at(positions), attention.rows(), RowAdapters()


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache folder of its own; nothing is known of earlier compilations."""
    monkeypatch.setenv("LORA_TUI_CACHE", str(tmp_path / "cache"))
    load_library.cache_clear()
    yield tmp_path
    load_library.cache_clear()


@torch.no_grad()
def test_weights_that_are_given_other_memory_are_read_where_they_were(words: Any) -> None:
    fast, steps = model_of(words, "llama", torch.float32)
    read = [tensor.clone() for tensor in steps._held]
    for weight in [fast._norm.weight, *(weight for product in fast._products() for weight in product.weights)]:
        weight.data = torch.zeros_like(weight)
    assert all(torch.equal(*pair) for pair in zip(steps._held, read, strict=True))


def test_without_a_compiler_torch_decodes(fresh: Path, words: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler -O1")
    assert load_library(DECODING) == "there is no C compiler (no-such-compiler)"
    fast = FastModel(make("llama", words))
    assert fast._steps is None
    tokens, positions, _, attention = pass_of(fast, "step", 2)
    assert fast.hidden(tokens, positions, attention).shape == (2, 64)


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [
        ("false", "the C compiler failed (it said nothing)"),
        ("'", "No closing quotation"),
        ("true", "No such file or directory"),
    ],
)
def test_a_compiler_that_fails_is_named(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, compiler: str, reason: str
) -> None:
    monkeypatch.setenv("CC", compiler)
    assert reason in str(load_library(DECODING))


def test_a_library_is_compiled_once_for_the_user_alone(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = fresh / "answer.c"
    source.write_text("int answer(void) { return 42; }")
    assert load_library(source).answer() == 42  # type: ignore[union-attr]  # it is there
    (made,) = (fresh / "cache" / "compiled").iterdir()
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    load_library.cache_clear()
    monkeypatch.setattr(library, "_compile", lambda *_: pytest.fail("it is compiled again"))
    assert load_library(source).answer() == 42  # type: ignore[union-attr]  # as above


def test_a_library_of_another_user_is_not_loaded(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = fresh / "answer.c"
    source.write_text("int answer(void) { return 42; }")
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert str(load_library(source)).endswith("belongs to somebody else")
