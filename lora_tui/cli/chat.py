"""Chat in lines: a person at a terminal, a script on a pipe, or one ``--prompt``.

stdout carries the replies and nothing else; the model's name, the prompt sign, agreement and figures are narration on
stderr. Ctrl+c stops the reply that is being written, and at the prompt it leaves.
"""

import sys
import time
from collections.abc import AsyncIterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TextIO

from lora_tui.cli.request import Request
from lora_tui.config.models import Settings
from lora_tui.engine.jobs.preflight import check_chat
from lora_tui.engine.runtime.engine import Engine
from lora_tui.protocol.reply import Notice, Reply, ReplyItem, TextDelta, TokenCount
from lora_tui.terminal.report import done_line, json_line
from lora_tui.text import clean, duration

if TYPE_CHECKING:
    from lora_tui.engine.chat.session import ChatSession

_EXIT = "exit"
"""The word that leaves."""

_INTERRUPTED = 130


def chat_mode(engine: Engine, settings: Settings, request: Request, out: TextIO) -> int:
    """Open a chat session on the engine and answer the prompt, or line after line; returns the exit status."""
    options: dict[str, Any] = {}
    if request.adapter is not None:
        options["adapter"] = str(request.adapter.expanduser())
    elif isinstance(request.resume, int):
        options |= {"adapter_run": request.resume, "model_must_match": True}
    output = _JsonOutput(out) if request.json_lines else _LineOutput(out, live=out.isatty())
    engine.call(check_chat(engine.open_store, settings, options)).result()
    from lora_tui.engine.chat.session import open_session  # torch comes with it: only now, and where ctrl+c ends it

    session = engine.call(open_session(engine, settings, options, output.progress)).result()
    output.begin(session, single=request.prompt is not None)
    if request.prompt is not None:
        whole = _answer(engine, session, request.prompt, output)
        output.end("finished" if whole else "interrupted")
        return 0 if whole else _INTERRUPTED
    return _answer_lines(engine, session, output)


def _answer_lines(engine: Engine, session: "ChatSession", output: "_ChatOutput") -> int:
    """Read lines and answer them until ``exit``, the end of the input, or ctrl+c at the prompt."""
    while True:
        try:
            text = output.read_line()
        except KeyboardInterrupt:
            output.end("interrupted")
            return _INTERRUPTED
        if text is None or text.strip().casefold() == _EXIT:
            output.end("finished")
            return 0
        if text.strip():
            _answer(engine, session, text.strip(), output)


def _answer(engine: Engine, session: "ChatSession", text: str, output: "_ChatOutput") -> bool:
    """Answer one line; returns False when ctrl+c cut the reply short. An interruption loses no item."""
    whole = True
    output.begin_reply(text)
    items = session.reply(text)
    pending: Future[ReplyItem | None] | None = None
    while True:
        try:
            if pending is None:
                pending = engine.call(_next_item(items))
            item = pending.result()
            pending = None
            if item is None:
                return whole
            output.item(item)
        except KeyboardInterrupt:
            whole = False
            session.stop.set()  # the reply ends at its next token, and its turn is stored


async def _next_item(items: AsyncIterator[ReplyItem]) -> ReplyItem | None:
    return await anext(items, None)


