"""Queries on where training examples come from: the accepted pair or text with the same words, and what led to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from lora_tui.store.connection import Store
from lora_tui.store.folders import TAKEN_OVER
from lora_tui.store.texts import TextRow

Table = Literal["pairs", "texts"]


class AcceptedPair(NamedTuple):
    """The words of an accepted pair of any run."""

    id: int
    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class OriginRow:
    """Where an accepted pair or text comes from. Characters are those of the document; scores are 0-10.

    `document_id` is the hash of the file's bytes (`documents`), `content_id` that of the passage as models saw it.
    `weights_version` is a row of `weight_versions`; `judges` names those of a panel, comma-separated, else it is empty.
    """

    id: int
    run_id: int
    source: str
    document_id: str | None
    content_id: str | None
    first_character: int | None
    last_character: int | None
    heading: str | None
    evidence: str
    score: float | None
    threshold: float | None
    weights_version: int | None
    decided_by: str | None
    judges: str | None


async def accepted_pairs(store: Store, after: int, limit: int) -> list[AcceptedPair]:
    """Return accepted pairs of all runs with ids above `after`, in order."""
    sql = "SELECT id, question, answer FROM pairs WHERE state='accepted' AND id>? ORDER BY id LIMIT ?"
    return [AcceptedPair(*row) for row in await store.tuples(sql, (after, limit))]


async def accepted_texts(store: Store, after: int, limit: int) -> list[TextRow]:
    """Return accepted texts of all runs with ids above `after`, in order."""
    sql = "SELECT * FROM texts WHERE state='accepted' AND id>? ORDER BY id LIMIT ?"
    return await store.all(TextRow, sql, (after, limit))


async def origins(store: Store, table: Table, ids: Sequence[int]) -> list[OriginRow]:
    """Return where these pairs or texts come from; a few hundred at a time."""
    marks = ", ".join("?" * len(ids))
    decided = "(SELECT {} FROM decisions WHERE pair_id = one.id AND undone_at IS NULL ORDER BY id DESC LIMIT 1)"
    own = (
        {name: f"{decided.format(name)} AS {name}" for name in ("threshold", "weights_version", "decided_by")}
        if table == "pairs"
        else {name: f"NULL AS {name}" for name in ("threshold", "weights_version", "decided_by")}
    )
    judges = (
        "(SELECT group_concat(DISTINCT substr(name, instr(name, '@') + 1)) FROM pair_metrics"
        " WHERE pair_id = one.id AND instr(name, '@') > 0)"
        if table == "pairs"
        else "NULL"
    )
    evidence = "one.evidence" if table == "pairs" else "''"
    return await store.all(
        OriginRow,
        "SELECT one.id, one.run_id, one.source, document_id, content_id, first_character, last_character, heading,"
        f" {evidence} AS evidence, one.score, {', '.join(own.values())}, {judges} AS judges FROM {table} AS one"
        f" LEFT JOIN chunks ON chunks.id = one.chunk_id WHERE one.id IN ({marks})",
        ids,
    )


async def written_as(store: Store, ids: Sequence[int]) -> dict[int, tuple[int, int | None]]:
    """Return for each of these pairs that was kept of an earlier run which pair it was first, and of which run.

    The run is None where it was deleted. Pairs that their own run wrote are left out.
    """
    rows = await store.tuples(
        "WITH RECURSIVE kept(pair_id, first) AS ("
        f" SELECT id, id FROM pairs WHERE id IN ({', '.join('?' * len(ids))}) UNION ALL"
        " SELECT kept.pair_id, CAST(tasks.key AS INTEGER) FROM kept JOIN pairs ON pairs.id = first"
        " JOIN tasks ON tasks.id = pairs.task_id AND tasks.kind = ?)"
        " SELECT pair_id, oldest, (SELECT run_id FROM pairs WHERE id = oldest) FROM"
        " (SELECT pair_id, MIN(first) AS oldest FROM kept GROUP BY pair_id) WHERE oldest < pair_id",
        (*ids, TAKEN_OVER),
    )
    return {pair_id: (first, run_id) for pair_id, first, run_id in rows}


async def weights(store: Store, versions: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Return the weights of the aggregator in these versions (rows of `weight_versions`)."""
    sql = f"SELECT id, weights FROM weight_versions WHERE id IN ({', '.join('?' * len(versions))})"
    return await store.mapping(sql, versions)
