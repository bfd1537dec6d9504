"""The server as OpenAI's client meets it: answers, streams, adapters, errors in the API's shape."""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import MutableMapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import openai
import pytest

from lora_tui.engine.data.template_renderer import render_chat
from lora_tui.engine.inference.batch_decoder import BatchDecoder
from lora_tui.engine.inference.decode import answers, decode
from lora_tui.engine.inference.sequences import DecodedToken
from lora_tui.engine.serving import http_app
from lora_tui.protocol.reply import Decoding
from tests.engine.conftest import Trained
from tests.engine.serving.conftest import RunningServer, serving
from tests.engine.tiny import PAIRS, save_base
from tests.openai_server import made_up_text

QUESTIONS = [question for question, _ in PAIRS[:4]]


def asked(server: RunningServer, model: str, question: str, **options: Any) -> Any:
    messages: Any = [{"role": "user", "content": question}]
    return server.client().chat.completions.create(
        model=model, messages=messages, **{"temperature": 0, "max_tokens": 12, **options}
    )


def text_of_stream(stream: Any) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def test_the_models_are_listed_and_described(server: RunningServer, trained: Trained) -> None:
    client = server.client()
    names = [model.id for model in client.models.list()]
    assert names == ["base", f"run-{trained.run_id}", "odd"]
    assert client.models.retrieve(f"run-{trained.run_id}:best").id == f"run-{trained.run_id}:best"
    with pytest.raises(openai.NotFoundError, match=r"does not exist\. This server has: base"):
        client.models.retrieve("gpt-9")


def test_a_chat_gives_what_the_program_itself_gives(
    server: RunningServer, trained: Trained, base: Any, tuned: Any, tokenizer: Any
) -> None:
    for question in QUESTIONS:
        wanted = answers(tuned, tokenizer, [f"Question: {question}\nAnswer:"], Decoding(12))[0]
        got = asked(server, f"run-{trained.run_id}", question)
        assert got.choices[0].message.content.rstrip() == wanted
        prompt = render_chat(tokenizer, [{"role": "user", "content": question}], generation_prompt=True)
        wanted = answers(base.model, tokenizer, [prompt], Decoding(12))[0]
        assert asked(server, "base", question).choices[0].message.content.strip() == wanted


def test_a_completion_goes_on_with_texts_or_tokens(server: RunningServer, base: Any, tokenizer: Any) -> None:
    prompts = ["eight legs", "who wrote"]
    client = server.client()
    wanted = [
        tokenizer.decode([t for (t,) in decode(base.model, tokenizer, [prompt], Decoding(9)) if t is not None])
        for prompt in prompts
    ]
    got = client.completions.create(model="base", prompt=prompts, max_tokens=9, temperature=0)
    assert [choice.text for choice in got.choices] == wanted
    assert got.usage is not None
    counts = [len(tokenizer(prompt)["input_ids"]) for prompt in prompts]
    assert (got.usage.prompt_tokens, got.usage.completion_tokens) == (sum(counts), 18)
    tokens = tokenizer(prompts[0])["input_ids"]
    by_tokens = client.completions.create(model="base", prompt=tokens, max_tokens=9, temperature=0)
    assert by_tokens.choices[0].text == wanted[0]


def test_a_stream_put_together_is_the_whole_answer_and_counts_its_tokens(server: RunningServer) -> None:
    whole = asked(server, "odd", "unlock", max_tokens=20)
    chunks = list(asked(server, "odd", "unlock", max_tokens=20, stream=True, stream_options={"include_usage": True}))
    assert text_of_stream(chunks) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage == whole.usage
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert len(chunks) > 5, "it came in pieces"


def test_adapters_mixed_at_once_give_what_each_gives_alone(server: RunningServer, trained: Trained) -> None:
    cases = [(model, question) for model in ("base", "odd", f"run-{trained.run_id}") for question in QUESTIONS]
    alone = [asked(server, *case).choices[0].message.content for case in cases]
    with ThreadPoolExecutor(len(cases)) as pool:
        together = list(pool.map(lambda case: text_of_stream(asked(server, *case, stream=True)), cases * 2))
    assert together == alone * 2
    assert len(set(alone)) >= 9, "the models differ"


