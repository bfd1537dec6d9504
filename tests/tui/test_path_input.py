"""The field for paths: what is listed, and what tab, the arrows and enter make of it."""

from pathlib import Path

import pytest
from textual.app import App, ComposeResult
from textual.widgets import Input

from lora_tui.tui.widgets.path_input import Kind, PathChoice, PathInput, likely_folder, path_choices

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two folders, of which one holds text, and a file of examples."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes" / "deep").mkdir(parents=True)
    (tmp_path / "drafts").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "notes" / "one.txt").write_text("one")
    (tmp_path / "facts.jsonl").write_text("{}")
    return tmp_path


def test_folders_with_text_in_them_come_first() -> None:
    expected = [PathChoice("notes", "1 text file", True), PathChoice("drafts", "no text file in it")]
    assert path_choices("", "folder") == expected
    assert path_choices("dr", "folder") == expected[1:]
    assert [choice.value for choice in path_choices(".", "folder")] == [".hidden"]
    assert path_choices("nowhere/", "folder") == []


def test_a_file_is_found_through_folders() -> None:
    assert [choice.value for choice in path_choices("", "file")] == ["facts.jsonl", "drafts/", "notes/"]
    assert [choice.value for choice in path_choices("notes/", "file")] == ["notes/one.txt", "notes/deep/"]


def test_the_home_folder_is_known(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here))
    assert path_choices("~", "folder")[0].value == "~/"
    assert path_choices("~/no", "folder") == [PathChoice("~/notes", "1 text file", True)]


def test_the_only_folder_with_text_is_the_likely_one(here: Path) -> None:
    assert likely_folder("training_input") == "notes"
    assert likely_folder("drafts") == "drafts", "what the configuration names, where it is there"
    (here / "drafts" / "two.md").write_text("two")
    assert likely_folder("training_input") == "", "which of the two nobody can know"


def test_a_folder_of_a_program_is_not_the_likely_one(here: Path) -> None:
    (here / "drafts" / "README.md").write_text("how it works")
    (here / "drafts" / "main.py").write_text("pass")
    assert likely_folder("training_input") == "notes"
    assert [choice.value for choice in path_choices("", "folder")] == ["notes", "drafts"]
    (here / "notes" / "one.txt").unlink()
    assert likely_folder("training_input") == ""


async def test_what_is_typed_takes_the_place_of_a_guess_and_goes_on_from_what_was_typed(here: Path) -> None:
    app = _Form("folder")
    async with app.run_test() as pilot:
        app.query_one("#next").focus()
        app.field.guess("notes")
        app.field.focus()
        await pilot.press("d", "r")
        assert app.field.value == "dr"
        app.query_one("#next").focus()
        app.field.focus()
        await pilot.press("a")
        assert app.field.value == "dra"


class _Form(App[None]):
    """A path and a field below it."""

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self.field = PathInput("", kind)
        self.listed: list[tuple[str, ...]] = []

    def compose(self) -> ComposeResult:
        yield self.field
        yield Input(id="next")

    def on_path_input_listed(self, event: PathInput.Listed) -> None:
        self.listed.append(tuple(choice.value for choice in event.choices))


@pytest.mark.parametrize(
    ("kind", "keys", "value"),
    [
        ("folder", "tab", "notes"),
        ("folder", "d tab", "drafts"),
        ("folder", "n o right", "notes"),
        ("folder", "@ down down enter", "drafts"),
        ("folder", "@ down tab", "notes"),
        ("file", "f tab", "facts.jsonl"),
        ("file", "n tab @ tab", "notes/one.txt"),
    ],
)
async def test_a_path_is_completed(kind: Kind, keys: str, value: str) -> None:
    app = _Form(kind)
    async with app.run_test() as pilot:
        for key in keys.split():
            await pilot.pause(0.3) if key == "@" else await pilot.press(key)
            if key in ("o", "d"):
                await pilot.pause(0.3)  # what stands dim behind it is read in a thread
        assert app.field.value == value
        assert app.focused is app.field
        if kind == "folder":
            await pilot.press("tab")
            assert app.focused is not app.field, "a path that is there is complete"


async def test_the_home_folder_is_written_out(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here))
    app = _Form("folder")
    async with app.run_test() as pilot:
        await pilot.press("tilde", "tab", "n", "tab")
        assert app.field.value == "~/notes"
        assert app.field.path == str(here / "notes")


async def test_what_is_certain_is_completed_first(here: Path) -> None:
    (here / "notes-of-old").mkdir()
    app = _Form("folder")
    async with app.run_test() as pilot:
        await pilot.press("n", "tab")
        assert app.field.value == "notes"
        await pilot.press("-", "tab")
        assert app.field.value == "notes-of-old"


async def test_the_list_is_put_away_with_the_focus_and_when_the_path_is_there() -> None:
    app = _Form("folder")
    async with app.run_test() as pilot:
        await pilot.pause(0.3)
        assert app.listed[-1] == ("notes", "drafts")
        await pilot.press(*"notes")
        await pilot.pause(0.3)
        assert app.listed[-1] == ()
        await pilot.press("backspace")
        await pilot.pause(0.3)
        assert app.listed[-1] == ("notes",)
        app.query_one("#next").focus()
        await pilot.pause(0.1)
        assert app.listed[-1] == ()


@pytest.mark.parametrize("kind", ["folder", "file"])
@pytest.mark.parametrize(
    "pasted", ["evil\x1b[31m \a" * 1000, "/" + "a" * 300, "~nobody-of-this-name", "a\0b", "x/" * 3000]
)
async def test_what_no_path_can_be_is_no_path(kind: Kind, pasted: str) -> None:
    app = _Form(kind)
    async with app.run_test() as pilot:
        app.field.value = pasted
        app.field.focus()
        await pilot.pause(0.3)
        assert not app.field.is_there
        assert app.field.path.strip()
        await pilot.press("tab")
        assert app.focused is not app.field
    assert likely_folder(pasted) == "notes"
