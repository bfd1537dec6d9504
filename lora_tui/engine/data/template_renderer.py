"""Chat templates rendered in a process of their own: a template is a program that came with a model.

transformers renders them in a sandbox, which keeps them from the machine but not from its time and memory: a loop over
loops ends never, and ``{{ "a" * 10**9 }}`` takes a gigabyte while it is compiled. A process can be limited in both, and
ended. One serves the whole program; it is started with the first conversation that needs it (about 0.8 s).
"""

import json
import logging
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_tui.errors import LoraTuiError
from lora_tui.text import one_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

SECONDS = 10.0
"""Time that a conversation may take; a real template takes milliseconds, and a machine may be busy."""

_START_SECONDS = 120.0
_LONGEST = 10_000_000
"""Characters that a template may write beside those that it was given."""

_SCRIPT = Path(__file__).with_name("template_process.py")
_SHOWN = 200


class ChatTemplateError(LoraTuiError):
    """A chat template is broken, or was stopped: nothing can be rendered with it. The message names its file."""


class TemplateRefusedError(Exception):
    """A chat template does not take this conversation; the text says why, without the file."""


def render_chat(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Mapping[str, Any]], *, generation_prompt: bool = False
) -> str:
    """Return a conversation as the tokenizer's chat template writes it, with the prompt for the next answer if asked.

    Raises `ChatTemplateError` and `TemplateRefusedError`.
    """
    return str(_render(tokenizer, messages, add_generation_prompt=generation_prompt)["text"])


def render_marked_chat(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Mapping[str, Any]]
) -> tuple[str, list[tuple[int, int]]]:
    """Return a conversation, and where in it (in characters) the template marks answers, ``{% generation %}``.

    Raises `ChatTemplateError` and `TemplateRefusedError`.
    """
    reply = _render(tokenizer, messages, add_generation_prompt=False, return_assistant_tokens_mask=True)
    return reply["text"], [(int(start), int(end)) for start, end in reply["spans"]]


def template_file(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return the file that a tokenizer's chat template is in, as far as that can be known, else the model's name."""
    folder = Path(tokenizer.name_or_path)
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        if (folder / name).is_file():
            return str(folder / name)
    return tokenizer.name_or_path or "this model"


def _render(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Mapping[str, Any]], **options: bool
) -> dict[str, Any]:
    try:
        template = tokenizer.get_chat_template()
    except (ValueError, TypeError, AttributeError, KeyError) as problem:  # several, and none of them the default
        raise _broken(tokenizer, one_line(str(problem), _SHOWN)) from problem
    request = {
        "template": template,
        "messages": list(messages),
        "values": tokenizer.special_tokens_map | options,
        "longest": _LONGEST + 4 * sum(len(str(message.get("content", ""))) for message in messages),
        "seconds": SECONDS + 1,
    }
    reply = _PROCESS.ask(json.dumps(request, default=str))
    error = reply.get("error")
    if error is None:
        return reply
    text = one_line(str(reply.get("text", "")), _SHOWN).removesuffix(".")
    if error == "Stopped":
        raise _broken(tokenizer, f"it had not come to an end after {SECONDS:.0f} s and was stopped")
    if error in ("MemoryError", "Died"):
        raise _broken(tokenizer, "it takes more memory than a template may (512 MiB) and was stopped")
    if error == "TooLong":
        raise _broken(tokenizer, f"it writes {text} for one conversation")
    if error == "TemplateSyntaxError":
        raise _broken(tokenizer, f"line {reply.get('line') or 1}: {text}")
    if error == "SecurityError":
        raise _broken(tokenizer, f"it does what a template may not: {text}")
    raise TemplateRefusedError(text if error == "TemplateError" else f"{text or 'it fails'} ({error})")


def _broken(tokenizer: "PreTrainedTokenizerBase", what: str) -> ChatTemplateError:
    return ChatTemplateError(
        f"The chat template in {template_file(tokenizer)} cannot be used: {what}.\n"
        "Take the file from the model's publisher again, or correct it."
    )


class _TemplateProcess:
    """The process, started when it is first asked; threads take turns. Whoever is asked in a fork starts its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def ask(self, request: str) -> dict[str, Any]:
        """Return the reply to a request; ``error`` is ``Stopped`` past the deadline, ``Died`` where the process ended.

        Raises `LoraTuiError` where no process can be started.
        """
        with self._lock:
            child = self._started()
            assert child.stdin is not None
            began = time.monotonic()
            try:
                writer = threading.Thread(target=_send, args=(child.stdin, request.encode() + b"\n"), daemon=True)
                writer.start()
                reply = _read_line(child, SECONDS)
                writer.join()
            except TimeoutError:
                reply = None
            if reply is not None:
                return reply
            is_late = time.monotonic() - began >= SECONDS
            _end(child)
            self._child = None
            return {"error": "Stopped" if is_late else "Died"}

    def _started(self) -> "subprocess.Popen[bytes]":
        if self._child is not None and self._owner == os.getpid() and self._child.poll() is None:
            return self._child
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        try:
            child = subprocess.Popen(
                [sys.executable, "-P", str(_SCRIPT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # a Ctrl-C in the terminal is not for it
            )
        except OSError as problem:
            raise LoraTuiError(
                f"The process that renders chat templates cannot be started: {problem.strerror}."
            ) from problem
        try:
            ready = _read_line(child, _START_SECONDS)
        except TimeoutError:
            ready = None
        if ready is None:
            _end(child)
            raise LoraTuiError(
                "The process that renders chat templates does not start: there is too little memory, or transformers "
                f"is not installed for {sys.executable}."
            )
        self._child, self._owner = child, os.getpid()
        return child


def _send(stream: Any, line: bytes) -> None:
    try:
        stream.write(line)
        stream.flush()
    except OSError:  # it has ended: reading the reply tells so
        log.debug("the template process has closed its input", exc_info=True)


def _read_line(child: "subprocess.Popen[bytes]", seconds: float) -> dict[str, Any] | None:
    """Read a reply; None where the process has ended. Raises `TimeoutError`."""
    assert child.stdout is not None
    descriptor, deadline = child.stdout.fileno(), time.monotonic() + seconds
    poll = select.poll()
    poll.register(descriptor, select.POLLIN | select.POLLHUP)
    pieces: list[bytes] = []
    while not pieces or not pieces[-1].endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise TimeoutError
        piece = os.read(descriptor, 1 << 16)
        if not piece:
            return None
        pieces.append(piece)
    reply = json.loads(b"".join(pieces))
    return reply if isinstance(reply, dict) else None


def _end(child: "subprocess.Popen[bytes]") -> None:
    child.kill()
    child.wait()
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            try:
                stream.close()
            except OSError:  # what was not sent is lost with it
                log.debug("closing a pipe failed", exc_info=True)


_PROCESS = _TemplateProcess()
