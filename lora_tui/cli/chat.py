"""Chat in lines: a person at a terminal, a script on a pipe, or one ``--prompt``.

A person can type at once: the model is loaded meanwhile. Ctrl+c stops the reply that is being written, and at the
prompt it leaves. `chat_output` holds how all of it is written and read.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TextIO

from lora_tui.cli.chat_output import EXIT, HELP, INTERRUPTED, ChatOutput, make_chat_output
from lora_tui.cli.request import Request
from lora_tui.config.models import Settings
from lora_tui.engine.jobs.preflight import check_chat, open_chat
from lora_tui.engine.runtime.engine import Engine
from lora_tui.protocol.reply import Reply, ReplyItem
from lora_tui.store.chat_log import recent_questions

if TYPE_CHECKING:
    from lora_tui.engine.chat.session import ChatSession


def chat_mode(engine: Engine, settings: Settings, request: Request, out: TextIO) -> int:
    """Open a chat session on the engine and answer the prompt, or line after line; returns the exit status."""
    options: dict[str, Any] = {}
    if request.adapter is not None:
        options["adapter"] = str(request.adapter.expanduser())
    elif isinstance(request.resume, int):
        options |= {"adapter_run": request.resume, "model_must_match": True}
    engine.call(check_chat(engine.open_store, settings, options)).result()
    output = make_chat_output(out, json_lines=request.json_lines, single=request.prompt is not None)
    commands = list(settings.fine_tuning.chat.commands)
    output.begin(commands, engine.call(recent_questions(engine.open_store)).result() if output.loads_meanwhile else ())
    conversation = _Conversation(engine, output, engine.call(open_chat(engine, settings, options, output.progress)))
    if not output.loads_meanwhile:
        conversation.wait_for_model()
    if request.prompt is not None:
        whole = conversation.answer(request.prompt)
        output.end("finished" if whole else "interrupted")
        return 0 if whole else INTERRUPTED
    return _answer_lines(conversation, output)


def _answer_lines(conversation: "_Conversation", output: ChatOutput) -> int:
    """Read lines and answer them until ``exit``, the end of the input, or ctrl+c at the prompt."""
    while True:
        try:
            text = output.read_line()
        except KeyboardInterrupt:
            output.end("interrupted")
            return INTERRUPTED
        if text is None or text.strip().casefold() == EXIT:
            output.end("finished")
            return 0
        if text.strip() == HELP and output.show_help():
            continue
        if text.strip():
            conversation.answer(text.strip())
        elif output.goes_on_by_enter and conversation.can_go_on:
            conversation.answer(None)


class _Conversation:
    """A session that is open, or being opened, and its replies written as they come."""

    def __init__(self, engine: Engine, output: ChatOutput, opening: "Future[ChatSession]") -> None:
        self._engine = engine
        self._output = output
        self._opening = opening
        self._session: ChatSession | None = None
        self.can_go_on = False
        """Whether the last reply was cut or stopped."""

    def wait_for_model(self) -> "ChatSession":
        """Return the session once its model is loaded; raises what opening it raised."""
        if self._session is None:
            self._output.wait_for_model()
            try:
                self._session = self._opening.result()
            except BaseException:
                self._output.end("interrupted")
                raise
            self._output.loaded(self._session)
        return self._session

    def answer(self, text: str | None) -> bool:
        """Answer one line, or go on with the last reply (None).

        Returns False when ctrl+c cut the reply short. An interruption loses no item.
        """
        session = self.wait_for_model()
        whole = True
        self._output.begin_reply(text or "")
        items: AsyncGenerator[ReplyItem, None] = session.continue_reply() if text is None else session.reply(text)
        pending: Future[ReplyItem | None] | None = None
        while True:
            try:
                if pending is None:
                    pending = self._engine.call(_next_item(items))
                item = pending.result()
                pending = None
                if item is None:
                    return whole
                if isinstance(item, Reply):
                    self.can_go_on = item.can_go_on
                self._output.item(item)
            except KeyboardInterrupt:
                whole = False
                session.stop.set()  # the reply ends at its next token, and its turn is stored


async def _next_item(items: AsyncIterator[ReplyItem]) -> ReplyItem | None:
    return await anext(items, None)
