"""Secrets are found, and taken out of whatever is shown, logged or stored."""

import base64
import io
import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest

from lora_tui import logs
from lora_tui.cli.narration import JsonNarrator, PlainNarrator, RunEnding
from lora_tui.config.models import Settings
from lora_tui.config.problems import printable_value
from lora_tui.engine.runtime.context import RunContext
from lora_tui.engine.runtime.engine import Engine, Outcome
from lora_tui.errors import LoraTuiError
from lora_tui.secrets import find_secret, is_placeholder, may_be_secret, redact, register_key_variable
from lora_tui.store import events, runs
from lora_tui.store.rows import Event
from lora_tui.terminal.report import Report

CERTAIN = [
    "sk-proj-abcdefghijklmnop",
    "hf_" + "a" * 34,
    "ghp_" + "A1" * 18,
    "github_pat_" + "A1" * 18,
    "AKIAABCDEFGHIJKLMNOP",
    "AIza" + "b" * 35,
    "xoxb-1234567890-abc",
    "-----BEGIN PRIVATE KEY-----",
    "Authorization: Bearer abcdefghijklmnopqrstuvwxyz",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abcdefghijkl",
    "postgres://user:pa55word@host/db",
]
"""Forms that are refused in a generated pair."""

LIKELY = [
    "sk-short1",
    "SK-VERYSECRET",
    "sk-wrong****************rong",
    "hf_abcdefgh",
    "HF_ABCDEFGH",
    "gsk_" + "aB1" * 17,
    "xai-" + "aB1" * 26,
    "ghp_" + "a1" * 8,
    "sk_live_" + "aB1" * 8,
    "pk-lf-01234567-89ab-cdef-0123-456789abcdef",
    "Bearer abc.DEF-123_x",
    "https://token12345@host/path",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEAabcdefgh/+\nabcd==\n-----END RSA PRIVATE KEY-----",
    "value-of-a-variable",
]
"""Forms that are only taken out of messages; the last is known by its variable alone."""

# What must not be left of a form: the form itself, or the part of it that is secret.
PARTS = {
    "Authorization: Bearer abcdefghijklmnopqrstuvwxyz": "abcdefghijklmnopqrstuvwxyz",
    "Bearer abc.DEF-123_x": "abc.DEF-123_x",
    "postgres://user:pa55word@host/db": "pa55word",
    "https://token12345@host/path": "token12345",
    LIKELY[-2]: "MIIEowIBAAKCAQEAabcdefgh",
}

every_form = pytest.mark.parametrize("secret", CERTAIN + LIKELY)


@pytest.fixture(autouse=True)
def key_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "value-of-a-variable")


def leaks(text: str, secret: str) -> bool:
    return PARTS.get(secret, secret) in text


@pytest.mark.parametrize("secret", CERTAIN)
def test_forms_of_secrets_are_found_and_taken_out(secret: str) -> None:
    text = f"before {secret} after"
    assert find_secret(text) is not None
    assert secret not in redact(text)
    assert redact(text).startswith("before")


