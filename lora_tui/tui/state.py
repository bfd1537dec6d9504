"""State of the app that its screens share: runs in view, requests to other screens, the configuration of new runs.

The configuration is read after the first paint, in a thread, because its models take as long to load as everything that
is drawn first; whoever needs it earlier waits for it.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lora_tui.glyphs import Drawing
from lora_tui.protocol.backend import ChatTarget
from lora_tui.store.queries.runs import RunLine
from lora_tui.store.rows import LIVE_STATES, TRAINING_MODES

if TYPE_CHECKING:
    from lora_tui.config.load import Loaded
    from lora_tui.config.models import Settings

GENERATION_MODES = ("generate", "quickstart")
"""Modes of runs that Generate shows."""

FOLLOWED_MODES = {"generate": GENERATION_MODES, "train": TRAINING_MODES}
"""Modes of runs that a screen follows, by the screen."""


@dataclass(frozen=True)
class AppOptions:
    """The configuration's ``[app]`` section, in a form that is free to import: no pydantic."""

    theme: str = "lora-dark"
    refresh_per_second: int = 5
    animated: bool = True
    keys: dict[str, str] = field(default_factory=dict)
    drawing: Drawing = "full"
    """The characters that the terminal can show."""


class AppState:
    """Runs in view, and the settings as they are and as the file has them. `load` reads the configuration."""

    def __init__(self, load: "Callable[[], Loaded]") -> None:
        self._load = load
        self._loading = threading.Lock()
        self._loaded: Loaded | None = None
        """The configuration as the file has it; None before it is read."""
        self._settings: Settings | None = None
        """Settings that differ from those of the file; None for those."""
        self.runs: list[RunLine] = []
        """Every run of the store, the newest first, as of the last poll that read them."""
        self.in_view: dict[str, int] = {}
        """Id of the run that Generate and that Train follow, by the screen."""
        self.begun: set[int] = set()
        """Runs begun or resumed from this app: whoever begins something wants to hear how it failed."""
        self.reported_failures: set[int] | None = None
        """Failed runs that are known to the user; None before the first list of runs."""
        self.requested_lesson: str | None = None
        """Id of the lesson that Learn is to show next; Learn takes it."""
        self.training_file: Path | None = None
        """File that the pairs of a run were taken to training in; None: what the configuration names."""
        self.start_forms: dict[str, dict[str, str]] = {"files": {}, "data": {}}
        """What was typed into the forms of the first start that were left without starting, by form and key."""
        self.requested_chat: ChatTarget | None = None
        """The model that Chat is to talk to next; Chat takes it."""

        self.warnings: list[str] = []
        """What went wrong beside the runs, to be shown by the next poll; appended to from any thread."""
        self.tells_without_asking = False
        """Whether runs begin without what a file names for their end: somebody has said so."""

    # The configuration

    def prepare(self) -> "Loaded":
        """Read the configuration unless that has happened; may be called from any thread."""
        with self._loading:
            if self._loaded is None:
                self._loaded = self._load()
            return self._loaded

    @property
    def settings(self) -> "Settings":
        """Settings that new runs begin with, saved or not."""
        return self.saved if self._settings is None else self._settings

    @settings.setter
    def settings(self, settings: "Settings") -> None:
        if settings.fine_tuning.train_data_file != self.settings.fine_tuning.train_data_file:
            self.training_file = None  # another one is named
        self._settings = settings

    @property
    def is_configured(self) -> bool:
        """Whether the user has set anything at all: a file of nothing but defaults does not count."""
        from lora_tui.config.models import Settings

        return self.settings != Settings()

    @property
    def saved(self) -> "Settings":
        """Settings as the file has them; what differs from `settings` is not saved yet."""
        return self.prepare().settings

    @property
    def config_path(self) -> Path | None:
        """The file that was read, None where there is none."""
        return self.prepare().path

    @property
    def key_named_in(self) -> Path | None:
        """The file that names the variable of the endpoint's key; None where it was typed, or is the default."""
        return self.prepare().key_named_in if self._is_saved("api_key_env") else None

    @property
    def hosts_named_in(self) -> Path | None:
        """The file that names variables for the keys of single hosts; None where they were typed, or there are none."""
        return self.prepare().hosts_named_in if self._is_saved("api_key_envs") else None

    @property
    def address_named_in(self) -> Path | None:
        """The file that names the endpoint's address; None where it was typed, or is the default."""
        same = self._is_saved("base_url", "base_urls", "judge_base_urls")
        return self.prepare().address_named_in if same else None

    @property
    def commands_named_in(self) -> Path | None:
        """The file that names commands to read files with; None where they were typed, or there are none."""
        return self.prepare().commands_named_in if self._is_saved("extractors") else None

    def _is_saved(self, *names: str) -> bool:
        """Whether keys of ``data_generation`` are as the file has them."""
        now, saved = self.settings.data_generation, self.saved.data_generation
        return all(getattr(now, name) == getattr(saved, name) for name in names)

    @property
    def notify_named_in(self) -> Path | None:
        """The file that names what is told of the end of runs; None where it was typed, or there is nothing."""
        return self.prepare().notify_named_in if self.settings.notify == self.saved.notify else None

    def mark_saved(self, path: Path) -> None:
        """Note that the settings as they are now stand in this file."""
        self._loaded = replace(self.prepare(), settings=self.settings, path=path)

    # Runs

    def run(self, run_id: int | None) -> RunLine | None:
        """The line of a run, or None."""
        return next((run for run in self.runs if run.id == run_id), None)

    def special_commands(self, run_id: int | None) -> list[str]:
        """The special commands that the model of a run may have learned: those somebody wrote, or the quickstart's."""
        from lora_tui.config.written import written_keys

        run = self.run(run_id)
        written = any(key.startswith("fine_tuning.chat.commands") for key in written_keys(self.settings))
        is_demo = run is not None and run.mode == "quickstart"
        return list(self.settings.fine_tuning.chat.commands) if written or is_demo else []

    @property
    def live_run(self) -> RunLine | None:
        """The newest run that has an owner."""
        return next((run for run in self.runs if run.state in LIVE_STATES), None)

    def bring_into_view(self, mode: str, run_id: int) -> None:
        """Have Generate, Train or both show this run, as its mode asks for; Train shows evaluations that are chosen."""
        shown = {**FOLLOWED_MODES, "train": (*FOLLOWED_MODES["train"], "evaluate")}
        self.in_view |= {screen: run_id for screen, modes in shown.items() if mode in modes}

    def run_on(self, screen: str) -> RunLine | None:
        """The run that Generate or Train follows."""
        return self.run(self.in_view.get(screen))

    def mark_begun(self, run_id: int) -> None:
        """Note a run that was begun or resumed from this app: if it fails, it is reported, also for a second time."""
        self.begun.add(run_id)
        if self.reported_failures is not None:
            self.reported_failures.discard(run_id)

    def drop_run(self, run_id: int) -> None:
        """Show something else than this run: it is deleted."""
        self.runs = [run for run in self.runs if run.id != run_id]
        self.in_view = {screen: shown for screen, shown in self.in_view.items() if shown != run_id}
