"""Telling a run's events as they come: as JSON lines, as plain lines, or (in `live`) on a terminal.

A narrator is fed by `follow`, in order, from one thread. Data goes to stdout and everything else to stderr.
"""

from dataclasses import dataclass
from typing import Any, Protocol

from lora_tui.cli.lines import done_line, json_line
from lora_tui.cli.report import Report, shortened
from lora_tui.cli.streams import Streams
from lora_tui.cli.tables import write_result
from lora_tui.cli.wording import Progress, describe, phase_line, step_line
from lora_tui.secrets import redact
from lora_tui.store.rows import Event
from lora_tui.text import clean, duration

UNEXPECTED = "Unexpected "
"""How the engine begins the message of a failure that is not the user's."""

_QUIET_SECONDS = 2.0
_PHASE_SECONDS = 5.0


@dataclass(frozen=True)
class Ending:
    """How a run ended, and the exit status of the program that follows from it."""

    run_id: int
    mode: str
    at: float
    state: str
    exit_status: int
    result: dict[str, Any]
    error: str | None
    seconds: float | None
    go_on: str
    """The command that resumes the run."""


class Narrator(Protocol):
    """What `follow` tells a run's events to."""

    def recall(self, event: Event) -> None:
        """Take note of an event from before this process looked."""

    def event(self, event: Event) -> None:
        """Tell an event."""

    def say(self, text: str) -> None:
        """Tell something that is not an event, such as what a signal was taken for."""

    def tick(self) -> None:
        """Show that time passes."""

    def end(self, ending: Ending) -> None:
        """Write the result and the last words."""

    def close(self) -> None:
        """Leave the terminal as it was; also when there is no ending."""


class JsonNarrator:
    """One JSON object a line on stdout, each written through at once; stderr has only what is no event."""

    def __init__(self, streams: Streams, report: Report) -> None:
        self._streams = streams
        self._report = report

    def recall(self, event: Event) -> None:
        """Lines are about what happens now."""

    def event(self, event: Event) -> None:
        """Write the event."""
        self._report.data(json_line(event.kind, event.run_id, event.at, event.payload))

    def say(self, text: str) -> None:
        """Write a line to stderr."""
        self._report.say(text)

    def tick(self) -> None:
        """Nothing to show."""

    def end(self, ending: Ending) -> None:
        """Write the ``done`` line; why a run has no result, or not all of it, also goes to stderr."""
        self._report.is_done = True
        line = done_line(
            ending.run_id, ending.at, ending.state, ending.exit_status, ending.result, _redacted(ending.error)
        )
        self._report.data(line)
        if ending.state != "finished":
            self._report.say(closing_words(ending, self._report))

    def close(self) -> None:
        """Nothing to put back."""


class PlainNarrator:
    """Lines without escape codes on stderr, the result on stdout: for pipes, files and dumb terminals."""

    def __init__(self, streams: Streams, report: Report) -> None:
        self._streams = streams
        self._report = report
        self._progress = Progress()
        self._step_told_at = 0.0
        self._phase_told: tuple[str, float] = ("", 0.0)

    def recall(self, event: Event) -> None:
        """Count it."""
        self._progress.take(event)

    def event(self, event: Event) -> None:
        """Write the event's lines; steps and phases at most every few seconds of the run's own time."""
        self._progress.take(event)
        if event.kind == "started":
            self._line(f"run {event.run_id}: {clean(self._progress.mode)}")
        for line in describe(event, self._progress):
            self._line(line)
        if event.kind == "step":
            last = event.payload.get("step") == event.payload.get("steps")
            if last or event.at - self._step_told_at >= _QUIET_SECONDS:
                self._step_told_at = event.at
                self._line(step_line(event.payload))
        elif event.kind == "progress":
            self._phase(event)
        elif event.kind == "analysis":
            self._line(self._progress.generation())

    def say(self, text: str) -> None:
        """Write a line."""
        self._report.say(text)

    def tick(self) -> None:
        """Nothing to show."""

    def end(self, ending: Ending) -> None:
        """Write the result to stdout and the last words to stderr."""
        write_result(self._streams, ending.mode, ending.result)
        self._report.say(closing_words(ending, self._report))

    def close(self) -> None:
        """Nothing to put back."""

    def _phase(self, event: Event) -> None:
        phase, done, total = (event.payload.get(key) for key in ("phase", "done", "total"))
        told, at = self._phase_told
        if phase != told or (total and done == total) or event.at - at >= _PHASE_SECONDS:
            self._phase_told = (str(phase), event.at)
            self._line(phase_line(event.payload))

    def _line(self, text: str) -> None:
        self._streams.err.write(text + "\n")
        self._streams.err.flush()


def closing_words(ending: Ending, report: Report) -> str:
    """Return the last thing to say about a run, without the program's name in front."""
    if ending.error is not None:
        if ending.error.startswith(UNEXPECTED):
            return report.unexpected(redact(ending.error.removeprefix(UNEXPECTED)))
        return shortened(redact(ending.error))
    took = f" in {duration(ending.seconds)}" if ending.seconds is not None else ""
    if ending.state == "stopped":
        return f"run {ending.run_id} stopped{took}; its work is saved. Go on with: {ending.go_on}"
    if ending.state == "interrupted":
        return f"run {ending.run_id} lost its process{took}. Go on with: {ending.go_on}"
    return f"run {ending.run_id} {ending.state}{took}"


def _redacted(error: str | None) -> str | None:
    return None if error is None else redact(error)


def make_narrator(streams: Streams, report: Report, *, dumb: bool) -> Narrator:
    """Choose how to tell: JSON lines when asked for, live on a terminal that can, else plain."""
    if report.json_lines:
        return JsonNarrator(streams, report)
    if not streams.err_is_terminal or dumb:
        return PlainNarrator(streams, report)
    from lora_tui.cli.live import LiveNarrator  # Rich, which a pipe can do without

    return LiveNarrator(streams, report)
