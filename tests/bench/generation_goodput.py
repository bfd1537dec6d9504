"""How much of an endpoint's capacity a generation run uses, beside a plain loop that knows a number of its own.

    python -m tests.bench.generation_goodput --knee 48 [--refuse] [--endpoints 2] [--seconds 120] [--set KEY=VALUE]

The endpoint is a process of its own that shares its processor as an inference server does: a request is written at 40
tokens/s as long as no more than `knee` are in flight, and at 40 * knee / n beyond (`Processor`). It tells nobody its
knee; with `--refuse` it answers 429 to what comes beyond it. The real command writes and judges pairs for `seconds`,
then a plain `asyncio.gather` of 32 loops with the official client does the same against a fresh endpoint.

With `--endpoints 2`, or several numbers behind `--knee`, the run has several endpoints (`base_urls`), each in a
process of its own; ceiling and goodput are those of all together, `share_of_each` has them one by one.

One JSON line: `knee`; `ceiling`, the completion tokens/s that the endpoint can write; `goodput`, what it wrote in the
second half of the time, less what was for clients that gave up; `share` of the ceiling, `pairs_per_s` accepted and
`cpu_ms_per_pair` of our process in the same half; `rss_mb` at its highest; `seconds_to_90` from the start of the
command to the first ten seconds of which nine tenths of the ceiling were used (null: never). Beside these
`share_whole` from the first request on, the plain loop's `gather_share`, seconds to the first judge call and the first
pair, what was refused and timed out, and the most requests in flight at once.
"""

import argparse
import asyncio
import contextlib
import heapq
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from tests.openai_server import kind_of, made_up_text, sentences, token_logprobs

TOKENS_PER_SECOND = 40.0
"""What one request is written at while the endpoint is not full."""

_ROOT = Path(__file__).parents[2]
_JUDGED = "5 5 4"
_JUDGE_TOKENS = 6
_ANALYSIS = "A varied set of pairs. Ask more about reasons and consequences, and less about single facts. " * 3
_PAUSE = 0.5


