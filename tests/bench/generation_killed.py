"""A generation run that is killed with SIGKILL at random moments and resumed each time, beside one that is left alone.

    python -m tests.bench.generation_killed [--kills 50] [--pairs 500] [--seed 1]

The folder has one short file for each pair and the endpoint always writes the same about a passage, so that both runs
should end with the same pairs. One JSON line: whether they do (`same_pairs`), accepted pairs that are there twice
(`doubled`), calls that were made for a task which had been answered already (`repeated`), calls whose answer was lost
with the process (`lost`), requests that the endpoint saw and the accounts do not know (`unaccounted`), and how the
last process ended.
"""

import argparse
import json
import random
import signal
import sqlite3
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.bench.generation_goodput import endpoint_process, generation_command, statistics_of
from tests.openai_server import made_up_text

_KNEE = 24
_ANSWERED_AGAIN = (
    "SELECT COUNT(*) FROM attempts AS later JOIN attempts AS earlier"
    " ON later.task_id = earlier.task_id AND later.id > earlier.id WHERE earlier.status = 'ok'"
)


def start(folder: Path, url: str, pairs: int, *, resume: bool) -> "subprocess.Popen[bytes]":
    """Start the command on the folder's input and store."""
    settings = {
        "base_url": url,
        "model": "m",
        "input_folder": str(folder.parent / "input"),
        "output_file": str(folder / "accepted.txt"),
        "total_examples": pairs,
        "check_judge": False,
    }
    command, environment = generation_command(folder, settings)
    command += ["--resume"] * resume
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def rows(folder: Path, sql: str) -> list[tuple[Any, ...]]:
    """Return what a query finds in the folder's store; nothing before there is one."""
    try:
        with sqlite3.connect(f"file:{folder / 'training_data.db'}?mode=ro", uri=True, timeout=20) as connection:
            return connection.execute(sql).fetchall()
    except sqlite3.OperationalError:
        return []


def accepted(folder: Path) -> int:
    """Return how many pairs are accepted so far."""
    found = rows(folder, "SELECT COUNT(*) FROM pairs WHERE state = 'accepted'")
    return int(found[0][0]) if found else 0


def run_to_its_end(folder: Path, pairs: int, kills: int, rng: random.Random) -> dict[str, Any]:
    """Run, kill at random numbers of accepted pairs and a moment later, resume; return what became of it."""
    folder.mkdir()
    moments = sorted(rng.randrange(pairs) for _ in range(kills))
    with endpoint_process(_KNEE, repeats=True) as url:
        process = start(folder, url, pairs, resume=False)
        killed = 0
        for moment in moments:
            while process.poll() is None and accepted(folder) < moment:
                time.sleep(0.05)
            while process.poll() is None and not rows(folder, "SELECT 1 FROM attempts WHERE status = 'sent' LIMIT 1"):
                time.sleep(0.05)
            time.sleep(rng.uniform(0, 1.0))
            if process.poll() is not None:
                break
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
            process = start(folder, url, pairs, resume=True)
        status = process.wait(600)
        seen = statistics_of(url)["seen"]
    statuses = dict(rows(folder, "SELECT status, COUNT(*) FROM attempts GROUP BY status"))
    asked = sum(n for kind, n in seen.items() if kind not in ("refused", "given up"))
    return {
        "pairs": rows(folder, "SELECT question, answer FROM pairs WHERE state = 'accepted' ORDER BY question"),
        "killed": killed,
        "status": status,
        "attempts": statuses,
        "unaccounted": max(0, asked - sum(statuses.values())),
        "repeated": rows(folder, _ANSWERED_AGAIN)[0][0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    rng = random.Random(chosen.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "input").mkdir()
        for number in range(chosen.pairs):
            a, b, c, d, e, f, *_ = made_up_text(number, 1, 2).lower().replace(".", "").split()
            sentence = f"The {a} of {b} was built by {c} {d} for the people of {e} and the river of {f}."
            (folder / "input" / f"text_{number:04}.txt").write_text(sentence + "\n")
        alone = run_to_its_end(folder / "alone", chosen.pairs, 0, rng)
        killed = run_to_its_end(folder / "killed", chosen.pairs, chosen.kills, rng)
    questions = [question for question, _ in killed["pairs"]]
    shown = {
        "pairs": len(questions),
        "killed": killed["killed"],
        "same_pairs": alone["pairs"] == killed["pairs"],
        "doubled": len(questions) - len(set(questions)),
        "repeated": killed["repeated"],
        "lost": killed["attempts"].get("lost", 0),
        "attempts": killed["attempts"],
        "unaccounted": killed["unaccounted"],
        "status": killed["status"],
    }
    print(json.dumps(shown))


if __name__ == "__main__":
    main()
