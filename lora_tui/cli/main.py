"""The command line: its flags and ``--help``, what each asks for, and the exit status that follows.

Nothing heavy is imported before the flags are read: ``--help`` and ``--version`` answer at once, and a mistyped option
is refused without waiting for pydantic, Rich or torch.
"""

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from lora_tui import __version__
from lora_tui.cli.completion import SHELLS, THE_USED, choice_completer, configuration_keys, install
from lora_tui.cli.request import (
    LOG_LEVELS,
    METHODS,
    MODES,
    NEWEST,
    RATED,
    Request,
    check_request,
    nearest,
    parse_log_level,
    parse_method,
    parse_mode,
    parse_rated,
    parse_resume,
)
from lora_tui.errors import UsageError
from lora_tui.terminal.report import Report
from lora_tui.terminal.signals import BROKEN_PIPE_STATUS
from lora_tui.terminal.streams import Streams

if TYPE_CHECKING:
    from lora_tui.backend.session import AppLaunch

log = logging.getLogger(__name__)

_HEADINGS = {
    "run": "Ways to start",
    "train_data_file": "Models, data and results",
    "config": "With every mode",
    "list_runs": "Looking",
}
"""Headings of the help, each by the first option under it; the options are declared in the order of the help."""

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
  lora-tui --run serve --adapter run-3
  lora-tui --run train --train-data-file b.txt --queue; lora-tui --run queue
  lora-tui --run train --sweep "fine_tuning.optimizer.lora_lr=1e-4,3e-4,1e-3"
  lora-tui --resume"""

_FILE = click.Path(path_type=Path)


def _print_schema(context: click.Context, parameter: click.Parameter, asked: bool) -> None:
    """``--config-schema``: write the schema and end."""
    if asked:
        from lora_tui.config.reference import schema_text

        click.echo(schema_text(), nl=False)
        context.exit()


def _install_completion(context: click.Context, parameter: click.Parameter, shell: str | None) -> None:
    """``--install-completion``: write the file, say what was done, and end."""
    if shell is not None:
        for line in install(context.command, shell):
            click.echo(line, err=True)
        context.exit()


class GroupedCommand(click.Command):
    """A click command whose help lists its options by group, then notes and examples."""

    def collect_usage_pieces(self, context: click.Context) -> list[str]:
        """Name the options alone: words without an option are only taken in order to suggest one."""
        return ["[OPTIONS]"]

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options of each group under its heading."""
        groups: dict[str, list[tuple[str, str]]] = {heading: [] for heading in _HEADINGS.values()}
        heading = ""
        for parameter in self.get_params(context):
            heading = _HEADINGS.get(parameter.name or "", heading)
            record = parameter.get_help_record(context)
            if record is not None and isinstance(parameter, click.Option):
                groups[heading].append(record)
        for heading, records in groups.items():
            with formatter.section(heading):
                formatter.write_dl(records, col_max=32)

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the notes and examples as they stand."""
        formatter.write("\n" + _NOTES + "\n")


@click.command(
    cls=GroupedCommand,
    context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 96},
    help="From a folder of text to a fine-tuned language model you can talk to. Without options: the "
    "full-screen app; where there is no terminal for it, how to begin.",
)
@click.option("--run", metavar="MODE", shell_complete=choice_completer(MODES), help=f"One of {', '.join(MODES)}.")
@click.option(
    "--generate-training-file",
    "training_file",
    nargs=2,
    type=_FILE,
    metavar="RAW OUT",
    help="Turn raw lines into a formatted training file.",
)
@click.option(
    "--resume",
    is_flag=False,
    flag_value=NEWEST,
    metavar="[RUN]",
    help="Go on with a run, or the newest that can be; with chat, evaluate, export and serve: use that run's adapter; "
    "with rate: what that run has.",
)
@click.option(
    "--train-data-file",
    type=_FILE,
    metavar="FILE",
    help="train, probe, export: the examples (text, JSON, CSV, Parquet, or hf:OWNER/NAME:SPLIT on the Hugging Face "
    "hub); evaluate: questions to ask.",
)
@click.option(
    "--adapter",
    "adapters",
    type=_FILE,
    multiple=True,
    metavar="FOLDER",
    help="chat, evaluate, export: the adapter to use; train: the one to go on from (also run-3, base: none); serve, "
    "repeatable: also run-3, run-3:last, NAME=FOLDER, base.",
)
@click.option("--prompt", metavar="TEXT", help="chat: answer this once and end.")
@click.option(
    "--format",
    "export_format",
    metavar="FORMAT",
    help="export: adapter, merged, gguf, gguf-lora, lm-eval, or a dataset's.",
)
@click.option("--quantize", metavar="FORM", help="export --format gguf: f16, bf16, q8_0, or a form of llama-quantize.")
@click.option("--output", type=_FILE, metavar="PATH", help="export: the folder or file to write.")
@click.option(
    "--split",
    type=float,
    metavar="SHARE",
    help="export: a dataset as a folder with its card, this share of it for validation, by document.",
)
@click.option("--with-provenance", is_flag=True, help="export: each record names its document, passage, models, score.")
@click.option(
    "--to-hub",
    metavar="OWNER/NAME",
    help="export: an adapter or a dataset for the Hugging Face hub; lists what would be sent, and sends nothing.",
)
@click.option("--send", is_flag=True, help="export --to-hub: send what is listed; others do not see it.")
@click.option("--public", is_flag=True, help="export --to-hub: for everybody to see.")
@click.option("--license", metavar="NAME", help="export --to-hub: the licence, such as apache-2.0, for the card.")
@click.option("--parquet", is_flag=True, help="export: a dataset as Parquet in place of JSON Lines.")
@click.option(
    "--method",
    metavar="METHOD",
    shell_complete=choice_completer(METHODS),
    help="train: sft (answers), dpo (which of two answers is better) or kto (good or bad); the last two on "
    "--train-data-file, else on what people have said in the store.",
)
@click.option("--batch", is_flag=True, help="generate: by the Batch API, half the price, within a day.")
@click.option(
    "--what",
    metavar="WHAT",
    shell_complete=choice_completer(RATED),
    help=f"rate: {' or '.join(RATED)}; the newest that are not all rated where not given.",
)
@click.option(
    "--queue", is_flag=True, help="Add the run to the queue and return; --run queue, or an open app, works through it."
)
@click.option(
    "--sweep",
    multiple=True,
    metavar="KEY=VALUES",
    help="train: a run for each value, such as fine_tuning.lora.r=8,16, or for the points of a TOML file; several "
    "multiply. Alone with a sweep's number: its table.",
)
@click.option("--config", type=_FILE, metavar="FILE", help="The configuration instead of ./config.toml.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    shell_complete=configuration_keys,
    help="Set one configuration key, such as fine_tuning.lora.r=8. Repeatable.",
)
@click.option("--store", type=_FILE, metavar="FILE", help="The SQLite file with all runs.")
@click.option("--json", "json_lines", is_flag=True, help="JSON lines on stdout and nothing else.")
@click.option("--no-chat", is_flag=True, help="End after training instead of entering chat.")
@click.option(
    "--log-level",
    metavar="LEVEL",
    shell_complete=choice_completer(LOG_LEVELS),
    help="DEBUG (also shows tracebacks), INFO, WARNING or ERROR.",
)
@click.option("--runs", "list_runs", is_flag=True, help="List the runs in the store.")
@click.option(
    "--attach", type=int, metavar="RUN", help="The app on a live or finished run; without a terminal, its events."
)
@click.option("--vacuum", is_flag=True, help="Give the space of deleted runs in the store back to the disk.")
@click.option("--doctor", is_flag=True, help="What this machine has, what is missing, and what mends it.")
@click.option(
    "--config-schema",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_schema,
    help="Print a JSON schema of the configuration, for editors.",
)
@click.option(
    "--install-completion",
    is_flag=False,
    flag_value=THE_USED,
    is_eager=True,
    expose_value=False,
    callback=_install_completion,
    shell_complete=choice_completer(SHELLS),
    metavar="[SHELL]",
    help="Let bash, zsh or fish complete options, modes and configuration keys.",
)
@click.version_option(__version__, prog_name="lora-tui", message="%(prog)s %(version)s")
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def command(words: tuple[str, ...], no_chat: bool, **given: Any) -> Request:
    """Turn the parsed flags into a checked `Request`."""
    if words:
        guess = nearest(words[0], MODES)
        hint = f"Did you mean --run {guess}?" if guess else "`lora-tui --help` shows the options."
        raise UsageError(f"{words[0]!r} is not an option. {hint}")
    converters = {
        "run": parse_mode,
        "resume": parse_resume,
        "log_level": parse_log_level,
        "what": parse_rated,
        "method": parse_method,
    }
    for name, convert in converters.items():
        if given[name] is not None:
            given[name] = convert(given[name])
    given["training_file"] = given["training_file"] or None
    if given["batch"]:
        given["overrides"] = (*given["overrides"], "data_generation.batch=true")
    if given["method"] is not None:
        given["overrides"] = (*given["overrides"], f'fine_tuning.method="{given["method"]}"')
    request = Request(chat_after=not no_chat, **given)
    check_request(request)
    return request


def main(argv: list[str]) -> NoReturn:
    """Run the program and end the process."""
    sys.unraisablehook = _log_unraisable
    streams = Streams()
    report = Report(streams)
    report.json_lines = "--json" in argv
    try:
        request = parse(argv)
        status = 0 if request is None else _run_request(request, streams, report)
    except BaseException as problem:  # noqa: BLE001  # `fail_with` raises what is no error
        status = report.fail_with(problem)
    if streams.close():
        status = BROKEN_PIPE_STATUS
    sys.exit(status)


def _log_unraisable(found: "sys.UnraisableHookArgs") -> None:
    """Log what Python would write to stderr: something that could not be taken down after a failure told before."""
    log.warning("%s %r", found.err_msg or "ignored in", found.object, exc_info=found.exc_value)


def parse(argv: list[str]) -> Request | None:
    """Return the checked request that a command line makes; None where --help or --version has answered it.

    Raises `UsageError` for whatever is wrong with it.
    """
    try:
        request = command.main(argv, prog_name="lora-tui", standalone_mode=False)
    except click.Abort as problem:
        raise KeyboardInterrupt from problem
    except click.ClickException as problem:
        raise UsageError(_usage_message(problem)) from problem
    return request if isinstance(request, Request) else None


def prepare_app(argv: list[str]) -> "AppLaunch":
    """Read the command line and the configuration for the app, and look for the run to attach to.

    Raises what is wrong with them, before the app is on the screen.
    """
    import asyncio

    from lora_tui.backend.session import AppLaunch
    from lora_tui.config.load import load_settings
    from lora_tui.engine.runtime.resume import store_flag, stored_run

    request = parse(argv)
    assert request is not None, "no option of the app's is answered by itself"
    settings = load_settings(request.config, request.overrides).settings
    store_path = request.store_path(settings)
    if request.attach is not None:
        asyncio.run(stored_run(store_path, request.attach))  # the app is not opened on nothing
    return AppLaunch(
        store=str(store_path),
        store_flag=store_flag(store_path),
        attach=request.attach,
        config=None if request.config is None else str(request.config),
        overrides=list(request.overrides),
        log_level=request.log_level or settings.logging.level,
        key_variables=settings.data_generation.key_variables,
        app=settings.app.model_dump(mode="json"),
    )


def _run_request(request: Request, streams: Streams, report: Report) -> int:
    """Do what a checked request asks for; returns the exit status."""
    from lora_tui.logs import set_level, set_up_logging
    from lora_tui.secrets import register_key_variable

    if request.json_lines or not streams.out_is_terminal:
        streams.keep_stdout_private()
    report.log_file = set_up_logging(request.log_level or "INFO", on_stderr=request.log_level == "DEBUG")
    if request.doctor:
        from lora_tui.cli.doctor import examine

        return examine(request, streams, report)
    from lora_tui.cli import runs
    from lora_tui.config.load import load_settings

    loaded = load_settings(request.config, request.overrides)
    for variable in loaded.settings.data_generation.key_variables:
        register_key_variable(variable)
    if request.log_level is None:
        set_level(loaded.settings.logging.level)
    store_path = request.store_path(loaded.settings)
    if request.list_runs:
        return runs.list_runs(streams, report, store_path)
    if request.vacuum:
        return runs.compact(report, store_path)
    if request.attach is not None:
        return runs.attach(request.attach, streams, report, store_path)
    if request.asks_for_nothing:
        return runs.overview(streams, report, store_path)
    if request.shown_sweep is not None:
        from lora_tui.cli.sweep import show_sweep

        return show_sweep(streams, report, request.shown_sweep, store_path)
    from lora_tui.cli.run import run

    return run(request, streams, report, loaded, store_path)


def _usage_message(problem: click.ClickException) -> str:
    """Return click's message, with the one option that was probably meant."""
    if isinstance(problem, click.NoSuchOption):
        guess = problem.possibilities[0] if problem.possibilities else None
        hint = f"Did you mean {guess}?" if guess else "`lora-tui --help` shows the options."
        return f"There is no option {problem.option_name}. {hint}"
    if isinstance(problem, click.BadOptionUsage) and problem.option_name == "--run":
        return f"--run needs a mode after it: {', '.join(MODES)}."
    return problem.format_message()
