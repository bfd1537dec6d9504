"""A conversation in two columns, tuned and base: prompts as plain text, replies as Markdown while they are decoded."""

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
from lora_tui.tui.widgets.panel import entitle

BOTH: tuple[Side, Side] = ("tuned", "base")

_BETWEEN_FLUSHES = 0.06
"""Seconds for which pieces gather before they are drawn."""


class Asked(Static):
    """What a person has said."""

    DEFAULT_CSS = "Asked { height: auto; margin: 1 0 0 0; padding: 0 1; }"

    def __init__(self, text: str) -> None:
        super().__init__(styled(("you  ", "bold $secondary"), safe_text(text)), markup=False)
        self.text = text


class Answer(Vertical):
    """What a model says. `grow` takes raw pieces; they are cleaned one by one before anything parses them."""

    DEFAULT_CSS = """
    Answer {
        height: auto;
        padding: 0 1;
        border-left: outer $accent 40%;
        margin: 0 0 0 1;
        Markdown { padding: 0; margin: 0; background: transparent; }
        Markdown > *:last-child { margin-bottom: 0; }
        .figures { height: auto; color: $text-muted; }
    }
    """

    def __init__(self, who: str) -> None:
        super().__init__()
        self._who = who
        self._stream: MarkdownStream | None = None
        self._sign = Static("", classes="figures", markup=False)
        self._body = Markdown("", open_links=False)
        self._text = ""
        self.said: Reply | None = None
        self.rating: int | None = None

    @property
    def text(self) -> str:
        """Everything said so far, as it came."""
        return self.said.text if self.said is not None else self._text

    def compose(self) -> ComposeResult:
        """The text, and under it what there is to know about it."""
        yield self._body
        yield self._sign

    def on_mount(self) -> None:
        """Show that something is coming."""
        self.sign("thinking …")

    def sign(self, words: str) -> None:
        """Show a sign of life under the text."""
        self._sign.update(Content(words))

    async def grow(self, piece: str) -> None:
        """Add a piece."""
        if self._stream is None:
            self._stream = Markdown.get_stream(self._body)
        self._text += piece
        await self._stream.write(clean(piece))

    async def finish(self, said: Reply) -> None:
        """Show the whole reply with its figures."""
        await self.settle()
        self.said = said
        if said.text != self._text:
            await self._body.update(clean(said.text))
        self.show_figures()

    async def settle(self) -> None:
        """End the stream: everything that came is on the screen."""
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.stop()

    def show_figures(self) -> None:
        """Say how well it agrees, how long it took and how it was rated."""
        said = self.said
        if said is None:
            return
        parts: list[Content | str | tuple[str, str]] = []
        if said.agreement is not None:
            verdict = "agrees with the expected reply" if said.agreement >= 0.9 else "of the expected reply"
            parts.append(
                (
                    f"{score_mark(said.agreement)} {verdict}\n",
                    "bold $success" if said.agreement >= 0.9 else "bold $warning",
                )
            )
            if said.agreement < 0.9 and said.predefined:
                parts += [("expected  ", DIM), safe_text(said.predefined), "\n"]
        speed = f" · {said.tokens / said.seconds:.0f} tokens/s" if said.seconds > 0 else ""
        parts.append((f"{said.tokens} tokens{speed}", DIM))
        if said.stopped:
            parts.append((" · stopped", "$warning"))
        if self.rating is not None:
            parts.append((f" · rated {self.rating} of 5", "bold $accent"))
        if not said.text:
            parts.insert(0, ("(nothing)\n", DIM))
        self._sign.update(styled(*parts))


