"""Review of pairs: accept or reject them whatever their score, edit their text, and undo that.

A run that is live writes its file of accepted pairs itself; after a change to one that has ended it is written here.
Only the run that wrote a path last may write it again: another's file must not come back under its name.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from lora_tui.engine.generation.output import absolute, kept_path, last_writer, write_accepted
from lora_tui.engine.review.aggregators import GENERATION, PRIORS, learning_rate_of_run, replay_and_record
from lora_tui.errors import LoraTuiError, UsageError
from lora_tui.protocol.backend import ReviewResult
from lora_tui.scoring.words import question_key
from lora_tui.store import events, feedback, generation, reviews, runs
from lora_tui.store.connection import Store
from lora_tui.store.feedback import PERSON
from lora_tui.store.rows import LIVE_STATES, Decision, DecisionRow, PairRow
from lora_tui.text import one_line

_TARGETS = {"accepted": 1.0, "rejected": 0.0}
_CAUSE = "by a person"
_NOUNS = {"accepted": "acceptance", "rejected": "rejection"}
_SHOWN = 60


async def override_pair(store: Store, pair_id: int, verdict: str) -> ReviewResult:
    """Accept or reject a pair, whatever its score; raises `UsageError` where there is no such pair or verdict.

    The verdict is feedback on the metrics that the pair's text has, in place of an earlier one of a person.
    """
    if verdict not in _TARGETS:
        raise UsageError(f"A pair can be accepted or rejected, not {verdict}.")
    await runs.mark_interrupted(store)
    async with store.transaction() as t:
        pair, run = await _pair_and_run(t, pair_id)
        in_force = await reviews.decision_in_force(t, pair_id)
        if in_force is not None and in_force.decided_by == PERSON and pair.state == verdict:
            return ReviewResult(f"{verdict.capitalize()} already: {_quoted(pair)}.")
        learning_rate = await learning_rate_of_run(t, GENERATION, run.run_id)
        before, version = await replay_and_record(t, GENERATION, learning_rate)
        await feedback.withdraw(t, "pair", pair_id)
        metrics = await reviews.metrics_of_text(t, pair_id)
        given = None
        if metrics.keys() & PRIORS[GENERATION].keys():
            target = _TARGETS[verdict]
            given = await feedback.add(t, GENERATION, run.run_id, "pair", pair_id, metrics, target, PERSON)
        decision = Decision(verdict, pair.score, None, version, PERSON, _CAUSE, f"{verdict} by a person")
        await generation.decide(t, pair_id, decision, {}, {}, given)
        after, _ = await replay_and_record(t, GENERATION, learning_rate)
        await _store_event(t, run, pair_id, decided_by=PERSON)
    message = f"{verdict.capitalize()}: {_quoted(pair)}."
    return ReviewResult(message + await _rewrite_and_report(store, run), before.weights, after.weights)


async def edit_pair(store: Store, pair_id: int, question: str, answer: str) -> ReviewResult:
    """Word a pair anew and keep its former text; raises `UsageError` for empty text.

    The question is put on one line, which is all that a training text has room for. The verdict stays.
    """
    question, answer = " ".join(question.split()), answer.strip()
    if not question or not answer:
        raise UsageError(f"The {'answer' if question else 'question'} is empty; a pair needs both.")
    await runs.mark_interrupted(store)
    async with store.transaction() as t:
        pair, run = await _pair_and_run(t, pair_id)
        if (pair.question, pair.answer) == (question, answer):
            return ReviewResult(f"Unchanged: {_quoted(pair)}.")
        await reviews.edit(t, pair_id, question, answer, question_key(question))
        await _store_event(t, run, pair_id, edited=True)
    message = f"Edited: {_quoted(replace(pair, question=question))}."
    return ReviewResult(message + await _rewrite_and_report(store, run))


async def undo(store: Store, run_id: int) -> ReviewResult | None:
    """Take back the newest override or edit in force of a run's pairs; None where there is nothing to take back.

    Verdict, score, cause, reason and text are as they were before, and so are the weights.
    """
    await runs.mark_interrupted(store)
    async with store.transaction() as t:
        override, edit = await reviews.newest_override(t, run_id), await reviews.newest_edit(t, run_id)
        if override is None and edit is None:
            return None
        if override is not None and (edit is None or override.at >= edit.at):
            pair, run = await _pair_and_run(t, override.pair_id)
            message = f"Took back the {_NOUNS[override.verdict]} of {_quoted(pair)}"
            await _take_override_back(t, run, override)
        else:
            assert edit is not None, "one of the two is there"
            pair, run = await _pair_and_run(t, edit.pair_id)
            message = f"Took back the edit of {_quoted(replace(pair, question=edit.question))}"
            await reviews.undo_edit(t, edit)
            await _store_event(t, run, pair.id)
    file, problem = await rewrite_file(store, run)
    written = f"; {file.name} is written anew" if file is not None else f"; {problem}" if problem else ""
    return ReviewResult(f"{message}{written}.")


@dataclass(frozen=True, slots=True)
class RunOfPair:
    """The run of a reviewed pair: whether it is live, and the output file that it owned before the change."""

    run_id: int
    live: bool
    file: Path | None


async def _pair_and_run(t: Store, pair_id: int) -> tuple[PairRow, RunOfPair]:
    pair = await generation.pair(t, pair_id)
    if pair is None:
        raise UsageError(f"There is no pair {pair_id} in {t.path}.")
    run_id = await reviews.run_of_pair(t, pair_id)
    state = await runs.state(t, run_id)
    live = state in LIVE_STATES
    return pair, RunOfPair(run_id, live, None if live else await output_file_of_run(t, run_id))


async def _take_override_back(t: Store, run: RunOfPair, override: DecisionRow) -> None:
    """Restore the decision before an override, and the feedback that belonged to it."""
    learning_rate = await learning_rate_of_run(t, GENERATION, run.run_id)
    restored = await reviews.undo_override(t, override)
    await feedback.withdraw(t, "pair", override.pair_id)
    if restored is not None and restored.feedback_id is not None:
        await feedback.reinstate(t, restored.feedback_id)
    await replay_and_record(t, GENERATION, learning_rate)
    await _store_event(t, run, override.pair_id, decided_by=None if restored is None else restored.decided_by)


async def _store_event(t: Store, run: RunOfPair, pair_id: int, **more: object) -> None:
    """Store the pair's new state as an event and notify a live run's owner, inside the caller's transaction."""
    pair = await generation.pair(t, pair_id)
    assert pair is not None, "it was there at the beginning of the transaction"
    await events.insert(t, run.run_id, [generation.pair_event(pair, **more)])
    if run.live:
        await events.add_command(t, run.run_id, "recount")


