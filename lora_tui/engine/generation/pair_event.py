"""The event that tells of a pair's verdict, whoever gave it."""

import time
from typing import Any

from lora_tui.store.events import NewEvent
from lora_tui.store.generation import PairRow


def pair_event(pair: PairRow, **more: Any) -> NewEvent:
    """Return the ``pair`` event of a pair as it is now; `more` is added to its payload."""
    payload: dict[str, Any] = {
        "pair": pair.id,
        "verdict": pair.state,
        "score": pair.score,
        "question": pair.question,
        "answer": pair.answer,
        "reason": pair.reason,
        "source": pair.source,
        **more,
    }
    return time.time(), "pair", payload
