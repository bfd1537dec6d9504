"""Read queries of the rating queue: what of a run can still be rated, its metrics, and what has been rated so far.

Controls (prompts whose answer must not say something) are left out: a program sees that by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lora_tui.store.connection import Store
from lora_tui.store.feedback import AUDIT, PERSON
from lora_tui.store.values import to_json

_PAIRS = f"""
SELECT id FROM pairs WHERE run_id = ? AND state IN ('accepted', 'rejected', 'review')
    AND EXISTS (SELECT 1 FROM pair_metrics WHERE pair_id = pairs.id)
    AND NOT EXISTS (SELECT 1 FROM pair_edits WHERE pair_id = pairs.id AND undone_at IS NULL)
    AND NOT EXISTS (SELECT 1 FROM decisions
        WHERE pair_id = pairs.id AND decided_by = '{PERSON}' AND undone_at IS NULL)"""

# The same answer to the same prompt, at another step say, is asked about once, as the first there was: the id says
# what is drawn at random, and a later evaluation must not draw anew.
_ANSWERS = f"""
SELECT MIN(samples.id) AS id FROM samples JOIN evaluations ON evaluations.id = evaluation_id
WHERE run_id = ? AND kind = 'expected' AND json_type(samples.metrics, '$.token_f1') IS NOT NULL
GROUP BY prompt, answer HAVING NOT MAX(EXISTS (SELECT 1 FROM feedback WHERE subject = 'sample'
    AND subject_id = samples.id AND given_by = '{PERSON}' AND undone_at IS NULL))"""

_RUNS_WITH = {
    "pair": "SELECT DISTINCT run_id FROM pairs WHERE run_id = COALESCE(?, run_id) ORDER BY run_id DESC",
    "sample": "SELECT DISTINCT run_id FROM evaluations WHERE run_id = COALESCE(?, run_id) ORDER BY run_id DESC",
}


@dataclass(frozen=True, slots=True)
class RatedSoFar:
    """People's ratings in force in a scope: all, those above and below the middle, and those asked as an audit."""

    rated: int
    good: int
    bad: int
    audit: int


@dataclass(frozen=True, slots=True)
class AnswerToRate:
    """The answer to a test prompt, with the evaluation that it belongs to."""

    run_id: int
    step: int
    model: str
    prompt: str
    reference: str
    answer: str


async def run_to_rate(store: Store, subject: str, run_id: int | None = None) -> int | None:
    """Return the newest run with pairs (`subject` is ``pair``) or answers (``sample``) that are left to rate.

    Where none has any left, the newest that ever had some; None without one. With `run_id` only that run is looked at.
    """
    having = [int(row[0]) for row in await store.tuples(_RUNS_WITH[subject], (run_id,))]
    for number in having:
        if await ids_to_rate(store, number, subject):
            return number
    return having[0] if having else None


async def ids_to_rate(store: Store, run_id: int, subject: str) -> list[int]:
    """Return what of a run can be rated: measured, and not judged by a person yet."""
    return [row[0] for row in await store.tuples(_PAIRS if subject == "pair" else _ANSWERS, (run_id,))]


async def count_to_rate(store: Store, run_id: int, subject: str) -> int:
    """Return how much of a run can be rated, as `ids_to_rate`."""
    return int(await store.value(f"SELECT COUNT(*) FROM ({_PAIRS if subject == 'pair' else _ANSWERS})", (run_id,)))


async def metrics_of(store: Store, subject: str, ids: Sequence[int]) -> dict[int, dict[str, float]]:
    """Return the metrics (0-1) of pairs or samples, by id."""
    if subject == "sample":
        sql = "SELECT id, metrics FROM samples WHERE id IN (SELECT value FROM json_each(?))"
        return await store.mapping(sql, (to_json(list(ids)),))
    found: dict[int, dict[str, float]] = {candidate: {} for candidate in ids}
    sql = "SELECT pair_id, name, value FROM pair_metrics WHERE pair_id IN (SELECT value FROM json_each(?))"
    for pair_id, name, value in await store.tuples(sql, (to_json(list(ids)),)):
        found[pair_id][name] = value
    return found


async def answer_to_rate(store: Store, sample_id: int) -> AnswerToRate | None:
    """Return the answer to a test prompt by its id, or None."""
    return await store.one(
        AnswerToRate,
        "SELECT run_id, step, model, prompt, reference, answer FROM samples"
        " JOIN evaluations ON evaluations.id = evaluation_id WHERE samples.id=?",
        (sample_id,),
    )


async def asked_counts(store: Store, scope: str) -> dict[str, int]:
    """Return how many ratings of people are in force in a scope, by how they were asked for."""
    return await store.mapping(
        "SELECT asked, COUNT(*) FROM feedback WHERE scope=? AND given_by=? AND undone_at IS NULL GROUP BY asked",
        (scope, PERSON),
    )


async def rated_so_far(store: Store, scope: str) -> RatedSoFar:
    """Return how many ratings of people are in force in a scope, of all runs; 3 of 5 is neither good nor bad."""
    (row,) = await store.tuples(
        "SELECT COUNT(*), COALESCE(SUM(target > 0.5), 0), COALESCE(SUM(target < 0.5), 0),"
        " COALESCE(SUM(asked = ?), 0) FROM feedback WHERE scope=? AND given_by=? AND undone_at IS NULL",
        (AUDIT, scope, PERSON),
    )
    return RatedSoFar(*row)
