"""Snapshots of screens: what stands on each line, and in which style, in a form that a person can read in a diff."""

import difflib
import os
from itertools import groupby
from pathlib import Path

from textual.app import App

FOLDER = Path(__file__).parent / "snapshots"


def drawn(app: App[None]) -> str:
    """The screen: its lines, then for each line the runs of equal style."""
    lines, styles = [], []
    for number, strip in enumerate(app.screen._compositor.render_strips()):
        lines.append("".join(segment.text for segment in strip).rstrip())
        column, runs = 0, []
        for style, segments in groupby(strip, key=lambda segment: _style(segment.style)):
            length = sum(len(segment.text) for segment in segments)
            runs.append(f"{column}+{length} {style}")
            column += length
        styles.append(f"{number:2}: " + " | ".join(runs))
    return "\n".join([*lines, "", "styles", *styles]) + "\n"


def _style(style: object) -> str:
    """A style without what differs from run to run, such as the numbers of links."""
    words = str(style).split()
    return " ".join(word for word in words if not word.startswith("@")) or "none"


def assert_like_snapshot(app: App[None], name: str) -> None:
    """Compare with the stored snapshot; with LORA_TUI_SNAPSHOTS=write it is stored instead."""
    path = FOLDER / f"{name}.txt"
    now = drawn(app)
    if os.environ.get("LORA_TUI_SNAPSHOTS") == "write":
        FOLDER.mkdir(exist_ok=True)
        path.write_text(now)
        return
    assert path.exists(), f"no snapshot {name} yet: LORA_TUI_SNAPSHOTS=write pytest tests/tui"
    before = path.read_text()
    changes = [line for line in difflib.ndiff(before.splitlines(), now.splitlines()) if line[:1] in "+-"]
    assert not changes, "\n".join([f"{name} looks another way; if it should: LORA_TUI_SNAPSHOTS=write", *changes])
