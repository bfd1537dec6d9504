"""The list of runs as it is shown: which of them, in which order, in which columns, and the cells of a row."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from lora_tui.protocol.choice import axis_names, point_text
from lora_tui.store.queries.run_figures import RunFigures
from lora_tui.store.queries.runs import RunLine
from lora_tui.store.queries.sweeps import point_of
from lora_tui.store.rows import LIVE_STATES, worked_seconds
from lora_tui.text import count, duration, one_line
from lora_tui.tui.axes import number_label
from lora_tui.tui.curve import sparkline
from lora_tui.tui.text import lr_text, number, short_count
from lora_tui.tui.theme import state_label

COMPARED = ("train", "quickstart", "evaluate")
"""Modes whose runs can be marked and compared: they have a loss, a score or answers."""

MARKS = "◆◇▲△"
"""Glyphs of marked runs, which tell them apart in the list and in what compares them."""

_STATE_STYLES = {"finished": "good", "failed": "bad", "interrupted": "bad", "running": "accent", "stopping": "warn"}
_LOSS_WIDTH, _SCORE_WIDTH = 7, 4
"""Blocks of the sparklines."""

_NONE = RunFigures(0)


@dataclass(frozen=True, slots=True)
class RunColumn:
    """A column: its heading is its name, its width in cells (0: what is left), and the width of the list it needs.

    `sort_key` is what its rows are ordered by, None where they cannot be; `ascending` says which end is best.
    """

    name: str
    width: int
    needs: int
    text: Callable[["RunRow"], tuple[str, str]]
    sort_key: Callable[["RunRow"], float | str | None] | None = None
    ascending: bool = False
    right: bool = False
    least: int = 4
    share: int = 1
    """Cells that a column of width 0 has at least, and its share of what is left to such columns."""


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run in the list: its line, its figures, whether it is marked, and whether it is listed under another."""

    run: RunLine
    figures: RunFigures
    mark: str = ""
    is_child: bool = False
    place: int = 0
    """Its place among the runs that wait in the queue, from 1; 0 for another."""


@dataclass
class RunList:
    """Runs that match a kind and a search, sorted; exports and evaluations stand under the run whose adapter they took.

    `kind` is a mode or empty for all. `sort` is the name of a column; `reverse` turns its order round.
    """

    kind: str = ""
    search: str = ""
    sort: str = "run"
    reverse: bool = False
    marked: list[int] = field(default_factory=list)
    """Ids of the runs to compare, the oldest mark first."""
    rows: list[RunRow] = field(default_factory=list)
    total: int = 0
    kinds: list[str] = field(default_factory=list)
    """The modes that there are runs of."""

    def arrange(self, runs: Sequence[RunLine], figures: Mapping[int, RunFigures]) -> None:
        """Choose and order the rows."""
        self.total = len(runs)
        self.kinds = sorted({run.mode for run in runs})
        places = queue_places(runs)
        rows = [
            RunRow(run, figures.get(run.id, _NONE), self.mark_of(run.id), place=places.get(run.id, 0)) for run in runs
        ]
        chosen = [row for row in rows if self._matches(row)]
        ids = {row.run.id for row in chosen}
        children: dict[int, list[RunRow]] = {}
        top: list[RunRow] = []
        for row in chosen:
            parent = row.figures.adapter_run
            if row.run.mode == "export" and parent in ids and parent != row.run.id:
                children.setdefault(parent, []).append(RunRow(row.run, row.figures, row.mark, is_child=True))
            else:
                top.append(row)
        self.rows = [line for row in self._sorted(top) for line in (row, *children.get(row.run.id, ()))]

    def mark_of(self, run_id: int) -> str:
        """The glyph of a marked run, empty for others."""
        return MARKS[self.marked.index(run_id)] if run_id in self.marked else ""

    def index_of(self, run_id: int | None) -> int | None:
        """The row of a run; None where it is not listed."""
        return next((index for index, row in enumerate(self.rows) if row.run.id == run_id), None)

    def _matches(self, row: RunRow) -> bool:
        run = row.run
        if self.kind and run.mode != self.kind:
            return False
        text = " ".join((str(run.id), run.mode, run.state, run.name, run.model, run.data, run.error or "",
                         row.figures.path)).casefold()  # fmt: skip
        return all(word in text for word in self.search.casefold().split())

    def _sorted(self, rows: list[RunRow]) -> list[RunRow]:
        """Rows in the order of the sort column, those without a value last; the newest first among equals."""
        column = next((column for column in COLUMNS if column.name == self.sort), COLUMNS[0])
        key = column.sort_key
        if key is None:
            return rows
        if column is COLUMNS[0] and not self.reverse:  # what waits stands above what has begun, the next one first
            queued = sorted((row for row in rows if row.place), key=lambda row: row.place)
            return queued + [row for row in rows if not row.place]
        known = [(value, row) for row in rows if (value := key(row)) is not None]
        known.sort(key=lambda entry: entry[0], reverse=column.ascending == self.reverse)
        return [row for _, row in known] + [row for row in rows if key(row) is None]

    def next_sort(self, width: int) -> None:
        """Sort by the next of the columns that are shown at this width."""
        names = [column.name for column in columns_at(width) if column.sort_key is not None]
        at = names.index(self.sort) if self.sort in names else -1
        self.sort, self.reverse = names[(at + 1) % len(names)], False

    def sort_by(self, column: RunColumn) -> None:
        """Sort by a column; the other way round where the runs are sorted by it already."""
        if column.sort_key is not None:
            self.reverse = not self.reverse if self.sort == column.name else False
            self.sort = column.name

    def next_kind(self) -> None:
        """Show the next kind of runs that there are; after the last, all."""
        kinds = ["", *self.kinds]
        at = kinds.index(self.kind) if self.kind in kinds else 0
        self.kind = kinds[(at + 1) % len(kinds)]

    @property
    def arrow(self) -> str:
        """Which end of the sort column comes first: ``▼`` for its largest."""
        column = next((column for column in COLUMNS if column.name == self.sort), COLUMNS[0])
        return "▲" if column.ascending != self.reverse else "▼"

    def title(self) -> str:
        """How many runs of which kind are listed, and in which order."""
        kind = f" · {self.kind}" if self.kind else ""
        found = f' · "{one_line(self.search, 30)}"' if self.search else ""
        of = f"{len(self.rows):,} of {self.total:,}" if len(self.rows) != self.total else f"{self.total:,}"
        order = "newest first" if (self.sort, self.reverse) == ("run", False) else f"sorted by {self.sort} {self.arrow}"
        return f"Runs ({of}{kind}{found}) · {order}"


