"""What endpoints and the way to them do to a generation run: broken lines, outages, kill -9 in mid-call, echoed keys.

Runs go through the real engine against an endpoint over bare sockets. After each one the accounts are held against
what the endpoint has received, the pairs against the file, and everything on the disk against the key.
"""

import json
import os
import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lora_tui.engine.generation.client import contact, outage
from lora_tui.engine.generation.client.rate_limit import asked_wait
from lora_tui.engine.generation.client.refusals import error_in_answer, meaning_of, read_error
from lora_tui.engine.generation.client.wire import NotJson, read_reply
from lora_tui.engine.runtime.engine import Outcome
from tests.campaign.scenario import Try, scenario
from tests.engine.generation.generation_harness import GenerationHarness
from tests.engine.generation.live_run import live_run, wait_for
from tests.openai_server import made_up_text
from tests.raw_endpoint import ESCAPES, RawEndpoint
from tests.test_secrets import ENCODINGS, SHAPES

KEY = "sk-campaign-0123456789abcdefghijkl"

FAULTS = (
    "status:500", "status:429", "status:503", "status:408", "status:409", "status:418", "page:502", "page:504",
    "limit:0.1", "limit:abc", "limit:-5", "limit:1e999", "reset", "closed", "half", "cut_json", "garbage", "bad_header",
    "long_header", "chunks", "bomb", "bomb_error", "no_gzip", "gzip", "brotli", "endless", "deep", "bytes", "empty",
    "event_stream", "huge_usage", "wrong_usage", "huge_logprobs", "no_choices", "odd_choices", "null", "error_in_200",
    "cut_off", "filtered", "prose", "large", "parts", "reasoning", "scalar", "drip",
)  # fmt: skip


@contextmanager
def environment(folder: Path, key: str) -> Iterator[None]:
    """A key and a cache of one's own, and waits of a tenth of their length, while the block lasts."""
    before = dict(os.environ)
    waits: list[tuple[Any, str, Any]] = [
        (outage, "_FIRST_LOOK", 0.05),
        (contact, "_FIRST_LOOKS", (1.0, 2.0)),
        (contact, "_SILENCE", 0.5),
        (contact, "_LOOK", 0.5),
    ]
    kept = [(module, name, getattr(module, name)) for module, name, _ in waits]
    os.environ |= {"OPENAI_API_KEY": key, "LORA_TUI_CACHE": str(folder / "cache")}
    for module, name, value in waits:
        setattr(module, name, value)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        for module, name, value in kept:
            setattr(module, name, value)


def harness_of(folder: Path, endpoint: RawEndpoint, seed: int, **values: Any) -> GenerationHarness:
    harness = GenerationHarness(folder, endpoint)  # type: ignore[arg-type]  # its address is all that is used
    harness.values |= {"model": "m", "total_examples": 12, "max_concurrency": 4, "give_up_after": 30.0}
    harness.values |= {name.replace("__", "."): value for name, value in values.items()}
    for number in range(3):
        harness.write(f"{number}.txt", made_up_text(100 * seed + number, 6))
    return harness


def faults_of(harness: GenerationHarness, endpoint: RawEndpoint, outcome: Outcome | None, *, killed: int = 0) -> str:
    """What is wrong after a run, in one line; empty where every promise held."""
    found: list[str] = []
    store = sqlite3.connect(harness.store)
    questions = [row[0] for row in store.execute("SELECT question FROM pairs WHERE state='accepted'")]
    statuses = dict(store.execute("SELECT status, COUNT(*) FROM attempts GROUP BY status").fetchall())
    store.close()
    # A connection that breaks may have taken the request with it, before the endpoint read it.
    unsure = sum(statuses.get(name, 0) for name in ("cancelled", "lost", "connection"))
    arrived = sum(statuses.values()) - statuses.get("unreached", 0)
    if len(questions) != len(set(questions)):
        found.append("a pair is doubled")
    written = harness.output.read_text().count("Question: ") if harness.output.exists() else 0
    if written != len(questions):
        found.append(f"{len(questions)} pairs are accepted and {written} in the file")
    if statuses.get("sent") and not killed:
        found.append(f"{statuses['sent']} calls were left open")
    if not arrived - unsure <= len(endpoint.received) <= arrived:
        found.append(f"{len(endpoint.received)} requests arrived, {arrived} are accounted for ({unsure} unsure)")
    if outcome is not None:
        error = outcome.error or ""
        if "Unexpected" in error or "Traceback" in error or len(error.splitlines()) > 2 or ESCAPES[:5] in error:
            found.append(f"it ended with: {error[:200]!r}")
        if outcome.state == "failed" and not error:
            found.append("it failed without a reason")
    if found_key := at_rest(harness.folder, [KEY]):
        found.append(f"the key is in {found_key}")
    return "; ".join(found)


