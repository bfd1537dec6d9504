"""State of one generation run and its text: progress, calls, tokens, cost, scores, sources and batch analyses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from textual.content import Content

from lora_tui.config.addresses import asked_models
from lora_tui.config.prices import CONFIGURED, Prices, prices_of
from lora_tui.protocol.agreement import ScoreAgreement
from lora_tui.protocol.endpoints import asked_count, endpoint_line
from lora_tui.store import generation as store_generation
from lora_tui.store import runs
from lora_tui.store import texts as store_texts
from lora_tui.store.connection import Store
from lora_tui.store.queries.generation import (
    CallStatistics,
    SourceLine,
    call_statistics,
    score_histogram,
    source_lines,
)
from lora_tui.store.queries.runs import RunLine, events_of_kinds, newest_event
from lora_tui.store.rows import LIVE_STATES, AnalysisRow, Event, worked_seconds
from lora_tui.text import count, duration, file_size, one_line, progress_text
from lora_tui.tui.curve import bar
from lora_tui.tui.text import DIM, number, percent, safe_line, safe_text, short_count, styled
from lora_tui.tui.views.agreement import guarantee_lines

_BINS = 20
"""Bars of the histogram of scores: half a point each."""

_PACE_PAIRS = 5
"""Accepted pairs from which there is a pace to reckon with: the first ones took the loading of the model as well."""

_WARNINGS = 20
"""Warnings that are read at once."""

_NOTHING_NEW = "nothing new accepted in a whole pass"
"""Reason of a run that has found all pairs."""

_FREE = " · no cost"
_BUILTIN = "builtin"
"""The model that runs in this program: its tokens cost nothing and are not shown."""

SHOWN_FORMS = {"rewrite": "document", "summary": "summary", "dialogue": "dialogue", "phrasing": "wording"}
"""What each form is called on screens, in at most eight characters."""


@dataclass
class GenerationView:
    """A generation run with its summary from the store; `update_summary` reads it again."""

    run: RunLine
    settings: Mapping[str, Any]
    """The run's ``data_generation`` section."""
    sources: Sequence[SourceLine] = ()
    calls: CallStatistics = field(default_factory=lambda: CallStatistics(0, 0, 0, 0, (), 0.0, None, None))
    histogram: tuple[Sequence[int], Sequence[int]] = (), ()
    """Pairs by score in `_BINS` bins: the accepted, and all others."""
    analysis: AnalysisRow | None = None
    paused: bool = False
    waiting: str = ""
    """Why nothing goes on, in words, while the endpoint does not answer or a call is about to be tried again."""
    trains_since: float | None = None
    """When a quickstart, which generates before it trains, has begun to train (seconds since the epoch)."""
    phase: Mapping[str, Any] = field(default_factory=dict)
    """Payload of the newest progress event of a live run: starting, fetching, loading, generating."""
    phase_since: float = 0.0
    """When that phase began, as far as it was seen."""
    counts: dict[str, int] = field(default_factory=dict)
    texts: dict[str, dict[str, int]] = field(default_factory=dict)
    """Documents, dialogues and wordings by form and state."""
    reason: str = ""
    """Why the run is over, from its result, such as ``target reached``; empty while it is live."""
    earlier: int = 0
    """Accepted pairs of earlier runs about the same files; counted once this run has ended."""
    known: ScoreAgreement | None = None
    """What ratings say of the score and its threshold; None before it was asked."""
    warnings: list[Event] = field(default_factory=list)
    """Warnings that have come and were not taken yet."""
    _warned: int = 0
    """Id of the newest warning that was read."""
    first_seen: tuple[float, int] | None = None
    """When this run was first shown while live, and the pairs accepted by then: the base of the pace."""

    @property
    def target(self) -> int:
        """Accepted pairs to reach."""
        return int(self.settings.get("total_examples", 0))

    @property
    def threshold(self) -> float:
        """Score from which a pair is accepted, 0-10."""
        return float(self.settings.get("evaluation_threshold", 7.0))

    @property
    def accepted(self) -> int:
        """Accepted pairs."""
        return self.counts.get("accepted", 0)

    @property
    def live(self) -> bool:
        """Whether a process owns the run: queued, running or stopping."""
        return self.run.state in LIVE_STATES

    @property
    def is_exhausted(self) -> bool:
        """Whether the run has ended with fewer pairs than were asked for, since the text holds no more."""
        return self.run.state == "finished" and self.reason == _NOTHING_NEW

    @property
    def is_builtin(self) -> bool:
        """Whether the pairs are written by the model in this program."""
        return self.settings.get("model") == _BUILTIN and not self.calls.prompt_tokens

    @property
    def in_flight(self) -> str:
        """Requests in flight, and how many the endpoint is given at most once that is found: "46 of 48 in flight"."""
        limit = self.phase.get("limit") if self.phase.get("limit_found") else None
        of = f" of {limit:,}" if isinstance(limit, int) else ""
        return f"{self.calls.in_flight:,}{of} in flight"

    async def update_summary(self, store: Store, now: float) -> None:
        """Read counts, files, calls, scores, the newest analysis and whether the run is paused; `now` is the time."""
        run_id = self.run.id
        self.counts = await store_generation.pair_counts(store, run_id)
        self.texts = await store_texts.counts(store, run_id)
        if self.first_seen is None and self.live:
            self.first_seen = now, self.accepted
        self.sources = await source_lines(store, run_id)
        self.calls = await call_statistics(store, run_id, now)
        self.histogram = await score_histogram(store, run_id, _BINS)
        self.analysis = await store_generation.newest_analysis(store, run_id)
        event = await newest_event(store, run_id, "paused")
        self.paused = self.live and event is not None and bool(event.payload.get("paused"))
        self.waiting = await _waiting(store, run_id, now) if self.live else ""
        self.warnings += await events_of_kinds(store, run_id, ("warning",), self._warned, _WARNINGS)
        self._warned = max([self._warned, *(event.id for event in self.warnings)])
        if not self.live:
            row = await runs.get(store, run_id)
            self.reason = str((row.result or {}).get("reason", "")) if row is not None else ""
            self.earlier = sum((await store_generation.accepted_of_earlier_runs(store, run_id)).values())
        progress = await newest_event(store, run_id, "progress") if self.live else None
        if progress is None:
            self.phase = {}
        else:
            if progress.payload.get("phase") != self.phase.get("phase"):
                self.phase_since = progress.at
            self.phase = progress.payload
        plan = await newest_event(store, run_id, "plan") if self.run.mode == "quickstart" and self.live else None
        self.trains_since = plan.at if plan is not None else None

    def take_warnings(self, since: float) -> list[str]:
        """The warnings that have come since the last call, without those from before `since`."""
        taken = [str(event.payload.get("message", "")) for event in self.warnings if event.at >= since]
        self.warnings.clear()
        return taken

    def preparing(self, now: float) -> str:
        """What is done before the first pair, with how far it is and for how long; empty once pairs are generated."""
        name, done, total = str(self.phase.get("phase", "")), self.phase.get("done") or 0, self.phase.get("total") or 0
        over = name in ("", "generating") or (total and done >= total) or self.trains_since is not None
        return "" if over or not self.live else progress_text(name, done, total, now - self.phase_since)

    def seconds_left(self, now: float) -> float | None:
        """Seconds until the target is reached at the pace so far; None where there is no pace yet."""
        if not self.live or self.paused or self.run.started_at is None or self.accepted < _PACE_PAIRS:
            return None
        since, before = self.first_seen or (self.run.started_at, 0)
        # The pace since the run is shown is better than that of the whole run, which may have worked otherwise.
        gained, seconds = self.accepted - before, now - since
        if gained < 3 or seconds < 20:
            gained, seconds = self.accepted, worked_seconds(self.run, now) or 0.0
        return max(0, self.target - self.accepted) * seconds / gained if gained else None

    def dollars(self) -> float | None:
        """US dollars spent so far by the prices that are configured or listed; None where there are none."""
        prices = self.prices
        if not prices.known:
            return None
        return sum(prices.cost(one.prompt, one.completion, one.cached, one.model) for one in self.calls.by_model)

    @property
    def prices(self) -> Prices:
        """What the run's models cost."""
        names = ("prompt_price", "completion_price", "cached_price")
        sent, written, cached = (float(self.settings.get(key) or 0) for key in names)
        configured = Prices(sent, written, cached or None, source=CONFIGURED)
        return prices_of(asked_models(self.settings), configured)


