"""Addresses of endpoints: shown without secrets, and known for this machine's or another's."""

import pytest

from lora_tui.engine.generation.client.wire import is_loopback, shown_url


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
