"""Pairs as a list that can be filtered, their files, and how their scores are spread."""

from array import array
from pathlib import Path
from typing import Any

import pytest

from lora_tui.store import runs
from lora_tui.store.connection import Store
from lora_tui.store.queries.generation import (
    PairFilter,
    PairLine,
    PairOrder,
    SourceLine,
    pair_ids,
    pair_lines,
    pairs_matching,
    score_histogram,
    sorted_pair_ids,
    source_lines,
)
from tests.store.store_fixtures import make_chunk, make_file, make_pair, plans, with_store


async def some_pairs(store: Store) -> int:
    """A run with five pairs, ids 1 to 5, and another run's pair between them."""
    run_id = await runs.create(store, "generate", {}, {})
    other = await runs.create(store, "generate", {}, {})
    await make_pair(store, run_id, "Why do bees dance?", "accepted", 8.0)
    await make_pair(store, run_id, "How hot is 100% of it?", "rejected", 3.0, source="b.txt", topic="heat")
    await make_pair(store, other, "Why do bees dance?", "accepted", 8.0)
    await make_pair(store, run_id, "What is a_b?", "review", answer="A LETTER pair.", reason="no judge \\ no verdict")
    await make_pair(store, run_id, "Wer fährt über die STRASSE?", "waiting", source="b.txt", topic="Ärger")
    return run_id


def found(tmp_path: Path, wanted: PairFilter, after: int = 0) -> list[int]:
    async def work(store: Store) -> tuple[list[int], set[int]]:
        run_id = await some_pairs(store)
        ids = await pair_ids(store, run_id, wanted, after)
        assert isinstance(ids, array)
        assert ids.typecode == "q"
        return list(ids), await pairs_matching(store, run_id, wanted, [5, 4, 3, 2, 1, 99])

    ids, matching = with_store(tmp_path / "store.db", work)
    assert ids == [pair_id for pair_id in sorted(matching) if pair_id > after], "one and the same filter"
    return ids


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        ({}, [1, 2, 4, 5]),
        ({"state": "accepted"}, [1]),
        ({"state": "waiting"}, [5]),
        ({"source": "b.txt"}, [2, 5]),
        ({"source": "b.txt", "state": "rejected"}, [2]),
        ({"source": "c.txt"}, []),
        ({"search": "BEES DANCE"}, [1]),
        ({"search": "letter"}, [4]),  # in the answer
        ({"search": "HEAT"}, [2]),  # in the topic
        ({"search": "too little"}, [1, 2]),  # in the reason
        ({"search": "100%"}, [2]),
        ({"search": "%"}, [2]),
        ({"search": "_"}, [4]),
        ({"search": "\\"}, [4]),
        ({"search": "ÜBER"}, [5]),
        ({"search": "ärger"}, [5]),
        ({"search": "Fährt"}, [5]),
        ({"search": "'; DROP TABLE pairs; --"}, []),
        ({"search": "\udcff"}, [1, 2, 4, 5]),  # half a character cannot be looked for: it becomes a question mark
        ({"search": "bees", "state": "rejected"}, []),
    ],
)
def test_a_filter_finds_what_it_says(tmp_path: Path, wanted: dict[str, Any], ids: list[int]) -> None:
    assert found(tmp_path, PairFilter(**wanted)) == ids


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [({}, [4, 5]), ({"source": "b.txt"}, [5]), ({"state": "accepted"}, []), ({"search": "a"}, [4, 5])],
)
def test_ids_after_one_are_those_above_it(tmp_path: Path, wanted: dict[str, Any], ids: list[int]) -> None:
    assert found(tmp_path, PairFilter(**wanted), after=2) == ids


@pytest.mark.parametrize(
    ("by", "ascending", "descending"),
    [
        ("proposed", [1, 2, 4, 5], [5, 4, 2, 1]),
        ("score", [2, 1, 4, 5], [1, 2, 4, 5]),  # those without one last, either way
        ("question", [2, 5, 4, 1], [1, 4, 5, 2]),
        ("answer", [4, 1, 2, 5], [1, 2, 5, 4]),  # whatever the case; equal ones as they were proposed
        ("topic", [1, 4, 2, 5], [5, 2, 1, 4]),
        ("why not", [4, 1, 2, 5], [1, 2, 4, 5]),
        ("type", [1, 2, 4, 5], [1, 2, 4, 5]),
        ("verdict", [1, 2, 4, 5], [5, 4, 2, 1]),
    ],
)
def test_pairs_are_sorted_by_a_column(tmp_path: Path, by: str, ascending: list[int], descending: list[int]) -> None:
    async def work(store: Store) -> list[list[int]]:
        run_id = await some_pairs(store)
        orders = (PairOrder(by), PairOrder(by, descending=True))
        return [list(await sorted_pair_ids(store, run_id, PairFilter(), order)) for order in orders]

    assert with_store(tmp_path / "store.db", work) == [ascending, descending]


