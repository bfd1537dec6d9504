"""The palette: what can be done here and now, then modes, themes and the rest of the app."""

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from textual.app import SystemCommand
from textual.screen import Screen

from lora_tui.tui.widgets.top_bar import PLACES

if TYPE_CHECKING:
    from lora_tui.tui.app import LoraApp

_NOT_COMMANDS = ("move", "page", "edge", "go", "focus", "focus_next", "focus_previous", "command_palette", "escape")


def commands(app: "LoraApp", screen: Screen[Any]) -> Iterable[SystemCommand]:
    """Every binding that is active now, as a command with its key; then what has no key."""
    seen: set[str] = set()
    for active in screen.active_bindings.values():
        binding = active.binding
        name = binding.action.partition("(")[0].rpartition(".")[2]
        if not binding.description or not active.enabled or name in _NOT_COMMANDS or binding.action in seen:
            continue
        seen.add(binding.action)
        node = active.node

        def run(action: str = binding.action, node: Any = node) -> Any:
            return app.run_action(action, node)

        yield SystemCommand(
            f"{binding.description}  ({app.get_key_display(binding)})", binding.tooltip or binding.description, run
        )
    for mode in PLACES:
        if mode.id != app.current_mode:
            yield SystemCommand(
                f"Go to {mode.name}  ({mode.key})", f"The {mode.name} screen", partial(app.action_go, mode.id)
            )
    for line in app.view.runs[:9]:
        yield SystemCommand(f"Look at run {line.id}", f"{line.mode}, {line.state}", partial(app.show_run, line))
    yield SystemCommand("Quickstart", "Generate, train and evaluate with the built-in model", app.action_quickstart)
    yield SystemCommand("First steps", "Three ways to begin", app.action_greet)
    yield SystemCommand(
        "Theme", "Change the colours; save it as app.theme in the configuration", app.action_change_theme
    )
    yield SystemCommand("Screenshot", "Save the screen as an SVG file in the current folder", app.action_shot)