async def _waiting(store: Store, run_id: int, now: float) -> str:
    """What a live run waits for: an endpoint that is away, else the next try of a call that failed; else nothing."""
    away = await newest_event(store, run_id, "waiting")
    if away is not None and away.payload.get("waiting"):
        started = await newest_event(store, run_id, "started")
        if started is None or started.id < away.id:  # a process that goes on with the run waits anew
            return f"waiting for the endpoint for {duration(now - away.at)}: {away.payload.get('reason', '')}"
    retry = await newest_event(store, run_id, "retry")
    seconds = float(retry.payload.get("seconds") or 0) if retry is not None else 0.0
    if retry is None or now > retry.at + seconds:
        return ""
    return f"trying again in {duration(retry.at + seconds - now)}: {retry.payload.get('reason', '')}"


def progress_lines(view: GenerationView, now: float, width: int, *, tall: bool = False) -> Content:
    """The progress panel, a line each: progress, verdicts, calls, tokens, errors, scores, and what these guarantee.

    Of several endpoints each has a line where the screen is `tall`, else those that are not asked.
    Before the first pair it says what is being prepared.
    """
    if view.preparing(now) and not view.calls.calls:
        coming = "Pairs appear above as they are written and judged."
        return styled(_progress(view, now, width), (f"\n\n{coming}", DIM))
    waiting = [safe_line(view.waiting, max(10, 2 * width), "$warning")] if view.waiting else []
    errors = [] if waiting or (view.texts and not view.calls.failures) else [_errors(view, width)]
    scores = [histogram_line(view, width), *guarantee_lines(view.known, width)]
    endpoints = _endpoints(view, width, tall=tall)
    if view.texts or (endpoints and not tall):  # a line more than 24 lines have room for: what the score is worth stays
        scores.reverse()
    return Content("\n").join(
        [
            _progress(view, now, width),
            _verdicts(view),
            *_texts(view),
            *_calls(view, width),
            *endpoints,
            *waiting,
            *errors,
            *scores,
        ]
    )


