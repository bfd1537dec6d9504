"""The report on an adapter: did fine-tuning help, by which figures; as Markdown, and as HTML that needs no network.

Both say the same, from the same blocks. Text that we did not write (questions, answers, names of files) is cleaned of
control characters and escaped for each of the two; the page forbids itself scripts and everything from elsewhere.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, Literal

from lora_tui.engine.evaluation.charts import Line, Point, line_chart
from lora_tui.files import write_atomically
from lora_tui.protocol.comparison import HeldOutComparison, comparison_rows, questions_text, verdict_text, worst_title
from lora_tui.protocol.knowledge import KnowledgeTest, knowledge_rows, knowledge_summary, knowledge_title
from lora_tui.text import clean, controls_text, one_line, question_of

MARKDOWN, HTML = "report.md", "report.html"
"""The report's files; beside the first lie the pictures that it shows, ``report-loss.svg`` and ``report-score.svg``."""

_LONGEST = 600
"""Characters of a question or answer that a table holds."""


@dataclass(frozen=True)
class ReportFacts:
    """Everything that a report says. Curves are (step, value); `rows` are those of `compare_rows`, scores are 0-1.

    `facts` are label and value of what was trained, `loss` and the like are empty where that is not known.
    `comparison` is None, and `without_comparison` the reason, where no held-out questions were asked.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    base_score: float
    tuned_score: float
    rows: Sequence[dict[str, Any]]
    controls: int = 0
    controls_kept: int = 0
    base_controls_kept: int = 0
    loss: Sequence[Point] = ()
    held_out_loss: Sequence[Point] = ()
    score: Sequence[Point] = ()
    comparison: HeldOutComparison | None = None
    knowledge: KnowledgeTest | None = None
    without_comparison: str = ""
    agreement: str = ""


@dataclass(frozen=True, slots=True)
class _Block:
    """A part of a report: a heading, a paragraph, a picture by its name, or a table whose first row is its head."""

    kind: Literal["heading", "text", "picture", "table"]
    text: str = ""
    rows: Sequence[Sequence[str]] = field(default=())
    svg: str = ""


def write_report(folder: Path, facts: ReportFacts) -> Path:
    """Write the report's files into a folder, each whole or not at all; returns the path of the page.

    Raises:
        LoraTuiError: A file cannot be written.
    """
    blocks = list(_blocks(facts))
    for block in blocks:
        if block.kind == "picture":
            write_atomically(folder / f"report-{block.text}.svg", block.svg)
    write_atomically(folder / MARKDOWN, _markdown(facts.title, blocks))
    write_atomically(folder / HTML, _html(facts.title, blocks))
    return folder / HTML


def _blocks(facts: ReportFacts) -> Iterator[_Block]:
    found = facts.comparison
    yield _Block("heading", "Did fine-tuning help?")
    if found is not None:
        yield _Block("text", f"Asked: {questions_text(found)}. {verdict_text(found).capitalize()}.")
        yield _Block("table", rows=[("held-out questions", "mean score, 0 to 1"), *comparison_rows(found)])
    else:
        yield _Block("text", facts.without_comparison or "No held-out questions were asked.")
    if (known := facts.knowledge) is not None:
        yield _Block("heading", "What does it know?")
        yield _Block("text", f"Asked: {knowledge_title(known)}. {knowledge_summary(known).capitalize()}.")
        yield _Block("table", rows=[("model", "answers, and mean score, 0 to 1"), *knowledge_rows(known)])
        head = ("question", "expected", "base model", "fine-tuned", "base, passage in view", "score")
        yield _Block("table", rows=[head, *([
            one.question, one.reference, one.base or "(nothing)", one.tuned or "(nothing)", one.in_view or "(nothing)",
            f"{one.base_score:.2f} → {one.score:.2f}",
        ] for one in known.answers)])  # fmt: skip
    if facts.agreement:
        yield _Block("text", f"What the score is worth: {facts.agreement}.")
    yield _Block("heading", "Test prompts")
    kept = [controls_text(facts.controls, number) for number in (facts.base_controls_kept, facts.controls_kept)]
    yield _Block(
        "table",
        rows=[
            ("model", "mean score of the expected answers", "controls"),
            ("base model", f"{facts.base_score:.2f}", kept[0] or "none asked"),
            ("fine-tuned", f"{facts.tuned_score:.2f}", kept[1] or "none asked"),
        ],
    )
    yield _Block("table", rows=[("prompt", "kind", "base model", "fine-tuned", "score"), *map(_answer_row, facts.rows)])
    score = line_chart("Score over the steps of training", [Line("score", facts.score)], "optimizer step", (0.0, 1.0))
    loss_lines = [Line("loss", facts.loss), Line("held-out loss", facts.held_out_loss, dots=True)]
    loss = line_chart("Loss over the steps of training", loss_lines, "optimizer step")
    if loss or score:
        yield _Block("heading", "Curves")
    if loss:
        yield _Block("text", "Loss in nats a token: lower is better. Held-out loss is on what was not trained on.")
        yield _Block("picture", "loss", svg=loss)
    if score:
        yield _Block("text", "Score of the test prompts at each evaluation: higher is better.")
        yield _Block("picture", "score", svg=score)
    if found is not None and found.worst:
        yield _Block("heading", f"{worst_title(found).capitalize()} to held-out questions")
        head = ("question", "expected", "base model", "fine-tuned", "score", "document")
        yield _Block("table", rows=[head, *([
            question_of(one.prompt), one.reference, one.before or "(nothing)", one.after or "(nothing)",
            f"{one.before_score:.2f} → {one.score:.2f}", one.document,
        ] for one in found.worst)])  # fmt: skip
    yield _Block("heading", "What was trained")
    yield _Block("table", rows=[("what", "value"), *facts.facts])


def _answer_row(row: dict[str, Any]) -> tuple[str, ...]:
    kinds = {"expected": "should answer", "avoid": "control", "control": "control", "unrelated": "control"}
    before, after = row["before"] or "(nothing)", row["after"] or "(nothing)"
    change = f"{row['before_score']:.2f} → {row['score']:.2f}"
    return question_of(row["prompt"]), kinds.get(row["kind"], row["kind"]), before, after, change


def _markdown(title: str, blocks: Sequence[_Block]) -> str:
    parts = [f"# {_in_markdown(title)}"]
    for block in blocks:
        match block.kind:
            case "heading":
                parts.append(f"## {block.text}")
            case "text":
                parts.append(_in_markdown(block.text))
            case "picture":
                parts.append(f"![{block.text} over the steps of training](report-{block.text}.svg)")
            case "table":
                head, *rows = ([_in_markdown(cell) for cell in row] for row in block.rows)
                lines = [head, ["---"] * len(head), *rows]
                parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(parts) + "\n"


def _in_markdown(text: str) -> str:
    """Text on one line in which nothing is markup, whoever wrote it."""
    shown = escape(one_line(text, _LONGEST), quote=False)
    return re.sub(r"([\\`*_{}\[\]#|~!$])", r"\\\1", shown)


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222;
  background: #fff; }}
table {{ border-collapse: collapse; margin: 1rem 0; width: 100%; font-size: 0.9rem; }}
th, td {{ border-bottom: 1px solid #ddd; padding: 0.35rem 0.6rem; text-align: left; vertical-align: top;
  overflow-wrap: anywhere; }}
th {{ border-bottom: 2px solid #888; }}
svg {{ max-width: 100%; height: auto; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


def _html(title: str, blocks: Sequence[_Block]) -> str:
    parts = [f"<h1>{_in_html(title)}</h1>"]
    for block in blocks:
        match block.kind:
            case "heading":
                parts.append(f"<h2>{_in_html(block.text)}</h2>")
            case "text":
                parts.append(f"<p>{_in_html(block.text)}</p>")
            case "picture":
                parts.append(block.svg)
            case "table":
                head, *rows = block.rows
                lines = [_html_row(head, "th"), *(_html_row(row, "td") for row in rows)]
                parts.append("\n".join(["<table>", *lines, "</table>"]))
    return _PAGE.format(title=_in_html(title), body="\n".join(parts))


def _html_row(cells: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{_in_html(cell)}</{tag}>" for cell in cells) + "</tr>"


def _in_html(text: str) -> str:
    return escape(clean(text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"))
