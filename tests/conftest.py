"""What holds for every test, whoever starts them."""

import atexit
import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# A GPU's kernels run in an interpreter. Triton asks for this when it is first imported, which bitsandbytes does, too.
os.environ["TRITON_INTERPRET"] = "1"

# As the program has it (`before_torch`): threads that spin while they wait took three quarters of some files' time.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# No test cuts the power, and what a killed process has written is there: a third of the time in which checkpoints are
# written would be waiting for the disk. Tests of what is synced put their own in its place.
os.fsync = lambda descriptor: None

# Tests that run side by side are no reason to refuse each other a device.
os.environ["LORA_TUI_LOCKS"] = tempfile.mkdtemp(prefix="lora-tui-locks-")
atexit.register(shutil.rmtree, os.environ["LORA_TUI_LOCKS"], ignore_errors=True)

_NOBODY = 65534

# A job that a shell starts in the background ignores ctrl+c, and hands that on to its children: the program rightly
# keeps ignoring it. The tests send signals, so their children must start with the usual handling.
for _number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)


def pytest_xdist_auto_num_workers() -> int:
    """One process more than there are cores: a quarter of the time is spent waiting, for terminals and clocks."""
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[Any]:
    """Set aside what importing has made: torch and its kind are a million objects, which each search for garbage walks.

    A search took 0.3 s of processor time, and each conversation that ends asks for one.
    """
    gc.disable()
    result = yield
    gc.collect()
    gc.freeze()
    gc.enable()
    return result


def pytest_unconfigure() -> None:
    """Let the interpreter's end find what was set aside: a library says otherwise that it leaks."""
    gc.unfreeze()


_WAITING = ("tests/cli/", "tests/tui/")
"""Files whose tests wait a third of their time, for terminals, screens and clocks."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spread the files that wait over the run: side by side, at its end, they left half of two cores idle.

    A file's tests stay together and in their order.
    """
    files: dict[str, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.nodeid.partition("::")[0], []).append(item)
    places: dict[str, float] = {}
    for waits in (True, False):
        group = [name for name in files if name.startswith(_WAITING) == waits]
        total, before = sum(len(files[name]) for name in group), 0
        for name in group:
            places[name] = before / total
            before += len(files[name])
    items[:] = [item for name in sorted(files, key=places.__getitem__) for item in files[name]]


_TOP = Path(__file__).parents[1]
_KNOWN = set(_TOP.iterdir())


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    """A test that writes into the current folder says so: results once stood beside the README for it."""
    yield
    left = sorted(path.name for path in _TOP.iterdir() if path not in _KNOWN and path.name[0] not in "._")
    _KNOWN.update(_TOP / name for name in left)  # the next test has not left it
    assert not left, f"left at the top of the repository: {left}; chdir(tmp_path) before"


@pytest.fixture
def folder_of_nobody() -> Iterator[Path]:
    """An empty folder of a user who may not read and write everything, who runs the test: root becomes nobody for it.

    Not below pytest's own folder, into which nobody else may look.
    """
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    is_root = os.geteuid() == 0
    if is_root:
        if not hasattr(os, "setresuid") and not os.environ.get("CI"):  # macOS
            pytest.skip("root may read and write everything here")
        os.chown(folder, _NOBODY, -1)
        os.setresuid(_NOBODY, _NOBODY, 0)  # the real one, too, which os.access asks
    try:
        yield folder
    finally:
        if is_root:
            os.setresuid(0, 0, 0)
        folder.chmod(0o700)
        shutil.rmtree(folder)
