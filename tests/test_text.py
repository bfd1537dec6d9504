"""Figures as people read them."""

import pytest

from lora_tui.text import _VISIBLE, clean, dollars, memory_size


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        (0.0, "$0.00"),
        (12.4, "$12.40"),
        (1234.5, "$1,234.50"),
        (0.1, "$0.10"),
        (0.0031, "$0.0031"),
        (0.05, "$0.05"),
        (0.000012, "$0.000012"),
        (1e-9, "$0.00"),
    ],
)
def test_dollars_are_shown_in_cents_or_as_finely_as_they_need(amount: float, shown: str) -> None:
    assert dollars(amount) == shown


def test_whatever_is_made_visible_is_not_printable() -> None:
    """`clean` returns printable text as it is."""
    active = [*_VISIBLE, *range(0xD800, 0xE000)]
    assert not any(chr(code).isprintable() for code in active)
    assert clean("plain · “text”") == "plain · “text”"
    assert all(chr(code) not in clean(f"a{chr(code)}b") for code in active)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 MiB"),
        (812 * 2**20, "812 MiB"),
        (999.4 * 2**20, "999 MiB"),
        (999.7 * 2**20, "1.0 GiB"),
        (1016 * 2**20, "1.0 GiB"),
        (2e9, "1.9 GiB"),
    ],
)
def test_memory_is_written_in_three_digits_at_most(size: float, text: str) -> None:
    assert memory_size(size) == text
