"""One message of a conversation: a prompt as plain text, or a reply as Markdown that grows while it is decoded."""

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Markdown, Static
from textual.widgets.markdown import MarkdownStream

from lora_tui.protocol.reply import Reply
from lora_tui.text import clean
from lora_tui.tui.text import DIM, Content, agreement, plain, styled


class Asked(Static):
    """What a person has said."""

    DEFAULT_CSS = "Asked { height: auto; margin: 1 0 0 0; padding: 0 1; }"

    def __init__(self, text: str) -> None:
        super().__init__(styled(("you  ", "bold $secondary"), plain(text)), markup=False)
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
                    f"{agreement(said.agreement)} {verdict}\n",
                    "bold $success" if said.agreement >= 0.9 else "bold $warning",
                )
            )
            if said.agreement < 0.9 and said.predefined:
                parts += [("expected  ", DIM), plain(said.predefined), "\n"]
        speed = f" · {said.tokens / said.seconds:.0f} tokens/s" if said.seconds > 0 else ""
        parts.append((f"{said.tokens} tokens{speed}", DIM))
        if said.stopped:
            parts.append((" · stopped", "$warning"))
        if self.rating is not None:
            parts.append((f" · rated {self.rating} of 5", "bold $accent"))
        if not said.text:
            parts.insert(0, ("(nothing)\n", DIM))
        self._sign.update(styled(*parts))
