"""One pair: passage and evidence, question and answer, its scores, and the keys that review it."""

from collections.abc import Awaitable, Callable
from typing import ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Static, TextArea

from lora_tui.protocol.backend import ReviewResult
from lora_tui.store.queries.generation import PairDetail, pair_detail
from lora_tui.text import clean, one_line
from lora_tui.tui.actions import AppActions
from lora_tui.tui.dialogs import Dialog
from lora_tui.tui.screens.base import titled
from lora_tui.tui.services import AppServices
from lora_tui.tui.text import DIM, safe_text, styled
from lora_tui.tui.views import pairs as pair_texts
from lora_tui.tui.views.pairs import PairWindow, evidence_line
from lora_tui.tui.views.reviews import change_text
from lora_tui.tui.widgets.key_hints import KeyHints
from lora_tui.tui.widgets.panel import set_title


class PairScreen(Dialog[int | None]):
    """Sheet with one pair of a window, and keys for its neighbours; returns the id of the pair that was shown last."""

    LESSON = "04-data-and-judging"
    AUTO_FOCUS = "#pair-box"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "close", "Back", id="pair.close"),
        Binding("left,p", "step(-1)", "Neighbours", key_display="p n", id="pair.previous"),
        Binding("right,n", "step(1)", "Neighbours", show=False, id="pair.next"),
        Binding("a", "verdict('accepted')", "Accept", id="pair.accept"),
        Binding("r", "verdict('rejected')", "Reject", id="pair.reject"),
        Binding("e", "edit", "Edit", id="pair.edit"),
        Binding("u", "undo", "Undo", id="pair.undo"),
        Binding("y", "copy", "Copy", show=False, id="pair.copy", tooltip="Copy question and answer"),
        Binding("question_mark", "app.help", "Help", show=False, key_display="?"),
    ]

    def __init__(self, services: AppServices, actions: AppActions, window: PairWindow, pair_id: int) -> None:
        super().__init__()
        self._services = services
        self._app_actions = actions
        self._window = window
        self._pair_id = pair_id
        self._detail: PairDetail | None = None
        self._scrolled_for: int | None = None
        self._change = Content("")
        """What the last verdict on this pair did to the weights and its score."""

    def compose(self) -> ComposeResult:
        """Passage left, the pair and its scores right."""
        with Vertical(classes="sheet"):
            with Horizontal(id="pair-parts"):
                with VerticalScroll(id="passage-box", classes="box"):
                    yield Static(id="passage", markup=False)
                with VerticalScroll(id="pair-box", classes="box"):
                    for part in ("text", "verdict", "measures", "judge", "history"):
                        yield Static(id=f"pair-{part}", markup=False)
            yield KeyHints()

    @on(events.Mount)
    async def _show(self) -> None:
        """Read and show the pair."""
        store = self._services.reader.store
        if store is None:
            return
        detail = await pair_detail(store, self._pair_id)
        if detail is None:
            self.dismiss(None)
            return
        self._detail = detail
        pair = detail.pair
        index = self._window.index_of(self._pair_id)
        place = f" {index + 1:,} of {len(self._window):,}" if index is not None else ""
        set_title(self.query_one("#passage-box"), one_line(f"{pair.source} · {detail.heading}".rstrip(" ·"), 60))
        set_title(self.query_one("#pair-box"), f"Pair {pair.id} ·{place}" if place else f"Pair {pair.id}")
        kind = " · ".join(filter(None, (str(pair.slot.get("question_type", "")), str(pair.slot.get("difficulty", "")),
                                        str(pair.slot.get("audience", "")), pair.topic)))  # fmt: skip
        question = safe_text(pair.question, "bold")
        judge = pair_texts.judge_text(detail)
        parts = {
            "passage": pair_texts.passage_text(detail.passage, pair.evidence),
            "pair-text": styled((one_line(kind, 200) + "\n", DIM), question, "\n\n", safe_text(pair.answer)),
            "pair-verdict": Content("\n").join(filter(None, (pair_texts.verdict_text(detail), self._change))),
            "pair-measures": pair_texts.metrics_text(detail),
            "pair-judge": styled(("The judge says\n", DIM), judge) if judge else judge,
            "pair-history": pair_texts.history_text(detail),
        }
        for name, content in parts.items():
            part = self.query_one(f"#{name}", Static)
            part.display = bool(content.plain)  # without content it takes no room
            part.update(content)
        if self._scrolled_for != self._pair_id:  # a verdict leaves the passage where one reads it
            self._scrolled_for = self._pair_id
            self.call_after_refresh(self._scroll_to_evidence)  # when it is laid out

    @on(events.Resize)
    def _scroll_soon(self) -> None:
        self.call_after_refresh(self._scroll_to_evidence)

    def _scroll_to_evidence(self) -> None:
        """Bring the evidence into view where the passage is longer than its place."""
        if self._detail is None:
            return
        box = self.query_one("#passage-box")
        width = box.scrollable_content_region.width
        if (line := evidence_line(self._detail.passage, self._detail.pair.evidence, width)) is not None:
            box.scroll_to(y=line, animate=False)

    def action_close(self) -> None:
        """Go back to the list."""
        self.dismiss(self._pair_id)

    async def action_step(self, by: int) -> None:
        """Show the pair before or after."""
        index = self._window.index_of(self._pair_id)
        target = (index if index is not None else 0) + by
        if 0 <= target < len(self._window):
            self._pair_id = self._window.ids[target]
            self._change = Content("")
            self.query_one("#passage-box").scroll_home(animate=False)
            self.query_one("#pair-box").scroll_home(animate=False)
            await self._show()

    async def action_verdict(self, verdict: str) -> None:
        """Accept or reject this pair."""
        self._changed(await self._app_actions.override_pairs([self._pair_id], verdict))
        await self._show()

    async def action_undo(self) -> None:
        """Take back the last verdict or edit of the run, and show the pair it was about."""
        undone = await self._app_actions.undo(self._window.run_id)
        if undone is not None and undone.pairs:
            self._pair_id = undone.pairs[0]
        self._changed(undone)
        await self._show()

    def _changed(self, result: ReviewResult | None) -> None:
        """Note what a verdict did to the weights and to the score, to be shown under it."""
        if result is not None:
            self._change = change_text(result, 1)

    async def action_edit(self) -> None:
        """Edit the wording."""
        await edit_pair(self._services, self._app_actions, self._pair_id, self._show)

    def action_copy(self) -> None:
        """Send question and answer to the clipboard."""
        if self._detail is not None:
            self._services.copy(f"Question: {self._detail.pair.question}\nAnswer: {self._detail.pair.answer}\n")


