"""Experiment trackers: a run's steps and evaluations, told to TensorBoard, Weights & Biases or trackio as well.

They are told what the store is told, by the same events, and read nothing back. A tracker that fails is left out for
the rest of the run, with a warning: nobody loses a night's training to a full disk of somebody else's.
"""

import importlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from lora_tui.config.models import Settings
from lora_tui.engine.runtime.context import RunContext
from lora_tui.errors import UsageError
from lora_tui.secrets import redact
from lora_tui.text import one_line

log = logging.getLogger(__name__)

_MODULES = {"tensorboard": "tensorboardX", "wandb": "wandb", "trackio": "trackio"}
_INSTALLED_BY = {"tensorboard": "pip install 'lora-tui[trackers]'"}

_PROJECT = "lora-tui"
_REWARDS = ("reward_margin", "reward_accuracy", "chosen_reward", "rejected_reward", "kl")
_STEP_FIGURES = ("loss", "lr", "grad_norm", "epoch", "tokens_per_s", "memory_mb")


class Tracker(Protocol):
    """A place that figures are sent to: all by the optimizer step that they belong to."""

    def scalars(self, figures: Mapping[str, float], step: int) -> None:
        """Take figures, by name."""

    def text(self, name: str, text: str, step: int) -> None:
        """Take a text in Markdown, such as what the model answered."""

    def close(self) -> None:
        """Write what is left."""


def check_trackers(settings: Settings) -> None:
    """Raise `UsageError` where a tracker of ``fine_tuning.report_to`` is not installed."""
    for name in settings.fine_tuning.report_to:
        if find_spec(_MODULES[name]) is None:
            install = _INSTALLED_BY.get(name, f"pip install {name}")
            raise UsageError(f"fine_tuning.report_to names {name}, which is not installed: {install}")


@contextmanager
def tracked(ctx: RunContext, folder: Path) -> Iterator[RunContext]:
    """Yield a context whose events go to the run's trackers, too; those that write files have them in `folder`."""
    names = ctx.settings.fine_tuning.report_to
    if not names:
        yield ctx
        return
    trackers = _Trackers(ctx, folder, names)
    try:
        yield replace(ctx, listeners=(*ctx.listeners, trackers.hear))
    finally:
        trackers.close()


class _Trackers:
    """The trackers of a run, opened by its first event that they are told of: a run that goes on begins at its step."""

    def __init__(self, ctx: RunContext, folder: Path, names: list[Any]) -> None:
        self._ctx = ctx
        self._folder = folder
        self._waiting = list(names)
        self._open: dict[str, Tracker] = {}
        self._plan: Mapping[str, Any] = {}

    def hear(self, kind: str, payload: Mapping[str, Any]) -> None:
        """Take an event of the run; on the thread that emits it."""
        if kind == "plan":
            self._plan = payload
        elif kind == "step":
            told = (*_STEP_FIGURES, *(name for name in _REWARDS if name in payload))
            figures = {f"train/{name}": float(payload[name]) for name in told}
            self._tell(int(payload["step"]), lambda tracker, step: tracker.scalars(figures, step))
        elif kind == "evaluation":
            self._tell(int(payload["step"]), lambda tracker, step: _tell_evaluation(tracker, payload, step))

    def close(self) -> None:
        """Close what is open."""
        for name in [*self._open]:
            self._safely(name, self._open[name].close)
        self._open.clear()

    def _tell(self, step: int, what: Callable[[Tracker, int], None]) -> None:
        for name in self._waiting:
            self._safely(name, partial(self._start, name, step))
        self._waiting.clear()
        for name, tracker in [*self._open.items()]:
            self._safely(name, partial(what, tracker, step))

    def _start(self, name: str, step: int) -> None:
        settings = self._ctx.settings.model_dump(mode="json", exclude_none=True)["fine_tuning"]
        config = json.loads(redact(json.dumps({**settings, "plan": dict(self._plan)}, default=str)))
        if name == "tensorboard":
            self._open[name] = _TensorBoard(self._folder / "tensorboard", config, step)
        else:
            self._open[name] = _Logged(name, self._ctx.run_id, self._folder, config)

    def _safely(self, name: str, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as problem:  # whatever it is, the training is worth more
            log.info("the tracker %s failed", name, exc_info=problem)
            self._open.pop(name, None)
            said = one_line(str(problem) or type(problem).__name__, 200)
            self._ctx.warn(f"{name} is told no more of this run: {said}")


def _tell_evaluation(tracker: Tracker, payload: Mapping[str, Any], step: int) -> None:
    """Tell an evaluation: its score, its parts and their weights, the loss on held-out examples, and the answers."""
    model = str(payload["model"])
    figures = {f"{model}/score": payload["score"], f"{model}/held_out_loss": payload.get("held_out_loss")}
    figures |= {f"{model}/controls_kept": payload.get("controls_kept")}
    figures |= {f"{model}/metrics/{name}": value for name, value in payload["metrics"].items()}
    figures |= {f"weights/{name}": value for name, value in payload["weights"].items()}
    tracker.scalars({name: float(value) for name, value in figures.items() if value is not None}, step)
    rows = [f"| {_cell(one['prompt'])} | {_cell(one['answer'])} | {one['score']:.2f} |" for one in payload["samples"]]
    tracker.text(f"{model}/answers", "\n".join(["| prompt | answer | score |", "| --- | --- | --- |", *rows]), step)


def _cell(text: object) -> str:
    return one_line(redact(str(text)), 300).replace("|", "\\|")


class _TensorBoard:
    """Event files of TensorBoard, by tensorboardX, which needs no TensorFlow."""

    def __init__(self, folder: Path, config: Mapping[str, Any], step: int) -> None:
        # What an earlier process of this run wrote of this step and later is taken back: those steps are done again.
        self._writer = importlib.import_module("tensorboardX").SummaryWriter(str(folder), purge_step=step)
        self._writer.add_text("configuration", f"```json\n{json.dumps(config, indent=2)}\n```", step)

    def scalars(self, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def text(self, name: str, text: str, step: int) -> None:
        self._writer.add_text(name, text, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Logged:
    """wandb or trackio, which have one interface. wandb stays offline unless WANDB_MODE says otherwise."""

    def __init__(self, name: str, run_id: int, folder: Path, config: Mapping[str, Any]) -> None:
        self._module = importlib.import_module(name)
        title = f"{folder.parent.name}-{folder.name}" if folder.parent.name else f"run-{run_id}"
        options: dict[str, Any] = {"project": _PROJECT, "name": title, "config": dict(config)}
        if name == "wandb":
            mode = os.environ.get("WANDB_MODE", "offline")
            options |= {"mode": mode, "dir": str(folder), "id": title, "resume": "allow"}
        self._run = self._module.init(**options)

    def scalars(self, figures: Mapping[str, float], step: int) -> None:
        self._module.log(dict(figures), step=step)

    def text(self, name: str, text: str, step: int) -> None:
        self._module.log({name: text}, step=step)

    def close(self) -> None:
        self._module.finish()