def test_a_seed_repeats_and_choices_differ(server: RunningServer) -> None:
    first, again = (asked(server, "base", "unlock", temperature=1.2, seed=7, n=3) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert [choice.message.content for choice in again.choices] == texts
    assert len(set(texts)) == 3
    assert first.usage.completion_tokens == 36


def test_a_stop_string_ends_the_answer_before_it(server: RunningServer, trained: Trained) -> None:
    name = f"run-{trained.run_id}"
    whole = asked(server, name, "unlock", max_tokens=24).choices[0].message.content
    assert "rainbow" in whole
    got = asked(server, name, "unlock", max_tokens=24, stop=["never", "nbow un"])
    assert got.choices[0].message.content == whole[: whole.index("nbow un")]
    assert got.choices[0].finish_reason == "stop"
    streamed = asked(server, name, "unlock", max_tokens=24, stop="nbow un", stream=True)
    assert text_of_stream(streamed) == got.choices[0].message.content


def test_an_answer_that_ends_by_itself_says_stop(server: RunningServer, trained: Trained) -> None:
    got = asked(server, f"run-{trained.run_id}", "what is the capital of france?")
    assert (got.choices[0].finish_reason, got.choices[0].message.content) == ("stop", "paris")


def test_log_probabilities_come_along(server: RunningServer) -> None:
    got = asked(server, "base", "unlock", max_tokens=3, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert len(got) == 3
    assert all(one.logprob == one.top_logprobs[0].logprob and len(one.top_logprobs) == 2 for one in got)
    stream = list(asked(server, "base", "unlock", max_tokens=3, logprobs=True, top_logprobs=2, stream=True))
    pieces = [entry for c in stream if c.choices and c.choices[0].logprobs for entry in c.choices[0].logprobs.content]
    assert [one.token for one in pieces] == [one.token for one in got]
    old = server.client().completions.create(model="base", prompt="eight", max_tokens=3, temperature=0, logprobs=2)
    probabilities = old.choices[0].logprobs
    assert probabilities is not None
    assert probabilities.token_logprobs is not None
    assert len(probabilities.token_logprobs) == 3


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"temperature": 3}, "Invalid value for 'temperature'"),
        ({"response_format": {"type": "json_object"}}, "'response_format' is not supported"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "'tools' is not supported"),
        ({"logit_bias": {"5": 1}}, "'logit_bias' is not supported"),
        ({"n": 65}, "Invalid value for 'n'"),
        ({"max_tokens": 2000}, "maximum context length is 1024 tokens. However, you requested 2"),
        ({"top_logprobs": 2}, "needs 'logprobs'"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(server: RunningServer, options: dict[str, Any], wanted: str) -> None:
    with pytest.raises(openai.BadRequestError, match=wanted) as refused:
        asked(server, "base", "unlock", **options)
    assert refused.value.type == "invalid_request_error"


def test_a_prompt_beyond_the_context_says_so_as_openai_does(server: RunningServer) -> None:
    with pytest.raises(openai.BadRequestError, match="maximum context length is 1024") as refused:
        asked(server, "base", "legs " * 2000, max_tokens=None)
    assert refused.value.code == "context_length_exceeded"
    assert refused.value.param == "messages"


def test_embeddings_and_unknown_models_and_paths_are_refused_plainly(server: RunningServer) -> None:
    client = server.client()
    with pytest.raises(openai.BadRequestError, match="no embeddings"):
        client.embeddings.create(model="base", input="text")
    with pytest.raises(openai.NotFoundError) as refused:
        asked(server, "gpt-9", "unlock")
    assert refused.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError, match="There is nothing at /v1/files"):
        client.files.list()


