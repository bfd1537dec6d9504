"""The number of requests in flight at which an endpoint writes as fast as it can is found by itself, and kept."""

import pytest

from lora_tui.engine.generation.client.knee import KneeSearch
from tests.engine.generation.simulated_endpoint import TOKENS_PER_SECOND, Simulation, saturating, shared


@pytest.mark.parametrize("knee", [4, 8, 20, 48, 100, 256])
def test_a_server_that_queues_everything_is_kept_busy_and_no_busier(knee: int) -> None:
    endpoint = Simulation(shared(knee))
    endpoint.run(120)
    assert endpoint.share(60, TOKENS_PER_SECOND * knee) > 0.95
    assert knee <= endpoint.search.limit <= 1.2 * knee + 8
    assert endpoint.most_in_flight <= 4 * knee


@pytest.mark.parametrize("knee", [1, 3, 8, 48, 256])
def test_a_server_that_refuses_what_it_cannot_take_is_hardly_ever_asked_for_it(knee: int) -> None:
    endpoint = Simulation(shared(knee), refuses_beyond=knee)
    endpoint.run(300)
    assert endpoint.share(180, TOKENS_PER_SECOND * knee) > 0.95
    assert endpoint.refused <= 10


def test_a_server_whose_requests_disturb_each_other_is_given_as_many_as_still_help() -> None:
    endpoint = Simulation(saturating(1000, half_at=8))
    endpoint.run(600)
    assert endpoint.share(300, 1000) > 0.85
    assert endpoint.search.limit <= 160


def test_no_more_are_in_flight_than_allowed() -> None:
    endpoint = Simulation(shared(48), most=20)
    endpoint.run(120)
    assert endpoint.most_in_flight == 20
    assert endpoint.share(60, TOKENS_PER_SECOND * 20) > 0.95


def test_a_server_that_becomes_larger_is_found_to_be() -> None:
    endpoint = Simulation(shared(8))
    endpoint.run(120)
    endpoint.goodput = shared(64)
    endpoint.run(600)
    assert endpoint.search.limit >= 60


def test_a_server_that_becomes_smaller_gets_fewer() -> None:
    endpoint = Simulation(shared(64))
    endpoint.run(120)
    assert endpoint.search.limit >= 64
    endpoint.goodput = shared(16)
    endpoint.run(600)
    assert endpoint.search.limit <= 32
    assert endpoint.share(60, TOKENS_PER_SECOND * 16) > 0.95


def test_it_does_not_grow_until_replies_are_overdue() -> None:
    endpoint = Simulation(shared(1), timeout=60.0, lengths=(100,))
    endpoint.run(600)
    assert endpoint.overdue == 0
    assert endpoint.share(300, TOKENS_PER_SECOND) > 0.95


def test_overdue_replies_halve_it() -> None:
    endpoint = Simulation(shared(2), timeout=12.0, lengths=(200,))
    endpoint.run(300)
    assert 0 < endpoint.overdue <= 16, "eight at once take twice as long as they may"
    assert endpoint.search.limit <= 4
    assert endpoint.share(100, 2 * TOKENS_PER_SECOND) > 0.9


def test_a_second_refusal_soon_after_one_costs_a_sixteenth_and_a_third_a_quarter() -> None:
    search = KneeSearch(most=512, timeout=60.0, now=0.0)
    now, kept = 0.0, []
    for in_flight in (257, 252, 250):
        search.refused(in_flight, now, same_burst=False)
        for _ in range(300):  # it climbs back, an answer at a time
            now += 0.01
            search.answered(now - 5.0, 100.0, now, oldest=now - 5.0)
        kept.append(search.limit)
    assert kept == [251, 235, 176]
