"""The job of ``--run serve``: a model and its adapters behind OpenAI's API, until it is told to stop.

What can be refused without torch was refused in `preflight`.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import Mapping
from typing import Any

import psutil
import uvicorn

from lora_tui.engine.inference.batch_decoder import make_decoder
from lora_tui.engine.models.base_model import BaseModel, load_base
from lora_tui.engine.runtime.context import RunContext, progress_events
from lora_tui.engine.serving.address import base_url, tunnel_command
from lora_tui.engine.serving.choice import Served
from lora_tui.engine.serving.decoding import DecodingThread
from lora_tui.engine.serving.handover import base_place, llama_commands, vllm_command
from lora_tui.engine.serving.http_app import OpenAIServer
from lora_tui.engine.serving.prompts import PromptBuilder
from lora_tui.errors import LoraTuiError

_SECONDS_BETWEEN_TRAFFIC = 2.0
_SECONDS_TO_START = 30.0
_SECONDS_TO_END = 3
_SECONDS_WITHOUT_STORE = 3600.0
"""A store that another program keeps locked for so long ends no server: its clients need none."""


async def serve_models(ctx: RunContext, served: Served, listener: socket.socket, key: str | None) -> dict[str, Any]:
    """Load what is served, answer requests until the run is stopped, and return what was done."""
    serving = ctx.settings.serving
    thread = DecodingThread(serving.max_running + serving.max_waiting, serving.max_running)
    prompts: PromptBuilder | None = None
    try:
        base = await thread.call(lambda: load_base(ctx.settings, progress_events(ctx.emit), served.base_name))
        ctx.raise_if_stopping()
        decoder = await thread.call(lambda: make_decoder(base, served.adapters, serving.max_running))
        ctx.raise_if_stopping()
        prompts = PromptBuilder(base, serving.max_tokens)
        server = OpenAIServer(served, base.tokenizer, prompts, thread, key, int(time.time()))
        thread.start(decoder)
        return await _until_stopped(ctx, server, listener, base)
    finally:
        await thread.stop()
        if prompts is not None:
            prompts.close()


async def _until_stopped(
    ctx: RunContext, server: OpenAIServer, listener: socket.socket, base: BaseModel
) -> dict[str, Any]:
    http = uvicorn.Server(
        uvicorn.Config(
            server.app(),
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=_SECONDS_TO_END,
        )
    )
    listening = asyncio.ensure_future(http.serve(sockets=[listener]))
    try:
        async with asyncio.timeout(_SECONDS_TO_START):
            while not http.started and not listening.done():  # noqa: ASYNC110  # uvicorn has no event for it
                await asyncio.sleep(0.02)
        if listening.done():
            raise LoraTuiError("The HTTP server has not started; the log file says why.")
        ctx.emit("serving", **_announcement(ctx, server, listener, base))
        began, ctx.writer.patience = time.monotonic(), _SECONDS_WITHOUT_STORE
        stopping = asyncio.ensure_future(ctx.stop_async.wait())
        reporting = asyncio.ensure_future(_report(ctx, server))
        try:
            await asyncio.wait({stopping, listening, reporting}, return_when=asyncio.FIRST_COMPLETED)
            if reporting.done():
                reporting.result()
        finally:
            ctx.writer.patience = 0.0
            for task in (stopping, reporting):
                task.cancel()
        if not ctx.stop_async.is_set():
            raise LoraTuiError("The HTTP server has ended by itself; the log file says why.")
        return {**_totals(server), "seconds": round(time.monotonic() - began, 1)}
    finally:
        await server.thread.stop()  # first: whoever waits for an answer is told
        http.should_exit = True
        with contextlib.suppress(Exception):  # it is in the log
            await listening


def _announcement(ctx: RunContext, server: OpenAIServer, listener: socket.socket, base: BaseModel) -> Mapping[str, Any]:
    """What the ``serving`` event says: where, what, and the commands that lead on."""
    place = base_place(server.served.base_name, base.folder)
    vllm, left_out = vllm_command(server.served, place)
    models = [
        {
            "name": model.name,
            "adapter": None if model.source is None else str(model.source.folder),
            "run": None if model.source is None else model.source.run_id,
        }
        for model in server.served.models
    ]
    return {
        "url": base_url(listener),
        "models": models,
        "base_model": server.served.base_name,
        "key_variable": ctx.settings.serving.api_key_env if server.key is not None else None,
        "tunnel": tunnel_command(listener),
        "vllm": vllm,
        "vllm_left_out": list(left_out),
        "llama_server": list(llama_commands(server.served, place)),
        "max_running": ctx.settings.serving.max_running,
        "max_waiting": ctx.settings.serving.max_waiting,
    }


async def _report(ctx: RunContext, server: OpenAIServer) -> None:
    """Emit a ``traffic`` event every two seconds in which something has changed."""
    process, told, tokens, at = psutil.Process(), dict[str, Any](), 0, time.monotonic()
    warned: set[str] = set()
    while True:
        await asyncio.sleep(_SECONDS_BETWEEN_TRAFFIC)
        now, total = time.monotonic(), server.thread.tokens
        rate = (total - tokens) / (now - at)
        tokens, at = total, now
        active = server.thread.active
        running = min(server.thread.running, active)
        figures = {**_totals(server), "running": running, "waiting": active - running, "tokens_per_s": round(rate, 1)}
        if figures != told:
            told = figures
            ctx.emit("traffic", **figures, memory_mb=round(process.memory_info().rss / 1e6))
        if new := server.traffic.ignored - warned:
            warned |= new
            ctx.warn(f"Clients send {', '.join(sorted(new))}, which this server ignores.")


def _totals(server: OpenAIServer) -> dict[str, int]:
    traffic = server.traffic
    return {
        "requests": traffic.requests,
        "refused": traffic.refused,
        "hung_up": traffic.hung_up,
        "failed": traffic.failed,
        "prompt_tokens": traffic.prompt_tokens,
        "completion_tokens": traffic.completion_tokens,
    }
