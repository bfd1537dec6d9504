"""How a conversation in lines is written and read: for a person at a terminal, on a pipe, or as JSON.

stdout carries the replies and nothing else; what is loading, the model's name, the prompt sign, agreement and figures
are narration on stderr. A person's lines are edited with readline where Python has it: arrow keys, and ↑ for the
questions of earlier conversations, which come from the store and are kept nowhere else.
"""

import contextlib
import re
import shutil
import sys
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

from lora_tui.protocol.reply import Notice, Reply, ReplyItem, TextDelta, TokenCount
from lora_tui.terminal.report import PREFIX, done_line, json_line
from lora_tui.text import clean, count, duration, progress_text

if TYPE_CHECKING:
    from lora_tui.engine.chat.session import ChatSession

EXIT = "exit"
"""The word that leaves."""

HELP = "?"
"""The word that names the keys."""

INTERRUPTED = 130
"""Exit status after ctrl+c."""

_AGREES = 0.9
"""Agreement above this is a ✓: the same words but for a slip."""

_REDRAW_SECONDS = 0.5

_KEY_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|O.|.)?")
"""What a key such as an arrow sends; in a line where Python has no readline, which would have acted on it."""

_INDENT = " " * 7
"""Width of the column that says who speaks."""

_KEYS = f"""\
{_INDENT}enter     asks; on an empty line it goes on with a reply that was cut
{_INDENT}↑ ↓       earlier questions; ← → move in the line
{_INDENT}ctrl+c    stops a reply; at the prompt it leaves, as «{EXIT}» does
{_INDENT}Longer replies: --set fine_tuning.chat.max_new_tokens=200"""