class EditPairDialog(Dialog[tuple[str, str] | None]):
    """Form for a pair's question and answer; returns the new wording, None when it was cancelled."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "Cancel", id="edit.cancel"),
        Binding("ctrl+s", "save", "Save", id="edit.save", priority=True),
    ]

    def __init__(self, question: str, answer: str) -> None:
        super().__init__()
        self._question = TextArea(question, id="edit-question", soft_wrap=True, compact=True)
        self._answer = TextArea(answer, id="edit-answer", soft_wrap=True, compact=True)

    def compose(self) -> ComposeResult:
        """Question above answer."""
        with Vertical(classes="dialog -wide-dialog"):
            with titled(Container(id="edit-question-box", classes="box"), "Question"):
                yield self._question
            with titled(Container(id="edit-answer-box", classes="box"), "Answer"):
                yield self._answer
            yield KeyHints()

    def action_save(self) -> None:
        """Return the new wording; empty fields are refused where it is stored."""
        self.dismiss((self._question.text, self._answer.text))


async def edit_pair(
    services: AppServices, actions: AppActions, pair_id: int, on_close: Callable[[], Awaitable[None]] | None = None
) -> None:
    """Open a pair's wording for editing; `on_close` is awaited when that is over, with or without a change."""
    store = services.reader.store
    detail = await pair_detail(store, pair_id) if store is not None else None
    if detail is None:
        return
    # What cannot be shown cannot be edited: it becomes a visible sign.
    before = clean(detail.pair.question), clean(detail.pair.answer)

    async def edited(wording: tuple[str, str] | None) -> None:
        if wording is not None and wording != before:
            await actions.edit_pair(pair_id, *wording)
        if on_close is not None:
            await on_close()

    services.open_screen(EditPairDialog(*before), edited)
