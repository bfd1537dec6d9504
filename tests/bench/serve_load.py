"""A server under load: 64 clients at once, one in ten hanging up in the middle, every answer compared; one JSON line.

    python -m tests.bench.serve_load [MODEL] [--clients 64] [--seconds 120] [--dtype float32]

`MODEL` is a folder, a name on the hub, or ``builtin``. Three models are asked in turn, the base and two random adapters
on it, greedily and as streams. Before, in the same run: what the engine answers to each prompt alone, and the tokens/s
of its decoder with as many sequences at once and no server (`engine`).

An answer that differs from the one alone is `mixed` where it begins as another prompt's answer does, a `tie` where the
two tokens at which they part are as good as equally likely for the model, else `wrong`. Those that hung up must have
got the beginning of the right answer. `memory_mb` is the server's process after ten seconds, midway and at the end.
"""

import argparse
import asyncio
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch

from lora_tui.config.load import with_values
from lora_tui.config.models import Settings
from lora_tui.engine.inference.batch_decoder import make_decoder
from lora_tui.engine.inference.sequences import SequenceDecoder, SequenceRequest
from lora_tui.engine.models.adapter_source import AdapterSource
from lora_tui.engine.models.base_model import BaseModel, load_base
from lora_tui.engine.runtime.process import before_torch
from lora_tui.engine.serving.api_requests import GenerationRequest
from lora_tui.engine.serving.prompts import PromptBuilder
from lora_tui.engine.serving.text_stream import TextStream

SUBJECTS = (
    "cats", "tides", "bread", "the moon", "bridges", "rain", "chess", "bees", "glass", "volcanoes", "trains", "salt"
)  # fmt: skip
MODELS: tuple[str | None, ...] = (None, "first", "second")
TIE = {"float32": 1e-3, "bfloat16": 0.25}
"""Nats between two tokens that are as good as equally likely: two steps of bfloat16 for logits from 16 to 32."""

_WARM_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Case:
    """A prompt of a model, with the tokens and the text that the engine writes alone."""

    model: str | None
    question: str
    request: SequenceRequest
    ids: tuple[int, ...]
    text: str


@dataclass
class Heard:
    """What the clients got."""

    whole: int = 0
    left: int = 0
    refused: int = 0
    broken: int = 0
    right: int = 0
    different: Counter[tuple[int, str]] = field(default_factory=Counter)
    """Answers that differ, by the case's number and what was said."""


def to_end(decoder: SequenceDecoder, requests: Sequence[SequenceRequest]) -> list[list[int]]:
    numbers = [decoder.add(request) for request in requests]
    written: dict[int, list[int]] = {number: [] for number in numbers}
    while decoder.running or decoder.waiting:
        for told in decoder.step():
            if told.token is not None:
                written[told.sequence].append(told.token)
    return [written[number] for number in numbers]


async def make_cases(base: BaseModel, decoder: SequenceDecoder, subjects: Sequence[str], tokens: int) -> list[Case]:
    builder = PromptBuilder(base, tokens)
    cases = []
    for subject, model in itertools.product(subjects, MODELS):
        question = f"Tell me something about {subject}, in a few words."
        asked = GenerationRequest("x", messages=({"role": "user", "content": question},), temperature=0.0)
        (request,) = (await builder.prepare(asked, None, model)).sequences
        (ids,) = to_end(decoder, [request])
        cases.append(Case(model, question, request, tuple(ids), text_of(base, ids)))
    builder.close()
    return cases


def text_of(base: BaseModel, ids: Sequence[int]) -> str:
    stream = TextStream(base.tokenizer, strips=True)
    return "".join([*map(stream.add, ids), stream.finish()])


def engine_speed(decoder: SequenceDecoder, cases: Sequence[Case], clients: int, seconds: float) -> float:
    """Tokens/s with as many sequences as clients, each replaced as it ends, after all have begun."""
    endless = itertools.cycle(cases)
    active = {decoder.add(case.request) for case in itertools.islice(endless, clients)}

    def step() -> int:
        told = decoder.step()
        for one in told:
            if one.ended:
                active.discard(one.sequence)
                active.add(decoder.add(next(endless).request))
        return sum(one.token is not None for one in told)

    for _ in range(clients):  # a decoder may admit one a step
        step()
    began, tokens = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        tokens += step()
    took = time.perf_counter() - began
    for number in active:
        decoder.cancel(number)
    return tokens / took


