"""Weights keep their values in huge pages, and Linux is asked for those that they fill."""

import sys
from types import SimpleNamespace

import pytest
import torch

from lora_tui.engine.models import huge_pages
from lora_tui.engine.models.huge_pages import move_to_huge_pages, start_moving_to_huge_pages

PAGE = 1 << 21


def test_weights_are_moved_as_they_are() -> None:
    weights = [torch.arange(3_000_000, dtype=torch.float32), torch.randn(700, 500), torch.zeros(0)]
    before = [weight.clone() for weight in weights]
    assert 0 <= move_to_huge_pages(weights) <= 8, "what a system gives depends on it"
    assert all(torch.equal(*pair) for pair in zip(weights, before, strict=True))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone is asked")
def test_pages_that_weights_fill_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[tuple[int, int, int]]()

    def madvise(address: int, size: int, advice: int) -> int:
        asked.append((address, size, advice))
        return 0 if len(asked) > 1 else -1

    monkeypatch.setattr(huge_pages.ctypes, "CDLL", lambda name: SimpleNamespace(madvise=madvise))
    weight = torch.zeros(5 * PAGE, dtype=torch.uint8)
    moved = move_to_huge_pages([weight[: 3 * PAGE], weight[3 * PAGE :]])
    first = -(-weight.data_ptr() // PAGE) * PAGE
    inside = {first + page * PAGE for page in range(4)}
    assert inside <= {address for address, _, _ in asked}
    assert len(asked) <= 5, "of those at the ends the fuller one"
    assert {(size, advice) for _, size, advice in asked} == {(PAGE, 25)}
    assert moved == len(asked) - 1


def test_many_weights_are_moved_meanwhile_and_few_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[int]()
    monkeypatch.setattr(huge_pages, "move_to_huge_pages", lambda weights: asked.append(len(weights)))
    monkeypatch.setattr(huge_pages, "_LEAST", 4000)

    class Now:
        def __init__(self, target: object, args: tuple[object, ...], **more: object) -> None:
            self.start = lambda: target(*args)  # type: ignore[operator]  # a function

    monkeypatch.setattr(huge_pages.threading, "Thread", Now)
    start_moving_to_huge_pages([torch.zeros(999)])
    assert asked == []
    start_moving_to_huge_pages([torch.zeros(999), torch.zeros(1)])
    assert asked == [2]


def test_other_systems_move_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge_pages.sys, "platform", "darwin")
    assert move_to_huge_pages([torch.zeros(2_000_000)]) == 0
