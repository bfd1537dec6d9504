"""The widgets that screens are made of, each in an app of its own."""

from collections.abc import Sequence
from typing import ClassVar

import pytest
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.events import MouseScrollDown, MouseScrollUp
from textual.widgets import Input

from lora_tui.tui.curve import Curve, Series
from lora_tui.tui.text import hang, lr_text, number, safe_line, safe_text, short_count, styled
from lora_tui.tui.widgets.key_hints import KeyHints
from lora_tui.tui.widgets.line_plot import LinePlot
from lora_tui.tui.widgets.panel import Panel
from lora_tui.tui.widgets.row_list import Cell, Column, RowList, fit_cells, fit_columns
from tests.tui.app_harness import wait_until
from tests.tui.test_curve import extend

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def text_of(app: App[None]) -> str:
    strips = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip) for strip in strips)


class Listed(App[None]):
    """A list of numbers that notes which rows it was asked for."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.asked: list[int] = []
        self.number = count
        self.moved: list[int] = []
        self.chosen: list[int] = []

    def compose(self) -> ComposeResult:
        yield RowList(self.row, (Column("n", 8, right=True), Column("text", 0)), follow=True, empty="nothing")

    def on_mount(self) -> None:
        self.query_one(RowList).show(self.number)
        self.query_one(RowList).focus()

    def row(self, index: int) -> Sequence[Cell]:
        self.asked.append(index)
        return [(str(index), "good"), (f"row {index}", "")]

    def on_row_list_moved(self, event: RowList.Moved) -> None:
        self.moved.append(event.index)

    def on_row_list_chosen(self, event: RowList.Chosen) -> None:
        self.chosen.append(event.index)


async def test_of_a_hundred_thousand_rows_only_those_in_view_are_asked_for() -> None:
    app = Listed(100_000)
    async with app.run_test(size=(60, 20)) as pilot:
        await pilot.pause()
        assert "row 99999" in text_of(app)
        assert len(set(app.asked)) < 100
        app.asked.clear()
        await pilot.press("home")
        await pilot.pause()
        assert "row 0" in text_of(app)
        assert max(app.asked) == 99_999 or max(app.asked) < 100
        assert len(set(app.asked)) < 60
        await pilot.press("pagedown", "down", "j", "up", "k", "enter")
        await pilot.pause()
        assert app.chosen == [app.query_one(RowList).cursor]


async def test_the_cursor_follows_the_end_until_it_is_moved() -> None:
    app = Listed(5)
    async with app.run_test(size=(60, 20)) as pilot:
        rows = app.query_one(RowList)
        assert rows.cursor == 4
        rows.show(7)
        assert rows.cursor == 6
        await pilot.press("up")
        rows.show(9)
        assert rows.cursor == 5
        await pilot.press("end")
        rows.show(30)
        assert rows.cursor == 29
        rows.show(2)
        assert rows.cursor == 1
        rows.show(0)
        await pilot.pause()
        assert "nothing" in text_of(app)


async def test_a_click_moves_the_cursor_and_a_double_click_opens() -> None:
    app = Listed(5)
    async with app.run_test(size=(60, 20)) as pilot:
        await pilot.pause()
        await pilot.click(RowList, offset=(5, 3))
        assert app.query_one(RowList).cursor == 2
        await pilot.click(RowList, offset=(5, 4), times=2)
        await wait_until(lambda: app.chosen)
        assert app.chosen == [3]
        await pilot.click(RowList, offset=(5, 0))
        assert app.query_one(RowList).cursor == 3, "the headings are no row"


async def test_scrolling_away_from_the_end_lets_go_of_it() -> None:
    app = Listed(500)
    async with app.run_test(size=(60, 20)) as pilot:
        await pilot.pause()
        rows = app.query_one(RowList)
        await pilot._post_mouse_events([MouseScrollUp], RowList, offset=(5, 5))
        assert not rows.following
        assert rows.cursor < 499
        await pilot._post_mouse_events([MouseScrollDown], RowList, offset=(5, 5))
        assert rows.following, "and takes it up again at the end"


async def test_a_long_list_has_a_bar_that_shows_where_one_is_and_takes_one_there() -> None:
    app = Listed(1000)
    async with app.run_test(size=(60, 21)) as pilot:
        await pilot.pause()
        last = [line[-1] for line in text_of(app).splitlines()[1:]]
        assert last[-1] == "┃"
        assert last[0] == "│"
        await pilot.click(RowList, offset=(59, 11))
        assert app.query_one(RowList).cursor == 500


@pytest.mark.parametrize(
    ("text", "width", "right", "expected"),
    [
        ("abc", 5, False, "abc  "), ("abc", 5, True, "  abc"), ("abcdef", 4, False, "abc…"),
        ("漢字仮名", 5, False, "漢字…"),
        ("漢字仮名", 4, False, "漢 …"), ("e\u0301x", 3, False, "e\u0301x "), ("abc", 0, False, ""),
    ],
)  # fmt: skip
def test_cells_have_exactly_their_width(text: str, width: int, right: bool, expected: str) -> None:
    assert fit_cells(text, width, right=right) == expected


class Plotted(App[None]):
    """A plot and a panel."""

    def compose(self) -> ComposeResult:
        yield LinePlot("empty so far")
        yield Panel("Title")


async def test_a_plot_labels_its_series_axes_and_level_and_says_when_there_is_nothing() -> None:
    app = Plotted()
    async with app.run_test(size=(70, 30)) as pilot:
        await pilot.pause()
        assert "empty so far" in text_of(app)
        curve = Curve()
        extend(curve, range(1, 50), [2.0 / n for n in range(1, 50)])
        plot = app.query_one(LinePlot)
        plot.show([Series("loss", curve), Series("held out", curve, "points", "third")], end_x=100, level=(1.5, "aim"))
        await pilot.pause()
        text = text_of(app)
        for expected in ("loss 0.0408", "◆ held out", "┄┄ aim", "100", "┤", "◆"):
            assert expected in text, expected
        plot.set_log(True)
        await pilot.pause()
        assert "log scale" in text_of(app)


async def test_a_legend_leaves_out_whole_parts_and_writes_values_as_it_is_asked_to() -> None:
    app = Plotted()
    async with app.run_test(size=(34, 12)) as pilot:
        curve = Curve()
        extend(curve, range(1, 5), [0.1, 0.156, 0.2, 0.9])
        plot = app.query_one(LinePlot)
        plot.show([Series("score", curve), Series("base model", curve)], level=(1.0, "target 1"), decimals=2)
        await pilot.pause()
        legend = text_of(app).splitlines()[0].rstrip()
        assert legend == " ━━ score 0.90  ━━ base model 0.90", "no part of the target"


@pytest.mark.parametrize("height", [7, 8, 9, 12])
@pytest.mark.parametrize(("low", "high"), [(1.6, 3.9), (0.61, 0.69), (2.1, 2.9), (1040.0, 1980.0)])
async def test_an_axis_has_two_labels_at_least(height: int, low: float, high: float) -> None:
    app = Plotted()
    async with app.run_test(size=(70, 2 * height)) as pilot:
        curve = Curve()
        extend(curve, range(1, 5), [high, low, low, high])
        app.query_one(LinePlot).show([Series("loss", curve)])
        await pilot.pause()
        labels = [line.partition("┤")[0].strip() for line in text_of(app).splitlines() if "┤" in line]
        assert len(labels) == len(set(labels)) > 1, labels


class Typed(App[None]):
    """A field, keys that would be typed into it, and more keys than a narrow line holds."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "bell", "Search", key_display="/"),
        *(Binding(f"ctrl+{key}", f"work('{key}')", f"A long description {key}") for key in "bgnt"),
        Binding("f7", "help", "Help", priority=True),
    ]
    COMMAND_PALETTE_DISPLAY = "^p"

    def compose(self) -> ComposeResult:
        yield Input()
        yield KeyHints()

    def action_help(self) -> None:
        """Nothing."""

    def action_work(self, key: str) -> None:
        """Nothing."""


