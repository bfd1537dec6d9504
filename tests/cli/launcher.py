"""The program with its jobs replaced: ``launcher.py MODE=JOB[,MODE=JOB…] ARGUMENTS…``, jobs from `fake_jobs`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lora_tui.engine.runtime.context import Job


def use_fake_jobs(named: str) -> None:
    """Replace the jobs of modes in this process."""
    sys.path.insert(0, str(Path(__file__).parent))
    import fake_jobs

    from lora_tui.engine.jobs import registry

    load_job = registry.load_job
    fakes = dict(entry.split("=") for entry in named.split(","))

    def fake_or_own(mode: str) -> "Job":
        found: Job = getattr(fake_jobs, fakes[mode]) if mode in fakes else load_job(mode)
        return found

    for module in list(sys.modules.values()):
        if getattr(module, "load_job", None) is load_job:  # whoever has imported it before
            module.load_job = fake_or_own  # type: ignore[attr-defined]


if __name__ == "__main__":
    use_fake_jobs(sys.argv.pop(1))
    from lora_tui.cli.console_script import main

    main()
