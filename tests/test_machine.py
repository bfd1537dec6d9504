"""The machine in one line, and how busy it is: cheap, without torch, and never an exception."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import psutil
import pytest

from lora_tui import machine
from lora_tui.machine import device_load, gpu_names, machine_line

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    """Nothing is remembered of the machine between tests."""

    def forget() -> None:
        for cached in (machine._nvml, machine._visible_handles, machine.gpu_names, machine.multiplies_bfloat16):
            cached.cache_clear()
        machine._PROCESSES.clear()
        machine._MACHINE = machine._BusyRate()

    forget()
    yield
    forget()


class Times(NamedTuple):
    """Processor seconds as Linux counts them: a guest's time is inside `user`."""

    user: float
    idle: float
    iowait: float
    guest: float


class Cards(ModuleType):
    """NVIDIA's library with cards that answer what they are told to; a value that is an exception is raised."""

    class NVMLError(Exception):
        pass

    def __init__(self, *cards: dict[str, Any], driver: bool = True) -> None:
        super().__init__("pynvml")
        self.cards = list(cards)
        self.driver = driver
        self.started = 0

    def nvmlInit(self) -> None:  # noqa: N802  # NVIDIA's name
        self.started += 1
        if not self.driver:
            raise self.NVMLError("no driver")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, number: int) -> int:  # noqa: N802
        return number

    def __getattr__(self, name: str) -> Any:
        def answer(handle: int, *_: Any) -> Any:
            value = self.cards[handle].get(name.removeprefix("nvmlDeviceGet"), self.NVMLError("not supported"))
            if isinstance(value, Exception):
                raise value
            return value

        if name.startswith("nvmlDeviceGet"):
            return answer
        raise AttributeError(name)


def card(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "Name": "NVIDIA A100",
        "UUID": f"GPU-{number}{number}{number}-aaaa",
        "MemoryInfo": SimpleNamespace(total=80 * 2**30, used=(number + 1) * 2**30),
        "UtilizationRates": SimpleNamespace(gpu=10 * (number + 1), memory=3),
        "Temperature": 50 + number,
        "PowerUsage": 123_400,
        **changes,
    }


def plugged_in(monkeypatch: pytest.MonkeyPatch, *cards: dict[str, Any], driver: bool = True) -> Cards:
    library = Cards(*cards, driver=driver)
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return library


