"""Runs as text: the plan before a start, one run in detail, how several differ, and what an evaluation has found."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textual.content import Content

from lora_tui.errors import LoraTuiError
from lora_tui.protocol.backend import ForecastText
from lora_tui.protocol.choice import Choice, labelled_rows
from lora_tui.protocol.comparison import HeldOutComparison, comparison_rows, questions_text
from lora_tui.protocol.knowledge import KnowledgeTest, knowledge_rows, knowledge_title
from lora_tui.store.queries.runs import RunLine
from lora_tui.store.rows import LIVE_STATES, WAITING, Checkpoint
from lora_tui.text import duration, one_line
from lora_tui.tui.axes import number_label
from lora_tui.tui.text import DIM, hang, safe_line, safe_text, styled
from lora_tui.tui.theme import state_label
from lora_tui.tui.views.run_list import data_of, elapsed_seconds, start_time, sweep_text

if TYPE_CHECKING:
    from lora_tui.config.models import Settings

_ANY_WIDTH = 10_000
"""Cells of a line that is never broken."""

PLAN_TITLE = "Plan · s starts it"
"""Title of a forecast: what the screen's start key would do."""


class PlanView:
    """The forecast of a run with the current settings, as text; asked for again only when the settings are others."""

    def __init__(self, more: str = "") -> None:
        """`more` is what else the screen can do then, behind the title."""
        self._more = more
        self._forecast: ForecastText | None = None
        self.blocked = False
        """Whether a run is known to fail at its start."""
        self._asks = False
        """Whether the start key asks for what is missing."""
        self._settings: Settings | None = None

    @property
    def title(self) -> str:
        """The title above the content; it offers no start that is known to fail."""
        if self._asks:
            return "Plan · s asks for what is missing"
        return "Plan · cannot start yet" if self.blocked else PLAN_TITLE + self._more

    def content(self, width: int = 0) -> Content:
        """The forecast in lines of `width` cells; 0: however long they are."""
        return Content("…") if self._forecast is None else Content("\n").join(forecast_lines(self._forecast, width))

    def invalidate(self) -> None:
        """Ask again at the next update: files that were counted may have changed."""
        self._settings = None

    async def update(self, settings: "Settings", forecast_of: Callable[["Settings"], Awaitable[ForecastText]]) -> None:
        """Ask `forecast_of` for the forecast of these settings, unless it is held already."""
        if self._settings is settings:
            return
        self._settings = settings
        try:
            forecast = await forecast_of(settings)
        except LoraTuiError as problem:
            forecast = ForecastText((), (str(problem),))
        self.blocked = forecast.blocker is not None
        self._asks = forecast.blocker is not None and bool(forecast.blocker.form)
        self._forecast = forecast


def forecast_lines(forecast: ForecastText, room: int = 0) -> list[Content]:
    """The figures of a forecast in two columns, what will be chosen, then its warnings, in `room` cells; 0: any."""
    room = room or _ANY_WIDTH
    labels = [what for what, _ in forecast.lines] + [label for label, *_ in labelled_rows(forecast.choices)]
    width = max(map(len, labels), default=0) + 2
    figures = [styled((what.ljust(width), DIM), safe_line(figure, 200)) for what, figure in forecast.lines]
    lines = [hang(figure, width, room) for figure in figures]
    lines += choice_lines(forecast.choices, width, room)
    warnings = [styled(("! ", "bold $warning"), safe_line(warning, 300)) for warning in forecast.warnings]
    return lines + [hang(warning, 2, room) for warning in warnings]


def choice_lines(choices: Iterable[Choice | Mapping[str, Any]], width: int = 0, room: int = 0) -> list[Content]:
    """What was chosen since nobody has set it: label, value and reason in columns under a heading; may be nothing.

    `width` is that of the labels' column, at least, `room` that of a line; 0: any.
    """
    room = room or _ANY_WIDTH
    rows = labelled_rows(choices)
    if not rows:
        return []
    width = max(width, *(len(label) + 2 for label, _, _ in rows))
    long = max(len(value) for _, value, _ in rows)
    heading = "chosen for this run, as nobody has set it:"
    indent = width + long + 2 if width + long + 2 <= room // 2 else width
    lines = [
        styled((label.ljust(width), DIM), (value, "bold"), " " * (long + 2 - len(value)), safe_line(reason, 120))
        for label, value, reason in rows
    ]
    return [styled((heading, DIM)), *(hang(line, indent, room) for line in lines)]


