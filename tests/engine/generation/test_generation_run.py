"""Whole runs over the official client against a real server."""

from tests.engine.generation.conftest import Workplace


def test_a_run_reaches_its_target(place: Workplace) -> None:
    outcome = place.run()
    assert (outcome.state, outcome.exit_status, outcome.error) == ("finished", 0, None)
    assert outcome.result["accepted"] == 6
    assert outcome.result["reason"] == "target reached"
