"""The program with its jobs replaced: ``launcher.py MODE=JOB[,MODE=JOB…] ARGUMENTS…``, jobs from `fake_jobs`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from lora_tui.cli.console_script import main
from lora_tui.engine.runtime import engine

for entry in sys.argv.pop(1).split(","):
    mode, _, job = entry.partition("=")
    engine.JOBS[mode] = f"fake_jobs:{job}"
main()
