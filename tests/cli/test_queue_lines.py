"""--queue and --run queue: what is written, and the status."""

import asyncio
import signal

from lora_tui.store import queue
from lora_tui.store.connection import Store
from tests.cli.conftest import Program
from tests.cli.test_signals import run_row, wait_for_line


def left(program: Program) -> list[int]:
    async def look() -> list[int]:
        async with await Store.open(program.folder / "training_data.db") as store:
            return [entry.run_id for entry in await queue.entries(store)]

    return asyncio.run(look())


def test_runs_are_added_and_worked_each_with_its_own_settings(program: Program) -> None:
    ended = program.run("", "--run", "train", "--set", "fine_tuning.lora.r=4", "--train-data-file", "a.txt", "--queue")
    assert ended.status == 0
    assert ended.out == ""
    assert "run 1 (train) waits in the queue, 1 of 1. `lora-tui --run queue` works through it" in ended.err
    assert "a.txt does not exist yet" in ended.err
    lines = program.run("", "--run", "evaluate", "--queue", "--json").lines()
    assert [line["event"] for line in lines] == ["queued", "done"]
    assert (lines[0]["run"], lines[0]["position"], lines[1]["status"]) == (2, 2, "waiting")
    program.run("", "--run", "export", "--output", "out", "--format", "alpaca", "--queue")

    lines = program.run("train=echo,evaluate=unreachable,export=echo", "--run", "queue", "--json").lines()
    done = [line for line in lines if line["event"] == "done"]
    assert [(line["run"], line["status"]) for line in done] == [
        (1, "finished"), (2, "failed"), (3, "finished"), (None, "finished"),
    ]  # fmt: skip
    assert done[0]["result"] == {"options": {"train_data_file": "a.txt"}, "r": 4}
    assert done[-1]["exit_status"] == 1
    assert [one["status"] for one in done[-1]["result"]["runs"]] == ["finished", "failed", "finished"]


def test_nothing_to_do_is_said(program: Program) -> None:
    ended = program.run("", "--run", "queue")
    assert ended.status == 0
    assert "nothing waits in the queue. Add a run with --queue" in ended.err


def test_a_signal_leaves_the_rest_in_the_queue(program: Program) -> None:
    for _ in range(2):
        program.run("", "--run", "train", "--queue")
    with program.start("train=endless", "--run", "queue", "--json") as process:
        wait_for_line(process, b'"event":"step"')
        process.send_signal(signal.SIGINT)
        assert b'"left":2' in process.rest()[-1]
        assert process.returncode == 130
    assert run_row(program)["state"] == "stopped"
    assert left(program) == [1, 2]
    ended = program.run("train=echo", "--run", "queue")
    assert ended.status == 0
    assert "the queue is done: 2 runs" in ended.err
    assert left(program) == []


def test_modes_that_ask_something_are_refused(program: Program) -> None:
    ended = program.run("", "--run", "chat", "--queue")
    assert ended.status == 2
    assert "--queue belongs to --run generate, train, probe, evaluate, export or quickstart, not to" in ended.err
    ended = program.run("", "--run", "train", "--resume", "3", "--queue")
    assert "--queue adds a new run" in ended.err