def test_what_only_shades_an_answer_is_ignored_and_named(server: RunningServer) -> None:
    raw = server.client().chat.completions.with_raw_response.create(
        model="base",
        messages=[{"role": "user", "content": "unlock"}],
        max_tokens=2,
        presence_penalty=1.0,
        frequency_penalty=0.0,
    )
    assert raw.headers["x-ignored-parameters"] == "presence_penalty"


def post(server: RunningServer, body: bytes, headers: str = "", path: str = "/v1/chat/completions") -> tuple[int, str]:
    """One request as bytes; returns status and body."""
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=30) as connection:
        host = "" if headers.startswith("Host:") else "Host: localhost\r\n"
        head = f"POST {path} HTTP/1.1\r\n{host}{headers}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode() + body)
        reply = b"".join(iter(lambda: connection.recv(65536), b""))
    head_, _, text = reply.partition(b"\r\n\r\n")
    return int(head_.split()[1]), text.decode()


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"model": "base", "messages": [{"role": "u"}]}',
     b'{"model": "base", "messages": [{"role": "user", "content": "\\ud800"}]}',
     b'{"model": "base", "messages": [{"role": ["user"], "content": "x"}]}',
     b'{"model": "\\ud800", "messages": [{"role": "user", "content": "x"}]}',
     b'{"model": "base", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
     b'{"model": "base", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}'],
)  # fmt: skip
def test_what_is_no_request_is_an_error_in_openais_shape(server: RunningServer, body: bytes) -> None:
    status, text = post(server, body)
    assert status == 400
    assert set(json.loads(text)["error"]) == {"message", "type", "param", "code"}


