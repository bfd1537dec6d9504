"""Talking to a model in lines: a person at a terminal, a script on a pipe, or one ``--prompt``.

stdout carries the replies and nothing else; who is talking, the prompt sign, agreement and figures are narration on
stderr. Ctrl+c stops the reply that is being written, and at the prompt it leaves.
"""

import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from lora_tui.config import Settings
from lora_tui.engine.jobs.preflight import check_chat
from lora_tui.engine.runtime.engine import Engine
from lora_tui.protocol.reply import Notice, Reply, ReplyItem, TextDelta, TokenCount
from lora_tui.terminal.report import done_line, json_line
from lora_tui.text import clean, duration

if TYPE_CHECKING:
    from lora_tui.engine.chat.session import ChatSession

EXIT = "exit"
"""The word that leaves."""

_INTERRUPTED = 130


def chat_mode(
    engine: Engine,
    settings: Settings,
    *,
    resume: int | str | None,
    adapter: Path | None,
    prompt: str | None,
    json_lines: bool,
    out: TextIO,
) -> int:
    """Open a session on the engine and converse.

    Returns the exit status. `resume` names the run whose adapter speaks.
    """
    options: dict[str, Any] = {}
    if adapter is not None:
        options["adapter"] = str(adapter)
    elif isinstance(resume, int):
        options |= {"adapter_run": resume, "model_must_match": True}
    speaker = _JsonSpeaker(out) if json_lines else _LineSpeaker(out, live=out.isatty())
    engine.call(check_chat(engine.open_store, settings, options)).result()
    from lora_tui.engine.chat.session import open_session  # torch comes with it: only now, and where ctrl+c ends it

    session = engine.call(open_session(engine, settings, options, speaker.progress)).result()
    speaker.begin(session, asked_once=prompt is not None)
    if prompt is not None:
        return 0 if _answer(engine, session, prompt, speaker) else _INTERRUPTED
    return _converse(engine, session, speaker)


def _converse(engine: Engine, session: "ChatSession", speaker: "_Speaker") -> int:
    """Read lines and answer them until ``exit``, the end of the input, or ctrl+c at the prompt."""
    while True:
        try:
            text = speaker.ask()
        except KeyboardInterrupt:
            speaker.end("interrupted")
            return _INTERRUPTED
        if text is None or text.strip().casefold() == EXIT:
            speaker.end("finished")
            return 0
        if text.strip():
            _answer(engine, session, text.strip(), speaker)


def _answer(engine: Engine, session: "ChatSession", text: str, speaker: "_Speaker") -> bool:
    """Answer one line; returns False when ctrl+c cut the reply short."""
    whole = True
    speaker.asked(text)
    items = _Pulled(engine, session.reply(text))
    while True:
        try:
            item = next(items, None)
            if item is None:
                return whole
            speaker.told(item)
        except KeyboardInterrupt:
            whole = False
            session.stop.set()  # the reply ends at its next token, and its turn is stored


class _Pulled(Iterator[ReplyItem]):
    """An async iterator of the engine's loop, read from this thread; an interruption loses no item."""

    def __init__(self, engine: Engine, stream: AsyncIterator[ReplyItem]) -> None:
        self._engine = engine
        self._stream = stream
        self._pending: Any = None

    def __next__(self) -> ReplyItem:
        if self._pending is None:
            self._pending = self._engine.call(self._next())
        item: ReplyItem | None = self._pending.result()
        self._pending = None
        if item is None:
            raise StopIteration
        return item

    async def _next(self) -> ReplyItem | None:
        return await anext(self._stream, None)


