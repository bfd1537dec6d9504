"""A conversation in two columns, tuned and base model: prompts as plain text, replies as Markdown as they stream in."""

import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Markdown, Static
from textual.widgets.markdown import MarkdownStream

from lora_tui.protocol.reply import Notice, Reply, ReplyItem, Side, TextDelta, TokenCount
from lora_tui.text import clean, count, duration
from lora_tui.tui.text import DIM, safe_text, score_mark, styled
from lora_tui.tui.widgets.panel import set_title

BOTH_SIDES: tuple[Side, Side] = ("tuned", "base")

_TICK_SECONDS = 0.5

_FLUSH_SECONDS = 0.06
"""Text that arrives within this time is drawn at once."""


class PromptMessage(Static):
    """What the user has written; `shown` in its place where it is too long to be shown whole."""

    DEFAULT_CSS = "PromptMessage { height: auto; margin: 1 0 0 0; padding: 0 1; }"

    def __init__(self, text: str, shown: str | None = None) -> None:
        super().__init__(styled(("you  ", "bold $secondary"), safe_text(shown or text)), markup=False)
        self.text = text


class ReplyMessage(Vertical):
    """A model's reply. `append` takes raw text and cleans each piece before the Markdown parser sees it."""

    DEFAULT_CSS = """
    ReplyMessage {
        height: auto;
        padding: 0 1;
        border-left: outer $accent 40%;
        margin: 0 0 0 1;
        Markdown { padding: 0; margin: 0; background: transparent; }
        Markdown > *:last-child { margin-bottom: 0; }
        .figures { height: auto; color: $text-muted; }
    }
    """

    def __init__(self) -> None:
        super().__init__()
        self._stream: MarkdownStream | None = None
        self._status = Static("", classes="figures", markup=False)
        self._doing = ""
        self._since = time.monotonic()
        self._markdown = Markdown("", open_links=False)
        self._text = ""
        self.reply: Reply | None = None
        """The whole reply with its statistics, once it has ended."""
        self.ratings: list[int] = []
        """Ratings of the reply, the one in force last."""

    @property
    def text(self) -> str:
        """The reply so far, not cleaned."""
        return self.reply.text if self.reply is not None else self._text

    @property
    def can_go_on(self) -> bool:
        """Whether the reply has ended where the model had more to say."""
        return self.reply is not None and self.reply.can_go_on

    def compose(self) -> ComposeResult:
        """The text, and its status or statistics below."""
        yield self._markdown
        yield self._status

    def on_mount(self) -> None:
        """Keep the seconds of what is going on up to date."""
        self.set_interval(_TICK_SECONDS, self._show_progress)

    def show_progress(self, doing: str, *, anew: bool = False) -> None:
        """Show below the text what is going on, and for how long; `anew` begins to count."""
        self._doing = doing
        if anew:
            self._since = time.monotonic()
        self._show_progress()

    def _show_progress(self) -> None:
        if self._doing:
            seconds = time.monotonic() - self._since
            elapsed = f" · {duration(seconds)}" if seconds >= 1 else ""
            self._status.update(Content(f"{self._doing} …{elapsed}"))

    def show_end(self, text: str) -> None:
        """Show why no more comes."""
        self._doing = ""
        self._status.update(styled((text, "$warning")))

    def go_on(self) -> None:
        """More text is about to come after that of the reply."""
        self._text = self.text
        self.reply = None

    async def append(self, text: str) -> None:
        """Add text to the end of the reply."""
        if self._stream is None:
            self._doing = ""
            self._status.update("")
            self._stream = Markdown.get_stream(self._markdown)
        self._text += text
        await self._stream.write(clean(text))

    async def finish(self, reply: Reply) -> None:
        """Show the whole reply with its statistics."""
        await self.end_stream()
        self._doing = ""
        self.reply = reply
        if reply.text != self._text:
            await self._markdown.update(clean(reply.text))
        self.show_statistics()

    async def end_stream(self) -> None:
        """Close the Markdown stream; all its text has been drawn on return."""
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.stop()

    def show_statistics(self) -> None:
        """Show agreement with the expected reply, tokens, speed and rating; nothing before the reply has ended."""
        reply = self.reply
        if reply is None:
            return
        parts: list[Content | str | tuple[str, str]] = []
        if reply.agreement is not None:
            agrees = reply.agreement >= 0.9
            verdict = "agrees with the expected reply" if agrees else "of the expected reply"
            parts.append((f"{score_mark(reply.agreement)} {verdict}\n", "bold $success" if agrees else "bold $warning"))
            if not agrees and reply.predefined:
                parts += [("expected  ", DIM), safe_text(reply.predefined), "\n"]
        speed = (
            f" · {reply.tokens_per_s:{'.2g' if reply.tokens_per_s < 10 else '.0f'}} tokens/s"
            if reply.seconds > 0
            else ""
        )
        parts.append((f"{count(reply.tokens, 'token')}{speed}", DIM))
        if reply.can_go_on:
            parts += [(f" · {'stopped' if reply.stopped else 'cut'} here", "$warning"), (" · enter goes on", DIM)]
        if self.ratings:
            parts.append((f" · rated {self.ratings[-1]} of 5", "bold $accent"))
        if not reply.text:
            parts.insert(0, ("(nothing)\n", DIM))
        self._status.update(styled(*parts))


