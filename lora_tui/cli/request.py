"""The parsed command line as plain data, and the checks that its options fit together.

Light: no click, no pydantic.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from lora_tui.errors import UsageError
from lora_tui.outputs import check_name
from lora_tui.protocol.rating import SUBJECTS
from lora_tui.store.rows import QUEUED_MODES

if TYPE_CHECKING:
    from lora_tui.config.models import Settings

MODES: Final = ("generate", "train", "probe", "evaluate", "chat", "export", "rate", "serve", "quickstart", "queue")
"""What ``--run`` takes."""

RATED: Final = tuple(SUBJECTS)
"""What ``--what`` takes."""

METHODS: Final = ("sft", "dpo", "kto")
"""What ``--method`` takes: the values of ``fine_tuning.method``."""

LOG_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR")

NEWEST: Final = "newest"
"""``--resume`` without a number."""


@dataclass(frozen=True)
class Request:
    """The command line: one field an option, unset where it was not given."""

    run: str | None = None
    training_file: tuple[Path, Path] | None = None
    resume: int | Literal["newest"] | None = None
    list_runs: bool = False
    attach: int | None = None
    doctor: bool = False
    vacuum: bool = False
    config: Path | None = None
    overrides: tuple[str, ...] = ()
    store: Path | None = None
    json_lines: bool = False
    adapters: tuple[Path, ...] = ()
    train_data_file: Path | None = None
    chat_after: bool = True
    prompt: str | None = None
    export_format: str | None = None
    quantize: str | None = None
    output: Path | None = None
    split: float | None = None
    with_provenance: bool = False
    parquet: bool = False
    to_hub: str | None = None
    send: bool = False
    public: bool = False
    license: str | None = None
    batch: bool = False
    method: str | None = None
    what: str | None = None
    queue: bool = False
    sweep: tuple[str, ...] = ()
    log_level: str | None = None

    @property
    def adapter(self) -> Path | None:
        """The adapter of a mode that uses one."""
        return self.adapters[0] if self.adapters else None

    @property
    def shown_sweep(self) -> int | None:
        """The sweep whose table is to be shown; None where one is to be made, or none is meant."""
        alone = len(self.sweep) == 1 and self.run is None
        return int(self.sweep[0]) if alone and self.sweep[0].isascii() and self.sweep[0].isdigit() else None

    @property
    def asks_for_nothing(self) -> bool:
        """Whether no way to start was named: the full-screen app is meant."""
        return not _starting_options(self) and self.resume is None

    def store_path(self, settings: "Settings") -> Path:
        """The store file: ``--store``, else what the configuration names, relative to the current folder."""
        return Path(self.store or settings.data_generation.db_path).expanduser().absolute()


def check_request(request: Request) -> None:
    """Raise `UsageError` where options contradict each other or belong to another mode."""
    ways = _starting_options(request)
    if len(ways) > 1:
        raise UsageError(f"{ways[0]} and {ways[1]} cannot be used together; give one of them.")
    way = ways[0] if ways else None
    if request.resume is not None and way is not None and not way.startswith("--run "):
        raise UsageError(f"--resume goes with --run or alone, not with {way}.")
    for option, given, modes in (
        ("--prompt", request.prompt, ("chat",)),
        ("--adapter", request.adapter, ("chat", "evaluate", "export", "serve", "train")),
        ("--train-data-file", request.train_data_file, ("train", "probe", "evaluate", "export")),
        ("--format", request.export_format, ("export",)),
        ("--quantize", request.quantize, ("export",)),
        ("--output", request.output, ("export",)),
        ("--split", request.split, ("export",)),
        ("--with-provenance", request.with_provenance or None, ("export",)),
        ("--parquet", request.parquet or None, ("export",)),
        ("--to-hub", request.to_hub, ("export",)),
        ("--send", request.send or None, ("export",)),
        ("--public", request.public or None, ("export",)),
        ("--license", request.license, ("export",)),
        ("--what", request.what, ("rate",)),
        ("--batch", request.batch or None, ("generate",)),
        ("--queue", request.queue or None, QUEUED_MODES),
        ("--sweep", request.sweep if request.sweep and request.shown_sweep is None else None, ("train",)),
        ("--method", request.method, ("train",)),
    ):
        if given is not None and not _is_unicode(given):
            raise UsageError(f"{option}: what follows is not UTF-8 and cannot be kept in the store; rename it.")
        if given is not None and request.run not in modes:
            wanted = " or ".join((", ".join(modes[:-1]), modes[-1]) if len(modes) > 1 else modes)
            raise UsageError(f"{option} belongs to --run {wanted}, not to {way or 'this command'}.")
    for option, given in (
        ("--store", request.store),
        ("--config", request.config),
        *(("--adapter", path) for path in request.adapters),
        ("--train-data-file", request.train_data_file),
        ("--output", request.output),
        *(("--generate-training-file", path) for path in request.training_file or ()),
    ):
        if given is not None:
            check_name(given, option)
    if not all(map(_is_unicode, request.training_file or ())):
        raise UsageError("--generate-training-file: a file name is not UTF-8 and cannot be kept in the store.")
    if len(request.adapters) > 1 and request.run != "serve":
        raise UsageError(f"--run {request.run} uses one adapter; --run serve takes several. Give --adapter once.")
    if request.adapter is not None and request.resume is not None and request.run != "serve":
        raise UsageError("--adapter and --resume both name the adapter; give one of them.")
    if request.sweep and request.resume is not None:
        raise UsageError("--sweep trains anew; `lora-tui --run queue` goes on with one that was stopped.")
    if request.run == "queue" and request.resume is not None:
        raise UsageError("--run queue goes on with what it has begun by itself; give it without --resume.")
    if request.queue and request.resume is not None and request.run in ("generate", "train", "quickstart"):
        raise UsageError("--queue adds a new run; --resume goes on with one now. Give one of them.")
    if request.split is not None and not 0 <= request.split <= 0.5:
        raise UsageError("--split takes the share of examples to validate with, from 0 to 0.5, such as 0.1.")
    if request.prompt is not None and not request.prompt.strip():
        raise UsageError("--prompt is empty; write the question after it, in quotes.")
    if request.json_lines and request.asks_for_nothing:
        raise UsageError(f"--json needs something to report, such as --run {MODES[0]} or --runs.")


def _is_unicode(given: object) -> bool:
    """Whether an argument is text: bytes that are not UTF-8 arrive as lone surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in str(given))


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """Return the choice that `word` was probably meant to be."""
    found = difflib.get_close_matches(word.lower(), list(choices), n=1, cutoff=0.5)
    return found[0] if found else None


