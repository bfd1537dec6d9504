"""The plots of a training run: which there are, and the series and axes of each; `LinePlot` draws them."""

from collections.abc import Sequence
from dataclasses import dataclass

from lora_tui.tui.axes import Unit
from lora_tui.tui.curve import Series
from lora_tui.tui.views.training import TrainingView

PLOTS = {
    "loss": "Loss",
    "margin": "Reward margin",
    "right": "Told apart rightly",
    "score": "Score",
    "rate": "Learning rate",
    "speed": "Tokens per second",
}
"""Titles of the plots that take turns in the large place."""

_OF_JUDGEMENTS = ("margin", "right")
"""Plots of preference training alone."""

_LEAST_LOSS = 0.05
"""The least height of the loss axis: differences of a thousandth are no slope."""


@dataclass(frozen=True, slots=True)
class DrawnPlot:
    """What a plot shows: its series, a `level` with its label, y values that must be in view, its least height.

    `decimals` are those of its values where they are read out.
    """

    series: Sequence[Series]
    level: tuple[float, str] | None = None
    limits: tuple[float, float] | None = None
    least_height: float = 0.0
    decimals: int | None = None


def plot_names(view: TrainingView | None) -> list[str]:
    """The plots of a run, in the order in which they take turns."""
    judges = view is not None and view.judges
    return [name for name in PLOTS if judges or name not in _OF_JUDGEMENTS]


def second_plot(view: TrainingView, first: str) -> str:
    """The plot beside the large one: what tells most of the run and is not shown already."""
    wanted = ("margin", "rate") if view.judges else ("rate", "speed")
    return next(name for name in wanted if name != first)


def drawn_plot(view: TrainingView, name: str, unit: Unit) -> DrawnPlot:
    """One of `PLOTS`, over optimizer steps or another `unit`."""
    match name:
        case "loss":
            series = [
                Series("raw", view.over(view.loss, unit), style="faint"),
                Series("smoothed", view.over(view.smooth, unit)),
            ]
            if len(view.held_out.xs):
                series.append(Series("held out", view.over(view.held_out, unit), "points", "third", "◆"))
            return DrawnPlot(series, least_height=_LEAST_LOSS)
        case "margin":
            return DrawnPlot([Series("margin", view.over(view.margin, unit))], limits=(0.0, 0.0))
        case "right":
            return DrawnPlot([Series("told right", view.over(view.accuracy, unit))], limits=(0.0, 1.0))
        case "score":
            score = view.over(view.score, unit)
            points = [Series("", score, style="faint"), Series("score", score, "points", "third", "◆")]
            if view.base_score.xs:
                points.append(Series("base model", view.over(view.base_score, unit), "points", "second", "○"))
            shown = points[1:] if len(score.xs) < 2 else points
            return DrawnPlot(shown, level=(view.target, f"target {view.target:g}"), limits=(0.0, 1.0), decimals=2)
        case _:
            label, curve = ("learning rate", view.lr) if name == "rate" else ("tokens/s", view.speed)
            return DrawnPlot([Series(label, view.over(curve, unit), style="second")], limits=(0.0, 0.0))
