"""Ratings in a queue: which pair or answer is asked about next, and what one key does to it.

A pair that is rated good or bad is accepted or rejected, whatever its score: what a person says of it is what the
training file holds afterwards. An answer that is rated good or bad is one that should have had 5 or 1 of 5. Each is one
transaction, so nothing that was rated is lost.
"""

from collections.abc import Collection

from lora_tui.engine.review.aggregators import EVALUATION, GENERATION, learning_rate_of_run, replay_and_record
from lora_tui.engine.review.agreement import answers_agreement, pairs_agreement
from lora_tui.engine.review.pairs import override_pairs, undo_verdict
from lora_tui.engine.review.queue import most_instructive, shortlist
from lora_tui.engine.review.ratings import rate_sample, undo_sample_rating
from lora_tui.engine.runtime.resume import find_run
from lora_tui.errors import UsageError
from lora_tui.protocol.agreement import ScoreAgreement
from lora_tui.protocol.backend import ReviewResult
from lora_tui.protocol.rating import RatingItem, RatingQueue, RatingTotals, Subject
from lora_tui.store.connection import Store
from lora_tui.store.feedback import ACTIVE, AUDIT
from lora_tui.store.queries import rating_queue as queries
from lora_tui.store.queries.generation import pair_detail

SCOPES: dict[Subject, str] = {"pair": GENERATION, "sample": EVALUATION}
"""The score that ratings of each subject teach."""

_GOOD, _BAD = 5, 1

_MAKES: dict[Subject, str] = {
    "pair": "generate` makes pairs",
    "sample": "train` and `lora-tui --run evaluate` ask for answers",
}


async def queue_to_rate(store: Store, run_id: int | None = None, subject: Subject | None = None) -> RatingQueue:
    """Find what to rate: of the run that is named, else of the newest one that has something left to rate.

    Where it has both pairs and answers, its pairs come first; where all are rated, it is those that are. Raises
    `UsageError` where there never was any, or no such run.
    """
    if run_id is not None:
        await find_run(store, run_id)
    kinds: tuple[Subject, ...] = ("pair", "sample") if subject is None else (subject,)
    found = [(await queries.run_to_rate(store, kind, run_id), kind) for kind in kinds]
    queues = [RatingQueue(number, kind) for number, kind in found if number is not None]
    left = {queue: await queries.count_to_rate(store, queue.run_id, queue.subject) for queue in queues}
    if open_queues := [queue for queue in queues if left[queue]]:
        return max(open_queues, key=lambda queue: queue.run_id)
    if queues:
        return max(queues, key=lambda queue: queue.run_id)
    where = f"run {run_id}" if run_id is not None else str(store.path)
    means = ", ".join(f"`lora-tui --run {_MAKES[kind]}" for kind in kinds)
    wanted = " and ".join("pairs" if kind == "pair" else "answers to test prompts" for kind in kinds)
    raise UsageError(f"There are no {wanted} to rate in {where}.\n{means}.")


async def next_to_rate(store: Store, queue: RatingQueue, skipped: Collection[int] = frozenset()) -> RatingItem | None:
    """Return what of a run to ask about next, but for what was skipped; None where nothing is left."""
    run_id, subject = queue.run_id, queue.subject
    scope = SCOPES[subject]
    asked_so_far = await queries.asked_counts(store, scope)
    ids = [found for found in await queries.ids_to_rate(store, run_id, subject) if found not in skipped]
    candidates, asked = shortlist(subject, ids, asked_so_far.get(AUDIT, 0), asked_so_far.get(ACTIVE, 0))
    if not candidates:
        return None
    chosen = candidates[0]
    if len(candidates) > 1:
        metrics = await queries.metrics_of(store, subject, candidates)
        async with store.transaction() as t:
            learning_rate = await learning_rate_of_run(t, scope, run_id)
            aggregator, _ = await replay_and_record(t, scope, learning_rate)
        chosen = most_instructive(aggregator, {found: metrics[found] for found in candidates})
    return await _item(store, subject, chosen, asked)


async def _item(store: Store, subject: Subject, subject_id: int, asked: str) -> RatingItem | None:
    """Return a pair or an answer as it is shown to whoever rates it; None where it has been deleted meanwhile."""
    if subject == "pair":
        detail = await pair_detail(store, subject_id)
        if detail is None:
            return None
        pair = detail.pair
        return RatingItem(
            subject,
            subject_id,
            pair.question,
            pair.answer,
            origin=" · ".join(filter(None, (pair.source, detail.heading))),
            passage=detail.passage,
            evidence=pair.evidence,
            asked=asked,
        )
    found = await queries.answer_to_rate(store, subject_id)
    if found is None:
        return None
    origin = "base model" if found.model == "base" else f"step {found.step:,}"
    return RatingItem(
        subject, subject_id, found.prompt, found.answer, origin=origin, reference=found.reference, asked=asked
    )


async def rate_item(store: Store, item: RatingItem, *, good: bool) -> ReviewResult:
    """Rate an item of the queue; the rating is stored with everything that follows from it."""
    if item.subject == "pair":
        return await override_pairs(store, [item.id], "accepted" if good else "rejected", asked=item.asked)
    return await rate_sample(store, item.id, _GOOD if good else _BAD, asked=item.asked)


async def undo_item(store: Store, item: RatingItem) -> ReviewResult | None:
    """Take back the rating of an item; None where it has none."""
    if item.subject == "pair":
        return await undo_verdict(store, item.id)
    return await undo_sample_rating(store, item.id)


async def agreement_so_far(store: Store, queue: RatingQueue) -> ScoreAgreement:
    """Return what people's ratings of what is like this say of the score; it takes some replays of all ratings."""
    agreement = pairs_agreement if queue.subject == "pair" else answers_agreement
    return await agreement(store, queue.run_id)


async def rating_totals(store: Store, queue: RatingQueue) -> RatingTotals:
    """Return how many ratings there are of what is like this, and how much of the run is left to rate."""
    so_far = await queries.rated_so_far(store, SCOPES[queue.subject])
    left = await queries.count_to_rate(store, queue.run_id, queue.subject)
    return RatingTotals(so_far.rated, so_far.good, so_far.bad, so_far.audit, left)
