"""Years of use in some minutes: events, pairs, evaluations and chats through the program's own writers, the app open.

    python -m tests.bench.long_life [--scale 1.0] [--after]

At scale 1: a million events, 100,000 pairs with their tasks and verdicts, 1,000 evaluations, 300 conversations, and
200,000 lines of log, in ten equal parts, which takes half an hour of processor time. With `--after` the store begins
with as much (`tests.bench.big_store`), so that a small scale shows what comes after it. The app (headless, on Train,
then Generate, then Runs) follows the live runs all the while. After each part: the process's memory, the size of the
store and the log, and how long what the app asks at every poll takes; in the end a run is deleted and the store
compacted. Memory should be flat from the second part on, and what a poll asks should not grow with what there is.
"""

import argparse
import asyncio
import gc
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil

from lora_tui.engine.runtime.context import EventWriter
from lora_tui.logs import set_up_logging
from lora_tui.store import chat_log, events, generation, runs, tasks
from lora_tui.store.connection import Store
from lora_tui.store.queries.generation import PairFilter, pair_ids, pair_lines, source_lines
from lora_tui.store.queries.runs import data_version, newest_conversation, newest_event, run_lines, step_columns
from lora_tui.store.rows import Decision, NewPair, NewTask
from tests.store.store_fixtures import METRICS, SLOT
from tests.tui.app_harness import AppHarness, create_run, evaluation_event, step_event

_PARTS = 10
_EVENTS, _PAIRS, _EVALUATIONS, _CHATS, _LOG_LINES = 1_000_000, 100_000, 1_000, 300, 200_000


async def write_events(store: Store, run_id: int, first: int, number: int) -> None:
    """Steps as a trainer reports them, through the queue that an engine writes with."""

    def fail(problem: Exception) -> None:
        raise problem

    writer = EventWriter(store, run_id, fail)
    for step in range(first, first + number):
        _, kind, payload = step_event(step, steps=_EVENTS)
        writer.put(kind, payload)
        if step % 500 == 0:
            await writer.flush()
    await writer.close()


async def write_pairs(store: Store, run_id: int, first: int, number: int) -> None:
    """Pairs from their task to their verdict, twenty in a transaction."""
    for begin in range(first, first + number, 20):
        async with store.transaction() as t:
            for n in range(begin, min(begin + 20, first + number)):
                await tasks.add_tasks(t, run_id, [NewTask("generate", f"1/{n}", None, round=1, source="a", slot=SLOT)])
                task = await tasks.task_by_key(t, run_id, "generate", f"1/{n}")
                assert task is not None
                question = f"What does entry {n} say about bees, and why?"
                new = NewPair(0, question, f"It says {n}. " * 10, "They show the way.", "bees", question.lower())
                pair_id = await generation.add_pair(t, run_id, task, new, 0)
                await tasks.end_task(t, task.id, "done")
                state = ("accepted", "rejected", "review")[n % 3]
                verdict = Decision(state, 5.0, 7.0, 1, "aggregator", "below threshold", "scores too little")
                await generation.decide(t, pair_id, verdict, METRICS, {})
                await events.insert(t, run_id, [(time.time(), "pair", {"pair": pair_id, "verdict": state})])


async def write_talk(store: Store, run_id: int, number: int) -> None:
    """Conversations of ten questions each."""
    for _ in range(number):
        conversation = await chat_log.begin(store, run_id, "tiny", None)
        for turn in range(10):
            await chat_log.add_turn(store, conversation, "user", f"question {turn} of {conversation}")
            await chat_log.add_turn(store, conversation, "assistant", "an answer of some words " * 5, {"tokens": 20})


async def milliseconds(ask: Callable[[], Awaitable[Any]]) -> float:
    """The middle one of nine."""
    taken = []
    for _ in range(9):
        began = time.perf_counter()
        await ask()
        taken.append(1000 * (time.perf_counter() - began))
    return sorted(taken)[4]