def test_machine_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    plugged_in(monkeypatch, driver=False)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=int(23.7 * 2**30)))
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: 4 if logical else 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    assert machine_line() == "2 CPU cores, 23 GiB, no GPU"
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert machine_line() == "1 CPU core, 23 GiB, no GPU"


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16 avx512_vnni\n", True),
        ("processor\t: 0\nflags\t\t: fpu amx_tile amx_bf16\n", True),
        ("processor\t: 0\nFeatures\t: fp asimd i8mm bf16\n", True),
        ("processor\t: 0\nmodel name\t: bf16 avx512_bf16\nflags\t\t: fpu avx512f avx512_bf16x\n", False),
        (None, False),
    ],
)
def test_processors_that_multiply_bfloat16_are_known(
    facts: str | None, told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_CPU_FACTS", tmp_path / "cpuinfo")
    if facts is not None:
        (tmp_path / "cpuinfo").write_text(facts)
    assert machine.multiplies_bfloat16() is told


def test_cards_are_named_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    plugged_in(monkeypatch, card(0), card(1), card(2, Name=b"NVIDIA T4"))
    assert machine_line().endswith("GiB, 2 × NVIDIA A100, NVIDIA T4")
    assert gpu_names() == ("NVIDIA A100", "NVIDIA A100", "NVIDIA T4")


def test_apples_graphics_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    plugged_in(monkeypatch, driver=False)
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert machine_line().endswith(", an Apple GPU")


@pytest.mark.parametrize(
    ("named", "seen"),
    [
        ("1", [20]),
        ("2,0", [30, 10]),
        ("", []),
        ("-1", []),
        ("0,9,1", [10]),
        ("GPU-111", [20]),
        ("GPU-2, GPU-0", [30, 10]),
    ],
)
def test_cards_are_those_that_cuda_is_left_with(named: str, seen: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    plugged_in(monkeypatch, card(0), card(1), card(2))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    loads = device_load().gpus
    assert [gpu.utilisation for gpu in loads] == seen
    assert len(gpu_names()) == len(seen)


def test_load_of_a_card_has_its_units(monkeypatch: pytest.MonkeyPatch) -> None:
    plugged_in(monkeypatch, card(0))
    (load,) = device_load().gpus
    assert (load.utilisation, load.temperature, load.power) == (10, 50, 123.4)
    assert (load.memory_used, load.memory_total) == (2**30, 80 * 2**30)


def test_what_a_card_does_not_tell_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    library = plugged_in(monkeypatch, {"Name": "NVIDIA A100"})
    (load,) = device_load().gpus
    assert (load.utilisation, load.memory_used, load.memory_total, load.temperature, load.power) == (None,) * 5
    library.cards[0]["Temperature"] = library.NVMLError("the card fell off the bus")
    assert device_load().gpus[0].temperature is None


def test_a_missing_driver_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    library = plugged_in(monkeypatch, driver=False)
    assert device_load().gpus == device_load().gpus == ()
    assert library.started == 1


def busy(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sum(range(1000))


def test_processor_time_is_counted_from_one_look_to_the_next() -> None:
    assert device_load().process_cpu is None
    busy(0.4)
    working = device_load()
    assert working.process_cpu is not None
    assert 5 < working.process_cpu <= 130
    assert working.machine_cpu is not None
    assert 0 < working.machine_cpu <= 100
    assert device_load().process_cpu == working.process_cpu, "too short a time says nothing"
    time.sleep(0.4)
    resting = device_load().process_cpu
    assert resting is not None
    assert resting < working.process_cpu


def test_waiting_for_the_disk_is_not_being_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    def at(user: float, idle: float, iowait: float) -> Any:
        return Times(user=user, idle=idle, iowait=iowait, guest=user / 2)

    looks = iter([at(100, 1000, 10), at(101, 1002, 11)])
    monkeypatch.setattr(psutil, "cpu_times", lambda: next(looks))
    assert device_load().machine_cpu is None
    assert device_load().machine_cpu == pytest.approx(25)


def test_a_number_that_another_process_has_now_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    device_load()
    busy(0.1)
    assert device_load().process_cpu is not None
    monkeypatch.setattr(psutil.Process, "is_running", lambda _: False)
    busy(0.1)
    assert device_load().process_cpu is None


def test_another_process_is_looked_at_until_it_is_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; data = bytearray(50_000_000); time.sleep(60)"])
    try:
        deadline = time.monotonic() + 60
        while (device_load(child.pid).process_memory or 0) < 50_000_000 and time.monotonic() < deadline:
            time.sleep(0.05)
        load = device_load(child.pid)
        assert load.process_memory is not None
        assert 50_000_000 < load.process_memory < load.memory_total
    finally:
        child.kill()
        child.wait()
    gone = device_load(child.pid)
    assert (gone.process_cpu, gone.process_memory) == (None, None)
    assert gone.memory_used > 0


def test_a_process_that_may_not_be_looked_at_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: psutil.Process) -> None:
        raise psutil.AccessDenied(self.pid)

    monkeypatch.setattr(psutil.Process, "memory_info", refused)
    assert device_load().process_memory is None


def test_a_look_is_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    plugged_in(monkeypatch, driver=False)
    device_load()
    took = []
    for _ in range(20):
        began = time.perf_counter()
        device_load()
        took.append(time.perf_counter() - began)
    assert min(took) < 0.002


def test_no_part_of_the_program_and_no_torch_comes_with_it() -> None:
    code = (
        "import sys; from lora_tui.machine import machine_line, device_load; machine_line(); device_load(); "
        "print(*{name.partition('.')[0] for name in sys.modules}, *(n for n in sys.modules if 'lora_tui.' in n))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(run.stdout.split())
    assert loaded & {"torch", "transformers", "peft", "pydantic", "textual", "rich", "openai"} == set()
    assert {name for name in loaded if name.startswith("lora_tui.")} == {"lora_tui.machine", "lora_tui.text"}


@pytest.mark.parametrize(
    ("own", "files", "left"),
    [
        ("0::/a/b", {"memory.max": 5000, "memory.current": 4000, "inactive_file": 300}, 1300),
        ("0::/a/b", {"memory.max": "max", "memory.current": 4000, "inactive_file": 300}, 10**6),
        ("3:cpu,memory:/a/b", {"limit_in_bytes": 5000, "usage_in_bytes": 4500, "total_inactive_file": 0}, 500),
        ("3:cpu:/a/b", {"memory.max": 5000, "memory.current": 4000, "inactive_file": 300}, 10**6),
        ("0::/a/b", {"memory.max": 5000, "memory.current": 6000, "inactive_file": 0}, 0),
        ("0::/elsewhere", {}, 10**6),
    ],
)
def test_a_containers_limit_counts_where_it_leaves_less_than_the_machine_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, files: dict[str, object], left: int
) -> None:
    """The limit may be that of the own group or of one above it."""
    monkeypatch.setattr(machine.psutil, "virtual_memory", lambda: SimpleNamespace(available=10**6))
    monkeypatch.setattr(machine, "_GROUPS", tmp_path)
    monkeypatch.setattr(machine, "_OWN_GROUPS", tmp_path / "own")
    (tmp_path / "own").write_text(f"7:name=systemd:/\n{own}\n")
    group = tmp_path / ("memory/a" if "limit_in_bytes" in files else "a")
    group.mkdir(parents=True)
    for name, value in files.items():
        if "inactive_file" in name:
            (group / "memory.stat").write_text(f"anon 17\n{name} {value}\n")
        else:
            (group / (name if "." in name else f"memory.{name}")).write_text(f"{value}\n")
    assert machine.free_memory() == left
    (tmp_path / "own").unlink()
    assert machine.free_memory() == 10**6
