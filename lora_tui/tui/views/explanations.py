"""What each number on a screen means: the table `explanations.toml`, by the id of the part that shows it, for the help.

An explanation is two sentences at most, in words that need no other explanation, and names the lesson with the rest of
it. Its pattern is how the number is written there: the help shows what is in view, and a test that walks the screens
finds every number that nobody explains. Small and apart from the help because that test reads the table, too.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

NUMBER = r"\d[\d,.]*(?:[kMG]\b)?"
"""A number as it is written on screens; ``{N}`` in the table."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a number means: the heading or label that stands at it, two sentences, and the id of a lesson or ``""``."""

    name: str
    text: str
    lesson: str
    pattern: re.Pattern[str] | None
    """How the number is written; None where it stands in the column of that name."""


@cache
def explanations() -> Mapping[str, tuple[Explanation, ...]]:
    """The explanations of each part of a screen, by the part's id."""
    table = tomllib.loads((files("lora_tui.tui.views") / "explanations.toml").read_text(encoding="utf-8"))
    own = {part: _entries(entries) for part, entries in table.items()}
    used = {part: [one for name in entries.get("uses", ()) for one in own[name]] for part, entries in table.items()}
    return {part: (*entries, *used[part]) for part, entries in own.items() if not part.startswith("_")}


def _entries(table: Mapping[str, object]) -> tuple[Explanation, ...]:
    """The entries of a part's table."""
    found = []
    for name, entry in table.items():
        if isinstance(entry, dict):
            shown = entry.get("shown")
            pattern = None if shown is None else re.compile(shown.replace("{N}", NUMBER))
            found.append(Explanation(name, entry["text"], entry.get("lesson", ""), pattern))
    return tuple(found)


def shown_in(part: str, text: str) -> tuple[Explanation, ...]:
    """The explanations of a part for what stands in it now: its text, or the headings of its columns, one a line."""
    headings = text.splitlines()
    return tuple(
        entry
        for entry in explanations().get(part, ())
        if (entry.name in headings if entry.pattern is None else entry.pattern.search(text))
    )
