"""Review of pairs and of the texts beside them: accept or reject them whatever their score, edit pairs, undo that.

A run that is live writes its file of accepted pairs itself; after a change to one that has ended it is written here.
Only the run that wrote a path last may write it again: another's file must not come back under its name.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lora_tui.engine.data.results import absolute
from lora_tui.engine.generation.output import (
    kept_path,
    last_writer,
    write_accepted_of_runs,
)
from lora_tui.engine.review.aggregators import GENERATION, PRIORS, learning_rate_of_run, replay_and_record
from lora_tui.errors import LoraTuiError, UsageError
from lora_tui.protocol.backend import ReviewResult
from lora_tui.scoring.aggregator import AdaptiveAggregator
from lora_tui.scoring.words import question_key
from lora_tui.store import events, feedback, generation, reviews, runs, texts
from lora_tui.store.connection import Store
from lora_tui.store.feedback import PERSON
from lora_tui.store.rows import LIVE_STATES, Decision, DecisionRow, PairRow
from lora_tui.store.texts import TextVerdict
from lora_tui.text import count, one_line

_TARGETS = {"accepted": 1.0, "rejected": 0.0}
_CAUSE = "by a person"
_NOUNS = {"accepted": "acceptance", "rejected": "rejection"}
_SHOWN = 60


async def override_pairs(
    store: Store, pair_ids: Sequence[int], verdict: str, *, asked: str = feedback.FREE
) -> ReviewResult:
    """Accept or reject pairs of a run, whatever their score; raises `UsageError` for a pair or verdict there is not.

    Each verdict is feedback on the metrics that the pair's text has, in place of an earlier one of a person. All are
    given at one moment, by which `undo` takes them back together. Pairs that a person has judged so already stay.
    `asked` tells how it came about (`store.feedback`).
    """
    if verdict not in _TARGETS:
        raise UsageError(f"A pair can be accepted or rejected, not {verdict}.")
    await runs.mark_interrupted(store)
    async with store.transaction() as t:
        found = [await _pair_and_run(t, pair_id) for pair_id in pair_ids]
        judged = [(pair, run) for pair, run in found if not await _is_judged_so(t, pair, verdict)]
        if not judged:
            what = _quoted(found[0][0]) if len(found) == 1 else count(len(found), "pair")
            return ReviewResult(f"{verdict.capitalize()} already: {what}.")
        run = judged[0][1]
        learning_rate = await learning_rate_of_run(t, GENERATION, run.run_id)
        before, version = await replay_and_record(t, GENERATION, learning_rate)
        at = time.time()
        for pair, _ in judged:
            so_asked = await feedback.asked_before(t, "pair", pair.id, asked)
            await feedback.withdraw(t, "pair", pair.id)
            metrics = await reviews.metrics_of_text(t, pair.id)
            given = None
            if metrics.keys() & PRIORS[GENERATION].weights.keys():
                target = _TARGETS[verdict]
                about = ("pair", pair.id, metrics, target, PERSON)
                given = await feedback.add(t, GENERATION, run.run_id, *about, asked=so_asked)
            decision = Decision(verdict, pair.score, None, version, PERSON, _CAUSE, f"{verdict} by a person")
            await generation.decide(t, pair.id, decision, {}, {}, given, at)
        after, _ = await replay_and_record(t, GENERATION, learning_rate)
        await _store_events(t, run, [pair.id for pair, _ in judged], decided_by=PERSON)
        scores = await _scores(t, judged[0][0].id, before, after) if len(judged) == 1 else None
    what = _quoted(judged[0][0]) if len(judged) == 1 else count(len(judged), "pair")
    message = f"{verdict.capitalize()}: {what}." + await _rewrite_and_report(store, run)
    return ReviewResult(message, before.weights, after.weights, scores, tuple(pair.id for pair, _ in judged))


async def _is_judged_so(t: Store, pair: PairRow, verdict: str) -> bool:
    """Whether a person has given this verdict on the pair, and it is in force."""
    in_force = await reviews.decision_in_force(t, pair.id)
    return in_force is not None and in_force.decided_by == PERSON and pair.state == verdict


async def _scores(
    t: Store, pair_id: int, before: AdaptiveAggregator, after: AdaptiveAggregator
) -> tuple[float, float] | None:
    """The pair's score (0-10) by two sets of weights; None where its text was not measured."""
    metrics = await reviews.metrics_of_text(t, pair_id)
    if not metrics.keys() & PRIORS[GENERATION].weights.keys():
        return None
    return 10 * before.score(metrics), 10 * after.score(metrics)


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
        await _store_events(t, run, [pair_id], edited=True)
    message = f"Edited: {_quoted(replace(pair, question=question))}."
    return ReviewResult(message + await _rewrite_and_report(store, run))


