"""Generate: the sources, the pairs as they are judged, progress and cost, and the keys that review a pair."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal
from textual.timer import Timer
from textual.widgets import Input

from lora_tui.store import runs
from lora_tui.store.connection import Store
from lora_tui.store.queries.generation import PairFilter, PairOrder
from lora_tui.store.queries.runs import RunLine
from lora_tui.text import count
from lora_tui.tui.actions import AppActions
from lora_tui.tui.screens.base import RunScreen, titled
from lora_tui.tui.screens.pair_list import PairList
from lora_tui.tui.services import AppServices
from lora_tui.tui.store_reader import Throttle
from lora_tui.tui.views.generation import GenerationView, analysis_lines, progress_lines, source_cells
from lora_tui.tui.views.pairs import next_filter
from lora_tui.tui.widgets.panel import Panel, set_title
from lora_tui.tui.widgets.row_list import Cell, Column, RowList

_SOURCES = (
    Column("file", 0, least=14, keep_end=True),
    Column("✓", 4, right=True),
    Column("✗", 4, right=True),
    Column("parts", 5, right=True, rank=2),
    Column("size", 7, right=True, rank=1),
)
_SEARCH_DELAY = 0.25
_NEWS_SECONDS = 15.0
"""A message about what happened longer ago is not shown."""

_TALL = 36
"""Lines of a screen from which each of several endpoints has a line."""

_BELOW = ("progress", "sources", "analysis")
"""Panels that take turns below the pairs in a small terminal."""


class GenerateScreen(RunScreen):
    """The mode in which pairs are generated and judged."""

    CSS_PATH = "generate.tcss"

    MODE = "generate"
    AUTO_FOCUS = "#pairs"
    STOP_MESSAGE = "Stopping: calls that are paid for are still taken in."
    LESSON = "04-data-and-judging"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("t", "train", "Train on them", id="generate.train",
                tooltip="Train on the accepted pairs of this run, with the current configuration"),
        Binding("T", "train_all", "Train on all", show=False, id="generate.train-all",
                tooltip="Train on them and on the accepted pairs of earlier runs about the same files"),
        Binding("s", "start", "Start", id="generate.start", tooltip="Generate pairs with the current configuration"),
        Binding("w", "rate", "Rate", id="generate.rate",
                tooltip="Say of one pair after the other whether it is good: one key each"),
        Binding("c", "topics", "Topics", show=False, id="generate.topics",
                tooltip="What the folder is about, how many pairs each topic has, and how much is asked about it"),
        Binding("space", "pause", "Pause", id="generate.pause", tooltip="Let calls in flight end, and wait"),
        Binding("space", "unpause", "Go on", id="generate.continue", tooltip="Go on after a pause"),
        Binding("R", "resume", "Resume", id="generate.resume", tooltip="Go on with this run where it was"),
        Binding("x", "stop", "Stop", id="generate.stop", tooltip="Stop and keep; the run can be resumed"),
        Binding("slash", "search", "Search", key_display="/", id="generate.search",
                tooltip="Find pairs by their words; escape ends the search"),
        Binding("f", "filter", "Filter", id="generate.filter", tooltip="All, accepted, rejected, review, waiting"),
        Binding("d", "texts", "Texts", id="generate.texts",
                tooltip="Documents, dialogues and wordings that were written beside the pairs"),
        Binding("v", "view", "View", show=False, id="generate.view",
                tooltip="In a small terminal: progress, sources or analysis below"),
        Binding("escape", "all", "All pairs", show=False, id="generate.all", tooltip="End search, filters and order"),
    ]  # fmt: skip

    def __init__(self, services: AppServices, actions: AppActions) -> None:
        super().__init__(services, actions, services.backend.forecast_generation)
        self._pairs = PairList(services, actions)
        self._find = Input(placeholder="words in question, answer, topic or reason", id="search", compact=True)
        self._view: GenerationView | None = None
        self._sums_throttle = Throttle()
        self._agreement = services.agreement_reader("generation")
        self._sums_stale = False
        """Whether something has happened that the sums do not hold yet."""
        self._below = 0
        self.add_class(f"-below-{_BELOW[0]}", update=False)
        self._search_timer: Timer | None = None
        self._announced: int | None = None
        """The quickstart of which it was said that it trains now."""

    def compose_body(self) -> ComposeResult:
        """Sources and pairs side by side, progress and analysis under them."""
        with Horizontal(id="above"):
            with titled(Container(id="sources-box", classes="box"), "Sources"):
                yield RowList(self._source_row, _SOURCES, id="sources", empty="no files read yet")
            with titled(Container(id="pairs-box", classes="box"), "Pairs"):
                yield self._pairs
                yield self._find
        with Horizontal(id="below"):
            yield Panel("Progress", id="progress")
            yield Panel("Analysis", id="analysis")

    def on_mount(self) -> None:
        """Focus the pairs, also while another window has the terminal's focus: `AUTO_FOCUS` then does not."""
        self._pairs.focus()

    def redraw(self) -> None:
        """Fit the text of the panels."""
        if self._view is not None:
            self._draw(self._view, summed=False)

    # Following the run

    async def open_run(self, store: Store, run: RunLine) -> None:
        """Begin to follow another run, at its newest pairs."""
        self.set_class(False, "-before")
        row = await runs.get(store, run.id)
        assert row is not None, "it was listed"
        self._view = GenerationView(run, row.settings.get("data_generation", {}))
        self._pairs.open_run(run.id)
        self._sums_throttle.reset()

    async def follow_run(self, store: Store, run: RunLine, *, changed: bool, moved: bool) -> None:
        """Read the pairs that have come, and the sums when they are due; draw what is new."""
        view = self._view
        assert view is not None
        view.run = run
        await self._pairs.follow_run(store, changed=changed or moved)
        self._sums_stale |= changed or moved or view.live
        summed = self._sums_stale and self._sums_throttle.due()
        if summed:
            self._sums_stale = False
            await view.update_summary(store, time.time())
            self._sums_throttle.done()
            self._announce_training(view)
            for message in view.take_warnings(time.time() - _NEWS_SECONDS):
                self.services.notify(message, severity="warning")
        await self._pairs.read(store)
        grown = round(10 * math.log1p(view.accepted))  # a tenth more: reading 100,000 pairs takes a second
        known = await self._agreement.update(store, run.id, view.live, grown, changed=changed or moved)
        if known:
            view.known = self._agreement.known
        if changed or moved or summed or known:
            self._draw(view, summed=summed)

    @on(RowList.Moved, "#pairs")
    @on(PairList.Changed)
    def _cursor_moved(self) -> None:
        self._show_title()
        self.services.poll_soon()  # the rows that are in view now may not have been read

    def _announce_training(self, view: GenerationView) -> None:
        """Say once that a quickstart has gone on to training; whoever comes later sees it in the bar."""
        if view.trains_since is None or self._announced == view.run.id:
            return
        self._announced = view.run.id
        if time.time() - view.trains_since < _NEWS_SECONDS:
            self.services.notify("The pairs are done and training begins: 2 shows it.")

    # Drawing

    def _draw(self, view: GenerationView, *, summed: bool) -> None:
        progress = self.query_one("#progress", Panel)
        lines = progress_lines(view, time.time(), progress.content_size.width or 60, tall=self.size.height >= _TALL)
        progress.show(lines, "Progress")
        title, text = analysis_lines(view.analysis, int(view.settings.get("batch_analysis_interval", 5)))
        self.query_one("#analysis", Panel).show(text, title)
        sources = self.query_one("#sources", RowList)
        if summed:
            sources.show(len(view.sources))
        set_title(self.query_one("#sources-box"), f"Sources ({len(view.sources):,})", "c topics")
        self._pairs.show_reasons(bool(view.counts.get("rejected") or view.counts.get("review")), grows=view.live)
        self._show_title()
        # Of a quickstart, whose training goes on by itself, there is nothing to begin.
        ended = not view.live and view.run.mode == "generate" and view.accepted
        self.show_next_step(f"{count(view.accepted, 'pair')} accepted" if ended else "", *self._next_steps(view))
        calls = view.calls
        more = f"{view.accepted:,}/{view.target:,}"
        if self.size.width >= 100 and (preparing := view.preparing(time.time())):
            more = preparing
        elif view.paused:
            more += " · paused"
        elif view.trains_since is not None:
            more += " · training: 2"
        elif view.live and calls.in_flight and self.size.width >= 100:
            more += f" · {view.in_flight}"
        self.show_run_in_bar(view.run, more)

    def _next_steps(self, view: GenerationView) -> Sequence[tuple[str, str]]:
        """What the pairs can be used for: each with its action."""
        both = f"train on all {view.accepted + view.earlier:,}, with earlier runs" if view.earlier else ""
        more = ("train_all", both) if both else ("resume", "go on")
        return ("train", "train on them"), more, ("rate", "rate them")

    def _show_title(self) -> None:
        pairs = self._pairs
        set_title(self.query_one("#pairs-box"), pairs.title(), PairList.HINT if pairs.count else "")
        if pairs.window is not None and not len(pairs.window):
            filtered = pairs.window.filter != PairFilter()
            preparing = self._view.preparing(time.time()) if self._view is not None else ""
            coming = f"No pair yet: {preparing}." if preparing else "No pair yet."
            pairs.set_empty_text("No pair matches; escape shows all." if filtered else coming)

    async def show_no_run(self) -> None:
        """Show the plan where the progress will be; it is drawn before it is made, which may take a while."""
        self._view = None
        self.set_class(True, "-before")
        self._pairs.open_run(None)
        self.show_next_step()
        settings = self.state.settings.data_generation
        starts = "" if self._plan.blocked else f" s starts: {settings.model} reads {settings.input_folder}."
        self._pairs.set_empty_text(f"No pairs yet.{starts}")
        progress = self.query_one("#progress", Panel)
        progress.show(self._plan.content(progress.content_size.width), self._plan.title)
        self.query_one("#analysis", Panel).show(analysis_lines(None, settings.batch_analysis_interval)[1], "Analysis")
        self.show_run_in_bar(None)
        await self._plan.update(self.state.settings, self.forecast)

    def _source_row(self, index: int) -> Sequence[Cell]:
        return source_cells(self._view.sources[index]) if self._view and index < len(self._view.sources) else []

    # Keys

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer only what can be done now."""
        view = self._view
        if action == "train_all" and (view is None or not view.earlier):
            return False
        if action in ("train", "train_all"):
            return view is not None and not view.live and view.run.mode == "generate" and view.accepted > 0
        if action == "topics":
            return view is not None
        if action == "rate":
            return view is not None and len(self._pairs.window or ()) > 0
        if action == "texts":
            return view is not None and bool(view.texts)
        if action in ("pause", "unpause"):
            return view is not None and view.run.state == "running" and view.paused == (action == "unpause")
        if action in ("search", "filter"):
            return self._pairs.window is not None
        return super().check_action(action, parameters)

    async def action_train(self) -> None:
        """Train on the pairs of the run in view."""
        if self._view is not None:
            await self.actions.train_on_pairs(self._view.run.id)

    async def action_train_all(self) -> None:
        """Train on the pairs of the run in view, and on those of earlier runs about the same files."""
        if self._view is not None:
            await self.actions.train_on_pairs(self._view.run.id, with_earlier=True)

    async def action_rate(self) -> None:
        """Rate the pairs of the run in view, one after the other."""
        from lora_tui.tui.screens.rating import open_rating

        if self._view is not None:
            await open_rating(self.services, self._view.run.id, "pair")

    def action_topics(self) -> None:
        """Show the topics of the run in view, whose weights can be changed."""
        from lora_tui.tui.screens.topics import TopicsScreen

        if self._view is not None:
            self.services.open_screen(TopicsScreen(self.services, self.actions, self._view.run))

    def action_texts(self) -> None:
        """Show what was written beside the pairs."""
        from lora_tui.tui.screens.text_list import TextList

        if self._view is not None:
            self.services.open_screen(TextList(self.services, self.actions, self._view.run.id))

    async def action_pause(self) -> None:
        """Begin no new calls to the model."""
        await self.send("pause", "Calls in flight are still answered, then it waits.")

    async def action_unpause(self) -> None:
        """Go on after a pause."""
        await self.send("continue")

    def action_search(self) -> None:
        """Open the search line."""
        self._find.display = True
        self._find.focus()

    async def action_filter(self) -> None:
        """Filter by the next state of pairs."""
        if (window := self._pairs.window) is not None:
            await self._pairs.refilter(next_filter(window.filter))

    async def action_all(self) -> None:
        """End search, filters and order."""
        self._find.value = ""
        self._find.display = False
        self._pairs.focus()
        window = self._pairs.window
        if window is not None and window.is_sorted:
            await self._pairs.sort(PairOrder())
        if window is not None and window.filter != PairFilter():
            await self._pairs.refilter(PairFilter())

    def action_view(self) -> None:
        """Show the next panel below in a small terminal."""
        self.set_class(False, f"-below-{_BELOW[self._below]}")
        self._below = (self._below + 1) % len(_BELOW)
        self.set_class(True, f"-below-{_BELOW[self._below]}")

    @on(Input.Changed, "#search")
    def _search_typed(self, event: Input.Changed) -> None:
        """Search when the typing pauses: each search reads the whole run."""
        if self._search_timer is not None:
            self._search_timer.stop()
        self._search_timer = self.set_timer(_SEARCH_DELAY, self._search)

    async def _search(self) -> None:
        text, window = self._find.value, self._pairs.window
        if window is not None and text != window.filter.search:
            await self._pairs.refilter(replace(window.filter, search=text))

    @on(Input.Submitted, "#search")
    async def _search_entered(self) -> None:
        await self._search()
        self._pairs.focus()

    @on(RowList.Chosen, "#sources")
    async def _source_chosen(self, event: RowList.Chosen) -> None:
        """Show one file's pairs only, or those of all files again."""
        window, view = self._pairs.window, self._view
        if window is not None and view is not None and event.index < len(view.sources):
            path = view.sources[event.index].path
            chosen = None if window.filter.source == path else path
            await self._pairs.refilter(replace(window.filter, source=chosen))

    @on(RowList.Chosen, "#pairs")
    def _open_pair(self) -> None:
        from lora_tui.tui.screens.pair import PairScreen

        if self._pairs.window is not None and (pair_id := self._pairs.pair_id) is not None:
            screen = PairScreen(self.services, self.actions, self._pairs.window, pair_id)
            self.services.ask(screen, self._pairs.put_cursor)