class Processor:
    """Processor sharing: every request in flight gets the same share of `knee` times 40 tokens/s, 40 at most."""

    def __init__(self, knee: int) -> None:
        self._knee = knee
        self._loop = asyncio.get_running_loop()
        self._written = 0.0  # tokens that a request has got that was there from the beginning
        self._at = time.time()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._gone: set[int] = set()
        self._numbers = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._begun: dict[int, float] = {}  # what was written before each request in flight
        self.in_flight = 0
        self.tokens: defaultdict[int, float] = defaultdict(float)
        """Tokens written in each second of the clock; those for clients that did not wait are taken off."""

    def _share(self) -> float:
        return TOKENS_PER_SECOND * min(1.0, self._knee / max(1, self.in_flight))

    def advance(self) -> None:
        """Count what was written since the last call."""
        now, rate = max(self._at, time.time()), self._share()
        self._written += (now - self._at) * rate
        while self._at < now:
            until = min(now, float(int(self._at) + 1))
            self.tokens[int(self._at)] += (until - self._at) * rate * self.in_flight
            self._at = until

    def begin(self, tokens: int, end: Callable[[], None]) -> int:
        """Write so many tokens, then call `end`; returns the number under which the request can be given up."""
        self.advance()
        number = next(self._numbers)
        heapq.heappush(self._due, (self._written + tokens, number, end))
        self._begun[number] = self._written
        self.in_flight += 1
        self._wake()
        return number

    def give_up(self, number: int) -> None:
        """Write no more for a request whose client has gone."""
        self.advance()
        self._gone.add(number)
        self.tokens[int(self._at)] -= self._written - self._begun.pop(number)
        self.in_flight -= 1
        self._wake()

    def _wake(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        while self._due and self._due[0][1] in self._gone:
            self._gone.discard(heapq.heappop(self._due)[1])
        if self._due:
            delay = max(0.0, (self._due[0][0] - self._written) / self._share())
            self._timer = self._loop.call_later(delay, self._end_due)

    def _end_due(self) -> None:
        self._timer = None
        self.advance()
        while self._due and self._due[0][0] <= self._written + 1e-6:
            _, number, end = heapq.heappop(self._due)
            if number in self._gone:
                self._gone.discard(number)
                continue
            self.in_flight -= 1
            del self._begun[number]
            end()
        self._wake()


class Endpoint:
    """What the endpoint knows: passages by their text, what came when, what it refused.

    It writes about the passage's next sentence each time; if it `repeats`, always about the first.
    """

    def __init__(self, knee: int, *, refuses: bool, repeats: bool = False) -> None:
        self.processor = Processor(knee)
        self.knee, self.refuses, self.repeats = knee, refuses, repeats
        self.first: dict[str, float] = {}  # when a kind of request came first
        self.seen: Counter[str] = Counter()  # requests by kind, refused and given up among them
        self.most = 0
        self._sentences: dict[str, list[str]] = {}
        self._asked: defaultdict[str, int] = defaultdict(int)
        self._judgement = _completion(
            _JUDGED, _JUDGE_TOKENS, [token_logprobs(t) for t in re.findall(r"\s*\S", _JUDGED)]
        )

    def reply(self, body: dict[str, Any]) -> tuple[int, bytes]:
        """Return the tokens of a reply and its bytes."""
        kind = kind_of(body)
        self.seen[kind] += 1
        self.first.setdefault(kind, time.time())
        if kind == "judge":
            return _JUDGE_TOKENS, self._judgement
        if kind == "generate":
            prompt = body["messages"][-1]["content"]
            begins = prompt.find("BEGIN PASSAGE")
            if begins >= 0:
                passage = prompt[prompt.find("\n", begins) + 1 : prompt.find("\nEND PASSAGE")]
                wanted = re.search(r"Task: write (\d+)", prompt)
                text = json.dumps({"pairs": [self._pair(passage) for _ in range(int(wanted[1]) if wanted else 1)]})
                return len(text) // 4, _completion(text, len(text) // 4)
        return len(_ANALYSIS) // 4, _completion(_ANALYSIS, len(_ANALYSIS) // 4)

    def _pair(self, passage: str) -> dict[str, str]:
        """Return a pair about the passage's next sentence; no two sentences of the corpus resemble each other."""
        known = self._sentences.get(passage)
        if known is None:
            known = self._sentences[passage] = sentences(passage)
        number = 0 if self.repeats else self._asked[passage]
        self._asked[passage] += 1
        sentence = known[number % len(known)]
        words = sentence.rstrip(".").split()
        return {
            "evidence": sentence,
            "question": f"{_BEGINNINGS[number % len(_BEGINNINGS)]} {' '.join(words[:6])}?",
            "answer": f"{sentence} That is what is said about {' '.join(words[:3])}.",
            "topic": " ".join(words[:2]),
        }

    def statistics(self) -> bytes:
        """Return what was seen so far, as JSON."""
        self.processor.advance()
        known = {"tokens": self.processor.tokens, "first": self.first, "seen": self.seen, "most": self.most}
        return json.dumps(known).encode()


_BEGINNINGS = ("What is known about", "Why is it said that", "How does one explain", "What follows from", "Who names")


def _completion(text: str, tokens: int, logprobs: list[dict[str, Any]] | None = None) -> bytes:
    choice: dict[str, Any] = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    if logprobs:
        choice["logprobs"] = {"content": logprobs}
    usage = {"prompt_tokens": 700, "completion_tokens": tokens, "total_tokens": 700 + tokens}
    answer = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    return json.dumps(answer).encode()


class Connection(asyncio.Protocol):
    """One connection: requests one after the other, as HTTP/1.1 clients send them."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._received = bytearray()
        self._number: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._number is not None:
            self._endpoint.seen["given up"] += 1
            self._endpoint.processor.give_up(self._number)

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._received[:end]).lower()
        length = re.search(rb"content-length: *(\d+)", head)
        whole = end + 4 + (int(length[1]) if length else 0)
        if len(self._received) < whole:
            return
        body = bytes(self._received[end + 4 : whole])
        del self._received[:whole]
        if head.startswith(b"get"):
            self._send(200, self._endpoint.statistics() if b"/statistics" in head.split(b"\r\n")[0] else b"{}")
        else:
            self._begin(json.loads(body))

    def _begin(self, body: dict[str, Any]) -> None:
        endpoint, processor = self._endpoint, self._endpoint.processor
        if endpoint.refuses and processor.in_flight >= endpoint.knee:
            endpoint.seen["refused"] += 1
            self._send(429, b'{"error": {"message": "too many requests in flight", "type": "overloaded"}}')
            return
        tokens, answer = endpoint.reply(body)

        def end() -> None:
            self._number = None
            self._send(200, answer)

        self._number = processor.begin(tokens, end)
        endpoint.most = max(endpoint.most, processor.in_flight)

    def _send(self, status: int, body: bytes) -> None:
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)


async def serve(knee: int, *, refuses: bool, repeats: bool) -> None:
    """Serve until killed; the port is the first line of the output."""
    endpoint = Endpoint(knee, refuses=refuses, repeats=repeats)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(endpoint), "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextlib.contextmanager
def endpoint_process(knee: int, *, refuses: bool = False, repeats: bool = False) -> Any:
    """Yield the base address of an endpoint in a process of its own."""
    command = [sys.executable, "-m", "tests.bench.generation_goodput", "--serve", "--knee", str(knee)]
    process = subprocess.Popen(
        command + ["--refuse"] * refuses + ["--repeat"] * repeats,
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
    finally:
        process.kill()
        process.wait()


def statistics_of(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url.replace("/v1", "/statistics"), timeout=10) as answer:
        known: dict[str, Any] = json.load(answer)
    known["tokens"] = {int(second): n for second, n in known["tokens"].items()}
    return known


def write_corpus(folder: Path, files: int, paragraphs: int) -> None:
    """Write texts of unlikely words: every sentence can be asked about."""
    folder.mkdir()
    for number in range(files):
        (folder / f"text_{number:03}.txt").write_text(made_up_text(number, paragraphs))


def generation_command(folder: Path, settings: dict[str, Any], further: Sequence[str] = ()) -> tuple[list[str], Any]:
    """Return the command of a run with these keys of ``[data_generation]``, and its environment.

    The key has the length of none, and the cache is empty: what the endpoint can do has to be found out.
    """
    command = [sys.executable, "-m", "lora_tui", "--run", "generate", "--json"]
    for name, value in settings.items():
        command += ["--set", f"data_generation.{name}={json.dumps(value)}"]
    for setting in further:
        command += ["--set", setting]
    own = {"OPENAI_API_KEY": "x", "PYTHONPATH": str(_ROOT), "LORA_TUI_CACHE": str(folder / "cache")}
    return command, os.environ | own


def measure_run(chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run the command for `seconds`; return what it used of the endpoint and of this machine."""
    with contextlib.ExitStack() as stack:
        urls = [stack.enter_context(endpoint_process(knee, refuses=chosen.refuse)) for knee in chosen.knee]
        settings = {
            **({"base_url": urls[0]} if len(urls) == 1 else {"base_urls": urls}),
            "model": "m",
            "input_folder": str(folder / "input"),
            "output_file": str(folder / "accepted.txt"),
            "total_examples": chosen.pairs,
        }
        command, environment = generation_command(folder, settings, chosen.set)
        out = (folder / "out.jsonl").open("wb")
        errors = (folder / "err.txt").open("wb")
        began = time.time()
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=out, stderr=errors, stdin=subprocess.DEVNULL
        )
        watched = psutil.Process(process.pid)
        half, rss, cpu_at_half, half_at = began + chosen.seconds / 2, 0, 0.0, 0.0
        try:
            while process.poll() is None and time.time() < began + chosen.seconds:
                rss = max(rss, watched.memory_info().rss)
                if not half_at and time.time() >= half:
                    half_at, cpu_at_half = time.time(), _cpu(watched)
                time.sleep(_PAUSE)
            end_at, cpu = time.time(), _cpu(watched) if process.poll() is None else cpu_at_half
            each = [statistics_of(url) for url in urls]
            process.send_signal(signal.SIGTERM)
            process.wait(60)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            out.close()
            errors.close()
    events = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    at = [_seconds(event) for event in events if event["event"] == "pair" and event["verdict"] == "accepted"]
    later = sum(half_at <= when < end_at for when in at)
    ceiling = TOKENS_PER_SECOND * sum(chosen.knee)
    known = _added(each)
    goodput = _goodput(known["tokens"], half_at, end_at)
    first = min(known["first"].values())
    attempts = next((event["result"]["attempts"] for event in events if event["event"] == "done"), {})
    shown = {
        "knee": sum(chosen.knee),
        "ceiling": ceiling,
        "goodput": round(goodput, 1),
        "share": round(goodput / ceiling, 3),
        "pairs_per_s": round(later / (end_at - half_at), 2),
        "cpu_ms_per_pair": round(1000 * (cpu - cpu_at_half) / later, 2) if later else None,
        "rss_mb": round(rss / 1e6),
        "seconds_to_90": _seconds_to(0.9 * ceiling, known["tokens"], began, end_at),
        "share_whole": round(_goodput(known["tokens"], first, end_at) / ceiling, 3),
        "first_call_s": round(first - began, 1),
        "first_judge_s": round(known["first"].get("judge", float("nan")) - began, 1),
        "first_pair_s": round(at[0] - began, 1) if at else None,
        "refused": known["seen"].get("refused", 0),
        "timed_out": attempts.get("timeout", 0),
        "most_in_flight": known["most"],
        "analyses": known["seen"].get("analyse", 0),
    }
    if len(each) > 1:
        of_each = zip(chosen.knee, each, strict=True)
        shown["share_of_each"] = [
            round(_goodput(one["tokens"], half_at, end_at) / TOKENS_PER_SECOND / knee, 3) for knee, one in of_each
        ]
    if chosen.keep:
        for name in ("out.jsonl", "err.txt", "training_data.db"):
            (chosen.keep / name).write_bytes((folder / name).read_bytes())
    return shown


