"""The program with its jobs replaced: ``launcher.py MODE=JOB[,MODE=JOB…] ARGUMENTS…``, jobs from `fake_jobs`."""

import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import fake_jobs

from lora_tui.cli.console_script import main
from lora_tui.engine.jobs.registry import JOBS

for entry in sys.argv.pop(1).split(","):
    mode, _, job = entry.partition("=")
    JOBS[mode] = functools.partial(getattr, fake_jobs, job)
main()
