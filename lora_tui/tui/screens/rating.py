"""The rating queue: one pair or answer after the other, judged with one key each.

It shows no score before the rating: who has seen it agrees with it. What was judged is named below the next one, with
what the score had said, so that a slip is seen and taken back.
"""

from typing import Any, ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from lora_tui.protocol.agreement import ScoreAgreement, agreement_text
from lora_tui.protocol.backend import ReviewResult
from lora_tui.protocol.rating import ROUND, RatingItem, RatingQueue, RatingTotals, Subject
from lora_tui.text import count, one_line, question_of
from lora_tui.tui.curve import bar
from lora_tui.tui.dialogs import Dialog
from lora_tui.tui.services import AppServices
from lora_tui.tui.text import DIM, safe_line, safe_text, styled
from lora_tui.tui.views.pairs import evidence_line, passage_text
from lora_tui.tui.views.reviews import change_text
from lora_tui.tui.widgets.key_hints import KeyHints
from lora_tui.tui.widgets.panel import Line, set_title

_BAR = 10
_EFFECT = {
    "pair": "g accepts the pair, b rejects it, whatever its score; the file follows",
    "sample": "g: an answer that you would accept, b: one that you would not",
}


class RatingScreen(Dialog[str]):
    """Sheet with what is to be rated; returns a sentence that sums the sitting up, empty where nothing was rated."""

    LESSON = "06-adaptive-scores"
    AUTO_FOCUS = "#rate-source"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("g", "rate(True)", "Good", id="rate.good", tooltip="Good: accept this pair; an answer that is right"),
        Binding("b", "rate(False)", "Bad", id="rate.bad", tooltip="Bad: reject this pair; an answer that is wrong"),
        Binding("s", "skip", "Skip", id="rate.skip", tooltip="Leave this one; it is not asked again in this sitting"),
        Binding("u", "undo", "Undo", id="rate.undo", tooltip="Take the last key back, and ask about that one again"),
        Binding("escape,q", "close", "End", id="rate.close", tooltip="End; every rating is stored already"),
        Binding("question_mark", "app.help", "Help", show=False, key_display="?"),
    ]

    def __init__(self, services: AppServices, queue: RatingQueue) -> None:
        super().__init__()
        self._services = services
        self._queue = queue
        self._item: RatingItem | None = None
        self._failed = False
        """Whether the next one could not be read; then it is not known whether any is left."""
        self._answered: list[tuple[RatingItem, bool | None]] = []
        """What was asked, and whether it is good; None where it was skipped."""
        self._totals: RatingTotals | None = None
        self._aim = ROUND
        self._first: ReviewResult | None = None
        """The first rating's result: its weights before are those before the sitting."""
        self._newest: ReviewResult | None = None
        self._agreement: ScoreAgreement | None = None
        self._last = styled((_EFFECT[queue.subject], DIM))

    def compose(self) -> ComposeResult:
        """Progress, what is asked about, its passage or reference, what the last key did."""
        with Vertical(classes="sheet", id="rating"):
            yield Line(id="rate-progress")
            with Container(id="rate-parts"):
                with VerticalScroll(id="rate-asked", classes="box"):
                    yield Static(id="rate-question", markup=False)
                    yield Static(id="rate-answer", markup=False)
                with VerticalScroll(id="rate-source", classes="box"):
                    yield Static(id="rate-text", markup=False)
            yield Line(id="rate-last")
            yield KeyHints()

    @on(events.Mount)
    async def _begin(self) -> None:
        await self._read_totals()
        self._aim = min(ROUND, self._totals.left) if self._totals is not None else ROUND
        await self._ask_next()

    @property
    def _rated(self) -> list[bool]:
        """The ratings of this sitting."""
        return [good for _, good in self._answered if good is not None]

    async def _read_totals(self) -> None:
        totals = await self._services.attempt(self._services.backend.rating_totals(self._queue))
        self._totals = totals or self._totals

    async def _ask_next(self) -> None:
        """Find what to ask about next, and show it."""
        skipped = {item.id for item, good in self._answered if good is None}
        self._item, self._failed = None, True
        with self._services.reporting():
            self._item = await self._services.backend.next_to_rate(self._queue, skipped)
            self._failed = False
        if self._item is None and not self._failed:
            await self._read_agreement()
        self._show()

    async def _read_agreement(self) -> None:
        """Ask what the ratings say of the score."""
        backend = self._services.backend
        agreement = backend.pairs_agreement if self._queue.subject == "pair" else backend.answers_agreement
        self._agreement = await self._services.attempt(agreement(self._queue.run_id))

    @on(events.Resize)
    def _show(self) -> None:
        """Show the question at hand, that it could not be read, or that nothing is left."""
        item, totals = self._item, self._totals
        if totals is None:
            return
        given = len(self._rated)
        noun = self._queue.noun
        done = (
            f"{given} of {self._aim} in this sitting"
            if given <= self._aim
            else f"{given} rated here: enough for one sitting"
        )
        progress: list[Any] = [
            (f"Rate the {noun}s of run {self._queue.run_id}", "bold"),
            ("   ", DIM),
            (done, "bold"),
            (f"   {totals.rated:,} rated in all", DIM),
            (f"   {bar(min(1.0, given / self._aim) if self._aim else 1.0, _BAR):<{_BAR}}", "$accent"),
        ]  # the bar is the first to be cut
        self.query_one("#rate-progress", Line).show(styled(*progress))
        self.query_one("#rate-last", Line).show(self._last)
        asked, source = self.query_one("#rate-asked"), self.query_one("#rate-source")
        question, answer, text = (self.query_one(f"#rate-{name}", Static) for name in ("question", "answer", "text"))
        if item is None:
            set_title(asked, "Not read" if self._failed else "Done")
            set_title(source, "What it has come to")
            skipped = len(self._answered) - given
            left = f", but for {skipped} that you skipped" if skipped else ""
            all_of = f"Every {noun} of run {self._queue.run_id} that was measured is rated{left}."
            unread = f"The next {noun} could not be read. s tries again; every rating so far is stored."
            question.update(styled((unread if self._failed else all_of, "bold")))
            answer.update("")
            text.update(self._summary())
            return
        set_title(asked, f"{noun.capitalize()} {item.id}")
        question.update(safe_text(question_of(item.question), "bold"))
        answer.update(safe_text(item.answer or "(nothing)"))
        if item.subject == "pair":
            set_title(source, one_line(f"Passage · {item.origin}", 60))
            text.update(passage_text(item.passage, item.evidence))
        else:
            set_title(source, "Expected")  # and not by which model: who knows that judges the model
            text.update(safe_text(item.reference))
        asked.scroll_home(animate=False)
        source.scroll_home(animate=False)
        self.call_after_refresh(self._scroll_to_evidence)  # when it is laid out

    def _scroll_to_evidence(self) -> None:
        """Bring the evidence into view where the passage is longer than its place."""
        item, source = self._item, self.query_one("#rate-source")
        width = source.scrollable_content_region.width
        if item is not None and (line := evidence_line(item.passage, item.evidence, width)) is not None:
            source.scroll_to(y=line, animate=False)

    def _summary(self) -> Content:
        """What the sitting has come to: the ratings, and the weights that moved."""
        given, totals = self._rated, self._totals
        if totals is None:
            return Content("")
        here = f"{count(len(given), self._queue.noun)} rated here: {sum(given)} good, {len(given) - sum(given)} bad."
        parts: list[Any] = [here + "\n"] if given else []
        parts.append(f"In all {count(totals.rated, 'rating')}: {totals.good} good, {totals.bad} bad.")
        if self._first is not None and self._newest is not None:
            moved = change_text(ReviewResult("", self._first.before, self._newest.after), 1)
            parts += ["\n\n", moved] if moved.plain else []
        if self._agreement is not None:
            parts += [("\n\nhow well the score agrees with all ratings\n", DIM), agreement_text(self._agreement)]
        return styled(*parts)

    async def action_rate(self, good: bool) -> None:  # Textual hands the binding's value over
        """Rate what is shown, and go on to the next."""
        item = self._item
        if item is None:
            return
        result = await self._services.attempt(self._services.backend.rate_item(item, good=good))
        if result is None:
            return
        self._answered.append((item, good))
        self._note(result)
        self._last = _said_of(item, result, good=good)
        await self._read_totals()
        await self._ask_next()

    async def action_skip(self) -> None:
        """Leave what is shown, and go on to the next; where that could not be read, try again."""
        if self._item is None:
            if self._failed:
                await self._ask_next()
            return
        self._answered.append((self._item, None))
        self._last = styled(("– ", DIM), "skipped: «", safe_line(question_of(self._item.question), 40), "»")
        await self._ask_next()

    async def action_undo(self) -> None:
        """Take the last key back, and ask about that one again."""
        if not self._answered:
            self._services.notify("There is nothing to take back.")
            return
        item, good = self._answered[-1]
        if good is not None:
            result = await self._services.attempt(self._services.backend.undo_rating(item))
            if result is None:
                return
            self._note(result)
        self._answered.pop()
        self._last = styled(("← ", DIM), "taken back; rate it anew")
        await self._read_totals()
        self._item = item
        self._show()

    def _note(self, result: ReviewResult) -> None:
        """Keep what the sitting has done to the weights."""
        self._services.poll_soon()
        if result.after:
            self._first = self._first or result
            self._newest = result

    async def action_close(self) -> None:
        """End the sitting, and say what it has come to."""
        given = self._rated
        said = ""
        if given:
            await self._read_agreement()
            said = f"{count(len(given), self._queue.noun)} rated: {sum(given)} good, {len(given) - sum(given)} bad."
            said += f"\nThe score: {agreement_text(self._agreement)}." if self._agreement is not None else ""
        self.dismiss(said)


def _said_of(item: RatingItem, result: ReviewResult, *, good: bool) -> Content:
    """What a rating did, on a line: the score comes only now, when it can no longer sway anybody."""
    parts: list[Any] = [("✓ good", "bold $success") if good else ("✗ bad", "bold $error")]
    if result.scores is not None:
        parts.append((f" · the score had said {result.scores[0]:.{1 if item.subject == 'pair' else 2}f}", DIM))
    about = result.message if item.subject == "pair" else f"«{one_line(question_of(item.question), 60)}»"
    return styled(*parts, (" · ", DIM), safe_line(about, 200))


async def open_rating(services: AppServices, run_id: int, subject: Subject | None = None) -> None:
    """Open the rating queue of a run's pairs or answers, those that it has; where there are none, say so."""
    queue = await services.attempt(services.backend.rating_queue(run_id, subject))
    if queue is not None:
        services.open_screen(RatingScreen(services, queue), lambda said: services.notify(said) if said else None)
