"""The one panel for everything that goes wrong: what, why, what to do, where the log is."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from lora_tui.tui.screens.dialog import Dialog
from lora_tui.tui.text import DIM, safe_text, styled

if TYPE_CHECKING:
    from lora_tui.tui.app import LoraApp


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


class ProblemScreen(Dialog[None]):
    """Shows a problem until it is put away."""

    CSS_PATH = "../dialogs.tcss"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,q", "dismiss", "Put away", id="problem.dismiss"),
        Binding("y", "copy", "Copy", id="problem.copy", tooltip="Send all of it to the terminal's clipboard"),
    ]

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self._problem = problem

    def compose(self) -> ComposeResult:
        """The parts under each other, what there is no word of left out."""
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
        app: LoraApp = self.app  # type: ignore[assignment]  # the only app there is
        app.copy(self._problem.text())
