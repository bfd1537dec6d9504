"""What the app does at the user's word: begins, resumes, stops and deletes runs, and reviews pairs.

Screens call these from their keys. A refusal, or a bug, is shown; the caller goes on. A run that begins outlives the
dialog it was asked for in: it is the app's own worker.
"""

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lora_tui.protocol.backend import ForecastText, ReviewResult
from lora_tui.store import runs
from lora_tui.store.queries.runs import RunLine
from lora_tui.text import count, file_size
from lora_tui.tui.dialogs import Choice, ChoiceDialog, Problem, TextDialog
from lora_tui.tui.services import AppServices
from lora_tui.tui.text import safe_text
from lora_tui.tui.views.reviews import change_message

if TYPE_CHECKING:
    from lora_tui.config.models import Settings

_MOST_FILES = 30
"""Files that are named before an upload; of more, how many there are: the folder has them."""


class AppActions:
    """Everything that changes something, for one app."""

    def __init__(self, services: AppServices) -> None:
        self._services = services
        self._is_starting = False
        self._agreed_charges: set[str] = set()
        """Prices that were agreed to since the app began: nobody is asked twice."""

    # Runs

    async def start(self, mode: str, options: Mapping[str, Any] | None = None, resume: int | None = None) -> int | None:
        """Begin a run with the settings in view, or resume one; returns its id, None when it was refused."""
        services = self._services
        given = dict(options or {})
        learns = services.state.settings.fine_tuning.method == "sft" and mode in ("train", "probe")
        if learns and resume is None and services.state.training_file is not None:
            given.setdefault("train_data_file", str(services.state.training_file))

        def begin() -> Coroutine[Any, Any, None]:
            return self._start_and_show(mode) if resume is None else self._resume_and_show(mode, resume)

        if await self.asks_consent(mode, resume, begin):
            return None
        started = services.backend.start(mode, services.state.settings, given, resume)
        run_id = await services.attempt(started)
        if run_id is not None:
            services.state.mark_begun(run_id)
            if mode == "generate":
                services.state.training_file = None  # its own pairs are what is trained on next
            services.reload_runs()
        return run_id

    def start_soon(self, mode: str, settings: "Settings | None" = None) -> None:
        """Begin a run in a worker, with these settings from now on where they are given, and show it."""
        if settings is not None:
            self._services.state.settings = settings
        self._services.run_worker(self._start_and_show(mode), "begin")

    async def _start_and_show(self, mode: str) -> None:
        run_id = await self.start(mode)
        if run_id is not None:
            self._services.show_new_run(mode, run_id)

    def start_unless_blocked(self, mode: str, forecast: Callable[["Settings"], Awaitable[ForecastText]]) -> None:
        """Begin a run and show it; one that is known to fail is not begun: what is missing is asked for, or shown.

        While one is about to begin, another call does nothing: a key that is held down begins one run.
        """
        if self._is_starting:
            return
        self._is_starting = True
        services = self._services

        async def work() -> None:
            try:
                found = await services.attempt(forecast(services.state.settings))  # anew: the file may be there by now
                blocker = found.blocker if found is not None else None
                if blocker is not None and blocker.form and len(services.screens) == 1:
                    services.ask_to_begin(blocker.form)
                elif blocker is not None:
                    services.show_problem(Problem(blocker.what, blocker.why, blocker.remedy))
                elif found is not None and found.charge and found.charge not in self._agreed_charges:
                    self._ask_charge(mode, found.charge)
                else:
                    await self._start_and_show(mode)
            finally:
                self._is_starting = False

        services.run_worker(work(), "begin")

    async def train_on_pairs(self, run_id: int, *, with_earlier: bool = False) -> None:
        """Train on the accepted pairs of a generation run, with the settings in view, and show it.

        `with_earlier`: also on those of the earlier runs about the same text.
        """
        services = self._services
        path = await services.attempt(services.backend.accepted_file(run_id, with_earlier=with_earlier))
        if path is not None:
            services.state.training_file = path
            self.start_unless_blocked("train", lambda settings: services.backend.forecast_training(settings, path))

    async def learn_from_said(self, run_id: int) -> None:
        """Train a run's adapter further on what people have said, and show it.

        On preferences; on single verdicts where no answer has a better or a worse one to the same question.
        """
        from lora_tui.config.load import with_values

        services = self._services
        counted = await services.attempt(services.backend.count_said(services.state.settings))
        if counted is None:
            return
        preferences, verdicts = counted
        if not preferences and not verdicts:
            why = "Nobody has said yet which answers are good or bad."
            services.show_problem(Problem("There is nothing to learn from yet.", why, "w rates answers, Chat replies."))
            return
        said = {"fine_tuning.method": "dpo" if preferences else "kto", "fine_tuning.preferences.data_file": ""}
        settings = with_values(services.state.settings, said)
        new_run = await services.attempt(services.backend.start("train", settings, {"adapter_run": run_id}, None))
        if new_run is not None:
            services.state.mark_begun(new_run)
            services.reload_runs()
            services.show_new_run("train", new_run)

    def ask_dataset(self, run: RunLine) -> None:
        """Ask in which form to write a generation run's accepted pairs and texts as a dataset, then where to."""
        choices = [
            Choice("messages", "m", "Messages", "roles and contents: TRL, Axolotl, Unsloth, OpenAI; holds everything"),
            Choice("sharegpt", "s", "ShareGPT", "from and value: LLaMA-Factory, Axolotl"),
            Choice("alpaca", "a", "Alpaca", "instruction and output: single questions alone"),
            Choice("prompt-completion", "p", "Prompt and completion", "TRL: single questions alone"),
            Choice("cancel", "c", "Cancel"),
        ]

        def chosen(form: str) -> None:
            folder = TextDialog("Write the dataset to this folder, with its card:", f"run-{run.id}-dataset")
            self._services.ask(folder, lambda path: self._export_dataset(run, form, path) if path else None)

        self._services.ask(ChoiceDialog(f"Dataset of run {run.id}", choices), chosen)

    async def _export_dataset(self, run: RunLine, form: str, path: str) -> None:
        """Export what a run has accepted: a folder with one in ten documents to validate on, sources named."""
        file = await self._services.attempt(self._services.backend.accepted_file(run.id))
        if file is not None:
            options = {"train_data_file": str(file), "format": form, "output": path, "split": 0.1}
            run_id = await self.start("export", options | {"with_provenance": True})
            if run_id is not None:
                self._services.notify(f"Exporting to {path} (run {run_id}).")

    def ask_export(self, run: RunLine) -> None:
        """Ask what of a run's adapter to export, then where to."""
        choices = [
            Choice("adapter", "a", "The adapter", "a folder that PEFT, vLLM and others load"),
            Choice("merged", "m", "Merged weights", "one model of base and adapter, checked"),
            Choice("gguf", "g", "GGUF", "merged, for Ollama, llama.cpp, LM Studio; checked"),
            Choice("hub", "h", "To the Hugging Face hub", "the adapter; listed first, then you are asked"),
            Choice("lm-eval", "l", "Held-out questions", "as a task of lm-evaluation-harness"),
            Choice("cancel", "c", "Cancel"),
        ]

        def chosen(form: str) -> None:
            if form == "hub":
                name = TextDialog("Name on the hub, OWNER/NAME (nobody else sees it, and nothing is sent yet):")
                self._services.ask(name, lambda repo: self._ask_license(run, repo.strip()))
                return
            folder = TextDialog(f"Write the {form} to this folder:", f"run-{run.id}-{form}")
            self._services.ask(folder, lambda path: self.export(run, form, path) if path else None)

        self._services.ask(ChoiceDialog(f"Export run {run.id}", choices), chosen)

    def _ask_license(self, run: RunLine, repo: str) -> None:
        """Ask for the licence of what goes to the hub, then have it listed."""

        async def list_files(name: str) -> None:
            options = {"adapter_run": run.id, "format": "adapter", "to_hub": repo, "output": f"to-hub-run-{run.id}"}
            await self.start("export", options | ({"license": name.strip()} if name.strip() else {}))

        dialog = TextDialog("Licence, such as apache-2.0, mit or cc-by-4.0; empty: none, so others may not use it:")
        self._services.ask(dialog, list_files)

    def ask_send(self, listed: Mapping[str, Any]) -> None:
        """Show what an export has listed for the hub; where it is agreed to, that and nothing else is sent."""
        files: Mapping[str, int] = listed["listed"]
        shown = [
            f"{name}\u00a0({file_size(size)})".replace(" ", "\u00a0")
            for name, size in list(files.items())[:_MOST_FILES]
        ]
        more = [f"and {len(files) - _MOST_FILES:,} more"] if len(files) > _MOST_FILES else []
        path = str(listed["path"])
        lines = f"{', '.join([*shown, *more])}.\n\nThey lie in {path}: README.md is what others read first."
        choices = [
            Choice("send", "s", "Send", "as one commit; files of the same names there are replaced"),
            Choice("cancel", "c", "Cancel", "nothing has been sent"),
        ]
        what = f"{count(len(files), 'file')}, {file_size(sum(files.values()))}"
        question = f"Send {what} to {listed['repository']} on the hub? Visible to {listed['visible_to']}."

        async def send(_: str) -> None:
            options = {"adapter_run": listed["adapter_run"], "format": "adapter", "to_hub": listed["repository"]}
            await self.start("export", options | {"output": path, "send": True})

        self._services.ask(ChoiceDialog(question, choices, details=safe_text(lines)), send)

    async def asks_consent(self, mode: str, resume: int | None, begin: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Ask, where it is needed, whether the key that a file names may be sent, or its commands run; then `begin`.

        A run that goes on may name others than the configuration: the store is the file then.
        """
        from lora_tui.config.command_consent import allow_commands, allow_notify, command_question, notify_question
        from lora_tui.config.key_consent import KEY_SETTINGS, allow_key, key_question

        services = self._services
        state = services.state
        settings = state.settings.data_generation
        files = (state.key_named_in, state.address_named_in, state.hosts_named_in)
        commands_in = state.commands_named_in
        if resume is not None and (store := services.reader.store) is not None:
            run = await runs.get(store, resume)
            own = run.settings.get("data_generation", {}) if run is not None else {}
            commands = own.get("extractors")
            own = {name: own[name] for name in (*KEY_SETTINGS, "model") if isinstance(own.get(name), str | list | dict)}
            if any(getattr(settings, name) != value for name, value in own.items() if name != "model"):
                settings, files = settings.model_copy(update=own), (store.path, None, store.path)
            if isinstance(commands, dict) and commands != settings.extractors:
                settings, commands_in = settings.model_copy(update={"extractors": commands}), store.path
        key = key_question(settings, *files) if mode == "generate" else None
        command = command_question(settings, commands_in) if mode in ("generate", "quickstart") else None
        notify = None if state.tells_without_asking else notify_question(state.settings.notify, state.notify_named_in)
        without: list[Choice] = []
        if key is not None:
            text, yes = key.text, Choice("send", "s", "Send it", "asked once for this file and this address")
            no = Choice("cancel", "c", "Cancel", "nothing has been sent")
        elif command is not None:
            text, yes = command.text, Choice("run", "r", "Run them", "asked once for this file and these commands")
            no = Choice("cancel", "c", "Cancel", "nothing has been run")
        elif notify is not None:
            text, yes = notify.text, Choice("allow", "a", "Allow it", "asked once for this file and what it names")
            without = [Choice("without", "w", "Begin without it", "nobody is told when the run ends")]
            no = Choice("cancel", "c", "Cancel", "nothing has begun")
        else:
            return False

        def chosen(choice: str) -> None:
            with services.reporting():
                if key is not None:
                    allow_key(key)
                elif command is not None:
                    allow_commands(command)
                elif notify is not None and choice == "allow":
                    allow_notify(notify)
                state.tells_without_asking |= choice == "without"
                services.run_worker(begin(), "begin")

        services.ask(ChoiceDialog(text, [yes, *without, no]), chosen)
        return True

    async def _resume_and_show(self, mode: str, run_id: int) -> None:
        if await self.start(mode, resume=run_id) is not None:
            self._services.show_new_run(mode, run_id)

    def _ask_charge(self, mode: str, charge: str) -> None:
        """Ask before the first run that costs money without a limit."""
        choices = [
            Choice("start", "s", "Start", "it can be paused and stopped at any time"),
            Choice("budget", "b", "Start with a limit", "it stops by itself after so many tokens"),
            Choice("cancel", "c", "Cancel"),
        ]

        def chosen(choice: str) -> None:
            if choice == "budget":
                limit = TextDialog("Stop after how many tokens, sent and written together?", "1,000,000")
                self._services.ask(limit, lambda text: self._start_with_limit(mode, text))
                return
            self._agreed_charges.add(charge)
            self._services.run_worker(self._start_and_show(mode), "begin")

        self._services.ask(ChoiceDialog(charge, choices), chosen)

    def _start_with_limit(self, mode: str, text: str) -> None:
        """Begin with a budget of tokens, which stays set."""
        from lora_tui.config.explain import parse_edit
        from lora_tui.config.load import with_values

        key = "data_generation.budget_tokens"
        with self._services.reporting():
            tokens = parse_edit(key, "".join(text.replace(",", "").split()))
            self.start_soon(mode, with_values(self._services.state.settings, {key: tokens}))

    async def resume(self, run: RunLine) -> None:
        """Go on with a run that was stopped, has failed or lost its process, with its own settings."""
        if await self.start(run.mode, resume=run.id) is not None:
            self._services.show_run(run)

    async def stop(self, run_id: int, message: str) -> None:
        """Ask a run to save and end, whoever owns it."""
        with self._services.reporting():
            await self._services.backend.stop(run_id)
            self._services.notify(message)

    async def send(self, run_id: int, command: str, message: str = "") -> None:
        """Send a command (``checkpoint``, ``pause``, ``continue``) to the owner of a live run."""
        with self._services.reporting():
            await self._services.backend.send_command(run_id, command)
            if message:
                self._services.notify(message)

    async def export(self, run: RunLine, form: str, path: str) -> None:
        """Export a run's adapter: a run of its own."""
        run_id = await self.start("export", {"adapter_run": run.id, "format": form, "output": path})
        if run_id is not None:
            self._services.notify(f"Exporting to {path} (run {run_id}).")

    async def rename(self, run: RunLine, name: str) -> None:
        """Name a run."""
        with self._services.reporting():
            await self._services.backend.rename(run.id, name)
            self._services.reload_runs()

    async def delete(self, run: RunLine, *, with_files: bool) -> None:
        """Delete a run, and say what became of its folder."""
        with self._services.reporting():
            message = await self._services.backend.delete(run.id, with_files=with_files)
            self._services.state.drop_run(run.id)
            self._services.reload_runs()
            self._services.notify(message)

    # Pairs

    async def override_pairs(self, pair_ids: Sequence[int], verdict: str) -> ReviewResult | None:
        """Accept or reject pairs of one run, whatever their score; None where that was refused."""
        return await self._review(self._services.backend.override_pairs(pair_ids, verdict))

    async def override_text(self, text_id: int, verdict: str) -> ReviewResult | None:
        """Accept or reject a text, whatever its score; None where that was refused."""
        return await self._review(self._services.backend.override_text(text_id, verdict))

    async def edit_pair(self, pair_id: int, question: str, answer: str) -> None:
        """Give a pair another wording."""
        await self._review(self._services.backend.edit_pair(pair_id, question, answer))

    async def undo(self, run_id: int) -> ReviewResult | None:
        """Take back the last verdict or edit of a run; None where there was nothing, or it was refused."""
        return await self._review(self._services.backend.undo(run_id))

    async def _review(self, review: Awaitable[ReviewResult | None]) -> ReviewResult | None:
        result = None
        with self._services.reporting():
            result = await review
            nothing = "There is nothing to take back."
            self._services.notify(nothing if result is None else change_message(result, 1))
            self._services.poll_soon()
        return result
