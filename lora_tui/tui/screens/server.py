"""A server of models, over the list of runs: where it answers, what it does now, and how others reach it.

What is shown is what the run's events say; a server of another process is shown, and stopped, the same way.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from lora_tui.protocol.serving import key_text, larger_servers, models_text, traffic_rows
from lora_tui.store.queries.runs import RunLine, newest_event
from lora_tui.store.rows import LIVE_STATES
from lora_tui.text import clean, duration, progress_text
from lora_tui.tui.actions import AppActions
from lora_tui.tui.dialogs import Choice, ChoiceDialog, Dialog
from lora_tui.tui.services import AppServices
from lora_tui.tui.text import DIM, safe_line, safe_text, styled
from lora_tui.tui.theme import state_label
from lora_tui.tui.views.run_list import elapsed_seconds
from lora_tui.tui.widgets.key_hints import KeyHints
from lora_tui.tui.widgets.panel import set_title

_SECONDS = 1.0
_WIDE = 100
"""Columns from which the figures stand in two columns."""


class ServerScreen(Dialog[None]):
    """Sheet that follows a run of mode serve."""

    LESSON = "09-chatting-and-decoding"
    AUTO_FOCUS = "#server-box"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("x", "stop", "Stop", id="server.stop", tooltip="Stop the server; whoever waits for an answer is told"),
        Binding("y", "copy_tunnel", "Copy the ssh line", id="server.copy-ssh",
                tooltip="Copy the command that brings the server to your laptop"),
        Binding("u", "copy_address", "Copy the address", id="server.copy-address",
                tooltip="Copy the address that clients on this machine use"),
        Binding("escape,q", "dismiss", "Back", id="server.close"),
        Binding("question_mark", "app.help", "Help", show=False, key_display="?"),
    ]  # fmt: skip

    def __init__(self, services: AppServices, actions: AppActions, run_id: int) -> None:
        super().__init__()
        self._services = services
        self._actions = actions
        self._run_id = run_id
        self._announced: Mapping[str, Any] = {}

    def compose(self) -> ComposeResult:
        """One scrolling box with everything, hints below."""
        with Vertical(classes="sheet"):
            with VerticalScroll(id="server-box", classes="box"):
                yield Static(id="server", markup=False)
            yield KeyHints()

    async def on_mount(self) -> None:
        """Show the server, and go on doing so."""
        set_title(self.query_one("#server-box"), f"Server · run {self._run_id}")
        self.set_interval(_SECONDS, self._show)
        await self._show()

    @property
    def _run(self) -> RunLine | None:
        return self._services.state.run(self._run_id)

    async def _show(self) -> None:
        store = self._services.reader.store
        if store is None:
            return
        events = {kind: await newest_event(store, self._run_id, kind) for kind in ("serving", "traffic", "progress")}
        said = {kind: event.payload if event is not None else {} for kind, event in events.items()}
        self._announced = said["serving"]
        wide = self.size.width >= _WIDE
        self.query_one("#server", Static).update(server_text(self._run, **said, wide=wide))
        self.refresh_bindings()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer to stop what is live, and to copy what is known."""
        if action == "stop":
            return self._run is None or self._run.state in LIVE_STATES
        return bool(self._announced) if action in ("copy_tunnel", "copy_address") else True

    async def action_stop(self) -> None:
        """Ask the server to stop, whoever owns it."""
        await self._actions.stop(self._run_id, f"Server {self._run_id} is asked to stop.")

    def action_copy_tunnel(self) -> None:
        """Send the ssh line to the clipboard."""
        self._services.copy(str(self._announced.get("tunnel", "")))

    def action_copy_address(self) -> None:
        """Send the address to the clipboard."""
        self._services.copy(str(self._announced.get("url", "")))


def open_server(services: AppServices, actions: AppActions, run: RunLine | None) -> None:
    """Show the server that runs, or the one under the cursor; where none runs, ask what of a run to serve."""
    live = next((one for one in services.state.runs if one.mode == "serve" and one.state in LIVE_STATES), None)
    if run is not None and run.mode == "serve":
        live = run
    if live is not None:
        services.open_screen(ServerScreen(services, actions, live.id))
        return
    if run is None:
        return
    choices = [
        Choice("one", "v", "This run's adapter, and its base model", "clients ask for run-N, or for base"),
        Choice("all", "a", "The newest runs on one base model", "up to eight adapters, each by its name"),
        Choice("cancel", "c", "Cancel"),
    ]

    async def chosen(choice: str) -> None:
        run_id = await actions.start("serve", {"adapter_run": run.id} if choice == "one" else {})
        if run_id is not None:
            services.open_screen(ServerScreen(services, actions, run_id))

    services.ask(ChoiceDialog(f"Serve run {run.id} to programs on this machine, as OpenAI does?", choices), chosen)


def server_text(
    run: RunLine | None,
    serving: Mapping[str, Any],
    traffic: Mapping[str, Any],
    progress: Mapping[str, Any],
    *,
    wide: bool,
) -> Content:
    """State, address and models, figures, and the commands that lead on."""
    live = run is None or run.state in LIVE_STATES
    parts: list[Any] = [_state(run)]
    if run is not None and run.error:
        parts += [("\n\nwhy  ", "$error"), safe_text(run.error, limit=1000)]
    if not serving:
        phase = progress_text(str(progress.get("phase", "")), progress.get("done") or 0, progress.get("total") or 0)
        parts += ["\n\n", safe_line(phase or "starting", 200)] if live else []
        return styled(*parts)
    for label, value in (
        ("address", clean(str(serving.get("url", "")))),
        ("models", models_text(serving)),
        ("base model", clean(str(serving.get("base_model", "")))),
        ("asked by", key_text(serving)),
    ):
        parts += ["\n", (f"{label:<16}", DIM), safe_line(value, 200, "bold" if label == "address" else "")]
    parts += ["\n\n", *_figures(traffic, live=live, wide=wide)]
    if live:
        parts += [("\n\nTo ask from your laptop, type there\n", DIM), safe_text(str(serving.get("tunnel", "")), "bold")]
        commands = "\n".join(larger_servers(serving))
        parts += [("\n\nFor many users at once, these serve the same\n", DIM), safe_text(commands)]
    return styled(*parts)


def _state(run: RunLine | None) -> Content:
    if run is None:
        return styled(("starting", DIM))
    text, colour = state_label(run.state)
    took = elapsed_seconds(run)
    return styled((text, f"bold {colour}"), f"  {duration(took)}" if took is not None else "")


def _figures(traffic: Mapping[str, Any], *, live: bool, wide: bool) -> list[Any]:
    """The figures in two columns where there is room; without those of the moment once the server has ended."""
    rows = [row for row in traffic_rows(traffic) if live or row[0] not in ("answers now", "speed", "memory")]
    lines = (len(rows) + 1) // 2 if wide else len(rows)
    parts: list[Any] = []
    for place in range(lines):
        parts += ["\n"] if place else []
        for label, value in rows[place::lines]:
            parts += [(f"{label:<16}", DIM), f"{value:<28}" if wide else value]
    return parts