async def test_hints_keep_the_way_to_all_keys_and_leave_out_what_would_be_text() -> None:
    app = Typed()
    async with app.run_test(size=(80, 5)) as pilot:
        await pilot.pause()
        hints = text_of(app).splitlines()[-1]
        assert "f7 Help  ^p Commands" in hints
        assert hints.count("A long description") == 2, "as many as fit"
        assert "Search" not in hints, "the sign would be typed"
        app.set_focus(None)
        await pilot.pause()
        assert "/ Search" in text_of(app)


def test_a_value_that_is_too_long_goes_on_in_its_own_column() -> None:
    line = styled(("model   ", "dim"), "a name that needs more room than there is")
    assert hang(line, 8, 30).plain == "model   a name that needs more\n        room than there is"
    assert hang(line, 8, 60).plain == line.plain
    assert hang(line, 8, 20).plain == line.plain, "a word a line is no column"
    whole = "x" * 45
    assert hang(styled("model   ", whole), 8, 30).plain.replace("\n        ", "") == f"model   {whole}"
    wide = hang(styled("model   ", "学" * 30), 8, 41).plain
    assert wide == f"model   {'学' * 16}\n        {'学' * 14}", "by cells, of which each takes two"
    apart = hang(styled("model   ", "a name that needs more  room than there is  "), 8, 30).plain
    assert apart == "model   a name that needs more\n        room than there is", "no line begins with a blank"
    apart = hang(styled("model   ", "a name that needs mor  room than there is"), 8, 30).plain
    assert apart == "model   a name that needs mor\n        room than there is", "and none ends with one"


