"""The campaign's short form: the few tries of each scenario that CI has time for, with a seed that never changes."""

from pathlib import Path

import pytest

from tests.campaign.scenario import SCENARIOS, attempt, load_scenarios
from tests.campaign.worker import own_environment

load_scenarios()


@pytest.mark.parametrize("name", [name for name, registered in SCENARIOS.items() if registered.short])
def test_nothing_is_lost(name: str, tmp_path: Path) -> None:
    for number in range(SCENARIOS[name].short):
        folder = tmp_path / str(number)
        (folder / "work").mkdir(parents=True)
        with own_environment(folder):
            outcome = attempt(name, 1, number, folder / "work")
        assert outcome.survived, f"{outcome.detail}; python -m tests.campaign --only {name} --try {number}"