class _Speaker:
    """How a conversation is shown."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def progress(self, phase: str, done: int, total: int) -> None:
        """Loading goes on."""

    def begin(self, session: "ChatSession", *, asked_once: bool) -> None:
        """The model is ready."""

    def ask(self) -> str | None:
        """Read the next line; None at the end of the input."""
        line = sys.stdin.readline()
        return line.rstrip("\n") if line else None

    def asked(self, text: str) -> None:
        """A line is about to be answered."""

    def told(self, item: ReplyItem) -> None:
        """Show what the conversation says."""
        match item:
            case TextDelta():
                self.piece(item.text)
            case TokenCount():
                self.searching(item.tokens)
            case Notice():
                self.note(item.text)
            case Reply():
                self.finished(item)

    def piece(self, text: str) -> None:
        """A piece of the reply has come."""

    def searching(self, tokens: int) -> None:
        """A beam search has come so far."""

    def note(self, text: str) -> None:
        """There is something to know about the conversation."""

    def finished(self, reply: Reply) -> None:
        """The reply is complete."""

    def end(self, status: str) -> None:
        """The conversation is over."""


class _LineSpeaker(_Speaker):
    """Plain lines; at a terminal with a prompt sign, figures, and replies as they come."""

    def __init__(self, out: TextIO, *, live: bool) -> None:
        super().__init__(out)
        self._live = live
        self._talks = live and sys.stdin.isatty()
        self._phase = ""
        self._streams = False

    def progress(self, phase: str, done: int, total: int) -> None:
        if sys.stderr.isatty():
            share = f" {100 * done // total} %" if total > 1 else " …"
            sys.stderr.write(f"\r\x1b[K{clean(phase)}{share}" if done < total else "\r\x1b[K")
            sys.stderr.flush()
        elif phase != self._phase:
            print(f"lora-tui: {clean(phase)}", file=sys.stderr)
        self._phase = phase

    def begin(self, session: "ChatSession", *, asked_once: bool) -> None:
        self._streams = session.streams
        print(f"lora-tui: {clean(session.title)}", file=sys.stderr)
        if self._talks and not asked_once:
            words = ", ".join(session.settings.fine_tuning.chat.commands)
            special = f" · special commands: {clean(words)}" if words else ""
            print(f"Type a question; «{EXIT}» leaves · ctrl+c stops a reply{special}", file=sys.stderr)

    def ask(self) -> str | None:
        if not self._talks:
            return super().ask()
        try:
            return input("\nyou    ")
        except EOFError:
            print(file=sys.stderr)
            return None

    def asked(self, text: str) -> None:
        if self._talks:
            if self._streams:
                self._out.write("model  ")
            else:
                sys.stderr.write("model  searching …")
                sys.stderr.flush()
        self._out.flush()

    def searching(self, tokens: int) -> None:
        if self._talks:
            sys.stderr.write(f"\r\x1b[Kmodel  searching … {tokens} tokens")
            sys.stderr.flush()

    def note(self, text: str) -> None:
        if self._talks:
            sys.stderr.write("\r\x1b[K")  # the reply's line has begun, and begins again below the note
        print(f"lora-tui: {clean(text)}", file=sys.stderr)
        self.asked("")

    def piece(self, text: str) -> None:
        if not self._live:
            return  # on a pipe a reply is written whole
        if self._talks and not self._streams:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._out.write("model  ")
        self._out.write(clean(text))
        self._out.flush()

    def finished(self, reply: Reply) -> None:
        self._out.write("\n" if self._live else f"{clean(reply.text)}\n")
        if reply.predefined is not None and reply.agreement is not None:
            mark = "✓" if reply.agreement > 0.9 else "✗"  # the same words but for a slip
            self._out.write(f"expected: {clean(reply.predefined)}\nagreement: {mark} {reply.agreement:.2f}\n")
        self._out.flush()
        if self._talks:
            speed = f"{reply.tokens / reply.seconds:.0f} tokens/s" if reply.seconds else ""
            print(f"       {reply.tokens} tokens · {speed} · {duration(reply.seconds)}", file=sys.stderr)


class _JsonSpeaker(_Speaker):
    """One JSON object a line: ``started``, ``reply`` for each answer, ``done``."""

    def __init__(self, out: TextIO) -> None:
        super().__init__(out)
        self._question = ""
        self._run: int | None = None

    def begin(self, session: "ChatSession", *, asked_once: bool) -> None:
        self._run = session.source.run_id if session.source is not None else None
        config = session.settings.model_dump(mode="json")
        self._write("started", mode="chat", model=session.base.name, config=config)
        self._asked_once = asked_once

    def asked(self, text: str) -> None:
        self._question = text

    def note(self, text: str) -> None:
        self._write("warning", message=text)

    def finished(self, reply: Reply) -> None:
        told = {"predefined": reply.predefined, "agreement": reply.agreement} if reply.predefined is not None else {}
        self._write(
            "reply", prompt=self._question, reply=reply.text, tokens=reply.tokens, seconds=reply.seconds, **told
        )
        if self._asked_once:
            self.end("finished")

    def end(self, status: str) -> None:
        exit_status = 0 if status == "finished" else _INTERRUPTED
        self._out.write(done_line(self._run, time.time(), status, exit_status, {}, None) + "\n")
        self._out.flush()

    def _write(self, event: str, **payload: Any) -> None:
        self._out.write(json_line(event, self._run, time.time(), payload) + "\n")
        self._out.flush()