async def client(url: str, cases: Sequence[Case], draw: random.Random, ends_at: float, heard: Heard) -> None:
    """Ask one question after the other; one time in ten hang up in the middle."""
    address = urlsplit(url)
    while time.monotonic() < ends_at:
        number = draw.randrange(len(cases))
        case = cases[number]
        leaves = draw.random() < 0.1
        enough = max(1, len(case.text) // 2) if leaves else None
        body = json.dumps(
            {
                "model": case.model or "base",
                "messages": [{"role": "user", "content": case.question}],
                "temperature": 0,
                "stream": True,
            }
        ).encode()
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        writer.write(f"{head}Connection: close\r\n\r\n".encode() + body)
        text, is_done, status = "", False, int((await reader.readline()).split()[1])
        while line := await reader.readline():
            if line.startswith(b"data: [DONE]"):
                is_done = True
            elif line.startswith(b"data: "):
                choices = json.loads(line[6:]).get("choices") or [{}]
                text += choices[0].get("delta", {}).get("content") or ""
            if enough is not None and len(text) >= enough:
                break
        writer.close()
        over = time.monotonic() >= ends_at and not is_done
        if status != 200:
            heard.refused += 1
        elif leaves:
            heard.left += 1
        elif is_done:
            heard.whole += 1
        elif not over:
            heard.broken += 1
        right = text == case.text if is_done else case.text.startswith(text)
        heard.right += right
        if not right:
            heard.different[number, text] += 1


def token_gap(base: BaseModel, decoder: SequenceDecoder, case: Case, text: str) -> float:
    """Nats by which the model prefers its own token to the answer's, where the two part; infinite for none of 20."""
    parted = (n for n in range(len(case.ids)) if not text.startswith(text_of(base, case.ids[: n + 1])))
    place = next(parted, len(case.ids))  # or the one alone has ended there
    prompt = [*case.request.ids, *case.ids[:place]]
    number = decoder.add(SequenceRequest(prompt, case.request.decoding, case.model, top_logprobs=20))
    told = next(one for one in decoder.step() if one.sequence == number)
    decoder.cancel(number)
    before = text_of(base, case.ids[:place])
    said = [(text_of(base, [*case.ids[:place], token]), value) for token, value in told.top]
    ended = text == before
    fits = [value for one, value in said if text.startswith(one) and (one != before or ended)]
    return told.top[0][1] - max(fits, default=-1e9)


def verdict(cases: Sequence[Case], case: Case, text: str, gap: float, tie: float) -> str:
    """Why an answer differs from the one alone: ``tie``, ``mixed`` or ``wrong``."""
    if gap <= tie:
        return "tie"
    begins = text[:24]
    return "mixed" if any(one.text.startswith(begins) for one in cases if one is not case) else "wrong"


def save_adapter(base: BaseModel, folder: Path, seed: int) -> AdapterSource:
    """Save an adapter with random matrices, small enough to leave it a language."""
    from peft import LoraConfig
    from safetensors.torch import save_file

    draw = torch.Generator().manual_seed(seed)
    rank, targets = 8, ("q_proj", "v_proj")
    tensors = {}
    for name, module in base.model.named_modules():
        if name.endswith(targets):
            rows, columns = module.weight.shape
            drawn_a, drawn_b = torch.randn(rank, columns, generator=draw), torch.randn(rows, rank, generator=draw)
            tensors[f"base_model.model.{name}.lora_A.weight"] = drawn_a / columns**0.5
            tensors[f"base_model.model.{name}.lora_B.weight"] = drawn_b * 0.02
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(targets), task_type="CAUSAL_LM")
    config.base_model_name_or_path = base.name
    config.save_pretrained(str(folder))
    return AdapterSource(folder, None)


def settings_of(model: str, dtype: str) -> Settings:
    return with_values(Settings(), {"fine_tuning.model_name": model, "fine_tuning.dtype": dtype})


