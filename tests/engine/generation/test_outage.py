"""An endpoint that goes away, says nothing, limits, redirects or speaks another protocol, over real sockets."""

import asyncio
import os
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lora_tui.engine.generation.client import contact, outage
from tests.engine.generation.generation_harness import GenerationHarness
from tests.engine.generation.live_run import live_run, wait_for
from tests.openai_server import made_up_text
from tests.raw_endpoint import RawEndpoint


@pytest.fixture
def endpoint() -> Iterator[RawEndpoint]:
    with RawEndpoint() as running:
        yield running


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that waits for seconds waits for parts of one."""
    monkeypatch.setattr(outage, "_FIRST_LOOK", 0.05)
    monkeypatch.setattr(contact, "_FIRST_LOOKS", (0.2, 0.3))
    monkeypatch.setattr(contact, "_SILENCE", 0.3)
    monkeypatch.setattr(contact, "_LOOK", 0.3)


def values(harness: GenerationHarness, endpoint: RawEndpoint, **more: Any) -> dict[str, Any]:
    harness.write("three.txt", made_up_text(3, 20))
    asked = {"base_url": endpoint.url, "total_examples": 30, "max_concurrency": 4, "give_up_after": 60.0}
    return {**asked, "generation__max_retries": 1, **more}


def check_accounts(harness: GenerationHarness, endpoint: RawEndpoint) -> None:
    """Every request that arrived is in the accounts, no pair is there twice, and no call was left open."""
    accounted = harness.value("SELECT COUNT(*) FROM attempts WHERE status NOT IN ('unreached', 'cancelled')")
    given_up = harness.value("SELECT COUNT(*) FROM attempts WHERE status='cancelled'")
    assert accounted <= len(endpoint.received) <= accounted + given_up
    assert harness.value("SELECT COUNT(*) FROM attempts WHERE status='sent'") == 0
    questions = [row[0] for row in harness.rows("SELECT question FROM pairs WHERE state='accepted'")]
    assert len(questions) == len(set(questions)) == harness.output.read_text().count("Question: ")


def test_an_endpoint_that_is_away_for_a_while_is_waited_for(harness: GenerationHarness, endpoint: RawEndpoint) -> None:
    endpoint.delay = 0.02
    with live_run(harness, **values(harness, endpoint)) as run:
        wait_for(lambda: endpoint.count("judge") > 4)
        endpoint.go_away()
        wait_for(lambda: harness.events("waiting"))
        time.sleep(0.5)
        assert not run.future.done()
        endpoint.listen()
        outcome = run.end()
    assert (outcome.state, outcome.result["accepted"], outcome.result["review"]) == ("finished", 30, 0), outcome.error
    away, back = [event["message"] for event in harness.events("waiting")][:2]
    assert endpoint.url in away
    assert "(data_generation.give_up_after)" in away
    assert "answers again after" in back
    check_accounts(harness, endpoint)


def test_an_endpoint_that_fails_for_a_while_is_waited_for(harness: GenerationHarness, endpoint: RawEndpoint) -> None:
    endpoint.script.extend([None] * 12 + ["page:502"] * 15)
    outcome = harness.run(**values(harness, endpoint))
    assert (outcome.state, outcome.result["accepted"], outcome.result["dead_reasons"]) == ("finished", 30, {})
    assert set(outcome.result["reasons"]) <= {"duplicate", "surplus"}, "no pair may have lost its judge"
    assert [event["waiting"] for event in harness.events("waiting")] == [True, False]
    check_accounts(harness, endpoint)


def test_silence_is_found_beside_calls_that_wait_for_minutes(harness: GenerationHarness, endpoint: RawEndpoint) -> None:
    with live_run(harness, **values(harness, endpoint, timeout=100.0)) as run:
        wait_for(lambda: endpoint.count("judge") > 4)
        endpoint.frozen = True
        wait_for(lambda: harness.events("waiting"), 5)
        assert "answers nothing within" in harness.events("waiting")[0]["message"]
        endpoint.frozen = False
        outcome = run.end()
    assert (outcome.state, outcome.result["accepted"]) == ("finished", 30)
    check_accounts(harness, endpoint)


def test_a_slow_reply_is_not_taken_for_silence(harness: GenerationHarness, endpoint: RawEndpoint) -> None:
    endpoint.delay = 0.7
    outcome = harness.run(**values(harness, endpoint, total_examples=4, timeout=100.0))
    assert outcome.state == "finished"
    assert endpoint.looks > 1
    assert harness.events("waiting") == []


def test_a_run_gives_up_when_it_has_waited_long_enough(harness: GenerationHarness, endpoint: RawEndpoint) -> None:
    endpoint.script.extend([None] * 8 + ["reset"] * 500)
    outcome = harness.run(**values(harness, endpoint, give_up_after=1.5))
    assert outcome.exit_status == 3
    assert outcome.error is not None
    assert "does not answer any more" in outcome.error
    assert "go on with --resume" in outcome.error
    assert outcome.result["tasks"]["judge"]["dead"] == 0
    endpoint.script.clear()
    assert harness.run(resume=outcome.run_id, **values(harness, endpoint)).result["accepted"] == 30
    check_accounts(harness, endpoint)


def test_waiting_ends_at_once_when_the_run_is_stopped(harness: GenerationHarness, endpoint: RawEndpoint) -> None:
    with live_run(harness, **values(harness, endpoint)) as run:
        wait_for(lambda: endpoint.count("judge") > 4)
        endpoint.go_away()
        wait_for(lambda: harness.events("waiting"))
        asked = time.monotonic()
        run.engine.stop(run.run_id)
        assert run.end().state == "stopped"
        assert time.monotonic() - asked < 20


def test_a_rate_limit_that_says_nothing_is_waited_out_and_told(
    harness: GenerationHarness, endpoint: RawEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_tui.engine.generation.client.rate_limit._SHORTEST_TOLD", 0.0)
    endpoint.script.extend(["status:429"] * 8)
    outcome = harness.run(**values(harness, endpoint, total_examples=4, generation__max_retries=0))
    assert outcome.state == "finished", outcome.error
    assert outcome.result["attempts"]["http_error"] == 8
    told = harness.events("retry")
    assert "HTTP 429" in told[0]["reason"]
    assert "\x1b" not in told[0]["reason"]


def test_an_address_that_takes_connections_and_says_nothing_is_found_in_seconds(
    harness: GenerationHarness, endpoint: RawEndpoint
) -> None:
    endpoint.frozen = True
    began = time.monotonic()
    outcome = harness.run(**values(harness, endpoint, timeout=100.0))
    assert outcome.exit_status == 3
    assert outcome.error is not None
    assert outcome.error.startswith(f"{endpoint.url} takes connections and answers nothing")
    assert "data_generation.base_url" in outcome.error
    assert endpoint.received == [], "no passage has left"
    assert time.monotonic() - began < 10


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    folder: Path = tmp_path_factory.mktemp("tls")
    key, crt = str(folder / "key.pem"), str(folder / "crt.pem")
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", crt]
    try:
        subprocess.run([*made, "-days", "2", "-subj", "/CN=localhost"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        if os.environ.get("CI"):
            raise
        pytest.skip("openssl is not here")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(crt, key)
    return context


def test_http_to_a_port_that_speaks_tls_is_told_at_once(
    harness: GenerationHarness, certificate: ssl.SSLContext
) -> None:
    endpoint = RawEndpoint()
    endpoint.tls = certificate
    with endpoint:
        outcome = harness.run(base_url=endpoint.url)
    assert outcome.exit_status == 3
    assert f"The port speaks TLS: set data_generation.base_url to https{endpoint.url[4:]}" in (outcome.error or "")
    assert len(harness.rows("SELECT id FROM attempts")) == 1


def test_https_to_a_port_that_speaks_none_is_told_at_once(harness: GenerationHarness, endpoint: RawEndpoint) -> None:
    outcome = harness.run(base_url=f"https{endpoint.url[4:]}", timeout=2.0)
    assert outcome.exit_status == 3
    assert f"perhaps {endpoint.url} is meant (data_generation.base_url)" in (outcome.error or "")


def test_a_certificate_that_nobody_vouches_for_is_named(
    harness: GenerationHarness, certificate: ssl.SSLContext
) -> None:
    endpoint = RawEndpoint()
    endpoint.tls = certificate
    with endpoint:
        outcome = harness.run(base_url=f"https{endpoint.url[4:]}")
    assert outcome.exit_status == 3
    assert "certificate verify failed" in (outcome.error or "")
    assert "perhaps" not in (outcome.error or "")


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_passages_do_not_follow_a_redirect_to_another_host(
    harness: GenerationHarness, endpoint: RawEndpoint, status: int
) -> None:
    with RawEndpoint() as other:
        endpoint.redirect_to = f"{other.url}/chat/completions?key=secret"
        endpoint.script.extend([f"redirect:{status}"] * 99)
        outcome = harness.run(base_url=endpoint.url)
        assert other.received == []
    assert outcome.exit_status == 3
    assert f"redirects to {other.url}/chat/completions (HTTP {status})" in (outcome.error or "")
    assert "set data_generation.base_url" in (outcome.error or "")


def test_a_redirect_within_the_host_is_followed_in_the_accounts(
    harness: GenerationHarness, endpoint: RawEndpoint
) -> None:
    endpoint.redirect_to = "/v2/chat/completions"
    endpoint.script.append("redirect:307")
    outcome = harness.run(**values(harness, endpoint, total_examples=4))
    assert outcome.state == "finished", outcome.error
    assert outcome.result["attempts"]["http_error"] == 1
    assert any(f"has moved to {endpoint.url[:-2]}v2" in event["message"] for event in harness.events("warning"))
    check_accounts(harness, endpoint)


def test_a_redirect_in_a_circle_ends(harness: GenerationHarness, endpoint: RawEndpoint) -> None:
    endpoint.redirect_to = f"{endpoint.url}/chat/completions"
    endpoint.script.extend(["redirect:307"] * 500)
    assert harness.run(**values(harness, endpoint)).exit_status == 3


@pytest.mark.parametrize("fault", ["bomb", "bomb_error", "endless", "no_gzip", "brotli", "large", "huge_usage"])
def test_replies_of_any_size_and_counts_of_any_size_are_survived(
    harness: GenerationHarness, endpoint: RawEndpoint, fault: str
) -> None:
    endpoint.script.extend([fault, None, fault])
    outcome = harness.run(**values(harness, endpoint, total_examples=4))
    assert outcome.state == "finished", outcome.error
    assert harness.value("SELECT MAX(LENGTH(reply)) FROM attempts") <= 200_000
    assert harness.value("SELECT MAX(prompt_tokens) FROM attempts") < 100_000
    check_accounts(harness, endpoint)


def test_without_patience_a_limit_is_still_asked_again(harness: GenerationHarness, endpoint: RawEndpoint) -> None:
    endpoint.script.extend(["status:429"] * 2)
    outcome = harness.run(**values(harness, endpoint, total_examples=4, give_up_after=0.0, generation__max_retries=3))
    assert outcome.state == "finished", outcome.error
    assert outcome.result["accepted"] == 4


def test_a_packed_reply_is_unpacked(harness: GenerationHarness, endpoint: RawEndpoint) -> None:
    endpoint.script.extend(["gzip"] * 99)
    outcome = harness.run(**values(harness, endpoint, total_examples=4))
    assert outcome.state == "finished"
    assert set(outcome.result["attempts"]) <= {"ok", "cancelled"}


def test_the_threads_of_a_test_endpoint_end() -> None:
    before = threading.active_count()
    with RawEndpoint():
        pass
    assert threading.active_count() <= before


def test_a_server_that_answers_one_request_at_a_time_is_away_once_at_most(
    harness: GenerationHarness, endpoint: RawEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(*_: Any, silence_alone: bool = False) -> str | None:
        return "it takes connections and answers nothing" if endpoint.count("judge") or silence_alone else None

    endpoint.delay = 0.8
    monkeypatch.setattr(contact, "no_answer", silent)
    monkeypatch.setattr(contact.Contact, "first", lambda self: asyncio.sleep(0))
    outcome = harness.run(**values(harness, endpoint, total_examples=8))
    assert outcome.state == "finished", outcome.error
    told = [event["waiting"] for event in harness.events("waiting")]
    assert told == [True, False]


def test_a_request_that_always_fails_holds_nobody_else_back(harness: GenerationHarness, endpoint: RawEndpoint) -> None:
    async def work() -> list[str]:
        told: list[str] = []
        stop, looked = asyncio.Event(), asyncio.sleep
        away = outage.Outage("u", "who", 60.0, stop, lambda: looked(0, None), lambda *_, **__: None)
        away.begin("HTTP 500", unreachable=False)

        async def call(name: str, *, fails: bool) -> None:
            while await away.turn():
                told.append(name)
                await asyncio.sleep(0)
                if not fails:
                    away.end()
                away.looked()
                if not fails:
                    return

        calls = [asyncio.create_task(call("bad", fails=True)), asyncio.create_task(call("good", fails=False))]
        await asyncio.wait_for(asyncio.gather(*calls), 10)
        return told

    assert asyncio.run(work()) == ["bad", "good"]