class ChatColumns(Horizontal):
    """The messages. The second column is shown where `base_shown` is set; a base model alone speaks in the first."""

    DEFAULT_CSS = """
    ChatColumns {
        height: 1fr;
        VerticalScroll { width: 1fr; height: 100%; }
        .hint { padding: 1 2; }
    }
    """

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self._last_prompts: list[PromptMessage] = []
        self._last_replies: dict[Side, ReplyMessage] = {}

    def compose(self) -> ComposeResult:
        """Two columns; the tuned model's alone is shown at first."""
        for side in BOTH_SIDES:
            column = VerticalScroll(id=f"talk-{side}", classes="box")
            column.display = side == "tuned"
            set_title(column, "base model" if side == "base" else "")
            yield column

    @property
    def base_shown(self) -> bool:
        """Whether the base model's column is shown."""
        return self._column("base").display

    @base_shown.setter
    def base_shown(self, shown: bool) -> None:
        self._column("base").display = shown

    @property
    def newest_reply(self) -> ReplyMessage | None:
        """The newest reply, the tuned model's where both have replied."""
        return self._last_replies.get("tuned") or next(iter(self._last_replies.values()), None)

    @property
    def can_go_on(self) -> bool:
        """Whether a reply of the newest exchange was cut or stopped."""
        return any(message.can_go_on for message in self._last_replies.values())

    @property
    def is_empty(self) -> bool:
        """Whether nothing has come of the newest exchange yet."""
        return not any(message.text for message in self._last_replies.values())

    def end_with(self, text: str) -> None:
        """Show why the newest replies that have not ended get no more text."""
        for message in self._last_replies.values():
            if message.reply is None:
                message.show_end(text)

    def set_speaker(self, name: str) -> None:
        """Set the title of the first column: the model that replies there."""
        set_title(self._column("tuned"), name)

    def focus_transcript(self) -> None:
        """Focus the first column, so that keys scroll it."""
        self._column("tuned").focus()

    def show_hint(self, text: Content) -> None:
        """Show a text that the first prompt replaces."""
        self._column("tuned").mount(Static(text, classes="hint", markup=False))

    async def begin_exchange(self, text: str | None, sides: Sequence[Side], shown: str | None = None) -> None:
        """Add a prompt and the places of its replies; without a text the replies alone, in the place of the last."""
        await self.query(".hint").remove()
        if text is None:
            await self._remove(self._last_replies.values())
        self._last_prompts = []
        self._last_replies = {}
        for side, place in zip(sides, self._places(sides), strict=True):
            column = self._column(place)
            column.anchor()  # scroll along with what comes
            if text is not None:
                self._last_prompts.append(PromptMessage(text, shown))
                await column.mount(self._last_prompts[-1])
            self._last_replies[side] = ReplyMessage()
            await column.mount(self._last_replies[side])

    async def take_back(self) -> None:
        """Remove the newest exchange, which has no reply."""
        await self._remove([*self._last_prompts, *self._last_replies.values()])
        self._last_prompts, self._last_replies = [], {}

    def show_progress(self, doing: str, *, anew: bool = False) -> None:
        """Show where replies will come what is going on, and for how long; `anew` begins to count."""
        for message in self._last_replies.values():
            if message.reply is None:
                message.show_progress(doing, anew=anew)

    async def _remove(self, messages: Iterable[Widget]) -> None:
        for message in messages:
            await message.remove()

    async def clear(self) -> None:
        """Remove all messages."""
        self._last_prompts, self._last_replies = [], {}
        for side in BOTH_SIDES:
            await self._column(side).remove_children()

    async def stream_replies(self, stream: AsyncIterator[ReplyItem], notify: Callable[[str], None]) -> None:
        """Draw the replies of the newest exchange as their items arrive; a `Notice` goes to `notify`."""
        messages = self._last_replies
        pending: dict[Side, str] = {}
        flushed = 0.0
        try:
            async for item in stream:
                if isinstance(item, TextDelta):
                    pending[item.side] = pending.get(item.side, "") + item.text
                elif isinstance(item, TokenCount):
                    messages[item.side].show_progress(f"searching · {count(item.tokens, 'token')} so far")
                elif isinstance(item, Notice):
                    notify(item.text)
                else:
                    await _flush(pending, messages)
                    await messages[item.side].finish(item)
                if pending and time.monotonic() - flushed > _FLUSH_SECONDS:
                    await _flush(pending, messages)
                    flushed = time.monotonic()
        finally:
            await _flush(pending, messages)
            for message in messages.values():
                await message.end_stream()

    async def go_on(self, stream: AsyncIterator[ReplyItem], notify: Callable[[str], None]) -> None:
        """Draw what comes after the newest replies that were cut or stopped."""
        for message in self._last_replies.values():
            if message.can_go_on:
                message.go_on()
        self.show_progress("reading", anew=True)
        await self.stream_replies(stream, notify)

    def transcript(self, speaker: str) -> str:
        """The conversation as Markdown, one column after the other; empty where there are no messages."""
        parts: list[str] = []
        for side in BOTH_SIDES:
            messages = [
                child for child in self._column(side).children if isinstance(child, PromptMessage | ReplyMessage)
            ]
            if not messages or (side == "base" and not self.base_shown):
                continue
            parts.append(f"# {speaker if side == 'tuned' else 'Base model'}\n")
            for message in messages:
                author = "you" if isinstance(message, PromptMessage) else "model"
                parts.append(f"**{author}**\n\n{message.text}\n")
        return "\n".join(parts)

    def _column(self, side: Side) -> VerticalScroll:
        return self.query_one(f"#talk-{side}", VerticalScroll)

    def _places(self, sides: Sequence[Side]) -> Sequence[Side]:
        """The columns in which these sides are shown: one side alone is always in the first."""
        return sides if len(sides) > 1 else ("tuned",)


async def _flush(pending: dict[Side, str], messages: dict[Side, ReplyMessage]) -> None:
    """Draw the text that has gathered."""
    for side, text in pending.items():
        await messages[side].append(text)
    pending.clear()
