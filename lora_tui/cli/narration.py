"""Narrators: how a run's events are written, as JSON lines, as plain lines, or as a live display on a terminal.

A narrator is fed by `follow`, in order, from one thread. Data goes to stdout and everything else to stderr. On a
terminal what happened scrolls by, and what is happening stays on the last two lines; everything there is a Rich `Text`,
so that no markup is read out of data.
"""

import os
import time
from dataclasses import dataclass

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lora_tui.cli.event_text import GENERATING, RunProgress, event_lines, phase_line, retry_line, step_line
from lora_tui.cli.tables import make_console, write_result
from lora_tui.engine.runtime.engine import Outcome
from lora_tui.protocol.serving import traffic_line
from lora_tui.secrets import redact
from lora_tui.store.rows import Event
from lora_tui.terminal.report import Report, done_line, json_line, shortened
from lora_tui.terminal.streams import Streams
from lora_tui.text import clean, duration, one_line

_UNEXPECTED = "Unexpected "
"""How the engine begins the message of a failure that is not the user's."""

_STEP_SECONDS = 2.0
_PHASE_SECONDS = 5.0
_TRAFFIC_SECONDS = 30.0
"""Plain lines of steps, of phases and of a server's traffic are at least this far apart, on the run's own clock."""

_STYLES = {
    "warning": "yellow",
    "note": "dim",
    "checkpoint": "dim",
    "analysis": "cyan",
    "started": "bold",
    "paused": "yellow",
    "waiting": "yellow",
}
_VERDICT_STYLES = {"accepted": "green", "rejected": "dim", "review": "yellow"}
_BAR_COLUMNS = 24


@dataclass(frozen=True)
class RunEnding:
    """How a run ended, when (seconds since the epoch), after how many seconds, and the command that resumes it.

    No command resumes some modes: they begin anew.
    """

    outcome: Outcome
    at: float
    seconds: float | None
    resume_command: str | None


class Narrator:
    """Writer of one run's events; alone it counts them, and writes messages and the ending."""

    def __init__(self, streams: Streams, report: Report) -> None:
        self._streams = streams
        self._report = report
        self._progress = RunProgress()

    def count(self, event: Event) -> None:
        """Count an event; one from before this process looked is not written."""
        self._progress.update(event)

    def event(self, event: Event) -> None:
        """Write an event."""
        self.count(event)

    def message(self, text: str) -> None:
        """Write something that is not an event, such as what a signal was taken for."""
        self._report.message(text)

    def refresh(self) -> None:
        """Draw again: time has passed."""

    def end(self, ending: RunEnding) -> None:
        """Write the result to stdout and the closing message to stderr."""
        write_result(self._streams, ending.outcome.result)
        self._report.message(_closing_message(ending, self._report))

    def close(self) -> None:
        """Leave the terminal as it was; also when there is no ending."""


class JsonNarrator(Narrator):
    """One JSON object a line on stdout, each written through at once; messages on stderr."""

    def event(self, event: Event) -> None:
        """Write the event."""
        self._report.data(json_line(event.kind, event.run_id, event.at, event.payload))

    def end(self, ending: RunEnding) -> None:
        """Write the ``done`` line; why a run has no result, or not all of it, also goes to stderr."""
        self._report.is_done = True
        run = ending.outcome
        error = None if run.error is None else redact(run.error)
        self._report.data(done_line(run.run_id, ending.at, run.state, run.exit_status, run.result, error))
        if run.state != "finished":
            self.message(_closing_message(ending, self._report))


class PlainNarrator(Narrator):
    """Lines without escape codes on stderr, the result on stdout: for pipes, files and dumb terminals."""

    def __init__(self, streams: Streams, report: Report) -> None:
        super().__init__(streams, report)
        self._step_written_at = 0.0
        self._phase_written: tuple[str, float] = ("", 0.0)
        self._retry_written_at = 0.0
        self._traffic_written_at = 0.0

    def event(self, event: Event) -> None:
        """Write the event's lines; steps and phases only every few seconds."""
        self.count(event)
        for line in event_lines(event):
            self._line(line)
        if event.kind == "step":
            last = event.payload.get("step") == event.payload.get("steps")
            if last or event.at - self._step_written_at >= _STEP_SECONDS:
                self._step_written_at = event.at
                self._line(step_line(event.payload))
        elif event.kind == "progress":
            self._phase(event)
        elif event.kind == "retry" and event.at - self._retry_written_at >= _PHASE_SECONDS:
            self._retry_written_at = event.at
            self._line(retry_line(event.payload))
        elif event.kind == "traffic" and event.at - self._traffic_written_at >= _TRAFFIC_SECONDS:
            self._traffic_written_at = event.at
            self._line(traffic_line(event.payload))
        elif event.kind == "analysis":
            self._line(self._progress.generation_line())

    def _phase(self, event: Event) -> None:
        phase, done, total = (event.payload.get(key) for key in ("phase", "done", "total"))
        written, at = self._phase_written
        if phase != written or (total and done == total) or event.at - at >= _PHASE_SECONDS:
            self._phase_written = (str(phase), event.at)
            seconds = event.at - self._progress.phase_since
            ended = bool(total) and done == total
            if ended and total == 1:
                self._line(f"{phase_line({'phase': phase})}: done in {duration(seconds)}")
            else:
                self._line(phase_line(event.payload, seconds))

    def _line(self, text: str) -> None:
        self._streams.err.write(text + "\n")
        self._streams.err.flush()


