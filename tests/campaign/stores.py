"""What happens to stores, disks and processes: clocks that step, kills, full disks, stores and rows that go away.

The promise is the same everywhere: no accepted pair is lost or doubled, the file of pairs says what the store says, and
whoever is told something is told what to do.
"""

import asyncio
import errno
import io
import logging
import os
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import redirect_stderr, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import psutil

from lora_tui.cli.main import parse
from lora_tui.engine.runtime.engine import Engine, Outcome
from lora_tui.errors import LoraTuiError, UsageError
from lora_tui.files import atomic_folder, atomic_writer, write_atomically
from lora_tui.logs import set_up_logging
from lora_tui.store import events, generation, owner, runs, training
from lora_tui.store.connection import Store
from lora_tui.store.queries.run_figures import run_figures
from lora_tui.store.queries.runs import run_lines
from tests.campaign.scenario import Try, scenario
from tests.engine.generation.generation_harness import GenerationHarness
from tests.engine.tiny import tiny_settings
from tests.openai_server import OpenAIServer, made_up_text
from tests.store.store_fixtures import SETTINGS, make_pair

_BLAMED = ("not your doing", "Unexpected", "Traceback")


def _harness(random: random.Random, folder: Path, server: OpenAIServer) -> GenerationHarness:
    harness = GenerationHarness(folder, server)
    harness.values["total_examples"] = 12
    for number in range(4):
        harness.write(f"{number}.txt", made_up_text(random.randrange(10**6), 6))
    return harness


def _accepted(harness: GenerationHarness, store: Path | None = None) -> list[tuple[int, str, str]]:
    with sqlite3.connect(store or harness.store) as connection:
        rows = connection.execute(
            "SELECT id, question, answer FROM pairs WHERE state='accepted' ORDER BY id"
        ).fetchall()
    connection.close()
    return rows


def _wrong(harness: GenerationHarness, before: list[tuple[int, str, str]], outcome: Outcome) -> str:
    """What is wrong with a run that was brought to its end after a fault; empty where all is well."""
    after = _accepted(harness)
    if outcome.state != "finished":
        return f"it ended {outcome.state}: {outcome.error}"
    if not set(before) <= set(after):
        return "accepted pairs are lost or changed"
    if len({question for _, question, _ in after}) != len(after) or len(after) != harness.values["total_examples"]:
        return f"{len(after)} accepted, some doubled"
    written = harness.output.read_text().count("Question: ")
    if written != len(after):
        return f"{written} pairs in the file, {len(after)} in the store"
    if left := [path.name for path in harness.folder.iterdir() if path.name.endswith(".tmp")]:
        return f"left over: {left}"
    return ""


def _resumed(harness: GenerationHarness) -> Outcome:
    asyncio.run(_mark(harness.store))
    return harness.run(resume=1)


async def _mark(path: Path) -> None:
    async with await Store.open(path) as store:
        await runs.mark_interrupted(store)


def _start(harness: GenerationHarness, **values: Any) -> tuple[Engine, Any]:
    engine = Engine(harness.store)
    engine.start()
    return engine, engine.submit("generate", harness.settings(**values))[1]


def _wait_for_pairs(server: OpenAIServer, number: int) -> None:
    deadline = time.monotonic() + 30
    while server.count("judge") < number and time.monotonic() < deadline:
        time.sleep(0.01)


@scenario("stores-clock-steps", tries=16, short=1)
def clock_steps(random: random.Random, folder: Path) -> Try:
    """The wall clock jumps by seconds to years under a live run, which others look at: it is nobody's but its own."""
    steps = [random.choice([-1, 1]) * 10 ** random.uniform(0.3, 8) for _ in range(6)]
    with OpenAIServer() as server:
        server.delay = 0.05
        harness = _harness(random, folder, server)
        real, began, shift = time.time, psutil.Process().create_time(), 0.0
        seen = set()

        def now() -> float:
            return real() + shift

        def create_time(process: psutil.Process) -> float:
            return began + shift

        with mock.patch.object(time, "time", now), mock.patch.object(psutil.Process, "create_time", create_time):
            engine, ending = _start(harness)
            try:
                for number, step in enumerate(steps):
                    _wait_for_pairs(server, 2 * number)
                    shift += step
                    asyncio.run(_mark(harness.store))
                    if not ending.done():
                        seen.add(harness.value("SELECT state FROM runs"))
                outcome = ending.result(timeout=60)
            finally:
                engine.close()
    if "interrupted" in seen:
        return Try(False, len(steps), "a live run was marked as interrupted")
    return _judged(len(steps), _wrong(harness, [], outcome))


