"""The registry of jobs: which coroutine runs each mode of ``--run``.

A job is imported when its mode runs, because some bring torch with them: importing this module stays cheap, so that
the engine can start before the app's first paint. To add a mode, write its job in this package and name it here.
"""

from collections.abc import Callable

from lora_tui.engine.runtime.context import Job


def _generate() -> Job:
    from lora_tui.engine.jobs.generate import generate

    return generate


def _format() -> Job:
    from lora_tui.engine.jobs.format_file import format_raw_file

    return format_raw_file


def _train() -> Job:
    from lora_tui.engine.jobs.preflight import train

    return train


def _evaluate() -> Job:
    from lora_tui.engine.jobs.preflight import evaluate

    return evaluate


def _export() -> Job:
    from lora_tui.engine.jobs.export import export

    return export


def _quickstart() -> Job:
    from lora_tui.engine.jobs.quickstart import quickstart

    return quickstart


JOBS: dict[str, Callable[[], Job]] = {
    "generate": _generate,
    "format": _format,
    "train": _train,
    "evaluate": _evaluate,
    "export": _export,
    "quickstart": _quickstart,
}
"""What imports the job of each mode; it may block for seconds, so the engine calls it in a thread."""
