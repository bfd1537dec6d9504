"""The dialogs of Chat: which checkpoint to talk to, and how its replies are decoded (``[fine_tuning.chat]``)."""

from collections.abc import Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import Input, Label, Static

from lora_tui.config.explain import format_value, parse_edit
from lora_tui.config.keys import all_keys, settings_value
from lora_tui.config.load import with_values
from lora_tui.config.models import Settings
from lora_tui.errors import ConfigError
from lora_tui.protocol.backend import ChatTarget
from lora_tui.store.queries.runs import RunLine, checkpoints
from lora_tui.store.rows import LIVE_STATES, Checkpoint
from lora_tui.text import one_line
from lora_tui.tui.dialogs import Dialog
from lora_tui.tui.services import AppServices
from lora_tui.tui.state import TRAINING_MODES
from lora_tui.tui.text import DIM, number, safe_text, styled
from lora_tui.tui.theme import state_label
from lora_tui.tui.widgets.key_hints import KeyHints
from lora_tui.tui.widgets.panel import set_title
from lora_tui.tui.widgets.row_list import Cell, Column, RowList

_COLUMNS = (
    Column("who", 16),
    Column("checkpoint", 16),
    Column("score", 6, right=True),
    Column("state", 13),
    Column("model and data", 0),
)
_MOST_RUNS = 50

_SECTION = "fine_tuning.chat"
_KEYS = ("num_beams", "max_new_tokens", "temperature", "top_p", "repetition_penalty")
"""Keys of the section that are offered."""


class CheckpointPicker(Dialog[ChatTarget | None]):
    """List of every run's best and last checkpoint, and the base model; returns the choice, None when cancelled."""

    CSS_PATH = "../dialogs.tcss"

    LESSON = "09-chatting-and-decoding"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "dismiss", "Cancel", id="whom.cancel")]

    def __init__(self, services: AppServices) -> None:
        super().__init__()
        self._services = services
        self._choices: list[tuple[ChatTarget, list[Cell]]] = []

    def compose(self) -> ComposeResult:
        """A list."""
        with Vertical(classes="dialog -wide-dialog -tall-dialog"):
            yield RowList(lambda index: self._choices[index][1], _COLUMNS, id="checkpoints")
            yield KeyHints()

    async def on_mount(self) -> None:
        """Read the checkpoints that there are."""
        set_title(self.query_one(".dialog"), "Talk to")
        store, state = self._services.reader.store, self._services.state
        trained = [run for run in state.runs if run.mode in TRAINING_MODES][:_MOST_RUNS]
        for run in trained:
            kinds: dict[str, Checkpoint] = {}
            for checkpoint in await checkpoints(store, run.id) if store is not None else ():
                kinds.setdefault(checkpoint.kind, checkpoint)
            best, last = kinds.get("best"), kinds.get("last")
            if best is not None:
                self._choices.append((ChatTarget(run.id, "best"), _cells(run, best)))
            # The newest checkpoint of a run that has ended is worth a line only where it is another one than the best.
            if last is not None and (best is None or best.step != last.step or run.state in LIVE_STATES):
                self._choices.append((ChatTarget(run.id, "last"), _cells(run, last)))
        model = one_line(state.settings.fine_tuning.model_name, 120)
        base: Sequence[Cell] = [("base model", "strong"), ("no adapter", ""), ("", ""), ("", ""), (model, "dim")]
        self._choices.append((ChatTarget(base_only=True), list(base)))
        rows = self.query_one(RowList)
        rows.show(len(self._choices))
        rows.focus()

    @on(RowList.Chosen)
    def _chosen(self, event: RowList.Chosen) -> None:
        self.dismiss(self._choices[event.index][0])


def _cells(run: RunLine, checkpoint: Checkpoint) -> list[Cell]:
    """A checkpoint's row."""
    return [
        (one_line(run.name, 16) if run.name else f"run {run.id}", "strong"),
        (f"{checkpoint.kind}, step {checkpoint.step}", ""),
        (number(checkpoint.score, ".2f"), ""),
        (state_label(run.state)[0], "dim"),
        (one_line(f"{run.model} on {run.data}" if run.data else run.model, 120), "dim"),
    ]


class DecodingDialog(Dialog[Settings | None]):
    """Form over the keys of decoding, checked as the configuration is; returns new settings, None when cancelled."""

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
        """A field for each key, its meaning under it."""
        with Vertical(classes="dialog"):
            for leaf in _KEYS:
                key = all_keys()[f"{_SECTION}.{leaf}"]
                with Horizontal(classes="field"):
                    yield Label(Content(leaf))
                    yield Input(
                        format_value(key.name, settings_value(self._settings, key.name)),
                        id=f"decode-{leaf}",
                        compact=True,
                    )
                yield Static(Content.styled(key.description, DIM), markup=False, classes="field-help")
            yield Static("", id="decode-problem", markup=False)
            yield KeyHints()

    def on_mount(self) -> None:
        """Focus the first field."""
        set_title(self.query_one(".dialog"), "How replies are decoded")
        self.query_one(f"#decode-{_KEYS[0]}").focus()

    @on(Input.Submitted)
    def action_apply(self) -> None:
        """Check all fields together, and return them when they are valid."""
        try:
            changes = {
                f"{_SECTION}.{leaf}": parse_edit(f"{_SECTION}.{leaf}", self.query_one(f"#decode-{leaf}", Input).value)
                for leaf in _KEYS
            }
            self.dismiss(with_values(self._settings, changes))
        except ConfigError as error:
            self.query_one("#decode-problem", Static).update(styled(("✗ ", "bold $error"), safe_text(str(error))))
