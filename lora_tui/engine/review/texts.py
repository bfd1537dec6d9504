"""Review of what is written beside pairs: a person accepts or rejects a text, whatever its score.

Small and apart from `pairs`: no weights move, since the metrics of a text are the judge's alone. A live run writes its
file at its end; that of one that has ended is written again here.
"""

from lora_tui.engine.review.pairs import RunOfPair, output_file_of_run, rewrite_file
from lora_tui.errors import UsageError
from lora_tui.protocol.backend import ReviewResult
from lora_tui.store import events, runs, texts
from lora_tui.store.connection import Store
from lora_tui.store.rows import LIVE_STATES
from lora_tui.store.texts import TextVerdict
from lora_tui.text import one_line

_VERDICTS = ("accepted", "rejected")
_SHOWN = 60


async def override_text(store: Store, text_id: int, verdict: str) -> ReviewResult:
    """Accept or reject a text; raises `UsageError` for a text or verdict there is not."""
    if verdict not in _VERDICTS:
        raise UsageError(f"A text can be accepted or rejected, not {verdict}.")
    await runs.mark_interrupted(store)
    async with store.transaction() as t:
        row = await texts.get(t, text_id)
        if row is None:
            raise UsageError(f"There is no text {text_id} in {t.path}.")
        what = f"«{one_line(row.title or row.body, _SHOWN)}»"
        if row.state == verdict:
            return ReviewResult(f"{verdict.capitalize()} already: {what}.")
        if row.state == "waiting":
            raise UsageError(f"{what} is still being judged; accept or reject it after that.")
        reason = f"{verdict} by a person"
        decided = TextVerdict(verdict, row.score, "by a person", reason, row.metrics, row.note)
        await texts.decide(t, text_id, decided)
        changed = await texts.get(t, text_id)
        assert changed is not None, "it was there at the beginning of the transaction"
        await events.insert(t, row.run_id, [texts.text_event(changed)])
        is_live = await runs.state(t, row.run_id) in LIVE_STATES
        run = RunOfPair(row.run_id, is_live, None if is_live else await output_file_of_run(t, row.run_id))
        if is_live:
            await events.add_command(t, row.run_id, "recount")
    file, problem = await rewrite_file(store, run)
    said = f" {file} is written again." if file is not None else f" {problem}" if problem else ""
    return ReviewResult(f"{verdict.capitalize()}: {what}.{said}")