def _endpoints(view: GenerationView, width: int, *, tall: bool) -> list[Content]:
    """Lines about the endpoints of a live run that has several."""
    found: Sequence[Mapping[str, Any]] = view.phase.get("endpoints") or () if view.live else ()
    if not found:
        return []
    asked = asked_count(found)
    if not tall:
        out = next((endpoint_line(one) for one in found if one.get("state") not in ("works", "tried")), "")
        text = f"{asked} of {len(found)} endpoints work{f' · {out}' if out else ''}"
        return [safe_line(text, max(10, width), "$warning" if out else "")]
    styles = {"away": "$warning", "left out": "$warning"}
    return [safe_line(endpoint_line(one), max(10, width), styles.get(str(one.get("state")), "")) for one in found]


def _progress(view: GenerationView, now: float, width: int) -> Content:
    left = view.seconds_left(now)
    over = "all found" if view.is_exhausted else view.run.state
    end = f" {duration(left)} left" if left is not None else f" {over}" if not view.live else ""
    end = " paused" if view.paused else " waiting" if view.waiting else end
    if preparing := view.preparing(now):
        return styled(("… ", "$accent"), (preparing, "bold"))
    label = f"{view.accepted:,} of {view.target:,} accepted "
    room = max(4, width - len(label) - len(end) - 3)
    filled = bar(view.accepted / view.target if view.target else 0, room)
    rest = ("─" * (room - len(filled)), "$foreground 25%")
    return styled((label, "bold"), (filled, "$accent"), rest, (end, DIM))


def _verdicts(view: GenerationView) -> Content:
    counts = view.counts
    decided = view.accepted + counts.get("rejected", 0)
    parts: list[Any] = [f"✗ {counts.get('rejected', 0):,} rejected"]
    if counts.get("review"):
        parts.append((f" · ? {counts['review']:,} review", "$warning"))
    if counts.get("waiting") and view.live:
        parts.append(f" · … {counts['waiting']:,} to judge")
    if decided:
        parts.append((f" · {percent(view.accepted, decided)} pass", DIM))
    return styled(*parts)


def _texts(view: GenerationView) -> list[Content]:
    """How many texts were accepted, by form; nothing where none were written."""
    if not view.texts:
        return []
    plurals = {"summary": "summaries"}
    accepted = {form: view.texts[form]["accepted"] for form in SHOWN_FORMS if form in view.texts}
    counted = [count(number, SHOWN_FORMS[form], plurals.get(form)) for form, number in accepted.items() if number]
    counted = counted or ["no text accepted yet"]
    return [styled(("✓ ", "$success"), " · ".join(counted), ("  d shows them", DIM))]


def _calls(view: GenerationView, width: int) -> list[Content]:
    calls = view.calls
    figures = f"{view.in_flight} · " if view.live else ""
    figures += count(calls.calls, "call")
    if view.is_builtin:
        where = " on this machine"
        return [styled(figures, where if len(figures) + len(where) + len(_FREE) <= width else "", _FREE)]
    figures += f" · {calls.retried:,} retried · {calls.failed:,} failed"
    if calls.unknown:
        figures += f" · {calls.unknown:,} unknown"
    cached, reasoning = (sum(getattr(one, name) for one in calls.by_model) for name in ("cached", "reasoning"))
    tokens = f"{short_count(calls.prompt_tokens)} tokens in"
    tokens += f" ({short_count(cached)} cached)" if cached else ""
    tokens += f" · {short_count(calls.completion_tokens)} out"
    tokens += f" ({short_count(reasoning)} reasoning)" if reasoning else ""
    if view.live:
        tokens += f" · {short_count(calls.tokens_per_s)} tokens/s"
    money = view.dollars()
    budget = float(view.settings.get("budget_dollars") or 0)
    cost = "" if money is None else f" · ${money:.2f}" + (f" of ${budget:.2f}" if budget else "")
    return [styled(figures), styled(tokens, (cost, "bold"))]