def _judged(faults: int, wrong: str) -> Try:
    return Try(not wrong, faults, wrong)


@scenario("stores-other-owners", tries=20, short=2)
def other_owners(random: random.Random, folder: Path) -> Try:
    """Runs of dead, reused, foreign and future owners: the dead are marked, and nobody else's."""
    process = owner.this_process()
    here, ticks = owner.this_place(), owner.start_ticks(os.getpid())
    now = time.time()
    cases: list[tuple[dict[str, Any], bool]] = [
        ({}, True),
        ({"pid": 2**22 + random.randrange(1, 10**6)}, False),
        ({"ticks": (ticks or 0) + random.choice([-1, 1]) * random.randrange(1, 10**6)}, False),
        ({"pid_started": random.uniform(0, 2 * now), "heartbeat": random.uniform(0, 2 * now)}, True),
        ({"host": "elsewhere", "heartbeat": now - random.uniform(0, 50)}, True),
        ({"host": "elsewhere", "heartbeat": now - random.uniform(70, 10**8)}, False),
        ({"place": f"{here} container", "pid": 1, "heartbeat": now - random.uniform(0, 50)}, True),
        ({"ticks": None, "place": None, "pid_started": 1.0, "heartbeat": now - 10**6}, False),
        ({"ticks": None, "place": None, "pid_started": process["pid_started"], "heartbeat": now - 10**6}, True),
    ]
    random.shuffle(cases)

    async def work() -> list[str]:
        async with await Store.open(folder / "store.db") as store:
            for columns, _ in cases:
                run_id = await runs.create(store, "train", {}, {})
                await runs.start(store, run_id)
                async with store.transaction() as t:
                    for name, value in columns.items():
                        await t.execute(f"UPDATE runs SET {name}=? WHERE id=?", (value, run_id))
            await runs.mark_interrupted(store)
            return [state for (state,) in await store.tuples("SELECT state FROM runs ORDER BY id")]

    found = asyncio.run(work())
    wanted = ["running" if alive else "interrupted" for _, alive in cases]
    return Try(found == wanted, len(cases), f"{found} instead of {wanted} for {[columns for columns, _ in cases]}")


@scenario("stores-killed-generation", tries=8, short=0, seconds=120)
def killed_generation(random: random.Random, folder: Path) -> Try:
    """SIGKILL at any moment of a generation run, twice: what was accepted stays, and the target is reached exactly."""
    with OpenAIServer() as server:
        server.delay = random.uniform(0.02, 0.2)
        harness = _harness(random, folder, server)
        with harness.killed_process():
            _wait_for_pairs(server, random.randrange(1, 12))  # before the first there may be no store
            time.sleep(random.uniform(0, 0.2))
        before = _accepted(harness)
        outcome = _resumed(harness)
    return _judged(1, _wrong(harness, before, outcome))


_TRAIN = """
import sys
from pathlib import Path
import torch
from lora_tui.config.load import with_values
from lora_tui.engine.runtime.engine import Engine
from tests.campaign.stores import training_settings
torch.set_num_threads(1)  # as in whoever resumes it: sums depend on the number
engine = Engine(Path(sys.argv[1]) / "store.db")
engine.start()
engine.submit("train", training_settings(Path(sys.argv[1]), Path(sys.argv[2])))[1].result()
"""
_reference: dict[str, Any] = {}
"""The base model, and the losses of a training that nobody disturbed; made once in a process."""


