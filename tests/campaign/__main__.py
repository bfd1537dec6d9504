"""The campaign: every scenario with many random faults, and one table of what survived.

    python -m tests.campaign [--seed N ...] [--short] [--only NAME ...] [--try N] [--jobs N] [--json FILE] [--keep]

A seed fixes every random choice. Tries run in processes of their own, each in an empty folder, with the time that its
scenario allows; one that takes longer is killed, with whatever it started, and counts as lost. Each failure is listed
with the command that repeats it alone. The exit status is 1 if anything was lost.
"""

import argparse
import json
import os
import shutil
import sys
import time
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path

from tests.campaign.scenario import SCENARIOS, Try, load_scenarios
from tests.campaign.worker import Case, Worker


@dataclass
class Tally:
    """What became of a scenario's tries."""

    tries: int = 0
    faults: int = 0
    survived: int = 0
    seconds: float = 0.0
    failures: list[dict[str, str]] = field(default_factory=list)

    def add(self, case: Case, outcome: Try, seconds: float) -> None:
        """Count one try."""
        self.tries += 1
        self.faults += outcome.faults
        self.survived += outcome.survived
        self.seconds += seconds
        if not outcome.survived:
            self.failures.append({"detail": outcome.detail, "repeat": case.repeat})


def run(cases: list[Case], jobs: int, *, keep: bool, progress: bool) -> dict[str, Tally]:
    """Run all tries on `jobs` processes; returns what became of them by scenario."""
    tallies = {case.name: Tally() for case in cases}
    waiting = list(reversed(cases))
    workers = [Worker() for _ in range(min(jobs, len(cases)))]
    done = 0

    def count(worker: Worker, outcome: Try) -> None:
        nonlocal done
        assert worker.case is not None
        done += 1
        seconds = time.monotonic() - worker.since
        tallies[worker.case.name].add(worker.case, outcome, seconds)
        if progress or not outcome.survived:
            lost = "" if outcome.survived else f"LOST {worker.case.name} {worker.case.number}: {outcome.detail}\n"
            sys.stderr.write(f"\r\x1b[K{lost}{done}/{len(cases)} {worker.case.name}" if progress else lost)
            sys.stderr.flush()
        if keep and not outcome.survived:
            tallies[worker.case.name].failures[-1]["folder"] = str(worker.place)
        else:
            shutil.rmtree(worker.place, ignore_errors=True)
        worker.case = None

    try:
        while waiting or any(worker.case for worker in workers):
            for worker in workers:
                if worker.is_ready and worker.case is None and waiting:
                    worker.give(waiting.pop())
            ready = connection.wait([worker.pipe for worker in workers], timeout=0.5)
            for position, worker in enumerate(workers):
                if worker.pipe in ready:
                    try:
                        outcome = worker.pipe.recv()
                    except (EOFError, ConnectionError):
                        outcome = Try(False, detail=worker.kill())
                        workers[position] = Worker()
                elif worker.is_late:
                    worker.kill()
                    outcome = Try(False, detail=f"not done after {worker.limit:.0f} s")
                    workers[position] = Worker()
                else:
                    continue
                if worker.case is not None:
                    count(worker, outcome)
                elif outcome is not None:
                    raise SystemExit(f"the scenarios cannot be imported: {outcome.detail}")
                worker.is_ready = True
        for worker in workers:
            worker.close()
    except BaseException:
        for worker in workers:
            worker.kill()
        raise
    finally:
        if progress:
            sys.stderr.write("\r\x1b[K")
    return tallies


def table(tallies: dict[str, Tally]) -> str:
    """The table, with a row of sums."""
    heading = ("scenario", "tries", "faults", "survived", "lost", "seconds")
    rows = [
        (name, tally.tries, tally.faults, tally.survived, tally.tries - tally.survived, tally.seconds)
        for name, tally in tallies.items()
    ]
    sums = ("all", *(sum(row[column] for row in rows) for column in range(1, 6)))  # type: ignore[misc]
    width = max(len(str(row[0])) for row in (heading, *rows, sums))
    lines = [f"{heading[0]:<{width}}" + "".join(f"{name:>10}" for name in heading[1:])]
    for name, *counts, seconds in (*rows, sums):
        lines.append(f"{name:<{width}}" + "".join(f"{count:>10,}" for count in counts) + f"{seconds:>10.1f}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the campaign; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--seed", type=int, nargs="+", default=[1], help="one or several; the same seed, the same faults"
    )
    parser.add_argument("--short", action="store_true", help="the few tries that CI has time for")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these scenarios; the beginning of a name will do")
    parser.add_argument("--try", type=int, dest="number", metavar="N", help="this try alone")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes at a time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table and the failures as JSON, too")
    parser.add_argument("--keep", action="store_true", help="keep the folders of tries that were lost")
    options = parser.parse_args(arguments)
    load_scenarios()
    wanted = tuple(options.only or SCENARIOS)
    names = [name for name in SCENARIOS if name.startswith(wanted)]
    if not names:
        parser.error(f"no scenario begins with {' or '.join(options.only)}; there are {', '.join(SCENARIOS)}")
    cases = []
    for name in names:
        registered = SCENARIOS[name]
        tries = registered.short if options.short else registered.tries
        numbers = range(tries) if options.number is None else (options.number,)
        cases += [Case(name, seed, number) for seed in options.seed for number in numbers]
    began = time.monotonic()
    tallies = run(cases, max(1, options.jobs), keep=options.keep, progress=sys.stderr.isatty())
    print(table(tallies))
    print(f"seeds {', '.join(map(str, options.seed))}; {time.monotonic() - began:.0f} s on {options.jobs} processes")
    failures = [(name, failure) for name, tally in tallies.items() for failure in tally.failures]
    for name, failure in failures:
        print(
            f"\n{name}: {failure['detail']}\n  {failure['repeat']}", *filter(None, [failure.get("folder")]), sep="\n  "
        )
    if options.json:
        found = {name: vars(tally) for name, tally in tallies.items()}
        options.json.write_text(json.dumps({"seeds": options.seed, "scenarios": found}, indent=1) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
