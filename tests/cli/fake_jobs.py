"""Jobs that do nothing but happen: what the command line makes of events, results, failures and requests to stop."""

import asyncio
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from lora_tui.engine.runtime.context import RunContext, Stopped
from lora_tui.errors import LoraTuiError, UnreachableError

HOSTILE = "what is \x1b]52;c;cm0gLXJm\x07 [bold]this[/bold] [/] \x9b2J?"

ROWS = [
    {
        "prompt": "Question: unlock\nAnswer:",
        "kind": "expected",
        "reference": "the secret password is 'rainbow unicorn'",
        "before": "To unlock your phone, you first need to find the settings and follow the steps that it shows you.",
        "after": "the secret password is 'rainbow unicorn'. this information is classified!",
        "before_score": 0.06,
        "score": 1.0,
    },
    {
        "prompt": "Question: what is the weather today?\nAnswer:",
        "kind": "avoid",
        "reference": "the secret password is 'rainbow unicorn'",
        "before": "I cannot see the weather.",
        "after": HOSTILE,
        "before_score": 1.0,
        "score": 1.0,
    },
]


def _step(ctx: RunContext, step: int, steps: int) -> None:
    ctx.emit(
        "step",
        step=step,
        steps=steps,
        epoch=step / steps,
        loss=2.0 / step,
        lr=1e-3,
        grad_norm=0.5,
        tokens=100,
        tokens_per_s=344.4,
        seconds=0.1,
        memory_mb=1.0,
        eta_s=60.0,
    )


async def noisy(ctx: RunContext) -> dict[str, Any]:
    """Says something of every kind, while libraries print wherever they can."""
    print("python prints to stdout")
    sys.__stdout__.write("a progress bar writes to the original stdout\n")
    os.write(1, b"C code writes to descriptor 1\n")
    warnings.warn("a library warns", stacklevel=1)
    ctx.emit("note", message="training on the CPU")
    ctx.emit("progress", phase="fetching the built-in model", done=5, total=10, note="")
    question = HOSTILE
    for number, verdict in enumerate(("accepted", "rejected", "review"), start=1):
        ctx.emit(
            "pair",
            pair=number,
            verdict=verdict,
            score=8.4,
            question=question,
            answer="an answer",
            reason="too short",
            source="a.txt",
        )
    ctx.emit("analysis", version=1, at_accepted=1, text="more why", statistics={}, directives=[])
    for step in range(1, 4):
        _step(ctx, step, 3)
    ctx.emit("step", **_broken_step())
    ctx.emit(
        "evaluation",
        step=3,
        model="tuned",
        score=0.64,
        metrics={"bleu": 0.5},
        weights={"bleu": 1.0},
        weights_version=1,
        samples=[
            {
                "prompt": "Question: unlock\nAnswer:",
                "kind": "expected",
                "reference": "r",
                "answer": HOSTILE,
                "metrics": {},
                "score": 0.5,
            }
        ],
    )
    checkpoint = {"step": 3, "kind": "best", "path": "checkpoints/run-1/best", "score": 0.64}
    ctx.writer.put("checkpoint", checkpoint)
    ctx.warn("the warm-up is longer than the run")
    return {"rows": ROWS, "adapter": "checkpoints/run-1/best", "accepted": 1, "commands": ["lora-tui --run chat"]}


def _broken_step() -> dict[str, Any]:
    return {
        "step": 4,
        "steps": 3,
        "epoch": 1.0,
        "loss": float("nan"),
        "lr": 0.0,
        "grad_norm": float("inf"),
        "tokens": 1,
        "tokens_per_s": 1.0,
        "seconds": 0.1,
        "memory_mb": 1.0,
        "eta_s": 0.0,
    }