def training_settings(folder: Path, base: Path) -> Any:
    """Settings of a training of the tiny model with a checkpoint every second step."""
    changes = {
        "model_name": str(base),
        "train_data_file": str(folder / "pairs.txt"),
        "training.save_dir": str(folder / "checkpoints"),
        "training.save_steps": 2,
        "training.max_epochs": 6,
        "lora.dropout": 0.2,
    }
    return tiny_settings(changes)


def _losses(path: Path) -> list[tuple[int, float]]:
    with sqlite3.connect(path) as connection:
        rows = connection.execute("SELECT step, loss FROM steps ORDER BY step").fetchall()
    connection.close()
    return rows


@scenario("stores-killed-training", tries=6, short=0, seconds=400)
def killed_training(random: random.Random, folder: Path) -> Try:
    """SIGKILL at any moment of a training: resumed, it takes the very steps that an undisturbed one takes."""
    import torch

    from tests.engine.tiny import save_base, training_text

    torch.set_num_threads(1)
    (folder / "pairs.txt").write_text(training_text())
    if "losses" not in _reference:
        place = Path(_reference.setdefault("folder", str(folder.parent.parent / f"reference-{os.getpid()}")))
        shutil.rmtree(place, ignore_errors=True)
        _reference["base"] = str(save_base(place / "base"))
        (place / "pairs.txt").write_text(training_text())
        engine = Engine(place / "store.db")
        engine.start()
        engine.submit("train", training_settings(place, Path(_reference["base"])))[1].result(timeout=300)
        engine.close()
        _reference["losses"] = _losses(place / "store.db")
    base = Path(_reference["base"])
    command = [sys.executable, "-c", _TRAIN, str(folder), str(base)]
    child = subprocess.Popen(command, cwd=folder)
    last, deadline = random.randrange(0, len(_reference["losses"])), time.monotonic() + 90
    while time.monotonic() < deadline and child.poll() is None:
        with suppress(sqlite3.Error):
            if (folder / "store.db").exists() and len(_losses(folder / "store.db")) >= last:
                break
        time.sleep(0.02)
    time.sleep(random.uniform(0, 0.3))
    child.kill()
    child.wait()
    engine = Engine(folder / "store.db")
    engine.start()
    try:
        asyncio.run(_mark(folder / "store.db"))
        with suppress(UsageError):  # it had come to its end before it was killed
            engine.submit("train", training_settings(folder, base), resume=1)[1].result(timeout=120)
    finally:
        engine.close()
    found = _losses(folder / "store.db")
    left = [str(path) for path in folder.rglob("*.tmp")]
    if left:
        return Try(False, 1, f"left over: {left}")
    return Try(found == _reference["losses"], 1, f"{len(found)} steps, and their losses differ")


@scenario("stores-full-disk", tries=24, short=1, seconds=180)
def full_disk(random: random.Random, folder: Path) -> Try:
    """The store's disk fills at any moment of a run: it says so, and goes on where it was once there is room."""
    with OpenAIServer() as server:
        harness = _harness(random, folder, server)
        engine, ending = _start(harness)

        async def fill() -> None:
            store = engine.open_store
            pages = await store.value("PRAGMA page_count")
            await store.value(f"PRAGMA max_page_count={pages + random.randrange(0, 3)}")

        _wait_for_pairs(server, random.randrange(0, 8))
        engine.call(fill()).result()
        try:
            outcome = ending.result(timeout=60)
        finally:
            engine.close()
        if outcome.state != "finished" and "is full. Free some space" not in str(outcome.error):
            return Try(False, 1, f"it said: {outcome.error}")
        before = _accepted(harness)
        if outcome.state != "finished":
            # Its end could not be stored, and this process lives: another one would mark it.
            harness.change("UPDATE runs SET state='interrupted' WHERE state IN ('queued', 'running', 'stopping')")
            outcome = _resumed(harness)
    return _judged(1, _wrong(harness, before, outcome))


