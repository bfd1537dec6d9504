"""Chat: talk to a checkpoint, to the base model, or to both side by side on the same prompt."""

import asyncio
import logging
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import ClassVar

from textual import events, on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import TextArea

from lora_tui.errors import LoraTuiError
from lora_tui.files import write_atomically
from lora_tui.protocol.backend import ChatTarget, Conversation
from lora_tui.protocol.reply import Decoding, Side
from lora_tui.tui.screens.base import ModeScreen
from lora_tui.tui.services import AppServices
from lora_tui.tui.state import TRAINING_MODES
from lora_tui.tui.text import DIM, safe_line, styled
from lora_tui.tui.widgets.chat_columns import BOTH, ChatColumns
from lora_tui.tui.widgets.panel import Line

log = logging.getLogger(__name__)


class Prompt(TextArea):
    """Where people type: enter sends, ctrl+j or alt+enter begins a new line."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "send", "Send", id="chat.send", priority=True),
        Binding("f1", "app.go('generate')", "Screens", id="chat.screens", priority=True, key_display="f1-f6",
                tooltip="Go to another screen; the digits are typed here"),
        Binding("ctrl+j,alt+enter", "newline", "New line", show=False, id="chat.newline", priority=True),
    ]  # fmt: skip

    class Sent(Message):
        """The text is complete."""

    def action_send(self) -> None:
        """Hand the text over."""
        self.post_message(self.Sent())

    def action_newline(self) -> None:
        """Begin a new line."""
        self.insert("\n")


class ChatScreen(ModeScreen):
    """The mode in which one talks."""

    CSS_PATH = "chat.tcss"

    MODE = "chat"
    LESSON = "09-chatting-and-decoding"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", "Stop", id="chat.stop", tooltip="Stop the reply and keep what was said"),
        Binding("escape", "leave_prompt", "Leave box", id="chat.leave-prompt",
                tooltip="Leave the prompt, so that keys such as 1-6, + and - work; i is back"),
        Binding("i,escape", "prompt", "Type", id="chat.prompt", tooltip="Back to the prompt"),
        Binding("ctrl+r", "again", "Again", id="chat.again", priority=True, tooltip="Answer the same once more"),
        Binding("ctrl+b", "beside", "Base beside", id="chat.beside", priority=True,
                tooltip="The base model's answer beside the tuned one's"),
        Binding("ctrl+t", "whom", "Whom", id="chat.whom", priority=True, tooltip="Choose a checkpoint to talk to"),
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

    def __init__(self, services: AppServices) -> None:
        super().__init__(services)
        self._speaker: ChatTarget | None = None
        self._conversation: Conversation | None = None
        self._spoken_to: ChatTarget | None = None
        self._busy = False
        self._title = ""

    def compose_body(self) -> ComposeResult:
        """The two columns, the prompt, and who is spoken to."""
        yield ChatColumns(id="talk")
        with Vertical(id="prompt-box", classes="box"):
            yield Prompt(id="prompt", compact=True, soft_wrap=True, placeholder="Ask something; enter sends")
        yield Line(id="chat-line")

    def on_mount(self) -> None:
        """Begin at the prompt."""
        self.query_one("#prompt").focus()
        self._show_speaker()
        self._welcome()

    def _welcome(self) -> None:
        commands = self.state.settings.fine_tuning.chat.commands
        words: list[Content | str | tuple[str, str]] = [
            ("The model is loaded with the first question. ", DIM),
            ("ctrl+t", "bold"), (" chooses another checkpoint or the base model, ", DIM),
            ("ctrl+b", "bold"), (" puts the base model beside it.", DIM),
        ]  # fmt: skip
        if commands:
            shown = ", ".join(list(commands)[:6])
            words += [("\nSpecial commands, whose answers are compared: ", DIM), safe_line(shown, 200, "bold")]
        self._talk.hint(styled(*words))

    @property
    def _talk(self) -> ChatColumns:
        return self.query_one(ChatColumns)

    # Whom

    @property
    def speaker(self) -> ChatTarget:
        """Whom the next question goes to: the one chosen, else the newest finished adapter, else the base model."""
        if self._speaker is not None:
            return self._speaker
        trained = (
            run.id for run in self.state.runs if run.mode in TRAINING_MODES and run.state == "finished" and run.folder
        )
        newest = next(trained, None)
        return ChatTarget(newest) if newest is not None else ChatTarget(base_only=True)

    def talk_to(self, speaker: ChatTarget) -> None:
        """Choose whom to talk to; the model is loaded with the next question."""
        self._speaker = speaker
        self._title = ""
        self._show_speaker()
        self.query_one("#prompt").focus()

    def _describe(self, speaker: ChatTarget) -> str:
        if speaker.base_only:
            return "the base model"
        if speaker.adapter is not None:
            return f"the adapter in {speaker.adapter}"
        return f"run {speaker.run_id}, {speaker.checkpoint} checkpoint"

    async def update(self, *, changed: bool) -> None:
        """Say who speaks, and what runs meanwhile."""
        if changed:
            self._show_speaker()

    def _show_speaker(self) -> None:
        speaker = self.speaker
        name = self._title if self._title and self._spoken_to == speaker else self._describe(speaker)
        self._talk.entitle(safe_line(name, 70).plain)
        live = self.state.live
        if live:
            self.show_run_in_bar(live[0])
        else:
            beside = " · beside the base model" if self._talk.beside and self.size.width >= 100 else ""
            self.show_in_bar(styled(safe_line(name, 60), (beside, DIM)))
        self._show_line()

    def _decoded(self) -> Decoding:
        return Decoding.of_chat(self.state.settings.fine_tuning.chat)

    def _show_line(self, words: str = "") -> None:
        d = self._decoded()
        how = f"{d.num_beams} beams, all at once" if d.num_beams > 1 else "streams"
        how += f" · {d.max_new_tokens} new tokens · temperature {d.temperature:g}"
        self.query_one("#chat-line", Line).show(
            styled((words, "$accent"), "   " if words else "", (how + " · ctrl+o changes it", DIM))
        )

    # Talking

    @on(Prompt.Sent)
    def _sent(self) -> None:
        prompt = self.query_one("#prompt", Prompt)
        text = prompt.text.strip()
        if not text:
            return
        if self._busy:
            self.services.notify("The model is still answering; escape stops it.")
            return
        if text.casefold() == "exit":
            prompt.clear()
            self.services.go_to("runs")
            return
        prompt.clear()
        self._set_busy(True)
        self._converse(text)

    @work(exit_on_error=False, group="talk")
    async def _converse(self, text: str | None) -> None:
        """Load what must be loaded, ask, and show the answers as they come; None asks the last question again."""
        try:
            conversation = await self._open()
            beside = self._talk.beside and len(conversation.sides) > 1
            sides: Sequence[Side] = BOTH if beside else conversation.sides[:1]
            if text is not None:
                await self._talk.ask(text, sides)
            conversation.set_decoding(self._decoded())
            stream = conversation.reply(text, sides) if text is not None else conversation.regenerate(sides)
            await self._talk.listen(stream, sides, self.services.notify)
        except LoraTuiError as problem:
            self._put_back(text)
            self.services.report_error(problem)
        except Exception as problem:  # a failure of the model ends this reply, not the conversation, and not the app
            log.exception("a reply failed")
            self._put_back(text)
            self.services.report_error(problem)
        finally:
            self._set_busy(False)
            self._show_line()

    def _set_busy(self, busy: bool) -> None:
        """Note that a reply is under way or over; escape is another key then."""
        self._busy = busy
        self.refresh_bindings()

    def _put_back(self, text: str | None) -> None:
        """Give the question back to the prompt: nobody should have to type it again."""
        prompt = self.query_one("#prompt", Prompt)
        if text and not prompt.text:
            prompt.text = text

    async def _open(self) -> Conversation:
        speaker = self.speaker
        if self._conversation is not None and self._spoken_to == speaker:
            return self._conversation
        await self._close()
        self._show_line("loading the model …")

        def progress(phase: str, done: int, total: int) -> None:
            share = f" {100 * done // total} %" if total > 1 else " …"
            self._show_line(f"{safe_line(phase, 60).plain}{share}" if done < total else "")

        self._conversation = await self.services.backend.open_chat(speaker, self.state.settings, progress)
        self._spoken_to = speaker
        self._title = self._conversation.title
        self._show_speaker()
        return self._conversation

    async def _close(self) -> None:
        conversation, self._conversation = self._conversation, None
        self._spoken_to = None
        if conversation is not None:
            await conversation.close()

    # Keys

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer only what can be done now."""
        if action in ("again", "copy", "rate", "save"):
            return self._talk.newest is not None
        if action == "stop":
            return self._busy
        if action == "leave_prompt":
            return not self._busy and isinstance(self.focused, Prompt)
        if action == "prompt":
            return not isinstance(self.focused, Prompt)
        return True

    def action_stop(self) -> None:
        """Stop the reply."""
        if self._conversation is not None:
            self._conversation.stop()

    def action_leave_prompt(self) -> None:
        """Leave the prompt, so that the keys of the app work again."""
        self._talk.focus_words()

    def action_prompt(self) -> None:
        """Go back to typing."""
        self.query_one("#prompt").focus()

    async def action_again(self) -> None:
        """Take the last answer back and have another."""
        if self._busy or self._conversation is None:
            return
        self._set_busy(True)
        await self._talk.take_back()
        self._converse(None)

    def action_beside(self) -> None:
        """Put the base model beside, or away."""
        self._talk.beside = not self._talk.beside
        self._show_speaker()

    async def action_clear(self) -> None:
        """Begin anew with the same model."""
        if self._busy:
            return
        if self._conversation is not None:
            await self._conversation.clear()
        await self._talk.clear()
        self._welcome()

    def action_whom(self) -> None:
        """Choose whom to talk to."""
        from lora_tui.tui.screens.chat_dialogs import CheckpointPicker

        self.services.open_screen(CheckpointPicker(self.services), self._chosen)

    def _chosen(self, speaker: ChatTarget | None) -> None:
        if speaker is not None:
            self.talk_to(speaker)

    def action_settings(self) -> None:
        """Change how replies are decoded."""
        from lora_tui.tui.screens.chat_dialogs import DecodingDialog

        self.services.open_screen(DecodingDialog(self.state.settings), self._settled)

    def _settled(self, settings: object) -> None:
        from lora_tui.config import Settings

        if isinstance(settings, Settings):
            self.state.settings = settings
        self._show_line()

    def action_copy(self) -> None:
        """Copy the newest reply."""
        answer = self._talk.newest
        if answer is not None:
            self.services.copy(answer.text)

    async def action_rate(self, rating: int) -> None:
        """Rate the newest reply."""
        answer = self._talk.newest
        if answer is None or answer.said is None:
            return
        rated = self.services.backend.rate_turn(answer.said.turn_id, rating, self.state.settings)
        moved = await self.services.attempt(rated)
        if moved is None:
            return
        answer.rating = rating
        answer.show_figures()
        self.services.notify(moved.words)

    async def action_save(self) -> None:
        """Write the conversation to a file."""
        text = self._talk.transcript(self._title)
        if not text:
            return
        path = Path.cwd() / f"chat-{datetime.now().astimezone():%Y%m%d-%H%M%S}.md"
        try:
            await asyncio.to_thread(write_atomically, path, text)
        except LoraTuiError as problem:
            self.services.report_error(problem)
            return
        self.services.notify(f"Saved: {path}")

    async def on_unmount(self) -> None:
        """Let go of the model."""
        await self._close()

    @on(events.ScreenResume)
    def _resumed(self) -> None:
        """Take the model that another screen has asked for."""
        requested, self.state.requested_chat = self.state.requested_chat, None
        if requested is not None:
            self.talk_to(requested)
        else:
            self._show_speaker()
