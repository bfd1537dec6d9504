"""Text for the screen: cleaned of control characters, never parsed as markup; and numbers as short text.

Textual may parse a bare string as markup; a `Content` it does not. Everything that this program did not write (files,
models, servers, exceptions) is shown through `safe_text`, `safe_line` and `styled`, and nothing else.
Numbers that the command line shows as well (counts, sizes, times, money) are worded in `lora_tui.text`; here are those
of narrow columns: a dash for what is missing, six characters at most, a mark for a band of scores.
"""

import math

from rich.cells import cell_len
from rich.segment import Segment
from textual.color import Color
from textual.content import Content
from textual.filter import LineFilter
from textual.style import Style

from lora_tui.glyphs import Drawing, redrawn
from lora_tui.text import clean, memory_size, one_line, power_text

DIM = "$foreground 60%"
"""The style of labels and explanations."""

_LEAST_HANGING = 16
"""Cells of a column in which a long value is broken; a narrower one would take a word a line."""

_METRIC_NAMES = {
    "judge_groundedness": "judge: grounded",
    "judge_correctness": "judge: correct",
    "judge_usefulness": "judge: useful",
    "judge_disagreement": "judges are apart",
    "judge_probability": "judge: how sure",
    "coverage": "evidence holds it",
    "grounding": "words of the passage",
    "token_f1": "shared words",
    "rougeL": "ROUGE-L",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "bleu": "BLEU",
    "exact_match": "exact match",
    "content_recall": "words said",
    "new_recall": "new words said",
    "content_precision": "no other words",
    "containment": "says it whole",
    "within": "is part of it",
    "numbers_agree": "right numbers",
    "trigrams": "same letters",
    "length_ratio": "same length",
    "early": "says it early",
    "numbers_contradict": "wrong numbers",
    "negation": "a not beside",
    "retraction": "takes it back",
    "alternatives": "offers others",
    "declines": "does not know",
    "empty": "says nothing",
    "fixed_reply": "word for word",
    "kept": "control kept",
}


def safe_text(text: str, style: str | Style = "", limit: int = 200_000) -> Content:
    """Text that this program did not write, of any number of lines, as content in one style."""
    return Content.styled(clean(text, limit).expandtabs(4), style)


def safe_line(text: str, limit: int = 200, style: str | Style = "") -> Content:
    """Text that this program did not write on one line, cut to `limit` characters."""
    return Content.styled(one_line(text, limit), style)


def styled(*parts: str | Content | tuple[str, str | Style]) -> Content:
    """Join strings, (string, style) pairs and content; strings are cleaned and not parsed."""
    return Content.assemble(*[_cleaned(part) for part in parts])


def _cleaned(part: str | Content | tuple[str, str | Style]) -> str | Content | tuple[str, str | Style]:
    if isinstance(part, Content):
        return part
    return clean(part) if isinstance(part, str) else (clean(part[0]), part[1])


def hang(line: Content, indent: int, width: int) -> Content:
    """A line broken between words where it is longer than `width` cells; what goes on is set in by `indent`.

    So a value that is too long stays in its column. It is left as it is where that column has no room for words.
    """
    room = width - indent
    if line.cell_length <= width or room < _LEAST_HANGING:
        return line
    value, parts = line[indent:], [line[:indent]]
    text, start = value.plain.rstrip(" "), 0
    while cell_len(text[start:]) > room:
        full = start + _characters_in(text[start:], room)
        end = text.rfind(" ", start + 1, full + 1)
        end = end if end > start else full
        parts += [value[start : start + len(text[start:end].rstrip(" "))], Content("\n" + " " * indent)]
        start = len(text) - len(text[end:].lstrip(" "))
    return Content.assemble(*parts, value[start : len(text)])


def _characters_in(text: str, cells: int) -> int:
    """How many characters of a text fit into so many cells; those of some scripts take two."""
    for number, character in enumerate(text):
        cells -= cell_len(character)
        if cells < 0:
            return number
    return len(text)


class ControlCharacterFilter(LineFilter):
    """Filter on every line that is drawn: makes control characters visible, also those pasted into a field.

    Text is still cleaned before that, as above, because its width must be known when it is laid out.
    """

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """Replace the control characters of a line."""
        return [Segment(clean(text), style, control) for text, style, control in segments]


class GlyphFilter(LineFilter):
    """Filter on every line that is drawn, for a terminal that cannot show all of our characters."""

    def __init__(self, drawing: Drawing) -> None:
        super().__init__()
        self._drawing = drawing

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """Replace the characters of a line by those that the terminal has."""
        return [Segment(redrawn(text, self._drawing), style, control) for text, style, control in segments]


def number(value: float | None, form: str = ",.0f") -> str:
    """A number in a format; a dash for one that is missing or not finite."""
    return "–" if value is None or not math.isfinite(value) else format(value, form)


def short_count(value: float | None) -> str:
    """A count in at most six characters: "1,234", "84k", "1.2M"."""
    if value is None or not math.isfinite(value):
        return "–"
    if abs(value) < 10_000:
        return f"{value:,.0f}"
    if abs(value) < 1e6:
        return f"{value / 1e3:.0f}k"
    scaled, unit = (value / 1e6, "M") if abs(value) < 1e9 else (value / 1e9, "G")
    return f"{scaled:.0f}{unit}" if abs(scaled) >= 100 else f"{scaled:.1f}{unit}"


def lr_text(value: float | None) -> str:
    """A learning rate: "8.1e-4", "1e-3", "0"."""
    if value is None or not math.isfinite(value):
        return "–"
    return power_text(value) if value else "0"


def percent(part: float, whole: float) -> str:
    """A part of a whole in per cent; a dash where the whole is 0."""
    return f"{100 * part / whole:.0f} %" if whole else "–"


def score_mark(value: float | None) -> str:
    """A score of 0-1 with a glyph for its band: "✓ 1.00", "◐ 0.41", "✗ 0.06"."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{'✓' if value >= 0.9 else '◐' if value >= 0.4 else '✗'} {value:.2f}"


def memory_text(size: float | None) -> str:
    """An amount of memory in bytes: "1.9 GiB"; a dash for one that is missing."""
    return "–" if size is None else memory_size(size)


def metric_name(name: str) -> str:
    """The name of a metric as screens show it; of one of several judges with the judge's name behind it."""
    known, _, judge = name.partition("@")
    if judge:
        return f"{metric_name(known).removeprefix('judge: ')}, {judge}"
    return _METRIC_NAMES.get(name, name)