@scenario("stores-full-output", tries=30, short=2)
def full_output(random: random.Random, folder: Path) -> Try:
    """The disk of a result fills, breaks or becomes read-only while it is written: only the old one stays."""
    path = folder / "result.txt"
    path.write_text("old")
    code = random.choice([errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES])
    where = random.choice(["os.fsync", "Path.replace", "os.open", "os.fchmod"])
    problem = OSError(code, os.strerror(code))
    said = ""
    with mock.patch(f"lora_tui.files.{where}", side_effect=problem):
        try:
            with atomic_writer(path) as file:
                for _ in range(random.randrange(1, 50)):
                    file.write("x" * random.randrange(10**4))
        except LoraTuiError as explained:
            said = str(explained)
    if str(path) not in said or os.strerror(code) not in said:
        return Try(False, 1, f"it said: {said}")
    names = [entry.name for entry in folder.iterdir()]
    return Try(path.read_text() == "old" and names == ["result.txt"], 1, f"there is {names}")


@scenario("stores-full-log", tries=10, short=1)
def full_log(random: random.Random, folder: Path) -> Try:
    """The log's disk fills or breaks: one line says so, and the program goes on."""
    faults = random.randrange(1, 40)
    code = random.choice([errno.ENOSPC, errno.EDQUOT, errno.EIO])
    said = io.StringIO()
    before = logging.getLogger().handlers[:]
    with redirect_stderr(said):
        set_up_logging()
        handler = logging.getLogger().handlers[0]
        stream = mock.Mock(wraps=handler.stream)
        stream.write.side_effect = stream.flush.side_effect = OSError(code, os.strerror(code))
        with mock.patch.object(handler, "stream", stream):
            for number in range(faults):
                logging.getLogger("lora_tui").warning("record %d", number)
        handler.close()
    logging.getLogger().handlers[:] = before
    lines = said.getvalue().splitlines()
    return Try(len(lines) == 1 and os.strerror(code) in lines[0], faults, f"stderr has {lines[:3]}")


@scenario("stores-removed", tries=14, short=1)
def removed_store(random: random.Random, folder: Path) -> Try:
    """The store is removed, renamed or replaced under a run: the run fails and says where everything is kept."""
    what = random.choice(["removed", "renamed", "replaced"])
    with OpenAIServer() as server, mock.patch.object(runs, "HEARTBEAT_SECONDS", 0.5):
        server.delay = 0.05
        harness = _harness(random, folder, server)
        engine, ending = _start(harness, total_examples=10_000)
        _wait_for_pairs(server, random.randrange(0, 15))
        before = _accepted(harness)
        if what == "renamed":
            harness.store.rename(folder / "renamed.db")
        else:
            for path in folder.glob("store.db*"):
                path.unlink()
        if what == "replaced":
            harness.store.write_bytes(random.randbytes(5000))
        try:
            outcome = ending.result(timeout=60)
        finally:
            engine.close()
        kept = folder / ("renamed.db" if what == "renamed" else "store.rescued-1.db")
        if outcome.state != "failed" or not outcome.exit_status or f"--store {kept}" not in str(outcome.error):
            return Try(False, 1, f"{what}: it ended {outcome.state}, {outcome.exit_status}: {outcome.error}")
        after = _accepted(harness, kept)
        if not set(before) <= set(after):
            return Try(False, 1, f"{what}: pairs are lost")
        harness.store = kept
        harness.values["total_examples"] = len(after) + 2
        outcome = harness.run(resume=1)
    return _judged(1, _wrong(harness, after, outcome))


async def _look(path: Path) -> list[int]:
    """Ask a store what every list and every start of a run asks; returns the runs that it lists."""
    async with await Store.open(path) as store:
        await runs.mark_interrupted(store)
        lines = await run_lines(store)
        await run_figures(store, [line.id for line in lines])
        await runs.newest_resumable(store, ["generate", "train"])
        await runs.newest_trained(store)
        await runs.output_files(store)
        await training.planned_runs(store)
        await generation.other_runs(store, 99, "writer")
        await generation.runs_over_folder(store, 99, "texts")
        for line in lines:
            await events.since(store, line.id, 0)
            await generation.pairs(store, line.id, ("accepted",))
            await generation.histogram(store, line.id, "difficulty", ("accepted",))
        return [line.id for line in lines]


