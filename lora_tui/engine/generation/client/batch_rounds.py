"""Rounds of calls sent as batches: what a run asks at one time goes out as one, and is answered at one time.

A round is what is asked until nothing more comes for `_QUIET` seconds: all pairs to be written, later all of them to be
judged. It is stored before anything leaves (`store.batch_jobs`), so a process that ends at any moment neither loses an
answer nor pays for it twice: the next one finds the batch by its number, or by our name for it, and the same tasks take
up their calls where they were (`CallRecord.take_up`). A stop leaves batches at the endpoint; the end of a run cancels
what nobody waits for any more.

What an answer means is the `Endpoint`'s to tell. A call without an answer, because its batch has expired or was
cancelled, has cost nothing and is asked again.
"""

import asyncio
import json
import random
import time
import uuid
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from lora_tui.engine.generation.client.answers import Answer, ConnectError, ConnectionBroken, UnreadableReply
from lora_tui.engine.generation.client.batch_api import ENDED, BatchApi, BatchRefused, BatchState
from lora_tui.engine.generation.client.endpoint import Endpoint
from lora_tui.engine.generation.client.rate_limit import TransientFailure, backoff
from lora_tui.engine.generation.client.refusals import ErrorAnswer, Refused
from lora_tui.engine.generation.client.wire import (
    ChatReply,
    CompletionRequest,
    NotJson,
    Request,
    estimated_prompt_tokens,
    exceeds_context,
    request_body,
    root_cause,
)
from lora_tui.engine.generation.generation_model import CallFailed, CallRecord, CallStopped, EndpointGoneError
from lora_tui.engine.runtime.context import Emit
from lora_tui.errors import UnreachableError
from lora_tui.secrets import redact
from lora_tui.store import batch_jobs
from lora_tui.store.batch_jobs import OpenCall
from lora_tui.store.connection import Store
from lora_tui.store.rows import AttemptEnd
from lora_tui.text import count, one_line

T = TypeVar("T")

MOST_REQUESTS = 2_000
"""Calls of a batch at most; OpenAI takes 50,000, but each is a task of ours."""

_QUIET = 2.0
_POLL_SECONDS = (5.0, 60.0)
"""Seconds between two looks at a batch, at first and at most."""

_MOST_REFUSALS = 12
_UNSEEN = (401, 403, 404)
"""Statuses by which a batch is refused to whoever has not begun it."""

_PASSING = (408, 409, 425, 429, 500, 502, 503, 504)