async def _rewrite_and_report(store: Store, run: RunOfPair) -> str:
    """Rewrite the run's output file; returns what there is to say of it, to be put after a sentence."""
    file, problem = await rewrite_file(store, run)
    return f" {file} is written again." if file is not None else f" {problem}" if problem else ""


def _quoted(pair: PairRow) -> str:
    return f"«{one_line(pair.question, _SHOWN)}»"


async def output_file_of_run(t: Store, run_id: int) -> Path | None:
    """Return the absolute path of the file with a run's pairs, None where there is none any more.

    Once another run has written the same path, it is the copy that was kept of it (`kept_path`).
    """
    path = await _path_written(t, run_id)
    if path is None or await last_writer(t, path) == run_id:
        return path
    kept = kept_path(path, run_id)
    return kept if kept.is_file() else None


async def _path_written(t: Store, run_id: int) -> Path | None:
    """Return the absolute path that a run wrote, whoever has written it since."""
    path = next((path for owner, path in await runs.output_files(t) if owner == run_id), None)
    return None if path is None else absolute(path)


async def accepted_file(store: Store, run_id: int) -> Path:
    """Return the file with the accepted pairs of a run that has ended: what a training on them reads.

    It is written from the store where it has been deleted, or replaced by a later run's. Raises `UsageError` where no
    pair is accepted.
    """
    async with store.transaction() as t:
        path = await _path_written(t, run_id)
        if path is None:
            raise UsageError(f"Run {run_id} has no accepted pair to train on.")
        file = await output_file_of_run(t, run_id) or kept_path(path, run_id)
        if not file.is_file() and not await write_accepted(t, run_id, file):
            raise UsageError(f"Run {run_id} has no accepted pair to train on.")
    here = Path.cwd()
    return file.relative_to(here) if file.is_relative_to(here) else file


async def rewrite_file(store: Store, run: RunOfPair) -> tuple[Path | None, str | None]:
    """Rewrite a run's output file; returns its path (None where it is not to be written) and what went wrong.

    The owner of a live run does it itself. A run that has no accepted pair left has still written a file: `run.file`.
    Other writers wait meanwhile, so that whoever writes last has also read last.
    """
    if run.live:
        return None, None
    try:
        async with store.transaction() as t:
            path = await output_file_of_run(t, run.run_id) or run.file
            if path is None or await runs.state(t, run.run_id) in (None, *LIVE_STATES):
                return None, None
            await write_accepted(t, run.run_id, path, even_if_none=True)
    except LoraTuiError as problem:
        return None, str(problem)
    return path, None