async def _fill(path: Path, number: int) -> None:
    async with await Store.open(path) as store:
        for _ in range(number):
            run_id = await runs.create(store, "generate", SETTINGS, {})
            await events.append(store, run_id, [(0.0, "note", {"n": n}) for n in range(5)])
            for n in range(3):
                await make_pair(store, run_id, f"Why {run_id}/{n}?", "accepted")
            await runs.end(store, run_id, "stopped", {"accepted": 3, "output_file": "a.txt"}, None)


@scenario("stores-damaged-rows", tries=20, short=2)
def damaged_rows(random: random.Random, folder: Path) -> Try:
    """Cells of runs, events and pairs hold anything at all: everything else is listed, and can be asked for."""
    path = folder / "store.db"
    asyncio.run(_fill(path, 6))
    columns = {
        "runs": "mode name settings options result written created_at started_at ended_at heartbeat pid host error",
        "events": "payload kind at",
        "pairs": "slot question answer evidence topic reason",
    }
    faults = random.randrange(1, 12)
    file = sqlite3.connect(path, isolation_level=None)
    for _ in range(faults):
        table = random.choice(list(columns))
        column = random.choice(columns[table].split())
        row = random.randrange(1, 4)  # the first runs' rows: the last three are sound
        value = random.choice(
            [random.randbytes(random.randrange(60)), "{", "x" * 1000, -1, 1e300, '{"a": [', "null", ""]
        )
        with suppress(sqlite3.IntegrityError):
            file.execute(f"UPDATE {table} SET {column}=? WHERE rowid=?", (value, row))
    file.close()
    found = asyncio.run(_look(path))
    return Try(found == [6, 5, 4, 3, 2, 1], faults, f"listed are {found}")


@scenario("stores-damaged-files", tries=24, short=2)
def damaged_files(random: random.Random, folder: Path) -> Try:
    """Bytes of the store's file change, or its end is cut off: what cannot be read is told as such."""
    path = folder / "store.db"
    asyncio.run(_fill(path, 4))
    content = bytearray(path.read_bytes())
    faults = random.randrange(1, 30)
    if random.random() < 0.2:
        del content[random.randrange(len(content)) :]
    for _ in range(faults):
        if content:
            content[random.randrange(len(content))] = random.randrange(256)
    path.write_bytes(content)
    try:
        asyncio.run(_look(path))
    except LoraTuiError as problem:
        said = str(problem)
        fine = str(path) in said and not any(word in said for word in _BLAMED)
        return Try(fine, faults, f"it said: {said}")
    return Try(True, faults)


@scenario("stores-as-outputs", tries=24, short=2)
def stores_as_outputs(random: random.Random, folder: Path) -> Try:
    """Results are sent over the store, its companions, other stores and files of the user, by any name."""
    raw = folder / "raw.txt"
    raw.write_text("Who?\tme\nWhat?\tthat\n")
    engine = Engine(folder / "store.db")
    engine.start()
    try:
        asyncio.run(_fill(folder / "other.db", 1))
        (folder / "link").symlink_to(folder / "store.db")
        (folder / "hard").hardlink_to(folder / "store.db")
        (folder / "notes.txt").write_text("mine")
        own = [
            "store.db",
            "store.db-wal",
            "store.db-shm",
            "store.db-journal",
            "./x/../store.db",
            "other.db",
            "link",
            "hard",
        ]
        out = random.choice(own)
        named = str(random.choice([Path(out), folder / out]))
        settings = tiny_settings()
        for mode, options in (
            ("format", {"raw": str(raw), "out": named}),
            ("export", {"format": "messages", "train_data_file": str(raw), "output": named}),
        ):
            outcome = engine.submit(mode, settings, options)[1].result(timeout=60)
            if outcome.exit_status != 2 or out.rpartition("/")[2] not in str(outcome.error):
                return Try(False, 2, f"{mode} to {named}: {outcome.exit_status}, {outcome.error}")
        for mode, options in (
            ("format", {"raw": str(raw), "out": "notes.txt"}),
            ("export", {"format": "messages", "train_data_file": str(raw), "output": "notes.txt"}),
        ):
            (folder / "notes.txt").write_text(text := f"mine {random.random()}")
            engine.submit(mode, settings, options)[1].result(timeout=60)
            if text not in [path.read_text() for path in folder.glob("notes*.txt")]:
                return Try(False, 4, f"{mode} has written over a file of the user")
        return Try(len(asyncio.run(_look(folder / "store.db"))) == 4, 4, "the store lacks runs")
    finally:
        engine.close()


