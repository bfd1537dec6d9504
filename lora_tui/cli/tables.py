"""Tables of results and runs on stdout: readable at 80 columns, long answers wrapped and never cut.

Paths and commands are written without wrapping, so that they can be copied and piped.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lora_tui.protocol.agreement import Estimate, interval_text
from lora_tui.protocol.comparison import (
    HeldOutComparison,
    comparison_from,
    comparison_rows,
    questions_text,
    worst_title,
)
from lora_tui.protocol.knowledge import KnowledgeTest, knowledge_from, knowledge_rows, knowledge_title
from lora_tui.protocol.rate_probe import reason_of, smoothed
from lora_tui.terminal.streams import Streams
from lora_tui.text import clean, power_text, question_of

_MOST_COLUMNS = 120

_WIDE_COLUMN = "Model and results"
_RUN_COLUMNS = {
    "Run": 0, "Mode": 0, "State": 0, "Started": 84, "Took": 0, _WIDE_COLUMN: 0, "Steps": 112, "Loss": 100, "Right": 0,
    "Score": 0,
}  # fmt: skip
"""Columns of the list of runs, with the width of the terminal from which there is room for each."""

_PROBE_WIDTH = 40
"""Characters of the longest bar of a probe's curve."""

_KINDS = {"expected": "should answer", "avoid": "should not say it", "control": "control"}

_HIDDEN_KEYS = ("rows", "commands", "tasks", "attempts", "adapter_run", "judges", "comparison", "knowledge", "listed")
"""Keys of a result that are shown in another way, or are bookkeeping that ``--json`` has."""

_HIDDEN_AT_ZERO = ("waiting", "cached_tokens", "reasoning_tokens", "unknown_calls", "unknown_tokens_up_to")

_LABELS = {
    "output_file": "output file",
    "rejected_file": "rejected lines",
    "out": "output file",
    "from_model": "by the model",
    "tuned_score": "score",
    "base_score": "base model's score",
    "base_controls_kept": "kept by the base model",
    "judge_answers": "answers of judges",
    "prompt_tokens": "tokens in",
    "completion_tokens": "tokens out",
    "best_score": "best score",
    "reward_accuracy": "preferences told right, last step",
    "reward_margin": "margin of the better answers",
    "hung_up": "hung up",
    "stopped_by": "ended",
    "agreement": "score and people",
    "people": "people would say",
}


_ENDINGS = {
    "steps": "all steps taken",
    "target_score": "target score reached",
    "patience": "score stopped rising",
    "request": "stopped on request",
}
"""Why a training has ended, as the app says it."""


def write_result(streams: Streams, result: Mapping[str, Any]) -> None:
    """Write a run's result: its rows as a table, its figures one a line, its commands as they are typed."""
    if not result:
        return
    rows = result.get("rows")
    if isinstance(rows, list) and rows:
        write_rows(streams, rows)
    if isinstance(compared := result.get("comparison"), Mapping):
        write_comparison(streams, comparison_from(compared))
    if isinstance(known := result.get("knowledge"), Mapping):
        write_knowledge(streams, knowledge_from(known))
    if isinstance(result.get("points"), list) and "steepest" in result:
        write_probe(streams, result)
        result = {key: result[key] for key in ("commands",) if key in result}
    if (ending := result.get("stopped_by")) in _ENDINGS:
        result = {**result, "stopped_by": _ENDINGS[ending]}
    figures = [(key, value) for key, value in result.items() if _is_shown(key, value)]
    labels = [_LABELS.get(key, key.replace("_", " ")) for key, _ in figures]
    width = max((len(label) for label in labels), default=0)
    for label, (key, value) in zip(labels, figures, strict=True):
        streams.out.write(f"{clean(label):<{width}}  {_formatted(value, as_said=key.endswith(('reasons', 'files')))}\n")
    commands = result.get("commands")
    if isinstance(commands, list) and commands:
        streams.out.write("\nGo on with:\n" + "".join(f"  {clean(str(command))}\n" for command in commands))
    streams.out.flush()


def write_probe(streams: Streams, found: Mapping[str, Any]) -> None:
    """Write the curve of a learning-rate probe as bars, and the rate that it proposes with its reason."""
    points = [point for point in found["points"] if point[2] is not None]
    changes = smoothed([point[2] for point in points])
    low, high = min([0.0, *changes]), max([0.0, *changes[:1]])
    streams.out.write(f"{'rate':>7}  loss against the untrained model\n")
    for (rate, _, _), change in list(zip(points, changes, strict=True))[::2]:
        share = min(1.0, (change - low) / ((high - low) or 1.0))
        mark = "  <- proposed" if found["rate"] is not None and abs(math.log(rate / found["rate"])) < 0.18 else ""
        streams.out.write(f"{power_text(rate):>7}  {change:+7.3f}  {'#' * round(_PROBE_WIDTH * share)}{mark}\n")
    if found["rate"] is None:
        streams.out.write("no rate is proposed: the loss did not fall\n")
    else:
        streams.out.write(f"proposed: {power_text(found['rate'])}, for {reason_of(found)}\n")