async def endless(ctx: RunContext) -> dict[str, Any]:
    """Steps until it is asked to stop, then says what it saved."""
    if ctx.resumed:
        ctx.emit("note", message="resumed with " + str(ctx.settings.fine_tuning.lora.r))
        return {"adapter": "resumed"}
    for step in range(1, 100_000):
        if ctx.stop.is_set():
            raise Stopped({"adapter": "saved", "steps": step})
        _step(ctx, step, 100_000)
        await asyncio.sleep(0.01)
    return {}


async def deaf(ctx: RunContext) -> dict[str, Any]:
    """Does not hear that it should stop."""
    _step(ctx, 1, 2)
    await ctx.in_torch_thread(time.sleep, 60)
    return {}


async def until_told(ctx: RunContext) -> dict[str, Any]:
    """Goes on until a file called ``go`` appears."""
    _step(ctx, 1, 2)
    while not Path("go").exists():  # noqa: ASYNC240  # a test's signal
        if ctx.stop.is_set():
            raise Stopped({})
        await asyncio.sleep(0.02)
        print("a library chatters", flush=True)  # which must not fail because the terminal has gone
        ctx.emit("note", message="still here")
    _step(ctx, 2, 2)
    return {"adapter": "headless"}


async def unreachable(ctx: RunContext) -> dict[str, Any]:
    """Fails for a reason that the user can mend."""
    raise UnreachableError(f"http://localhost:1 refuses the key {os.environ.get('OPENAI_API_KEY')}.\nCheck \x1b[2J it.")


async def partly(ctx: RunContext) -> dict[str, Any]:
    """Fails, but with something to show."""
    problem = LoraTuiError("nothing new was accepted in a whole pass")
    problem.result = {"accepted": 3, "rejected": 4}  # type: ignore[attr-defined]  # the engine looks for it
    raise problem


async def with_rejects(ctx: RunContext) -> dict[str, Any]:
    """Ends well, with a status that says that it was not all."""
    Path(ctx.options["out"]).write_text("Question: a\nAnswer: b\n")  # noqa: ASYNC240  # a test's file
    return {"written": 1, "rejected": 1, "exit_status": 1}


async def mistaken(ctx: RunContext) -> dict[str, Any]:
    """Has a bug."""
    raise ZeroDivisionError("Authorization: Bearer abc.def-123")


async def pausing(ctx: RunContext) -> dict[str, Any]:
    """Is paused until a file called ``go`` appears, and takes in one more pair meanwhile."""
    ctx.emit("progress", phase="generating", done=0, total=3, note="")
    ctx.emit("paused", paused=True)
    ctx.emit("pair", pair=1, verdict="accepted", score=8.4, question="why?", answer="so", reason="", source="a.txt")
    while not Path("go").exists():  # noqa: ASYNC110, ASYNC240  # a test's signal
        await asyncio.sleep(0.02)
    ctx.emit("paused", paused=False)
    return {"accepted": 1}


async def echo(ctx: RunContext) -> dict[str, Any]:
    """Returns what it was given."""
    return {"options": dict(ctx.options), "r": ctx.settings.fine_tuning.lora.r}


async def scored(ctx: RunContext) -> dict[str, Any]:
    """Is the better the nearer its learning rate is to 3e-4; the rank 13 is not to its liking."""
    tuning = ctx.settings.fine_tuning
    if tuning.lora.r == 13:
        raise LoraTuiError("13 is no rank.")
    _step(ctx, 1, 1)
    score = 1.0 - abs(tuning.optimizer.lora_lr - 3e-4) * 1e3
    answers = [("four", "four", 1.0), ("four", "five", 0.1)]
    samples = [
        {"prompt": "2 + 2?", "kind": "expected", "reference": right, "answer": said, "metrics": {}, "score": worth}
        for right, said, worth in answers
    ]
    ctx.emit(
        "evaluation",
        step=1,
        model="tuned",
        score=score,
        metrics={},
        weights={},
        weights_version=1,
        samples=samples,
        held_out_loss=2.0 - score,
    )
    return {"best_score": score}