def at_rest(folder: Path, forms: list[str]) -> str:
    """The name of a file below a folder that holds one of these texts, as it is or as JSON writes it."""
    needles = [text.encode() for form in forms for text in (form, json.dumps(form)[1:-1])]
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if any(needle in content for needle in needles):
            return path.name
    return ""


@scenario("endpoint-faults", tries=40, short=1, seconds=120)
def endpoint_faults(random: random.Random, folder: Path) -> Try:
    """Eight kinds of fault in a fifth to a half of the answers; if that ends the run, it goes on when they are over."""
    seed = random.randrange(10**6)
    with RawEndpoint(seed, tuple(random.sample(FAULTS, 8)), random.uniform(0.2, 0.5)) as endpoint:
        endpoint.delay = random.choice((0.0, 0.02))
        harness = harness_of(folder, endpoint, seed, timeout=2.0, generation__max_retries=random.randint(1, 4))
        with environment(folder, KEY):
            outcome = harness.run()
            wrong = faults_of(harness, endpoint, outcome)
            kept = set(harness.rows("SELECT id, question FROM pairs WHERE state='accepted'"))
            faults = sum(fault is not None for _, fault in endpoint.received)
            if outcome.state == "failed" and not wrong:
                endpoint.faults = ()
                resumed = harness.run(resume=outcome.run_id)
                wrong = faults_of(harness, endpoint, resumed)
                now = set(harness.rows("SELECT id, question FROM pairs WHERE state='accepted'"))
                wrong = wrong or ("" if kept <= now else "a pair was lost on the way")
    return Try(not wrong, faults, wrong and f"{wrong} ({endpoint.faults})")


@scenario("endpoint-outages", tries=12, short=1, seconds=120)
def endpoint_outages(random: random.Random, folder: Path) -> Try:
    """The endpoint is away, silent or failing for a while, up to four times: the run waits and reaches its target."""
    seed, times = random.randrange(10**6), random.randint(1, 4)
    with RawEndpoint(seed) as endpoint, environment(folder, KEY):
        endpoint.delay = 0.03
        harness = harness_of(folder, endpoint, seed, timeout=20.0, total_examples=24)
        with live_run(harness) as run:
            for _ in range(times):
                seen = len(endpoint.received) + random.randint(4, 10)
                wait_for(lambda seen=seen: len(endpoint.received) > seen or run.future.done())
                how, away = random.choice(("away", "silent", "failing")), random.uniform(0.1, 1.5)
                if how == "away":
                    endpoint.go_away()
                    time.sleep(away)
                    endpoint.listen()
                elif how == "silent":
                    endpoint.frozen = True
                    time.sleep(away)
                    endpoint.frozen = False
                else:
                    endpoint.script.extend(["page:502"] * 2000)
                    time.sleep(away)
                    endpoint.script.clear()
            outcome = run.end(90)
        wrong = faults_of(harness, endpoint, outcome)
        if not wrong and (outcome.state, outcome.result["accepted"]) != ("finished", 24):
            wrong = f"{outcome.state} with {outcome.result.get('accepted')} of 24: {outcome.error}"
        unjudged = harness.value("SELECT COUNT(*) FROM pairs WHERE state='review' AND cause <> 'surplus'")
        if not wrong and unjudged:
            wrong = f"{unjudged} pairs went to review because the endpoint was away"
    return Try(not wrong, times, wrong)


@scenario("endpoint-kill-9", tries=6, short=0, seconds=180)
def endpoint_kill_9(random: random.Random, folder: Path) -> Try:
    """kill -9 while calls are in flight, up to three times; what goes on loses and doubles nothing."""
    seed, kills = random.randrange(10**6), random.randint(1, 3)
    with RawEndpoint(seed, tuple(random.sample(FAULTS[:17], 3)), 0.1) as endpoint, environment(folder, KEY):
        endpoint.delay = 0.05
        harness = harness_of(folder, endpoint, seed, timeout=5.0, total_examples=20)
        kept: set[tuple[Any, ...]] = set()
        wrong = ""
        with harness.killed_process():
            wait_for(lambda: endpoint.count("judge") > random.randint(1, 6), 90)
            time.sleep(random.uniform(0, 0.3))
        for number in range(kills):
            now = set(harness.rows("SELECT id, question FROM pairs WHERE state='accepted'"))
            wrong = wrong or ("" if kept <= now else "a pair was lost on the way")
            kept = now
            endpoint.faults = () if number == kills - 1 else endpoint.faults
            if number < kills - 1:
                with live_run(harness, resume=1) as run:
                    seen = len(endpoint.received) + random.randint(2, 8)
                    wait_for(lambda seen=seen: len(endpoint.received) > seen or run.future.done())
        outcome = harness.run(resume=1)
        wrong = wrong or faults_of(harness, endpoint, outcome)
        now = set(harness.rows("SELECT id, question FROM pairs WHERE state='accepted'"))
        if not wrong and (not kept <= now or len(now) != 20):
            wrong = f"{len(kept)} pairs were kept, {len(now)} are there: {outcome.error}"
    return Try(not wrong, kills, wrong)