def write_rows(streams: Streams, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the table of test prompts: prompt, the base model's answer, the tuned model's answer, score."""
    has_before = any(row.get("before") is not None for row in rows)
    table = new_table(leading=1)
    table.add_column("Prompt", ratio=3, overflow="fold")
    if has_before:
        table.add_column("Before", ratio=4, overflow="fold")
    table.add_column("After" if has_before else "Answer", ratio=4, overflow="fold")
    table.add_column("Score", justify="right", no_wrap=True)
    for row in rows:
        prompt = Text(question_of(str(row.get("prompt", ""))), style="bold")
        if row.get("kind") in _KINDS:
            prompt.append(f"\n{_KINDS[row['kind']]}", style="not bold dim")
        # White space is squeezed: a base model's empty lines would make the table several screens long.
        shown = ("before", "after") if has_before else ("after",)
        answers = [Text(" ".join(clean(str(row.get(key) or "(nothing)")).split())) for key in shown]
        table.add_row(prompt, *answers, Text(_score(row)))
    print_table(streams, table)


def write_comparison(streams: Streams, found: HeldOutComparison) -> None:
    """Write what both models made of held-out questions: the figures, then the worst answers as a table."""
    rows = comparison_rows(found)
    width = max(len(label) for label, _ in rows)
    streams.out.write(f"{clean(questions_text(found))}:\n")
    streams.out.write("".join(f"  {label:<{width}}  {clean(figure)}\n" for label, figure in rows))
    if found.worst:
        streams.out.write(f"\n{worst_title(found)}:\n")
        write_rows(streams, [asdict(one) for one in found.worst])


def write_knowledge(streams: Streams, found: KnowledgeTest) -> None:
    """Write how much of the facts that were held out each model knows."""
    rows = knowledge_rows(found)
    width = max(len(label) for label, _ in rows)
    streams.out.write(f"\n{clean(knowledge_title(found))}:\n")
    streams.out.write("".join(f"  {label:<{width}}  {clean(figure)}\n" for label, figure in rows))


def write_runs(streams: Streams, rows: Sequence[Mapping[str, str]]) -> None:
    """Write the list of runs; each row has a text for every one of `_RUN_COLUMNS`, and for ``Folder``, shown below."""
    room = make_console(streams.out, is_terminal=streams.out_is_terminal).width
    titles = [title for title, least in _RUN_COLUMNS.items() if room >= least]
    table = new_table(leading=0)
    for title in titles:
        if title == _WIDE_COLUMN:
            table.add_column(title, ratio=1, overflow="fold")
        else:
            table.add_column(title, no_wrap=True, justify="left" if title in ("Mode", "State", "Started") else "right")
    for row in rows:
        made_from = Text(clean(row[_WIDE_COLUMN]))
        if row["Folder"]:
            made_from.append(("\n" if row[_WIDE_COLUMN] else "") + clean(row["Folder"]), style="dim")
        table.add_row(*(made_from if title == _WIDE_COLUMN else Text(clean(row[title])) for title in titles))
    print_table(streams, table)


def new_table(*, leading: int = 0) -> Table:
    """Return a table without columns, `leading` lines between its rows."""
    return Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, expand=True, padding=(0, 2, 0, 0), leading=leading
    )


def print_table(streams: Streams, table: Table) -> None:
    """Write a table to stdout, without trailing blanks."""
    console = make_console(streams.out, is_terminal=streams.out_is_terminal)
    with console.capture() as captured:
        console.print(table, width=min(console.width, _MOST_COLUMNS))
    lines = [line.rstrip() for line in captured.get().splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    streams.out.write("\n".join(lines) + "\n\n")


def _score(row: Mapping[str, Any]) -> str:
    after, before = row.get("score"), row.get("before_score")
    if after is None:
        return "–"
    return f"{after:.2f}" if before is None else f"{before:.2f} → {after:.2f}"


def _is_shown(key: str, value: Any) -> bool:
    if key in _HIDDEN_KEYS or value is None or value in ({}, [], ""):
        return False
    return key not in _HIDDEN_AT_ZERO or bool(value)


def _formatted(value: Any, *, as_said: bool = False) -> str:
    """Write a figure; names of ours without underscores, but reasons and files `as_said`: those are names of others."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, Mapping) and isinstance(value.get("summary"), str):
        return clean(value["summary"])
    if isinstance(value, Mapping) and value.keys() == {"value", "low", "high"}:
        return interval_text(Estimate(**value))
    if isinstance(value, Mapping) and all(isinstance(part, str) for part in value.values()):
        return "; ".join(f"{clean(str(name))}: {clean(part)}" for name, part in value.items())
    if isinstance(value, Mapping):
        names = {name: clean(str(name)) if as_said else clean(str(name)).replace("_", " ") for name in value}
        return ", ".join(f"{_formatted(part)} {names[name]}" for name, part in value.items() if part)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_formatted(part) for part in value)
    return clean(str(value))


class DataConsole(Console):
    """A console that leaves a broken pipe to its caller; Rich would end the program with status 1."""

    def on_broken_pipe(self) -> None:
        """Raise the error that is being handled."""
        raise  # noqa: PLE0704  # Rich calls this inside its except clause


def make_console(stream: TextIO, *, is_terminal: bool) -> DataConsole:
    """Return a console on `stream`: FORCE_COLOR puts no escape codes into a pipe; NO_COLOR and COLUMNS are honoured."""
    return DataConsole(
        file=stream,
        force_terminal=None if is_terminal else False,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )
