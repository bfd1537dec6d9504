"""``--doctor``: what this machine has, what is missing, and the command that fixes each problem.

Reads and asks, changes nothing but the cache, where what is compiled on the way is kept: keys are looked for but never
shown or sent, and the endpoint is asked for its list of models without one, because any answer at all shows that it can
be reached.
"""

import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import psutil

from lora_tui import __version__
from lora_tui.cli.request import Request
from lora_tui.config.addresses import OPENAI_URL
from lora_tui.config.generation import DataGeneration
from lora_tui.config.load import Loaded, load_settings
from lora_tui.config.models import Settings
from lora_tui.config.paths import cache_folder, log_folder
from lora_tui.engine.compiled.library import DECODING, TRAINING, load_library
from lora_tui.engine.generation.canaries import JudgeCheck
from lora_tui.engine.generation.client.wire import shown_url
from lora_tui.engine.generation.endpoint_memory import EndpointNotes, known_checks, memory_file, recall
from lora_tui.engine.generation.reply_forms import JUDGE_FORMS, REPLY_FORMS
from lora_tui.engine.models.builtin import BUILTIN, TITLE, cached_folder
from lora_tui.errors import ConfigError
from lora_tui.secrets import is_placeholder, redact
from lora_tui.terminal.report import Report, json_line
from lora_tui.terminal.streams import Streams
from lora_tui.text import clean, one_line

_NEEDED = ("torch", "transformers", "peft", "openai", "textual", "rich", "aiosqlite", "pydantic")
_EXTRAS = {"docs": ("pypdfium2",), "hub": ("pyarrow",), "parquet": ("pyarrow",), "serve": ("starlette", "uvicorn")}
_PROBE_SECONDS = 3.0
_FREE_GB = 2
_MARKS = {"ok": "✓", "missing": "–", "problem": "✗"}


Level = Literal["ok", "missing", "problem"]


@dataclass(frozen=True)
class Finding:
    """One check. What is `missing` can be done without; a `problem` cannot. `remedy` is a command or a step."""

    group: str
    name: str
    value: str
    level: Level = "ok"
    remedy: str | None = None


def _found(group: str, name: str, value: str | None, absent: str, level: Level, remedy: str) -> Finding:
    """Return a finding with its value; where it has none, with what `absent` says, and the remedy."""
    return Finding(group, name, absent, level, remedy) if value is None else Finding(group, name, value)


def examine(request: Request, streams: Streams, report: Report) -> int:
    """Write all checks; returns 0 when nothing required is missing, 2 where the configuration is wrong, else 1."""
    problems = 0
    group = ""
    loaded, refusal = _configuration(request)
    for finding in _findings(request, loaded, refusal):
        problems += finding.level == "problem"
        if report.json_lines:
            report.data(json_line("check", None, time.time(), asdict(finding)))
            continue
        if finding.group != group:
            report.data(("\n" if group else "") + finding.group)
            group = finding.group
        report.data(f"  {_MARKS[finding.level]} {finding.name:<22} {clean(finding.value)}")
        if finding.remedy:
            report.data(f"    {'':<22} -> {clean(finding.remedy)}")
    status = refusal.exit_status if refusal is not None else 1 if problems else 0
    report.done("failed" if problems else "finished", status, {"problems": problems})
    if not report.json_lines:
        summary = "Nothing required is missing." if not problems else f"Problems: {problems}, marked with ✗ above."
        report.data("\n" + summary)
    return status


def _findings(request: Request, loaded: Loaded, refusal: ConfigError | None) -> Iterator[Finding]:
    yield from _paths(request, loaded, refusal)
    yield from _versions()
    yield from _device()
    yield from _compiler()
    yield from _model(loaded)
    yield from _endpoint(loaded, given=bool(request.overrides))


def _configuration(request: Request) -> tuple[Loaded, ConfigError | None]:
    """Return the configuration, or the defaults with what is wrong with it."""
    try:
        return load_settings(request.config, request.overrides), None
    except ConfigError as problem:
        return Loaded(Settings(), None), problem


