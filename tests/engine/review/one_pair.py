"""A verdict on one pair, as most tests of reviews give it."""

from lora_tui.engine.review.pairs import override_pairs
from lora_tui.protocol.backend import ReviewResult
from lora_tui.store.connection import Store


async def override_pair(store: Store, pair_id: int, verdict: str) -> ReviewResult:
    """Accept or reject one pair, as `override_pairs`."""
    return await override_pairs(store, [pair_id], verdict)
