"""The ladder by itself: its rungs in order, what it says of them, and what a checkpoint keeps."""

from dataclasses import replace

import pytest

from lora_tui.engine.training.fallback import FallbackLadder, RowLoad, RowTooLargeError, Rung, out_of_memory

TOO_LARGE = RowLoad(tokens=40, examples=1, rows_at_once=1, long_rows_at_once=1)
"""A single example, alone, for which memory does not suffice."""


def ladder_at(rung: Rung) -> FallbackLadder:
    ladder = FallbackLadder(rung.tokens_per_row)
    ladder.begin_at(rung)
    return ladder


def test_every_rung_in_order() -> None:
    ladder = ladder_at(Rung(64, graphs=True, long_rows=2))
    rungs = [
        ladder.lower("capture failed", RowLoad(50, 1, 2, 2)),
        ladder.lower("out of memory", RowLoad(50, 1, 2, 2)),
        ladder.lower("out of memory", RowLoad(50, 1, 2, 1)),
        ladder.lower("out of memory", RowLoad(48, 3, 1, 1)),
        ladder.lower("out of memory", TOO_LARGE),
    ]
    assert rungs == [
        Rung(64, graphs=False, long_rows=2),
        Rung(64, long_rows=1),
        Rung(50, one_at_a_time=True),
        Rung(24, one_at_a_time=True),
        Rung(24, one_at_a_time=True, recompute_all=True),
    ]
    assert ladder.current == rungs[-1]
    with pytest.raises(RowTooLargeError) as raised:
        ladder.lower("out of memory", TOO_LARGE)
    assert raised.value.tokens == 40


def test_rows_side_by_side_come_one_at_a_time_before_they_are_halved() -> None:
    """Each may be a single example, which cannot be halved, and alone has all the memory."""
    ladder = ladder_at(Rung(64))
    assert ladder.lower("out of memory", RowLoad(80, 1, 2, 1)) == Rung(64, one_at_a_time=True)


def test_any_error_ends_graphs_and_only_a_full_memory_the_rest() -> None:
    ladder = ladder_at(Rung(64, graphs=True))
    assert ladder.can_lower(RuntimeError("operation not permitted when stream is capturing"))
    ladder.lower("not permitted", TOO_LARGE)
    assert ladder.graphs_error == "not permitted"
    assert not ladder.can_lower(RuntimeError("operation not permitted"))
    assert ladder.can_lower(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert not out_of_memory(ValueError("out of memory"))


@pytest.mark.parametrize(
    ("begin", "loads", "said"),
    [
        (Rung(64), [], []),
        (
            Rung(64, graphs=True),
            [TOO_LARGE],
            ["Steps go on without CUDA graphs, slower: the GPU could not record one (error 0)."],
        ),
        (
            Rung(64, long_rows=2),
            [RowLoad(50, 1, 2, 2)],
            ["Memory ran out at step 7; it goes on with long rows one at a time."],
        ),
        (
            Rung(64),
            [RowLoad(64, 2, 2, 1)],
            ["Memory ran out at step 7; it was taken again, and goes on, in rows, one at a time."],
        ),
        (
            Rung(2048),
            [RowLoad(2000, 9, 1, 1), RowLoad(990, 4, 1, 1)],
            [
                "Memory ran out at step 7; it was taken again, and goes on, in rows of at most 495 tokens "
                "instead of 2,048."
            ],
        ),
        (
            Rung(64),
            [TOO_LARGE],
            ["Memory ran out at step 7: from here on every layer's activations are recomputed."],
        ),
        (
            Rung(64, graphs=True, long_rows=2),
            [TOO_LARGE, RowLoad(50, 1, 2, 2), RowLoad(50, 3, 1, 1), TOO_LARGE],
            [
                "Memory ran out at step 7: from here on every layer's activations are recomputed.",
                "Steps go on without CUDA graphs, slower: the GPU could not record one (error 0).",
                "Memory ran out at step 7; it goes on with long rows one at a time.",
                "Memory ran out at step 7; it was taken again, and goes on, in rows, one at a time.",
            ],
        ),
    ],
)
def test_what_has_changed_is_said_once(begin: Rung, loads: list[RowLoad], said: list[str]) -> None:
    ladder = ladder_at(begin)
    for number, load in enumerate(loads):
        ladder.lower(f"error {number}", load)
    assert ladder.messages(7) == said
    assert ladder.messages(8) == []


def test_of_rungs_that_did_not_help_nothing_is_said_but_that_layers_are_recomputed() -> None:
    ladder = ladder_at(Rung(64, long_rows=2))
    for load in (RowLoad(50, 1, 2, 2), RowLoad(50, 2, 1, 1), TOO_LARGE):
        ladder.lower("out of memory", load)
    with pytest.raises(RowTooLargeError):
        ladder.lower("out of memory", TOO_LARGE)
    assert ladder.messages(1) == ["Memory ran out at step 1: from here on every layer's activations are recomputed."]


@pytest.mark.parametrize(
    "rung", [Rung(64), Rung(64, long_rows=3), Rung(16, one_at_a_time=True), Rung(64, one_at_a_time=True, long_rows=2)]
)
def test_a_resumed_run_begins_where_the_stopped_one_was(rung: Rung) -> None:
    resumed = FallbackLadder(64)
    resumed.resume(*ladder_at(rung).state())
    assert resumed.current == rung
    assert resumed.messages(1) == []


def test_a_checkpoint_keeps_neither_graphs_nor_what_is_recomputed_nor_a_size_that_still_fits() -> None:
    """Both are decided anew from the memory that is free then."""
    ladder = ladder_at(Rung(64, graphs=True, recompute_all=True))
    assert ladder.state() == (None, 1)
    ladder.begin_at(replace(ladder.current, one_at_a_time=True, long_rows=2))
    assert ladder.state() == (64, 2)
