"""A chat session on the engine's loop, driven from the test's thread."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lora_tui.config.load import with_values
from lora_tui.engine.chat.session import ChatSession, open_session
from lora_tui.protocol.reply import Notice, Reply, ReplyItem, Side, TextDelta, TokenCount
from lora_tui.store import chat_log
from lora_tui.store.rows import Turn
from tests.engine.conftest import EngineHarness
from tests.engine.loaded_models import quiet


class HeardReply(list[ReplyItem]):
    """The items of a reply."""

    @property
    def replies(self) -> dict[Side, Reply]:
        return {item.side: item for item in self if isinstance(item, Reply)}

    @property
    def notes(self) -> list[str]:
        return [item.text for item in self if isinstance(item, Notice)]

    def pieces(self, side: Side) -> list[str]:
        return [item.text for item in self if isinstance(item, TextDelta) and item.side == side]

    def progress(self, side: Side) -> list[int]:
        return [item.tokens for item in self if isinstance(item, TokenCount) and item.side == side]


class ChatProbe:
    """A session, opened with `changes` to the harness's settings."""

    def __init__(
        self,
        engine_harness: EngineHarness,
        changes: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.engine_harness = engine_harness
        settings = with_values(engine_harness.settings, dict(changes or {}))
        self.session: ChatSession = self.wait(open_session(engine_harness.engine, settings, options or {}, quiet))

    def wait(self, work: Any) -> Any:
        """Run a coroutine on the engine's loop to its end."""
        return self.engine_harness.engine.call(work).result(timeout=300)

    def hear(
        self, items: AsyncGenerator[ReplyItem, None], on_item: Callable[[HeardReply], None] = lambda said: None
    ) -> HeardReply:
        """Read a reply to its end; `on_item` is called after each item with all of them so far."""

        async def listen() -> HeardReply:
            said = HeardReply()
            async for item in items:
                said.append(item)
                on_item(said)
            return said

        heard: HeardReply = self.wait(listen())
        return heard

    def ask(self, text: str, sides: Sequence[Side] | None = None, **how: Any) -> HeardReply:
        return self.hear(self.session.reply(text, sides, **how))

    def regenerate(self, sides: Sequence[Side] | None = None, **how: Any) -> HeardReply:
        return self.hear(self.session.regenerate(sides, **how))

    def say(self, text: str, stop_after: int | None = None) -> tuple[list[str], Reply]:
        """The pieces and the reply of the side that is asked by default; stopped after so many items."""

        def stop(said: HeardReply) -> None:
            if len(said) == stop_after:
                self.session.stop.set()

        *pieces, reply = self.hear(self.session.reply(text), stop)
        assert isinstance(reply, Reply)
        return [piece.text for piece in pieces if isinstance(piece, TextDelta)], reply

    def set(self, **decoding: Any) -> None:
        """Decode otherwise from the next reply on."""
        self.session.decoding = replace(self.session.decoding, **decoding)

    @property
    def turns(self) -> list[Turn]:
        found: list[Turn] = self.engine_harness.ask(chat_log.turns, self.session.conversation_id)
        return found
