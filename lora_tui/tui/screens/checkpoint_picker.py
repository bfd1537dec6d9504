"""Whom to talk to: any run's best or newest checkpoint, or the base model alone."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical

from lora_tui.protocol.backend import ChatTarget
from lora_tui.store.queries.runs import RunLine, checkpoints
from lora_tui.store.rows import LIVE_STATES, Checkpoint
from lora_tui.text import one_line
from lora_tui.tui.screens.dialog import Dialog
from lora_tui.tui.text import number
from lora_tui.tui.theme import state
from lora_tui.tui.widgets.key_hints import KeyHints
from lora_tui.tui.widgets.panel import entitle
from lora_tui.tui.widgets.row_list import Cell, Column, RowList

if TYPE_CHECKING:
    from lora_tui.tui.app import LoraApp

_COLUMNS = (
    Column("who", 16),
    Column("checkpoint", 16),
    Column("score", 6, right=True),
    Column("state", 13),
    Column("model and data", 0),
)
_MOST_RUNS = 50


class CheckpointPicker(Dialog[ChatTarget | None]):
    """Returns whom to talk to, None when nobody was chosen."""

    CSS_PATH = "../dialogs.tcss"

    LESSON = "09-chatting-and-decoding"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "dismiss", "Cancel", id="whom.cancel")]

    def __init__(self) -> None:
        super().__init__()
        self._choices: list[tuple[ChatTarget, list[Cell]]] = []

    def compose(self) -> ComposeResult:
        """One list."""
        with Vertical(classes="dialog -wide-dialog -tall-dialog"):
            yield RowList(lambda index: self._choices[index][1], _COLUMNS, id="whom")
            yield KeyHints()

    async def on_mount(self) -> None:
        """Gather the checkpoints that there are."""
        app: LoraApp = self.app  # type: ignore[assignment]  # the only app there is
        entitle(self.query_one(".dialog"), "Talk to")
        store = app.look.store
        trained = [run for run in app.view.runs if run.mode in ("train", "quickstart")][:_MOST_RUNS]
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
        model = one_line(app.view.settings.fine_tuning.model_name, 120)
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
        (state(run.state)[0], "dim"),
        (one_line(f"{run.model} on {run.data}" if run.data else run.model, 120), "dim"),
    ]
