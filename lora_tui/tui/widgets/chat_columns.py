"""A conversation in two columns, tuned and base model: prompts as plain text, replies as Markdown as they stream in."""

import time
from collections.abc import AsyncIterator, Callable, Sequence

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Markdown, Static
from textual.widgets.markdown import MarkdownStream

from lora_tui.protocol.reply import Notice, Reply, ReplyItem, Side, TextDelta, TokenCount
from lora_tui.text import clean
from lora_tui.tui.text import DIM, safe_text, score_mark, styled
from lora_tui.tui.widgets.panel import set_title

BOTH_SIDES: tuple[Side, Side] = ("tuned", "base")

_FLUSH_SECONDS = 0.06
"""Text that arrives within this time is drawn at once."""


class PromptMessage(Static):
    """What the user has written."""

    DEFAULT_CSS = "PromptMessage { height: auto; margin: 1 0 0 0; padding: 0 1; }"

    def __init__(self, text: str) -> None:
        super().__init__(styled(("you  ", "bold $secondary"), safe_text(text)), markup=False)
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
        self._status = Static("thinking …", classes="figures", markup=False)
        self._markdown = Markdown("", open_links=False)
        self._text = ""
        self.reply: Reply | None = None
        """The whole reply with its statistics, once it has ended."""
        self.rating: int | None = None

    @property
    def text(self) -> str:
        """The reply so far, not cleaned."""
        return self.reply.text if self.reply is not None else self._text

    def compose(self) -> ComposeResult:
        """The text, and its status or statistics below."""
        yield self._markdown
        yield self._status

    def show_status(self, text: str) -> None:
        """Show a line of progress below the text."""
        self._status.update(Content(text))

    async def append(self, text: str) -> None:
        """Add text to the end of the reply."""
        if self._stream is None:
            self._stream = Markdown.get_stream(self._markdown)
        self._text += text
        await self._stream.write(clean(text))

    async def finish(self, reply: Reply) -> None:
        """Show the whole reply with its statistics."""
        await self.end_stream()
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
        speed = f" · {reply.tokens_per_s:.0f} tokens/s" if reply.seconds > 0 else ""
        parts.append((f"{reply.tokens} tokens{speed}", DIM))
        if reply.stopped:
            parts.append((" · stopped", "$warning"))
        if self.rating is not None:
            parts.append((f" · rated {self.rating} of 5", "bold $accent"))
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

    def set_speaker(self, name: str) -> None:
        """Set the title of the first column: the model that replies there."""
        set_title(self._column("tuned"), name)

    def focus_transcript(self) -> None:
        """Focus the first column, so that keys scroll it."""
        self._column("tuned").focus()

    def show_hint(self, text: Content) -> None:
        """Show a text that the first prompt replaces."""
        self._column("tuned").mount(Static(text, classes="hint", markup=False))

    async def add_prompt(self, text: str, sides: Sequence[Side]) -> None:
        """Add a prompt at the end of the columns of these sides."""
        await self.query(".hint").remove()
        for place in self._places(sides):
            await self._column(place).mount(PromptMessage(text))

    async def remove_last_replies(self) -> None:
        """Remove the newest replies, so that others can take their place."""
        for message in self._last_replies.values():
            await message.remove()

    async def clear(self) -> None:
        """Remove all messages."""
        self._last_replies = {}
        for side in BOTH_SIDES:
            await self._column(side).remove_children()

    async def stream_replies(
        self, stream: AsyncIterator[ReplyItem], sides: Sequence[Side], notify: Callable[[str], None]
    ) -> None:
        """Draw the replies of these sides as their items arrive; a `Notice` goes to `notify`."""
        messages: dict[Side, ReplyMessage] = {}
        for side, place in zip(sides, self._places(sides), strict=True):
            column = self._column(place)
            column.anchor()  # scroll along with what comes
            messages[side] = ReplyMessage()
            await column.mount(messages[side])
        self._last_replies = messages
        started = time.monotonic()
        pending: dict[Side, str] = {}
        flushed = 0.0
        try:
            async for item in stream:
                if isinstance(item, TextDelta):
                    pending[item.side] = pending.get(item.side, "") + item.text
                elif isinstance(item, TokenCount):
                    seconds = time.monotonic() - started
                    messages[item.side].show_status(f"thinking … {item.tokens} tokens, {seconds:.0f} s")
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
        messages[side].show_status("")
        await messages[side].append(text)
    pending.clear()