def quiet(phase: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


async def load_server(
    arguments: argparse.Namespace, folders: Mapping[str, Path], cases: Sequence[Case]
) -> tuple[Heard, list[dict[str, Any]], dict[str, Any]]:
    """Start the server, load it for the time given, stop it; returns answers, traffic events and the result."""
    sets = {
        "fine_tuning.model_name": arguments.model,
        "fine_tuning.dtype": json.dumps(arguments.dtype),
        "serving.port": 0,
        "serving.max_tokens": arguments.tokens,
        "serving.max_running": arguments.clients,
    }
    command = [sys.executable, "-m", "lora_tui", "--run", "serve", "--json"]
    command += [part for name, folder in folders.items() for part in ("--adapter", f"{name}={folder}")]
    command += [part for key, value in sets.items() for part in ("--set", f"{key}={value}")]
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(Path.cwd()), os.environ.get("PYTHONPATH", "")))}
        process = await asyncio.create_subprocess_exec(
            *command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert process.stdout is not None
        traffic: list[dict[str, Any]] = []
        result: dict[str, Any] = {}
        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def listen() -> None:
            assert process.stdout is not None
            async for line in process.stdout:
                event = json.loads(line)
                if event["event"] == "serving":
                    ready.set_result(event["url"])
                elif event["event"] == "traffic":
                    traffic.append({**event, "heard_at": time.monotonic()})
                elif event["event"] == "done":
                    result.update(event["result"])
                    if not ready.done():
                        ready.set_exception(RuntimeError(event["error"]))

        listening = asyncio.ensure_future(listen())
        url = await ready
        heard, draw = Heard(), random.Random(7)
        ends_at = time.monotonic() + arguments.seconds
        seeds = [draw.random() for _ in range(arguments.clients)]
        await asyncio.gather(*(client(url, cases, random.Random(seed), ends_at, heard) for seed in seeds))
        process.terminate()
        await process.wait()
        await listening
    return heard, [one for one in traffic if one["heard_at"] <= ends_at], result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", nargs="?", default="builtin")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--engine-seconds", type=float, default=30.0)
    parser.add_argument("--subjects", type=int, default=len(SUBJECTS), help="questions to each model")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    arguments = parser.parse_args()
    if "OMP_WAIT_POLICY" not in os.environ:  # read when torch is loaded, and the server's process has it
        before_torch()
        os.execv(sys.executable, [sys.executable, "-m", "tests.bench.serve_load", *sys.argv[1:]])
    with tempfile.TemporaryDirectory() as folder:
        base = load_base(settings_of(arguments.model, arguments.dtype), quiet)
        sources = {name: save_adapter(base, Path(folder, name), seed) for seed, name in enumerate(MODELS) if name}
        decoder = make_decoder(base, sources, arguments.clients)
        cases = asyncio.run(make_cases(base, decoder, SUBJECTS[: arguments.subjects], arguments.tokens))
        engine = engine_speed(decoder, cases, arguments.clients, arguments.engine_seconds)
        folders = {name: source.folder for name, source in sources.items()}
        heard, traffic, result = asyncio.run(load_server(arguments, folders, cases))
        tie = TIE[arguments.dtype]
        verdicts, gaps = Counter[str](), list[float]()
        for (number, text), times in heard.different.items():
            gap = token_gap(base, decoder, cases[number], text)
            gaps.append(gap)
            said = verdict(cases, cases[number], text, gap, tie)
            verdicts[said] += times
            if said != "tie":
                print(f"{said}, {times} times: {text!r} for {cases[number].text!r}", file=sys.stderr)
    warm = [one for one in traffic if one["heard_at"] - traffic[0]["heard_at"] >= _WARM_SECONDS] or traffic
    written = warm[-1]["completion_tokens"] - warm[0]["completion_tokens"]
    took = warm[-1]["heard_at"] - warm[0]["heard_at"]
    served = written / took if took else 0.0
    print(
        json.dumps(
            {
                "model": arguments.model,
                "dtype": arguments.dtype,
                "clients": arguments.clients,
                "seconds": arguments.seconds,
                "answers": heard.whole,
                "hung_up": heard.left,
                "refused": heard.refused,
                "broken": heard.broken,
                "right": heard.right,
                "wrong": verdicts["wrong"],
                "mixed": verdicts["mixed"],
                "ties": verdicts["tie"],
                "largest_gap": round(max(gaps, default=0.0), 3),
                "tokens_per_s": round(served, 1),
                "engine": round(engine, 1),
                "ratio": round(served / engine, 3),
                "memory_mb": [warm[0]["memory_mb"], warm[len(warm) // 2]["memory_mb"], warm[-1]["memory_mb"]],
                "failed": result.get("failed"),
            }
        )
    )


if __name__ == "__main__":
    main()
