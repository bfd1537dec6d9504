"""Tells the user's command and address that a run or the queue has ended; what goes wrong there is a warning.

The command is the user's own and goes to the shell; what it is told is in its environment alone, where no text of
others is read as a command. Of an address, its host is named in messages, and never what is sent along: a path may be a
secret.
"""

import contextlib
import json
import logging
import os
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, HTTPMessage
from typing import IO
from urllib.parse import urlsplit

from lora_tui.config.models import Notify
from lora_tui.protocol.ending import Ending
from lora_tui.store.rows import Run, worked_seconds
from lora_tui.text import one_line

log = logging.getLogger(__name__)

COMMAND_SECONDS = 60.0
"""How long the command may take."""

_ADDRESS_SECONDS, _PAUSE_SECONDS = 10.0, 2.0
_TOLD = ("finished", "failed", "interrupted")
"""States that are told; who stops a run is there."""

_UNTOLD_MODES = ("serve", "format")


def ending_of(run: Run, store: str) -> Ending:
    """Return how a run has ended, from its row."""
    result = run.result or {}
    score = next((result[name] for name in ("best_score", "tuned_score") if isinstance(result.get(name), float)), None)
    seconds = worked_seconds(run, run.ended_at)
    failed = int(run.state == "failed")
    return Ending(run.state, run.id, run.mode, run.name, score, seconds, run.error or "", failed=failed, store=store)


def is_told(ending: Ending, settings: Notify) -> bool:
    """Tell whether somebody wants to know of this: a run that took long enough, a queue of more than one."""
    if ending.run is None:
        return ending.runs > 1
    is_long = ending.seconds is not None and ending.seconds >= settings.after_s
    return is_long and ending.status in _TOLD and ending.mode not in _UNTOLD_MODES


def tell(ending: Ending, settings: Notify) -> list[str]:
    """Run the command and send to the address, where they are set; blocks. Returns what went wrong, a line each."""
    problems = []
    if settings.on_finish.strip():
        problems.append(_run_command(settings.on_finish, ending))
    if settings.webhook:
        problems.append(_send(settings.webhook, settings.webhook_token_env, ending))
    return [problem for problem in problems if problem]


def tell_soon(ending: Ending, settings: Notify, warn: Callable[[str], None] = log.warning) -> threading.Thread:
    """Do the same in a thread, which the process waits for at its end."""

    def work() -> None:
        for problem in tell(ending, settings):
            warn(problem)

    thread = threading.Thread(target=work, name="notify")
    thread.start()
    return thread


def _run_command(command: str, ending: Ending) -> str:
    """Run the user's command; returns what went wrong, empty where nothing did."""
    try:
        process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **ending.environment()},
            start_new_session=True,  # what it starts ends with it
        )
    except OSError as problem:
        return f"notify.on_finish cannot be started: {problem.strerror}"
    try:
        said, _ = process.communicate(timeout=COMMAND_SECONDS)
    except subprocess.TimeoutExpired:
        return f"notify.on_finish took longer than {COMMAND_SECONDS:.0f} s and was ended"
    finally:
        with contextlib.suppress(OSError):  # all have ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode:
        last = one_line(said.decode("utf-8", "replace").strip().rpartition("\n")[2], 120)
        return f"notify.on_finish ended with status {process.returncode}" + (f": {last}" if last else "")
    return ""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: what is meant for one host goes to no other."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        """Follow nothing."""


def _send(address: str, token_env: str, ending: Ending) -> str:
    """Send what has ended to an address, once more where that fails; returns what went wrong."""
    url = os.environ.get(address[1:], "").strip() if address.startswith("$") else address
    if not url:
        return f"notify.webhook = {address}: the environment variable is not set, so nothing was sent"
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:  # what a variable holds is checked by nobody before
        is_address = False
    if not is_address:
        return f"notify.webhook = {address}: that is no web address, so nothing was sent"
    headers = {"Content-Type": "application/json", "User-Agent": "lora-tui"}
    if token := os.environ.get(token_env, "").strip():
        headers["Authorization"] = f"Bearer {token}"
    body = json.dumps(ending.as_json(), ensure_ascii=True, allow_nan=False).encode()
    problem = ""
    for attempt in range(2):
        if attempt:
            time.sleep(_PAUSE_SECONDS)
        problem, again = _post(url, headers, body)
        if not again:
            break
    return f"notify.webhook ({one_line(str(parts.hostname), 60)}) was not told: {problem}" if problem else ""


def _post(url: str, headers: dict[str, str], body: bytes) -> tuple[str, bool]:
    """Send once; returns what went wrong, and whether another attempt may do better."""
    request = urllib.request.Request(url, body, headers, method="POST")  # noqa: S310  # http or https, checked
    opener = urllib.request.build_opener(_NoRedirects)
    try:
        with opener.open(request, timeout=_ADDRESS_SECONDS):
            return "", False
    except urllib.error.HTTPError as refused:
        with refused:
            if 300 <= refused.code < 400:
                return "it redirects to another address; name that one", False
            return f"HTTP {refused.code}", refused.code >= 500 or refused.code in (408, 429)
    except (OSError, HTTPException, ValueError) as problem:  # no connection, no answer, a header that cannot be sent
        reason = getattr(problem, "reason", problem)
        said = getattr(reason, "strerror", None) or type(reason).__name__
        return one_line(str(said), 80), not isinstance(problem, ValueError)
