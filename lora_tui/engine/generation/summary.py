"""What a run amounts to, read from the store, with numbers that add up.

tasks      planned = done + dead + cancelled + pending, by kind
pairs      proposed = accepted + rejected + review + waiting
attempts   calls = the sum over every way to end
"""

from typing import Any

from lora_tui.engine.generation.corpus import Corpus
from lora_tui.engine.generation.ledger import UNKNOWN_COST
from lora_tui.engine.generation.planner import ANALYSE, GENERATE, JUDGE
from lora_tui.store import generation as store_generation
from lora_tui.store import tasks
from lora_tui.store.connection import Store

_MOST_NAMED = 50
_STATES = ("done", "dead", "cancelled", "pending")
_VERDICTS = ("accepted", "rejected", "review", "waiting")


async def summarise(
    store: Store, run_id: int, target: int, reason: str, output_file: str | None, corpus: Corpus
) -> dict[str, Any]:
    """Return the result of a run as it stands; `reason` is why it is over."""
    pairs = await store_generation.pair_counts(store, run_id)
    totals = await tasks.attempt_totals(store, run_id)
    unknown = [total for total in totals if total.status in UNKNOWN_COST]
    analysis = await store_generation.newest_analysis(store, run_id)
    return {
        **{verdict: pairs.get(verdict, 0) for verdict in _VERDICTS},
        "proposed": sum(pairs.values()),
        "target": target,
        "reason": reason,
        "output_file": output_file,
        "calls": sum(total.calls for total in totals),
        "attempts": {total.status: total.calls for total in totals},
        "prompt_tokens": sum(total.prompt_tokens for total in totals),
        "completion_tokens": sum(total.completion_tokens for total in totals),
        "cached_tokens": sum(total.cached_tokens for total in totals),
        "unknown_calls": sum(total.calls for total in unknown),
        "unknown_tokens_up_to": sum(total.estimated_tokens for total in unknown),
        "tasks": await _tasks(store, run_id),
        "reasons": await store_generation.causes(store, run_id),
        "dead_reasons": await tasks.dead_reasons(store, run_id),
        "unusable_items": await tasks.refused_items(store, run_id),
        "passes": await tasks.last_round(store, run_id),
        "analyses": analysis.version if analysis else 0,
        "files": len(corpus.sources),
        "passages": corpus.passages,
        "skipped": len(corpus.skipped),
        "skipped_files": dict(corpus.skipped[:_MOST_NAMED]),
    }


async def _tasks(store: Store, run_id: int) -> dict[str, dict[str, int]]:
    counts = await tasks.task_counts(store, run_id)
    found = {}
    for kind in (GENERATE, JUDGE, ANALYSE):
        states = {state: counts.get((kind, state), 0) for state in _STATES}
        found[kind] = {"planned": sum(states.values()), **states}
    return found