SHAPES = {
    "OpenAI": "sk-proj-T3BlbkFJ0aB1cD2eF3gH4iJ5kL6mN7oP8",
    "Anthropic": "sk-ant-api03-aB1cD2eF3gH4iJ5kL6mN7oP8qR9",
    "OpenRouter": "sk-or-v1-0123456789abcdef0123456789abcdef",
    "Hugging Face": "hf_aB1cD2eF3gH4iJ5kL6mN7oP8qR9sT0uV1w",
    "GitHub": "ghp_aB1cD2eF3gH4iJ5kL6mN7oP8qR9sT0uV1wX2",
    "GitLab": "glpat-aB1cD2eF3gH4iJ5kL6mN",
    "AWS": "AKIAABCDEFGHIJKLMNOP",
    "Google": "AIzaSyA1bC2dE3fG4hI5jK6lM7nO8pQ9rS0tU1v",
    "Slack": "xoxb-123456789012-aB1cD2eF3gH4iJ5k",
    "Groq": "gsk_aB1cD2eF3gH4iJ5kL6mN7oP8qR9sT0uV1w",
    "xAI": "xai-aB1cD2eF3gH4iJ5kL6mN7oP8qR9sT0uV1w",
    "NVIDIA": "nvapi-aB1cD2eF3gH4iJ5kL6mN7oP8qR9sT0u",
    "Replicate": "r8_aB1cD2eF3gH4iJ5kL6mN7oP8qR9sT0uV1wX2y",
    "Stripe": "sk_live_aB1cD2eF3gH4iJ5kL6mN7oP8",
    "JWT": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3In0.dozjgNryP4J3jVmNHl0w5N",
    "by its variable": "Tr0ub4dor-und-3-Pferde/+",
}
ENCODINGS: dict[str, Callable[[str], str]] = {
    "as it is": lambda key: key,
    "base64": lambda key: base64.b64encode(key.encode()).decode(),
    "base64 for addresses": lambda key: base64.urlsafe_b64encode(key.encode()).decode().rstrip("="),
    "inside base64": lambda key: base64.b64encode(f"user:{key}:x".encode()).decode(),
    "hexadecimal": lambda key: key.encode().hex(),
    "percent": lambda key: quote(key, safe="").replace("-", "%2D").replace("_", "%5F"),
    "percent, every character": lambda key: "".join(f"%{ord(character):02x}" for character in key),
    "JSON": lambda key: json.dumps(key)[1:-1].replace("/", "\\/").replace("-", "\\u002d").replace("_", "\\u005F"),
    "JSON, every character": lambda key: "".join(f"\\u{ord(character):04x}" for character in key),
    "HTML": lambda key: "".join(f"&#{ord(character)};" for character in key),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_key_is_found_in_every_shape_and_encoding(shape: str, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", SHAPES["by its variable"])
    written = ENCODINGS[encoding](SHAPES[shape])
    for text in (written, f"said: {written}.", f'{{"id": "req-{written}"}}', f"req_{written}\nnext"):
        assert written not in redact(text), text
        assert redact(redact(text)) == redact(text)
    if shape != "by its variable":
        assert find_secret(f"It is {written} indeed.") is not None
    assert redact(f"before {written} after").startswith("before ")


@pytest.mark.parametrize(
    "text",
    [
        "/home/someone/projects/models/llama-3.2-1b-instruct/model.safetensors",
        "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "https://example.org/a%20b?q=%C3%A9t%C3%A9&x=1",
        "The formula a &lt; b \\u00e9t\\u00e9 \\n and 100%25 of it",
        base64.b64encode(b"only a picture, or what people send: nothing secret is in it").decode(),
        "aHR0cHM6Ly9leGFtcGxlLm9yZw==",
    ],
)
def test_what_is_encoded_and_no_secret_stays(text: str) -> None:
    assert redact(text) == text
    assert find_secret(text) is None


@pytest.mark.parametrize(
    "text", ["", "The sk-learn library", "ask-me-anything", "hf_hub", "https://example.org/a?b=c", "Bearer of bad news"]
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert find_secret(text) is None
    assert redact(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "hf-internal-testing/tiny-random-LlamaForCausalLM is not on the Hub",
        "hf_hub_download() got no answer from https://huggingface.co/api/models",
        "write to someone@example.org or see http://a.example/b@c",
        '{"url":"http://a.example","mail":"x@y.example"}',
        "run 3 (process 77 on box) took 0123456789abcdef0123456789abcdef01234567",
        "Where is the key kept? -----BEGIN CERTIFICATE-----",
    ],
)
def test_a_message_loses_nothing_that_is_no_secret(text: str) -> None:
    assert redact(text) == text


def test_what_surrounds_a_secret_in_a_message_stays() -> None:
    assert redact("ask postgres://user:password@host/db now") == "ask postgres://[redacted]@host/db now"
    assert redact("'Bearer abc.DEF-123_x', then") == "'Bearer [redacted]', then"
    pem = "-----BEGIN PRIVATE KEY-----\\nMIIEowIBAAKCAQEAabcdefgh/+\\nabcd\\n-----END PRIVATE KEY-----"
    assert redact(f"key: {pem}.") == "key: [redacted]."
    assert redact("cut -----BEGIN PRIVATE KEY-----\nMIIEowIBAAKCAQEAabcdefgh") == "cut [redacted]"


def test_a_known_key_is_taken_out_whatever_its_form() -> None:
    assert redact("the key is hunter2!", "hunter2!", "[key]") == "the key is [key]"


PLACEHOLDERS = ["x", "none", "EMPTY", "ollama", "lm-studio", "not-needed", "sk-1234", "sk-no-key-required", "sk-xxxx"]


@pytest.mark.parametrize("key", [*PLACEHOLDERS, "token-abc123", "YOUR_API_KEY_HERE", "a1b2c3", "hunter"])
def test_a_placeholder_for_a_key_is_no_secret(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_placeholder(key)
    monkeypatch.setenv("SOME_API_KEY", key)
    text = "x none of the EMPTY boxes of ollama is hunter's: not-needed, lm-studio, token-abc123"
    assert redact(text, key, "[key]") == text


@pytest.mark.parametrize(
    "key", ["hunter2!", "swordfish-42", "a1b2c3d4e5f6", "correcthorsebattery", "sk-proj-abcdefghijklmnop", "0a" * 16]
)
def test_what_could_be_a_key_is_taken_for_one(key: str) -> None:
    assert not is_placeholder(key)


def test_a_variable_that_the_configuration_names_is_a_key_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_LLM", "swordfish-42")
    assert "swordfish-42" in redact("it is swordfish-42")
    register_key_variable("MY_LLM")
    assert redact("it is swordfish-42") == "it is [redacted]"


@pytest.mark.parametrize(
    "text",
    [
        "a-" * 30_000,
        "://a:" * 20_000,
        "-----BEGIN PRIVATE KEY-----" * 2_000,
        "%41" * 30_000,
        "QUFB" * 50_000,
        "&#65;" * 20_000,
        "ab" * 50_000,
    ],
)
def test_no_text_is_slow_to_search(text: str) -> None:
    """Quadratic searches took 12 s for the first of these."""
    started = time.thread_time()
    find_secret(text)
    redact(text)
    assert time.thread_time() - started < 5


@pytest.fixture
def log_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Logging of this process into a folder of its own, put back afterwards."""
    root = logging.getLogger()
    handlers, level = [*root.handlers], root.level
    monkeypatch.setenv("LORA_TUI_LOGS", str(tmp_path / "logs"))
    yield logs.set_up_logging()
    for handler in [*root.handlers]:
        root.removeHandler(handler)
        handler.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(False)


@every_form
def test_no_secret_reaches_the_log_file(log_file: Path, secret: str) -> None:
    logging.getLogger("lora_tui.x").warning("said: %s", secret)
    try:
        raise ValueError(secret)
    except ValueError:
        logging.getLogger("lora_tui.x").exception("failed")
    written = log_file.read_text()
    assert "Traceback" in written
    assert not leaks(written, secret)
    assert written.count("[redacted]") >= 2


@pytest.fixture
def report() -> Report:
    streams: Any = SimpleNamespace(out=io.StringIO(), err=io.StringIO())
    return Report(streams)


def said(report: Report) -> str:
    return report._streams.out.getvalue() + report._streams.err.getvalue()  # type: ignore[attr-defined]


def failed(error: str) -> RunEnding:
    return RunEnding(Outcome(1, "failed", 1, {}, error), 0.0, 1.0, "lora-tui --resume 1")


@every_form
def test_no_secret_reaches_the_narration(report: Report, secret: str) -> None:
    narrator = PlainNarrator(report._streams, report)
    narrator.event(Event(1, 1, 0.0, "warning", {"message": f"careful: {secret}"}))
    narrator.end(failed(f"it said {secret}"))
    report.message(f"mind {secret}")
    report.fail(f"refused: {secret}", 1)
    assert not leaks(said(report), secret)
    assert all(word in said(report) for word in ("careful", "it said", "mind", "refused"))


@every_form
def test_no_secret_reaches_the_json_lines(report: Report, secret: str) -> None:
    report.json_lines = True
    JsonNarrator(report._streams, report).end(failed(f"it said {secret}"))
    assert not leaks(said(report).replace("\\n", "\n"), secret)
    report.is_done = False
    report.fail(f"refused: {secret}", 1)
    assert not leaks(said(report).replace("\\n", "\n"), secret)
    assert [json.loads(line)["event"] for line in report._streams.out.getvalue().splitlines()] == ["done", "done"]  # type: ignore[attr-defined]


@every_form
def test_no_secret_is_stored_with_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    async def refused(ctx: RunContext) -> dict[str, Any]:
        ctx.warn(f"careful: {secret}")
        raise LoraTuiError(f"it said {secret}")

    async def broken(ctx: RunContext) -> dict[str, Any]:
        raise ValueError(f"it said {secret}")

    engine = Engine(tmp_path / "store.db")
    engine.start()
    for job in (refused, broken):
        monkeypatch.setattr("lora_tui.engine.runtime.engine.load_job", lambda mode, job=job: job)
        run_id, ending = engine.submit("train", Settings())
        outcome = ending.result()
        run = engine.call(runs.get(engine.open_store, run_id)).result()
        assert "it said" in (run.error if run else "")
        happened = engine.call(events.since(engine.open_store, run_id, 0)).result()
        assert [event.kind for event in happened][-1] == "done"
        stored = json.dumps([outcome.error, run.error if run else "", *(event.payload for event in happened)])
        assert not leaks(stored.replace("\\n", "\n"), secret)
    engine.close()


@every_form
def test_no_secret_is_shown_in_a_complaint_about_the_configuration(secret: str) -> None:
    assert not leaks(printable_value(secret, 60), secret)
    assert may_be_secret(secret)


@pytest.mark.parametrize(
    "name", ["runs/hf-llama3-lora", "pk_samples2.txt", "models/xai-finetune-a", "gsk-8b/config.json"]
)
def test_names_of_files_and_models_stay_in_messages(name: str) -> None:
    assert redact(f"{name}: there is no such folder.") == f"{name}: there is no such folder."


@pytest.mark.parametrize(
    "part", ["eyJ_", "sk-", "SG.", "Bearer ", "a://b:", "-----BEGIN PRIVATE KEY-----", "=3d", "%25"]
)
def test_a_text_that_almost_holds_secrets_takes_no_longer(part: str) -> None:
    text = part * (200_000 // len(part))
    began = time.process_time()
    find_secret(text)
    redact(text)
    assert time.process_time() - began < 6  # one second at most here; what looked on from every place took a minute
