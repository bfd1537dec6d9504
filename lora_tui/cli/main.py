"""Everything but the app: reads the command line, does what it asks for, ends with the status that follows.

Nothing heavy is imported before the flags are read: ``--help`` and ``--version`` answer at once, and a mistyped option
is told without waiting for pydantic, Rich or torch.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from lora_tui import __version__
from lora_tui.cli.help import EVERY, LOOKING, MATERIAL, STARTING, GroupedCommand, option
from lora_tui.cli.report import Report
from lora_tui.cli.request import MODES, NEWEST, Request, check, nearest, parse_level, parse_mode, parse_resume
from lora_tui.cli.signals import BROKEN_PIPE_STATUS
from lora_tui.cli.streams import Streams
from lora_tui.errors import LoraTuiError, UsageError

log = logging.getLogger(__name__)

_FILE = click.Path(path_type=Path)


@click.command(
    cls=GroupedCommand,
    context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 96},
    help="From a folder of text to a fine-tuned language model you can talk to. Without options: the "
    "full-screen app; where there is no terminal for it, how to begin.",
)
@option(STARTING, "--run", metavar="MODE", help=f"One of {', '.join(MODES)}.")
@option(
    STARTING,
    "--generate-training-file",
    "training_file",
    nargs=2,
    type=_FILE,
    metavar="RAW OUT",
    help="Turn raw lines into a formatted training file.",
)
@option(
    STARTING,
    "--resume",
    is_flag=False,
    flag_value=NEWEST,
    metavar="[RUN]",
    help="Go on with a run, or the newest that can be; with chat, evaluate and export: use that run's adapter.",
)
@option(
    MATERIAL, "--train-data-file", type=_FILE, metavar="FILE", help="train, export: the examples (text, JSON, CSV)."
)
@option(MATERIAL, "--adapter", type=_FILE, metavar="FOLDER", help="chat, evaluate, export: the adapter to use.")
@option(MATERIAL, "--prompt", metavar="TEXT", help="chat: answer this once and end.")
@option(MATERIAL, "--format", "export_format", metavar="FORMAT", help="export: adapter, merged, or a dataset's format.")
@option(MATERIAL, "--output", type=_FILE, metavar="PATH", help="export: the folder or file to write.")
@option(EVERY, "--config", type=_FILE, metavar="FILE", help="The configuration instead of ./config.toml.")
@option(
    EVERY,
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set one configuration key, such as fine_tuning.lora.r=8. Repeatable.",
)
@option(EVERY, "--store", type=_FILE, metavar="FILE", help="The SQLite file with all runs.")
@option(EVERY, "--json", "json_lines", is_flag=True, help="JSON lines on stdout and nothing else.")
@option(EVERY, "--no-chat", is_flag=True, help="End after training instead of entering chat.")
@option(EVERY, "--log-level", metavar="LEVEL", help="DEBUG (also shows tracebacks), INFO, WARNING or ERROR.")
@option(LOOKING, "--runs", "list_runs", is_flag=True, help="List the runs in the store.")
@option(
    LOOKING,
    "--attach",
    type=int,
    metavar="RUN",
    help="The app on a live or finished run; without a terminal, its events.",
)
@option(LOOKING, "--doctor", is_flag=True, help="What this machine has, what is missing, and what mends it.")
@click.version_option(__version__, prog_name="lora-tui", message="%(prog)s %(version)s")
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def command(words: tuple[str, ...], no_chat: bool, **given: Any) -> Request:
    """Turn the parsed flags into a checked `Request`."""
    if words:
        guess = nearest(words[0], MODES)
        hint = f"Did you mean --run {guess}?" if guess else "`lora-tui --help` shows the options."
        raise UsageError(f"{words[0]!r} is not an option. {hint}")
    for name, parse in (("run", parse_mode), ("resume", parse_resume), ("log_level", parse_level)):
        if given[name] is not None:
            given[name] = parse(given[name])
    given["training_file"] = given["training_file"] or None
    request = Request(chat_after=not no_chat, **given)
    check(request)
    return request


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the program and end the process; the console script."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    streams = Streams()
    report = Report(streams)
    report.json_lines = "--json" in words
    status = _guarded(words, streams, report)
    if streams.close():
        status = BROKEN_PIPE_STATUS
    sys.exit(status)


def _guarded(words: list[str], streams: Streams, report: Report) -> int:
    """Do what is asked; every way it can go wrong becomes one or two lines and a status."""
    try:
        request = read(words)
        return 0 if request is None else _perform(request, streams, report)
    except BaseException as problem:  # noqa: BLE001  # `tell` raises what is not to be told again
        return tell(problem, streams, report)


def read(words: list[str]) -> Request | None:
    """Return the checked request that a command line makes; None where --help or --version has answered it."""
    request = command.main(words, prog_name="lora-tui", standalone_mode=False)
    return request if isinstance(request, Request) else None


def tell(problem: BaseException, streams: Streams, report: Report) -> int:
    """Say in one or two lines what went wrong; returns the status that follows."""
    if isinstance(problem, click.ClickException):
        return report.fail(_in_our_words(problem), UsageError.exit_status)
    if isinstance(problem, LoraTuiError):
        log.info("%s", problem, exc_info=problem)
        return report.fail(str(problem), problem.exit_status)
    if isinstance(problem, SystemExit):  # a signal has ended a chat
        status = problem.code if isinstance(problem.code, int) else 1
        report.done("interrupted", status, {})
        return status
    if isinstance(problem, KeyboardInterrupt | click.Abort):
        return report.fail("interrupted before anything had begun.", 130)
    if isinstance(problem, BrokenPipeError):
        streams.survive(problem)
        return BROKEN_PIPE_STATUS
    if not isinstance(problem, Exception):
        raise problem
    # A bug of ours: told in two lines, with the traceback in the log.
    from lora_tui.logs import set_up_logging

    if report.log_file is None:
        report.log_file = set_up_logging()
    log.error("unexpected", exc_info=problem)
    return report.fail(report.unexpected(problem), 1)


def _perform(request: Request, streams: Streams, report: Report) -> int:
    """Do what a checked request asks for; returns the exit status."""
    from lora_tui.logs import set_level, set_up_logging
    from lora_tui.secrets import register_key_variable

    if request.json_lines or not streams.out_is_terminal:
        streams.keep_stdout_to_ourselves()
    report.log_file = set_up_logging(request.log_level or "INFO", on_stderr=request.log_level == "DEBUG")
    if request.doctor:
        from lora_tui.cli.doctor import examine

        return examine(request, streams, report)
    from lora_tui.cli import runs
    from lora_tui.cli.stores import choose_store
    from lora_tui.config import load_settings

    loaded = load_settings(request.config, request.overrides)
    register_key_variable(loaded.settings.data_generation.api_key_env)
    if request.log_level is None:
        set_level(loaded.settings.logging.level)
    store_path = choose_store(request, loaded.settings)
    if request.list_runs:
        return runs.list_runs(streams, report, store_path)
    if request.attach is not None:
        return runs.attach(request.attach, streams, report, store_path)
    if request.asks_for_nothing:
        return runs.overview(streams, report, store_path)
    from lora_tui.cli.run import run

    return run(request, streams, report, loaded, store_path)


def _in_our_words(problem: click.ClickException) -> str:
    """Return click's message, with the one option that was probably meant."""
    if isinstance(problem, click.NoSuchOption):
        guess = problem.possibilities[0] if problem.possibilities else None
        hint = f"Did you mean {guess}?" if guess else "`lora-tui --help` shows the options."
        return f"There is no option {problem.option_name}. {hint}"
    if isinstance(problem, click.BadOptionUsage) and problem.option_name == "--run":
        return f"--run needs a mode after it: {', '.join(MODES)}."
    return problem.format_message()
