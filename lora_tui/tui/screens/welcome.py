"""The first start: three choices, each of which leads to something that runs within a minute, and their forms."""

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Button, Static

from lora_tui.config.models import Settings
from lora_tui.errors import LoraTuiError
from lora_tui.machine import machine_line
from lora_tui.text import one_line
from lora_tui.tui.actions import AppActions
from lora_tui.tui.dialogs import Dialog
from lora_tui.tui.screens.base import titled
from lora_tui.tui.screens.settings_form import StartForm
from lora_tui.tui.services import AppServices
from lora_tui.tui.text import DIM, styled

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
            return
        mode, form = ("generate", GenerateForm) if name == "files" else ("train", TrainForm)
        self._services.ask(form(self._services.state.settings), partial(self._app_actions.start_soon, mode))


class GenerateForm(StartForm):
    """What generation from a folder needs."""

    FORM_TITLE = "From my files"
    KEYS: ClassVar[Mapping[str, tuple[str, str]]] = {
        "data_generation.input_folder": ("Which folder has the text?", ".txt and .md files, with subfolders"),
        "data_generation.model": (
            "Which model writes the pairs?",
            "a name such as gpt-4o-mini, or builtin: small, free, local",
        ),
        "data_generation.base_url": (
            "Where is it?",
            "empty = OpenAI; any compatible endpoint, such as http://localhost:11434/v1",
        ),
        "data_generation.total_examples": (
            "How many accepted pairs?",
            "a dozen shows how it goes; a few hundred teach something",
        ),
    }

    def check(self, settings: Settings) -> None:
        """The folder must exist, and OpenAI needs a key."""
        generation = settings.data_generation
        if not Path(generation.input_folder).expanduser().is_dir():
            raise LoraTuiError(f"There is no folder {one_line(generation.input_folder, 100)} here ({Path.cwd()}).")
        if generation.model != "builtin" and not generation.base_url and not os.environ.get(generation.api_key_env):
            raise LoraTuiError(f"{generation.api_key_env} is not set: leave, export it and come back, or take builtin.")


class TrainForm(StartForm):
    """What training on a file needs."""

    FORM_TITLE = "I have the data"
    KEYS: ClassVar[Mapping[str, tuple[str, str]]] = {
        "fine_tuning.train_data_file": (
            "Which file?",
            "Question/Answer text, .jsonl, .json or .csv: chat, Alpaca, ShareGPT, …",
        ),
        "fine_tuning.model_name": (
            "Which model?",
            "a name on the Hugging Face hub, a folder, a .gguf file, or builtin",
        ),
        "fine_tuning.optimizer.lora_lr": ("Learning rate?", "5e-4 for models up to 4 billion parameters, 2e-4 above"),
        "fine_tuning.training.max_epochs": (
            "How many times over the data?",
            "3 for thousands of examples, 10 or more for dozens",
        ),
    }

    def check(self, settings: Settings) -> None:
        """The file must exist."""
        named = settings.fine_tuning.train_data_file
        if not named or not Path(named).expanduser().is_file():
            raise LoraTuiError(f"There is no file {one_line(named, 100) or '(none named)'} here ({Path.cwd()}).")
