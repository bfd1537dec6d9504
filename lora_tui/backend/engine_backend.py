"""Adapter from the app's `lora_tui.protocol.backend.Backend` to the engine.

The engine is started, and its modules are imported, by the first call that needs them: the app is on the screen long
before. Calls come from the app's loop and run on the engine's.
"""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lora_tui.backend.queue_loop import QueueLoop
from lora_tui.protocol.agreement import ScoreAgreement
from lora_tui.protocol.backend import ChatTarget, Conversation, ForecastText, LoadProgress, ReviewResult
from lora_tui.protocol.rating import RatingItem, RatingQueue, RatingTotals, Subject
from lora_tui.protocol.reply import Decoding, ReplyItem, Side
from lora_tui.store.connection import Store

if TYPE_CHECKING:
    from lora_tui.config.models import Settings
    from lora_tui.engine.chat.session import ChatSession
    from lora_tui.engine.forecast.forecast import SettingsForecast
    from lora_tui.engine.runtime.engine import Engine, Outcome
    from lora_tui.store.rows import Run

T = TypeVar("T")


class EngineBackend:
    """The `Backend` of the app's process; see there for what each call does. `_own` are the runs of this process."""

    def __init__(self, store_path: Path, on_end: "Callable[[Run], None]" = lambda run: None) -> None:
        """`on_end` is told of each run of this process that has ended, on the engine's thread."""
        self._store_path = store_path
        self._on_end = on_end
        self._telling: list[Future[None]] = []
        self._engine: Engine | None = None
        self._starting = threading.Lock()
        self._own: dict[int, Future[Outcome]] = {}
        self._queue = QueueLoop(self._add_own)

    def _running_engine(self) -> "Engine":
        """Return the engine, started by the first caller; blocks while its modules are imported."""
        with self._starting:
            if self._engine is None:
                from lora_tui.engine.runtime.engine import Engine

                engine = Engine(self._store_path)
                engine.start()
                self._engine = engine
            return self._engine

    async def _call(self, work: Callable[["Engine"], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine on the engine's loop, awaited from the app's."""
        engine = await asyncio.to_thread(self._running_engine)
        return await asyncio.wrap_future(engine.call(work(engine)))

    async def _on_store(self, work: Callable[[Store], Coroutine[Any, Any, T]]) -> T:
        return await self._call(lambda engine: work(engine.open_store))

    # Runs

    async def start(
        self, mode: str, settings: "Settings", options: Mapping[str, Any], resume: int | None = None
    ) -> int:
        """Begin a run, or go on with one as the command line would: with its own settings, refused where it is live."""
        given = dict(options)
        if resume is not None:
            from lora_tui.engine.runtime.resume import resume_run

            resumed = await resume_run(self._store_path, resume)
            mode, settings, given = resumed.run.mode, resumed.settings, {**resumed.run.options, **given}
        engine = await asyncio.to_thread(self._running_engine)
        run_id, ending = await asyncio.to_thread(engine.submit, mode, settings, given, resume)
        self._add_own(run_id, ending)
        self._queue.turn_on(engine)
        return run_id

    def _add_own(self, run_id: int, ending: "Future[Outcome]") -> None:
        """Take a run into those of this process, and have its end told."""
        self._own[run_id] = ending

        async def tell(engine: "Engine") -> None:
            from lora_tui.store import runs

            run = await runs.get(engine.open_store, run_id)
            if run is not None:
                self._on_end(run)

        def ended(_: "Future[Outcome]") -> None:
            engine = self._running_engine()
            self._telling.append(engine.call(tell(engine)))

        ending.add_done_callback(ended)

    async def queue_run(self, mode: str, settings: "Settings", options: Mapping[str, Any]) -> int:
        """Add a run to the queue, and work through it from now on."""
        from lora_tui.engine.runtime.queue import add_run

        return await self._add_to_queue(lambda store: add_run(store, mode, settings, options))

    async def queue_copy(self, run_id: int) -> int:
        """Add a run with the settings of another to the queue, and work through it from now on."""
        from lora_tui.engine.runtime.queue import add_copy

        return await self._add_to_queue(lambda store: add_copy(store, run_id))

    async def queue_sweep(self, spec: str, settings: "Settings", options: Mapping[str, Any]) -> list[int]:
        """Add the runs of a sweep to the queue, and work through it from now on."""
        from lora_tui.config.sweep import read_sweep
        from lora_tui.engine.runtime.queue import add_sweep

        points = read_sweep([spec])
        return (await self._add_to_queue(lambda store: add_sweep(store, points, settings, options)))[1]

    async def _add_to_queue(self, work: Callable[[Store], Coroutine[Any, Any, T]]) -> T:
        added = await self._on_store(work)
        await self.work_queue(on=True)
        return added

    async def move_in_queue(self, run_id: int, by: int) -> None:
        """Move a run of the queue by one place."""
        from lora_tui.engine.runtime.queue import move

        await self._on_store(lambda store: move(store, run_id, by))

    async def take_out(self, run_id: int) -> bool:
        """Take a run out of the queue."""
        from lora_tui.engine.runtime.queue import take_out

        return await self._on_store(lambda store: take_out(store, run_id))

    async def work_queue(self, *, on: bool) -> None:
        """Work through the queue from now on, or begin nothing more of it."""
        if on:
            self._queue.turn_on(await asyncio.to_thread(self._running_engine))
        else:
            self._queue.turn_off()

    @property
    def works_queue(self) -> bool:
        """Whether this process begins the runs of the queue."""
        return self._queue.is_on

    async def stop(self, run_id: int) -> None:
        """Ask a run of any process to save its work and end."""
        if run_id in self.own_live_runs():
            self._running_engine().stop(run_id)
        else:
            await self.send_command(run_id, "stop")

    async def send_command(self, run_id: int, command: str) -> None:
        """Send a command to the owner of a live run."""
        from lora_tui.store import events

        await self._on_store(lambda store: events.send_command(store, run_id, command))

    def own_live_runs(self) -> list[int]:
        """The runs of this process that have not ended."""
        return [run_id for run_id, ending in list(self._own.items()) if not ending.done()]

    def stop_own(self) -> None:
        """Ask every run of this process to save its work and end; those of the queue go on when it is worked again."""
        self._queue.turn_off()
        for run_id in self.own_live_runs():
            if not self._queue.stop_and_go_on_later(self._running_engine(), run_id):
                self._running_engine().stop(run_id)

    def wait(self, seconds: float) -> "list[Outcome] | None":
        """Wait for the runs of this process to end, and for the queue that it works; None while something goes on."""
        own = list(self._own.values())
        _, going_on = wait_for(own, timeout=seconds)
        if going_on:
            return None
        if not self._queue.is_idle:
            time.sleep(seconds)  # between two of its runs
            return None
        return [ending.result() for ending in own]

    def close(self) -> None:
        """Stop the runs that go on, wait for their end, and close the engine."""
        self.stop_own()
        wait_for(list(self._own.values()))
        wait_for(self._telling)
        if self._engine is not None:
            self._engine.close()

    # Review

    async def rate_sample(self, sample_id: int, rating: int) -> ReviewResult:
        """Rate the answer to a test prompt."""
        from lora_tui.engine.review.ratings import rate_sample

        return await self._on_store(lambda store: rate_sample(store, sample_id, rating))

    async def rate_turn(self, turn_id: int, rating: int, settings: "Settings") -> ReviewResult:
        """Rate a reply of a conversation."""
        from lora_tui.engine.review.ratings import rate_turn

        return await self._on_store(lambda store: rate_turn(store, turn_id, rating, settings))

    async def undo_sample_rating(self, sample_id: int) -> ReviewResult | None:
        """Take back the rating of an answer to a test prompt."""
        from lora_tui.engine.review.ratings import undo_sample_rating

        return await self._on_store(lambda store: undo_sample_rating(store, sample_id))

    async def undo_turn_rating(self, turn_id: int, settings: "Settings") -> ReviewResult | None:
        """Take back the rating of a reply."""
        from lora_tui.engine.review.ratings import undo_turn_rating

        return await self._on_store(lambda store: undo_turn_rating(store, turn_id, settings))

    async def rating_queue(self, run_id: int, subject: Subject | None = None) -> RatingQueue:
        """Return what of a run can be rated."""
        from lora_tui.engine.review.queued_ratings import queue_to_rate

        return await self._on_store(lambda store: queue_to_rate(store, run_id, subject))

    async def next_to_rate(self, queue: RatingQueue, skipped: Collection[int]) -> RatingItem | None:
        """Return what to ask about next."""
        from lora_tui.engine.review.queued_ratings import next_to_rate

        return await self._on_store(lambda store: next_to_rate(store, queue, skipped))

    async def rate_item(self, item: RatingItem, *, good: bool) -> ReviewResult:
        """Rate an item of the queue."""
        from lora_tui.engine.review.queued_ratings import rate_item

        return await self._on_store(lambda store: rate_item(store, item, good=good))

    async def undo_rating(self, item: RatingItem) -> ReviewResult | None:
        """Take back the rating of an item."""
        from lora_tui.engine.review.queued_ratings import undo_item

        return await self._on_store(lambda store: undo_item(store, item))

    async def rating_totals(self, queue: RatingQueue) -> RatingTotals:
        """Return how many ratings there are, and how much is left."""
        from lora_tui.engine.review.queued_ratings import rating_totals

        return await self._on_store(lambda store: rating_totals(store, queue))

    async def override_pairs(self, pair_ids: Sequence[int], verdict: str) -> ReviewResult:
        """Accept or reject pairs of one run."""
        from lora_tui.engine.review.pairs import override_pairs

        return await self._on_store(lambda store: override_pairs(store, pair_ids, verdict))

    async def override_text(self, text_id: int, verdict: str) -> ReviewResult:
        """Accept or reject a text."""
        from lora_tui.engine.review.pairs import override_text

        return await self._on_store(lambda store: override_text(store, text_id, verdict))

    async def edit_pair(self, pair_id: int, question: str, answer: str) -> ReviewResult:
        """Rewrite a pair."""
        from lora_tui.engine.review.pairs import edit_pair

        return await self._on_store(lambda store: edit_pair(store, pair_id, question, answer))

    async def undo(self, run_id: int) -> ReviewResult | None:
        """Take back the newest decision about a pair of the run."""
        from lora_tui.engine.review.pairs import undo

        return await self._on_store(lambda store: undo(store, run_id))

    async def weigh_topic(self, run_id: int, number: int, weight: float) -> None:
        """Set how much is asked about a topic of a run's folder."""
        from lora_tui.engine.review.runs import weigh_topic

        await self._on_store(lambda store: weigh_topic(store, run_id, number, weight))

    async def accepted_file(self, run_id: int, *, with_earlier: bool = False) -> Path:
        """Return the file with a run's accepted pairs, or with those of earlier runs as well."""
        from lora_tui.engine.review.pairs import accepted_file, accepted_file_with_earlier

        find = accepted_file_with_earlier if with_earlier else accepted_file
        return await self._on_store(lambda store: find(store, run_id))

    async def pairs_agreement(self, run_id: int) -> ScoreAgreement:
        """What ratings of pairs say of their score and of a run's threshold."""
        from lora_tui.engine.review.agreement import pairs_agreement

        return await self._on_store(lambda store: pairs_agreement(store, run_id))

    async def answers_agreement(self, run_id: int) -> ScoreAgreement:
        """What ratings of answers say of their score and of a run's evaluations."""
        from lora_tui.engine.review.agreement import answers_agreement

        return await self._on_store(lambda store: answers_agreement(store, run_id))

    async def rename(self, run_id: int, name: str) -> None:
        """Name a run."""
        from lora_tui.engine.review.runs import rename_run

        await self._on_store(lambda store: rename_run(store, run_id, name))

    async def delete(self, run_id: int, *, with_files: bool) -> str:
        """Delete a run that has ended; returns what became of its folder."""
        from lora_tui.engine.review.runs import delete_run

        return await self._on_store(lambda store: delete_run(store, run_id, with_files=with_files))

    # Forecasts

    async def forecast_training(self, settings: "Settings", data_file: Path | None = None) -> ForecastText:
        """What a training run with these settings will be."""
        from lora_tui.backend.forecast_text import training_forecast

        return training_forecast(await self._forecast(settings, data_file))

    async def forecast_generation(self, settings: "Settings") -> ForecastText:
        """What a generation run with these settings will be."""
        from lora_tui.backend.forecast_text import generation_forecast

        return generation_forecast(await self._forecast(settings, None), settings)

    async def _forecast(self, settings: "Settings", data_file: Path | None) -> "SettingsForecast":
        forecast = await asyncio.to_thread(_forecast_function)
        if self._engine is None and not self._store_path.is_file():  # one look at the disk
            return await forecast(settings, None, data_file)  # a forecast creates no store
        said = settings.fine_tuning.method != "sft" and not (data_file or settings.fine_tuning.preferences.data_file)

        async def of_store(store: Store) -> "SettingsForecast":
            if not said:
                return await forecast(settings, store, data_file)
            from lora_tui.engine.review.preferences import survey_said

            return await forecast(settings, store, None, await survey_said(store, settings.fine_tuning))

        return await self._on_store(of_store)

    async def count_said(self, settings: "Settings") -> tuple[int, int]:
        """How many preferences, and how many single verdicts, people have given in the store."""
        from lora_tui.engine.review.preferences import count_said

        return await self._on_store(lambda store: count_said(store, settings.fine_tuning.chat.commands))

    # Chat

    async def open_chat(self, target: ChatTarget, settings: "Settings", progress: LoadProgress) -> Conversation:
        """Load a model and open a conversation with it."""
        options: dict[str, Any] = {"base_only": True} if target.base_only else {}
        if target.run_id is not None:
            options |= {"adapter_run": target.run_id, "checkpoint": target.checkpoint}
        here = asyncio.get_running_loop()

        def report(phase: str, done: int, total: int) -> None:
            here.call_soon_threadsafe(progress, phase, done, total)

        async def open_on_engine(engine: "Engine") -> "ChatSession":
            from lora_tui.engine.jobs.preflight import open_chat

            return await open_chat(engine, settings, options, report)

        session = await self._call(open_on_engine)
        return _EngineConversation(self._running_engine(), session)


def _forecast_function() -> "Callable[..., Coroutine[Any, Any, SettingsForecast]]":
    from lora_tui.engine.forecast.forecast import forecast_settings

    return forecast_settings


class _EngineConversation:
    """The app's `Conversation`: a chat session of the engine, read from the app's loop."""

    def __init__(self, engine: "Engine", session: "ChatSession") -> None:
        self._engine = engine
        self._session = session
        self.title = session.title
        self.sides: Sequence[Side] = session.sides

    def reply(self, text: str, sides: Sequence[Side]) -> AsyncIterator[ReplyItem]:
        return self._on_this_loop(self._session.reply(text, sides))

    def regenerate(self, sides: Sequence[Side]) -> AsyncIterator[ReplyItem]:
        return self._on_this_loop(self._session.regenerate(sides))

    def continue_reply(self, sides: Sequence[Side]) -> AsyncIterator[ReplyItem]:
        return self._on_this_loop(self._session.continue_reply(sides))

    async def _on_this_loop(self, stream: AsyncGenerator[ReplyItem, None]) -> AsyncIterator[ReplyItem]:
        async with aclosing(self._engine.iterate(stream)) as items:
            async for item in items:
                yield item

    def stop(self) -> None:
        self._session.stop.set()

    def set_decoding(self, decoding: Decoding) -> None:
        self._session.decoding = decoding

    async def clear(self) -> None:
        await asyncio.wrap_future(self._engine.call(self._session.clear()))

    async def close(self) -> None:
        await asyncio.wrap_future(self._engine.call(self._session.close()))
