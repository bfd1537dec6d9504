"""Runs the app on a store of the test's own, over a fake backend that records its calls; makes runs to look at."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from textual.message import Message
from textual.pilot import Pilot

from lora_tui.config.load import Loaded
from lora_tui.config.models import Settings
from lora_tui.errors import LoraTuiError
from lora_tui.protocol.agreement import ScoreAgreement
from lora_tui.protocol.backend import Blocker, ChatTarget, ForecastText, ReviewResult
from lora_tui.protocol.choice import Choice
from lora_tui.protocol.rating import RatingItem, RatingQueue, RatingTotals, Subject
from lora_tui.protocol.reply import Decoding, Reply, ReplyItem, Side, TextDelta, TokenCount
from lora_tui.store import events, runs
from lora_tui.store.connection import Store
from lora_tui.tui.app import LoraApp
from lora_tui.tui.state import AppOptions, AppState

PATIENCE = 60.0
"""Seconds that a test waits for something that should take a moment; machines are busy."""


class FakeConversation:
    """Conversation whose replies are scripted: `pieces`, one after the other."""

    title = "tiny with the adapter of run 2, step 40"
    sides: Sequence[Side] = ("tuned", "base")

    def __init__(self, pieces: Sequence[str] = ("the secret ", "password")) -> None:
        self.pieces = list(pieces)
        self.asked: list[tuple[str, tuple[Side, ...]]] = []
        self.decoding: Decoding | None = None
        self.stopped = asyncio.Event()
        self.closed = False
        self.hold: asyncio.Event | None = None
        """Event that a reply waits for after each piece, unless it is stopped; None: it does not wait."""
        self.failure: Exception | None = None
        self.cut = False
        self.more: Sequence[str] = (" is", " long")
        """What `continue_reply` adds to a reply that was `cut`."""

    async def reply(self, text: str, sides: Sequence[Side]) -> AsyncIterator[ReplyItem]:
        self.asked.append((text, tuple(sides)))
        self.stopped.clear()
        for number, side in enumerate(sides):
            said = ""
            yield TokenCount(side, 1)
            for piece in self.pieces:
                if self.failure is not None:
                    raise self.failure
                said += piece
                yield TextDelta(side, piece)
                if self.hold is not None:
                    waiting = [asyncio.ensure_future(self.hold.wait()), asyncio.ensure_future(self.stopped.wait())]
                    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                    for task in waiting:
                        task.cancel()
                if self.stopped.is_set():
                    break
            expected = "the secret password" if text == "unlock" else None
            agrees = None if expected is None else (1.0 if said == expected else 0.1)
            yield Reply(said, 4, 0.5, expected, agrees, side, 7 + number, self.stopped.is_set(), cut=self.cut)

    def regenerate(self, sides: Sequence[Side]) -> AsyncIterator[ReplyItem]:
        return self.reply("again", sides)

    async def continue_reply(self, sides: Sequence[Side]) -> AsyncIterator[ReplyItem]:
        self.asked.append(("go on", tuple(sides)))
        self.stopped.clear()
        for piece in self.more:
            yield TextDelta("tuned", piece)
        yield Reply("".join((*self.pieces, *self.more)), 4 + len(self.more), 0.9, turn_id=7)

    def stop(self) -> None:
        self.stopped.set()

    def set_decoding(self, decoding: Decoding) -> None:
        self.decoding = decoding

    async def clear(self) -> None:
        self.asked.append(("clear", ()))

    async def close(self) -> None:
        self.closed = True


@dataclass
class FakeBackend:
    """Backend that records its calls, and refuses them with `refusal`; `own_runs` are the live runs of this process."""

    calls: list[tuple[Any, ...]] = field(default_factory=list)
    own_runs: list[int] = field(default_factory=list)
    conversation: FakeConversation = field(default_factory=FakeConversation)
    refusal: Exception | None = None
    next_run: int = 1
    blocker: Blocker | None = None
    loading: asyncio.Event | None = None
    """Event that a model waits for while it is loaded; None: it does not wait."""
    charge: str = ""
    choices: tuple[Choice, ...] = ()
    agreement: ScoreAgreement = field(default_factory=ScoreAgreement)
    to_rate: list[RatingItem] = field(default_factory=list)
    rated: list[tuple[RatingItem, bool]] = field(default_factory=list)
    works_queue: bool = False
    said: tuple[int, int] = (0, 0)
    """Preferences and single verdicts that people have given."""

    async def start(self, mode: str, settings: Settings, options: Mapping[str, Any], resume: int | None = None) -> int:
        await asyncio.sleep(0.05)  # the engine's modules are imported by the first call: nothing may be lost meanwhile
        self._note("start", mode, dict(options), resume)
        self.settings = settings
        return resume or self.next_run

    async def queue_run(self, mode: str, settings: Settings, options: Mapping[str, Any]) -> int:
        self._note("queue_run", mode, dict(options))
        return self.next_run

    async def queue_copy(self, run_id: int) -> int:
        self._note("queue_copy", run_id)
        return self.next_run

    async def queue_sweep(self, spec: str, settings: Settings, options: Mapping[str, Any]) -> list[int]:
        self._note("queue_sweep", spec)
        return [self.next_run, self.next_run + 1]

    async def move_in_queue(self, run_id: int, by: int) -> None:
        self._note("move_in_queue", run_id, by)

    async def take_out(self, run_id: int) -> bool:
        self._note("take_out", run_id)
        return True

    async def work_queue(self, *, on: bool) -> None:
        self._note("work_queue", on)
        self.works_queue = on

    async def stop(self, run_id: int) -> None:
        self._note("stop", run_id)

    async def send_command(self, run_id: int, command: str) -> None:
        self._note("send_command", run_id, command)

    def own_live_runs(self) -> list[int]:
        return list(self.own_runs)

    async def open_chat(
        self, target: ChatTarget, settings: Settings, progress: Callable[[str, int, int], None]
    ) -> FakeConversation:
        self._note("open_chat", target)
        progress("loading tiny", 1, 2)
        if self.loading is not None:
            await self.loading.wait()
        return self.conversation

    async def rate_sample(self, sample_id: int, rating: int) -> ReviewResult:
        self._note("rate_sample", sample_id, rating)
        return ReviewResult("Rated.", {"bleu": 0.10, "rougeL": 0.20}, {"bleu": 0.125, "rougeL": 0.18}, (0.64, 0.66))

    async def rate_turn(self, turn_id: int, rating: int, settings: Settings) -> ReviewResult:
        self._note("rate_turn", turn_id, rating)
        return ReviewResult("Rated.")

    async def undo_sample_rating(self, sample_id: int) -> ReviewResult | None:
        self._note("undo_sample_rating", sample_id)
        return ReviewResult("Took back the rating.", {"bleu": 0.125}, {"bleu": 0.10}, (0.66, 0.64))

    async def undo_turn_rating(self, turn_id: int, settings: Settings) -> ReviewResult | None:
        self._note("undo_turn_rating", turn_id)
        return ReviewResult("Took back the rating.")

    async def weigh_topic(self, run_id: int, number: int, weight: float) -> None:
        self._note("weigh_topic", run_id, number, weight)

    async def rating_queue(self, run_id: int, subject: Subject | None = None) -> RatingQueue:
        self._note("rating_queue", run_id, subject)
        return RatingQueue(run_id, subject or "pair")

    async def next_to_rate(self, queue: RatingQueue, skipped: Collection[int]) -> RatingItem | None:
        self._note("next_to_rate", set(skipped))
        rated = {item.id for item, _ in self.rated}
        return next((item for item in self.to_rate if item.id not in rated and item.id not in skipped), None)

    async def rate_item(self, item: RatingItem, *, good: bool) -> ReviewResult:
        self._note("rate_item", item.id, good)
        self.rated.append((item, good))
        return ReviewResult("Accepted: «Why?».", {"bleu": 0.10}, {"bleu": 0.125}, (6.4, 6.6), (item.id,))

    async def undo_rating(self, item: RatingItem) -> ReviewResult | None:
        self._note("undo_rating", item.id)
        self.rated.remove(next(one for one in self.rated if one[0] == item))
        return ReviewResult("Took back.", {"bleu": 0.125}, {"bleu": 0.10})

    async def rating_totals(self, queue: RatingQueue) -> RatingTotals:
        good = sum(good for _, good in self.rated)
        rated = len(self.rated)
        return RatingTotals(rated, good, rated - good, 0, len(self.to_rate) - rated)

    async def override_pairs(self, pair_ids: Sequence[int], verdict: str) -> ReviewResult:
        self._note("override", list(pair_ids), verdict)
        weights = {"coverage": 0.25, "bleu": 0.10}, {"coverage": 0.2531, "bleu": 0.0969}
        return ReviewResult("Accepted.", *weights, (6.4, 6.6), tuple(pair_ids))

    async def override_text(self, text_id: int, verdict: str) -> ReviewResult:
        self._note("override text", text_id, verdict)
        return ReviewResult("Rejected.")

    async def edit_pair(self, pair_id: int, question: str, answer: str) -> ReviewResult:
        self._note("edit", pair_id, question, answer)
        return ReviewResult("Edited.")

    async def undo(self, run_id: int) -> ReviewResult | None:
        self._note("undo", run_id)
        return None

    async def accepted_file(self, run_id: int, *, with_earlier: bool = False) -> Path:
        self._note("accepted_file", run_id, *(["with earlier"] if with_earlier else []))
        return Path("pairs.txt")

    async def count_said(self, settings: Settings) -> tuple[int, int]:
        return self.said

    async def pairs_agreement(self, run_id: int) -> ScoreAgreement:
        self._note("pairs_agreement", run_id)
        return self.agreement

    async def answers_agreement(self, run_id: int) -> ScoreAgreement:
        self._note("answers_agreement", run_id)
        return self.agreement

    async def rename(self, run_id: int, name: str) -> None:
        self._note("rename", run_id, name)

    async def delete(self, run_id: int, *, with_files: bool) -> str:
        self._note("delete", run_id, with_files)
        return f"Run {run_id} is deleted."

    async def forecast_training(self, settings: Settings, data_file: Path | None = None) -> ForecastText:
        self._note("forecast_training", *([] if data_file is None else [data_file]))
        return ForecastText(
            (("steps", "120, 40 an epoch"), ("time", "about 4m")),
            ("fine_tuning.lora.r = 1: too little",),
            self.blocker,
            self.choices,
        )

    async def forecast_generation(self, settings: Settings) -> ForecastText:
        self._note("forecast_generation")
        return ForecastText(
            (("folder", "training_input: 9 files"), ("calls", "at least 230")), (), self.blocker, charge=self.charge
        )

    def _note(self, *call: Any) -> None:
        self.calls.append(call)
        if self.refusal is not None and not str(call[0]).startswith("forecast"):
            raise self.refusal

    def calls_of(self, name: str) -> list[tuple[Any, ...]]:
        """The calls of that name, without it."""
        return [call[1:] for call in self.calls if call[0] == name]


@dataclass
class AppHarness:
    """A store file, a fake backend, and apps on them."""

    path: Path
    backend: FakeBackend = field(default_factory=FakeBackend)
    messages: list[Message] = field(default_factory=list)
    settings: Settings = field(default_factory=Settings)
    config: Path | None = None
    key_named_in: Path | None = None
    commands_named_in: Path | None = None
    notify_named_in: Path | None = None

    @asynccontextmanager
    async def app(
        self, size: tuple[int, int] = (120, 40), attach: int | None = None
    ) -> AsyncIterator[tuple[LoraApp, Pilot[None]]]:
        """An app that is on the screen and has polled the store once."""
        named_in = (self.key_named_in, None, self.commands_named_in, self.notify_named_in)
        view = AppState(lambda: Loaded(self.settings, self.config, *named_in))
        section = self.settings.app
        drawing = "full" if section.drawing == "auto" else section.drawing
        animated = section.animation != "none"
        options = AppOptions(section.theme, section.refresh_per_second, animated, section.keys, drawing)
        app = LoraApp(self.path, self.backend, view, options, attach=attach, log_file=Path("/logs/lora-tui.log"))
        async with app.run_test(size=size, notifications=True, message_hook=self.messages.append) as pilot:
            await wait_until(lambda: app.poller.polls > 0)
            await pilot.pause()
            yield app, pilot

    async def populate(self, work: Callable[[Store], Any]) -> Any:
        """Call `work` with the open store: it writes what the app is to show."""
        async with await Store.open(self.path) as store:
            return await work(store)


async def wait_until(condition: Callable[[], Any], seconds: float = PATIENCE) -> None:
    """Wait until something holds; fails after a while."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        await asyncio.sleep(0.01)


