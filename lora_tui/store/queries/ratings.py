"""Read queries on people's ratings: the log with what each rating is about, and the pairs that a run's judge accepted.

What belongs together is named (`RatingRow.about`): two pairs about one passage, or two answers to one question, are not
two independent pieces of evidence.
"""

from dataclasses import dataclass
from typing import Any

from lora_tui.store.connection import Store
from lora_tui.store.feedback import ACTIVE, AUDIT, PERSON


@dataclass(frozen=True, slots=True)
class RatingRow:
    """One judgement in force, as `FeedbackRow`; `by_person` and `at_random` say who gave it and how it was asked for.

    `about` is the passage of a pair, the test prompt of an answer.
    `as_hard`: it was asked for because it is hard to score, which teaches most.
    """

    metrics: dict[str, float]
    target: float
    by_person: bool
    at_random: bool
    about: str
    as_hard: bool = False


_RATINGS = f"""
SELECT feedback.metrics AS metrics, target, given_by = '{PERSON}' AS by_person, asked = '{AUDIT}' AS at_random,
    COALESCE(pairs.chunk_id, samples.prompt, subject || ' ' || subject_id) AS about,
    asked = '{ACTIVE}' AS as_hard
FROM feedback
LEFT JOIN pairs ON subject = 'pair' AND pairs.id = subject_id
LEFT JOIN samples ON subject = 'sample' AND samples.id = subject_id
WHERE scope = ? AND undone_at IS NULL AND COALESCE(samples.kind, 'expected') = 'expected' ORDER BY feedback.id"""


async def rating_rows(store: Store, scope: str) -> list[RatingRow]:
    """Return the judgements of a scope (``generation``, ``evaluation``) that are in force, as they were given.

    As in `feedback.in_force`, those of controls are left out: they are no opinion about an answer.
    """
    return await store.all(RatingRow, _RATINGS, (scope,))


async def ratings_state(store: Store, scope: str) -> tuple[Any, ...]:
    """Return what changes whenever the judgements in force of a scope do, or the edits of pairs.

    Its first entry is how many judgements people gave.
    """
    sql = (
        "SELECT COALESCE(SUM(given_by = ?), 0), COUNT(*), COALESCE(MAX(id), 0), COALESCE(SUM(id), 0),"
        " COALESCE(SUM(length(CAST(metrics AS TEXT))), 0),"  # older ones are given further metrics
        " (SELECT COUNT(*) FROM pair_edits WHERE undone_at IS NULL)"
        " FROM feedback WHERE scope=? AND undone_at IS NULL"
    )
    return (await store.tuples(sql, (PERSON, scope)))[0]


# The judge's verdict, whatever a person has made of it: that is what a guarantee for the judge is about.
_ACCEPTED = f"""
SELECT pairs.score, (SELECT target FROM feedback WHERE subject = 'pair' AND subject_id = pairs.id
    AND undone_at IS NULL AND given_by = '{PERSON}' AND asked = '{AUDIT}' ORDER BY id DESC LIMIT 1)
FROM pairs WHERE run_id = ? AND score IS NOT NULL AND 'accepted' = (SELECT verdict FROM decisions
    WHERE pair_id = pairs.id AND undone_at IS NULL AND decided_by <> '{PERSON}' ORDER BY id DESC LIMIT 1)
ORDER BY pairs.id"""


async def accepted_scores(store: Store, run_id: int) -> list[tuple[float, float | None]]:
    """Return (score 0-10, target 0-1 of a rating that was asked for at random, or None) of the pairs a run accepted.

    Accepted by the judge, that is: a person's verdict is the target here.
    """
    return [(float(score), target) for score, target in await store.tuples(_ACCEPTED, (run_id,))]


# Judged by hand or edited: no longer in the queue, though the run accepted them too.
_BY_HAND = f"""
SELECT id FROM pairs WHERE run_id = ?1 AND score IS NOT NULL AND 'accepted' = (SELECT verdict FROM decisions
    WHERE pair_id = pairs.id AND undone_at IS NULL AND decided_by <> '{PERSON}' ORDER BY id DESC LIMIT 1)
    AND (EXISTS (SELECT 1 FROM decisions WHERE pair_id = pairs.id AND undone_at IS NULL AND decided_by = '{PERSON}')
        OR EXISTS (SELECT 1 FROM pair_edits WHERE pair_id = pairs.id AND undone_at IS NULL))
    AND NOT EXISTS (SELECT 1 FROM feedback WHERE subject = 'pair' AND subject_id = pairs.id AND undone_at IS NULL
        AND given_by = '{PERSON}' AND asked IN ('{AUDIT}', '{ACTIVE}'))"""


async def accepted_and_changed_by_hand(store: Store, run_id: int) -> list[int]:
    """Return the ids of the pairs that a run accepted and a person judged unasked, or edited before it was asked."""
    return [row[0] for row in await store.tuples(_BY_HAND, (run_id,))]


async def answers_to_expect(store: Store, run_id: int) -> dict[int, list[dict[str, float]]]:
    """Return the metrics of a run's answers to prompts that expect a reply, controls left out, by evaluation id."""
    rows = await store.all(
        _SampleMetrics,
        "SELECT evaluation_id, samples.metrics FROM samples JOIN evaluations ON evaluations.id = evaluation_id"
        " WHERE run_id=? AND kind='expected' ORDER BY samples.id",
        (run_id,),
    )
    answers: dict[int, list[dict[str, float]]] = {}
    for row in rows:
        answers.setdefault(row.evaluation_id, []).append(row.metrics)
    return answers


@dataclass(frozen=True, slots=True)
class _SampleMetrics:
    evaluation_id: int
    metrics: dict[str, float]
