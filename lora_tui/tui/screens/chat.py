"""Chat: talk to a checkpoint, to the base model, or to both side by side on the same prompt.

The model is loaded with the first question. The conversation belongs to the backend; this screen shows its stream.
"""

import asyncio
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import events, on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.reactive import var

from lora_tui.files import write_atomically
from lora_tui.protocol.backend import ChatTarget, Conversation
from lora_tui.protocol.reply import Decoding, Side
from lora_tui.store.chat_log import recent_questions
from lora_tui.store.queries.runs import RunLine
from lora_tui.store.rows import LIVE_STATES, TRAINING_MODES
from lora_tui.text import count, progress_text
from lora_tui.tui.actions import AppActions
from lora_tui.tui.screens.base import ModeScreen
from lora_tui.tui.services import AppServices
from lora_tui.tui.text import DIM, safe_line, styled
from lora_tui.tui.views.reviews import change_message, said_words
from lora_tui.tui.widgets.chat_columns import BOTH_SIDES, ChatColumns
from lora_tui.tui.widgets.chat_input import ChatInput
from lora_tui.tui.widgets.panel import Line

if TYPE_CHECKING:
    from textual.worker import Worker

    from lora_tui.config.models import Settings


class ChatScreen(ModeScreen):
    """The mode for conversations with a model."""

    CSS_PATH = "chat.tcss"

    MODE = "chat"
    AUTO_FOCUS = "#prompt"
    LESSON = "09-chatting-and-decoding"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", "Stop", id="chat.stop", tooltip="Stop the reply and keep what was said"),
        Binding("escape", "leave_prompt", "Leave box", id="chat.leave-prompt",
                tooltip="Leave the prompt, so that keys such as 1-6, + and - work; i is back"),
        Binding("i,escape", "prompt", "Type", id="chat.prompt", tooltip="Back to the prompt"),
        Binding("enter", "go_on", "Go on", id="chat.more", tooltip="More of a reply that was cut or stopped"),
        Binding("ctrl+r", "again", "Again", id="chat.again", priority=True, tooltip="Answer the same once more"),
        Binding("ctrl+b", "beside", "Base beside", id="chat.beside", priority=True,
                tooltip="The base model's answer beside the tuned one's"),
        Binding("ctrl+t", "pick_model", "Which model", id="chat.whom", priority=True,
                tooltip="Choose a checkpoint, or a base model, to talk to"),
        Binding("ctrl+x", "export", "Export", id="chat.export", priority=True,
                tooltip="Write the adapter that answers here, or merged weights, for other programs"),
        Binding("ctrl+o", "settings", "Settings", id="chat.settings", priority=True,
                tooltip="Beams, temperature, length of replies"),
        Binding("ctrl+y", "copy", "Copy", show=False, id="chat.copy", priority=True, tooltip="Copy the last reply"),
        Binding("ctrl+s", "save", "Save", show=False, id="chat.save", priority=True,
                tooltip="Save the conversation as Markdown in the current folder"),
        Binding("ctrl+g", "rate(5)", "Good", show=False, id="chat.good", priority=True, tooltip="Rate it 5 of 5"),
        Binding("ctrl+n", "rate(1)", "Bad", show=False, id="chat.bad", priority=True, tooltip="Rate the reply 1 of 5"),
        Binding("plus", "rate(5)", "Good", show=False, key_display="+"),
        Binding("minus", "rate(1)", "Bad", show=False, key_display="-"),
        Binding("u", "undo_rating", "Undo rating", show=False, id="chat.undo-rating",
                tooltip="Take the rating back, outside the prompt; in it the same rating once more"),
        Binding("ctrl+l", "clear", "New", show=False, id="chat.clear", priority=True, tooltip="A new conversation"),
    ]  # fmt: skip

    _busy = var(False, bindings=True)
    """Whether a reply is under way: escape stops it, or leaves the prompt."""

    def __init__(self, services: AppServices, actions: AppActions) -> None:
        super().__init__(services)
        self.actions = actions
        self._chat_columns = ChatColumns(id="chat-columns")
        self._prompt = ChatInput(lambda: not self._busy and self._chat_columns.can_go_on, id="prompt")
        self._chosen_target: ChatTarget | None = None
        self._conversation: Conversation | None = None
        self._loaded_target: ChatTarget | None = None
        """The model of `_conversation`."""
        self._title = ""
        self._loading: tuple[ChatTarget, asyncio.Task[Conversation]] | None = None
        """The model that is being loaded."""
        self._hint_is_untrained = False
        """Whether the hint says that nothing is trained yet."""
        self._asking: Worker[None] | None = None
        """The question that waits for its model; None once it is being answered."""

    def compose_body(self) -> ComposeResult:
        """The two columns, the prompt, and a line on how replies are decoded."""
        yield self._chat_columns
        with Vertical(id="prompt-box", classes="box"):
            yield self._prompt
        yield Line(id="chat-line")

    def on_mount(self) -> None:
        """Show the model of the next question, and what can be done here."""
        self._show_target()
        self._show_hint()

    def _show_hint(self) -> None:
        """Say in the empty columns what can be done here."""
        commands = self.state.special_commands(self.target.run_id)
        text: list[Content | str | tuple[str, str]] = [
            ("The model is loaded with the first question. ", DIM),
            ("ctrl+t", "bold"), (" chooses another checkpoint or a base model, ", DIM),
            ("ctrl+b", "bold"), (" puts the base model beside it.\n", DIM),
            ("↑", "bold"), (" recalls earlier questions, ", DIM), ("?", "bold"),
            (" in the empty prompt shows all keys.", DIM),
        ]  # fmt: skip
        self._hint_is_untrained = self._is_untrained
        if self._hint_is_untrained:
            untrained = "Nothing is trained yet: a base model answers, which knows nothing of your text. "
            ways = (("f1", "bold"), " makes pairs of it, ", ("f2", "bold"), " trains.\n")
            text = [(untrained, "$warning"), *ways, *text]
        if commands:
            shown = ", ".join(commands[:6])
            text += [("\nSpecial commands, whose answers are compared: ", DIM), safe_line(shown, 200, "bold")]
        self._chat_columns.show_hint(styled(*text))

    @property
    def _is_untrained(self) -> bool:
        return not any(run.mode in TRAINING_MODES and run.folder for run in self.state.runs)

    # The model

    @property
    def target(self) -> ChatTarget:
        """The model of the next question: the one chosen, else the newest finished adapter, else the base model."""
        if self._chosen_target is not None:
            return self._chosen_target
        for run in self.state.runs:
            if run.mode in TRAINING_MODES and run.state == "finished" and run.folder:
                return ChatTarget(run.id)
        return ChatTarget(base_only=True)

    def choose_target(self, target: ChatTarget) -> None:
        """Choose the model to talk to; it is loaded with the next question."""
        self._chosen_target = target
        self._title = ""
        self._show_target()
        self._prompt.focus()

    def _describe(self, target: ChatTarget) -> str:
        if target.base_only:
            return "the base model" if target.run_id is None else f"the base model of run {target.run_id}"
        return f"run {target.run_id}, {target.checkpoint} checkpoint"

    async def update(self, *, changed: bool) -> None:
        """Show the model, and the live run: the newest adapter may be another one now."""
        if changed:
            self._show_target()
            if self._hint_is_untrained != self._is_untrained and (hints := self._chat_columns.query(".hint")):
                await hints.remove()
                self._show_hint()

    def _show_target(self) -> None:
        target = self.target
        narrow = self.size.width < 100 and self._chat_columns.base_shown
        is_known = bool(self._title) and self._loaded_target == target and not narrow
        name = self._title if is_known else self._describe(target)
        self._chat_columns.set_speaker(safe_line(name, 70).plain)
        beside = " · beside the base model" if self._chat_columns.base_shown and self.size.width >= 100 else ""
        self.show_run_in_bar(self.state.live_run, no_run=styled(safe_line(name, 60), (beside, DIM)))
        self._show_line()

    def _show_line(self) -> None:
        decoding = self._decoding
        how = f"{decoding.num_beams} beams, shown at the end" if decoding.num_beams > 1 else "word by word"
        how += f" · {count(decoding.max_new_tokens, 'token')} at most"
        if decoding.temperature > 0:
            how += f" · temperature {decoding.temperature:g}"
        how += " · ctrl+o changes it"
        if self._exported_run is not None and self._chat_columns.newest_reply is not None:
            how = f"ctrl+x exports it · {how}"
        self.query_one("#chat-line", Line).show(styled((how, DIM)))

    @property
    def _decoding(self) -> Decoding:
        return Decoding.of_settings(self.state.settings)

    # Talking

    @on(ChatInput.Sent)
    def _sent(self, event: ChatInput.Sent) -> None:
        if not event.text and not self._chat_columns.can_go_on:
            return
        if self._busy:
            self.services.notify("The model is still answering; escape stops it.")
            return
        if event.text.casefold() == "exit":
            self._prompt.clear()
            self.services.go_to("runs")
            return
        self._busy = True
        if event.text:
            self._prompt.take()
            self._asking = self._ask(event.text, event.shown)
        else:
            self._go_on()

    @work(exit_on_error=False, group="chat")
    async def _ask(self, text: str | None, shown: str = "") -> None:
        """Show the question, load the model, ask, and show the replies as they come; None asks the last one anew."""
        columns = self._chat_columns
        sides: tuple[Side, ...] = ("base",) if self.target.base_only else ("tuned",)
        if columns.base_shown and not self.target.base_only:
            sides = BOTH_SIDES
        try:
            await columns.begin_exchange(text, sides, shown)
            conversation = await self._load()
            self._asking = None
            able = tuple(conversation.sides[: len(sides)])
            if able != sides:  # a base model alone
                await columns.take_back()
                await columns.begin_exchange(text, able, shown)
            columns.show_progress(self._how_it_begins, anew=True)
            conversation.set_decoding(self._decoding)
            stream = conversation.reply(text, able) if text is not None else conversation.regenerate(able)
            await columns.stream_replies(stream, self.services.notify)
        except asyncio.CancelledError:
            if self._asking is None:  # escape
                await self._give_back(text, shown)
            raise
        except Exception as error:  # noqa: BLE001  # logged there; it ends this reply, not the conversation or the app
            await self._give_back(text, shown)
            self.services.report_error(error)
        finally:
            self._busy = False
            self._show_line()

    @work(exit_on_error=False, group="chat")
    async def _go_on(self) -> None:
        """Have the replies that were cut or stopped go on."""
        assert self._conversation is not None, "it has replied"
        try:
            self._conversation.set_decoding(self._decoding)
            await self._chat_columns.go_on(self._conversation.continue_reply(BOTH_SIDES), self.services.notify)
        except Exception as error:  # noqa: BLE001  # as above
            self._chat_columns.end_with("it goes no further")
            self.services.report_error(error)
        finally:
            self._busy = False

    @property
    def _how_it_begins(self) -> str:
        beams = self._decoding.num_beams
        return f"searching with {beams} beams" if beams > 1 else "reading"

    async def _give_back(self, text: str | None, shown: str) -> None:
        """Put a question that got no answer back into the prompt: nobody should have to type it again."""
        if text is None or not self._chat_columns.is_empty or self._prompt.text:
            self._chat_columns.end_with("no answer")
            return
        await self._chat_columns.take_back()
        self._prompt.put_back(shown)

    async def _load(self) -> Conversation:
        """The conversation with the model that is chosen; loads it where another one is loaded, or none."""
        target = self.target
        while self._loading is not None and self._loading[0] != target:  # somebody has not waited for it
            await asyncio.wait([self._loading[1]])
        if self._loading is None:
            if self._conversation is not None and self._loaded_target == target:
                return self._conversation
            await self._unload()
            task = asyncio.create_task(self._open(target))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # also where nobody waits
            self._loading = target, task
        return await asyncio.shield(self._loading[1])

    async def _open(self, target: ChatTarget) -> Conversation:
        self._chat_columns.show_progress("loading the model", anew=True)

        def progress(phase: str, done: int, total: int) -> None:
            self._chat_columns.show_progress(progress_text(phase, done, total if done < total else 0))

        try:
            conversation = await self.services.backend.open_chat(target, self.state.settings, progress)
        finally:
            self._loading = None
        self._conversation, self._loaded_target = conversation, target
        self._title = conversation.title
        self._show_target()
        return conversation

    @on(events.Unmount)
    async def _unload(self) -> None:
        """Unload the model, if there is one."""
        conversation, self._conversation = self._conversation, None
        self._loaded_target = None
        if conversation is not None:
            await conversation.close()

    # Keys

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer only what can be done now."""
        if action in ("again", "copy", "rate", "undo_rating", "save"):
            return self._chat_columns.newest_reply is not None
        if action == "export":
            return self._exported_run is not None
        if action == "stop":
            return self._busy
        if action == "go_on":
            return not self._busy and self._chat_columns.can_go_on
        if action == "leave_prompt":
            return not self._busy and isinstance(self.focused, ChatInput)
        if action == "prompt":
            return not isinstance(self.focused, ChatInput)
        return True

    @property
    def _exported_run(self) -> RunLine | None:
        """The run whose adapter answers here; None for the base model, and while the run goes on."""
        run = None if self.target.base_only else self.state.run(self.target.run_id)
        return run if run is not None and run.state not in LIVE_STATES else None

    def action_export(self) -> None:
        """Choose what of the run to export, then where to."""
        if self._exported_run is not None:
            self.actions.ask_export(self._exported_run)

    def action_stop(self) -> None:
        """Stop the reply; a question that waits for its model goes back into the prompt."""
        asking, self._asking = self._asking, None
        if asking is not None:
            asking.cancel()
        elif self._conversation is not None:
            self._conversation.stop()

    def action_leave_prompt(self) -> None:
        """Leave the prompt, so that the keys of the app work again."""
        self._chat_columns.focus_transcript()

    def action_prompt(self) -> None:
        """Go back to typing."""
        self._prompt.focus()

    def action_go_on(self) -> None:
        """Have a reply that was cut or stopped go on."""
        self._busy = True
        self._go_on()

    async def action_again(self) -> None:
        """Remove the last reply and have another."""
        if self._busy or self._conversation is None:
            return
        self._busy = True
        self._asking = self._ask(None)

    def action_beside(self) -> None:
        """Show or hide the base model's column."""
        self._chat_columns.base_shown = not self._chat_columns.base_shown
        self._show_target()

    async def action_clear(self) -> None:
        """Begin a new conversation with the same model."""
        if self._busy:
            return
        if self._conversation is not None:
            await self._conversation.clear()
        await self._chat_columns.clear()
        self._show_hint()

    def action_pick_model(self) -> None:
        """Choose a checkpoint or the base model."""
        from lora_tui.tui.screens.chat_dialogs import CheckpointPicker

        self.services.ask(CheckpointPicker(self.services), self.choose_target)

    def action_settings(self) -> None:
        """Change how replies are decoded."""
        from lora_tui.tui.screens.chat_dialogs import DecodingDialog

        self.services.ask(DecodingDialog(self.state.settings), self._settings_changed)

    def _settings_changed(self, settings: "Settings") -> None:
        self.state.settings = settings
        self._show_line()

    def action_copy(self) -> None:
        """Copy the newest reply."""
        answer = self._chat_columns.newest_reply
        if answer is not None:
            self.services.copy(answer.text)

    async def action_rate(self, rating: int) -> None:
        """Rate the newest reply; its present rating once more takes that back."""
        answer = self._chat_columns.newest_reply
        if answer is None or answer.reply is None:
            return
        if answer.ratings[-1:] == [rating]:
            await self.action_undo_rating()
            return
        rated = self.services.backend.rate_turn(answer.reply.turn_id, rating, self.state.settings)
        result = await self.services.attempt(rated)
        if result is not None:
            answer.ratings.append(rating)
            answer.show_statistics()
            self.services.notify(f"{change_message(result, 2)}{await self._what_was_said()}")

    async def _what_was_said(self) -> str:
        """How much there is by now to learn from, and where that is done; nothing where there is none."""
        counted = await self.services.attempt(self.services.backend.count_said(self.state.settings))
        return f"\nOn Train (f2), d: {said_words(*counted)}." if counted and any(counted) else ""

    async def action_undo_rating(self) -> None:
        """Take the newest reply's rating back; the one before it is in force again."""
        answer = self._chat_columns.newest_reply
        if answer is None or answer.reply is None:
            return
        undone = self.services.backend.undo_turn_rating(answer.reply.turn_id, self.state.settings)
        result = await self.services.attempt(undone)
        if result is not None:
            del answer.ratings[-1:]
            answer.show_statistics()
            self.services.notify(change_message(result, 2))

    async def action_save(self) -> None:
        """Write the conversation to a file."""
        text = self._chat_columns.transcript(self._title)
        if not text:
            return
        path = Path.cwd() / f"chat-{datetime.now().astimezone():%Y%m%d-%H%M%S}.md"
        with self.services.reporting():
            await asyncio.to_thread(write_atomically, path, text)
            self.services.notify(f"Saved: {path}")

    @on(events.ScreenResume)
    async def _resumed(self) -> None:
        """Take the model that another screen has asked for, and the questions that can be recalled."""
        requested, self.state.requested_chat = self.state.requested_chat, None
        if requested is not None:
            self.choose_target(requested)
        else:
            self._show_target()
        if hints := self._chat_columns.query(".hint"):
            await hints.remove()
            self._show_hint()
        if self.store is not None:
            self._prompt.earlier = await recent_questions(self.store)