def queue_places(runs: Sequence[RunLine]) -> dict[int, int]:
    """The places of the runs that are still to be worked, from 1, by id."""
    waiting = sorted(
        (run.position, run.id) for run in runs if run.position is not None and run.state not in LIVE_STATES
    )
    return {run_id: number for number, (_, run_id) in enumerate(waiting, start=1)}


def sweep_text(run: RunLine) -> str:
    """What a run of a sweep sets, and the sweep's number; empty for another run."""
    if run.group_id is None:
        return ""
    point = point_of(run)
    return f"sweep {run.group_id}: {one_line(point_text(point, axis_names([point])), 80)}"


def start_time(run: RunLine) -> str:
    """When a run began: "today" with the time of day, else the date."""
    at = datetime.fromtimestamp(run.started_at or run.created_at).astimezone()
    now = datetime.now().astimezone()
    if at.date() == now.date():
        return at.strftime("today %H:%M")
    return at.strftime("%d %b %H:%M" if at.year == now.year else "%Y-%m-%d")


def elapsed_seconds(run: RunLine) -> float | None:
    """How long a run was worked on, in seconds; None for one that has not begun."""
    return worked_seconds(run, time.time() if run.state in LIVE_STATES else run.ended_at or run.heartbeat)


def data_of(run: RunLine) -> str:
    """The data that a run works on; a quickstart brings its own."""
    return "built-in" if run.mode == "quickstart" and not run.data else run.data


def _run(row: RunRow) -> tuple[str, str]:
    return f"{row.mark or ' '} {row.run.id}", "accent" if row.mark else "strong"


def _what(row: RunRow) -> tuple[str, str]:
    glyph = state_label(row.run.state)[0].partition(" ")[0]
    return f"{'└ ' if row.is_child else ''}{glyph} {row.run.mode}", _STATE_STYLES.get(row.run.state, "dim")


def _right(row: RunRow) -> tuple[str, str]:
    right, asked = row.figures.right, row.figures.asked
    if asked is None or right is None:
        return "", ""
    return f"{right}/{asked}", "good" if right == asked else "strong"


def _right_share(row: RunRow) -> float | None:
    return row.figures.right / row.figures.asked if row.figures.right is not None and row.figures.asked else None


def _last_loss(row: RunRow) -> float | None:
    figures = row.figures
    return figures.last_loss if figures.last_loss is not None else figures.loss[-1] if figures.loss else None


def _loss(row: RunRow) -> tuple[str, str]:
    last = _last_loss(row)
    if last is None:
        return "", ""
    value = f"{last:.2f}" if 0.01 <= abs(last) < 100 else number_label(last, 2)
    return f"{sparkline(row.figures.loss, _LOSS_WIDTH):<{_LOSS_WIDTH}} {value}", ""


def _score(row: RunRow) -> tuple[str, str]:
    if row.run.best_score is None:
        return "", ""
    figures = row.figures
    scores = (figures.base_score, *figures.score) if figures.base_score is not None else figures.score
    drawn = sparkline(scores, _SCORE_WIDTH, (0.0, 1.0)) if len(scores) > 1 else ""
    return f"{drawn:<{_SCORE_WIDTH}} {row.run.best_score:.2f}", "strong"


def _score_alone(row: RunRow) -> tuple[str, str]:
    return number(row.run.best_score, ".2f") if row.run.best_score is not None else "", "strong"