def _added(each: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the statistics of several endpoints as those of one."""
    tokens, seen, first = Counter[int](), Counter[str](), dict[str, float]()
    for one in each:
        tokens.update(one["tokens"])
        seen.update(one["seen"])
        first = {kind: min(at, first.get(kind, at)) for kind, at in (first | one["first"]).items()}
    return {"tokens": tokens, "seen": seen, "first": first, "most": sum(one["most"] for one in each)}


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _seconds(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["at"]).timestamp()


def _goodput(tokens: dict[int, float], start: float, end: float) -> float:
    """Return the tokens/s of the whole seconds between two times of the clock."""
    first, last = int(start) + 1, int(end)
    return sum(tokens.get(second, 0) for second in range(first, last)) / max(1, last - first)


def _seconds_to(wanted: float, tokens: dict[int, float], began: float, end: float, window: int = 10) -> float | None:
    """Return the seconds after `began` at which the first `window` seconds begin that reach a goodput on average."""
    for second in range(int(began), int(end) - window):
        if sum(tokens.get(n, 0) for n in range(second, second + window)) >= wanted * window:
            return round(second - began, 1)
    return None


async def _gather(url: str, texts: list[str], seconds: float, loops: int) -> None:
    """Write and judge in `loops` loops: what somebody writes in ten minutes with the official client."""
    import openai

    client = openai.AsyncOpenAI(api_key="x", base_url=url, timeout=120)
    end = time.monotonic() + seconds
    numbers = itertools.count()

    async def ask(system: str, user: str, most: int) -> str:
        messages: Any = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        answer = await client.chat.completions.create(model="m", messages=messages, max_tokens=most)
        return answer.choices[0].message.content or ""

    async def loop() -> None:
        while time.monotonic() < end:
            passage = f"BEGIN PASSAGE x\n{texts[next(numbers) % len(texts)]}\nEND PASSAGE x\n\nTask: write 1 pair."
            with contextlib.suppress(openai.APIError):
                pair = await ask("You write pairs.", passage, 300)
                await ask("You judge pairs.", passage + pair, 10)

    await asyncio.gather(*(loop() for _ in range(loops)))


def measure_gather(chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return the share of the ceiling that a plain loop of 32 uses once all of it runs, and its calls that failed."""
    texts = [part for file in sorted((folder / "input").iterdir()) for part in file.read_text().split("\n\n")]
    texts = ["\n\n".join(texts[n : n + 4]) for n in range(0, len(texts), 4)]
    with endpoint_process(sum(chosen.knee), refuses=chosen.refuse) as url:
        began = time.time()
        asyncio.run(_gather(url, texts, chosen.gather_seconds, 32))
        known = statistics_of(url)
    goodput = _goodput(known["tokens"], began + 8, began + chosen.gather_seconds)
    return {
        "gather_share": round(goodput / (TOKENS_PER_SECOND * sum(chosen.knee)), 3),
        "gather_refused": known["seen"].get("refused", 0),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--knee", type=int, required=True, nargs="+", help="of the endpoint, or of each of several")
    parser.add_argument("--endpoints", type=int, default=1, help="so many endpoints of that knee")
    parser.add_argument("--refuse", action="store_true", help="answer 429 to what comes beyond the knee")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--gather-seconds", type=float, default=30.0, help="0 = without the plain loop")
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=60)
    parser.add_argument("--paragraphs", type=int, default=80, help="of each file")
    parser.add_argument("--set", action="append", default=[], help="further settings of the run")
    parser.add_argument("--keep", type=Path, help="folder for the run's events, messages and store")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--repeat", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        asyncio.run(serve(chosen.knee[0], refuses=chosen.refuse, repeats=chosen.repeat))
        return
    chosen.knee *= chosen.endpoints
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_corpus(folder / "input", chosen.files, chosen.paragraphs)
        shown = measure_run(chosen, folder)
        if chosen.gather_seconds:
            shown |= measure_gather(chosen, folder)
    print(json.dumps(shown))


if __name__ == "__main__":
    main()
