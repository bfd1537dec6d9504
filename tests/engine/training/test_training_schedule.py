"""Which examples each step sees and at which learning rate, as pure functions."""

import math
from collections import Counter

import pytest

from lora_tui.engine.training.schedule import epoch_order, lr_factor, plan_epoch, steps_per_epoch, total_steps


def order(
    count: int, seed: int = 42, epoch: int = 0, weights: list[float] | None = None, shuffle: bool = True
) -> list[int]:
    return epoch_order(count, weights or [1.0] * count, seed, epoch, shuffle=shuffle)


def test_the_order_is_a_function_of_seed_and_epoch_alone() -> None:
    assert order(50) == order(50)
    assert order(50, epoch=1) != order(50)
    assert order(50, seed=43) != order(50)
    assert order(50, seed=0, epoch=1) != order(50, seed=1, epoch=0)


def test_every_example_comes_once_an_epoch() -> None:
    for epoch in range(3):
        assert sorted(order(17, epoch=epoch)) == list(range(17))


def test_without_shuffling_the_file_order_stays() -> None:
    assert order(9, epoch=3, shuffle=False) == list(range(9))


def test_equal_weights_of_any_size_change_nothing() -> None:
    assert order(20, weights=[3.0] * 20) == order(20)


def test_weighted_examples_come_in_their_exact_share() -> None:
    weights = [4.0, 1.0, 1.0, 1.0, 1.0, 4.0, 1.0, 1.0, 1.0, 1.0]  # sum 16, ten places: 2.5 for a heavy one
    for epoch in range(20):
        drawn = Counter(order(10, epoch=epoch, weights=weights))
        assert sum(drawn.values()) == 10
        for example, weight in enumerate(weights):
            share = 10 * weight / 16
            assert math.floor(share) <= drawn[example] <= math.ceil(share)


def test_over_many_epochs_weighted_shares_are_exact() -> None:
    weights = [2.0, *[1.0] * 9]
    drawn = Counter(example for epoch in range(400) for example in order(10, epoch=epoch, weights=weights))
    assert drawn[0] / 4000 == pytest.approx(2 / 11, abs=0.005)
    for example in range(1, 10):
        assert drawn[example] / 4000 == pytest.approx(1 / 11, abs=0.008)


def test_a_share_that_is_whole_is_the_same_in_every_epoch() -> None:
    weights = [3.0, 1.0, 1.0, 1.0, 0.5, 0.5, 1.0, 1.0, 0.5, 0.5]  # sum 10, ten places
    for epoch in range(30):
        drawn = Counter(order(10, epoch=epoch, weights=weights))
        assert drawn[0] == 3
        assert all(drawn[example] == 1 for example in (1, 2, 3, 6, 7))


def test_the_remainder_of_an_epoch_is_a_step_of_its_own() -> None:
    plans = plan_epoch(list(range(10)), 4, epoch=2)
    assert [plan.examples for plan in plans] == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9)]
    assert [plan.step for plan in plans] == [7, 8, 9]
    assert [plan.ends_epoch for plan in plans] == [False, False, True]
    assert steps_per_epoch(10, 4) == 3


def test_steps_of_a_run_are_those_of_the_epochs_or_the_ones_asked_for() -> None:
    assert total_steps(10, 4, max_epochs=2, max_steps=0) == 6
    assert total_steps(10, 4, max_epochs=2, max_steps=5) == 5
    assert total_steps(10, 4, max_epochs=0, max_steps=50) == 50


def test_warm_up_rises_in_equal_parts_and_never_begins_at_zero() -> None:
    for kind in ("cosine", "linear", "constant"):
        assert [lr_factor(kind, step, 20, 4) for step in (1, 2, 3, 4)] == [0.25, 0.5, 0.75, 1.0]


def test_without_warm_up_the_first_step_has_the_whole_rate() -> None:
    assert [lr_factor(kind, 1, 20, 0) for kind in ("cosine", "linear", "constant")] == [1.0, 1.0, 1.0]


def test_cosine_falls_along_half_a_cosine_towards_zero() -> None:
    factors = [lr_factor("cosine", step, 12, 2) for step in range(3, 13)]
    assert factors == pytest.approx([0.5 * (1 + math.cos(math.pi * part / 10)) for part in range(10)])
    assert factors[5] == pytest.approx(0.5)
    assert 0 < factors[-1] < 0.03


def test_linear_falls_in_equal_parts() -> None:
    assert [lr_factor("linear", step, 6, 2) for step in range(3, 7)] == pytest.approx([1.0, 0.75, 0.5, 0.25])


def test_constant_stays() -> None:
    assert {lr_factor("constant", step, 6, 2) for step in range(2, 7)} == {1.0}


def test_the_schedule_is_transformers_own_shifted_so_that_the_first_step_counts() -> None:
    import torch
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    for kind in ("cosine", "linear"):
        peer = get_scheduler(kind, optimizer, num_warmup_steps=3, num_training_steps=11).lr_lambdas[0]
        assert [lr_factor(kind, step, 11, 3) for step in range(4, 12)] == pytest.approx([peer(s) for s in range(3, 11)])


def test_a_warm_up_longer_than_the_run_only_rises() -> None:
    factors = [lr_factor("cosine", step, 5, 200) for step in range(1, 6)]
    assert factors == pytest.approx([step / 200 for step in range(1, 6)])
