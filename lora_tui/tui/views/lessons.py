"""The lessons as they are packaged, and what each has to say about the user's own run."""

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Lesson:
    """A lesson: its file's name without suffix, its title, its text without the title."""

    id: str
    title: str
    text: str


@cache
def lessons() -> tuple[Lesson, ...]:
    """Every lesson, in order."""
    folder = files("lora_tui") / "lessons"
    found = []
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".md"):
            head, _, text = entry.read_text(encoding="utf-8").partition("\n")
            found.append(Lesson(entry.name.removesuffix(".md"), head.lstrip("# ").strip(), text.strip()))
    return tuple(found)


def lesson(lesson_id: str) -> Lesson:
    """The lesson of that id; the first where there is none."""
    return next((entry for entry in lessons() if entry.id == lesson_id), lessons()[0])


def number(entry: Lesson) -> int:
    """A lesson's number, from 1."""
    found = re.match(r"\d+", entry.id)
    return int(found[0]) if found else 0