def test_a_sorted_list_is_filtered_too(tmp_path: Path) -> None:
    async def work(store: Store) -> list[int]:
        return list(
            await sorted_pair_ids(store, await some_pairs(store), PairFilter(source="b.txt"), PairOrder("score"))
        )

    assert with_store(tmp_path / "store.db", work) == [2, 5]


def test_lines_are_what_a_list_shows_of_pairs(tmp_path: Path) -> None:
    async def work(store: Store) -> dict[int, PairLine]:
        await some_pairs(store)
        await make_pair(store, 1, "long " * 200, "rejected", 2.0, reason="why " * 200, answer="so " * 200)
        return await pair_lines(store, [6, 2, 77])

    lines = with_store(tmp_path / "store.db", work)
    assert set(lines) == {2, 6}
    assert lines[2] == PairLine(
        2,
        "rejected",
        3.0,
        "why",
        "heat",
        "How hot is 100% of it?",
        "To show the way.",
        "scores too little",
    )
    assert (len(lines[6].question), len(lines[6].answer), len(lines[6].reason)) == (300, 300, 300)


def test_no_ids_are_no_lines(tmp_path: Path) -> None:
    async def work(store: Store) -> Any:
        return await pair_lines(store, []), await pairs_matching(store, 1, PairFilter(), [])

    assert with_store(tmp_path / "store.db", work) == ({}, set())


def test_every_file_of_a_run_has_a_line_with_what_became_of_its_pairs(tmp_path: Path) -> None:
    async def work(store: Store) -> list[SourceLine]:
        await make_chunk(store)
        run_id = await some_pairs(store)
        for path, skipped in (("b.txt", None), ("a.txt", None), ("c.pdf", "it is no text"), ("d.txt", None)):
            await make_file(store, run_id, path, skipped)
        return await source_lines(store, run_id)

    assert with_store(tmp_path / "store.db", work) == [
        SourceLine("a.txt", 100, 3, None, 1, 0),
        SourceLine("b.txt", 100, 3, None, 0, 1),
        SourceLine("c.pdf", 100, 3, "it is no text", 0, 0),
        SourceLine("d.txt", 100, 3, None, 0, 0),
    ]


def test_scores_are_counted_in_equal_parts_of_the_scale_with_its_ends(tmp_path: Path) -> None:
    async def work(store: Store) -> tuple[list[int], list[int]]:
        run_id = await runs.create(store, "generate", {}, {})
        for state, score in (
            ("accepted", 10.0),
            ("accepted", 7.5),
            ("accepted", 7.49),
            ("rejected", 0.0),
            ("rejected", 2.49),
            ("rejected", 7.5),
            ("review", None),
            ("waiting", None),
        ):
            await make_pair(store, run_id, state=state, score=score)
        return await score_histogram(store, run_id, bins=4)

    assert with_store(tmp_path / "store.db", work) == ([0, 0, 1, 2], [2, 0, 0, 1])


def test_lists_are_read_from_the_index_that_fits(tmp_path: Path) -> None:
    async def work(store: Store) -> list[str]:
        one_file = PairFilter(source="a.txt")
        asked = [
            pair_ids(store, 1, PairFilter(), 7),
            pair_ids(store, 1, PairFilter(state="review")),
            pair_ids(store, 1, one_file),
            pairs_matching(store, 1, one_file, [1]),
            pair_lines(store, [1]),
            source_lines(store, 1),
            score_histogram(store, 1, 20),
        ]
        found = [step for ask in asked for step in await plans(store, ask)]
        return [step for step in found if "pairs" in step]

    assert with_store(tmp_path / "store.db", work) == [
        "SEARCH pairs USING COVERING INDEX pairs_of_run (run_id=? AND id>?)",
        "SEARCH pairs USING COVERING INDEX pairs_by_state (run_id=? AND state=? AND id>?)",
        "SEARCH pairs USING COVERING INDEX pairs_of_source (run_id=? AND source=?)",
        "SEARCH pairs USING INTEGER PRIMARY KEY (rowid=?)",
        "SEARCH pairs USING INTEGER PRIMARY KEY (rowid=?)",
        "SEARCH pairs USING COVERING INDEX pairs_of_source (run_id=?)",
        "SEARCH pairs USING COVERING INDEX pairs_of_source (run_id=?)",
    ]
