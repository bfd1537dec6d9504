"""``--help``: options in groups by what people look for, then the data format, exit statuses and examples."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

STARTING = "Ways to start"
MATERIAL = "Models, data and results"
EVERY = "With every mode"
LOOKING = "Looking"

_ORDER = (STARTING, MATERIAL, EVERY, LOOKING)

_NOTES = """\
Data and narration:
  stdout has the results, stderr has everything else. With --json, stdout is one
  JSON object a line: event, run, at (UTC, ISO 8601) and the event's own fields,
  from "started" to "done".

Exit status:
  0    done
  1    the run failed
  2    the command line or the configuration is wrong
  3    an endpoint, model or key cannot be reached or is refused
  130  stopped by ctrl+c, the work saved and resumable; 143: by SIGTERM;
       129: the terminal of a chat, or of the app with nothing at work, has gone
       (runs go on without theirs)
  141  stopped because the reader of stdout left early (| head); resumable

Examples:
  lora-tui
  lora-tui --run quickstart
  lora-tui --run generate --set data_generation.input_folder=notes
  lora-tui --generate-training-file raw.txt ideal_training.txt
  lora-tui --run train --train-data-file ideal_training.txt \\
           --set fine_tuning.model_name=builtin
  lora-tui --run chat --prompt "unlock"
  lora-tui --run train --json --no-chat > train.jsonl
  lora-tui --resume"""

Function = TypeVar("Function", bound=Callable[..., Any])


class GroupedOption(click.Option):
    """An option that knows which part of the help it belongs to."""

    def __init__(self, *arguments: Any, group: str = EVERY, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.group = group


class GroupedCommand(click.Command):
    """A command whose help lists its options group by group."""

    def collect_usage_pieces(self, context: click.Context) -> list[str]:
        """Name the options alone: words without an option are only taken in order to suggest one."""
        return ["[OPTIONS]"]

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options of each group under its heading."""
        records: dict[str, list[tuple[str, str]]] = {group: [] for group in _ORDER}
        for parameter in self.get_params(context):
            record = parameter.get_help_record(context)
            if record is not None and isinstance(parameter, click.Option):
                records[getattr(parameter, "group", LOOKING)].append(record)
        for group, lines in records.items():
            with formatter.section(group):
                formatter.write_dl(lines, col_max=32)

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the notes and examples as they stand."""
        formatter.write("\n" + _NOTES + "\n")


def option(group: str, *names: str, **attributes: Any) -> Callable[[Function], Function]:
    """Return click's option decorator for an option of a help group."""
    return click.option(*names, cls=GroupedOption, group=group, **attributes)
