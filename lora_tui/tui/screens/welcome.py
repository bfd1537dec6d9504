"""The first start: three choices, each of which leads to something that runs within a minute, and their forms."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Button, Static

from lora_tui.config.hub_names import is_hub_name
from lora_tui.config.models import Settings
from lora_tui.files import expanded, is_file, is_folder
from lora_tui.machine import machine_line
from lora_tui.text import one_line
from lora_tui.tui.actions import AppActions
from lora_tui.tui.dialogs import Dialog
from lora_tui.tui.screens.base import titled
from lora_tui.tui.screens.settings_form import FormField, StartForm
from lora_tui.tui.services import AppServices
from lora_tui.tui.text import DIM, styled
from lora_tui.tui.widgets.path_input import likely_folder

BUILTIN = "builtin"
"""The model that works in this program, without a key."""

_CHOICES = (
    ("show", "1", "Show me", "the quickstart: a built-in model, no key, about two minutes"),
    ("files", "2", "From my files", "a folder of text, and OpenAI, any endpoint or the built-in model"),
    ("data", "3", "I have the data", "a training file and a model to fine-tune"),
)


class WelcomeScreen(Dialog[None]):
    """Dialog that is shown when there is no run yet and nothing is configured."""

    LESSON = "01-tokens-and-loss"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "Look around first", show=False),
        Binding("up", "app.focus_previous", show=False),
        Binding("down", "app.focus_next", show=False),
        Binding("q", "app.leave", "Leave", show=False),
        Binding("question_mark", "app.help", "Help", show=False),
        *(Binding(key, f"choose('{name}')", label, show=False) for name, key, label, _ in _CHOICES),
    ]

    def __init__(self, services: AppServices, actions: AppActions) -> None:
        super().__init__()
        self._services = services
        self._app_actions = actions

    def on_mount(self) -> None:
        """Focus the first choice, also while another window has the terminal's focus: `AUTO_FOCUS` then does not."""
        self.query_one(Button).focus()

    def compose(self) -> ComposeResult:
        """What the program is, the choices, and what this machine has."""
        with titled(Vertical(classes="dialog -wide-dialog", id="welcome"), "lora-tui"):
            yield Static(
                styled(("Teach a language model something, and watch it learn.", "bold $accent")), classes="question"
            )
            for name, key, label, consequence in _CHOICES:
                text = styled((f" {key} ", "bold reverse"), (f" {label}", "bold"), (f"\n    {consequence}", DIM))
                yield Button(text, id=f"choice-{name}", classes="answer -two-lines", compact=True)
            variable = self._services.state.settings.data_generation.api_key_env
            key = "is set" if os.environ.get(variable) else "is not set"
            yield Static(styled((f"This machine: {machine_line()} · {variable} {key}", DIM)), markup=False)
            yield Static(styled(("escape", "bold $accent"), " look around first   ", ("?", "bold $accent"), " help   ",
                                ("q", "bold $accent"), " leave"))  # fmt: skip

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Take enter or a click on a choice."""
        self.action_choose((event.button.id or "").removeprefix("choice-"))

    def action_choose(self, name: str) -> None:
        """Begin the quickstart, or open the form that the choice needs."""
        if not self.is_open:
            return  # a second key, pressed before the first has closed it: one run is enough
        self.dismiss(None)
        if name == "show":
            self._app_actions.start_soon("quickstart")
        else:
            ask_to_begin(self._services, self._app_actions, name)


def ask_to_begin(services: AppServices, actions: AppActions, name: str) -> None:
    """Ask for what a run needs, and begin it with that from now on, unless it is known to fail.

    `name`: ``files`` generates from a folder of text, ``data`` trains on a file of examples.
    """
    settings, backend = services.state.settings, services.backend
    mode = "generate" if name == "files" else "train"
    forecast = backend.forecast_generation if name == "files" else backend.forecast_training
    form: StartForm
    typed = services.state.start_forms[name]
    if name == "files":
        newest = next((run for run in services.state.runs if run.mode == "generate"), None)
        form = GenerateForm(settings, first_generation(settings, newest.data if newest else ""), forecast, typed)
    else:
        form = TrainForm(settings, {}, forecast, typed)

    def begin(chosen: Settings) -> None:
        services.state.settings = chosen
        typed.clear()
        actions.start_unless_blocked(mode, forecast)

    services.ask(form, begin)


def first_generation(settings: Settings, earlier: str = "") -> dict[str, str]:
    """What the fields of `GenerateForm` begin with where the settings do not say.

    The folder of the run before (`earlier`) or the only one here that holds text, and the built-in model where there is
    neither a key nor an endpoint.
    """
    chosen = settings.data_generation
    there = [folder for folder in (chosen.input_folder, earlier) if folder and is_folder(folder)]
    values = {"data_generation.input_folder": there[0] if there else likely_folder(chosen.input_folder)}
    if not chosen.base_url and not os.environ.get(chosen.api_key_env):
        values["data_generation.model"] = BUILTIN
    return values


class GenerateForm(StartForm):
    """What generation from a folder needs."""

    FORM_TITLE = "From my files"
    KEYS: ClassVar[Mapping[str, FormField]] = {
        "data_generation.input_folder": FormField(
            "Folder", "The folder with your text: .txt and .md files, with subfolders.", "folder"
        ),
        "data_generation.model": FormField(
            "Model", "Which model writes the questions? builtin is small, free and works on this machine; or a name "
            "such as gpt-4o-mini.",
        ),
        "data_generation.base_url": FormField(
            "Address", "Where is that model? Empty: OpenAI. Else an endpoint such as http://localhost:11434/v1. "
            "builtin needs none.",
        ),
        "data_generation.total_examples": FormField(
            "Pairs", "How many question/answer pairs? A dozen shows how it goes, some hundreds teach more."
        ),
    }  # fmt: skip

    def field_problem(self, name: str, settings: Settings) -> str | None:
        """The folder must exist, and OpenAI needs a key."""
        generation = settings.data_generation
        if name == "data_generation.input_folder":
            there = generation.input_folder and is_folder(generation.input_folder)
            return None if there else _not_there("folder", generation.input_folder)
        keyless = not generation.base_url and not os.environ.get(generation.api_key_env)
        if name == "data_generation.model" and generation.model != BUILTIN and keyless:
            return f"{generation.api_key_env} is not set: type builtin, or leave, export it and come back."
        return None


class TrainForm(StartForm):
    """What training on a file needs."""

    FORM_TITLE = "I have the data"
    KEYS: ClassVar[Mapping[str, FormField]] = {
        "fine_tuning.train_data_file": FormField(
            "File", "Your examples: Question/Answer text, .jsonl, .json, .csv, .parquet (chat, Alpaca, ShareGPT, …), "
            "or a data set of the Hugging Face hub: hf:OWNER/NAME.", "file",
        ),
        "fine_tuning.model_name": FormField(
            "Model", "Which model learns? Empty: chosen for this machine. Or builtin, a name on the Hugging Face hub, "
            "a folder, a .gguf file.",
        ),
    }  # fmt: skip

    def field_problem(self, name: str, settings: Settings) -> str | None:
        """The file must exist; a data set of the hub is looked up when training begins."""
        named = settings.fine_tuning.train_data_file
        if name != "fine_tuning.train_data_file" or (named and (is_hub_name(named) or is_file(named))):
            return None
        return _not_there("file", named)


def _not_there(kind: str, path: str) -> str:
    """Say that a file or folder is not there; of a relative path also where it was looked for."""
    where = "" if expanded(path).is_absolute() else f" in {one_line(str(Path.cwd()), 80)}"
    return f"There is no {kind} {one_line(path, 100) or '(none named)'}{where}."
