"""Running a campaign: what counts as lost, that tries can be repeated, and that one which hangs holds nothing up."""

import json
import random
from pathlib import Path

import pytest

from tests.campaign import __main__ as campaign
from tests.campaign import scenario as scenarios
from tests.campaign.scenario import Registered, Try, attempt


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scenarios of the test's own: what is random, what fails, what raises."""

    def draws(random: random.Random, folder: Path) -> Try:
        assert folder == Path.cwd()
        assert not list(folder.iterdir())
        return Try(survived=False, faults=2, detail=str(random.random()))

    def raises(random: random.Random, folder: Path) -> Try:
        raise ValueError("of\nits own")

    registered = {"draws": Registered(draws, 3, 1, 60.0), "raises": Registered(raises, 1, 1, 60.0)}
    monkeypatch.setattr(scenarios, "SCENARIOS", registered)


@pytest.mark.usefixtures("three")
def test_a_try_is_the_same_when_it_is_repeated_alone(tmp_path: Path) -> None:
    outcomes = [attempt("draws", seed, number, tmp_path) for seed in (1, 2) for number in (0, 1)]
    assert len({outcome.detail for outcome in outcomes}) == 4
    assert attempt("draws", 2, 0, tmp_path) == outcomes[2]


@pytest.mark.usefixtures("three")
def test_what_raises_is_lost(tmp_path: Path) -> None:
    outcome = attempt("raises", 1, 0, tmp_path)
    assert not outcome.survived
    assert outcome.detail.startswith("ValueError at test_running.py:")
    assert outcome.detail.endswith(": of its own")


def test_tries_that_hang_or_die_are_counted_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = tmp_path / "found.json"
    assert campaign.main(["--only", "self-check", "--try", "7", "--jobs", "1", "--json", str(found)]) == 1
    assert "python -m tests.campaign --seed 1 --only self-check-hangs --try 7" in capsys.readouterr().out
    tallies = json.loads(found.read_text())["scenarios"]
    details = {name: [failure["detail"] for failure in tally["failures"]] for name, tally in tallies.items()}
    assert details == {
        "self-check-hangs": ["not done after 1 s"],
        "self-check-dies": ["the process ended with -9"],
        "self-check-survives": [],
    }
