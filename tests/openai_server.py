"""A real HTTP server that speaks enough of the OpenAI protocol for tests, and misbehaves on request.

It answers well: pairs made of the sentences of the passage it finds in the prompt, three digits for the judge, words
for an analysis. What goes wrong, and when, is scripted: `next_faults` for the coming requests, `mix` for a share of
all. Everything it receives is kept in `received`, so that tests can hold the program's own accounting against it.
"""

import asyncio
import json
import random
import re
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from tests.threaded_server import ThreadedServer

MODEL = "test-model"

TEXT_WRITERS = {
    "rewrite": "You write a document",
    "summary": "You write a summary",
    "dialogue": "You write a conversation",
    "phrasing": "You word a question",
}
"""How the instructions for each form of text begin."""


@dataclass(frozen=True)
class Fault:
    """One way to misbehave: an HTTP status, or a kind of bad answer."""

    kind: str
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None


def http(status: int, message: str = "scripted", code: str | None = None, **headers: str) -> Fault:
    """Answer with a status; underscores in header names become hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Fault("http", status, named, {"error": {"message": message, "code": code, "type": None}})


def too_many(retry_after: str) -> Fault:
    return http(429, "slow down", retry_after=retry_after)


TRUNCATED = Fault("truncated")  # finish_reason "length" in the middle of the text
MALFORMED = Fault("malformed")  # prose where JSON or digits are due
HALF_JSON = Fault("half_json")  # cut off, and said to be complete
EMPTY_CHOICES = Fault("empty_choices")
NULL_CONTENT = Fault("null_content")
FILTERED = Fault("filtered")
NOT_JSON = Fault("not_json")  # a proxy's HTML page with status 200
DROPPED = Fault("dropped")  # the connection breaks in the middle of the body


@dataclass(frozen=True)
class Received:
    """A request as it arrived, and how it was answered: ``ok`` or the kind of fault."""

    kind: str  # generate, sentence, completion, judge, analyse, statement, or a form of text
    body: dict[str, Any]
    headers: dict[str, str]
    at: float
    outcome: str
    reply: str
    at_once: int  # requests in flight when it came, itself among them


class OpenAIServer(ThreadedServer):
    """The server, in a thread of its own, on a free port of this machine; a context manager."""

    def __init__(self, key: str | None = None) -> None:
        self._epoch = 0
        self.reset(key)
        paths = ("/v1/chat/completions", "/v1/completions")
        own = [Route(path, self._complete, methods=["POST"]) for path in paths]
        super().__init__([*own, *self._more_routes()])
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def reset(self, key: str | None = None) -> None:
        """Forget everything that was scripted and received, as if it had just been started."""
        self._epoch += 1
        self.key = key
        self.models = {MODEL}
        self.delay = 0.0
        self.kind_delays: dict[str, float] = {}  # of requests of a kind, instead of `delay`
        self.delays: deque[float] = deque()  # of the coming requests, instead of `delay`
        self.held_after: dict[str, int] = {}  # requests of a kind that are answered; more wait until the entry goes
        self.next_faults: deque[Fault | None] = deque()
        self.kind_faults: dict[str, Fault] = {}  # for every request of a kind
        self.mix: list[tuple[Fault, float]] = []
        self.refuses: set[str] = set()  # parameters, or "json_schema", "json_object"
        self.digits: Callable[[str], str] = lambda prompt: "5 5 4"
        self.analysis: Callable[[], str] = lambda: "A varied set. Ask more about reasons."
        self.groups: Callable[[str], str] = lambda outline: "nothing to say"
        self.digits_of: dict[str, Callable[[str], str]] = {}  # of single models, instead of `digits`
        self.model_faults: dict[str, Fault] = {}  # for every request to a model
        self.pair_of: Callable[[str, int], dict[str, str]] = pair_of_sentence
        self.pair_of_sentence: Callable[[str], dict[str, str]] = pair_of_words
        self.text_of: Callable[[str, str, str], str] = text_about
        self.completion: Callable[[str], str] | None = None  # how a text goes on; None = no such address
        self.usage = True
        self.logprobs = True
        self.received: list[Received] = []
        self.most_at_once = 0
        self._at_once = 0
        self._asked: Counter[str] = Counter()
        self._random = random.Random(7)

    def _more_routes(self) -> list[Route]:
        """Return the routes of what else a server has."""
        return []

    def count(self, kind: str | None = None, outcome: str | None = None) -> int:
        """Count what was received, by kind and outcome."""
        return sum(kind in (None, one.kind) and outcome in (None, one.outcome) for one in self.received)

    async def _complete(self, request: Request) -> Response:
        body, epoch = await request.json(), self._epoch
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            return await self._answer(request, body)
        finally:
            self._at_once -= epoch == self._epoch

    async def _answer(self, request: Request, body: dict[str, Any]) -> Response:
        if "prompt" in body and self.completion is None:
            return JSONResponse({"detail": "Not Found"}, 404)
        fault = self._refusal(request, body) or self._standing_fault(body) or self._fault()
        kind, content = self._content(body, fault)
        outcome = "ok" if fault is None else fault.kind
        self.received.append(Received(kind, body, dict(request.headers), time.time(), outcome, content, self._at_once))
        number = self.count(kind)
        await asyncio.sleep(self.delays.popleft() if self.delays else self.kind_delays.get(kind, self.delay))
        while number > self.held_after.get(kind, number):  # noqa: ASYNC110  # another thread lets go
            await asyncio.sleep(0.01)
        if fault is not None and fault.kind == "http":
            return JSONResponse(fault.body, fault.status, headers=fault.headers)
        if fault is not None and fault.kind == "not_json":
            return Response(fault.body or "<html>Bad gateway</html>", media_type="text/html")
        answer = self._completion(body, kind, content, fault)
        return HalfResponse(answer) if fault is not None and fault.kind == "dropped" else JSONResponse(answer)

    def _standing_fault(self, body: dict[str, Any]) -> Fault | None:
        return self.kind_faults.get(kind_of(body)) or self.model_faults.get(body["model"])

    def _fault(self) -> Fault | None:
        if self.next_faults:
            return self.next_faults.popleft()
        drawn = self._random.random()
        for fault, share in self.mix:
            drawn -= share
            if drawn < 0:
                return fault
        return None

    def _refusal(self, request: Request, body: dict[str, Any]) -> Fault | None:
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            given = request.headers.get("authorization")
            return http(401, f"Incorrect API key provided: {given}.", "invalid_api_key")
        if body["model"] not in self.models:
            return http(404, f"The model `{body['model']}` does not exist", "model_not_found")
        for name in sorted(self.refuses):
            form = body.get("response_format", {}).get("type")
            if name == form:
                return http(400, f"'response_format' of type '{name}' is not supported", "unsupported_parameter")
            if name in body:
                return http(400, f"Unsupported parameter: '{name}'", "unsupported_parameter")
        return None

    def _content(self, body: dict[str, Any], fault: Fault | None) -> tuple[str, str]:
        if self.completion is not None and "prompt" in body:
            return "completion", self.completion(body["prompt"])
        prompt = "\n".join(message["content"] for message in body["messages"])
        kind = kind_of(body)
        if kind == "judge":
            return kind, self.digits_of.get(body["model"], self.digits)(prompt)
        if kind == "analyse":
            return kind, self.analysis()
        if kind == "topics":
            return kind, self.groups(between(prompt, "LIST"))
        if kind == "statement":
            statement = between(prompt, "STATEMENT")
            return "statement", json.dumps({"question": f"What about {statement.split()[0]}?", "answer": statement})
        if kind == "sentence":
            sentence = between(body["messages"][-1]["content"], "SENTENCE")
            return kind, json.dumps(self.pair_of_sentence(sentence))
        passage = between(prompt, "PASSAGE")
        if kind in TEXT_WRITERS:
            return kind, self.text_of(kind, passage, prompt)
        wanted = int(re.search(r"Task: write (\d+)", prompt)[1])  # type: ignore[index]  # the prompt always has it
        first = self._asked[passage]
        if fault is None or fault.kind == "dropped":
            self._asked[passage] += wanted
        return "generate", json.dumps({"pairs": [self.pair_of(passage, first + n) for n in range(wanted)]})

    def _completion(self, body: dict[str, Any], kind: str, content: str, fault: Fault | None) -> dict[str, Any]:
        finish, text = "stop", content
        match fault.kind if fault else None:
            case "truncated":
                finish, text = "length", content[: len(content) // 2 if kind != "judge" else 1]
            case "half_json":
                text = content[: len(content) // 2 if kind != "judge" else 1]
            case "malformed":
                text = "I am sorry, here is what I think about it."
            case "filtered":
                finish, text = "content_filter", ""
        choice: dict[str, Any] = {
            "index": 0,
            "finish_reason": finish,
            "message": {"role": "assistant", "content": None if fault and fault.kind == "null_content" else text},
        }
        if kind == "completion":
            choice = {"index": 0, "finish_reason": finish, "text": text}
        if body.get("logprobs") and self.logprobs:
            choice["logprobs"] = {"content": [token_logprobs(token) for token in re.findall(r"\s*\S", text)]}
        answer: dict[str, Any] = {
            "id": "x",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": body["model"],
            "choices": [] if fault and fault.kind == "empty_choices" else [choice],
        }
        if self.usage:
            texts = [message["content"] for message in body.get("messages", [])] or [body["prompt"]]
            prompt = sum(len(text) for text in texts) // 4
            answer["usage"] = {
                "prompt_tokens": prompt,
                "completion_tokens": len(text) // 4 + 1,
                "total_tokens": prompt + len(text) // 4 + 1,
                "prompt_tokens_details": {"cached_tokens": prompt // 2},
            }
        return answer


def kind_of(body: dict[str, Any]) -> str:
    """Tell what a request asks for by the beginning of its instructions."""
    if "prompt" in body:
        return "completion"
    system = body["messages"][0]["content"]
    openings = {
        "You write one question": "sentence",
        "You judge": "judge",
        "You advise": "analyse",
        "You sort": "topics",
        "You turn a statement": "statement",
        **{opening: kind for kind, opening in TEXT_WRITERS.items()},
    }
    return next((kind for opening, kind in openings.items() if system.startswith(opening)), "generate")


class HalfResponse(Response):
    """Announces a body, sends half of it and leaves; the connection breaks."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__()
        self._bytes = json.dumps(answer).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(self._bytes)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self._bytes[: len(self._bytes) // 2], "more_body": True})


def between(prompt: str, name: str) -> str:
    """Return the text between the delimiters of the prompt."""
    found = re.search(rf"BEGIN {name} (\w+)\n(.*?)\nEND {name} \1", prompt, re.DOTALL)
    assert found is not None, prompt
    return found[2]


def sentences(passage: str) -> list[str]:
    """Return the sentences of a passage that a pair can be made of."""
    found = [sentence.strip() for sentence in re.split(r"(?<=[.!?])\s+", passage)]
    return [sentence for sentence in found if len(sentence.split()) >= 5 and not sentence.startswith("#")]


def pair_of_sentence(passage: str, number: int) -> dict[str, str]:
    """Return a sound pair about the n-th sentence of the passage, beginning again after the last."""
    known = sentences(passage)
    sentence = known[number % len(known)]
    words = sentence.rstrip(".!?").split()
    return {
        "evidence": sentence,
        "question": f"What is known about {' '.join(words[:6])}?",
        "answer": sentence,
        "topic": " ".join(words[:2]),
    }


def text_about(kind: str, passage: str, prompt: str) -> str:
    """Return a sound text about a passage: its sentences with their halves exchanged, or questions about them."""
    known = sentences(passage)
    if kind == "dialogue":
        turns = [{"user": f"And what of {' '.join(one.split()[:4])}?", "assistant": one} for one in known[:3]]
        return json.dumps({"turns": turns})
    if kind == "phrasing":
        asked, answer = (json.loads(found) for found in re.findall(r"(?:Question|Answer): (\".*\")", prompt)[-2:])
        wanted = int(re.search(r"Task: write (\d+)", prompt)[1])  # type: ignore[index]  # the prompt always has it
        words = ["Tell me", "Please say", "I want to know", "Could you explain"]
        reworded = [f"{words[n]}: {asked[0].lower()}{asked[1:]}" for n in range(wanted)]
        return json.dumps(
            {"pairs": [{"evidence": known[0], "question": one, "answer": answer, "topic": "it"} for one in reworded]}
        )
    kept = known if kind == "rewrite" else known[: max(2, len(known) // 3)]
    return "About the matter\n\n" + " ".join(exchanged_halves(sentence) for sentence in kept)


def exchanged_halves(sentence: str) -> str:
    words = sentence.rstrip(".!?").split()
    half = len(words) // 2
    return f"{' '.join([*words[half:], *words[:half]]).capitalize()}."


def pair_of_words(sentence: str) -> dict[str, str]:
    """Return a sound pair about a sentence: its last words, asked for with the others."""
    words = sentence.rstrip(".!?").split()
    return {"question": f"What is {' '.join(words[:-3])}?", "answer": " ".join(words[-3:])}


def token_logprobs(token: str) -> dict[str, Any]:
    """Return a token with its candidates: a digit shares its probability with the one below it."""
    digit = token.strip()
    top = [{"token": token, "logprob": -0.2231435513}]  # 0.8
    if digit.isdigit():
        top.append({"token": token.replace(digit, str(max(1, int(digit) - 1))), "logprob": -1.6094379124})  # 0.2
    return {"token": token, "logprob": -0.2231435513, "bytes": None, "top_logprobs": top}


def made_up_text(seed: int, paragraphs: int, sentences_each: int = 4) -> str:
    """Return text of unlikely words, so that no two sentences resemble each other."""
    rng = random.Random(seed)
    syllables = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "el", "or")]

    def word() -> str:
        return "".join(rng.choices(syllables, k=rng.randint(2, 4)))

    def sentence() -> str:
        return " ".join(word() for _ in range(rng.randint(8, 12))).capitalize() + "."

    return "\n\n".join(" ".join(sentence() for _ in range(sentences_each)) for _ in range(paragraphs)) + "\n"
