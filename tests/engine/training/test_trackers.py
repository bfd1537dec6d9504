"""Trackers: what TensorBoard's files hold is what the store holds, and one that fails costs nothing."""

import struct
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lora_tui.config.models import Settings
from lora_tui.engine.runtime.engine import Outcome
from lora_tui.engine.training.trackers import _TensorBoard
from tests.engine.conftest import EngineHarness, trained_settings
from tests.engine.tiny import training_text

_CRC = [0] * 256
for _number in range(256):
    _value = _number
    for _ in range(8):
        _value = (_value >> 1) ^ (0x82F63B78 if _value & 1 else 0)
    _CRC[_number] = _value


def _masked(data: bytes) -> int:
    """CRC-32C, masked as TFRecord has it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def events_in(folder: Path) -> Iterator[Any]:
    """Read event files as TensorBoard does, their sums checked."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(folder.glob("events.out.tfevents.*")):
        content, place = path.read_bytes(), 0
        while place < len(content):
            head = content[place : place + 8]
            (length,) = struct.unpack("<Q", head)
            assert struct.unpack("<I", content[place + 8 : place + 12]) == (_masked(head),)
            data = content[place + 12 : place + 12 + length]
            assert struct.unpack("<I", content[place + 12 + length : place + 16 + length]) == (_masked(data),)
            yield Event.FromString(data)
            place += 16 + length


def scalars_in(folder: Path) -> dict[str, dict[int, float]]:
    """The figures by name and step; what a later process has taken back is gone."""
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for event in events_in(folder):
        if event.HasField("session_log"):
            for figures in found.values():
                for step in [step for step in figures if step >= event.step]:
                    del figures[step]
        for value in event.summary.value:
            if value.WhichOneof("value") == "simple_value":
                found[value.tag][event.step] = value.simple_value
    return found


@pytest.fixture
def engine_harness(
    new_engine_harness: Callable[[Path, Settings], EngineHarness], tmp_path: Path, base_folder: Path
) -> EngineHarness:
    """An engine that trains the tiny model for some steps."""
    (tmp_path / "data.txt").write_text(training_text())
    return new_engine_harness(tmp_path, trained_settings(tmp_path, base_folder))


def train(engine_harness: EngineHarness, *names: str) -> Outcome:
    changes = {"fine_tuning.report_to": list(names), "fine_tuning.training.max_steps": 4}
    changes |= {"fine_tuning.training.eval_steps": 2}
    return engine_harness.run("train", {"train_data_file": str(engine_harness.folder / "data.txt")}, changes)


def test_tensorboard_is_told_what_the_store_is_told(engine_harness: EngineHarness) -> None:
    outcome = train(engine_harness, "tensorboard")
    assert outcome.state == "finished", outcome.error
    (folder,) = engine_harness.folder.rglob("tensorboard")
    found = scalars_in(folder)
    steps = [event.payload for event in engine_harness.events(1) if event.kind == "step"]
    assert steps
    assert found["train/loss"] == pytest.approx({step["step"]: step["loss"] for step in steps})
    assert found["train/lr"] == pytest.approx({step["step"]: step["lr"] for step in steps})
    scored = [event.payload for event in engine_harness.events(1) if event.kind == "evaluation"]
    assert found["tuned/score"] == pytest.approx(
        {one["step"]: one["score"] for one in scored if one["model"] == "tuned"}
    )
    assert found["base/score"] == pytest.approx({0: next(one["score"] for one in scored if one["model"] == "base")})
    weights = scored[-1]["weights"]
    assert {name: found[f"weights/{name}"][scored[-1]["step"]] for name in weights} == pytest.approx(weights)
    values = [value for event in events_in(folder) for value in event.summary.value]
    texts = {value.tag: value for value in values if value.tensor.string_val}
    assert b'"lora_lr"' in texts["configuration/text_summary"].tensor.string_val[0]
    assert b"| prompt | answer | score |" in texts["tuned/answers/text_summary"].tensor.string_val[0]


def test_what_is_done_again_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, (first, loss) in enumerate([(1, 3.0), (2, 5.0)]):
        monkeypatch.setattr("time.time", lambda number=number: 1_800_000_000 + 60 * number)
        board = _TensorBoard(tmp_path, {}, first)
        for step in range(first, 4):
            board.scalars({"train/loss": loss}, step)
        board.close()
    assert scalars_in(tmp_path)["train/loss"] == {1: 3.0, 2: 5.0, 3: 5.0}


class _Fake(ModuleType):
    """wandb as far as it is used."""

    def __init__(self, *, fails_after: int = 10_000) -> None:
        super().__init__("wandb")
        self.__spec__ = ModuleSpec("wandb", None)
        self.calls: list[Any] = []
        self._fails_after = fails_after

    def init(self, **options: Any) -> object:
        self.calls.append(("init", options))
        return self

    def log(self, figures: dict[str, Any], step: int) -> None:
        if len(self.calls) >= self._fails_after:
            raise OSError("the disk of wandb is full")
        self.calls.append((step, figures))

    def finish(self) -> None:
        self.calls.append("finish")


def test_wandb_stays_offline_and_is_finished(engine_harness: EngineHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    fake = _Fake()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    outcome = train(engine_harness, "wandb")
    assert outcome.state == "finished", outcome.error
    assert fake.calls[0][1]["mode"] == "offline"
    assert fake.calls[0][1]["config"]["lora"]["r"] == 16
    assert fake.calls[-1] == "finish"
    assert any("train/loss" in figures for _, figures in fake.calls[1:-1])


def test_a_tracker_that_fails_ends_nothing(engine_harness: EngineHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = _Fake(fails_after=3)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    outcome = train(engine_harness, "wandb", "tensorboard")
    assert outcome.state == "finished", outcome.error
    warnings = [event.payload["message"] for event in engine_harness.events(1) if event.kind == "warning"]
    assert [one for one in warnings if "wandb is told no more of this run: the disk of wandb is full" in one]
    (folder,) = engine_harness.folder.rglob("tensorboard")
    assert len(scalars_in(folder)["train/loss"]) > 1


def test_a_tracker_that_is_not_installed_is_named_before_anything_begins(
    engine_harness: EngineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_tui.engine.training.trackers.find_spec", lambda name: None)
    outcome = train(engine_harness, "tensorboard")
    assert (outcome.state, outcome.exit_status) == ("failed", 2)
    assert outcome.error is not None
    assert "pip install 'lora-tui[trackers]'" in outcome.error