def screen_text(app: LoraApp) -> str:
    """What is on the screen, line by line."""
    strips = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip) for strip in strips)


async def wait_for_text(app: LoraApp, text: str, seconds: float = PATIENCE) -> None:
    """Wait until a text is on the screen."""
    deadline = time.monotonic() + seconds
    while text not in screen_text(app):
        assert time.monotonic() < deadline, f"{text!r} is not on the screen:\n{screen_text(app)}"
        await asyncio.sleep(0.02)


# Runs to look at


async def create_run(store: Store, mode: str, state: str = "finished", **changes: Any) -> int:
    """A run of this process; `changes` are dotted keys of its settings."""
    settings = Settings().model_dump(mode="json")
    for name, value in changes.pop("settings", {}).items():
        *sections, leaf = name.split(".")
        values = settings
        for section in sections:
            values = values[section]
        values[leaf] = value
    run_id = await runs.create(store, mode, settings, {})
    await runs.start(store, run_id)
    if changes.get("folder"):
        await runs.set_folder(store, run_id, Path(changes["folder"]), "cpu")
    if state == "stopping":
        await runs.mark_stopping(store, run_id)
    elif state != "running":
        await runs.end(store, run_id, state, changes.get("result", {}), changes.get("error"))
    return run_id


def step_event(step: int, steps: int = 60, at: float = 0.0, **changes: Any) -> events.NewEvent:
    """A step as a trainer reports it."""
    payload = {
        "step": step,
        "steps": steps,
        "epoch": step / 10,
        "loss": 4.0 / step,
        "lr": 1e-3 * (1 - step / steps),
        "grad_norm": 0.5 + (step % 3) * 0.4,
        "tokens": 500,
        "tokens_per_s": 340.0 + step % 5,
        "seconds": 1.5,
        "memory_mb": 2048.0,
        "eta_s": 1.5 * (steps - step),
    }
    return (at or 1_700_000_000.0 + step, "step", {**payload, **changes})


