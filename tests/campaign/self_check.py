"""No part of the campaign: tries that hang and die, for the test of what runs them."""

import os
import random
import signal
import time
from pathlib import Path

from tests.campaign.scenario import Try, scenario


@scenario("self-check-hangs", tries=0, short=0, seconds=1)
def hangs(random: random.Random, folder: Path) -> Try:
    """Hang."""
    time.sleep(60)
    return Try(survived=True)


@scenario("self-check-dies", tries=0, short=0)
def dies(random: random.Random, folder: Path) -> Try:
    """Die."""
    os.kill(os.getpid(), signal.SIGKILL)
    return Try(survived=True)


@scenario("self-check-survives", tries=0, short=0)
def survives(random: random.Random, folder: Path) -> Try:
    """Survive."""
    return Try(survived=True)
