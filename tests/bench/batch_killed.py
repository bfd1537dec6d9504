"""Kills a run that works by the Batch API at random moments until it has its pairs, and looks what was asked twice.

    python -m tests.bench.batch_killed [--kills 20] [--pairs 60] [--seed 1]

Prints one JSON line: `kills`, `accepted`, `repeated` (calls that the endpoint has answered more than once for one
task), `unread` (answers of the endpoint that the store does not have), `batches`, `lost` (attempts of unknown outcome).
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.batch_server import BatchServer
from tests.engine.generation.generation_harness import GenerationHarness
from tests.openai_server import made_up_text

_RUN = """
import sys
from pathlib import Path
from lora_tui.config.load import load_settings
from lora_tui.engine.generation.client import batch_rounds
from lora_tui.engine.runtime.engine import Engine

batch_rounds._QUIET, batch_rounds._POLL_SECONDS = 0.3, (0.1, 0.3)
engine = Engine(Path(sys.argv[1]))
engine.start()
resume = int(sys.argv[2]) or None
engine.submit("generate", load_settings(overrides=sys.argv[3:], environment={}).settings, resume=resume)[1].result()
"""


def main() -> None:
    """Parse the command line and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    rng, kills = random.Random(chosen.seed), 0
    with tempfile.TemporaryDirectory() as folder, BatchServer() as server:
        harness = GenerationHarness(Path(folder), server)
        harness.values |= {"batch": True, "total_examples": chosen.pairs}
        for number in range(12):
            harness.write(f"{number}.txt", made_up_text(number, 8))
        while True:
            resume = "1" if kills else "0"
            command = [sys.executable, "-c", _RUN, str(harness.store), resume, *harness.overrides()]
            process = subprocess.Popen(command, cwd=folder)
            began, until = time.monotonic(), rng.uniform(1.0, 5.0) if kills < chosen.kills else 300.0
            while process.poll() is None and time.monotonic() - began < until:
                time.sleep(0.01)
            ended = process.poll() is not None
            process.kill()
            process.wait()
            if ended:
                break
            kills += harness.store.exists() and bool(harness.rows("SELECT 1 FROM runs"))
        asked = Counter(
            line["custom_id"]
            for batch in server.batches.values()
            if batch.get("output_file_id")
            for line in map(json.loads, server.files[batch["output_file_id"]].splitlines())
        )
        stored = {str(n) for (n,) in harness.rows("SELECT id FROM attempts WHERE status NOT IN ('sent', 'unreached')")}
        tasks = dict(harness.rows("SELECT id, task_id FROM attempts"))
        per_task = Counter(tasks[int(attempt)] for attempt in asked)
        print(
            json.dumps(
                {
                    "kills": kills,
                    "accepted": harness.value("SELECT COUNT(*) FROM pairs WHERE state='accepted'"),
                    "answered": sum(asked.values()),
                    "repeated": sum(number - 1 for number in per_task.values()),
                    "unread": len(asked.keys() - stored),
                    "batches": len(server.batches),
                    "lost": harness.value("SELECT COUNT(*) FROM attempts WHERE status='lost'"),
                    "states": dict(harness.rows("SELECT status, COUNT(*) FROM attempts GROUP BY status")),
                }
            )
        )


if __name__ == "__main__":
    main()