_WRITE = """
import sys
from pathlib import Path
from lora_tui.files import atomic_folder, atomic_writer
with atomic_writer(Path(sys.argv[1], "a.txt")) as file, atomic_folder(Path(sys.argv[1], "folder")) as folder:
    print("there", flush=True)
    while True:
        file.write("half" * 1000)
        (folder / "b.txt").write_text("half")
"""


@scenario("stores-killed-writers", tries=6, short=1)
def killed_writers(random: random.Random, folder: Path) -> Try:
    """Writers of files and folders are killed beside ones that live: the next clears what the dead have left."""
    faults = random.randrange(1, 4)
    for _ in range(faults):
        command = [sys.executable, "-c", _WRITE, str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(random.uniform(0, 0.05))
            child.kill()
    with atomic_writer(folder / "live.txt") as file, atomic_folder(folder / "live") as live:
        write_atomically(folder / "next.txt", "x")
        file.write("whole")
        (live / "c.txt").write_text("whole")
    names = sorted(path.name for path in folder.iterdir())
    return Try(names == ["live", "live.txt", "next.txt"], faults, f"there is {names}")


@scenario("stores-long-names", tries=30, short=2)
def long_names(random: random.Random, folder: Path) -> Try:
    """Names and paths longer than any file's, wherever one can be given: the option or key that names it is told."""
    letter = random.choice("aä漢😀")
    name = "/".join(letter * random.randrange(256, 400) for _ in range(random.randrange(1, 15)))
    way = random.choice(
        ["--store", "--config", "--adapter", "--output", "raw", "out", "db_path", "save_dir", "model_name"]
    )
    arguments = {
        "--adapter": ["--run", "chat", "--adapter", name],
        "--output": ["--run", "export", "--output", name],
        "raw": ["--generate-training-file", name, "out.txt"],
        "out": ["--generate-training-file", "raw.txt", name],
        "db_path": ["--runs", "--set", f"data_generation.db_path={name}"],
        "save_dir": ["--runs", "--set", f"fine_tuning.training.save_dir={name}"],
        "model_name": ["--runs", "--set", f"fine_tuning.model_name={name}"],
    }.get(way, ["--runs", way, name])
    told = way if way.startswith("--") else "--generate-training-file" if way in ("raw", "out") else way
    try:
        request = parse(arguments)
        assert request is not None
        from lora_tui.config.load import load_settings

        load_settings(request.config, request.overrides)
    except UsageError as problem:
        return Try(told in str(problem) and "bytes" in str(problem), 1, f"{way}: {problem}")
    return Try(False, 1, f"{way}: it was taken")


@scenario("stores-few-resources", tries=10, short=0, seconds=90)
def few_resources(random: random.Random, folder: Path) -> Try:
    """A process that may open few files, or have little memory: it works, or says which limit to raise."""
    (folder / "raw.txt").write_text("Who?\tme\n")
    descriptors = random.random() < 0.6
    kind, most = (
        (resource.RLIMIT_NOFILE, random.randrange(6, 40))
        if descriptors
        else (resource.RLIMIT_AS, random.randrange(60, 700) << 20)
    )
    child = subprocess.run(
        [sys.executable, "-m", "lora_tui", "--generate-training-file", "raw.txt", "out.txt"],
        cwd=folder,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=80,
        check=False,
        preexec_fn=lambda: resource.setrlimit(kind, (most, most)),
    )
    said = child.stdout + child.stderr
    told = child.returncode == 0 or any(word in said for word in ("ulimit", "Memory ran out", "Too many open files"))
    fine = told and not any(word in said for word in _BLAMED)
    return Try(fine, 1, f"{'descriptors' if descriptors else 'memory'} {most}: {child.returncode}, {said[-300:]}")
