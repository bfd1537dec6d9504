"""From the command line to a run: which mode, which settings, which options, and whether an older run goes on."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lora_tui.cli.request import NEWEST, RESUMABLE_MODES, Request
from lora_tui.cli.stores import find_run, open_existing, store_option
from lora_tui.config import Loaded, Settings, with_values
from lora_tui.config.document import parse_key, parse_value
from lora_tui.errors import UsageError
from lora_tui.store import runs
from lora_tui.store.rows import LIVE_STATES, RESUMABLE_STATES, Run


@dataclass(frozen=True)
class Plan:
    """What to submit to the engine. `remarks` are warnings about the choice itself."""

    mode: str
    settings: Settings
    options: dict[str, Any]
    resume: int | None = None
    remarks: list[str] = field(default_factory=list)


async def make_plan(request: Request, loaded: Loaded, store_path: Path) -> Plan:
    """Decide what to run; raises `UsageError` when the run that is to go on cannot."""
    if request.training_file is not None:
        raw, out = (path.expanduser() for path in request.training_file)
        return Plan("format", loaded.settings, {"raw": str(raw), "out": str(out)})
    if request.resume is not None and request.run in (None, *RESUMABLE_MODES):
        return await _resuming(request, loaded, store_path)
    assert request.run is not None, "a request for nothing has no plan"
    options = _options(request)
    if isinstance(request.resume, int):
        async with await open_existing(store_path) as store:
            run = await find_run(store, request.resume)
        if run.mode not in ("train", "quickstart"):
            raise UsageError(f"Run {run.id} is a {run.mode} run and has no adapter; `lora-tui --runs` lists the runs.")
        options["adapter_run"] = run.id
    return Plan(request.run, loaded.settings, options)


async def _resuming(request: Request, loaded: Loaded, store_path: Path) -> Plan:
    run = await _run_to_resume(request, store_path)
    try:
        stored = Settings.model_validate(run.settings)
    except ValidationError as problem:
        if request.config is None:
            first = problem.errors(include_input=False)[0]
            key = ".".join(str(part) for part in first["loc"])
            raise UsageError(
                f"The settings that run {run.id} was started with do not fit this version ({key}: {first['msg']}).\n"
                f"Give them again: --resume {run.id} --config FILE"
            ) from problem
        stored = loaded.settings
    settings = loaded.settings if request.config is not None else with_values(stored, _changes(request.overrides))
    remarks = [
        f"run {run.id} goes on with {key} = {new}; it was started with {old}"
        for key, old, new in differences(run.settings, settings.model_dump(mode="json"))
    ]
    return Plan(run.mode, settings, {**run.options, **_options(request)}, run.id, remarks)


async def _run_to_resume(request: Request, store_path: Path) -> Run:
    modes = (request.run,) if request.run is not None else RESUMABLE_MODES
    if request.resume == NEWEST:
        async with await open_existing(store_path) as store:
            newest = await runs.newest_resumable(store, modes)
        if newest is None:
            what = f"{modes[0]} run" if len(modes) == 1 else "run"
            start = f"Start one with --run {request.run}." if request.run else "`lora-tui --runs` lists what there is."
            raise UsageError(f"No {what} in {store_path} can be resumed. {start}")
        return newest
    assert isinstance(request.resume, int)
    async with await open_existing(store_path) as store:
        run = await find_run(store, request.resume)
    again = store_option(store_path)
    if run.mode not in modes:
        if run.mode in RESUMABLE_MODES:
            raise UsageError(
                f"Run {run.id} is a {run.mode} run, not a {request.run} run. Resume it with --resume {run.id}{again}"
            )
        raise UsageError(f"Run {run.id} is a {run.mode} run, which is not resumed but run again: --run {run.mode}")
    if run.state in LIVE_STATES:
        raise UsageError(
            f"Run {run.id} is live (process {run.pid} on {run.host}). Watch it with --attach {run.id}{again}"
        )
    if run.state not in RESUMABLE_STATES:
        use = f" Use its adapter with --run chat --resume {run.id}{again}" if run.mode != "generate" else ""
        raise UsageError(f"Run {run.id} is {run.state}: there is nothing left to do.{use}")
    return run


def _changes(overrides: Iterable[str]) -> dict[str, Any]:
    """Return what ``--set`` changes, by dotted key; the configuration has accepted each of them already."""
    pairs = [text.partition("=") for text in overrides]
    return {".".join(parse_key(name)): parse_value(value) for name, _, value in pairs}


def _options(request: Request) -> dict[str, Any]:
    """Return the options of the command line that the job itself reads."""
    given = {
        "train_data_file": request.train_data_file,
        "adapter": request.adapter,
        "format": request.export_format,
        "output": request.output,
    }
    return {
        name: str(value.expanduser()) if isinstance(value, Path) else value
        for name, value in given.items()
        if value is not None
    }


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the dotted keys whose values differ, with both values."""
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            yield from differences(before, value, f"{prefix}{key}.")
        elif value != before and key in old:
            yield f"{prefix}{key}", before, value
