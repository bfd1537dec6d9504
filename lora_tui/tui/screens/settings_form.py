"""Bases of the forms over a few keys of the configuration: Chat's decoding, and those of the first start."""

from collections.abc import Collection, Mapping
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Input, Static

from lora_tui.config.explain import format_value, parse_edit
from lora_tui.config.keys import settings_value
from lora_tui.config.load import with_values
from lora_tui.config.models import Settings
from lora_tui.errors import LoraTuiError
from lora_tui.tui.dialogs import Dialog
from lora_tui.tui.screens.base import titled
from lora_tui.tui.text import DIM, safe_text, styled


class SettingsForm(Dialog[Settings | None]):
    """Form of a few keys, checked as the configuration is; returns settings with their values, None when cancelled.

    Subclasses lay out `fields` (a field for each of `KEYS`, with its value) and `problem`, which says what is invalid.
    """

    FORM_TITLE: ClassVar[str] = ""
    KEYS: ClassVar[Collection[str]] = ()
    """Dotted keys, from top to bottom."""

    AUTO_FOCUS = "Input"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "app.focus_previous", show=False),
        Binding("down", "app.focus_next", show=False),
    ]

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings
        self.fields = {
            name: Input(format_value(name, settings_value(settings, name)), compact=True) for name in self.KEYS
        }
        self.problem = Static("", markup=False)

    def action_submit(self) -> None:
        """Check all fields together, and return the settings when they are valid."""
        try:
            changes = {name: parse_edit(name, field.value) for name, field in self.fields.items()}
            settings = with_values(self._settings, changes)
            self.check(settings)
        except LoraTuiError as error:
            self.problem.update(styled(("✗ ", "bold $error"), safe_text(str(error))))
            return
        self.dismiss(settings)

    def check(self, settings: Settings) -> None:
        """Raise `LoraTuiError` for what is known to fail before anything is started."""


class StartForm(SettingsForm):
    """What a run needs before it can begin: a question, a field and a help for each key."""

    KEYS: ClassVar[Mapping[str, tuple[str, str]]] = {}
    """Question and help by key."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "Back", show=False),
        Binding("ctrl+s", "submit", "Start", show=False, priority=True),
    ]

    def compose(self) -> ComposeResult:
        """Question, field and help for each key."""
        with titled(VerticalScroll(classes="dialog -wide-dialog"), self.FORM_TITLE):
            for name, (question, help_text) in self.KEYS.items():
                yield Static(styled((question, "bold")), markup=False, classes="field-question")
                yield self.fields[name]
                yield Static(styled((help_text, DIM)), markup=False, classes="field-help")
            yield self.problem
            yield Static(styled(("enter", "bold $accent"), " next   ", ("ctrl+s", "bold $accent"), " start   ",
                                ("escape", "bold $accent"), " back"))  # fmt: skip

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Go on to the next field; from the last, begin."""
        later = list(self.fields.values())
        later = later[later.index(event.input) + 1 :]
        if later:
            later[0].focus()
        else:
            self.action_submit()