@scenario("keys-at-rest", tries=len(SHAPES), short=1, seconds=120)
def keys_at_rest(random: random.Random, folder: Path) -> Try:
    """A key of any shape comes back in every encoding, in headers, errors, replies and pairs: none of it is kept."""
    shape = random.choice(list(SHAPES))
    forms = [encode(SHAPES[shape]) for encode in ENCODINGS.values()]
    with RawEndpoint(random.randrange(10**6)) as endpoint:
        told = iter(random.choices(forms, k=10_000))

        def echo(request: dict[str, Any], fault: str | None) -> Any:
            answer = RawEndpoint._completion(endpoint, request, fault)
            if random.random() < 0.5:
                message = answer["choices"][0]["message"]
                message["content"] = message["content"].replace("What is known", f"{next(told)} What is known")
            elif random.random() < 0.4:
                return {"error": {"message": f"bad gateway: {next(told)}", "code": 502}, "request_id": next(told)}
            elif random.random() < 0.3:
                answer["choices"][0]["message"]["content"] = f"The key is {next(told)}."
            return answer

        endpoint._completion = echo  # type: ignore[method-assign]
        harness = harness_of(folder, endpoint, 1, generation__max_retries=6)
        with environment(folder, SHAPES[shape] if shape == "by its variable" else KEY):
            outcome = harness.run()
    where = at_rest(folder, forms) or ("the error" if any(form in (outcome.error or "") for form in forms) else "")
    unexpected = "Unexpected" in (outcome.error or "")
    return Try(not where and not unexpected, len(forms), (where and f"{shape} in {where}") or (outcome.error or ""))


def any_json(random: random.Random, depth: int = 0) -> Any:
    """Return a JSON value with names and texts that answers have, in places where they do not belong."""
    names = (
        "error message code type status choices content usage text logprobs detail details reason request_id".split()
    )
    texts = [
        "",
        "Rate limit",
        "429",
        "model",
        "not valid",
        "\x00",
        "\ud800",
        ESCAPES,
        "x" * 3000,
        "1e999",
        "try again in 9s",
    ]
    if depth > 4 or random.random() < 0.4:
        return random.choice([*texts, None, True, 0, -1, 10**30, 10**400, 1.5, 1e308, float("nan"), [], {}])
    if random.random() < 0.3:
        return [any_json(random, depth + 1) for _ in range(random.randint(0, 4))]
    return {random.choice(names): any_json(random, depth + 1) for _ in range(random.randint(0, 6))}


@scenario("endpoint-answers", tries=20, short=2)
def endpoint_answers(random: random.Random, folder: Path) -> Try:
    """Bodies of any form, as errors and as answers: each has a meaning, and what is kept of it can be stored."""
    sent = {"model": "m", "messages": [], "logprobs": True, "max_tokens": 9}
    number = 0
    for number in range(1, 41):
        body = json.dumps(any_json(random))
        if random.random() < 0.2:
            body = body[: random.randint(0, len(body))]
        error = read_error(random.choice((400, 403, 404, 422, 429, 500, 503, 599)), body)
        if not meaning_of(error, sent, "m"):
            return Try(False, number, f"no meaning: {body[:100]}")
        wait = asked_wait({"retry-after": random.choice(("x", "1e999", "-1", ""))}, error.details, time.time())
        if wait is not None and not 0 <= wait <= 900:
            return Try(False, number, f"a wait of {wait} s: {body[:100]}")
        error_in_answer(body)
        try:
            reply = read_reply(1, body, {"x-request-id": ESCAPES * 99}, 100, str)
        except NotJson:
            continue
        counted = (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.cached_tokens)
        if any(tokens.bit_length() > 40 or tokens < 0 for tokens in counted) or "\0" in reply.text + reply.refusal:
            return Try(False, number, f"not to be stored: {body[:100]}")
        reply.usage.reply.encode()
        (reply.usage.request_id or "").encode()
    return Try(True, number)
