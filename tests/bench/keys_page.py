"""The page of all keys: each screen's, what they do, and the names by which ``[app.keys]`` gives them others.

    python -m tests.bench.keys_page > .github/KEYS.md

Made from the bindings themselves; `tests/test_readme.py` holds the two together.
"""

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import replace

from textual.binding import Binding
from textual.dom import DOMNode

import lora_tui.tui

SECTIONS = {
    "Everywhere": ("mode", "app", "problem"),
    "In lists": ("list",),
    "1 Generate": ("generate",),
    "Pairs, in Generate's list and opened": ("pair", "edit"),
    "A run's topics": ("topics",),
    "A run's documents and dialogues": ("texts",),
    "The rating queue": ("rate",),
    "2 Train": ("train",),
    "A learning-rate probe": ("probe",),
    "An answer, opened in Train": ("answer",),
    "Did fine-tuning help?": ("report",),
    "3 Chat": ("chat", "whom", "decoding"),
    "4 Runs": ("runs", "compare"),
    "A sweep": ("sweep",),
    "A server": ("server",),
    "5 Learn, and help": ("learn", "help"),
    "6 Config": ("configure",),
}
"""Headings of the page, each with the first words of its bindings' names."""

SIGNS = {
    "question_mark": "?", "exclamation_mark": "!", "slash": "/", "left_square_bracket": "[",
    "right_square_bracket": "]",
    "plus": "+", "minus": "-", "full_stop": ".", "comma": ",", "backslash": "\\", "less_than_sign": "<",
    "greater_than_sign": ">", "equals_sign": "=", "colon": ":", "underscore": "_", "number_sign": "#",
}  # fmt: skip

INTRODUCTION = """\
# Keys

`?` in the app shows the keys that work where you are. This page has all of them, with the names by which your
[configuration](../README.md#configuration) gives them others:

```toml
[app.keys]
"train.stop" = "ctrl+s,f8"
```

Other settings of the app are also under `[app]`: `theme = "lora-light"` (all of them: ctrl+p, Theme;
`ansi-dark` and `ansi-light` are your terminal's own colours), `mouse = false` leaves the mouse to the terminal,
`refresh_per_second = 1` suits a slow line, `animation = "none"`.
"""

TERMINALS = """
## When the terminal is in the way

| what happens | what helps |
| --- | --- |
| keys do nothing or something else | `TEXTUAL_DISABLE_KITTY_KEY=1 lora-tui`: without the newer keyboard protocol |
| colours are few, as over SSH where `COLORTERM` is lost | `TEXTUAL_COLOR_SYSTEM=truecolor lora-tui` |
| no colours wanted | `NO_COLOR=1 lora-tui`: greys; every state has its sign and word |
| the shell is garbled after a `kill -9` | `reset`; in tmux `tput rmcup` before it |
| what is copied does not arrive, in tmux | `tmux set -g set-clipboard on`; where the terminal does not take it \
(OSC 52) either, `ctrl+s` saves a chat to a file |
| text cannot be selected by mouse | `mouse = false` under `[app]`, or `--set app.mouse=false` once |
| plots are boxes or question marks | the font lacks Braille dots: `app.drawing = "blocks"`, or `"ascii"`; \
with TERM=linux and without UTF-8 it is chosen by itself |
"""


def named_bindings() -> dict[str, Binding]:
    """The bindings of the app, its screens and widgets that have a name, in the order of the code."""
    for module in sorted(module.name for module in pkgutil.walk_packages(lora_tui.tui.__path__, "lora_tui.tui.")):
        importlib.import_module(module)
    found: dict[str, Binding] = {}
    classes: list[type[DOMNode]] = [DOMNode]
    while classes:
        node = classes.pop()
        classes += sorted(node.__subclasses__(), key=lambda subclass: (subclass.__module__, subclass.__qualname__))
        if not node.__module__.startswith("lora_tui."):
            continue
        for binding in Binding.make_bindings(node.__dict__.get("BINDINGS", ())):
            if binding.id:
                before = found.setdefault(binding.id, binding)
                if binding.key not in before.key.split(","):
                    found[binding.id] = replace(before, key=f"{before.key},{binding.key}")
    return found


def page() -> str:
    """The page as text. Raises `ValueError` for a binding whose name begins with a word that has no heading."""
    headings = {word: heading for heading, words in SECTIONS.items() for word in words}
    rows: dict[str, list[str]] = {heading: [] for heading in SECTIONS}
    order = [word for words in SECTIONS.values() for word in words]
    for name, binding in sorted(named_bindings().items(), key=lambda named: order.index(named[0].partition(".")[0])):
        keys = " ".join(f"`{shown(key)}`" for key in dict.fromkeys(binding.key.split(",")))
        meaning = (binding.tooltip or binding.description).replace("|", "\\|").rstrip(".")
        rows[headings[name.partition(".")[0]]].append(f"| {keys} | {meaning} | `{name}` |")
    return INTRODUCTION + "".join(sections(rows)) + TERMINALS


def sections(rows: dict[str, list[str]]) -> Iterator[str]:
    """Each heading with its table."""
    for heading, lines in rows.items():
        table = "\n".join(["| key | what it does | name |", "| --- | --- | --- |", *lines])
        yield f"\n## {heading}\n\n{table}\n"


def shown(key: str) -> str:
    """A key as people write it."""
    *modifiers, letter = key.split("+")
    return "+".join([*modifiers, SIGNS.get(letter, letter)])


if __name__ == "__main__":
    print(page(), end="")
