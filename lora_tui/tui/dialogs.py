"""Modal dialogs: the base class, and the generic ones (a choice, a line of text, an error)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.await_complete import AwaitComplete
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen, ScreenResultType
from textual.widgets import Button, Input, Static

from lora_tui.text import one_line
from lora_tui.tui.text import DIM, safe_text, styled

_WIDTH = 66
"""Columns inside a dialog of 72: the least there are from a terminal of 80 on."""


class Dialog(ModalScreen[ScreenResultType]):
    """Base of every screen over a mode: it is answered once, for two keys pressed at once may both be meant for it.

    The second arrives when the first has closed it. Textual's `dismiss` would then close what lies below, and ends the
    app where nothing may be closed there.
    """

    CSS_PATH = Path(__file__).with_name("dialogs.tcss")
    """The style sheet of all dialogs."""

    def dismiss(self, result: ScreenResultType | None = None) -> AwaitComplete:
        """Close it with a result; does nothing when it is closed already, or lies under another."""
        if not self.is_open:
            return AwaitComplete()
        return super().dismiss(result)

    @property
    def is_open(self) -> bool:
        """Whether it is on top, so that an answer is for it."""
        return self.is_current and self.app.screen is self


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer of a `ChoiceDialog`: the id it returns, its key, its label, and its consequence."""

    id: str
    key: str
    label: str
    consequence: str = ""


class ChoiceDialog(Dialog[str | None]):
    """Question with a few answers, each on a key of its own; returns the answer's id, None for escape and for `safe`.

    `safe` has the focus at first, so that enter does no harm. `details` stand between question and answers.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "Cancel", show=False),
        Binding("up,left", "app.focus_previous", show=False),
        Binding("down,right", "app.focus_next", show=False),
    ]

    def __init__(
        self, question: str, choices: Sequence[Choice], *, safe: str = "cancel", details: Content | None = None
    ) -> None:
        super().__init__()
        self._question = question
        self._choices = choices
        self._safe = safe
        self._details = details

    def compose(self) -> ComposeResult:
        """Question, details, and the answers below each other."""
        with Vertical(classes="dialog"):
            yield Static(safe_text(self._question, "bold"), classes="question")
            if self._details is not None:
                yield Static(self._details, classes="details")
            for choice in self._choices:
                yield _button(choice)

    def on_mount(self) -> None:
        """Focus the answer that does no harm."""
        self.query_one(f"#choice-{self._safe}").focus()

    def on_key(self, event: events.Key) -> None:
        """Take an answer's own key; nothing gets through to the screen below."""
        for choice in self._choices:
            if event.key == choice.key:
                event.stop()
                self._answer(choice.id)
                return

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Take enter or a click on an answer."""
        self._answer((event.button.id or "").removeprefix("choice-"))

    def _answer(self, choice_id: str) -> None:
        self.dismiss(choice_id if choice_id != self._safe else None)


def _button(choice: Choice) -> Button:
    """A choice as a button; its consequence stands below where there is no room beside the label."""
    label = styled((f" {choice.key} ", "bold reverse"), f" {choice.label}")
    beside = styled(label, (f"  {one_line(choice.consequence, _WIDTH)}", DIM))
    name = f"choice-{choice.id}"
    if not choice.consequence or beside.cell_length <= _WIDTH:
        return Button(beside if choice.consequence else label, id=name, classes="answer", compact=True)
    below = styled(label, (f"\n    {one_line(choice.consequence, _WIDTH - 4)}", DIM))
    return Button(below, id=name, classes="answer -two-lines", compact=True)


class TextDialog(Dialog[str | None]):
    """Question for a line of text; returns the line, None when it was cancelled."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss", "Cancel", show=False)]

    def __init__(self, question: str, value: str = "") -> None:
        super().__init__()
        self._question = question
        self._value = one_line(value, 4000)

    def compose(self) -> ComposeResult:
        """Question and field."""
        with Vertical(classes="dialog"):
            yield Static(safe_text(self._question, "bold"), classes="question")
            yield Input(self._value, id="asked", compact=True)
            yield Static(styled(("enter", "bold $accent"), " take it   ", ("escape", "bold $accent"), " cancel"))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Return the line."""
        event.stop()
        self.dismiss(event.value)


@dataclass(frozen=True, slots=True)
class Problem:
    """What went wrong, why, and what to do about it; any text may be foreign."""

    what: str
    why: str = ""
    remedy: str = ""
    log_file: Path | None = None

    def text(self) -> str:
        """All of it, for the clipboard."""
        parts = [self.what, self.why, self.remedy, f"Log: {self.log_file}" if self.log_file else ""]
        return "\n".join(part for part in parts if part)


class ProblemDialog(Dialog[None]):
    """The one panel for everything that goes wrong. `copy` sends text to the clipboard."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,q", "dismiss", "Put away", id="problem.dismiss"),
        Binding("y", "copy", "Copy", id="problem.copy", tooltip="Send all of it to the terminal's clipboard"),
    ]

    def __init__(self, problem: Problem, copy: Callable[[str], None]) -> None:
        super().__init__()
        self._problem = problem
        self._copy = copy

    def compose(self) -> ComposeResult:
        """The problem's parts under each other, those without a text left out."""
        problem = self._problem
        with VerticalScroll(classes="dialog -problem"):
            yield Static(styled(("✗ ", "bold $error"), safe_text(problem.what, "bold")))
            for heading, text in (("Why", problem.why), ("What to do", problem.remedy)):
                if text:
                    yield Static(styled((f"\n{heading}\n", DIM), safe_text(text)))
            if problem.log_file is not None:
                yield Static(styled(("\nLog  ", DIM), safe_text(str(problem.log_file))))
            yield Static(Content.assemble(("\nenter", "bold $accent"), " put away   ", ("y", "bold $accent"), " copy"))

    def action_copy(self) -> None:
        """Send the whole text to the clipboard."""
        self._copy(self._problem.text())
