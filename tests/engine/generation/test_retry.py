"""How long to wait."""

import email.utils
import random

import pytest

from lora_tui.engine.generation.client.rate_limit import MOST_SECONDS, RateHold, asked_wait, backoff, retry_after

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


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({"x-ratelimit-reset-requests": "50s"}, "", 50.0),
        ({"x-ratelimit-reset-requests": "6m0s", "retry-after": "3"}, "", 3.0),
        (
            {
                "x-ratelimit-reset-requests": "6m0s",
                "x-ratelimit-remaining-requests": "9",
                "x-ratelimit-reset-tokens": "20ms",
                "x-ratelimit-remaining-tokens": "0",
            },
            "",
            0.02,
        ),
        ({"x-ratelimit-reset": "1700000030000"}, "", 30.0),
        ({"x-ratelimit-reset": "1700000030"}, "", 30.0),
        ({"x-ratelimit-reset": "17"}, "", 17.0),
        ({"ratelimit-reset": "9"}, "", 9.0),
        ({"anthropic-ratelimit-requests-reset": "2023-11-14T22:13:50Z"}, "", 30.0),
        ({}, '{"error": {"details": [{"retrydelay": "38s"}], "message": "please retry in 37.9s."}}', 38.0),
        ({}, "rate limit reached. please try again in 6m0s. visit", 360.0),
        ({}, "try again in 350ms", 0.35),
        ({}, "retry after 20 seconds", 20.0),
        ({}, '{"metadata": {"headers": {"x-ratelimit-reset": "1700000045000"}}}', 45.0),
        ({}, "rate limit reached", None),
        ({"x-ratelimit-reset-requests": "soon"}, "", None),
        ({"x-ratelimit-reset-requests": "1e999"}, "", None),
        ({"x-ratelimit-limit-requests": "60"}, "", None),
    ],
)
def test_how_long_a_limit_lasts_is_read_wherever_it_stands(
    headers: dict[str, str], body: str, seconds: float | None
) -> None:
    found = asked_wait(headers, body, NOW)
    assert found == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "20s"}, 0.0),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m2s"}, 62.0),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "750ms"}, 0.75),
        ({"x-ratelimit-remaining-requests": "0"}, 0.0),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "soon"}, 0.0),
    ],
)
def test_an_answer_that_was_the_last_for_now_holds_the_next_request_back(
    headers: dict[str, str], seconds: float
) -> None:
    hold = RateHold(1.0)
    hold.heed(headers)
    assert max(0.0, hold.seconds) == pytest.approx(seconds, abs=0.5)
    assert hold.limited_for == 0.0, "nothing was refused"