class _ChatOutput:
    """How a conversation is written; alone it reads lines and writes nothing."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def progress(self, phase: str, done: int, total: int) -> None:
        """Loading goes on."""

    def begin(self, session: "ChatSession", *, single: bool) -> None:
        """The model is loaded, for a `single` prompt or for many lines."""

    def read_line(self) -> str | None:
        """Read the next line; None at the end of the input."""
        line = sys.stdin.readline()
        return line.rstrip("\n") if line else None

    def begin_reply(self, text: str) -> None:
        """A line is about to be answered."""

    def item(self, item: ReplyItem) -> None:
        """Write one item of a reply."""

    def end(self, status: str) -> None:
        """The conversation is over."""


class _LineOutput(_ChatOutput):
    """Plain lines; at a terminal with a prompt sign, figures, and replies as they come."""

    def __init__(self, out: TextIO, *, live: bool) -> None:
        super().__init__(out)
        self._live = live
        self._interactive = live and sys.stdin.isatty()
        self._phase = ""
        self._streams = False

    def progress(self, phase: str, done: int, total: int) -> None:
        if sys.stderr.isatty():
            share = f" {100 * done // total} %" if total > 1 else " …"
            print(f"\r\x1b[K{clean(phase)}{share}" if done < total else "\r\x1b[K", end="", file=sys.stderr, flush=True)
        elif phase != self._phase:
            print(f"lora-tui: {clean(phase)}", file=sys.stderr)
        self._phase = phase

    def begin(self, session: "ChatSession", *, single: bool) -> None:
        self._streams = session.streams
        print(f"lora-tui: {clean(session.title)}", file=sys.stderr)
        if self._interactive and not single:
            words = ", ".join(session.settings.fine_tuning.chat.commands)
            special = f" · special commands: {clean(words)}" if words else ""
            print(f"Type a question; «{_EXIT}» leaves · ctrl+c stops a reply{special}", file=sys.stderr)

    def read_line(self) -> str | None:
        if not self._interactive:
            return super().read_line()
        try:
            return input("\nyou    ")
        except EOFError:
            print(file=sys.stderr)
            return None

    def begin_reply(self, text: str) -> None:
        if self._interactive:
            if self._streams:
                self._out.write("model  ")
            else:
                print("model  searching …", end="", file=sys.stderr, flush=True)
        self._out.flush()

    def item(self, item: ReplyItem) -> None:
        match item:
            case TextDelta():
                self._write_delta(item.text)
            case TokenCount() if self._interactive:
                print(f"\r\x1b[Kmodel  searching … {item.tokens} tokens", end="", file=sys.stderr, flush=True)
            case Notice():
                self._write_notice(item.text)
            case Reply():
                self._write_reply(item)

    def _write_notice(self, text: str) -> None:
        if self._interactive:
            sys.stderr.write("\r\x1b[K")  # the reply's line has begun, and begins again below the notice
        print(f"lora-tui: {clean(text)}", file=sys.stderr)
        self.begin_reply("")

    def _write_delta(self, text: str) -> None:
        if not self._live:
            return  # on a pipe a reply is written whole
        if self._interactive and not self._streams:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._out.write("model  ")
        self._out.write(clean(text))
        self._out.flush()

    def _write_reply(self, reply: Reply) -> None:
        self._out.write("\n" if self._live else f"{clean(reply.text)}\n")
        if reply.predefined is not None and reply.agreement is not None:
            mark = "✓" if reply.agreement > 0.9 else "✗"  # the same words but for a slip
            self._out.write(f"expected: {clean(reply.predefined)}\nagreement: {mark} {reply.agreement:.2f}\n")
        self._out.flush()
        if self._interactive:
            speed = f"{reply.tokens_per_s:.0f} tokens/s" if reply.seconds else ""
            print(f"       {reply.tokens} tokens · {speed} · {duration(reply.seconds)}", file=sys.stderr)


class _JsonOutput(_ChatOutput):
    """One JSON object a line: ``started``, ``reply`` for each answer, ``done``."""

    def __init__(self, out: TextIO) -> None:
        super().__init__(out)
        self._question = ""
        self._run: int | None = None

    def begin(self, session: "ChatSession", *, single: bool) -> None:
        self._run = session.source.run_id if session.source is not None else None
        config = session.settings.model_dump(mode="json")
        self._write("started", mode="chat", model=session.base.name, config=config)

    def begin_reply(self, text: str) -> None:
        self._question = text

    def item(self, item: ReplyItem) -> None:
        if isinstance(item, Notice):
            self._write("warning", message=item.text)
        elif isinstance(item, Reply):
            figures: dict[str, Any] = {"tokens": item.tokens, "seconds": item.seconds}
            if item.predefined is not None:
                figures |= {"predefined": item.predefined, "agreement": item.agreement}
            self._write("reply", prompt=self._question, reply=item.text, **figures)

    def end(self, status: str) -> None:
        exit_status = 0 if status == "finished" else _INTERRUPTED
        self._out.write(done_line(self._run, time.time(), status, exit_status, {}, None) + "\n")
        self._out.flush()

    def _write(self, event: str, **payload: Any) -> None:
        self._out.write(json_line(event, self._run, time.time(), payload) + "\n")
        self._out.flush()