class ChatColumns(Horizontal):
    """What was said. The second column is shown where `beside` says so; a base model alone speaks in the first."""

    DEFAULT_CSS = """
    ChatColumns {
        height: 1fr;
        VerticalScroll { width: 1fr; height: 100%; }
        .hint { padding: 1 2; }
    }
    """

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self._last: dict[Side, Answer] = {}

    def compose(self) -> ComposeResult:
        """The columns; the tuned model's stands alone at first."""
        for side in BOTH:
            column = VerticalScroll(id=f"talk-{side}", classes="box")
            column.display = side == "tuned"
            entitle(column, "base model" if side == "base" else "")
            yield column

    @property
    def beside(self) -> bool:
        """Whether the base model's column is shown."""
        return self._column("base").display

    @beside.setter
    def beside(self, beside: bool) -> None:
        self._column("base").display = beside

    @property
    def newest(self) -> Answer | None:
        """The newest reply, the tuned model's where both have spoken."""
        return self._last.get("tuned") or next(iter(self._last.values()), None)

    def entitle(self, speaker: str) -> None:
        """Say who speaks in the first column."""
        entitle(self._column("tuned"), speaker)

    def focus_words(self) -> None:
        """Give the focus to what was said, so that it can be scrolled."""
        self._column("tuned").focus()

    def hint(self, words: Content) -> None:
        """Say something before the first question, which takes its place."""
        self._column("tuned").mount(Static(words, classes="hint", markup=False))

    async def ask(self, text: str, sides: Sequence[Side]) -> None:
        """Put a question under what was said."""
        await self.query(".hint").remove()
        for place in self._places(sides):
            await self._column(place).mount(Asked(text))

    async def take_back(self) -> None:
        """Remove the last answers: they are to be given anew."""
        for answer in self._last.values():
            await answer.remove()

    async def clear(self) -> None:
        """Remove everything."""
        self._last = {}
        for side in BOTH:
            await self._column(side).remove_children()

    async def listen(
        self, stream: AsyncIterator[ReplyItem], sides: Sequence[Side], remark: Callable[[str], None]
    ) -> None:
        """Draw the answers of these sides as they come; pieces that come faster than that are drawn together."""
        answers = await self._begin(sides)
        began = time.monotonic()
        pending: dict[Side, str] = {}
        flushed = 0.0
        try:
            async for item in stream:
                if isinstance(item, TextDelta):
                    pending[item.side] = pending.get(item.side, "") + item.text
                elif isinstance(item, TokenCount):
                    answers[item.side].sign(f"thinking … {item.tokens} tokens, {time.monotonic() - began:.0f} s")
                elif isinstance(item, Notice):
                    remark(item.text)
                else:
                    await _draw_pending(pending, answers)
                    await answers[item.side].finish(item)
                if pending and time.monotonic() - flushed > _BETWEEN_FLUSHES:
                    await _draw_pending(pending, answers)
                    flushed = time.monotonic()
        finally:
            await _draw_pending(pending, answers)
            for answer in answers.values():
                await answer.settle()

    def transcript(self, speaker: str) -> str:
        """The conversation as Markdown, side by side parts one after the other; empty where nothing was said."""
        parts: list[str] = []
        for side in BOTH:
            messages = [child for child in self._column(side).children if isinstance(child, Asked | Answer)]
            if not messages or (side == "base" and not self.beside):
                continue
            parts.append(f"# {speaker if side == 'tuned' else 'Base model'}\n")
            for message in messages:
                who = "you" if isinstance(message, Asked) else "model"
                parts.append(f"**{who}**\n\n{message.text}\n")
        return "\n".join(parts)

    def _column(self, side: Side) -> VerticalScroll:
        return self.query_one(f"#talk-{side}", VerticalScroll)

    def _places(self, sides: Sequence[Side]) -> Sequence[Side]:
        """Columns in which sides are shown."""
        return sides if len(sides) > 1 else ("tuned",)

    async def _begin(self, sides: Sequence[Side]) -> dict[Side, Answer]:
        """An empty answer for each side, in view."""
        found: dict[Side, Answer] = {}
        for side, place in zip(sides, self._places(sides), strict=True):
            column = self._column(place)
            column.anchor()
            found[side] = Answer(side)
            await column.mount(found[side])
        self._last = found
        return found


async def _draw_pending(pending: dict[Side, str], answers: dict[Side, Answer]) -> None:
    for side, text in pending.items():
        answers[side].sign("")
        await answers[side].grow(text)
    pending.clear()
