"""A run with 100,000 pairs goes on: seconds from the command to its first request, and the memory it then holds.

    python -m tests.bench.resume_large [--pairs 100000]

The store is that of `big_store`; the endpoint refuses every request, since nothing after the first is measured.
"""

import argparse
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil

from tests.bench.big_store import GENERATING, Size, build


class _Refusing(BaseHTTPRequestHandler):
    """An endpoint that has its model, notes when the first prompt came, and answers none."""

    protocol_version = "HTTP/1.1"
    asked = threading.Event()

    def do_GET(self) -> None:
        self._answer(200, b'{"data": [{"id": "m"}]}')

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.asked.set()
        self._answer(500, b"{}")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the library's name
        """Say nothing."""


def prepare(folder: Path, pairs: int, port: int) -> Path:
    """Make a folder with a text and a store whose first run has stopped with `pairs` pairs; returns the store."""
    store, text = folder / "training_data.db", folder / "training_input" / "harbour.txt"
    text.parent.mkdir()
    text.write_text("The keeper of the light at Lorvik had a dog and a boat. " * 40)
    build(store, Size(pairs=pairs, attempts=pairs * 3 // 2, events=2 * pairs, runs=4))
    connection = sqlite3.connect(store)
    settings = json.loads(connection.execute("SELECT settings FROM runs WHERE id = ?", (GENERATING,)).fetchone()[0])
    settings["data_generation"] |= {
        "base_url": f"http://127.0.0.1:{port}/v1",
        "model": "m",
        "total_examples": 10 * pairs,
        "check_judge": False,
        "give_up_after": 5,
    }
    changed = (json.dumps(settings), str(folder), GENERATING)
    connection.execute("UPDATE runs SET settings = ?, folder = ?, state = 'stopped' WHERE id = ?", changed)
    connection.commit()
    connection.close()
    return store


def main() -> None:
    """Measure with and without ``--json``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--pairs", type=int, default=100_000)
    pairs = parser.parse_args().pairs
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = prepare(folder, pairs, server.server_address[1])
        for options in ((), ("--json",)):
            _Refusing.asked.clear()
            begun = time.monotonic()
            command = [sys.executable, "-m", "lora_tui", "--resume", str(GENERATING), "--store", str(store), *options]
            run = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, "OPENAI_API_KEY": "none"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            asked = _Refusing.asked.wait(120)
            seconds = time.monotonic() - begun
            if not asked or run.poll() is not None:
                sys.exit(f"no request came within {seconds:.0f} s; exit status {run.poll()}")
            process = psutil.Process(run.pid)
            cpu, memory = sum(process.cpu_times()[:2]), process.memory_info().rss
            run.terminate()
            run.wait()
            shown = " ".join(options) or "lines"
            print(f"{shown}: first request after {seconds:.1f} s, {cpu:.1f} s of processor, {memory >> 20} MB")


if __name__ == "__main__":
    main()
