"""What models cost: as configured, else as listed for their provider, else not known."""

import re
from typing import Any

import pytest

from lora_tui.config.load import with_values
from lora_tui.config.models import Settings
from lora_tui.config.prices import _LISTS, CONFIGURED, LISTED, LISTED_ON, Prices, token_prices


def prices(**values: Any) -> Prices:
    return token_prices(with_values(Settings(), {f"data_generation.{k}": v for k, v in values.items()}).data_generation)


def test_every_listed_model_has_three_prices_and_cached_tokens_are_no_dearer() -> None:
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", LISTED_ON)
    for text in _LISTS.values():
        fields = text.split()
        assert len(fields) % 4 == 0
        names = fields[::4]
        assert len(names) == len(set(names))
        for place in range(0, len(fields), 4):
            sent, written, cached = map(float, fields[place + 1 : place + 4])
            assert 0 < cached <= sent <= written


def test_prices_are_listed_by_provider_and_a_date_in_the_name_does_not_matter() -> None:
    assert prices(model="gpt-4o-mini") == Prices(0.15, 0.6, 0.075)
    assert prices(model="gpt-4o-mini-2024-07-18") == Prices(0.15, 0.6, 0.075)
    assert prices(model="gpt-4o-mini").source == LISTED
    assert prices(model="deepseek-flash", base_url="https://api.deepseek.com/v1") == Prices(0.3, 1.2, 0.006)
    for unknown in ("gpt-4o-mini-of-ours", "deepseek-flash"):
        assert not prices(model=unknown).known
    assert not prices(model="gpt-4o-mini", base_url="http://localhost:8000/v1").known
    assert not prices(model="builtin").known


def test_what_is_configured_takes_the_place_of_the_list() -> None:
    found = prices(model="gpt-4o-mini", prompt_price=1.0, completion_price=2.0)
    assert found == Prices(1.0, 2.0)
    assert found.source == CONFIGURED
    assert found.cost(10**6, 0, cached_tokens=10**6) == 1.0
    assert prices(prompt_price=1.0, cached_price=0.1).cost(10**6, 0, cached_tokens=10**6) == pytest.approx(0.1)


def test_a_judge_has_its_own_price_and_the_dearest_is_reserved() -> None:
    found = prices(model="gpt-4o-mini", judge_model="gpt-4.1")
    assert found.cost(10**6, 0, model="gpt-4o-mini") == pytest.approx(0.15)
    assert found.cost(10**6, 0, cached_tokens=500_000, model="gpt-4.1") == pytest.approx(1.25)
    assert found.highest_cost(10**6) == pytest.approx(8.0)
    assert not prices(model="gpt-4o-mini", judge_model="unheard-of").known, "half a price is none"
