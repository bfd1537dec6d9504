"""The app's two themes, and glyphs and colours for states of runs and verdicts on pairs.

One accent, red only for what needs a person, glyphs before colour.
"""

from typing import Any

from textual.theme import Theme

from lora_tui.tui.text import DIM

_COLOURS = {
    "primary": ("#b48cf2", "#6b3fb5"),
    "secondary": ("#7aa2f7", "#2f5fb3"),
    "accent": ("#b48cf2", "#6b3fb5"),
    "success": ("#8fce8b", "#2e7d32"),
    "warning": ("#e5b567", "#9a6100"),
    "error": ("#f0717f", "#b3263a"),
    "foreground": ("#d6d8e4", "#24262e"),
    "background": ("#12131a", "#faf9fc"),
    "surface": ("#181a23", "#f1eff6"),
    "panel": ("#232633", "#e4e1ee"),
}
"""The colours of the dark and of the light theme."""

_VARIABLES = {
    "border": ("#3a3f52", "#b9b4c9"),
    "border-blurred": ("#3a3f52", "#b9b4c9"),
    "block-cursor-background": ("#3a3157", "#d8cbf2"),
    "block-cursor-foreground": ("#ffffff", "#1b1030"),
    "block-cursor-text-style": ("none", "none"),
    "block-cursor-blurred-background": ("#242735", "#e7e3f0"),
    "block-cursor-blurred-foreground": ("#d6d8e4", "#24262e"),
    "footer-background": ("#181a23", "#f1eff6"),
    "footer-key-foreground": ("#b48cf2", "#6b3fb5"),
    "footer-description-foreground": ("#9aa0b8", "#555a6b"),
    "input-cursor-background": ("#b48cf2", None),
    "input-selection-background": ("#b48cf2 35%", None),
    "scrollbar": ("#3a3f52", "#b9b4c9"),
    "scrollbar-background": ("#181a23", "#f1eff6"),
    "scrollbar-corner-color": ("#181a23", "#f1eff6"),
}
"""Variables of style sheets in the dark and in the light theme; None leaves one to Textual."""


def _theme(name: str, column: int) -> Theme:
    colours: dict[str, Any] = {key: pair[column] for key, pair in _COLOURS.items()}
    variables = {key: value for key, pair in _VARIABLES.items() if (value := pair[column]) is not None}
    return Theme(name=name, dark=column == 0, variables=variables, **colours)


THEMES = (_theme("lora-dark", 0), _theme("lora-light", 1))

_STATES = {
    "waiting": ("○", "$secondary"),
    "queued": ("○", DIM),
    "running": ("●", "$accent"),
    "paused": ("Ⅱ", "$warning"),
    "stopping": ("◐", "$warning"),
    "finished": ("✓", "$success"),
    "stopped": ("■", DIM),
    "failed": ("✗", "$error"),
    "interrupted": ("!", "$error"),
}
"""Glyph and colour of each state of a run: the glyph carries the meaning where there is no colour."""

_VERDICT_GLYPHS = {"accepted": "✓", "rejected": "✗", "review": "?", "waiting": "…"}
VERDICT_WORDS = {"accepted": "accepted", "rejected": "rejected", "review": "review", "waiting": "judging"}
VERDICT_COLOURS = {"accepted": "$success", "rejected": DIM, "review": "$warning", "waiting": "$secondary"}


def state_label(name: str) -> tuple[str, str]:
    """Return a run's state with its glyph, and its colour."""
    glyph, colour = _STATES.get(name, ("·", DIM))
    return f"{glyph} {name}", colour


def verdict_label(name: str) -> str:
    """Return a verdict on a pair with its glyph."""
    return f"{_VERDICT_GLYPHS.get(name, '·')} {VERDICT_WORDS.get(name, name)}"