class ChatOutput:
    """How a conversation is written; alone it reads lines and writes nothing."""

    loads_meanwhile = False
    """Whether the first line is read while the model is being loaded."""

    goes_on_by_enter = False
    """Whether an empty line goes on with a reply that was cut."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def begin(self, commands: Sequence[str], questions: Sequence[str]) -> None:
        """A conversation with these special commands begins; `questions` were asked in earlier ones."""

    def wait_for_model(self) -> None:
        """Nothing can be done until the model is loaded."""

    def progress(self, phase: str, done: int, total: int) -> None:
        """Loading goes on."""

    def loaded(self, session: "ChatSession") -> None:
        """The model is loaded."""

    def read_line(self) -> str | None:
        """Read the next line; None at the end of the input."""
        line = sys.stdin.readline()
        return line.rstrip("\n") if line else None

    def show_help(self) -> bool:
        """Name the keys; returns False where nobody is there to press them."""
        return False

    def begin_reply(self, text: str) -> None:
        """A line is about to be answered."""

    def item(self, item: ReplyItem) -> None:
        """Write one item of a reply."""

    def end(self, status: str) -> None:
        """The conversation is over."""


def make_chat_output(out: TextIO, *, json_lines: bool, single: bool) -> ChatOutput:
    """Return how a conversation is written to `out`: as JSON, or as lines; `single` for one ``--prompt``."""
    return _JsonOutput(out) if json_lines else _LineOutput(out, live=out.isatty(), single=single)


class _LineOutput(ChatOutput):
    """Plain lines; at a terminal replies as they come, with a prompt sign and figures unless it is a `single` reply."""

    def __init__(self, out: TextIO, *, live: bool, single: bool = False) -> None:
        super().__init__(out)
        self._live = live
        self._interactive = live and not single and sys.stdin.isatty()
        self.loads_meanwhile = self.goes_on_by_enter = self._interactive
        self._status = _StatusLine(sys.stderr if sys.stderr.isatty() else None)
        self._phase = self._loading = ""
        self._began = time.monotonic()
        self._has_text = False
        self._told_of_cut = False

    def begin(self, commands: Sequence[str], questions: Sequence[str]) -> None:
        if not self._interactive:
            return
        _edit_lines(questions)
        print(f"Ask something; the model loads meanwhile. «{HELP}» names the keys, «{EXIT}» leaves.", file=sys.stderr)
        if commands:
            print(f"Special commands: {clean(', '.join(commands))}", file=sys.stderr)

    def wait_for_model(self) -> None:
        self._status.show(self._loading or "loading", since=self._began)

    def progress(self, phase: str, done: int, total: int) -> None:
        if not self._status.possible and phase != self._phase:
            print(f"{PREFIX}{clean(phase)}", file=sys.stderr)
        self._phase = phase
        self._loading = progress_text(phase, done, total if done < total else 0)
        self._status.change(self._loading)

    def loaded(self, session: "ChatSession") -> None:
        self._status.clear()
        seconds = duration(time.monotonic() - self._began)
        print(f"{PREFIX}{clean(session.title)} · loaded in {seconds}", file=sys.stderr)

    def read_line(self) -> str | None:
        if not self._interactive:
            return super().read_line()
        print(file=sys.stderr)
        try:
            line = input(f"{'you':<7}")
        except EOFError:
            print(file=sys.stderr)
            return None
        line = _KEY_SEQUENCE.sub("", line)
        _remember(line.strip())
        return line

    def show_help(self) -> bool:
        if self._interactive:
            print(_KEYS, file=sys.stderr)
        return self._interactive

    def begin_reply(self, text: str) -> None:
        self._has_text = False
        self._out.flush()
        self._status.show(f"{'model':<7}reading" if self._interactive else "reading")

    def item(self, item: ReplyItem) -> None:
        match item:
            case TextDelta():
                self._write_delta(item.text)
            case TokenCount():
                searched = f"searching · {count(item.tokens, 'token')}"
                self._status.change(f"{'model':<7}{searched}" if self._interactive else searched)
            case Notice():
                self._write_notice(item.text)
            case Reply():
                self._write_reply(item)

    def _write_notice(self, text: str) -> None:
        self._status.clear()
        print(f"{PREFIX}{clean(text)}", file=sys.stderr)

    def _write_delta(self, text: str) -> None:
        if self._live:  # on a pipe a reply is written whole
            self._begin_text()
            self._out.write(clean(text))
            self._out.flush()

    def _begin_text(self) -> None:
        self._status.clear()
        if self._interactive and not self._has_text:
            self._out.write(f"{'model':<7}")
        self._has_text = True

    def _write_reply(self, reply: Reply) -> None:
        self._begin_text()
        self._out.write("\n" if self._live else f"{clean(reply.text)}\n")
        self._out.flush()
        begin = _INDENT if self._interactive else PREFIX
        if reply.predefined is not None and reply.agreement is not None:
            mark = "✓" if reply.agreement > _AGREES else "✗"
            print(f"{begin}expected: {clean(reply.predefined)}", file=sys.stderr)
            print(f"{begin}agreement: {mark} {reply.agreement:.2f}", file=sys.stderr)
        if self._interactive:
            print(_INDENT + _figures(reply), file=sys.stderr)
        elif reply.cut and not self._told_of_cut:
            self._told_of_cut = True
            longer = f"--set fine_tuning.chat.max_new_tokens={4 * reply.tokens}"
            print(f"{PREFIX}cut at {count(reply.tokens, 'token')}; {longer} lets it go on.", file=sys.stderr)

    def end(self, status: str) -> None:
        self._status.clear()
        if self._interactive and status == "interrupted":
            print(file=sys.stderr)  # the shell's prompt gets a line of its own


def _figures(reply: Reply) -> str:
    """Tokens, speed and time of a reply, and how it goes on where it was cut."""
    parts = [count(reply.tokens, "token")]
    if reply.seconds:
        parts.append(f"{reply.tokens_per_s:.0f} tokens/s")
    if reply.seconds >= 1:
        parts.append(duration(reply.seconds))
    if reply.can_go_on:
        parts.append(f"{'stopped' if reply.stopped else 'cut'} here: enter on an empty line goes on")
    return " · ".join(parts)


class _JsonOutput(ChatOutput):
    """One JSON object a line: ``started``, ``reply`` for each answer, ``done``."""

    def __init__(self, out: TextIO) -> None:
        super().__init__(out)
        self._question = ""
        self._run: int | None = None

    def loaded(self, session: "ChatSession") -> None:
        self._run = session.source.run_id if session.source is not None else None
        config = session.settings.model_dump(mode="json")
        self._write("started", mode="chat", model=session.base.name, config=config)

    def begin_reply(self, text: str) -> None:
        self._question = text

    def item(self, item: ReplyItem) -> None:
        if isinstance(item, Notice):
            self._write("warning", message=item.text)
        elif isinstance(item, Reply):
            figures: dict[str, Any] = {"tokens": item.tokens, "seconds": item.seconds, "cut": item.cut}
            if item.predefined is not None:
                figures |= {"predefined": item.predefined, "agreement": item.agreement}
            self._write("reply", prompt=self._question, reply=item.text, **figures)

    def end(self, status: str) -> None:
        exit_status = 0 if status == "finished" else INTERRUPTED
        self._out.write(done_line(self._run, time.time(), status, exit_status, {}, None) + "\n")
        self._out.flush()

    def _write(self, event: str, **payload: Any) -> None:
        self._out.write(json_line(event, self._run, time.time(), payload) + "\n")
        self._out.flush()


class _StatusLine:
    """A terminal's line that says what is going on and for how long, drawn again by a thread until it is cleared."""

    def __init__(self, terminal: TextIO | None) -> None:
        self._terminal = terminal
        self._lock = threading.Lock()
        self._text = ""
        self._since = 0.0
        self._over: threading.Event | None = None

    @property
    def possible(self) -> bool:
        """Whether there is a terminal to draw on."""
        return self._terminal is not None

    def show(self, text: str, since: float | None = None) -> None:
        """Show a text, and the seconds since `since` (by ``time.monotonic``; now where not given)."""
        if self._terminal is None:
            return
        self.clear()
        over = threading.Event()
        with self._lock:
            self._text, self._since, self._over = text, since or time.monotonic(), over
            self._draw()
        threading.Thread(target=self._redraw, args=(over,), name="status", daemon=True).start()

    def change(self, text: str) -> None:
        """Show another text where one is shown; the seconds go on."""
        with self._lock:
            if self._over is not None:
                self._text = text
                self._draw()

    def clear(self) -> None:
        """Remove the line."""
        with self._lock:
            if self._over is not None and self._terminal is not None:
                self._over.set()
                self._over = None
                self._terminal.write("\r\x1b[K")
                self._terminal.flush()

    def _redraw(self, over: threading.Event) -> None:
        while not over.wait(_REDRAW_SECONDS):
            with self._lock:
                if self._over is over:
                    self._draw()

    def _draw(self) -> None:
        assert self._terminal is not None
        seconds = time.monotonic() - self._since
        text = f"{self._text} …" + (f" {duration(seconds)}" if seconds >= 1 else "")
        width = shutil.get_terminal_size().columns - 1  # a line that wraps cannot be taken back
        self._terminal.write(f"\r\x1b[K{clean(text)[:width]}")
        self._terminal.flush()


def _edit_lines(questions: Sequence[str]) -> None:
    """Have `input` edit lines, and offer these questions by ↑; without readline it only reads."""
    with contextlib.suppress(ImportError):
        import readline

        readline.set_auto_history(False)
        readline.clear_history()
        for question in questions:
            _remember(question)


def _remember(line: str) -> None:
    """Offer a line by ↑ from now on, unless it is a word of ours, has several lines, or is the newest already."""
    if not line or "\n" in line or line.casefold() in (EXIT, HELP) or "readline" not in sys.modules:
        return
    import readline

    newest = readline.get_current_history_length()
    if not newest or readline.get_history_item(newest) != line:
        readline.add_history(line)
