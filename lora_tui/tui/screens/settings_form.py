"""Base of the forms over a few keys of the configuration: those of the first start, and Chat's decoding."""

from collections.abc import Collection
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widgets import Input, Static

from lora_tui.config.explain import format_value, parse_edit
from lora_tui.config.keys import settings_value
from lora_tui.config.load import with_values
from lora_tui.config.models import Settings
from lora_tui.errors import LoraTuiError
from lora_tui.tui.dialogs import Dialog
from lora_tui.tui.text import safe_text, styled


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
