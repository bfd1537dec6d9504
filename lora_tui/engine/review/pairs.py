"""What people do to pairs: accept or reject them whatever their score, word them anew, and take that back.

A run that is live writes its file of accepted pairs itself; after a change to one that has ended it is written here.
Only the run that wrote a path last may write it again: another's file must not come back under its name.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from lora_tui.engine.generation.output import write_accepted
from lora_tui.engine.review.aggregators import GENERATION, PRIORS, learning_rate_of_run, stored_aggregator
from lora_tui.errors import LoraTuiError, UsageError
from lora_tui.scoring.words import question_key
from lora_tui.store import events, feedback, generation, reviews, runs
from lora_tui.store.connection import Store
from lora_tui.store.feedback import PERSON
from lora_tui.store.generation import Decision, PairRow
from lora_tui.store.rows import LIVE_STATES
from lora_tui.text import one_line

_TARGETS = {"accepted": 1.0, "rejected": 0.0}
_CAUSE = "by a person"
_NOUNS = {"accepted": "acceptance", "rejected": "rejection"}
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Changed:
    """What a person's act did to a pair, `words` for people; `changed` is false where it was so already.

    `live` says that the run has an owner, who has been told and writes the run's file. Else `file` is the path that was
    written anew, None where there was none to write, and `file_problem` what kept it from being written. `before` and
    `after` are the weights of generation; they are empty where the act gave no verdict.
    """

    pair_id: int
    run_id: int
    words: str
    changed: bool = True
    live: bool = False
    file: Path | None = None
    file_problem: str | None = None
    before: Mapping[str, float] = field(default_factory=dict)
    after: Mapping[str, float] = field(default_factory=dict)


async def override_pair(store: Store, pair_id: int, verdict: str) -> Changed:
    """Accept or reject a pair, whatever its score; raises `UsageError` where there is no such pair or verdict.

    The verdict is feedback on the metrics that the pair's text has, in place of an earlier one of a person.
    """
    if verdict not in _TARGETS:
        raise UsageError(f"A pair can be accepted or rejected, not {verdict}.")
    await runs.mark_interrupted(store)
    async with store.transaction() as t:
        pair, act = await _begin(t, pair_id)
        in_force = await reviews.decision_in_force(t, pair_id)
        if in_force is not None and in_force.decided_by == PERSON and pair.state == verdict:
            return Changed(pair_id, act.run_id, f"{verdict} already: {_title(pair)}", changed=False, live=act.live)
        learning_rate = await learning_rate_of_run(t, GENERATION, act.run_id)
        before, version = await stored_aggregator(t, GENERATION, learning_rate)
        await feedback.withdraw(t, "pair", pair_id)
        metrics = await reviews.metrics_of_text(t, pair_id)
        given = None
        if metrics.keys() & PRIORS[GENERATION].keys():
            target = _TARGETS[verdict]
            given = await feedback.put(t, GENERATION, act.run_id, "pair", pair_id, metrics, target, PERSON)
        decision = Decision(verdict, pair.score, None, version, PERSON, _CAUSE, f"{verdict} by a person")
        await generation.decide(t, pair_id, decision, {}, {}, given)
        after, _ = await stored_aggregator(t, GENERATION, learning_rate)
        await _tell(t, act, pair_id, decided_by=PERSON)
    done = Changed(
        pair_id, act.run_id, f"{verdict}: {_title(pair)}", live=act.live, before=before.weights, after=after.weights
    )
    return await _end(store, act, done)


async def edit_pair(store: Store, pair_id: int, question: str, answer: str) -> Changed:
    """Word a pair anew and keep its former text; raises `UsageError` for empty text.

    The question is put on one line, which is all that a training text has room for. The verdict stays.
    """
    question, answer = " ".join(question.split()), answer.strip()
    if not question or not answer:
        raise UsageError(f"The {'answer' if question else 'question'} is empty; a pair needs both.")
    await runs.mark_interrupted(store)
    async with store.transaction() as t:
        pair, act = await _begin(t, pair_id)
        if (pair.question, pair.answer) == (question, answer):
            return Changed(pair_id, act.run_id, f"unchanged: {_title(pair)}", changed=False, live=act.live)
        await reviews.edit(t, pair_id, question, answer, question_key(question))
        await _tell(t, act, pair_id, edited=True)
    done = Changed(pair_id, act.run_id, f"edited: {_title(replace(pair, question=question))}", live=act.live)
    return await _end(store, act, done)


async def undo(store: Store, run_id: int) -> str | None:
    """Take back the newest override or edit of a pair of a run that is in force; returns it in words.

    Verdict, score, cause, reason and text are as they were before, and so are the weights. The words say whether the
    run's file was written anew. None where there is nothing to take back.
    """
    await runs.mark_interrupted(store)
    async with store.transaction() as t:
        override, edit = await reviews.newest_override(t, run_id), await reviews.newest_edit(t, run_id)
        if override is None and edit is None:
            return None
        if override is not None and (edit is None or override.at >= edit.at):
            pair, act = await _begin(t, override.pair_id)
            words = f"took back the {_NOUNS.get(override.verdict, override.verdict)} of {_title(pair)}"
            await _take_back(t, act, override)
        else:
            assert edit is not None, "one of the two is there"
            pair, act = await _begin(t, edit.pair_id)
            words = f"took back the edit of {_title(replace(pair, question=edit.question))}"
            await reviews.take_back_edit(t, edit)
            await _tell(t, act, pair.id)
    done = await _end(store, act, Changed(pair.id, run_id, words, live=act.live))
    if done.file is not None:
        return f"{words}; {done.file.name} is written anew"
    return words if done.file_problem is None else f"{words}; {done.file_problem}"


@dataclass(frozen=True, slots=True)
class _Act:
    """The run that an act concerns, whether it is live, and the file that it had written before the act."""

    run_id: int
    live: bool
    file: Path | None


async def _begin(t: Store, pair_id: int) -> tuple[PairRow, _Act]:
    pair = await generation.pair(t, pair_id)
    if pair is None:
        raise UsageError(f"There is no pair {pair_id} in {t.path}.")
    run_id = await reviews.run_of_pair(t, pair_id)
    state = await runs.state(t, run_id)
    live = state in LIVE_STATES
    return pair, _Act(run_id, live, None if live else await own_file(t, run_id))


async def _take_back(t: Store, act: _Act, override: reviews.DecisionRow) -> None:
    """Restore what was decided before, and the feedback that belonged to that."""
    learning_rate = await learning_rate_of_run(t, GENERATION, act.run_id)
    restored = await reviews.take_back_override(t, override)
    await feedback.withdraw(t, "pair", override.pair_id)
    if restored is not None and restored.feedback_id is not None:
        await feedback.reinstate(t, restored.feedback_id)
    await stored_aggregator(t, GENERATION, learning_rate)
    await _tell(t, act, override.pair_id, decided_by=None if restored is None else restored.decided_by)


async def _tell(t: Store, act: _Act, pair_id: int, **more: object) -> None:
    """Store the event of what a pair is now, and have the run's owner take notice, inside the caller's transaction."""
    pair = await generation.pair(t, pair_id)
    assert pair is not None, "it was there at the beginning of the transaction"
    await events.insert(t, act.run_id, [generation.pair_event(pair, **more)])
    if act.live:
        await events.put_command(t, act.run_id, "recount")


async def _end(store: Store, act: _Act, done: Changed) -> Changed:
    """Write the run's file anew where it is nobody else's to write."""
    if act.live:
        return done
    file, problem = await write_again(store, act.run_id, act.file)
    return replace(done, file=file, file_problem=problem)


def _title(pair: PairRow) -> str:
    return f"«{one_line(pair.question, _SHOWN)}»"


async def own_file(t: Store, run_id: int) -> Path | None:
    """Return the absolute path of the file that a run wrote, if none wrote the same path after it."""
    written = [(one.run_id, Path(os.path.abspath(one.path))) for one in await runs.output_files(t)]  # noqa: ASYNC240, PTH100  # ".." is to be resolved, links are not
    path = next((path for owner, path in written if owner == run_id), None)
    last = next((owner for owner, other in written if other == path), None)
    return path if last == run_id else None


async def write_again(store: Store, run_id: int, before: Path | None) -> tuple[Path | None, str | None]:
    """Write a run's file anew; returns its path, or None where it is not to be written, and what went wrong.

    `before` is what `own_file` said before the change: a run that has no accepted pair left has still written a file.
    Others wait meanwhile, so that whoever writes last has also read last.
    """
    try:
        async with store.transaction() as t:
            path = await own_file(t, run_id) or before
            if path is None or await runs.state(t, run_id) in (None, *LIVE_STATES):
                return None, None
            await write_accepted(t, run_id, path, even_if_none=True)
    except LoraTuiError as problem:
        return None, str(problem)
    return path, None
