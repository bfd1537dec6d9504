"""The list of runs as data: which columns fit, what is sorted how, what stands under what."""

from dataclasses import replace

import pytest
from rich.cells import cell_len

from lora_tui.store.queries.run_figures import RunFigures
from lora_tui.store.queries.runs import RunLine
from lora_tui.tui.views.run_list import COLUMNS, MARKS, RunList, RunRow, columns_at, run_cells

LINE = RunLine(
    id=1, mode="train", name="", state="finished", device="cpu", folder="/runs/1", created_at=0.0, started_at=0.0,
    ended_at=244.0, heartbeat=244.0, pid=1, host="box", error=None, model="builtin", data="texts/mine.txt",
    best_score=1.0, held_out_loss=None,
)  # fmt: skip
FIGURES = RunFigures(
    1, right=4, asked=4, loss=(3.0, 1.0, 0.02), last_loss=0.02, score=(0.2, 1.0), steps=70, total_steps=12_210,
    rate=1e-3, batch=4,
)  # fmt: skip


@pytest.mark.parametrize("width", [80, 100, 120, 140, 200])
def test_right_answers_and_score_are_there_at_every_width_and_everything_fits(width: int) -> None:
    columns = columns_at(width)
    names = [column.name for column in columns]
    assert {"run", "what", "right", "loss", "score", "time", "data"} <= set(names)
    assert len(names) == len(set(names))
    room = width - 2 - 1 - len(columns)  # the frame, the cursor, and a gap after each
    assert sum(column.width for column in columns) + 10 <= room, "what is left is enough for a file's name"
    for column, (text, _) in zip(columns, run_cells(RunRow(LINE, FIGURES, "◆"), columns), strict=True):
        assert not column.width or cell_len(text) <= column.width, f"{column.name}: {text}"
        assert len(column.name) < (column.width or 99), "an arrow fits behind each heading"


def test_more_columns_come_with_more_room() -> None:
    counts = [len(columns_at(width)) for width in (80, 100, 120, 140, 200)]
    assert counts == sorted(counts)
    assert counts[-1] == len({column.name for column in COLUMNS})


def test_sorting_puts_the_best_first_whatever_best_is() -> None:
    lines = [replace(LINE, id=number, best_score=score) for number, score in ((3, 0.5), (2, None), (1, 0.9))]
    figures = {3: replace(FIGURES, last_loss=0.1), 1: replace(FIGURES, last_loss=0.5)}
    listed = RunList()
    columns = {column.name: column for column in columns_at(120)}

    def order() -> list[int]:
        listed.arrange(lines, figures)
        return [row.run.id for row in listed.rows]

    assert order() == [3, 2, 1]
    listed.sort_by(columns["score"])
    assert (order(), listed.arrow) == ([1, 3, 2], "▼")
    listed.sort_by(columns["loss"])
    assert (order(), listed.arrow) == ([3, 1, 2], "▲"), "the lowest loss is the best"
    listed.sort_by(columns["loss"])
    assert (order(), listed.arrow) == ([1, 3, 2], "▼"), "without a value they stay last"


def test_marks_are_the_same_in_the_list_and_beside_it() -> None:
    listed = RunList(marked=[7, 3])
    listed.arrange([replace(LINE, id=number) for number in (7, 3, 1)], {})
    assert [row.mark for row in listed.rows] == [MARKS[0], MARKS[1], ""]
    assert run_cells(listed.rows[0], columns_at(80))[0][0] == "◆ 7"


@pytest.mark.parametrize(
    ("found", "note"),
    [({"preferences_right": 0.875}, "88 % of preferences right"), ({"proposed_rate": 0.01}, "proposes 1e-2")],
)
def test_what_a_run_without_a_score_of_its_own_has_found_is_its_note(found: dict[str, float], note: str) -> None:
    for width in (80, 140):
        columns = columns_at(width)
        row = RunRow(replace(LINE, **found), FIGURES, "")  # type: ignore[arg-type]  # two fields of one type
        assert note in [text for text, _ in run_cells(row, columns)]
