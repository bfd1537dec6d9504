"""The queue in Runs: what is added to it, its order, and whether this app works through it."""

from collections.abc import Awaitable
from typing import Any

from lora_tui.store.queries.runs import RunLine
from lora_tui.store.rows import LIVE_STATES, QUEUED_MODES
from lora_tui.text import count
from lora_tui.tui.actions import AppActions
from lora_tui.tui.dialogs import Choice, ChoiceDialog, Problem, TextDialog
from lora_tui.tui.services import AppServices
from lora_tui.tui.views.run_list import queue_places

_SWEEP_EXAMPLE = "fine_tuning.optimizer.lora_lr=1e-4,3e-4,1e-3"


class QueueActions:
    """What Runs does with the queue at the user's word."""

    def __init__(self, services: AppServices, actions: AppActions) -> None:
        self._services = services
        self._actions = actions

    def ask_to_add(self, run: RunLine | None) -> None:
        """Ask what to add to the queue: `run` again, a run with the settings of now, or a sweep."""
        now = "with the configuration as it is now"
        choices = [
            Choice("train", "t", "A training", now),
            Choice("generate", "g", "A generation", now),
            Choice("sweep", "s", "A sweep", "trainings that differ in one setting or more"),
            Choice("cancel", "c", "Cancel"),
        ]
        if run is not None and run.mode in QUEUED_MODES:
            choices.insert(0, Choice("again", "a", f"Run {run.id} again", f"{run.mode}, with the settings it had"))
        question = "Add to the queue: runs begin one after the other"

        async def chosen(choice: str) -> None:
            if choice == "again" and run is not None:
                await self._add_copy(run)
            elif choice == "sweep":
                asked = TextDialog("Key and values, or a TOML file of axes:", _SWEEP_EXAMPLE)
                self._services.ask(asked, self._add_sweep)
            else:
                await self._add(choice)

        self._services.ask(ChoiceDialog(question, choices), chosen)

    async def _add_copy(self, run: RunLine) -> None:
        async def add() -> None:
            await self._added(self._services.backend.queue_copy(run.id))

        if not await self._actions.asks_consent(run.mode, run.id, add):
            await add()

    async def _add(self, mode: str) -> None:
        """Add a run with the settings of now, unless it is known to fail."""
        services = self._services
        forecast = services.backend.forecast_training if mode == "train" else services.backend.forecast_generation
        writes = any(run.mode == "generate" and _is_to_come(run) for run in services.state.runs)
        found = await services.attempt(forecast(services.state.settings))
        if found is None:
            return
        if found.blocker is not None and not (mode == "train" and found.blocker.form == "data" and writes):
            services.show_problem(Problem(found.blocker.what, found.blocker.why, found.blocker.remedy))
            return

        async def add() -> None:
            await self._added(services.backend.queue_run(mode, services.state.settings, self._options(mode)))

        if not await self._actions.asks_consent(mode, None, add):
            await add()

    async def _add_sweep(self, spec: str) -> None:
        services = self._services
        added = services.backend.queue_sweep(spec.strip(), services.state.settings, self._options("train"))
        if (runs := await services.attempt(added)) is not None:
            services.notify(f"A sweep of {count(len(runs), 'run')} waits in the queue; S shows what they come to.")
            services.reload_runs()

    def _options(self, mode: str) -> dict[str, Any]:
        file = self._services.state.training_file
        return {"train_data_file": str(file)} if mode == "train" and file is not None else {}

    async def _added(self, adding: Awaitable[int]) -> None:
        services = self._services
        run_id = await services.attempt(adding)
        if run_id is not None:
            ahead = len(queue_places(services.state.runs))
            services.notify(
                f"Run {run_id} is in the queue, {ahead + 1} to begin." if ahead else f"Run {run_id} begins."
            )
            services.reload_runs()

    async def move(self, run: RunLine, by: int) -> None:
        """Move a run of the queue by one place."""
        with self._services.reporting():
            await self._services.backend.move_in_queue(run.id, by)
            self._services.reload_runs()

    async def take_out(self, run: RunLine) -> None:
        """Take a run out of the queue; one that never began is gone, another keeps what it has done."""
        if await self._services.attempt(self._services.backend.take_out(run.id)):
            self._services.notify(f"Run {run.id} is out of the queue.")
        self._services.reload_runs()

    async def switch(self) -> None:
        """Work through the queue, or begin nothing more of it."""
        if self._services.backend.works_queue:
            await self._switch(on=False)
        elif not await self._actions.asks_consent("train", None, lambda: self._switch(on=True)):  # who is told of ends
            await self._switch(on=True)

    async def _switch(self, *, on: bool) -> None:
        with self._services.reporting():
            await self._services.backend.work_queue(on=on)
            waiting = count(len(queue_places(self._services.state.runs)), "run")
            self._services.notify(
                f"The queue is worked: {waiting} to begin." if on else f"Nothing more begins; in the queue: {waiting}."
            )


def _is_to_come(run: RunLine) -> bool:
    return run.state in LIVE_STATES or run.position is not None
