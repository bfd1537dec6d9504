"""Questions: one with a few answers, each on a key of its own, the safe one in focus; and one for a line of text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Button, Input, Static

from lora_tui.text import one_line
from lora_tui.tui.screens.dialog import Dialog
from lora_tui.tui.text import DIM, safe_text, styled

_WIDTH = 66
"""Columns inside a dialogue of 72: the least there are from a terminal of 80 on."""


@dataclass(frozen=True, slots=True)
class Choice:
    """An answer: what it returns, its key, its words, and what follows from it."""

    id: str
    key: str
    words: str
    follows: str = ""


class Choose(Dialog[str | None]):
    """Returns the id of the answer; escape is the safe one."""

    CSS_PATH = "dialogs.tcss"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "answer", "Cancel", show=False),
        Binding("up,left", "app.focus_previous", show=False),
        Binding("down,right", "app.focus_next", show=False),
    ]

    def __init__(self, question: str, choices: Sequence[Choice], *, safe: str, details: Content | None = None) -> None:
        super().__init__()
        self._question = question
        self._choices = choices
        self._safe = safe
        self._details = details

    def compose(self) -> ComposeResult:
        """The question, then the answers below each other."""
        with Vertical(classes="dialog"):
            yield Static(safe_text(self._question, "bold"), classes="question")
            if self._details is not None:
                yield Static(self._details, classes="details")
            for choice in self._choices:
                yield _answer(choice)

    def on_mount(self) -> None:
        """Begin on the answer that does no harm."""
        self.query_one(f"#choice-{self._safe}").focus()

    def on_key(self, event: events.Key) -> None:
        """An answer's own key; nothing gets through to the screen below."""
        for choice in self._choices:
            if event.key == choice.key:
                event.stop()
                self.dismiss(choice.id)
                return

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Enter or a click on an answer."""
        self.dismiss((event.button.id or "").removeprefix("choice-"))

    def action_answer(self) -> None:
        """Leave with the safe answer."""
        self.dismiss(self._safe)


def _answer(choice: Choice) -> Button:
    """A choice as a button; what follows from it stands below where there is no room beside the words."""
    label = styled((f" {choice.key} ", "bold reverse"), f" {choice.words}")
    beside = styled(label, (f"  {one_line(choice.follows, _WIDTH)}", DIM))
    name = f"choice-{choice.id}"
    if not choice.follows or beside.cell_length <= _WIDTH:
        return Button(beside if choice.follows else label, id=name, classes="answer", compact=True)
    below = styled(label, (f"\n    {one_line(choice.follows, _WIDTH - 4)}", DIM))
    return Button(below, id=name, classes="answer -two-lines", compact=True)


class Ask(Dialog[str | None]):
    """Returns the line that was typed, None when it was cancelled."""

    CSS_PATH = "dialogs.tcss"

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss", "Cancel", show=False)]

    def __init__(self, question: str, value: str = "") -> None:
        super().__init__()
        self._question = question
        self._value = one_line(value, 4000)

    def compose(self) -> ComposeResult:
        """The question and a field."""
        with Vertical(classes="dialog"):
            yield Static(safe_text(self._question, "bold"), classes="question")
            yield Input(self._value, id="asked", compact=True)
            yield Static(styled(("enter", "bold $accent"), " take it   ", ("escape", "bold $accent"), " cancel"))

    def on_mount(self) -> None:
        """Type at once."""
        self.query_one(Input).focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Hand the line back."""
        event.stop()
        self.dismiss(event.value)
