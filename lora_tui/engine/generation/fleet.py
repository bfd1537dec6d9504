"""Several endpoints as one generation model: `Fleet`, where ``data_generation.base_urls`` names more than one.

Each endpoint is a `RemoteModel` of its own, with its limiter, its form of replies, its key and its name for the model.
A task (a call for pairs, a judgement) is one endpoint's; where that turns out to be away, another has it from the
beginning, and each attempt is in the account as with one endpoint. Who is asked is decided by `fleet_members`.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from lora_tui.engine.generation.fleet_members import JUDGES, WRITES, Member, Members
from lora_tui.engine.generation.generation_model import (
    CallFailed,
    CallRecord,
    EndpointAway,
    EndpointLoad,
    EndpointStatus,
    Judge,
    Judgement,
    PairRequest,
    Proposals,
    ProposedPair,
    TextRequest,
    WrittenTexts,
)
from lora_tui.engine.generation.remote_model import RemoteModel
from lora_tui.errors import UnreachableError
from lora_tui.store.texts import NewText

T = TypeVar("T")

_MOST_MOVES = 3
"""How often each endpoint may turn out to be away while it has one task, before that is taken for the task's fault."""


class Fleet:
    """`GenerationModel` over several endpoints; `name` is what the configuration calls the model that writes."""

    def __init__(self, name: str, judges: Sequence[str], members: Members) -> None:
        self.name = name
        self.members = members
        self.judges: Sequence[Judge] = [FleetJudge(self, judge, place) for place, judge in enumerate(judges)]
        self.texts = FleetTexts(self)

    @property
    def concurrency(self) -> int:
        """Tasks that should be under way on all endpoints that are asked, together."""
        return max(1, sum(one.room for one in self.members.all))

    @property
    def endpoint_load(self) -> EndpointLoad:
        """How busy the endpoints are together."""
        loads = [one.model.endpoint.load for one in self.members.all if one.is_up]
        return EndpointLoad(
            sum(one.model.endpoint.load.in_flight for one in self.members.all),
            sum(load.limit for load in loads),
            sum(load.tokens_per_s for load in loads),
            all(load.found for load in loads),
        )

    @property
    def endpoints(self) -> Sequence[EndpointStatus]:
        """Each endpoint, in the order of the configuration."""
        return [one.status() for one in self.members.all]

    async def close(self) -> None:
        """End what looks at endpoints that are away, and close the connections."""
        await self.members.close()
        for member in self.members.all:
            await member.model.close()

    async def propose(self, request: PairRequest, call: CallRecord) -> Proposals:
        """Have one endpoint write pairs about a passage."""
        return await self.ask(WRITES, lambda model: model.propose(request, call))

    async def analyse(self, statistics: str, call: CallRecord) -> str:
        """Have one endpoint say what the statistics of a batch mean."""
        return await self.ask(JUDGES, lambda model: model.analyse(statistics, call))

    async def group_topics(self, outline: str, call: CallRecord) -> str:
        """Have one endpoint group topics."""
        return await self.ask(WRITES, lambda model: model.group_topics(outline, call))

    async def pair_from_statement(self, statement: str) -> tuple[str, str]:
        """Have one endpoint turn a statement into a pair."""
        return await self.ask(WRITES, lambda model: model.pair_from_statement(statement))

    async def ask(self, role: str, work: Callable[[RemoteModel], Awaitable[T]]) -> T:
        """Return what comes of a task on the first endpoint that is not away. Raises as `GenerationModel.propose` does.

        Raises `UnreachableError` only where no endpoint is left.
        """
        moves = 0
        while True:
            member = await self.members.take(role)
            try:
                done = await work(member.model)
            except EndpointAway as away:
                if away.busy:
                    continue
                self.members.leave_out(member, str(away))
                reason = str(away)
            except UnreachableError as gone:
                self.members.leave_out(member, str(gone))
                reason = str(gone)
            else:
                self.members.answered(member)
                return done
            finally:
                self.members.release(member)
            moves += 1
            if moves > _MOST_MOVES * len(self.members.all):
                raise CallFailed(f"{moves} endpoints in a row gave no answer to it: {reason}", transient=True)

    def first_up(self, role: str) -> Member:
        """Return the first endpoint of a role that is asked, or the first of all where none is."""
        ours = [one for one in self.members.all if role in one.roles]
        return next((one for one in ours if one.is_up), ours[0])


class FleetJudge:
    """One judge of a fleet: the model at a `place` in each endpoint's list of judges."""

    def __init__(self, fleet: Fleet, name: str, place: int) -> None:
        self.name = name
        self._fleet = fleet
        self._place = place

    @property
    def check_key(self) -> str:
        """That of the first endpoint that judges: the same model is taken for the same judge wherever it runs."""
        return self._fleet.first_up(JUDGES).model.judges[self._place].check_key

    async def judge(self, passage: str, pair: ProposedPair, call: CallRecord) -> Judgement:
        """Have one endpoint judge a pair."""
        return await self._fleet.ask(JUDGES, lambda model: model.judges[self._place].judge(passage, pair, call))


class FleetTexts:
    """Writes and judges texts beside pairs on the endpoints of a fleet."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def write(self, request: TextRequest, call: CallRecord) -> WrittenTexts:
        """Have one endpoint write texts."""
        return await self._fleet.ask(WRITES, lambda model: model.texts.write(request, call))

    async def judge(self, passage: str, text: NewText, call: CallRecord) -> Judgement:
        """Have one endpoint judge a text."""
        return await self._fleet.ask(JUDGES, lambda model: model.texts.judge(passage, text, call))