def _steps(row: RunRow) -> tuple[str, str]:
    done, total = row.figures.steps, row.figures.total_steps
    if done is None:
        return "", ""
    return f"{_shorter(done)}/{_shorter(total)}" if total else _shorter(done), ""


def _shorter(value: int) -> str:
    """A count in at most four characters: "240", "2.4k", "12k", "2.0M"."""
    if 1000 <= value < 9950:
        return f"{value / 1000:.1f}k"
    return short_count(value) if value < 1000 or value >= 999_500 else f"{value / 1000:.0f}k"


def _time(row: RunRow) -> tuple[str, str]:
    took = elapsed_seconds(row.run)
    return "–" if took is None else duration(took), ""


def _data(row: RunRow) -> tuple[str, str]:
    if row.run.mode == "evaluate" and row.figures.adapter_run is not None:
        return f"run {row.figures.adapter_run}", "dim"
    return one_line(data_of(row.run).rpartition("/")[2] or data_of(row.run), 120), "dim"


def _note(row: RunRow) -> tuple[str, str]:
    if row.run.name:
        return one_line(row.run.name, 120), "accent"
    if row.place:
        return _queued(row), "other"
    if row.run.error:
        return one_line(row.run.error.partition("\n")[0], 160), "bad"
    if row.run.group_id is not None:
        return sweep_text(row.run), "dim"
    if row.run.preferences_right is not None:
        return f"{number(100 * row.run.preferences_right, '.0f')} % of preferences right", "dim"
    if row.run.proposed_rate is not None:
        return f"proposes {lr_text(row.run.proposed_rate)}", "dim"
    accepted = row.figures.accepted
    return ("", "") if accepted is None else (count(accepted, "pair"), "dim")


def _queued(row: RunRow) -> str:
    """Where a run stands in the queue, and what it sets in its sweep."""
    place = "next in the queue" if row.place == 1 else f"{row.place} in the queue"
    return f"{place} · {sweep_text(row.run)}" if row.run.group_id is not None else place


def _data_or_note(row: RunRow) -> tuple[str, str]:
    """Both where there is no room for two columns: a name before the file, or why it failed."""
    data = _data(row)
    if row.run.name:
        return f"{one_line(row.run.name, 120)}{f' · {data[0]}' if data[0] else ''}", "accent"
    if row.place:
        place = "next" if row.place == 1 else f"queue {row.place}"
        return f"{place} · {sweep_text(row.run) or data[0]}", "other"
    found = row.run.preferences_right is not None or row.run.proposed_rate is not None
    return _note(row) if row.run.error or row.run.group_id is not None or found else data


COLUMNS = (
    RunColumn("run", 6, 0, _run, lambda row: row.run.id),
    RunColumn("what", 12, 0, _what, lambda row: row.run.mode, ascending=True),
    RunColumn("right", 6, 0, _right, _right_share),
    RunColumn("loss", 14, 0, _loss, _last_loss, ascending=True),
    RunColumn("score", 9, 110, _score, lambda row: row.run.best_score),
    RunColumn("score", 6, -110, _score_alone, lambda row: row.run.best_score),
    RunColumn("steps", 9, 90, _steps, lambda row: row.figures.steps),
    RunColumn("rate", 6, 96, lambda row: (lr_text(row.figures.rate) if row.figures.rate else "", ""),
              lambda row: row.figures.rate),
    RunColumn("batch", 6, 104, lambda row: (f"{row.figures.batch:,}" if row.figures.batch else "", ""),
              lambda row: row.figures.batch),
    RunColumn("time", 7, 0, _time, lambda row: elapsed_seconds(row.run), right=True),
    RunColumn("begun", 12, 150, lambda row: (start_time(row.run), "dim"), lambda row: row.run.started_at),
    RunColumn("model", 22, 170, lambda row: (one_line(row.run.shown_model, 60), ""), lambda row: row.run.model or None,
              ascending=True),
    RunColumn("data", 0, -110, _data_or_note, lambda row: data_of(row.run) or None, ascending=True),
    RunColumn("data", 0, 110, _data, lambda row: data_of(row.run) or None, ascending=True, least=16),
    RunColumn("note", 0, 110, _note, lambda row: row.run.name or None, ascending=True, least=16, share=4),
)  # fmt: skip
"""All columns; `needs` is the least width of the list, or below zero the width from which it is left out."""


def columns_at(width: int) -> list[RunColumn]:
    """The columns of a list of this width in cells; right answers and score are the last to go."""
    return [column for column in COLUMNS if (width >= column.needs if column.needs >= 0 else width < -column.needs)]


def run_cells(row: RunRow, columns: Sequence[RunColumn]) -> list[tuple[str, str]]:
    """The cells of a run; of an export its number, what it is, and where it wrote what."""
    if row.is_child or (row.run.mode == "export" and not row.run.best_score):
        form = f"{row.figures.form} → " if row.figures.form else ""
        why = one_line((row.run.error or "").partition("\n")[0], 160)
        text = (why, "bad") if why else (f"{form}{one_line(row.figures.path, 200)}", "dim")
        return [_run(row), _what(row), text]
    return [column.text(row) for column in columns]