@dataclass
class _Job:
    """One batch: its row in the store, and whoever waits for its answers, by attempt."""

    row: int
    name: str
    batch_id: str = ""
    state: str = "planned"
    requests: int = 0
    waiting: dict[int, asyncio.Future[Answer | None]] = field(default_factory=dict)
    runs: asyncio.Task[None] | None = None


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request that waits for its round."""

    attempt: int
    model: str
    path: str
    body: bytes
    answer: asyncio.Future[Answer | None]


class BatchRounds:
    """Sends an endpoint's requests in batches; `chat` returns once its batch has been answered."""

    def __init__(
        self,
        store: Store,
        run_id: int,
        endpoint: Endpoint,
        patience: float,
        stop: asyncio.Event,
        emit: Emit,
    ) -> None:
        self._store = store
        self._run_id = run_id
        self._endpoint = endpoint
        self._api = BatchApi(endpoint.http)
        self._patience = patience
        self._stop = stop
        self._emit = emit
        self._asked: list[_Asked] = []
        self._gathering: asyncio.Task[None] | None = None
        self._jobs: dict[int, _Job] = {}
        self._left: defaultdict[tuple[int, str], list[OpenCall]] | None = (
            None  # of earlier processes, by task and model
        )
        self._loading = asyncio.Lock()
        self._random = random.Random()  # noqa: S311  # jitter

    async def chat(self, request: Request, call: CallRecord) -> ChatReply:
        """Return the answer to one request, in a batch. Raises as `Endpoint.chat` does."""
        assert call.batch_task is not None, "who asks has told that it may wait"
        await self._load()
        capabilities = self._endpoint.capabilities_of(request.model)
        for _ in range(_MOST_REFUSALS):
            if self._stop.is_set():
                raise CallStopped
            prompt, parameters = estimated_prompt_tokens(request), capabilities.parameters(request)
            attempt, waits = await self._begin(request, call, prompt, request_body(parameters))
            answer = await self._answer(attempt, waits, call)
            if answer is None:
                reason = "its batch ended before it was answered"
                await call.end_attempt(attempt, AttemptEnd("http_error", error=reason))
                raise CallFailed(reason, transient=True)
            try:
                reply = self._endpoint.read(attempt, answer, prompt)
            except NotJson as problem:
                reason = f"the answer is not JSON: {one_line(redact(str(problem)), 80)}"
                await call.end_attempt(attempt, AttemptEnd("malformed", error=reason, http_status=200))
                raise CallFailed(reason, transient=True) from None
            if not isinstance(reply, ErrorAnswer):
                capabilities.prove(parameters)
                return reply
            failure = await self._endpoint.failed_status(
                attempt, call, reply, answer.headers, request.model, parameters
            )
            if isinstance(failure, TransientFailure):
                raise CallFailed(str(failure), transient=True)
            if not isinstance(failure, Refused):
                raise failure
            if not self._endpoint.adapt(capabilities, request, failure):
                fault = "the endpoint refuses the request"
                if exceeds_context(str(failure)):
                    fault = "passage and reply do not fit the model; lower data_generation.chunk_tokens"
                raise CallFailed(f"{fault} ({failure})")
        raise CallFailed("the endpoint refuses the request in every form")

    async def was_asked(self, task: int) -> bool:
        """Whether an earlier process has sent a call of a task whose answer is still to be taken up."""
        await self._load()
        assert self._left is not None, "it is loaded"
        return any(one == task and calls for (one, _), calls in self._left.items())

    async def close(self) -> None:
        """End the waiting: batches whose answers are still wanted go on at the endpoint, the others are cancelled."""
        if self._gathering is not None:
            self._gathering.cancel()
            await asyncio.wait({self._gathering})
        for job in self._jobs.values():
            if job.runs is not None and not job.runs.done():
                job.runs.cancel()
                await asyncio.wait({job.runs})
        await self._store.together(lambda t: batch_jobs.end_unwanted(t, self._run_id))
        wanted = {call.batch for call in await batch_jobs.open_calls(self._store, self._run_id)}
        for job in self._jobs.values():
            if job.row not in wanted:
                await self._abandon(job)
        goes_on = [job for job in self._jobs.values() if job.row in wanted]
        if goes_on:
            calls = count(sum(job.requests for job in goes_on), "call")
            named = ", ".join(job.batch_id or job.name for job in goes_on)
            go, them = ("goes", "it") if len(goes_on) == 1 else ("go", "them")
            batches = count(len(goes_on), "batch", "batches")
            self._emit(
                "note",
                message=f"{batches} with {calls} ({named}) {go} on at the endpoint, which answers within a day;"
                f" --resume {self._run_id} collects {them}",
            )

    # One call

    async def _begin(
        self, request: Request, call: CallRecord, prompt: int, body: bytes
    ) -> tuple[int, "asyncio.Future[Answer | None]"]:
        """Return an attempt of the call and the answer to come: of an earlier process's batch, or of the next one."""
        assert self._left is not None, "it is loaded"
        assert call.batch_task is not None, "who asks has told that it may wait"
        left = self._left[call.batch_task, request.model]
        while left:
            earlier = left.pop(0)
            if await self._store.together(partial(batch_jobs.end_if_outdated, attempt=earlier.attempt_id)):
                continue
            await call.take_up(earlier.attempt_id, earlier.estimated_tokens)
            return earlier.attempt_id, self._jobs[earlier.batch].waiting[earlier.attempt_id]
        attempt = await call.begin_attempt(prompt + request.max_tokens)
        path = "/completions" if isinstance(request, CompletionRequest) else "/chat/completions"
        answer: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        self._asked.append(_Asked(attempt, request.model, path, body, answer))
        if self._gathering is None or self._gathering.done():
            self._gathering = asyncio.create_task(self._gather())
        return attempt, answer

    async def _answer(self, attempt: int, waits: "asyncio.Future[Answer | None]", call: CallRecord) -> Answer | None:
        """Wait for an answer, None where there will be none. Raises `CallStopped` where the run stops before."""
        stopped = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait((waits, stopped), return_when=asyncio.FIRST_COMPLETED)
            if waits.done():
                return waits.result()
            raise CallStopped
        except BaseException as problem:
            failed = waits.exception() if waits.done() and not waits.cancelled() else None
            if any(one.attempt == attempt for one in self._asked):
                self._asked = [one for one in self._asked if one.attempt != attempt]
                await call.end_attempt(attempt, AttemptEnd("unreached", error="given up before its batch was begun"))
            elif isinstance(failed, UnreachableError) and not isinstance(failed, EndpointGoneError):
                await call.end_attempt(attempt, AttemptEnd("unreached", error=one_line(str(failed), 200)))
            else:
                call.leave_open(attempt)  # its batch has the answer, whoever comes for it
            if failed is not None and not isinstance(problem, asyncio.CancelledError):
                raise failed from None
            raise
        finally:
            stopped.cancel()

    # Rounds

    async def _load(self) -> None:
        """Take up the batches of earlier processes, once."""
        async with self._loading:
            if self._left is not None:
                return
            left: defaultdict[tuple[int, str], list[OpenCall]] = defaultdict(list)
            rows = {row.id: row for row in await batch_jobs.of_run(self._store, self._run_id)}
            loop = asyncio.get_running_loop()
            for call in await batch_jobs.open_calls(self._store, self._run_id):
                row = rows[call.batch]
                job = self._jobs.setdefault(row.id, _Job(row.id, row.name, row.batch_id, row.state, row.requests))
                job.waiting[call.attempt_id] = loop.create_future()
                left[call.task_id, call.model].append(call)
            self._left = left
            for job in self._jobs.values():
                job.runs = asyncio.create_task(self._collect(job))

    async def _gather(self) -> None:
        """Wait until a round is complete and begin its batch."""
        while self._asked:
            before = -1
            while before < len(self._asked) < MOST_REQUESTS:
                before = len(self._asked)
                await asyncio.sleep(_QUIET)
            first = self._asked[0].path
            calls = [one for one in self._asked if one.path == first][:MOST_REQUESTS]
            if not calls:
                return
            name = f"run-{self._run_id}-{uuid.uuid4().hex[:16]}"

            async def add(t: Store, calls: Sequence[_Asked] = calls, name: str = name) -> int:
                return await batch_jobs.add(t, self._run_id, name, [(one.attempt, one.model) for one in calls])

            adding = asyncio.ensure_future(self._store.together(add))
            sent = {one.attempt for one in calls}
            self._asked = [one for one in self._asked if one.attempt not in sent]
            row = await asyncio.shield(adding)
            job = self._jobs[row] = _Job(row, name, requests=len(calls))
            job.waiting = {one.attempt: one.answer for one in calls}
            job.runs = asyncio.create_task(self._submit(job, calls))

    async def _submit(self, job: _Job, calls: Sequence[_Asked]) -> None:
        lines = [
            {
                "custom_id": str(one.attempt),
                "method": "POST",
                "url": f"/v1{one.path}",
                "body": json.loads(one.body),
            }
            for one in calls
        ]
        try:
            file = await self._persistently(lambda: self._api.upload(job.name, lines))
            state = await self._persistently(lambda: self._create(file, calls[0].path, job.name))
            await self._note(job, "submitted", state)
        except Exception as problem:  # noqa: BLE001  # whoever waits for an answer must learn of it
            if not isinstance(problem, EndpointGoneError):  # else it may have been begun: it is looked for by its name
                said, job.state = _said(problem), "failed"
                await self._store.together(lambda t: batch_jobs.change(t, job.row, state="failed", error=said))
            self._fail(job, problem)
            return
        await self._collect(job)

    async def _create(self, file: str, path: str, name: str) -> BatchState:
        """Begin a batch, unless a request that broke off has begun it."""
        return await self._api.find(name) or await self._api.create(file, path, name)

    async def _collect(self, job: _Job) -> None:
        """Wait until a batch has ended, and hand out its answers."""
        try:
            if not job.batch_id:
                found = await self._persistently(lambda: self._api.find(job.name), job)
                if found is None:  # the process ended before it was begun: nothing was asked
                    await self._store.together(lambda t: batch_jobs.change(t, job.row, state="failed"))
                    job.state = "failed"
                    self._hand_out(job, {})
                    return
                await self._note(job, "submitted", found)
            seconds, told = _POLL_SECONDS[0], (-1, -1)
            while (state := await self._persistently(lambda: self._api.get(job.batch_id), job)).status not in ENDED:
                if (state.done, state.failed) != told:
                    told = (state.done, state.failed)
                    self._report(job, state)
                await asyncio.sleep(seconds)
                seconds = min(_POLL_SECONDS[1], 1.5 * seconds)
            if state.status == "failed":
                await self._note(job, "failed", state)
                raise UnreachableError(
                    f"The batch {job.batch_id} was refused: {state.error or 'no reason was given'}.\n"
                    "Change what it names and go on with --resume, or leave --batch out."
                )
            answers = await self._persistently(lambda: self._api.answers(state), job)
            await self._note(job, state.status, state)
            self._hand_out(job, answers)
        except Exception as problem:  # noqa: BLE001  # whoever waits for an answer must learn of it
            self._fail(job, problem)

    def _hand_out(self, job: _Job, answers: dict[str, Answer]) -> None:
        for attempt, waits in job.waiting.items():
            if not waits.done():
                waits.set_result(answers.get(str(attempt)))

    def _fail(self, job: _Job, problem: Exception) -> None:
        for waits in job.waiting.values():
            if not waits.done():
                waits.set_exception(problem)
                waits.exception()  # retrieved: perhaps nobody waits for it any more

    async def _note(self, job: _Job, stored: str, state: BatchState) -> None:
        """Store what has become of a batch, and tell of it."""
        job.batch_id, job.state = state.id, stored
        await self._store.together(
            lambda t: batch_jobs.change(
                t, job.row, batch_id=state.id, state=stored, answered=state.done, failed=state.failed, error=state.error
            )
        )
        self._report(job, state)

    def _report(self, job: _Job, state: BatchState) -> None:
        self._emit(
            "batch",
            batch=job.batch_id,
            state=state.status,
            requests=job.requests,
            answered=state.done,
            failed=state.failed,
        )
        note = state.status.replace("_", " ")
        self._emit("progress", phase="waiting for a batch", done=state.done, total=job.requests, note=note)

    async def _abandon(self, job: _Job) -> None:
        """Cancel a batch that nobody waits for any more."""
        if job.batch_id and job.state in batch_jobs.OPEN:
            with suppress(BatchRefused, ConnectError, ConnectionBroken, UnreadableReply, TimeoutError):
                async with asyncio.timeout(10):
                    await self._api.cancel(job.batch_id)
            job.state = "cancelled"
            await self._store.together(lambda t: batch_jobs.change(t, job.row, state="cancelled"))

    async def _persistently(self, ask: Callable[[], Awaitable[T]], out: _Job | None = None) -> T:
        """Ask until there is an answer: networks come and go while a batch is worked on.

        Raises `UnreachableError` for a refusal, `EndpointGoneError` after `patience` seconds without an answer. So
        it does where the key may not see a batch that is `out`: another one may, and its answers are paid for.
        """
        began, failed = time.monotonic(), 0
        while True:
            try:
                async with asyncio.timeout(600):
                    return await ask()
            except BatchRefused as refused:
                if out is not None and refused.status in _UNSEEN:
                    raise EndpointGoneError(_unseen(refused, out)) from None
                if refused.status not in _PASSING:
                    raise UnreachableError(_refusal(refused)) from None
                reason = str(refused)
            except (ConnectError, ConnectionBroken, UnreadableReply, TimeoutError) as problem:
                reason = root_cause(problem)
            if time.monotonic() - began > self._patience:
                raise EndpointGoneError(
                    f"The endpoint's batches cannot be reached: {one_line(redact(reason), 200)}.\n"
                    "They go on there; collect them with --resume."
                )
            failed += 1
            await asyncio.sleep(min(60.0, backoff(failed - 1, _POLL_SECONDS[0] / 5, self._random)))


def _unseen(refused: BatchRefused, job: _Job) -> str:
    reason = one_line(redact(str(refused)), 200)
    return (
        f"The endpoint does not show the batch {job.batch_id or job.name} ({reason}).\nGo on with --resume and the key"
        " and address that it was sent with; data_generation.batch = false gives it up and asks its calls again."
    )


def _refusal(refused: BatchRefused) -> str:
    reason = one_line(redact(str(refused)), 200)
    if refused.status in (404, 405, 501):
        return f"The endpoint knows no batches ({reason}).\nLeave --batch out: data_generation.batch = false."
    return f"The endpoint refuses the batch ({reason})."


def _said(problem: Exception) -> str:
    return one_line(redact(str(problem)), 300)
