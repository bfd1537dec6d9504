"""The generation model behind an OpenAI-compatible endpoint: `RemoteModel`, which joins its writer, judges and analyst.

Each asks for what the model can do: a model that writes only about single sentences interprets no statistics, they are
put into words by rule.
"""

import asyncio
import json
from collections.abc import Callable, Sequence

from lora_tui.config.generation import DataGeneration
from lora_tui.engine.generation.analysis import describe
from lora_tui.engine.generation.client.batch_rounds import MOST_REQUESTS
from lora_tui.engine.generation.client.wire import ChatReply, ChatRequest
from lora_tui.engine.generation.generation_model import CallRecord, EndpointLoad, EndpointStatus, PairRequest, Proposals
from lora_tui.engine.generation.prompts import Prompts
from lora_tui.engine.generation.remote_calls import RemoteCalls
from lora_tui.engine.generation.remote_judge import RemoteJudge
from lora_tui.engine.generation.remote_writer import RemoteWriter
from lora_tui.engine.generation.replies import plain_text
from lora_tui.engine.generation.texts.remote_texts import RemoteTexts
from lora_tui.engine.runtime.context import Emit
from lora_tui.secrets import redact
from lora_tui.store.connection import Store


class RemoteModel:
    """`GenerationModel` over an OpenAI-compatible endpoint; batches need the store and the id `of_run`.

    With `others_have_room` it is one of several (`Endpoint`), and raises `EndpointAway`.
    """

    endpoints: Sequence[EndpointStatus] = ()

    def __init__(
        self,
        chosen: DataGeneration,
        key: str,
        warn: Callable[[str], None],
        stop: asyncio.Event,
        emit: Emit,
        of_run: tuple[Store, int] | None = None,
        others_have_room: Callable[[], bool] | None = None,
    ) -> None:
        self._chosen = chosen
        self._calls = RemoteCalls(chosen, key, warn, stop, emit, of_run, others_have_room)
        self.endpoint = self._calls.endpoint
        self._prompts = Prompts()
        self._writer = RemoteWriter(chosen, self._calls, self._prompts, warn)
        self.name = chosen.model
        self.judges = tuple(
            RemoteJudge(judge, chosen, self._calls, self._prompts, warn, self._writer.forms) for judge in chosen.judges
        )
        self.texts = RemoteTexts(chosen, self._calls, self._prompts.mark, warn, self._writer.forms)

    @property
    def concurrency(self) -> int:
        """Calls that should be under way: as many as the endpoint can take, and some that follow at once."""
        return self._calls.endpoint.room if self._calls.batches is None else MOST_REQUESTS

    @property
    def endpoint_load(self) -> EndpointLoad:
        """How busy the endpoint is."""
        return self._calls.endpoint.load

    async def close(self) -> None:
        """Close the connections."""
        await self._calls.close()

    async def propose(self, request: PairRequest, call: CallRecord) -> Proposals:
        """Ask for pairs about a passage, in the form that the model can keep."""
        return await self._writer.propose(request, call)

    async def analyse(self, statistics: str, call: CallRecord) -> str:
        """Ask what the statistics of a batch mean."""
        if self.judges[0].is_weak:
            return describe(json.loads(statistics))
        chosen = self._chosen.batch_analysis
        sampling = {"temperature": chosen.temperature}
        chat = ChatRequest(self.judges[0].name, self._prompts.analyse(statistics), chosen.max_tokens, sampling)
        return await self._calls.ask(chat, call, "batch_analysis", _read_text)

    async def group_topics(self, outline: str, call: CallRecord) -> str:
        """Ask for larger topics; a model that writes about single sentences only is not asked."""
        if self.judges[0].is_weak:
            return ""
        chosen = self._chosen.batch_analysis
        most = max(chosen.max_tokens, 6 * outline.count("\n"))
        chat = ChatRequest(self.name, self._prompts.group(outline), most, {"temperature": 0.0})
        return await self._calls.ask(chat, call, "batch_analysis", _read_text)

    async def pair_from_statement(self, statement: str) -> tuple[str, str]:
        """Ask for a question and answer that say what a statement says."""
        return await self._writer.question_of(statement)


def _read_text(reply: ChatReply) -> str:
    return redact(plain_text(reply.text))  # it is stored and shown as it is