def run_text(run: RunLine, working_folder: Path, checkpoints: Sequence[Checkpoint], steps: int) -> Content:
    """Everything about one run: facts, duration, steps, its newest checkpoint of each kind, and its error."""
    state_text, colour = state_label(run.state)
    took = elapsed_seconds(run)
    parts: list[Any] = [(f"Run {run.id}", "bold")]
    if run.name:
        parts += ["  ", safe_line(run.name, 60, "bold $accent")]
    parts += [f"  {run.mode}  ", (state_text, f"bold {colour}"), "\n"]
    facts = [
        ("model", run.shown_model),
        ("data", data_of(run)),
        ("device", run.device or ""),
        ("folder", short_path(run.folder, working_folder)),
        ("sets", sweep_text(run)),
    ]
    for name, value in facts:
        if value:
            parts += [(f"{name:<8}", DIM), safe_line(value, 200), "\n"]
    added = "added " if run.state == WAITING else ""
    parts += [("time", DIM), f"    {added}{start_time(run)}" + (f", {duration(took)}" if took is not None else "")]
    if run.state in LIVE_STATES:
        parts.append(f" · process {run.pid} on {one_line(run.host, 40)}")
    parts.append("\n")
    if steps:
        loss = f", held-out loss {run.held_out_loss:.3f} at the lowest" if run.held_out_loss is not None else ""
        parts += [("steps", DIM), f"   {steps:,}{loss}\n"]
    newest = {checkpoint.kind: checkpoint for checkpoint in reversed(checkpoints)}
    for kind, checkpoint in sorted(newest.items()):
        score = f", score {checkpoint.score:.2f}" if checkpoint.score is not None else ""
        parts += [(f"{kind:<8}", DIM), f"step {checkpoint.step}{score}\n"]
    if run.error:
        parts += [("why     ", "$error"), safe_text(run.error, limit=1000), "\n"]
    return styled(*parts)


def short_path(folder: str | None, working_folder: Path) -> str:
    """A file or folder relative to the working folder where it lies in it."""
    if folder is None:
        return ""
    path = Path(folder)
    return str(path.relative_to(working_folder)) if path.is_relative_to(working_folder) else folder


def differences(settings: Sequence[Mapping[str, Any]]) -> tuple[list[tuple[str, list[str]]], int]:
    """The keys whose values differ between configurations, each with its values in the same order; how many do not.

    A key is named by its last part, by more of them where that is ambiguous.
    """
    flat = [dict(_flatten(entry, "")) for entry in settings]
    values_of = {key: [entry.get(key) for entry in flat] for entry in flat for key in entry}
    found = {key: values for key, values in values_of.items() if any(value != values[0] for value in values[1:])}
    return [(_short_name(key, found), [_shown(value) for value in values]) for key, values in found.items()], len(
        values_of
    ) - len(found)


def _shown(value: object) -> str:
    """A value of the configuration on one line; small numbers as rates are written."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return one_line(", ".join(map(_shown, value)), 60)
    return number_label(value) if isinstance(value, float) and abs(value) < 1e-2 else one_line(str(value), 60)


def _short_name(key: str, others: Iterable[str]) -> str:
    """The shortest end of a dotted key that no other of `others` has."""
    parts = key.split(".")
    names = [".".join(parts[start:]) for start in range(len(parts))]
    return next(name for name in reversed(names) if not any(o != key and f".{o}".endswith(f".{name}") for o in others))


def _flatten(settings: Mapping[str, Any], prefix: str) -> list[tuple[str, Any]]:
    """Nested settings as dotted keys and values."""
    found: list[tuple[str, Any]] = []
    for name, value in settings.items():
        found += _flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [(prefix + name, value)]
    return found


def comparison_content(found: HeldOutComparison) -> Content:
    """What was asked, and the figures of both models, a line each."""
    rows = comparison_rows(found)
    width = max(len(label) for label, _ in rows) + 2
    parts: list[Any] = [(f"{questions_text(found)[:1].upper()}{questions_text(found)[1:]}", "bold")]
    for label, figure in rows:
        colour = {"better": "bold $success", "worse": "bold $error"}.get(found.verdict, "bold")
        parts += ["\n", (f"{label:<{width}}", DIM), (figure, colour if label == "difference" else "")]
    return styled(*parts)


def knowledge_content(found: KnowledgeTest) -> Content:
    """What was asked about held-out facts, and how much of them each model knows, a line each."""
    rows = knowledge_rows(found)
    width = max(len(label) for label, _ in rows) + 2
    title = knowledge_title(found)
    parts: list[Any] = [(f"{title[:1].upper()}{title[1:]}", "bold")]
    for label, figure in rows:
        colour = {"better": "bold $success", "worse": "bold $error"}.get(found.verdict, "bold")
        parts += ["\n", (f"{label:<{width}}", DIM), (figure, colour if label == rows[-1][0] else "")]
    return styled(*parts)
