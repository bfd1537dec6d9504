"""The app's two themes, and glyphs and colours for states of runs and verdicts on pairs.

One accent, red only for what needs a person, glyphs before colour.
"""

from textual.theme import Theme

from lora_tui.tui.text import DIM

DARK = Theme(
    name="lora-dark",
    primary="#b48cf2",
    secondary="#7aa2f7",
    accent="#b48cf2",
    success="#8fce8b",
    warning="#e5b567",
    error="#f0717f",
    foreground="#d6d8e4",
    background="#12131a",
    surface="#181a23",
    panel="#232633",
    dark=True,
    variables={
        "border": "#3a3f52",
        "border-blurred": "#3a3f52",
        "block-cursor-background": "#3a3157",
        "block-cursor-foreground": "#ffffff",
        "block-cursor-text-style": "none",
        "block-cursor-blurred-background": "#242735",
        "block-cursor-blurred-foreground": "#d6d8e4",
        "footer-background": "#181a23",
        "footer-key-foreground": "#b48cf2",
        "footer-description-foreground": "#9aa0b8",
        "input-cursor-background": "#b48cf2",
        "input-selection-background": "#b48cf2 35%",
        "scrollbar": "#3a3f52",
        "scrollbar-background": "#181a23",
        "scrollbar-corner-color": "#181a23",
    },
)

LIGHT = Theme(
    name="lora-light",
    primary="#6b3fb5",
    secondary="#2f5fb3",
    accent="#6b3fb5",
    success="#2e7d32",
    warning="#9a6100",
    error="#b3263a",
    foreground="#24262e",
    background="#faf9fc",
    surface="#f1eff6",
    panel="#e4e1ee",
    dark=False,
    variables={
        "border": "#b9b4c9",
        "border-blurred": "#b9b4c9",
        "block-cursor-background": "#d8cbf2",
        "block-cursor-foreground": "#1b1030",
        "block-cursor-text-style": "none",
        "block-cursor-blurred-background": "#e7e3f0",
        "block-cursor-blurred-foreground": "#24262e",
        "footer-background": "#f1eff6",
        "footer-key-foreground": "#6b3fb5",
        "footer-description-foreground": "#555a6b",
        "scrollbar": "#b9b4c9",
        "scrollbar-background": "#f1eff6",
        "scrollbar-corner-color": "#f1eff6",
    },
)

THEMES = (DARK, LIGHT)

STATE_GLYPHS = {
    "queued": "○",
    "running": "●",
    "paused": "Ⅱ",
    "stopping": "◐",
    "finished": "✓",
    "stopped": "■",
    "failed": "✗",
    "interrupted": "!",
}
"""A glyph for each state of a run: it carries the meaning where there is no colour."""

STATE_COLOURS = {
    "running": "$accent",
    "stopping": "$warning",
    "paused": "$warning",
    "finished": "$success",
    "failed": "$error",
    "interrupted": "$error",
}

VERDICT_GLYPHS = {"accepted": "✓", "rejected": "✗", "review": "?", "waiting": "…"}
VERDICT_WORDS = {"accepted": "accepted", "rejected": "rejected", "review": "review", "waiting": "judging"}
VERDICT_COLOURS = {"accepted": "$success", "rejected": DIM, "review": "$warning", "waiting": "$secondary"}


def state_label(name: str) -> tuple[str, str]:
    """Return a run's state with its glyph, and its colour."""
    return f"{STATE_GLYPHS.get(name, '·')} {name}", STATE_COLOURS.get(name, DIM)