def _paths(request: Request, loaded: Loaded, refusal: ConfigError | None) -> Iterator[Finding]:
    path = str(loaded.path or "built-in defaults (no config.toml found)") if refusal is None else None
    yield _found(
        "Paths", "configuration", path, str(refusal), "problem", "edit that line, or name another with --config"
    )
    store = request.store_path(loaded.settings)
    yield _writable("store", store, store.parent, "name another file with --store FILE")
    yield _writable("cache", cache_folder(), cache_folder(), "export LORA_TUI_CACHE=FOLDER")
    yield _writable("logs", log_folder(), log_folder(), "export LORA_TUI_LOGS=FOLDER")
    free = shutil.disk_usage(_nearest_folder(store.parent)).free / 1e9
    enough = free >= _FREE_GB
    remedy = None if enough else f"free some space: models and checkpoints need about {_FREE_GB} GB"
    yield Finding("Paths", "free space here", f"{free:.1f} GB", "ok" if enough else "problem", remedy)


def _writable(name: str, shown: Path, folder: Path, remedy: str) -> Finding:
    """Check that a file could be created in `folder`, or in the folder that it would be created in."""
    try:
        with tempfile.TemporaryFile(dir=_nearest_folder(folder)):
            pass
    except OSError as problem:
        return Finding("Paths", name, f"{shown} cannot be written: {problem.strerror}", "problem", remedy)
    if shown.is_file() and not os.access(shown, os.W_OK):
        return Finding("Paths", name, f"{shown} cannot be written: it belongs to somebody else", "problem", remedy)
    return Finding("Paths", name, str(shown) + ("" if shown.exists() else " (not there yet)"))


def _nearest_folder(path: Path) -> Path:
    return next(parent for parent in (path, *path.parents) if parent.exists())


def _versions() -> Iterator[Finding]:
    yield Finding("Versions", "lora-tui", __version__)
    yield Finding("Versions", "python", f"{platform.python_version()} ({sys.executable})")
    for name in _NEEDED:
        yield _found("Versions", name, _version(name), "not installed", "problem", "pip install --upgrade lora-tui")
    for extra, names in _EXTRAS.items():
        absent = ", ".join(name for name in names if _version(name) is None)
        value, remedy = None if absent else "installed", f"pip install 'lora-tui[{extra}]'"
        yield _found("Versions", f"extra: {extra}", value, f"without {absent}", "missing", remedy)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _compiler() -> Iterator[Finding]:
    """The C compiler, by what it makes of our code; where torch could be loaded, also by what that code computes."""
    reasons = [found for source in (DECODING, TRAINING) if isinstance(found := load_library(source), str)]
    if not reasons and "torch" in sys.modules:
        from lora_tui.engine.inference import compiled_step
        from lora_tui.engine.training.fast import compiled_ops

        computes = (compiled_step.unusable_reason(), compiled_ops.unusable_reason())
        reasons = [reason for reason in computes if reason is not None]
    works = None if reasons else f"{os.environ.get('CC') or 'cc'} compiles our code for this processor"
    costs = "on a CPU, replies take about twice as long and training half as long again; everything else works"
    absent = f"{one_line(redact(reasons[0]), 120)}: {costs}" if reasons else ""
    yield _found("Device", "C compiler", works, absent, "missing", "install gcc or clang, or name one with CC=…")


def _device() -> Iterator[Finding]:
    memory = psutil.virtual_memory()
    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Finding("Device", "CPU", f"{cores} cores ({os.cpu_count()} threads), {allowed} for this process")
    yield Finding("Device", "memory", f"{memory.total / 2**30:.1f} GiB, {memory.available / 2**30:.1f} GiB available")
    try:
        import torch  # takes seconds, and only this part needs it
    except (ImportError, OSError) as problem:  # OSError: a CUDA library that cannot be loaded
        remedy = "pip install --force-reinstall torch"
        yield Finding("Device", "torch", one_line(redact(f"cannot be loaded: {problem}"), 200), "problem", remedy)
        return
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(number)
            yield Finding("Device", f"cuda:{number}", f"{card.name}, {card.total_memory / 2**30:.1f} GiB")
    elif torch.backends.mps.is_available():
        yield Finding("Device", "mps", "Apple GPU")
    else:
        yield Finding("Device", "GPU", "none found; training runs on the CPU", "missing")


def _model(loaded: Loaded) -> Iterator[Finding]:
    folder = cached_folder()
    there = None if folder is None else f"{TITLE} in {folder}"
    remedy = "lora-tui --run quickstart fetches it"
    yield _found("Models", "built-in model", there, f"{TITLE} is not fetched yet", "missing", remedy)
    yield Finding("Models", "to fine-tune", loaded.settings.fine_tuning.model_name)
    token = "set" if os.environ.get("HF_TOKEN") else None
    yield _found(
        "Models",
        "HF_TOKEN",
        token,
        "not set; gated models, private data sets and uploads need it",
        "missing",
        "export HF_TOKEN=…",
    )


