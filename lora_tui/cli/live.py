"""The progress display on a terminal: what happened scrolls by, what is happening stays on the last two lines.

Everything is a Rich `Text`: no markup is read out of data. The display is drawn from the loop that follows the run, not
from a thread of Rich's, so a signal finds it in order.
"""

import time

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lora_tui.cli.console import make_console
from lora_tui.cli.narration import Ending, closing_words
from lora_tui.cli.report import Report
from lora_tui.cli.streams import Streams
from lora_tui.cli.tables import write_result
from lora_tui.cli.wording import GENERATING, Progress, describe, phase_line, step_line
from lora_tui.store.rows import Event
from lora_tui.text import clean, duration, one_line

_STYLES = {
    "warning": "yellow",
    "note": "dim",
    "checkpoint": "dim",
    "analysis": "cyan",
    "started": "bold",
    "paused": "yellow",
}
_VERDICT_STYLES = {"accepted": "green", "rejected": "dim", "review": "yellow"}
_BAR_COLUMNS = 24


class LiveNarrator:
    """Lines scroll above a bar with the figures of the moment; the result goes to stdout at the end."""

    def __init__(self, streams: Streams, report: Report) -> None:
        self._streams = streams
        self._report = report
        self._progress = Progress()
        self._console = make_console(streams.err, is_terminal=True)
        self._began = time.monotonic()
        self._lines: list[Text] = []
        self._drawn: tuple[object, ...] = ()
        self._live = Live(console=self._console, auto_refresh=False, transient=True, get_renderable=self._now)

    def recall(self, event: Event) -> None:
        """Count it."""
        self._progress.take(event)

    def event(self, event: Event) -> None:
        """Have the event's lines scroll by at the next tick, and the display follow."""
        self._progress.take(event)
        style = _STYLES.get(event.kind, "")
        if event.kind == "pair":
            style = _VERDICT_STYLES.get(str(event.payload.get("verdict")), "")
        if event.kind == "started":
            self._lines.append(Text(f"run {event.run_id}: {clean(self._progress.mode)}", style="bold"))
        self._lines += [Text(line, style=style) for line in describe(event, self._progress)]

    def say(self, text: str) -> None:
        """Let a line scroll by at once."""
        self._lines.append(Text(clean(text), style="bold yellow"))
        self.tick()

    def tick(self) -> None:
        """Write what has gathered as one piece and draw the display again where it has changed: links can be slow."""
        if not self._live.is_started:
            self._live.start()
            # A crash in native code must not leave the terminal without a cursor.
            self._console.show_cursor(True)
        now = (*self._figures(), duration(time.monotonic() - self._began))
        self._write()
        if now != self._drawn:
            self._live.refresh()
        self._drawn = now

    def end(self, ending: Ending) -> None:
        """Clear the display, write the result to stdout and the last words to stderr."""
        self.close()
        write_result(self._streams, ending.mode, ending.result)
        self._report.say(closing_words(ending, self._report))

    def close(self) -> None:
        """Clear the display and give the terminal back."""
        self._live.stop()
        self._write()

    def _write(self) -> None:
        lines, self._lines = self._lines, []
        if lines:
            self._console.print(Text("\n").join(lines), soft_wrap=True)

    def _now(self) -> Group:
        """The display: a bar with how far it is, and the figures under it."""
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
        """How far what is being done now is, of how much, and the figures to show."""
        progress, phase, step = self._progress, self._progress.phase, self._progress.step
        in_phase = progress.latest == "progress" and (phase.get("done") or 0) < (phase.get("total") or 0)
        if in_phase and phase.get("phase") != GENERATING:
            return phase["done"] or 0, phase["total"], phase_line(phase)
        if step:
            score = "" if progress.score is None else f"  score {progress.score:.2f}"
            return step.get("step") or 0, step.get("steps") or 0, step_line(step) + score
        if progress.verdicts:
            note = one_line(str(phase.get("note") or ""), 60)
            return progress.pairs("accepted"), progress.target, f"{progress.generation()}  {note}"
        if phase:
            return phase.get("done") or 0, phase.get("total") or 0, phase_line(phase)
        return 0, 0, "starting"
