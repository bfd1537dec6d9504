"""What a generation run costs this machine: processor time a pair, memory, and the time to the first call.

    python -m tests.bench.generation_cost [--in-flight 256] [--pairs 3000] [--passages 1000] [--set KEY=VALUE …]

Prints one JSON line. The endpoint is a process of its own, raw asyncio, and answers every request by itself at 40
tokens/s: pairs of 100 tokens, judgements of 6. Processor time is the run's (user and system, its threads included)
between the 200th judged pair and the last but half of `--in-flight`, divided by the pairs judged meanwhile; each has
its judge call, and its share of analyses. Memory is that of the run and of what it has started, added, at the peak.
"""

import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tests.openai_server import made_up_text, pair_of_sentence, sentences

RATE = 40.0
"""Tokens a second of each reply."""

PAIR_TOKENS, JUDGE_TOKENS = 100, 6
_WARM = 200
_PASSAGE = re.compile(r"BEGIN PASSAGE (\w+)\n(.*?)\nEND PASSAGE \1", re.DOTALL)


class Counted:
    """What the connections of the endpoint share: counts, and which pairs of a passage were given."""

    def __init__(self) -> None:
        names = ("generate", "judge", "analyse", "first", "in_flight", "most", "connections")
        self.stats: dict[str, float] = dict.fromkeys(names, 0)
        self.asked: dict[str, int] = {}
        self.known: dict[str, list[str]] = {}


