"""A learning-rate probe as it happens: its curve over the rate, the rate that it proposes, and a key that takes it."""

import math
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical

from lora_tui.protocol.rate_probe import STEPS, reason_of, smoothed
from lora_tui.store import runs
from lora_tui.store.queries.runs import events_of_kinds, newest_event
from lora_tui.store.rows import LIVE_STATES, Run
from lora_tui.text import power_text
from lora_tui.tui.actions import AppActions
from lora_tui.tui.curve import Curve, Series
from lora_tui.tui.dialogs import Dialog
from lora_tui.tui.screens.base import titled
from lora_tui.tui.services import AppServices
from lora_tui.tui.text import DIM, safe_line, styled
from lora_tui.tui.widgets.key_hints import KeyHints
from lora_tui.tui.widgets.line_plot import LinePlot
from lora_tui.tui.widgets.panel import Line, set_title

_SECONDS = 0.5
_FIRST = 8
"""Steps from the lowest rate on that are in view whatever their loss: they change nothing yet but by chance."""
_KEY = "fine_tuning.optimizer.lora_lr"


def open_probe(services: AppServices, actions: AppActions) -> None:
    """Begin a probe with the settings of now, and show it."""

    async def begin() -> None:
        run_id = await actions.start("probe")
        if run_id is not None:
            services.open_screen(ProbeScreen(services, run_id))

    services.run_worker(begin(), "begin")


class ProbeScreen(Dialog[None]):
    """Sheet over the whole screen that follows a probe."""

    LESSON = "03-hyper-parameters"
    DEFAULT_CSS = "#probe-says { height: auto; max-height: 3; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "close", "Back", id="probe.close", tooltip="Back; a probe that goes on is stopped"),
        Binding("enter", "take", "Take the rate", id="probe.take",
                tooltip="Train with the proposed rate from now on; Config (6) saves it"),
        Binding("left", "cursor(-1)", "Read out", id="probe.cursor-left"),
        Binding("right", "cursor(1)", "Read out", show=False, id="probe.cursor-right"),
    ]  # fmt: skip

    def __init__(self, services: AppServices, run_id: int) -> None:
        super().__init__()
        self._services = services
        self._run_id = run_id
        self._run: Run | None = None
        self._seen = 0
        self._rates: list[float] = []
        self._changes: list[float] = []

    def compose(self) -> ComposeResult:
        """The curve, what it says, and the keys."""
        with Vertical(classes="sheet"):
            with titled(Container(id="probe-box", classes="box"), "Learning-rate probe"):
                yield LinePlot("the model is loaded first", id="probe-plot")
            yield Line(id="probe-says")
            yield KeyHints()

    async def on_mount(self) -> None:
        """Follow the run."""
        await self._services.guarded(self._read)()
        self.set_interval(_SECONDS, self._services.guarded(self._read))

    @property
    def _rate(self) -> float | None:
        """The rate that is proposed; None before the end, and where none is."""
        found = self._run.result.get("rate") if self._run is not None and self._run.result else None
        return found if isinstance(found, float) else None

    async def _read(self) -> None:
        store = self._services.reader.store
        if store is None or (self._run is not None and self._run.state not in LIVE_STATES):
            return
        self._run = await runs.get(store, self._run_id)
        for event in await events_of_kinds(store, self._run_id, ("probe",), self._seen):
            self._seen = event.id
            if isinstance(change := event.payload.get("change"), float):
                self._rates.append(float(event.payload["rate"]))
                self._changes.append(change)
        phase = await newest_event(store, self._run_id, "progress")
        self._draw("" if phase is None else str(phase.payload.get("phase", "")))
        self.refresh_bindings()

    def _draw(self, phase: str) -> None:

        raw, smooth, (low, high) = Curve(), Curve(), self._limits()
        for rate, change, mean in zip(self._rates, self._changes, smoothed(self._changes), strict=True):
            for curve, value in ((raw, change), (smooth, mean)):
                if value <= high:
                    curve.add(math.log10(rate), value)
        plot = self.query_one(LinePlot)
        series = [Series("", raw, "points", "faint"), Series("loss against the untrained model", smooth, style="first")]
        plot.show(series if self._rates else [], unit="rate", limits=(low, high))
        set_title(self.query_one("#probe-box"), f"Learning-rate probe · run {self._run_id}")
        run, says = self._run, self.query_one("#probe-says", Line)
        if run is None or run.state in LIVE_STATES:
            now = f"step {len(self._rates)} of {STEPS}, rate {power_text(self._rates[-1])}" if self._rates else phase
            says.show(styled(("The rate rises with every step; ", DIM), safe_line(now, 100)))
        elif self._rate is not None and run.result is not None:
            says.show(styled((f"{power_text(self._rate)} is proposed", "bold $success"), f": {reason_of(run.result)}"))
        else:
            says.show(safe_line(run.error or "The loss did not fall at any rate: none is proposed.", 200, "bold"))

    def _limits(self) -> tuple[float, float]:
        """What is drawn: as far above the untrained model's loss as the curve has fallen below it, or has begun.

        The last steps' flight, which ends a probe, would leave the fall a line of one row.
        """
        low = min(self._changes, default=0.0)
        return low, max(0.1, -low, *self._changes[:_FIRST])

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer the rate once there is one."""
        return self._rate is not None if action == "take" else True

    def action_take(self) -> None:
        """Train with the proposed rate from now on."""
        from lora_tui.config.load import with_values

        rate, state = self._rate, self._services.state
        if rate is None:
            return
        with self._services.reporting():
            state.settings = with_values(state.settings, {_KEY: rate})
            self._services.notify(f"Runs from now on train at {power_text(rate)}; Config (6) saves it.")
        self.dismiss()

    async def action_close(self) -> None:
        """Leave; a probe that goes on is stopped."""
        if self._run is not None and self._run.state in LIVE_STATES:
            await self._services.attempt(self._services.backend.stop(self._run_id))
        self.dismiss()

    def action_cursor(self, by: int) -> None:
        """Move the plot's cursor."""
        self.query_one(LinePlot).move_cursor(by)