async def undo(store: Store, run_id: int) -> ReviewResult | None:
    """Take back the newest override or edit in force of a run's pairs; None where there is nothing to take back.

    Overrides that were given together are taken back together. Verdict, score, cause, reason and text are as they were
    before, and so are the weights.
    """
    await runs.mark_interrupted(store)
    async with store.transaction() as t:
        overrides, edit = await reviews.newest_overrides(t, run_id), await reviews.newest_edit(t, run_id)
        if not overrides and edit is None:
            return None
        learning_rate = await learning_rate_of_run(t, GENERATION, run_id)
        before, _ = await replay_and_record(t, GENERATION, learning_rate)
        scores = None
        if overrides and (edit is None or overrides[0].at >= edit.at):
            pair, run = await _pair_and_run(t, overrides[0].pair_id)
            one = len(overrides) == 1
            noun = _NOUNS[overrides[0].verdict]
            message = f"Took back the {noun} of {_quoted(pair) if one else count(len(overrides), 'pair')}"
            for override in overrides:
                await _take_override_back(t, run, override)
            after, _ = await replay_and_record(t, GENERATION, learning_rate)
            scores = await _scores(t, pair.id, before, after) if one else None
            changed = tuple(override.pair_id for override in overrides)
        else:
            assert edit is not None, "one of the two is there"
            pair, run = await _pair_and_run(t, edit.pair_id)
            message = f"Took back the edit of {_quoted(replace(pair, question=edit.question))}"
            await reviews.undo_edit(t, edit)
            await _store_events(t, run, [pair.id])
            after, changed = before, (pair.id,)
    file, problem = await rewrite_file(store, run)
    written = f"; {file.name} is written anew" if file is not None else f"; {problem}" if problem else ""
    return ReviewResult(f"{message}{written}.", before.weights, after.weights, scores, changed)


async def undo_verdict(store: Store, pair_id: int) -> ReviewResult | None:
    """Take back a person's verdict on one pair, whatever else was decided since; None where none is in force."""
    await runs.mark_interrupted(store)
    async with store.transaction() as t:
        pair, run = await _pair_and_run(t, pair_id)
        override = await reviews.decision_in_force(t, pair_id)
        if override is None or override.decided_by != PERSON:
            return None
        learning_rate = await learning_rate_of_run(t, GENERATION, run.run_id)
        before, _ = await replay_and_record(t, GENERATION, learning_rate)
        await _take_override_back(t, run, override)
        after, _ = await replay_and_record(t, GENERATION, learning_rate)
        scores = await _scores(t, pair_id, before, after)
    message = f"Took back the {_NOUNS[override.verdict]} of {_quoted(pair)}." + await _rewrite_and_report(store, run)
    return ReviewResult(message, before.weights, after.weights, scores, (pair_id,))


