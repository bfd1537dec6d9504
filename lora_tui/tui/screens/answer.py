"""One answer to a test prompt: prompt, reference, the answer now and at earlier evaluations, metrics, rating."""

from collections.abc import Sequence
from typing import Any, ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from lora_tui.protocol.backend import ReviewResult
from lora_tui.store.feedback import ratings
from lora_tui.store.rows import Sample
from lora_tui.store.training import answers_to
from lora_tui.tui.curve import bar
from lora_tui.tui.dialogs import Dialog
from lora_tui.tui.services import AppServices
from lora_tui.tui.text import DIM, metric_name, safe_line, safe_text, score_mark, styled
from lora_tui.tui.views.reviews import change_text
from lora_tui.tui.widgets.key_hints import KeyHints
from lora_tui.tui.widgets.panel import set_title

_BAR = 16
_LABEL = 9
_BEFORE_ANSWER = _LABEL + 10
"""Columns before an earlier answer: its step, and how well it agreed."""


class AnswerScreen(Dialog[None]):
    """Sheet with the answers of one evaluation, one at a time; takes ratings from 1 (bad) to 5 (as it should be)."""

    LESSON = "06-adaptive-scores"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter", "dismiss", "Back", id="answer.close"),
        Binding("left,p", "step(-1)", "Neighbours", key_display="p n", id="answer.previous"),
        Binding("right,n", "step(1)", "Neighbours", show=False, id="answer.next"),
        Binding("1", "rate(1)", "Rate it", key_display="1-5", id="answer.rate-1", tooltip="Rate it 1 of 5"),
        *(
            Binding(str(n), f"rate({n})", "Rate it", show=False, id=f"answer.rate-{n}", tooltip=f"Rate it {n} of 5")
            for n in range(2, 6)
        ),
        Binding("u", "undo", "Undo", id="answer.undo", tooltip="Take this answer's rating back"),
        Binding("y", "copy", "Copy", id="answer.copy", tooltip="Copy prompt and answer"),
        Binding("question_mark", "app.help", "Help", show=False, key_display="?"),
    ]

    def __init__(self, services: AppServices, run_id: int, samples: Sequence[Sample], index: int) -> None:
        super().__init__()
        self._services = services
        self._run_id = run_id
        self._samples = samples
        self._index = index
        self._change = Content("")

    def compose(self) -> ComposeResult:
        """One scrolling box with everything, hints below."""
        with Vertical(classes="sheet"):
            with VerticalScroll(id="answer-box", classes="box"):
                yield Static(id="answer", markup=False)
            yield KeyHints()

    @on(events.Mount)
    @on(events.Resize)
    async def _show(self) -> None:
        """Show the answer; earlier ones are cut to the width there is."""
        store = self._services.reader.store
        if store is None:
            return
        sample = self._samples[self._index]
        rated = (await ratings(store, self._run_id)).get(sample.id)
        earlier = await answers_to(store, self._run_id, sample.prompt)
        box = self.query_one("#answer-box")
        set_title(box, f"Answer {self._index + 1} of {len(self._samples)}")
        wanted = {"expected": "Expected", "avoid": "Must not say", "control": "Must not say (a control)",
                  "unrelated": "Must say nothing of what is taught (a control)"}  # fmt: skip
        parts: list[Any] = [
            ("Prompt\n", DIM), safe_text(sample.prompt, "bold"),
            (f"\n\n{wanted.get(sample.kind, sample.kind)}\n", DIM), safe_text(sample.reference),
            ("\n\nSays\n", DIM), safe_text(sample.answer or "(nothing)", "bold"),
            ("\n\nAgrees ", DIM), (score_mark(sample.score), "bold"),
            ("   your rating ", DIM), (f"{rated} of 5" if rated else "none yet: 1 bad … 5 as it should be", "bold"),
            *(("\n\n", self._change) if self._change.plain else ()), "\n\n", _metric_lines(sample),
        ]  # fmt: skip
        if len(earlier) > 1:
            parts.append(("\n\nAs it learned", DIM))
            room = max(20, box.content_size.width - _BEFORE_ANSWER - 1)
            # The base model is asked last, and is where the run began.
            for step, model, score, answer in sorted(earlier, key=lambda one: (one[1] != "base", one[0])):
                label = "base" if model == "base" else f"step {step:,}"
                parts += [
                    "\n",
                    (f"{label:>{_LABEL}}  {score_mark(score):<7} ", DIM),
                    safe_line(answer or "(nothing)", room),
                ]
        self.query_one("#answer", Static).update(styled(*parts))

    async def action_step(self, by: int) -> None:
        """Show the answer before or after."""
        if 0 <= self._index + by < len(self._samples):
            self._index += by
            self._change = Content("")
            self.query_one("#answer-box").scroll_home(animate=False)
            await self._show()

    async def action_rate(self, rating: int) -> None:
        """Rate the answer, and report how that changed the aggregator's weights."""
        rated = self._services.backend.rate_sample(self._samples[self._index].id, rating)
        await self._report(await self._services.attempt(rated))

    async def action_undo(self) -> None:
        """Take this answer's rating back."""
        undone = await self._services.attempt(self._services.backend.undo_sample_rating(self._samples[self._index].id))
        if undone is None:
            self._services.notify("This answer has no rating to take back.")
        await self._report(undone)

    async def _report(self, result: ReviewResult | None) -> None:
        """Show what a rating did to the weights and to the score."""
        if result is not None:
            self._change = change_text(result, 2)
            self._services.poll_soon()
            await self._show()

    def action_copy(self) -> None:
        """Send prompt and answer to the clipboard."""
        sample = self._samples[self._index]
        self._services.copy(f"{sample.prompt}\n{sample.answer}\n")


def _metric_lines(sample: Sample) -> Content:
    """A line for each metric: name, bar, value."""
    return Content("\n").join(
        styled((f"{metric_name(name):<14}", DIM), (f"{bar(value, _BAR):<{_BAR}}", "$accent"), f" {value:.2f}")
        for name, value in sample.metrics.items()
    )