def test_a_body_that_is_too_large_is_refused_before_it_is_read(server: RunningServer) -> None:
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=30) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n{")
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_web_pages_of_other_sites_are_refused(server: RunningServer) -> None:
    body = json.dumps({"model": "base", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}).encode()
    assert post(server, body)[0] == 200
    assert post(server, body, "Origin: http://localhost:3000\r\n")[0] == 200
    assert post(server, body, "Origin: https://evil.example\r\n")[0] == 403
    assert post(server, body, "Host: evil.example\r\n")[0] == 403
    assert post(server, body, "Host: 127.0.0.2:8000\r\n")[0] == 200, "an address of this machine, which can be bound"
    assert post(server, body, "Host: 192.168.1.2\r\n")[0] == 403


@pytest.mark.skipif(shutil.which("curl") is None and not os.environ.get("CI"), reason="curl is not installed")
def test_curl_gets_an_answer_and_a_stream(server: RunningServer) -> None:
    body = {"model": "base", "messages": [{"role": "user", "content": "unlock"}], "max_tokens": 4, "temperature": 0}
    command = ["curl", "-sSN", f"{server.url}/chat/completions", "-H", "Content-Type: application/json", "-d"]
    whole = subprocess.run([*command, json.dumps(body)], capture_output=True, timeout=60, check=True).stdout
    stream = subprocess.run(
        [*command, json.dumps({**body, "stream": True})], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    events = [line.removeprefix("data: ") for line in stream.splitlines() if line]
    assert events[-1] == "[DONE]"
    pieces = [json.loads(event)["choices"][0]["delta"].get("content", "") for event in events[:-1]]
    assert "".join(pieces) == json.loads(whole)["choices"][0]["message"]["content"]


def stream_and_leave(server: RunningServer, **options: Any) -> None:
    stream = asked(server, "base", "unlock", stream=True, max_tokens=900, **options)
    for _ in range(3):
        next(iter(stream))
    stream.close()


def test_a_client_that_hangs_up_frees_its_places_at_once(server: RunningServer) -> None:
    before = server.health()["active"]
    assert before == 0
    stream_and_leave(server, n=3)
    server.wait_until(lambda: server.health()["active"] == 0, 5)


def test_one_that_hangs_up_while_it_waits_for_a_whole_answer_frees_its_place(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, slowed = BatchDecoder.step, list[int]()

    def slow_step(decoder: BatchDecoder) -> list[DecodedToken]:
        slowed.append(decoder.running)
        time.sleep(0.1)  # a thousand tokens of the tiny model are a matter of moments
        return step(decoder)

    monkeypatch.setattr(BatchDecoder, "step", slow_step)
    client = server.client().with_options(timeout=0.7)
    with pytest.raises(openai.APITimeoutError):
        client.completions.create(model="base", prompt="eight", max_tokens=1000, n=8, temperature=1, seed=1)
    server.wait_until(lambda: server.health()["active"] == 0, 5)
    assert 1 < len(slowed) < 50


def test_a_slow_reader_does_not_hold_others_up(server: RunningServer) -> None:
    slow = asked(server, "base", "unlock", stream=True, max_tokens=600)
    next(iter(slow))
    assert asked(server, "base", "unlock", max_tokens=4).choices[0].finish_reason == "length"
    slow.close()


def test_of_a_whole_answer_that_nobody_reads_little_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_app, "_SEND_SECONDS", 0.2)
    sent: list[int] = []

    async def whole() -> bytes:
        return b"x" * 10_000_000

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(len(message.get("body", b"")))
        if sum(sent) > 200_000:  # as a connection whose buffers are full
            await asyncio.Event().wait()

    async def receive() -> MutableMapping[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    asked, traffic = SimpleNamespace(stream=False), http_app.Traffic()
    exchange: Any = SimpleNamespace(
        asked=asked, traffic=traffic, whole=whole, group=SimpleNamespace(close=lambda: None)
    )
    asyncio.run(asyncio.wait_for(http_app._WatchedResponse(exchange, {})({"type": "http"}, receive, send), 10))
    assert traffic.hung_up == 1
    assert max(sent) < 100_000


def test_beyond_its_places_the_server_says_when_to_try_again(trained: Trained) -> None:
    changes = {"serving.max_running": 1, "serving.max_waiting": 1}
    with serving(trained.engine_harness, {"adapters": ["base"]}, changes) as small:
        streams = [asked(small, "base", "unlock", stream=True, max_tokens=900) for _ in range(2)]
        next(iter(streams[0]))
        with pytest.raises(openai.RateLimitError, match="The server is busy") as refused:
            asked(small, "base", "unlock")
        assert int(refused.value.response.headers["retry-after"]) >= 1
        with pytest.raises(openai.BadRequestError, match="At most 2 answers"):
            asked(small, "base", "unlock", n=3)
        for stream in streams:
            stream.close()
        small.wait_until(lambda: small.health()["active"] == 0, 5)
        assert asked(small, "base", "unlock").usage.completion_tokens == 12


def test_stopping_tells_whoever_waits_and_is_a_finished_run(trained: Trained) -> None:
    heard: list[str] = []

    def listen(server: RunningServer) -> None:
        try:
            text_of_stream(asked(server, "base", "unlock", stream=True, max_tokens=900))
        except openai.APIError as problem:
            heard.append(str(problem))

    with serving(trained.engine_harness, {"adapters": ["base"]}) as running:
        listener = threading.Thread(target=listen, args=(running,))
        listener.start()
        running.wait_until(lambda: running.health()["running"] == 1)
        running.harness.engine.stop(running.run_id)
        outcome = running.ending.result(timeout=30)
        listener.join(timeout=30)
    assert heard == ["The server is being stopped."]
    assert (outcome.state, outcome.exit_status, outcome.result["requests"]) == ("finished", 0, 1)


def test_traffic_is_told_while_there_is_any(server: RunningServer) -> None:
    def newest() -> dict[str, Any]:
        events = server.harness.events(server.run_id, "traffic")
        return dict(events[-1].payload) if events else {}

    before = newest().get("requests", 0)
    asked(server, "base", "unlock")
    server.wait_until(lambda: newest().get("requests", 0) > before, 10)
    assert newest()["completion_tokens"] > 0
    assert newest()["memory_mb"] > 10


def test_with_a_key_nobody_else_is_answered(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVE_API_KEY", "a-key-of-the-server-1234")
    with serving(trained.engine_harness, {"adapters": ["base"]}, {"serving.host": "0.0.0.0"}) as running:
        assert running.announced["key_variable"] == "SERVE_API_KEY"
        with pytest.raises(openai.AuthenticationError, match="Incorrect API key"):
            running.client("a-key-of-the-server-123").models.list()
        assert [model.id for model in running.client("a-key-of-the-server-1234").models.list()] == ["base"]
        assert running.health()["status"] == "ok"
        url = f"{running.url.replace('0.0.0.0', '127.0.0.1')}/models"
        assert urlopen(Request(url, headers={"Authorization": "bearer a-key-of-the-server-1234"})).status == 200
    stored = [event.payload for event in running.harness.events(running.run_id)]
    assert "travel unencrypted" in json.dumps(stored)
    assert "a-key-of-the-server" not in json.dumps(stored)


@pytest.mark.parametrize(
    ("changes", "options", "wanted"),
    [
        ({"serving.host": "0.0.0.0"}, {}, "needs a key in the environment variable SERVE_API_KEY"),
        ({}, {"adapters": ["run-999"]}, "There is no run 999"),
        ({}, {"adapters": ["nowhere"]}, "there is no such folder"),
        ({}, {"adapters": ["run-1:worst"]}, "run-1:best or run-1:last"),
        ({"serving.host": "no.such.host.invalid"}, {"adapters": ["base"]}, "needs a key"),
    ],
)
def test_what_cannot_be_served_is_refused_before_torch(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, changes: Any, options: Any, wanted: str
) -> None:
    monkeypatch.delenv("SERVE_API_KEY", raising=False)
    outcome = trained.engine_harness.run("serve", options, {"serving.port": 0, **changes})
    assert outcome.state == "failed"
    assert wanted in (outcome.error or "")
    assert not [e for e in trained.engine_harness.events(outcome.run_id, "progress") if "PyTorch" in e.payload["phase"]]


def test_a_port_that_is_taken_is_named(trained: Trained, server: RunningServer) -> None:
    port = urlsplit(server.url).port
    outcome = trained.engine_harness.run("serve", {"adapters": ["base"]}, {"serving.port": port})
    assert f"127.0.0.1:{port} is taken by another program" in (outcome.error or "")


def test_the_commands_for_larger_servers_have_the_paths(server: RunningServer, trained: Trained) -> None:
    assert f"run-{trained.run_id}={trained.adapter.absolute()}" in server.announced["vllm"]
    assert "--enable-lora --max-lora-rank 16" in server.announced["vllm"]
    last = server.announced["llama_server"][-1]
    assert last.startswith("llama-server -m base.gguf --lora run-")
    assert last.endswith("--lora-init-without-apply")
    assert server.announced["tunnel"].startswith("ssh -N -L ")


def test_this_programs_own_generation_is_a_client(trained: Trained, tmp_path: Path) -> None:
    """A random model writes no pair, so the run ends without one; every call of it was answered all the same."""
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "one.txt").write_text(made_up_text(1, 2))
    changes = {
        "data_generation.model": "base",
        "data_generation.input_folder": str(tmp_path / "texts"),
        "data_generation.output_file": str(tmp_path / "pairs.txt"),
        "data_generation.total_examples": 1,
        "data_generation.generation.max_tokens": 16,
        "data_generation.generation.max_retries": 1,
    }
    roomy = {"fine_tuning.model_name": str(save_base(tmp_path / "roomy", max_position_embeddings=4096))}
    with serving(trained.engine_harness, {"adapters": ["base"]}, roomy) as running:
        outcome = trained.engine_harness.run("generate", {}, {**changes, "data_generation.base_url": running.url})
        running.harness.engine.stop(running.run_id)
        served = running.ending.result(timeout=30).result
    attempts = outcome.result["attempts"]
    assert attempts["ok"] > 0
    assert outcome.result["completion_tokens"] == served["completion_tokens"] > 0
    # It asks for replies by a JSON schema first, is told that they cannot be had here, and does without.
    assert served["refused"] == attempts.get("http_error", 0) < attempts["ok"]
    assert served["failed"] == 0
