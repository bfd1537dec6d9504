"""Secrets are found, and taken out of whatever is shown or stored."""

import pytest

from lora_tui.engine.generation.client.wire import is_loopback, shown_url
from lora_tui.secrets import find_secret, redacted


@pytest.mark.parametrize(
    "secret",
    [
        "sk-proj-abcdefghijklmnop",
        "hf_" + "a" * 34,
        "ghp_" + "A1" * 18,
        "AKIAABCDEFGHIJKLMNOP",
        "AIza" + "b" * 35,
        "xoxb-1234567890-abc",
        "-----BEGIN PRIVATE KEY-----",
        "Authorization: Bearer abcdefghijklmnopqrstuvwxyz",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abcdefghijkl",
        "postgres://user:password@host/db",
    ],
)
def test_forms_of_secrets_are_found_and_taken_out(secret: str) -> None:
    text = f"before {secret} after"
    assert find_secret(text) is not None
    assert secret not in redacted(text)
    assert redacted(text).startswith("before")


@pytest.mark.parametrize(
    "text", ["", "The sk-learn library", "ask-me-anything", "hf_hub", "https://example.org/a?b=c", "Bearer of bad news"]
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert find_secret(text) is None
    assert redacted(text) == text


def test_a_known_key_is_taken_out_whatever_its_form() -> None:
    assert redacted("the key is hunter2!", "hunter2!") == "the key is [key]"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:secret@host:8000/v1/?key=x#y", "https://host:8000/v1"),
        ("http://[::1]:80/v1", "http://[::1]:80/v1"),
        ("http://localhost/v1/", "http://localhost/v1"),
    ],
)
def test_addresses_are_shown_without_what_may_be_secret(url: str, shown: str) -> None:
    assert shown_url(url) == shown


@pytest.mark.parametrize(
    "url", ["http://localhost:1/v1", "http://127.0.0.1/v1", "http://[::1]:8/v1", "http://a.localhost"]
)
def test_this_machine_is_known(url: str) -> None:
    assert is_loopback(url)


@pytest.mark.parametrize("url", ["http://localhost.example.org", "http://10.0.0.1", "https://api.openai.com/v1", ""])
def test_other_machines_are_not_this_one(url: str) -> None:
    assert not is_loopback(url)
