"""Rows computed side by side: the same sum as one after the other, to the last bit every time."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from lora_tui.engine.training.packing import EncodedExample, RowWorkers, balance
from lora_tui.engine.training.step import GradientStep
from tests.engine.training.test_training_failures import limited
from tests.engine.training.test_training_packing import accumulate, gradients, largest_difference

CPU = torch.device("cpu")


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("lora_tui.engine.training.packing._LEAST_TOKENS_PER_WORKER", 32)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def test_rows_are_of_like_length_and_hold_every_item_once() -> None:
    lengths = [20, 14, 25, 14, 23, 15, 13, 26, 12, 22]
    rows = balance(lengths, 56)
    assert sorted(item for row in rows for item in row) == list(range(10))
    used = [sum(lengths[item] for item in row) for row in rows]
    assert len(rows) == 4
    assert max(used) <= 56
    assert max(used) - min(used) <= 12
    assert balance([10, 90, 10, 10], 30) == [[1], [0, 2, 3]], "a long item gets its own row"
    assert balance([5, 5], 100) == [[0, 1]]
    assert balance([7, 3, 7, 3], 10) == [[0, 1], [2, 3]]
    assert balance([], 10) == []


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_two_at_a_time_give_the_gradient_of_one_after_the_other(
    new_model: Callable[..., Any], examples: list[EncodedExample], dropout: float
) -> None:
    model = new_model(dropout=dropout).train()
    gradient_step = GradientStep.of(model, 96)
    seen: set[str] = set()
    real = gradient_step.fast.set_dropout_rng

    def watched(draws: Any) -> None:
        seen.add(threading.current_thread().name)
        real(draws)

    gradient_step.fast.set_dropout_rng = watched  # type: ignore[method-assign]
    assert gradient_step.rows_at_once(examples) == 2
    assert gradient_step.rows_at_once(examples[:1]) == 1, "a small step is one row"
    loss = float(gradient_step.accumulate(examples))
    found = gradients(model)
    assert len(seen) == 2, "two threads have computed rows"
    for _ in range(3):
        assert float(gradient_step.accumulate(examples)) == loss
        again = gradients(model)
        assert all(torch.equal(value, found[name]) for name, value in again.items())
    gradient_step.row_workers.close()
    torch.set_num_threads(1)
    plain_loss, plain = accumulate(model, examples, 96)
    assert loss == pytest.approx(plain_loss, rel=1e-6)
    assert largest_difference(found, plain) <= 1e-6


@pytest.mark.usefixtures("two_cores")
def test_rows_share_the_token_budget_and_a_long_one_is_computed_alone(
    new_model: Callable[..., Any], examples: list[EncodedExample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_tui.engine.training.packing._LEAST_TOKENS_PER_WORKER", 16)
    gradient_step = GradientStep.of(new_model(), 40)
    (alone, one), (together, _), (short, two) = gradient_step._lane_groups(examples)
    assert (one, two) == (1, 2)
    assert len(short) == 2
    assert all(sum(len(examples[item].input_ids) for item in row) <= 20 for lane in short for row in lane)
    assert all(len(row) == 1 for lane in alone for row in lane)
    assert alone, "one of the pairs is longer than half of the budget"
    assert short
    assert not together


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize("count", [4, 5])
def test_long_rows_are_computed_side_by_side_where_there_is_memory_for_it(
    new_model: Callable[..., Any], examples: list[EncodedExample], monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Each is above its share of the budget; an odd one is computed alone, on both cores."""
    monkeypatch.setattr("lora_tui.engine.training.packing._LEAST_TOKENS_PER_WORKER", 16)
    long = sorted(examples, key=lambda example: -len(example.input_ids))[:count]
    model = new_model(dropout=0.1).train()
    one_by_one, side_by_side = (GradientStep.of(model, 32) for _ in range(2))
    loss = float(one_by_one.accumulate(long, 1))
    expected = gradients(model)
    assert (one_by_one.long_rows_together(long), side_by_side.long_rows_together(long)) == (1, 1)
    side_by_side.fallback.begin_at(replace(side_by_side.fallback.current, long_rows=2))
    assert side_by_side.long_rows_together(long) == 2
    groups = [(sum(map(len, lanes)), workers) for lanes, workers in side_by_side._lane_groups(long)]
    assert groups == [(count % 2, 1), (count - count % 2, 2), (0, 2)]
    assert float(side_by_side.accumulate(long, 1)) == pytest.approx(loss, rel=1e-6)
    assert largest_difference(gradients(model), expected) <= 1e-6
    side_by_side.row_workers.close()


