"""The result of a generation run as the store has it, and what is said of one that is over.

The numbers add up:

    tasks      planned = done + dead + cancelled + pending, by kind
    pairs      proposed = accepted + rejected + review + waiting
    attempts   calls = the sum over every way to end
"""

import shlex
from typing import Any

from lora_tui.config.models import Settings
from lora_tui.engine.generation.corpus import Corpus
from lora_tui.engine.generation.ledger import Ledger, account
from lora_tui.engine.generation.pipeline import RunEnd
from lora_tui.engine.generation.planner import ANALYSE, CHECK, GENERATE, JUDGE
from lora_tui.engine.generation.progress import MOST_FRUITLESS
from lora_tui.engine.generation.texts.text_plan import TEXT, wanted_texts
from lora_tui.engine.models.builtin import BUILTIN
from lora_tui.engine.review.agreement import pairs_agreement
from lora_tui.engine.runtime.context import RunContext
from lora_tui.store import folders, judgements, tasks, texts
from lora_tui.store import generation as store_generation
from lora_tui.text import count, dollars, one_line

_MAX_NAMED = 50
_STATES = ("done", "dead", "cancelled", "pending")
_VERDICTS = ("accepted", "rejected", "review", "waiting")


def all_found(result: dict[str, Any], settings: Settings) -> str:
    """Return the note of a run whose files hold fewer pairs than were asked for."""
    rest = f"; {result['rejected']} more were proposed and not good enough" if result["rejected"] else ""
    advice = "Train on them, or add files to have more."
    if settings.data_generation.model == BUILTIN:
        advice = "Train on them, or add files to have more; a larger model behind base_url finds more in the same ones."
    return f"done: {result['accepted']} of {result['target']} found in these files{rest}. {advice}"


def next_commands(result: dict[str, Any], settings: Settings) -> list[str]:
    """Return the commands that train on the pairs and talk to what was trained."""
    if not result["output_file"]:
        return []
    train = f"lora-tui --run train --train-data-file {shlex.quote(result['output_file'])}"
    if settings.data_generation.model == BUILTIN:
        train += " --set fine_tuning.model_name=builtin"
    return [train, "lora-tui --run chat"]


def shortfall(end: RunEnd, result: dict[str, Any], settings: Settings, ledger: Ledger) -> str:
    """Return why the target was not reached and what to do, in one or two lines."""
    have = f"{result['accepted']} of {result['target']} pairs accepted"
    if wanted := sum(wanted_texts(settings.data_generation, result["accepted"]).values()):
        have += f", {sum(states['accepted'] for states in result['texts'].values())} of {wanted} texts"
    if end is RunEnd.BUDGET:
        chosen = settings.data_generation
        in_dollars = ledger.exceeded == "budget_dollars"
        budget = dollars(chosen.budget_dollars) if in_dollars else f"{chosen.budget_tokens:,} tokens"
        return (
            f"The budget of {budget} is spent: {have}.\n"
            f"Raise data_generation.{ledger.exceeded or 'budget_tokens'} and go on with --resume."
        )
    # The reason of a dead call says more than the cause it is counted under.
    causes = {cause: n for cause, n in result["reasons"].items() if cause != "judge failed"} | result["dead_reasons"]
    causes["the reply held no usable pair"] = result["unusable_items"]
    most = max(causes, key=lambda cause: causes[cause])
    why = f"; most often: {one_line(most, 150)} ({causes[most]})" if causes[most] else ""
    tried = f"a whole pass over {result['passages']} passages"
    if end is RunEnd.FRUITLESS:
        tried = f"{MOST_FRUITLESS} calls in a row about the folder's {count(result['passages'], 'passage')}"
    return f"Nothing new was accepted in {tried}: {have}{why}.\nAdd files or change the model, and go on with --resume."


async def result_of(ctx: RunContext, corpus: Corpus, reason: str, output_file: str | None) -> dict[str, Any]:
    """Return the result of a run as the store has it; `reason` is why it is over."""
    store, run_id, settings = ctx.store, ctx.run_id, ctx.settings.data_generation
    pairs = await store_generation.pair_counts(store, run_id)
    counts = await tasks.task_counts(store, run_id)
    totals = await tasks.attempt_totals(store, run_id)
    analysis = await store_generation.newest_analysis(store, run_id)
    return {
        **{verdict: pairs.get(verdict, 0) for verdict in _VERDICTS},
        "proposed": sum(pairs.values()),
        "target": settings.total_examples,
        "reason": reason,
        "output_file": output_file,
        **account(totals, settings),
        "tasks": {
            kind: {"planned": sum(states.values()), **states}
            for kind in (CHECK, GENERATE, JUDGE, ANALYSE, TEXT)
            for states in [{state: counts.get((kind, state), 0) for state in _STATES}]
        },
        "texts": await texts.counts(store, run_id),
        "reasons": await store_generation.rejection_causes(store, run_id),
        "dead_reasons": await tasks.dead_reasons(store, run_id),
        "unusable_items": await tasks.refused_items(store, run_id),
        "passes": await tasks.last_round(store, run_id),
        "analyses": analysis.version if analysis else 0,
        "files": len(corpus.sources),
        "passages": corpus.passages,
        "unread": corpus.unread,
        "skipped": len(corpus.skipped),
        "kept_pairs": await folders.kept_pairs(store, run_id) or None,
        "judges": await judgements.checks(store, run_id),
        "judge_answers": await judgements.answers_by_judge(store, run_id),
        "skipped_files": dict(corpus.skipped[:_MAX_NAMED]),
        "agreement": (await pairs_agreement(store, run_id)).as_json(),
    }