def parse_mode(text: str) -> str:
    """Return the mode that `text` names; raises `UsageError` with the nearest one."""
    mode = text.lower()
    if mode in MODES:
        return mode
    if text.startswith("-"):
        raise UsageError(f"--run needs a mode after it: {', '.join(MODES)}.")
    guess = nearest(text, MODES)
    raise UsageError(
        f"There is no mode {text!r}. " + (f"Did you mean --run {guess}?" if guess else f"Modes: {', '.join(MODES)}.")
    )


def parse_resume(text: str) -> int | Literal["newest"]:
    """Return the run that ``--resume`` names; raises `UsageError` when it is no number."""
    if text == NEWEST:
        return NEWEST
    if text.isascii() and text.isdigit():
        return int(text)
    raise UsageError(f"--resume takes the number of a run, not {text!r}; `lora-tui --runs` lists them.")


def parse_rated(text: str) -> str:
    """Return what to rate; raises `UsageError` for anything that there is not."""
    if (what := text.lower()) in RATED:
        return what
    raise UsageError(f"--what takes {' or '.join(RATED)}, not {text!r}.")


def parse_method(text: str) -> str:
    """Return how to train; raises `UsageError` with the nearest one."""
    if (method := text.lower()) in METHODS:
        return method
    guess = nearest(text, METHODS)
    hint = f"Did you mean {guess}?" if guess else f"It takes {', '.join(METHODS[:-1])} or {METHODS[-1]}."
    raise UsageError(f"There is no method {text!r}. {hint}")


def parse_log_level(text: str) -> str:
    """Return the log level that `text` names; raises `UsageError` with the nearest one."""
    level = text.upper()
    if level in LOG_LEVELS:
        return level
    guess = nearest(text, (name.lower() for name in LOG_LEVELS))
    hint = f"Did you mean {guess.upper()}?" if guess else f"Levels: {', '.join(LOG_LEVELS)}."
    raise UsageError(f"There is no log level {text!r}. {hint}")


def _starting_options(request: Request) -> list[str]:
    """Return the ways to start that were given, as they are written."""
    return [
        way
        for way, given in (
            (f"--run {request.run}", request.run is not None),
            ("--generate-training-file", request.training_file is not None),
            ("--runs", request.list_runs),
            ("--attach", request.attach is not None),
            ("--doctor", request.doctor),
            ("--vacuum", request.vacuum),
            ("--sweep", request.shown_sweep is not None),
        )
        if given
    ]
