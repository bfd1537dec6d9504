"""Screening: what becomes of a proposed pair before anything is stored, found out without the store.

The gates are asked, then the index of the run's questions, which a pair that passes joins at once: a question of the
next reply is held against it before either is stored. What only the store can tell, whether the very same question was
asked before, is left to the transaction that stores the pair.
"""

from dataclasses import dataclass, replace
from typing import Any

from lora_tui.engine.generation.gates import Refusal, check_gates
from lora_tui.engine.generation.generation_model import Proposals, ProposedPair, Slot
from lora_tui.engine.generation.near_duplicates import NearDuplicates
from lora_tui.engine.generation.planner import slot_of
from lora_tui.engine.generation.question_types import question_type_of
from lora_tui.scoring.words import question_key
from lora_tui.secrets import find_secret, redact
from lora_tui.store.rows import NewPair, PairRow, TaskRow
from lora_tui.text import one_line


@dataclass(frozen=True, slots=True)
class Screened:
    """A proposed pair as it is stored, and why it is kept from the judge: by a gate, or by a question nearly its own.

    `version` is that of the analysis it was asked under, `index_id` its question's in the index of near duplicates,
    None for a pair that is refused.
    """

    new: NewPair
    slot: dict[str, Any]
    version: int
    refusal: Refusal | None
    near: Refusal | None
    index_id: int | None

    def as_row(self, pair_id: int, task: TaskRow) -> PairRow:
        """Return the pair as it is in the store, waiting for its verdict."""
        new = self.new
        return PairRow(
            id=pair_id,
            task_id=task.id,
            chunk_id=task.chunk_id,
            source=task.source,
            question=new.question,
            answer=new.answer,
            evidence=new.evidence,
            topic=new.topic,
            slot=self.slot,
            state="waiting",
            score=None,
            cause="",
            reason="",
        )


def screened(
    task: TaskRow, ordinal: int, pair: ProposedPair, passage: str, version: int, known: NearDuplicates
) -> Screened:
    """Return a pair of a task's reply with what the gates and the questions that are `known` say of it."""
    refusal, near, index_id = check_gates(pair, passage), None, None
    if refusal is None:
        if (other := known.find(pair.question)) is None:
            index_id = known.add(pair.question)
        else:
            shown, similarity = one_line(other[0], 100), other[1]
            near = Refusal("near duplicate", f"nearly the same as «{shown}» ({similarity:.0%} alike)")
    key = question_key(pair.question)
    pair = _without_secrets(pair)
    new = NewPair(
        ordinal=ordinal,
        question=pair.question,
        answer=pair.answer,
        evidence=pair.evidence,
        topic=pair.topic or slot_of(task).topic,
        question_key=key,
    )
    asked = task.slot["question_type"]
    slot = {**task.slot, "question_type": pair.question_type, "asked_type": asked}
    return Screened(new, slot, version, refusal, near, index_id)


def _without_secrets(pair: ProposedPair) -> ProposedPair:
    """Return a pair as it may be stored: one that holds a secret is refused, and what is kept of it holds none."""
    if find_secret(f"{pair.question}\n{pair.answer}\n{pair.evidence}\n{pair.topic}") is None:
        return pair
    question, answer, evidence, topic = map(redact, (pair.question, pair.answer, pair.evidence, pair.topic))
    return replace(pair, question=question, answer=answer, evidence=evidence, topic=topic)


def typed(proposals: Proposals, slot: Slot) -> Proposals:
    """Return proposals whose pairs have the type that their questions have, whatever was asked for."""
    pairs = [
        replace(
            pair, question_type=question_type_of(pair.question, pair.answer, pair.question_type or slot.question_type)
        )
        for pair in proposals.pairs
    ]
    return replace(proposals, pairs=tuple(pairs))
