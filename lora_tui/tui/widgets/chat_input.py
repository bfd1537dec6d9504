"""The prompt of Chat: a text area that sends, recalls earlier questions, and folds what is pasted where it is long."""

from collections.abc import Callable
from typing import ClassVar

from textual import events, on
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import TextArea

from lora_tui.text import count

_LONGEST_PASTE = 4000
"""Characters of a paste that is put into the text area as it is. It wraps and draws what it holds, which takes a second
and more for a megabyte; a longer paste is folded into a few words that stand for it."""


class ChatInput(TextArea):
    """The prompt's text area: enter sends, ctrl+j or alt+enter begins a new line, ↑ recalls earlier questions.

    With nothing typed, enter goes on with a reply that was cut and ? shows the help.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "send", "Send", id="chat.send"),
        Binding("f1", "app.go('generate')", "Screens", id="chat.screens", priority=True, key_display="f1-f6",
                tooltip="Go to another screen; the digits are typed here"),
        Binding("question_mark", "help", "Help", id="chat.help", key_display="?",
                tooltip="These keys; where something is typed, leave the prompt with escape first"),
        Binding("ctrl+j,alt+enter", "newline", "New line", show=False, id="chat.newline", priority=True),
        Binding("up", "cursor_up", "Earlier question", show=False, id="chat.earlier",
                tooltip="In the first line: the question before"),
        Binding("down", "cursor_down", "Later question", show=False, id="chat.later",
                tooltip="In the last line: the question after"),
    ]  # fmt: skip

    class Sent(Message):
        """The text is complete, or empty; `shown` is as it stands in the prompt, with long pastes folded."""

        def __init__(self, text: str, shown: str) -> None:
            super().__init__()
            self.text = text
            self.shown = shown

    def __init__(self, can_go_on: Callable[[], bool] = lambda: False, *, id: str | None = None) -> None:  # noqa: A002
        placeholder = "Ask something; enter sends, ? shows the keys"
        super().__init__(id=id, compact=True, soft_wrap=True, placeholder=placeholder)
        self._can_go_on = can_go_on
        """Whether there is a reply that enter goes on with where nothing is typed."""
        self.earlier: list[str] = []
        """Questions that can be recalled, oldest first."""
        self._recalled = 0
        """How far back in them the text is; 0: it is being typed."""
        self._draft = ""
        self._pastes: dict[str, str] = {}
        """What was pasted and is folded, by the words that stand for it."""
        self._was_empty = True

    def take(self) -> None:
        """Empty the prompt, and keep its text to be recalled."""
        text = self.text.strip()
        if text and self.earlier[-1:] != [text]:
            self.earlier.append(text)
        self._recalled = 0
        self.clear()

    def put_back(self, text: str) -> None:
        """Show a text that has been taken, to be sent again."""
        self.text = text
        self.move_cursor(self.document.end)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer the help where its key is not a character of the question, and no sending where enter goes on."""
        if action == "help":
            return not self.text
        if action == "send":
            return bool(self.text) or not self._can_go_on()
        return super().check_action(action, parameters)

    def check_consume_key(self, key: str, character: str | None = None) -> bool:
        """Whether a key is typed here: "?" is not while nothing is."""
        return bool(self.text or key != "question_mark") and super().check_consume_key(key, character)

    def on_text_area_changed(self) -> None:
        """Offer other keys where the prompt has become empty, or is no longer."""
        if (not self.text) != self._was_empty:
            self._was_empty = not self.text
            self.refresh_bindings()

    async def _on_key(self, event: events.Key) -> None:
        """Take enter and "?" in their turn: as bindings of priority they would overtake letters not yet inserted."""
        bound = self.screen.active_bindings.get(event.key)
        action = bound.binding.action if bound is not None else ""
        if bound is not None and (action in ("send", "go_on") or (action == "help" and not self.text)):
            event.stop()
            event.prevent_default()
            await self.app.run_action(action, bound.node)
        else:
            await super()._on_key(event)

    async def action_help(self) -> None:
        """Show the help of the app."""
        await self.run_action("app.help")

    def action_send(self) -> None:
        """Send the text."""
        shown = self.text.strip()
        text = shown
        for words, pasted in self._pastes.items():
            text = text.replace(words, pasted)
        self.post_message(self.Sent(text.strip(), shown))

    def action_newline(self) -> None:
        """Insert a line break."""
        self.insert("\n")

    def action_cursor_up(self, select: bool = False) -> None:
        """Move up; in the first line, to the question before."""
        if select or not self.navigator.is_first_wrapped_line(self.cursor_location) or not self._recall(1):
            super().action_cursor_up(select)

    def action_cursor_down(self, select: bool = False) -> None:
        """Move down; in the last line, to the question after."""
        if select or not self.navigator.is_last_wrapped_line(self.cursor_location) or not self._recall(-1):
            super().action_cursor_down(select)

    def _recall(self, by: int) -> bool:
        """Show the question that is `by` further back; returns False where there is none."""
        wanted = self._recalled + by
        if not 0 <= wanted <= len(self.earlier):
            return False
        if self._recalled == 0:
            self._draft = self.text
        self._recalled = wanted
        self.put_back(self.earlier[-wanted] if wanted else self._draft)
        return True

    @on(events.Paste)
    def fold(self, event: events.Paste) -> None:
        """Fold a long paste; Textual's own handler inserts all others."""
        if len(event.text) <= _LONGEST_PASTE:
            return
        event.prevent_default()
        event.stop()
        pasted = event.text
        words = f"[paste {len(self._pastes) + 1}: {count(len(pasted), 'character')}]"
        self._pastes[words] = pasted
        self.insert(words)
        self.app.notify(
            "The pasted text is long and stands folded in the prompt; it is sent whole.", markup=False, timeout=6
        )
