"""What the app has in view: runs, and the configuration that new runs begin with.

The configuration is read after the first paint, in a thread, because its models take as long to load as everything that
is drawn first; whoever needs it earlier waits for it.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lora_tui.store.queries.runs import RunLine
from lora_tui.store.rows import LIVE_STATES

if TYPE_CHECKING:
    from lora_tui.config import Loaded, Settings


@dataclass(frozen=True)
class AppOptions:
    """The configuration's ``[app]`` section, in a form that costs nothing to have."""

    theme: str = "lora-dark"
    refresh_per_second: int = 5
    animated: bool = True
    keys: dict[str, str] = field(default_factory=dict)


class AppState:
    """Which runs are in view, and the settings as they are and as the file has them."""

    def __init__(self, load: "Callable[[], Loaded]") -> None:
        self._load = load
        self._loading = threading.Lock()
        self._settings: Settings | None = None
        self._saved: Settings | None = None
        self._config_path: Path | None = None
        self.generation_run: int | None = None
        self.training_run: int | None = None
        self.runs: list[RunLine] = []

    # The configuration

    def prepare(self) -> None:
        """Read the configuration unless that has happened; may be called from any thread."""
        with self._loading:
            if self._settings is None:
                loaded = self._load()
                self._settings = self._saved = loaded.settings
                self._config_path = loaded.path

    @property
    def is_prepared(self) -> bool:
        """Whether the configuration has been read."""
        return self._settings is not None

    @property
    def settings(self) -> "Settings":
        """What new runs begin with, saved or not."""
        self.prepare()
        assert self._settings is not None, "prepare() has read them"
        return self._settings

    @settings.setter
    def settings(self, settings: "Settings") -> None:
        self.prepare()
        self._settings = settings

    @property
    def is_configured(self) -> bool:
        """Whether the user has set anything at all: a file of nothing but defaults does not count."""
        from lora_tui.config import Settings

        return self.settings != Settings()

    @property
    def saved(self) -> "Settings":
        """What the file says; what differs is not saved yet."""
        self.prepare()
        assert self._saved is not None, "prepare() has read them"
        return self._saved

    @property
    def config_path(self) -> Path | None:
        """The file that was read, None where there is none."""
        self.prepare()
        return self._config_path

    def have_saved(self, path: Path) -> None:
        """Note that the settings as they are now stand in this file."""
        self._saved, self._config_path = self.settings, path

    # Runs

    def run(self, run_id: int | None) -> RunLine | None:
        """The line of a run, or None."""
        return next((run for run in self.runs if run.id == run_id), None)

    @property
    def live(self) -> list[RunLine]:
        """Runs that have an owner, newest first."""
        return [run for run in self.runs if run.state in LIVE_STATES]