class Answering(asyncio.Protocol):
    """One connection of the endpoint: HTTP/1.1 with Content-Length, one request after the other."""

    def __init__(self, counted: Counted) -> None:
        self.counted, self.stats = counted, counted.stats

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin with an empty buffer."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.buffer = b""
        self.stats["connections"] += 1

    def data_received(self, data: bytes) -> None:
        """Answer whatever is complete."""
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0] or 0)
            if len(self.buffer) < end + 4 + length:
                return
            body, self.buffer = self.buffer[end + 4 : end + 4 + length], self.buffer[end + 4 + length :]
            if head.startswith(b"get /stats"):
                self._send(json.dumps(self.stats).encode())
            elif head.startswith(b"get"):
                self._send(b"{}")
            else:
                self._answer(json.loads(body))

    def _answer(self, body: dict[str, Any]) -> None:
        stats = self.stats
        stats["first"] = stats["first"] or time.time()
        stats["in_flight"] += 1
        stats["most"] = max(stats["most"], stats["in_flight"])
        system = body["messages"][0]["content"]
        if system.startswith("You judge"):
            kind, text, tokens = "judge", "5 5 4", JUDGE_TOKENS
        elif "Task: write " not in body["messages"][-1]["content"]:  # an analysis, or the topics of the folder
            kind, text, tokens = "analyse", "A varied set.", 60
        else:
            kind, text, tokens = "generate", self._pairs(body["messages"][1]["content"]), PAIR_TOKENS
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        usage = {"prompt_tokens": sum(len(m["content"]) for m in body["messages"]) // 4, "completion_tokens": tokens}
        answer = {"id": "x", "object": "chat.completion", "model": body["model"], "choices": [choice], "usage": usage}
        asyncio.get_running_loop().call_later(tokens / RATE, self._end, kind, json.dumps(answer).encode())

    def _pairs(self, prompt: str) -> str:
        found = _PASSAGE.search(prompt)
        wanted = re.search(r"Task: write (\d+)", prompt)
        assert found is not None
        assert wanted is not None
        passage, asked = found[2], self.counted.asked
        first = asked.get(passage, 0)
        asked[passage] = first + int(wanted[1])
        known = self.counted.known.setdefault(passage, sentences(passage))
        pairs = [pair_of_sentence(known[n % len(known)], 0) for n in range(first, asked[passage])]
        return json.dumps({"pairs": pairs})

    def _end(self, kind: str, body: bytes) -> None:
        self.stats["in_flight"] -= 1
        self.stats[kind] += 1
        self._send(body)

    def _send(self, body: bytes) -> None:
        if not self.transport.is_closing():
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
            self.transport.write(head + body)


async def serve() -> None:
    """Answer until the process is ended; the port is the first line on stdout."""
    counted = Counted()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Answering(counted), "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def fill(folder: Path, passages: int) -> None:
    """Write a folder of about so many passages: text of unlikely words, ten passages a file."""
    files, rng = max(1, passages // 10), random.Random(1)
    parts = [made_up_text(seed, 6) for seed in range(min(3000, 10 * files))]  # 3,000 different ones are enough
    for number in range(files):
        place = folder / f"{number // 1000:03}"
        place.mkdir(exist_ok=True)
        chosen = parts[10 * number : 10 * number + 10] or rng.sample(parts, 10)
        (place / f"text_{number:06}.md").write_text(f"# Part {number}\n\n" + "\n".join(chosen))


def stats_of(port: int) -> dict[str, Any]:
    """Return what the endpoint has counted."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/stats", timeout=10) as answer:
        return dict(json.loads(answer.read()))


def measure(chosen: argparse.Namespace, folder: Path, port: int) -> dict[str, Any]:
    """Run the command on the folder and watch it from outside."""
    values = {
        "input_folder": str(folder / "in"),
        "output_file": str(folder / "out.txt"),
        "base_url": f"http://127.0.0.1:{port}/v1",
        "model": "bench",
        "total_examples": chosen.pairs,
        "max_concurrency": chosen.in_flight,
        "check_judge": False,
    }
    sets = [f"data_generation.{key}={json.dumps(value)}" for key, value in values.items()] + chosen.set
    command = [sys.executable, *chosen.under.split(), "-m", "lora_tui", "--run", "generate", "--json"]
    command += ["--store", str(folder / "store.db")] + [part for one in sets for part in ("--set", one)]
    began = time.time()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    watched = psutil.Process(process.pid)
    samples: list[tuple[int, float, float, float]] = []  # pairs judged, processor seconds, seconds, MB
    before = 0.0
    deadline = began + chosen.seconds
    while process.poll() is None and time.time() < deadline:
        with suppress(psutil.Error):
            family = [watched, *watched.children(recursive=True)]
            times = watched.cpu_times()
            memory = sum(one.memory_info().rss for one in family) / 1e6
            stats = stats_of(port)
            if stats["first"] and not before:
                before = times.user + times.system
            samples.append((stats["judge"], times.user + times.system, time.time() - began, memory))
        time.sleep(0.25)
    if process.poll() is None:
        process.terminate()
    status = process.wait()
    stats = stats_of(port)
    warm = [one for one in samples if _WARM <= one[0] <= chosen.pairs - chosen.in_flight // 2] or samples
    pairs = max(1, warm[-1][0] - warm[0][0])
    return {
        "status": status,
        "in_flight": stats["most"],
        "pairs": pairs,
        "cpu_ms_per_pair": round(1000 * (warm[-1][1] - warm[0][1]) / pairs, 2),
        "pairs_per_s": round(pairs / max(1e-9, warm[-1][2] - warm[0][2]), 1),
        "rss_mb": round(max(one[3] for one in samples)),
        "seconds_to_first_call": round(stats["first"] - began, 1) if stats["first"] else None,
        "cpu_s_to_first_call": round(before, 1),
        "calls": {kind: stats[kind] for kind in ("generate", "judge", "analyse")},
        "connections": stats["connections"],
        "store_mb": round((folder / "store.db").stat().st_size / 1e6, 1) if (folder / "store.db").exists() else None,
    }


def main() -> None:
    """Parse the command line and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=3000)
    parser.add_argument("--passages", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--under", default="", help="options of Python, such as -X importtime or -m cProfile -o FILE")
    parser.add_argument("--folder", type=Path, help="keep folder and store here, and use them again")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        with suppress(KeyboardInterrupt):
            asyncio.run(serve())
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.folder or Path(temporary)
        if not (folder / "in").exists():
            (folder / "in").mkdir(parents=True)
            fill(folder / "in", chosen.passages)
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.generation_cost", "--serve"], stdout=subprocess.PIPE, text=True
        )
        try:
            assert server.stdout is not None
            print(json.dumps(measure(chosen, folder, int(server.stdout.readline()))))
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    os.environ.setdefault("LORA_TUI_LOGS", tempfile.gettempdir())
    main()
