"""Process that renders chat templates, which are programs of strangers: run as a script by `template_renderer`.

Reads a JSON request a line on stdin and writes a JSON reply a line on stdout. It limits itself: memory, the time of a
request (its parent may be gone), the length of what comes out. Apart from the module that starts it because it may
import nothing of ours: a script does not depend on where the package lies, and starts in under a second.
"""

import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

_MEMORY = 512 * 2**20
"""Bytes beside those that the interpreter and its libraries take."""


def _limit_memory() -> None:
    with suppress(OSError, ValueError):  # not every system knows both, or lets them be set
        used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * os.sysconf("SC_PAGESIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY, used + _MEMORY))
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _answer(render: Callable[..., Any], request: dict[str, Any]) -> dict[str, Any]:
    """Render one request; an error is named by its class, with the line of the template where that is known."""
    try:
        texts, spans = render(
            conversations=[request["messages"]], chat_template=request["template"], **request["values"]
        )
        if len(texts[0]) > request["longest"]:
            return {"error": "TooLong", "text": f"{len(texts[0]):,} characters"}
        return {"text": texts[0], "spans": spans[0] if spans else []}
    except MemoryError:
        return {"error": "MemoryError", "text": ""}
    except RecursionError:
        return {"error": "RecursionError", "text": "it calls itself without end"}
    except Exception as problem:  # noqa: BLE001  # whatever a stranger's program raises is the answer
        return {"error": type(problem).__name__, "text": str(problem)[:500], "line": getattr(problem, "lineno", None)}


def main() -> None:
    """Answer requests until stdin ends."""
    from transformers.utils.chat_template_utils import render_jinja_template

    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no reply
    _limit_memory()
    replies.write('{"ready": true}\n')
    replies.flush()
    for line in sys.stdin:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, request["seconds"])  # SIGALRM ends the process, also inside C code
        reply = json.dumps(_answer(render_jinja_template, request))
        signal.setitimer(signal.ITIMER_REAL, 0)
        replies.write(reply + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