async def ask_as_a_poll(store: Store, generating: int, training: int) -> dict[str, float]:
    """What the app asks at every poll, in milliseconds."""
    cursor = await events.last_id(store, training) - 50
    step = (await store.value("SELECT MAX(step) FROM steps WHERE run_id=?", (training,))) - 20
    newest = await store.value("SELECT MAX(id) FROM pairs") - 50
    some = list(range(newest, newest + 40))
    return {
        "version": await milliseconds(lambda: data_version(store)),
        "events": await milliseconds(lambda: events.since(store, training, cursor)),
        "newest": await milliseconds(lambda: newest_event(store, training, "step")),
        "steps": await milliseconds(lambda: step_columns(store, training, step)),
        "pairs": await milliseconds(lambda: pair_ids(store, generating, PairFilter(), after=newest)),
        "lines": await milliseconds(lambda: pair_lines(store, some)),
        "sources": await milliseconds(lambda: source_lines(store, generating)),
        "runs": await milliseconds(lambda: run_lines(store)),
        "chat": await milliseconds(lambda: newest_conversation(store)),
        "asked": await milliseconds(lambda: chat_log.recent_questions(store)),
    }


async def live(folder: Path, scale: float) -> None:
    """Write everything in parts, the app open, and print a line after each."""
    harness = AppHarness(folder / "store.db")
    log_file = set_up_logging()
    process = psutil.Process(os.getpid())
    part = {
        name: max(1, int(number * scale) // _PARTS)
        for name, number in (("events", _EVENTS), ("pairs", _PAIRS), ("evaluations", _EVALUATIONS), ("chats", _CHATS))
    }
    async with await Store.open(harness.path) as store:
        training = await create_run(store, "train", "running", folder=str(folder / "run-1"))
        generating = await create_run(store, "generate", "running")
        async with harness.app((120, 40)) as (app, pilot):
            for number in range(_PARTS):
                began = time.monotonic()
                await pilot.press("escape", ("f2", "f1", "f4")[number % 3])
                first = number * part["events"] + 1
                await asyncio.gather(
                    write_events(store, training, first, part["events"]),
                    write_pairs(store, generating, number * part["pairs"], part["pairs"]),
                )
                evaluated = range(first, first + part["evaluations"])
                await events.append(store, training, [evaluation_event(step, step % 10 / 10) for step in evaluated])
                await write_talk(store, training, part["chats"])
                for line in range(int(_LOG_LINES * scale) // _PARTS):
                    logging.getLogger("lora_tui.life").info("line %s of a long life, with some words in it", line)
                polls = app.poller.polls
                await pilot.pause(0.5)
                asked = await ask_as_a_poll(store, generating, training)
                gc.collect()
                print(
                    f"{(number + 1) * 100 // _PARTS:>4} %  {process.memory_info().rss / 1e6:>6.0f} MB of memory"
                    f"  {harness.path.stat().st_size / 1e6:>6.0f} MB of store"
                    f"  {sum(file.stat().st_size for file in log_file.parent.iterdir()) / 1e6:>5.1f} MB of log"
                    f"  {time.monotonic() - began:>5.0f} s  polls {polls:>5}  ms: "
                    + " ".join(f"{name} {taken:.2f}" for name, taken in asked.items()),
                    flush=True,
                )
        await runs.end(store, training, "stopped", {}, None)
        gone = False
        while not gone:
            async with store.transaction() as t:
                gone = await runs.delete_part(t, training, 10_000)
        began = time.monotonic()
        before, after = await store.compact()
        print(f"compacted without run {training}: {before / 1e6:,.0f} MB, then {after / 1e6:,.0f} MB, "
              f"in {time.monotonic() - began:.1f} s")  # fmt: skip


def main() -> None:
    """Live in a folder of its own."""
    parser = argparse.ArgumentParser(description="A long life of the store, the app and the log, compressed.")
    parser.add_argument("--scale", type=float, default=1.0, help="1: a million events, 100,000 pairs")
    parser.add_argument("--after", action="store_true", help="begin with a million events and 100,000 pairs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        os.environ |= {"LORA_TUI_LOGS": str(folder / "logs"), "LORA_TUI_CONFIG": str(folder / "config")}
        if options.after:  # by another process: what SQLite takes for it would count as this one's memory
            subprocess.run([sys.executable, "-m", "tests.bench.big_store", str(folder / "store.db")], check=True)
        asyncio.run(live(folder, options.scale))


if __name__ == "__main__":
    main()
