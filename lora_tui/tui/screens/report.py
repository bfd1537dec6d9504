"""Did fine-tuning help: what the evaluation of a run's adapter has found, over the screen it was asked on.

Shown are the figures on held-out questions and the worst answers; the whole report is a page beside the adapter, whose
path is named and can be copied. A run that was not evaluated yet can be from here.
"""

from typing import Any, ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from lora_tui.files import is_file
from lora_tui.protocol.comparison import (
    NO_HELD_OUT,
    ComparedAnswer,
    comparison_from,
    worst_title,
)
from lora_tui.protocol.knowledge import knowledge_from
from lora_tui.store.queries.runs import RunLine, RunReport, newest_report
from lora_tui.text import question_of
from lora_tui.tui.actions import AppActions
from lora_tui.tui.dialogs import Dialog
from lora_tui.tui.services import AppServices
from lora_tui.tui.text import DIM, safe_text, score_mark, styled
from lora_tui.tui.views.runs import comparison_content, knowledge_content
from lora_tui.tui.widgets.key_hints import KeyHints
from lora_tui.tui.widgets.panel import set_title


class ReportScreen(Dialog[None]):
    """Sheet with the newest report on a run: an evaluation's own, or the newest on a training run's adapter."""

    LESSON = "07-overfitting-and-early-stopping"
    AUTO_FOCUS = "#report-box"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("m", "evaluate", "Evaluate now", id="report.evaluate",
                tooltip="Ask the base model and this run's adapter the test prompts and the held-out questions"),
        Binding("y", "copy", "Copy the path", id="report.copy", tooltip="Copy the path of the report's page"),
        Binding("escape,q", "dismiss", "Back", id="report.close"),
        Binding("question_mark", "app.help", "Help", show=False, key_display="?"),
    ]  # fmt: skip

    def __init__(self, services: AppServices, actions: AppActions, run: RunLine) -> None:
        super().__init__()
        self._services = services
        self._actions = actions
        self._run = run
        self._found: RunReport | None = None

    def compose(self) -> ComposeResult:
        """One scrolling box with everything, hints below."""
        with Vertical(classes="sheet"):
            with VerticalScroll(id="report-box", classes="box"):
                yield Static(id="report", markup=False)
            yield KeyHints()

    @on(events.Mount)
    async def _show(self) -> None:
        store = self._services.reader.store
        if store is None:
            return
        self._found = await newest_report(store, self._run.id)
        set_title(self.query_one("#report-box"), f"Did fine-tuning help? Run {self._run.id}")
        self.query_one("#report", Static).update(report_text(self._found))
        self.refresh_bindings()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer to copy a path where there is one, and to evaluate a run that has an adapter."""
        if action == "copy":
            return self._found is not None
        return self._run.mode in ("train", "quickstart") if action == "evaluate" else True

    def action_copy(self) -> None:
        """Send the path of the report's page to the clipboard."""
        if self._found is not None:
            self._services.copy(self._found.path)

    async def action_evaluate(self) -> None:
        """Begin an evaluation of the run's adapter, and show it."""
        run_id = await self._actions.start("evaluate", {"adapter_run": self._run.id})
        if run_id is not None:
            self.dismiss()
            self._services.show_new_run("evaluate", run_id)


def report_text(found: RunReport | None) -> Content:
    """Figures, worst answers and the report's path; where there is no report, how to come by one."""
    if found is None:
        return styled(
            "This run was not evaluated yet. An evaluation asks the base model and the adapter the same questions,"
            " held-out ones among them, and writes a report.\n\n",
            ("m", "bold $accent"), " evaluates it now; a minute or two for a small model.",
        )  # fmt: skip
    parts: list[Any] = []
    if found.comparison is None:
        parts.append(NO_HELD_OUT)
    else:
        compared = comparison_from(found.comparison)
        parts += [comparison_content(compared)]
        if compared.worst:
            parts.append((f"\n\n{worst_title(compared).capitalize()}\n", DIM))
        for one in compared.worst:
            parts += ["\n", _worst(one), "\n"]
    if found.knowledge is not None:
        parts += ["\n\n", knowledge_content(knowledge_from(found.knowledge))]
    gone = "" if is_file(found.path) else " (no longer there)"
    parts += [("\n\nReport  ", DIM), safe_text(found.path, "bold"), gone]
    parts += [("\n        ", DIM), ("open it in a browser; report.md beside it says the same as text", DIM)]
    return styled(*parts)


def _worst(one: ComparedAnswer) -> Content:
    """A question with the expected answer and those of both models."""
    source = ("  " + one.document, DIM) if one.document else ""
    return styled(
        safe_text(question_of(one.prompt), "bold"), source,
        ("\n  expected   ", DIM), safe_text(one.reference),
        ("\n  base       ", DIM), (f"{score_mark(one.before_score)}  ", ""), safe_text(one.before or "(nothing)"),
        ("\n  fine-tuned ", DIM), (f"{score_mark(one.score)}  ", ""), safe_text(one.after or "(nothing)"),
    )  # fmt: skip
