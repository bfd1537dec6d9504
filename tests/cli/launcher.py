"""The program with its jobs replaced: ``launcher.py MODE=JOB[,MODE=JOB…] ARGUMENTS…``, jobs from `fake_jobs`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import fake_jobs

from lora_tui.cli.console_script import main
from lora_tui.engine.jobs import registry

load_job = registry.load_job
fakes = dict(entry.split("=") for entry in sys.argv.pop(1).split(","))
registry.load_job = lambda mode: getattr(fake_jobs, fakes[mode]) if mode in fakes else load_job(mode)
main()
