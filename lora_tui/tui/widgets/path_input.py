"""Field for a file or a folder: lists what is there while one types, and tab completes it as a shell does.

The list itself is drawn by whoever holds the field: it gets `PathInput.Listed`. Folders are read in a thread.
"""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.suggester import Suggester
from textual.timer import Timer
from textual.widgets import Input

from lora_tui.files import expanded, is_file, is_folder
from lora_tui.text import count, file_size

TEXT_SUFFIXES = (".txt", ".md", ".markdown", ".html", ".htm", ".pdf", ".docx", ".pptx", ".epub")
DATA_SUFFIXES = (".txt", ".jsonl", ".json", ".csv")
_PROGRAM_SUFFIXES = (".py", ".toml", ".js", ".ts", ".rs", ".go", ".c", ".h", ".java", ".rb", ".sh")
"""What a folder of a program holds; its README or licence is not what anybody wants to ask about."""
_NOT_OFFERED = ("__pycache__", "node_modules", "checkpoints", "venv")

_MOST_ENTRIES = 2000
"""Entries of a folder that are looked at."""
_MOST_COUNTED = 40
"""Folders whose text files are counted: each is read for it."""
_PAUSE = 0.1
_SHORT = ("~", "..")
"""Folders that are there and yet hardly meant: they are gone on from."""

Kind = Literal["folder", "file"]


@dataclass(frozen=True, slots=True)
class PathChoice:
    """A path that what was typed can become: `value` is what the field then holds, `note` says what is there."""

    value: str
    note: str
    holds_text: bool = False
    """Whether there is text in this folder, and it is no part of a program."""


def path_choices(typed: str, kind: Kind) -> list[PathChoice]:
    """Return the folders, and for a file also the files with training data, that begin as `typed` does.

    The likeliest come first: folders with text in them, files before folders. `~` is the home folder. What cannot be
    read holds nothing.
    """
    if typed in _SHORT:
        return [PathChoice(f"{typed}/", "your home folder" if typed == "~" else "the folder above")]
    above, slash, begun = typed.rpartition("/")
    found = [
        entry
        for entry in _entries(expanded(above + slash or "."))
        if entry.name.startswith(begun) and (begun or entry.name[0] != ".") and entry.name not in _NOT_OFFERED
    ]
    folders = [entry for entry in found if _is_folder(entry)]
    if kind == "file":
        files = [entry for entry in found if entry.name.lower().endswith(DATA_SUFFIXES) and not _is_folder(entry)]
        offered = [PathChoice(f"{above}{slash}{entry.name}", _size(entry)) for entry in files]
        return offered + [PathChoice(f"{above}{slash}{entry.name}/", "folder") for entry in folders]
    counted = [(entry, *_contents(entry.path)) for entry in folders[:_MOST_COUNTED]]
    counted.sort(key=lambda found: (not found[1] or found[2], not found[1]))
    choices = [
        PathChoice(f"{above}{slash}{entry.name}", _holds(texts), bool(texts) and not is_program)
        for entry, texts, is_program in counted
    ]
    choices += [PathChoice(f"{above}{slash}{entry.name}", "") for entry in folders[_MOST_COUNTED:]]
    if not typed and (here := _contents(".")[0]):
        choices.append(PathChoice(".", f"this folder: {_holds(here)}"))
    return choices


def likely_folder(wanted: str) -> str:
    """Return the folder to begin with: `wanted` where it is there, else the only one here that holds text, or none."""
    if is_folder(wanted):
        return wanted
    with_text = [choice.value for choice in path_choices("", "folder") if choice.holds_text and choice.value != "."]
    return with_text[0] if len(with_text) == 1 else ""