async def override_text(store: Store, text_id: int, verdict: str) -> ReviewResult:
    """Accept or reject a text; raises `UsageError` for a text or verdict there is not.

    No weights move, since the metrics of a text are the judge's alone.
    """
    if verdict not in _TARGETS:
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
        decided = TextVerdict(verdict, row.score, _CAUSE, f"{verdict} {_CAUSE}", row.metrics, row.note)
        await texts.decide(t, text_id, decided)
        changed = await texts.get(t, text_id)
        assert changed is not None, "it was there at the beginning of the transaction"
        run = await _reviewed_run(t, row.run_id)
        await _publish(t, run, [texts.text_event(changed)])
    return ReviewResult(f"{verdict.capitalize()}: {what}." + await _rewrite_and_report(store, run))


@dataclass(frozen=True, slots=True)
class ReviewedRun:
    """The run of what is reviewed: whether it is live, and the output file that it owned before the change."""

    run_id: int
    live: bool
    file: Path | None


async def _pair_and_run(t: Store, pair_id: int) -> tuple[PairRow, ReviewedRun]:
    pair = await generation.pair(t, pair_id)
    if pair is None:
        raise UsageError(f"There is no pair {pair_id} in {t.path}.")
    return pair, await _reviewed_run(t, await reviews.run_of_pair(t, pair_id))


async def _reviewed_run(t: Store, run_id: int) -> ReviewedRun:
    live = await runs.state(t, run_id) in LIVE_STATES
    return ReviewedRun(run_id, live, None if live else await output_file_of_run(t, run_id))


async def _take_override_back(t: Store, run: ReviewedRun, override: DecisionRow) -> None:
    """Restore the decision before an override, and the feedback that belonged to it; the weights are not replayed."""
    restored = await reviews.undo_override(t, override)
    await feedback.withdraw(t, "pair", override.pair_id)
    if restored is not None and restored.feedback_id is not None:
        await feedback.reinstate(t, restored.feedback_id)
    await _store_events(t, run, [override.pair_id], decided_by=None if restored is None else restored.decided_by)


async def _store_events(t: Store, run: ReviewedRun, pair_ids: Sequence[int], **more: object) -> None:
    """Store the new state of pairs as events and notify a live run's owner, inside the caller's transaction."""
    news = list[events.NewEvent]()
    for pair_id in pair_ids:
        pair = await generation.pair(t, pair_id)
        assert pair is not None, "it was there at the beginning of the transaction"
        news.append(generation.pair_event(pair, **more))
    await _publish(t, run, news)


async def _publish(t: Store, run: ReviewedRun, news: Sequence[events.NewEvent]) -> None:
    """Insert events and have a live run's owner count anew, inside the caller's transaction."""
    await events.insert(t, run.run_id, news)
    if run.live:
        await events.add_command(t, run.run_id, "recount")


async def _rewrite_and_report(store: Store, run: ReviewedRun) -> str:
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
        if not file.is_file() and not await write_accepted_of_runs(t, (run_id,), file):
            raise UsageError(f"Run {run_id} has no accepted pair to train on.")
    return _from_here(file)


async def accepted_file_with_earlier(store: Store, run_id: int) -> Path:
    """Write a run's accepted pairs with those of the earlier runs of its model about the same text; returns the file.

    It stands beside the run's own: "pairs.runs-1-2.txt". Raises `UsageError` where no pair is accepted.
    """
    async with store.transaction() as t:
        path = await _path_written(t, run_id)
        run_ids = [*await generation.accepted_of_earlier_runs(t, run_id), run_id]
        if path is None:
            raise UsageError(f"Run {run_id} has no accepted pair to train on.")
        file = path.with_name(f"{path.stem}.runs-{'-'.join(map(str, run_ids))}{path.suffix}")
        await write_accepted_of_runs(t, run_ids, file)
    return _from_here(file)


def _from_here(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


async def rewrite_file(store: Store, run: ReviewedRun) -> tuple[Path | None, str | None]:
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
            await write_accepted_of_runs(t, (run.run_id,), path, even_if_none=True)
    except LoraTuiError as problem:
        return None, str(problem)
    return path, None