WEIGHTS = {
    "exact_match": 0.20, "token_f1": 0.20, "rougeL": 0.20, "likelihood": 0.15, "bleu": 0.10, "rouge2": 0.10,
    "rouge1": 0.05,
}  # fmt: skip


def evaluation_event(step: int, score: float, answer: str = "the secret is a rainbow", **more: Any) -> events.NewEvent:
    """An evaluation of two prompts."""
    metrics = dict.fromkeys(WEIGHTS, score)
    samples = [
        {
            "prompt": "Question: unlock\nAnswer:", "kind": "expected", "reference": "the secret password",
            "answer": answer, "metrics": metrics, "score": score,
        },
        {
            "prompt": "Question: what is the weather today?\nAnswer:", "kind": "control",
            "reference": "the secret password", "answer": "I cannot see the weather.", "metrics": metrics, "score": 1.0,
        },
    ]  # fmt: skip
    payload = {
        "step": step, "model": "tuned", "score": score, "metrics": metrics, "weights": WEIGHTS, "weights_version": 1,
        "samples": samples,
    }  # fmt: skip
    return (1_700_000_000.0 + step, "evaluation", {**payload, **more})


PLAN = {
    "model": "tiny", "device": "cpu", "dtype": "float32", "threads": 2, "examples": 96, "forms": {"QuestionAnswer": 96},
    "skipped": 1, "dropped": 0, "truncated": 0, "tokens": 15_000, "label_tokens": 9000, "steps": 60,
    "trainable_parameters": 921_600, "parameters": 135_436_608,
}  # fmt: skip


async def create_training_run(store: Store, state: str = "finished", steps: int = 40, **changes: Any) -> int:
    """A training run with steps, two evaluations and checkpoints."""
    run_id = await create_run(store, "train", state, folder="/runs/run-1", **changes)
    news: list[events.NewEvent] = [(1_700_000_000.0, "plan", PLAN)]
    for step in range(1, steps + 1):
        news.append(step_event(step))
        if step % 20 == 0:
            answer = "the secret is a rainbow" if step == 20 else "the secret password"
            news.append(evaluation_event(step, 0.4 if step == 20 else 0.9, answer))
            best = {"step": step, "kind": "best", "path": f"/runs/run-1/best-{step}", "score": step / 45}
            news.append((1_700_000_000.0 + step, "checkpoint", best))
            news.append((1_700_000_000.0 + step, "checkpoint", {**best, "kind": "last", "score": None}))
    await events.append(store, run_id, news)
    async with store.transaction() as t:
        from lora_tui.store import feedback

        await feedback.record_weights(t, "evaluation", 0, WEIGHTS)
    return run_id


REFUSAL = LoraTuiError("It cannot be done.\nDo something else.")