def _errors(view: GenerationView, width: int) -> Content:
    """Latency of calls in seconds, and failures by status."""
    calls = view.calls
    latency = ""
    if calls.median_latency is not None and not view.is_builtin:  # its calls are batches: each waits for the others
        latency = f"{calls.median_latency:.1f} s a call, 95 % under {number(calls.p95_latency, '.1f')} s · "
    failures = " · ".join(
        f"{one_line(failure.status, 30)}{f' {failure.http_status}' if failure.http_status else ''} ×{failure.calls:,}"
        for failure in calls.failures
    )
    return styled((latency, DIM), safe_line(failures, max(10, width), "$warning") if failures else ("no errors", DIM))


def histogram_line(view: GenerationView, width: int) -> Content:
    """A histogram of scores 0-10 with the threshold marked; bins with mostly accepted pairs are bright, others dim."""
    accepted, _ = view.histogram
    totals = [sum(both) for both in zip(*view.histogram, strict=True)]
    if not any(totals):
        return Content.styled("score  no pair is judged yet", DIM)
    top = max(totals)
    cut = min(_BINS, max(0, round(view.threshold / 10 * _BINS)))
    parts: list[Any] = ["score 0 "]
    for index, total in enumerate(totals):
        if index == cut:
            parts.append(("┆", "bold $warning"))
        block = "▁▂▃▄▅▆▇█"[min(7, int(total / top * 8 - 1e-9))] if total else " "
        parts.append((block, "$accent" if accepted[index] * 2 >= total else DIM))
    parts += [" 10", (f"  threshold {view.threshold:g} ┆", DIM)] if width > 48 else [" 10"]
    return styled(*parts)


def analysis_lines(analysis: AnalysisRow | None, interval: int) -> tuple[str, Content]:
    """Title and text of the newest batch analysis: statistics, the model's words, directives for further prompts."""
    if analysis is None:
        return "Analysis", Content.styled(f"The first comes after {interval} accepted pairs.", DIM)
    figures = analysis.statistics
    facts = f"{figures.get('files_covered', 0)} of {figures.get('files', 0)} files"
    if figures.get("tree_topics"):
        facts += f" · {figures.get('tree_topics_covered', 0):,} of {count(int(figures['tree_topics']), 'topic')}"
        facts += f" · {figures.get('passages_covered', 0):,} of {count(int(figures.get('passages', 0)), 'passage')}"
    else:
        facts += f" · {count(int(figures.get('different_topics', 0)), 'topic')}"
    if isinstance(figures.get("entropy"), int | float) and not figures.get("tree_topics"):
        facts += f" · entropy {figures['entropy']:.2f} bits"
    facts += _since_before(figures)
    parts: list[Any] = [(facts + "\n", DIM), safe_text(analysis.text.strip(), limit=1200)]
    if analysis.directives:
        parts.append(("\nThe next prompts say:", DIM))
        for directive in analysis.directives:
            parts += ["\n", ("↳ ", "$accent"), safe_line(str(directive), 300)]
    return f"Analysis {analysis.version} (after {analysis.at_accepted:,} accepted)", styled(*parts)


def _since_before(figures: Mapping[str, Any]) -> str:
    """What the newest questions are like, each figure after what it was at the analysis before."""
    before = figures.get("before") or {}
    shown = []
    for name, words, factor, form, unit in (
        ("near_duplicate_rate", "alike", 100, ".0f", "%"),
        ("question_entropy", "words", 1, ".1f", "bits"),
    ):
        now, was = figures.get(name), before.get(name)
        if isinstance(now, int | float) and "question_entropy" in figures:
            values = [format(factor * value, form) for value in (was, now) if isinstance(value, int | float)]
            shown.append(f"{words} {' → '.join(dict.fromkeys(values))} {unit}")
    return "\nnewest 50: " + " · ".join(shown) if shown else ""


def source_cells(source: SourceLine) -> list[tuple[str, str]]:
    """The cells of a source file: name, accepted, rejected, passages and size; a skipped file has its name alone."""
    name = one_line(source.path, 200)
    if source.skipped:
        return [(f"– {name}", "dim"), ("skip", "dim"), ("", ""), ("", ""), ("", "")]
    return [
        (name, ""),
        (f"✓{source.accepted}", "good" if source.accepted else "dim"),
        (f"✗{source.rejected}", "" if source.rejected else "dim"),
        (f"{source.chunks}", "dim"),
        (file_size(source.bytes), "dim"),
    ]