async def test_a_panel_repaints_only_for_another_text(monkeypatch: pytest.MonkeyPatch) -> None:
    app = Plotted()
    async with app.run_test(size=(70, 30)):
        panel = app.query_one(Panel)
        updates: list[Content] = []
        monkeypatch.setattr(panel, "update", lambda content, **_: updates.append(content))
        panel.show(Content("one"))
        panel.show(Content("one"))
        panel.show(styled(("one", "bold")))
        panel.show(Content("two"))
        assert [update.plain for update in updates] == ["one", "one", "two"], "a style is a change too"


def test_foreign_text_is_content_and_never_markup() -> None:
    assert safe_text("[bold]x[/bold] \x1b[2J").plain == "[bold]x[/bold] ␛[2J"
    assert safe_line("a\n\tb  [/]").plain == "a b [/]"
    assert styled("[b]", ("\x9b", "bold")).plain == "[b]�"


def test_numbers_that_are_missing_are_dashes() -> None:
    assert number(None) == number(float("nan")) == short_count(float("inf")) == lr_text(None) == "–"
    assert number(1234.5) == "1,234"
    assert [short_count(n) for n in (0, 9999, 84_123, 1_234_567, 12e9)] == ["0", "9,999", "84k", "1.2M", "12.0G"]
    assert [lr_text(n) for n in (0, 8.1e-4, 1e-3, 3e-5)] == ["0", "8.1e-4", "1e-3", "3e-5"]


def test_columns_that_matter_least_are_left_out_first_and_the_others_share_the_room() -> None:
    columns = (
        Column("", 1), Column("question", 0, share=2, least=10), Column("answer", 0, least=6),
        Column("type", 5, rank=1), Column("topic", 9, rank=2), Column("id", 2, rank=3),
    )  # fmt: skip
    assert fit_columns(columns, 20) == [(0, 1), (1, 10), (2, 6)], "exactly what must be there"
    assert fit_columns(columns, 10) == [(0, 1), (1, 10), (2, 6)], "and never less"
    assert fit_columns(columns, 26) == [(0, 1), (1, 10), (2, 6), (3, 5)]
    assert fit_columns(columns, 29) == [(0, 1), (1, 10), (2, 6), (3, 5), (5, 2)], "what fits beside it comes too"
    wide = fit_columns(columns, 69)
    assert wide == [(0, 1), (1, 30), (2, 16), (3, 5), (4, 9), (5, 2)]
    assert sum(width + 1 for _, width in wide) == 69


def test_of_a_path_the_end_is_kept() -> None:
    assert fit_cells("a/long/path/file.md", 9, right=False, keep_end=True) == "…/file.md"
    assert fit_cells("日本語.md", 6, right=False, keep_end=True) == "…語.md", "wide characters are counted as two"
    assert fit_cells("short.md", 9, right=False, keep_end=True) == "short.md "


class Tight(App[None]):
    """A list whose columns fit into its width, and not beside a scroll bar."""

    def compose(self) -> ComposeResult:
        columns = (Column("one", 10, rank=2), Column("two", 10, rank=1), Column("three", 36))
        yield RowList(lambda _: [("first", ""), ("second", ""), ("third", "")], columns)

    def on_mount(self) -> None:
        self.query_one(RowList).show(100)


async def test_headings_stand_over_their_columns_where_a_scroll_bar_takes_the_last_cell() -> None:
    app = Tight()
    async with app.run_test(size=(60, 20)) as pilot:
        await pilot.pause()
        heading, row, *_ = text_of(app).splitlines()
        assert heading.index("three") == row.index("third")
        assert ("one" in heading) == ("first" in row)