def _entries(folder: Path) -> Sequence["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as entries:
            return sorted([entry for entry, _ in zip(entries, range(_MOST_ENTRIES), strict=False)], key=_name)
    except (OSError, ValueError):  # ValueError: a name with a zero byte
        return ()


def _name(entry: "os.DirEntry[str]") -> str:
    return entry.name.casefold()


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _contents(folder: str) -> tuple[int, bool]:
    """Return how many text files a folder holds, and whether it is part of a program: it holds as much source code."""
    names = [entry.name.lower() for entry in _entries(Path(folder))]
    texts = sum(name.endswith(TEXT_SUFFIXES) for name in names)
    return texts, sum(name.endswith(_PROGRAM_SUFFIXES) for name in names) >= max(1, texts)


def _holds(texts: int) -> str:
    return count(texts, "text file") if texts else "no text file in it"


def _size(entry: "os.DirEntry[str]") -> str:
    try:
        size = entry.stat().st_size
    except OSError:
        return ""
    return file_size(size)


class _PathSuggester(Suggester):
    """Suggests the first path that begins with what is typed, as dim text after it; the right arrow takes it."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(use_cache=False, case_sensitive=True)
        self._kind = kind

    async def get_suggestion(self, value: str) -> str | None:
        """Return the whole path; none for an empty field."""
        choices = await asyncio.to_thread(path_choices, value, self._kind) if value else []
        return choices[0].value if choices else None


class PathInput(Input):
    """Input that completes paths: tab as a shell does, right takes the dim text, down and up choose in the list."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "complete", "Complete", show=False),
        Binding("down", "choose(1)", "Next path", show=False),
        Binding("up", "choose(-1)", "Path before", show=False),
    ]

    @dataclass
    class Listed(Message):
        """The list of paths has changed: none while what is typed is there, or another field has the focus."""

        choices: Sequence[PathChoice]
        cursor: int | None

    def __init__(self, value: str, kind: Kind) -> None:
        super().__init__(value, compact=True, suggester=_PathSuggester(kind), select_on_focus=False)
        self._kind: Kind = kind
        self._guess = ""
        """A path that nobody has typed or taken: what is typed takes its place."""
        self._choices: Sequence[PathChoice] = ()
        self._cursor: int | None = None
        self._timer: Timer | None = None

    @property
    def is_there(self) -> bool:
        """Whether the field names a folder, or a file, that is there."""
        typed = self.value.strip()
        return typed != "" and (is_folder(typed) if self._kind == "folder" else is_file(typed))

    @property
    def path(self) -> str:
        """The path that is typed, the home folder written out."""
        typed = self.value.strip()
        return str(expanded(typed)) if typed.startswith("~") else typed

    def guess(self, path: str) -> None:
        """Begin with a path that is likely meant: it is selected while nobody has changed it."""
        self.value = self._guess = path
        self.cursor_position = len(path)
        self.select_on_focus = True

    def on_focus(self) -> None:
        """List what is there."""
        self._list_soon()

    def on_blur(self) -> None:
        """Put the list away."""
        self._show((), None)

    def on_input_changed(self, event: Input.Changed) -> None:
        """List what begins as the field does now; the message goes on to the form."""
        self.select_on_focus &= self.value == self._guess
        self._list_soon()

    def _list_soon(self) -> None:
        if self._timer is not None:
            self._timer.stop()
        self._timer = self.set_timer(_PAUSE, self._list)

    async def _list(self) -> None:
        value = self.value
        choices = await asyncio.to_thread(self._listed, value)
        if value == self.value and self.has_focus:
            self._show(choices, None)

    def _listed(self, value: str) -> Sequence[PathChoice]:
        complete = self.is_there and value not in _SHORT and not value.endswith("/")
        return () if complete else path_choices(value, self._kind)

    def _show(self, choices: Sequence[PathChoice], cursor: int | None) -> None:
        if (choices, cursor) != (self._choices, self._cursor):
            self._choices, self._cursor = choices, cursor
            self.post_message(self.Listed(choices, cursor))

    def action_complete(self) -> None:
        """Complete what is typed as far as it is certain, else take the first path; with nothing to add, go on."""
        if self._cursor is not None:
            self._take(self._choices[self._cursor])
            return
        complete = self.is_there and self.value not in _SHORT
        choices = () if complete else path_choices(self.value, self._kind)
        if not choices:
            self.screen.focus_next()
            return
        certain = os.path.commonprefix([choice.value for choice in choices])  # noqa: RUF071  # of letters, not of folders
        if len(certain) > len(self.value) and len(choices) > 1:
            self.value, self.cursor_position = certain, len(certain)
        else:
            self._take(choices[0])

    def action_choose(self, by: int) -> None:
        """Move in the list; without one, to the field below or above."""
        if not self._choices:
            _ = self.screen.focus_next() if by > 0 else self.screen.focus_previous()
            return
        last = len(self._choices) - 1
        before = self._cursor
        self._show(self._choices, (0 if by > 0 else last) if before is None else min(last, max(0, before + by)))

    def _take(self, choice: PathChoice) -> None:
        self.value = choice.value
        self.cursor_position = len(choice.value)
        self._show((), None)

    async def on_key(self, event: events.Key) -> None:
        """Take the chosen path with enter."""
        if event.key == "enter" and self._cursor is not None:
            event.stop()
            event.prevent_default()
            self._take(self._choices[self._cursor])
