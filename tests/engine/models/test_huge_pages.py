"""Weights keep their values in huge pages, and Linux is asked for those that they fill."""

import platform
import sys
from pathlib import Path

import pytest
import torch

from lora_tui.engine.models import huge_pages
from lora_tui.engine.models.huge_pages import move_to_huge_pages, start_moving_to_huge_pages


def can_collapse() -> bool:
    """Whether this system moves memory into huge pages when it is asked to."""
    if not sys.platform.startswith("linux"):
        return False
    major, minor = map(int, platform.release().split(".")[:2])
    return (major, minor) >= (6, 1) and Path("/sys/kernel/mm/transparent_hugepage/enabled").exists()


def test_weights_are_moved_as_they_are() -> None:
    weights = [torch.arange(3_000_000, dtype=torch.float32), torch.randn(700, 500), torch.zeros(0)]
    before = [weight.clone() for weight in weights]
    moved = move_to_huge_pages(weights)
    assert (moved > 0) == can_collapse()
    assert moved <= 8
    assert all(torch.equal(*pair) for pair in zip(weights, before, strict=True))


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
