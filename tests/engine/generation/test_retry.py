"""How long to wait."""

import email.utils
import random

import pytest

from lora_tui.engine.generation.client.rate_limit import MOST_SECONDS, backoff, retry_after

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after": "300"}, 300.0),  # the official client gives up above 120
        ({"retry-after": "86400"}, MOST_SECONDS),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "1500", "retry-after": "60"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "60"}, 60.0),
        ({"retry-after": email.utils.formatdate(NOW + 42, usegmt=True)}, 42.0),
        ({"retry-after": email.utils.formatdate(NOW - 42, usegmt=True)}, 0.0),
        ({"retry-after": "-5"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": ""}, None),
    ],
)
def test_the_server_says_how_long(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, NOW) == seconds


def test_backoff_doubles_with_full_jitter_and_stays_bounded() -> None:
    rng = random.Random(1)
    for attempt in range(5):
        waits = [backoff(attempt, 1.0, rng) for _ in range(500)]
        assert max(waits) <= 2**attempt
        assert max(waits) > 0.9 * 2**attempt
        assert min(waits) < 0.1 * 2**attempt
    assert backoff(10_000, 1.0, rng) <= 60
    assert backoff(3, 0.0, rng) == 0