@pytest.mark.usefixtures("two_cores")
def test_memory_that_runs_out_in_one_of_the_threads_is_noticed(
    new_model: Callable[..., Any], examples: list[EncodedExample], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = new_model().train()
    _, undisturbed = accumulate(model, examples, 200)
    fitted = limited(monkeypatch, 60)
    gradient_step = GradientStep.of(model, 200)
    gradient_step.accumulate(examples)
    assert largest_difference(gradients(model), undisturbed) <= 1e-6
    assert max(fitted) <= 60
    assert gradient_step.rows_at_once(examples) == 1


@pytest.mark.usefixtures("two_cores")
def test_two_rows_that_do_not_fit_together_are_computed_one_after_the_other(
    new_model: Callable[..., Any], examples: list[EncodedExample], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row is a single example: halving could not help."""
    long = sorted(examples, key=lambda example: -len(example.input_ids))[:2]
    tokens = len(long[0].input_ids)
    monkeypatch.setattr("lora_tui.engine.training.packing._LEAST_TOKENS_PER_WORKER", 16)
    model = new_model().train()
    _, undisturbed = accumulate(model, long, 1)
    gradient_step = GradientStep.of(model, 2 * tokens)
    assert gradient_step.rows_at_once(long) == 2
    real, first = GradientStep.summed_loss, threading.Event()

    def summed_loss(self: GradientStep, row: Any) -> torch.Tensor:
        if not first.is_set():
            first.set()
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return real(self, row)

    monkeypatch.setattr(GradientStep, "summed_loss", summed_loss)
    gradient_step.accumulate(long)
    assert (gradient_step.rows_at_once(long), gradient_step.fallback.current.tokens_per_row) == (1, tokens)
    assert largest_difference(gradients(model), undisturbed) <= 1e-6


def test_threads_take_their_share_and_leave_torchs_setting_alone() -> None:
    torch.set_num_threads(4)
    try:
        threads = RowWorkers(CPU, allowed=True)
        assert threads.workers(1024) == 4
        assert threads.workers(600) == 2
        assert threads.workers(100) == 1
        assert list(threads.map(lambda _: torch.get_num_threads(), range(8), 2)) == [2] * 8
        assert torch.get_num_threads() == 4
        threads.close()
        assert RowWorkers(CPU, allowed=False).workers(10_000) == 1
        assert RowWorkers(torch.device("cuda"), allowed=True).workers(10_000) == 1
    finally:
        torch.set_num_threads(1)


def test_after_an_exception_nothing_is_left_at_work() -> None:
    torch.set_num_threads(2)
    threads = RowWorkers(CPU, allowed=True)
    ended: list[int] = []
    other_is_at_work = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            assert other_is_at_work.wait(60)
            raise RuntimeError("out of memory")
        other_is_at_work.set()
        time.sleep(0.3)
        ended.append(item)
        return item

    try:
        with pytest.raises(RuntimeError, match="out of memory"):
            list(threads.map(work, range(20), 2))
        so_far = list(ended)
        time.sleep(0.5)
        assert ended == so_far, "nobody works on after map has ended"
        assert 1 in ended
        assert len(ended) < 5, "what had not begun is not begun"
    finally:
        threads.close()
        torch.set_num_threads(1)
