"""The dialogs of Chat: which checkpoint to talk to, and how its replies are decoded (``[fine_tuning.chat]``)."""

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import Label, Static

from lora_tui.config.keys import all_keys
from lora_tui.config.written import left_to_recipe
from lora_tui.protocol.backend import ChatTarget
from lora_tui.protocol.reply import Decoding
from lora_tui.store.queries.runs import RunLine, checkpoints
from lora_tui.store.rows import LIVE_STATES, TRAINING_MODES, Checkpoint
from lora_tui.text import one_line
from lora_tui.tui.dialogs import Dialog
from lora_tui.tui.screens.base import titled
from lora_tui.tui.screens.settings_form import SettingsForm
from lora_tui.tui.services import AppServices
from lora_tui.tui.text import DIM, number
from lora_tui.tui.theme import state_label
from lora_tui.tui.widgets.key_hints import KeyHints
from lora_tui.tui.widgets.row_list import Cell, Column, RowList

_COLUMNS = (
    Column("run", 0, least=10),
    Column("checkpoint", 17),
    Column("score", 6, right=True),
    Column("state", 13, rank=1),
    Column("base model and data", 0, share=4, least=30),
)
_MOST_RUNS = 50


class CheckpointPicker(Dialog[ChatTarget | None]):
    """List of every run's best and last checkpoint, and the base model; returns the choice, None when cancelled."""

    LESSON = "09-chatting-and-decoding"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "dismiss", "Cancel", id="whom.cancel")]

    def __init__(self, services: AppServices) -> None:
        super().__init__()
        self._services = services
        self._choices: list[tuple[ChatTarget, list[Cell]]] = []

    def compose(self) -> ComposeResult:
        """A list."""
        with titled(Vertical(classes="dialog -wide-dialog -tall-dialog"), "Which model answers"):
            yield RowList(lambda index: self._choices[index][1], _COLUMNS, id="checkpoints")
            yield KeyHints()

    async def on_mount(self) -> None:
        """Read the checkpoints that there are."""
        store, state = self._services.reader.store, self._services.state
        for run in [run for run in state.runs if run.mode in TRAINING_MODES][:_MOST_RUNS]:
            found = await checkpoints(store, run.id) if store is not None else []
            kinds = {checkpoint.kind: checkpoint for checkpoint in reversed(found)}  # the first of a kind
            best, last = kinds.get("best"), kinds.get("last")
            if best is not None:
                self._choices.append((ChatTarget(run.id, "best"), _cells(run, best)))
            # The newest checkpoint of a run that has ended is worth a line only where it is another one than the best.
            if last is not None and (best is None or best.step != last.step or run.state in LIVE_STATES):
                self._choices.append((ChatTarget(run.id, "last"), _cells(run, last)))
        self._choices += self._base_models()
        self.query_one(RowList).show(len(self._choices))

    def _base_models(self) -> list[tuple[ChatTarget, list[Cell]]]:
        """The base model of each run, the newest run's first and each once, and the configured one."""
        state = self._services.state
        found: dict[str, ChatTarget] = {}
        for run in state.runs:
            if run.mode in TRAINING_MODES and run.model:
                found.setdefault(run.model, ChatTarget(run.id, base_only=True))
        if not left_to_recipe(state.settings, "fine_tuning.model_name"):
            found.setdefault(state.settings.fine_tuning.model_name, ChatTarget(base_only=True))
        elif not found:
            found["the one that fits this machine"] = ChatTarget(base_only=True)
        return [(target, _base_cells(model, target)) for model, target in found.items()]

    @on(RowList.Chosen)
    def _chosen(self, event: RowList.Chosen) -> None:
        self.dismiss(self._choices[event.index][0])


def _base_cells(model: str, target: ChatTarget) -> list[Cell]:
    """A base model's row."""
    whose = "no adapter" if target.run_id is None else f"that of run {target.run_id}"
    return [("base model", "strong"), (whose, ""), ("", ""), ("", ""), (one_line(model, 120), "dim")]


def _cells(run: RunLine, checkpoint: Checkpoint) -> list[Cell]:
    """A checkpoint's row."""
    return [
        (one_line(run.name, 16) if run.name else f"run {run.id}", "strong"),
        (f"{checkpoint.kind}, step {checkpoint.step}", ""),
        (number(checkpoint.score, ".2f"), ""),
        (state_label(run.state)[0], "dim"),
        (one_line(f"{run.model} on {run.data}" if run.data else run.model, 120), "dim"),
    ]


class DecodingDialog(SettingsForm):
    """Form over the keys of decoding."""

    FORM_TITLE = "How replies are decoded"
    KEYS = tuple(
        f"fine_tuning.chat.{leaf}"
        for leaf in ("num_beams", "max_new_tokens", "temperature", "top_p", "repetition_penalty")
    )
    LESSON = "09-chatting-and-decoding"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "Cancel", id="decoding.cancel"),
        Binding("ctrl+s", "submit", "Apply", id="decoding.apply", priority=True),
    ]

    def _value(self, name: str) -> str:
        """The value in force: replies stream, with one beam, where nobody has set the beams."""
        is_open = name.endswith("num_beams") and left_to_recipe(self._settings, name)
        return str(Decoding.of_settings(self._settings).num_beams) if is_open else super()._value(name)

    def compose(self) -> ComposeResult:
        """A field for each key, its meaning under it."""
        with titled(Vertical(classes="dialog"), self.FORM_TITLE):
            for name, field in self.fields.items():
                key = all_keys()[name]
                with Horizontal(classes="field"):
                    yield Label(Content(key.leaf))
                    yield field
                yield Static(Content.styled(key.description, DIM), markup=False, classes="field-help")
            yield self.problem
            yield KeyHints()

    def on_input_submitted(self) -> None:
        """Take enter in any field."""
        self.action_submit()
