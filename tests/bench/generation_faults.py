"""A generation run at an endpoint of which three calls in ten fail, in every way that calls fail.

    python -m tests.bench.generation_faults [--pairs 500] [--share 0.3] [--seed 1] [--seconds 540]

Too many requests (with and without Retry-After), errors of the server, connections that break, answers that never come,
pages of a proxy, half a JSON, replies without choices, without text, of another form, cut off or withheld: each as
often. One JSON line: how the run ended and how many pairs it has of how many; `lost`, pairs that the endpoint wrote in
a usable reply and the store has not; `doubled`, accepted questions that are there twice; what the endpoint answered and
how the account says that the calls ended; the tokens of both; `unaccounted`, requests that no stored call stands for.
What was still under way when the target was reached is `cancelled`: its answers are in neither account.
"""

import argparse
import asyncio
import json
import sqlite3
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from tests.bench.generation_goodput import generation_command
from tests.openai_server import (
    DROPPED,
    EMPTY_CHOICES,
    FILTERED,
    HALF_JSON,
    MALFORMED,
    MODEL,
    NOT_JSON,
    NULL_CONTENT,
    TRUNCATED,
    Fault,
    OpenAIServer,
    Received,
    http,
    kind_of,
    made_up_text,
    too_many,
)

_TIMEOUT = 3.0
"""Seconds that the run gives a call."""

SILENT = Fault("silent")
FAULTS = (
    too_many("0.2"),
    http(429),
    http(500),
    http(503),
    DROPPED,
    SILENT,
    NOT_JSON,
    HALF_JSON,
    EMPTY_CHOICES,
    NULL_CONTENT,
    MALFORMED,
    TRUNCATED,
    FILTERED,
)
_WITHOUT_USAGE = ("http", "dropped", "silent", "not_json")


class FaultyServer(OpenAIServer):
    """The tests' server that also says nothing at all now and then, and counts the tokens of what it has answered."""

    def __init__(self) -> None:
        self.tokens = 0
        super().__init__()

    async def _answer(self, request: Request, body: dict[str, Any]) -> Response:
        fault = self._fault()
        if fault is SILENT:
            outcome = Received(kind_of(body), body, {}, time.time(), SILENT.kind, "", self._at_once)
            self.received.append(outcome)
            await asyncio.sleep(_TIMEOUT + 5)
            return Response(status_code=500)
        self.next_faults.append(fault)
        return await super()._answer(request, body)

    def _completion(self, body: dict[str, Any], kind: str, content: str, fault: Fault | None) -> dict[str, Any]:
        answer = super()._completion(body, kind, content, fault)
        if fault is None or fault.kind not in _WITHOUT_USAGE:
            self.tokens += answer["usage"]["total_tokens"]
        return answer


def written_questions(server: FaultyServer) -> set[str]:
    """Return the questions in all usable replies."""
    replies = (one.reply for one in server.received if one.kind == "generate" and one.outcome == "ok")
    return {pair["question"] for reply in replies for pair in json.loads(reply)["pairs"]}


def measure(chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run the command once and hold its accounts against the server's."""
    source = folder / "input"
    source.mkdir()
    for number in range(max(10, chosen.pairs // 2)):
        (source / f"text_{number:04}.txt").write_text(made_up_text(chosen.seed * 100_000 + number, 2))
    with FaultyServer() as server:
        server.mix = [(fault, chosen.share / len(FAULTS)) for fault in FAULTS]
        server.delay = 0.05
        settings = {
            "base_url": server.url,
            "model": MODEL,
            "input_folder": str(source),
            "output_file": str(folder / "accepted.txt"),
            "total_examples": chosen.pairs,
            "timeout": _TIMEOUT,
            "check_judge": False,
        }
        command, environment = generation_command(folder, settings, chosen.set)
        began = time.monotonic()
        process = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, timeout=chosen.seconds, check=False
        )
        seconds = time.monotonic() - began
        answered = Counter(one.outcome for one in server.received)
        wrote, tokens = written_questions(server), server.tokens
    with sqlite3.connect(folder / "training_data.db") as store:
        ended = dict(store.execute("SELECT status, COUNT(*) FROM attempts GROUP BY 1").fetchall())
        counted = store.execute(
            "SELECT COALESCE(SUM(prompt_tokens + completion_tokens), 0) FROM attempts"
            " WHERE status IN ('ok', 'malformed', 'truncated', 'empty', 'filtered')"
            " AND COALESCE(error, '') NOT LIKE 'the answer %'"
        ).fetchone()[0]
        stored = {question for (question,) in store.execute("SELECT question FROM pairs")}
        accepted = [key for (key,) in store.execute("SELECT question_key FROM pairs WHERE state = 'accepted'")]
        dead = store.execute("SELECT COUNT(*) FROM tasks WHERE state = 'dead'").fetchone()[0]
    done = [json.loads(line) for line in process.stdout.decode().splitlines() if '"event":"done"' in line]
    return {
        "status": process.returncode,
        "ended": done[-1]["result"].get("reason") if done else None,
        "accepted": len(accepted),
        "target": chosen.pairs,
        "lost": len(wrote - stored),
        "doubled": len(accepted) - len(set(accepted)),
        "given_up": dead,
        "failed_share": round(1 - answered["ok"] / max(1, answered.total()), 3),
        "answered": dict(answered),
        "ended_as": ended,
        "unaccounted": answered.total() - sum(ended.values()),
        "tokens": tokens,
        "tokens_in_account": counted,
        "cancelled": ended.get("cancelled", 0),
        "seconds": round(seconds, 1),
    }


def main() -> None:
    """Parse the command line and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument("--share", type=float, default=0.3, help="of calls that fail")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=540)
    parser.add_argument("--set", action="append", default=[], help="further settings of the run")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        print(json.dumps(measure(chosen, Path(temporary))))


if __name__ == "__main__":
    main()
