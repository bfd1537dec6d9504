"""How replies are decoded: a small form over ``[fine_tuning.chat]``, checked as the configuration is."""

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import Input, Label, Static

from lora_tui.config import Settings, all_keys, settings_value, with_values
from lora_tui.config.explain import parse_edit, shown
from lora_tui.errors import ConfigError
from lora_tui.tui.screens.dialog import Dialog
from lora_tui.tui.text import DIM, safe_text, styled
from lora_tui.tui.widgets.key_hints import KeyHints
from lora_tui.tui.widgets.panel import entitle

_SECTION = "fine_tuning.chat"
_KEYS = ("num_beams", "max_new_tokens", "temperature", "top_p", "repetition_penalty")


class DecodingScreen(Dialog[Settings | None]):
    """Returns the settings with what was changed, None when it was cancelled."""

    CSS_PATH = "../dialogs.tcss"

    LESSON = "09-chatting-and-decoding"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "Cancel", id="decoding.cancel"),
        Binding("ctrl+s", "apply", "Apply", id="decoding.apply", priority=True),
        Binding("up", "app.focus_previous", show=False),
        Binding("down", "app.focus_next", show=False),
    ]

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings

    def compose(self) -> ComposeResult:
        """A line a key, its meaning under it."""
        with Vertical(classes="dialog"):
            for leaf in _KEYS:
                key = all_keys()[f"{_SECTION}.{leaf}"]
                with Horizontal(classes="field"):
                    yield Label(Content(leaf))
                    yield Input(
                        shown(key.name, settings_value(self._settings, key.name)), id=f"decode-{leaf}", compact=True
                    )
                yield Static(Content.styled(key.description, DIM), markup=False, classes="field-help")
            yield Static("", id="decode-problem", markup=False)
            yield KeyHints()

    def on_mount(self) -> None:
        """Begin in the first field."""
        entitle(self.query_one(".dialog"), "How replies are decoded")
        self.query_one(f"#decode-{_KEYS[0]}").focus()

    @on(Input.Submitted)
    def action_apply(self) -> None:
        """Check all fields together, and hand them back when they can be meant."""
        try:
            changes = {
                f"{_SECTION}.{leaf}": parse_edit(f"{_SECTION}.{leaf}", self.query_one(f"#decode-{leaf}", Input).value)
                for leaf in _KEYS
            }
            self.dismiss(with_values(self._settings, changes))
        except ConfigError as problem:
            self.query_one("#decode-problem", Static).update(styled(("✗ ", "bold $error"), safe_text(str(problem))))
