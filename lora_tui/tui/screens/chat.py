"""Chat: talk to a checkpoint, to the base model, or to both side by side on the same prompt.

The model is loaded with the first question. The conversation belongs to the backend; this screen shows its stream.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import events, on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.reactive import var
from textual.widgets import TextArea

from lora_tui.files import write_atomically
from lora_tui.protocol.backend import ChatTarget, Conversation
from lora_tui.protocol.reply import Decoding, Side
from lora_tui.store.queries.runs import RunLine
from lora_tui.store.rows import LIVE_STATES, TRAINING_MODES
from lora_tui.tui.actions import AppActions
from lora_tui.tui.screens.base import ModeScreen
from lora_tui.tui.services import AppServices
from lora_tui.tui.text import DIM, safe_line, styled
from lora_tui.tui.widgets.chat_columns import BOTH_SIDES, ChatColumns
from lora_tui.tui.widgets.panel import Line

if TYPE_CHECKING:
    from lora_tui.config.models import Settings


class ChatInput(TextArea):
    """The prompt's text area: enter sends, ctrl+j or alt+enter begins a new line."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "send", "Send", id="chat.send", priority=True),
        Binding("f1", "app.go('generate')", "Screens", id="chat.screens", priority=True, key_display="f1-f6",
                tooltip="Go to another screen; the digits are typed here"),
        Binding("ctrl+j,alt+enter", "newline", "New line", show=False, id="chat.newline", priority=True),
    ]  # fmt: skip

    class Sent(Message):
        """The text is complete."""

    def action_send(self) -> None:
        """Send the text."""
        self.post_message(self.Sent())

    def action_newline(self) -> None:
        """Insert a line break."""
        self.insert("\n")


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
        Binding("ctrl+r", "again", "Again", id="chat.again", priority=True, tooltip="Answer the same once more"),
        Binding("ctrl+b", "beside", "Base beside", id="chat.beside", priority=True,
                tooltip="The base model's answer beside the tuned one's"),
        Binding("ctrl+t", "pick_model", "Whom", id="chat.whom", priority=True,
                tooltip="Choose a checkpoint to talk to"),
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
        Binding("ctrl+l", "clear", "New", show=False, id="chat.clear", priority=True, tooltip="A new conversation"),
    ]  # fmt: skip

    _busy = var(False, bindings=True)
    """Whether a reply is under way: escape stops it, or leaves the prompt."""

    def __init__(self, services: AppServices, actions: AppActions) -> None:
        super().__init__(services)
        self.actions = actions
        self._chat_columns = ChatColumns(id="chat-columns")
        self._prompt = ChatInput(id="prompt", compact=True, soft_wrap=True, placeholder="Ask something; enter sends")
        self._chosen_target: ChatTarget | None = None
        self._conversation: Conversation | None = None
        self._loaded_target: ChatTarget | None = None
        """The model of `_conversation`."""
        self._title = ""

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
        commands = self.state.settings.fine_tuning.chat.commands
        text: list[Content | str | tuple[str, str]] = [
            ("The model is loaded with the first question. ", DIM),
            ("ctrl+t", "bold"), (" chooses another checkpoint or the base model, ", DIM),
            ("ctrl+b", "bold"), (" puts the base model beside it.", DIM),
        ]  # fmt: skip
        if commands:
            shown = ", ".join(list(commands)[:6])
            text += [("\nSpecial commands, whose answers are compared: ", DIM), safe_line(shown, 200, "bold")]
        self._chat_columns.show_hint(styled(*text))

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
            return "the base model"
        return f"run {target.run_id}, {target.checkpoint} checkpoint"

    async def update(self, *, changed: bool) -> None:
        """Show the model, and the live run: the newest adapter may be another one now."""
        if changed:
            self._show_target()

    def _show_target(self) -> None:
        target = self.target
        name = self._title if self._title and self._loaded_target == target else self._describe(target)
        self._chat_columns.set_speaker(safe_line(name, 70).plain)
        beside = " · beside the base model" if self._chat_columns.base_shown and self.size.width >= 100 else ""
        self.show_run_in_bar(self.state.live_run, no_run=styled(safe_line(name, 60), (beside, DIM)))
        self._show_line()

    def _show_line(self, text: str = "") -> None:
        decoding = Decoding.of_chat(self.state.settings.fine_tuning.chat)
        how = f"{decoding.num_beams} beams, all at once" if decoding.num_beams > 1 else "streams"
        how += f" · {decoding.max_new_tokens} new tokens · temperature {decoding.temperature:g}"
        how += " · ctrl+o changes it"
        if self._exported_run is not None and self._chat_columns.newest_reply is not None:
            how = f"ctrl+x exports it · {how}"
        self.query_one("#chat-line", Line).show(styled((text, "$accent"), "   " if text else "", (how, DIM)))

    # Talking

    @on(ChatInput.Sent)
    def _sent(self) -> None:
        text = self._prompt.text.strip()
        if not text:
            return
        if self._busy:
            self.services.notify("The model is still answering; escape stops it.")
            return
        self._prompt.clear()
        if text.casefold() == "exit":
            self.services.go_to("runs")
            return
        self._busy = True
        self._answer(text)

    @work(exit_on_error=False, group="chat")
    async def _answer(self, text: str | None) -> None:
        """Load the model, ask, and show the replies as they are decoded; None answers the last question anew."""
        try:
            conversation = await self._load()
            beside = self._chat_columns.base_shown and len(conversation.sides) > 1
            sides: Sequence[Side] = BOTH_SIDES if beside else conversation.sides[:1]
            if text is not None:
                await self._chat_columns.add_prompt(text, sides)
            conversation.set_decoding(Decoding.of_chat(self.state.settings.fine_tuning.chat))
            stream = conversation.reply(text, sides) if text is not None else conversation.regenerate(sides)
            await self._chat_columns.stream_replies(stream, sides, self.services.notify)
        except Exception as error:  # noqa: BLE001  # logged there; it ends this reply, not the conversation or the app
            if text and not self._prompt.text:
                self._prompt.text = text  # nobody should have to type it again
            self.services.report_error(error)
        finally:
            self._busy = False
            self._show_line()

    async def _load(self) -> Conversation:
        """The conversation with the model that is chosen; loads it where another one is loaded, or none."""
        target = self.target
        if self._conversation is not None and self._loaded_target == target:
            return self._conversation
        await self._unload()
        self._show_line("loading the model …")

        def progress(phase: str, done: int, total: int) -> None:
            share = f" {100 * done // total} %" if total > 1 else " …"
            self._show_line(f"{safe_line(phase, 60).plain}{share}" if done < total else "")

        self._conversation = await self.services.backend.open_chat(target, self.state.settings, progress)
        self._loaded_target = target
        self._title = self._conversation.title
        self._show_target()
        return self._conversation

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
        if action in ("again", "copy", "rate", "save"):
            return self._chat_columns.newest_reply is not None
        if action == "export":
            return self._exported_run is not None
        if action == "stop":
            return self._busy
        if action == "leave_prompt":
            return not self._busy and isinstance(self.focused, ChatInput)
        if action == "prompt":
            return not isinstance(self.focused, ChatInput)
        return True

    @property
    def _exported_run(self) -> RunLine | None:
        """The run whose adapter answers here; None for the base model, and while the run goes on."""
        run = self.state.run(self.target.run_id)
        return run if run is not None and run.state not in LIVE_STATES else None

    def action_export(self) -> None:
        """Choose what of the run to export, then where to."""
        if self._exported_run is not None:
            self.actions.ask_export(self._exported_run)

    def action_stop(self) -> None:
        """Stop the reply."""
        if self._conversation is not None:
            self._conversation.stop()

    def action_leave_prompt(self) -> None:
        """Leave the prompt, so that the keys of the app work again."""
        self._chat_columns.focus_transcript()

    def action_prompt(self) -> None:
        """Go back to typing."""
        self._prompt.focus()

    async def action_again(self) -> None:
        """Remove the last reply and have another."""
        if self._busy or self._conversation is None:
            return
        self._busy = True
        await self._chat_columns.remove_last_replies()
        self._answer(None)

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
        """Rate the newest reply."""
        answer = self._chat_columns.newest_reply
        if answer is None or answer.reply is None:
            return
        rated = self.services.backend.rate_turn(answer.reply.turn_id, rating, self.state.settings)
        result = await self.services.attempt(rated)
        if result is None:
            return
        answer.rating = rating
        answer.show_statistics()
        self.services.notify(result.message)

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
    def _resumed(self) -> None:
        """Take the model that another screen has asked for."""
        requested, self.state.requested_chat = self.state.requested_chat, None
        if requested is not None:
            self.choose_target(requested)
        else:
            self._show_target()
