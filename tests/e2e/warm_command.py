"""The command on pipes, forked from a process that has imported torch, transformers and PEFT beforehand.

Those imports are seven of the eight seconds of processor time that a run of a tiny model takes. What the child does is
what the console script does: the same `main`, in its own folder, with its own environment, streams and exit status.
How the program starts, what it imports when, and everything in a terminal is tested with `installed_command`.
"""

import fcntl
import gc
import json
import os
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, TextIO

WITH_TORCH = (
    "openai",
    "lora_tui.cli.run",
    "lora_tui.engine.jobs.generate",
    "lora_tui.engine.jobs.train",
    "lora_tui.engine.jobs.evaluate",
    "lora_tui.engine.jobs.serve",
    "lora_tui.engine.chat.session",
    "lora_tui.engine.export.merge",
)


_LONGEST = 600
"""Seconds after which a child, or a child of its, ends whatever happens: a forked torch that hangs would stay."""


class WarmProcess:
    """A child that has been started and not waited for, as `subprocess.Popen` has it."""

    def __init__(self, command: "WarmCommand", pid: int) -> None:
        self._command = command
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit status, -N for a death by signal N; None for one that goes on."""
        if self.returncode is None and (answer := self._command.ask({"poll": self.pid})):
            self.returncode = int(answer)
        return self.returncode

    def wait(self, timeout: float = 60.0) -> int:
        """Wait for the end; returns the exit status."""
        deadline = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(0.02)
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)


class WarmCommand:
    """The parent of all children; one run at a time. `folder` is for its log and the children's streams.

    `modules` are what it imports beforehand; without torch it is ready in a second.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], modules: tuple[str, ...] = WITH_TORCH) -> None:
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, __file__, *modules],
            env={**environment, "LORA_TUI_LOGS": str(folder / "logs"), "HF_HUB_OFFLINE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def run(
        self,
        arguments: tuple[str, ...],
        *,
        cwd: Path,
        env: Mapping[str, str],
        stdin: str = "",
        stdout: Path | None = None,
        terminal: str | None = None,
        jobs: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """Run the command with these arguments to its end. With `stdout`, a FIFO say, what it writes goes there.

        With `terminal`, the name of a pseudo-terminal, all three streams are that one. `jobs` takes the place of some
        of its own, as `tests/cli/launcher.py` reads it.
        """
        streams = [self._folder / name for name in ("stdin", "stdout", "stderr")]
        streams[0].write_text(stdin)
        paths = [str(path) for path in (streams[0], stdout or streams[1], streams[2])]
        if terminal is not None:
            paths = [terminal] * 3
        status = int(self.ask(_request(arguments, cwd, env, paths, jobs=jobs)))
        written = "" if stdout else streams[1].read_text()
        return subprocess.CompletedProcess(("lora-tui", *arguments), status, written, streams[2].read_text())

    def start(
        self,
        arguments: tuple[str, ...],
        *,
        cwd: Path,
        env: Mapping[str, str],
        terminal: str | None = None,
        jobs: str = "",
    ) -> WarmProcess:
        """Start the command, as the leader of a session that has the pseudo-terminal of this name, or without any."""
        request = _request(arguments, cwd, env, [terminal or os.devnull] * 3, jobs=jobs)
        return WarmProcess(self, int(self.ask({**request, "starts": True})))

    def loaded_packages(self) -> set[str]:
        """The top-level packages that the parent has loaded with the jobs."""
        return set(self.ask(None).split())

    def ask(self, request: Any) -> str:
        """Return the parent's answer to a request, a line of each."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def through_head(self, arguments: tuple[str, ...], *, cwd: Path, env: Mapping[str, str]) -> tuple[str, str]:
        """Run it with a reader that leaves after one line: that line, and stderr."""
        line = self._folder / "line"
        line.unlink(missing_ok=True)
        os.mkfifo(line)
        with subprocess.Popen(["head", "-1", line], stdout=subprocess.PIPE, text=True) as head:
            done = self.run(arguments, cwd=cwd, env=env, stdout=line)
            return head.communicate()[0], done.stderr


def _request(
    arguments: tuple[str, ...], cwd: Path, env: Mapping[str, str], streams: list[str], *, jobs: str = ""
) -> dict[str, Any]:
    return {"arguments": arguments, "cwd": str(cwd), "environment": dict(env), "streams": streams, "jobs": jobs}


def _serve() -> None:
    """Import what is slow, then fork a child for each request that comes as a line on stdin; answer its status.

    One that is only started answers itself, with its number, once its streams are its own.
    """
    from importlib import import_module

    from lora_tui.engine.runtime.process import before_torch
    from lora_tui.logs import set_up_logging

    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing but statuses goes to the client
    set_up_logging()
    if set(WITH_TORCH) <= {*sys.argv[1:]}:
        before_torch()
    for module in sys.argv[1:]:
        import_module(module)
    loaded = sorted({name.partition(".")[0] for name in sys.modules})
    os.register_at_fork(after_in_child=lambda: signal.alarm(_LONGEST))
    gc.collect()
    gc.freeze()  # children look for garbage among what they make themselves
    for line in iter(sys.stdin.readline, ""):
        request = json.loads(line)
        if request is None:
            print(*loaded, file=replies, flush=True)
            continue
        if "poll" in request:
            child, status = os.waitpid(request["poll"], os.WNOHANG)
            print(os.waitstatus_to_exitcode(status) if child else "", file=replies, flush=True)
            continue
        child = os.fork()
        if child == 0:
            _become(request, replies)
        if "starts" not in request:
            _, status = os.waitpid(child, 0)
            print(os.waitstatus_to_exitcode(status), file=replies, flush=True)
    os._exit(0)  # torch takes seconds to be taken down


def _become(request: dict[str, Any], replies: TextIO) -> None:
    """Be the command that is asked for; does not return."""
    from lora_tui.cli.console_script import main

    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    if "starts" in request:
        os.setsid()
    modes = (os.O_RDONLY, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number, (path, mode) in enumerate(zip(request["streams"], modes, strict=True)):
        opened = os.open(path, mode, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    if "starts" in request:
        if os.isatty(0):
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        print(os.getpid(), file=replies, flush=True)
    sys.stdin, sys.stdout, sys.stderr = open(0, closefd=False), open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    sys.argv = ["lora-tui", *request["arguments"]]
    status: object = 1
    try:
        if request["jobs"]:
            from tests.cli.launcher import use_fake_jobs

            use_fake_jobs(request["jobs"])
        main()
    except SystemExit as ended:
        status = ended.code
    finally:
        threading._shutdown()  # as an interpreter's end waits for threads: who wants to know of a run is told in one
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 0 if status is None else 1)


if __name__ == "__main__":
    _serve()
