"""What a key will do before it is pressed: the forecast of a run, as lines."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from lora_tui.errors import LoraTuiError
from lora_tui.protocol.backend import Forecast
from lora_tui.tui.text import DIM, Content, line, styled

if TYPE_CHECKING:
    from lora_tui.config import Settings
    from lora_tui.tui.app import LoraApp

PLAN = "Plan · s starts it"
"""The title over a forecast: what a key of the screen would do."""

_BLOCKED = "Plan · cannot start yet"


class Plan:
    """The forecast for the settings in view, asked for once and again when they are others."""

    def __init__(self) -> None:
        self.content = Content("…")
        self.blocked = False
        """Whether a run is known to fail at once."""
        self._of: Settings | None = None

    @property
    def title(self) -> str:
        """What stands above `content`; it promises no start that is known to fail."""
        return _BLOCKED if self.blocked else PLAN

    def forget(self) -> None:
        """Ask again at the next opportunity: what was counted may have changed."""
        self._of = None

    async def make(self, app: "LoraApp", ask: Callable[["Settings"], Awaitable[Forecast]]) -> None:
        """Bring `content` up to date."""
        settings = app.view.settings
        if self._of is settings:
            return
        self._of = settings
        try:
            forecast = await ask(settings)
        except LoraTuiError as problem:
            forecast = Forecast((), (str(problem),))
        self.blocked = forecast.blocker is not None
        self.content = Content("\n").join(forecast_lines(forecast))


def forecast_lines(forecast: Forecast) -> list[Content]:
    """The figures of a forecast in two columns, then its warnings."""
    width = max((len(what) for what, _ in forecast.lines), default=0) + 2
    lines = [styled((what.ljust(width), DIM), line(figure, 200)) for what, figure in forecast.lines]
    return lines + [styled(("! ", "bold $warning"), line(warning, 300)) for warning in forecast.warnings]