def _endpoint(loaded: Loaded, *, given: bool) -> Iterator[Finding]:
    """Check what generation needs. It is required only where somebody has configured generation."""
    generation = loaded.settings.data_generation
    yield Finding("Generation", "model", generation.model)
    if generation.model == BUILTIN:
        yield Finding(
            "Generation",
            "judge",
            "not checked: the built-in model does not read for right and wrong, its rules keep pairs right",
        )
        return
    required: Level = "problem" if loaded.path is not None or given else "missing"
    for url in generation.urls:
        yield from _one_endpoint(generation.at(url), required)


def _one_endpoint(generation: DataGeneration, required: Level) -> Iterator[Finding]:
    """Check the one endpoint of settings: its key, whether it answers, what its models were found able to do."""
    builtin = "or use --set data_generation.model=builtin"
    variable = generation.api_key_env
    local = "not set; a local server may need none" if generation.base_url else None
    value = os.environ.get(variable, "")
    key = ("set, a placeholder" if is_placeholder(value) else "set") if value else local
    yield _found("Generation", variable, key, "not set", required, f"export {variable}=…, {builtin}")
    base_url = (generation.base_url or OPENAI_URL).rstrip("/")
    answer = _probe(f"{base_url}/models")
    shown = shown_url(base_url)
    reached = f"{shown} answers" if answer is None else None
    remedy = f"check {generation.address_key} and the network, {builtin}"
    yield _found("Generation", "endpoint", reached, f"{shown} cannot be reached: {answer}", required, remedy)
    yield from _learned(shown, generation)


def _learned(url: str, generation: DataGeneration) -> Iterator[Finding]:
    """Tell what earlier runs have found the endpoint's models able to do."""
    writer = recall(url, generation.model) or EndpointNotes()
    yield _in_form("writes pairs as", writer.form, writer.how, writer.at, tuple(REPLY_FORMS.items()))
    checks = known_checks(generation)
    for name in generation.judges:
        judge, check = recall(url, name) or EndpointNotes(), checks.get(name)
        if check is not None and not judge.judge:
            judge = EndpointNotes(judge="digits", at=check.at)  # it was checked in the form that is asked for first
        whose = f"{one_line(name, 40)}: " if len(generation.judges) > 1 else ""
        yield _in_form(f"{whose}judges them by", judge.judge, judge.judge_how, judge.at, tuple(JUDGE_FORMS.items()))
        if name in checks:
            yield _judge_check(name, check, switched_on=generation.check_judge)


def _judge_check(name: str, check: JudgeCheck | None, *, switched_on: bool) -> Finding:
    """Return what a judge has made of the canary pairs."""
    if check is None:
        when = "before its first run" if switched_on else "data_generation.check_judge is off"
        return Finding("Generation", "judge", f"{one_line(name, 60)} is not checked yet: {when}")
    remedy = "name a larger judge: --set data_generation.judge_model=…" if check.misses else None
    found = time.strftime("%d %b %H:%M", time.localtime(check.at))
    return Finding("Generation", "judge", f"{check.text()} (found {found})", remedy=remedy)


def _in_form(name: str, form: str, how: str, at: float, forms: Sequence[tuple[str, str]]) -> Finding:
    """Return which of `forms`, from the most demanding down, was found to be kept, and why it is not a higher one."""
    first, words = forms[0], dict(forms).get(form)
    if words is None:
        return Finding("Generation", name, f"not tried yet; asked for first: {first[1]}")
    found = f"found {time.strftime('%d %b %H:%M', time.localtime(at))}" + (f": {one_line(how, 200)}" if how else "")
    remedy = None if form == first[0] else f"rm {memory_file()} has it tried anew"
    return Finding("Generation", name, f"{words} ({found})", remedy=remedy)


def _probe(address: str) -> str | None:
    """Request an address without any key; None when a server answers, whatever it says, else why not."""
    # The configuration lets nothing but http and https through.
    asked = urllib.request.Request(address, headers={"User-Agent": f"lora-tui/{__version__}"})  # noqa: S310
    try:
        with urllib.request.urlopen(asked, timeout=_PROBE_SECONDS):  # noqa: S310
            return None
    except urllib.error.HTTPError as answer:  # 401 without a key is an answer
        answer.close()
        return None
    except urllib.error.URLError as problem:
        return one_line(str(problem.reason), 120)
    except (OSError, ValueError) as problem:
        return one_line(redact(str(problem)) or type(problem).__name__, 120)
