"""The registry of jobs: which coroutine runs each mode of ``--run``.

Small and apart, because importing it has to stay cheap: some jobs bring torch with them, so a job is imported when its
mode runs, and the engine can start before the app's first paint. To add a mode, write its job in this package and name
it here.
"""

from lora_tui.engine.runtime.context import Job
from lora_tui.system_errors import require_address_space


def load_job(mode: str) -> Job:
    """Import the job of a mode; it may block for seconds, so the engine calls it in a thread."""
    require_address_space()
    match mode:
        case "generate":
            from lora_tui.engine.jobs.generate import generate as job
        case "format":
            from lora_tui.engine.jobs.format_file import format_raw_file as job
        case "train":
            from lora_tui.engine.jobs.preflight import train as job
        case "probe":
            from lora_tui.engine.jobs.preflight import probe as job
        case "evaluate":
            from lora_tui.engine.jobs.preflight import evaluate as job
        case "export":
            from lora_tui.engine.jobs.export import export as job
        case "serve":
            from lora_tui.engine.jobs.preflight import serve as job
        case "quickstart":
            from lora_tui.engine.jobs.quickstart import quickstart as job
        case _:
            raise KeyError(mode)
    return job
