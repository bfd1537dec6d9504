"""Edits of a run's topic tree: how much is asked about a topic. Small, because a weight is all that is edited.

A live run takes the change over when its owner gets the command ``topics``; one that has ended when it is resumed.
"""

from lora_tui.errors import UsageError
from lora_tui.store import events, runs
from lora_tui.store import topics as store_topics
from lora_tui.store.connection import Store
from lora_tui.store.rows import LIVE_STATES

MOST_WEIGHT = 8.0


async def weigh_topic(store: Store, run_id: int, number: int, weight: float) -> None:
    """Set the weight of a topic's quota, 0-8: 0 leaves it out. Raises `UsageError` for one that there is not."""
    if not 0 <= weight <= MOST_WEIGHT:
        raise UsageError(f"A topic's weight is 0 to {MOST_WEIGHT:g}, not {weight:g}.")
    async with store.transaction() as t:
        if all(topic.number != number for topic in await store_topics.topics_of(t, run_id)):
            raise UsageError(f"Run {run_id} has no topic {number}.")
        await store_topics.set_weight(t, run_id, number, weight)
        run = await runs.get(t, run_id)
        if run is not None and run.state in LIVE_STATES:
            await events.add_command(t, run_id, "topics")
