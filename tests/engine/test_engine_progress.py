"""Progress of long work as events: enough to see that it lives, few enough for a store."""

from typing import Any

import pytest

from lora_tui.engine.runtime import context as context_module
from lora_tui.engine.runtime.context import progress_events
from lora_tui.engine.runtime.process import before_torch, keep_freed_memory


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(context_module, "time", clock)
    return clock


def test_at_most_four_events_a_second_and_always_the_first_and_the_last(clock: Clock) -> None:
    seen: list[dict[str, Any]] = []
    progress = progress_events(lambda kind, /, **payload: seen.append({"kind": kind, **payload}))
    for done in range(101):
        progress("fetching", done, 100)
        clock.now += 0.02  # two seconds in all
    assert seen[0] == {"kind": "progress", "phase": "fetching", "done": 0, "total": 100}
    assert seen[-1]["done"] == 100
    assert 7 <= len(seen) <= 10


def test_each_phase_begins_at_once(clock: Clock) -> None:
    seen: list[str] = []
    progress = progress_events(lambda kind, /, **payload: seen.append(str(payload["phase"])))
    progress("fetching", 0, 2)
    progress("converting", 0, 2)
    progress("converting", 1, 2)
    assert seen == ["fetching", "converting"]


def test_what_the_user_has_set_for_the_process_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    before_torch()
    import os

    assert os.environ["OMP_WAIT_POLICY"] == "active"
    assert os.environ["TQDM_DISABLE"] == "1"
    monkeypatch.setenv("TQDM_DISABLE", "1")  # so that it is taken away again


def test_keeping_freed_memory_is_no_error_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr("ctypes.CDLL", lambda name: pytest.fail("there is no glibc here"))
    keep_freed_memory()