class LiveNarrator(Narrator):
    """Lines scroll above a progress bar and its figures; the result goes to stdout at the end.

    The display is drawn from the loop that follows the run, not from a thread of Rich's, so a signal finds it whole.
    """

    def __init__(self, streams: Streams, report: Report) -> None:
        super().__init__(streams, report)
        self._console = make_console(streams.err, is_terminal=True)
        self._began = time.monotonic()
        self._lines: list[Text] = []
        self._drawn: tuple[object, ...] = ()
        self._live = Live(console=self._console, auto_refresh=False, transient=True, get_renderable=self._display)

    def event(self, event: Event) -> None:
        """Have the event's lines scroll by, and the display change, at the next refresh."""
        self.count(event)
        style = _STYLES.get(event.kind, "")
        if event.kind == "pair":
            style = _VERDICT_STYLES.get(str(event.payload.get("verdict")), "")
        self._lines += [Text(line, style=style) for line in event_lines(event)]

    def message(self, text: str) -> None:
        """Let a line scroll by at once."""
        self._lines.append(Text(clean(text), style="bold yellow"))
        self.refresh()

    def refresh(self) -> None:
        """Write the lines that have gathered in one piece, and the display where it has changed: links can be slow."""
        if not self._live.is_started:
            self._live.start()
            # A crash in native code must not leave the terminal without a cursor.
            self._console.show_cursor(True)
        now = (*self._figures(), duration(time.monotonic() - self._began))
        self._write_lines()
        if now != self._drawn:
            self._live.refresh()
        self._drawn = now

    def end(self, ending: RunEnding) -> None:
        """Clear the display, then write the result to stdout and the closing message to stderr."""
        self.close()
        super().end(ending)

    def close(self) -> None:
        """Clear the display and give the terminal back."""
        self._live.stop()
        self._write_lines()

    def _write_lines(self) -> None:
        lines, self._lines = self._lines, []
        if lines:
            self._console.print(Text("\n").join(lines), soft_wrap=True)

    def _display(self) -> Group:
        """A bar with how far the run is, and the figures under it."""
        done, total, figures = self._figures()
        row = Table.grid(padding=(0, 1))
        elapsed = Text(duration(time.monotonic() - self._began), style="dim")
        if total:
            share = min(done / total, 1.0)
            row.add_row(ProgressBar(total=1.0, completed=share, width=_BAR_COLUMNS), Text(f"{share:4.0%}"), elapsed)
        else:
            row.add_row(elapsed)
        return Group(row, Text(figures, no_wrap=True, overflow="ellipsis"))

    def _figures(self) -> tuple[float, float, str]:
        """How far the current activity is, of how much, and the line of figures."""
        progress, phase, step = self._progress, self._progress.phase, self._progress.step
        in_phase = progress.latest == "progress" and (phase.get("done") or 0) < (phase.get("total") or 0)
        if progress.retry_at > time.time() and not step:
            return progress.count("accepted"), progress.target, retry_line(progress.retry)
        if in_phase and phase.get("phase") != GENERATING:
            line = phase_line(phase, time.time() - progress.phase_since)
            return (phase["done"] or 0, phase["total"], line) if phase["total"] > 1 else (0, 0, line)
        if step:
            score = "" if progress.score is None else f"  score {progress.score:.2f}"
            return step.get("step") or 0, step.get("steps") or 0, step_line(step) + score
        if progress.traffic:
            return 0, 0, traffic_line(progress.traffic)
        if progress.verdicts:
            note = one_line(str(phase.get("note") or ""), 60)
            return progress.count("accepted"), progress.target, f"{progress.generation_line()}  {note}"
        if phase:
            return phase.get("done") or 0, phase.get("total") or 0, phase_line(phase)
        return 0, 0, "starting"


def make_narrator(streams: Streams, report: Report) -> Narrator:
    """Choose the narrator: JSON lines when asked for, live on a terminal that can, else plain."""
    if report.json_lines:
        return JsonNarrator(streams, report)
    if not streams.err_is_terminal or os.environ.get("TERM") == "dumb":
        return PlainNarrator(streams, report)
    return LiveNarrator(streams, report)


def _closing_message(ending: RunEnding, report: Report) -> str:
    """Return the last message about a run, without the program's name in front."""
    run = ending.outcome
    if run.error is not None:
        if run.error.startswith(_UNEXPECTED):
            return report.unexpected(redact(run.error.removeprefix(_UNEXPECTED)))
        return shortened(redact(run.error))
    took = f" in {duration(ending.seconds)}" if ending.seconds is not None else ""
    if ending.resume_command is None and run.state in ("stopped", "interrupted"):
        happened = "stopped" if run.state == "stopped" else "lost its process"
        return f"run {run.run_id} {happened}{took}. It is not resumed: give its command again to begin anew"
    if run.state == "stopped":
        return f"run {run.run_id} stopped{took}; its work is saved. Go on with: {ending.resume_command}"
    if run.state == "interrupted":
        return f"run {run.run_id} lost its process{took}. Go on with: {ending.resume_command}"
    return f"run {run.run_id} {run.state}{took}"
