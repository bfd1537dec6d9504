"""When to ask for more, and when it no longer helps."""

from lora_tui.engine.generation.progress import GenerationProgress


def progress_of(target: int = 10, limit: int = 3, **counts: int) -> GenerationProgress:
    return GenerationProgress(target, limit, 2, counts)


def test_it_asks_for_no_more_than_is_missing() -> None:
    progress = progress_of(target=4)
    assert progress.wants_pairs
    progress.requested = 4
    assert not progress.wants_pairs


def test_it_asks_for_more_where_little_is_accepted() -> None:
    progress = progress_of(target=20, accepted=10, rejected=40)
    progress.requested = 10
    assert progress.wants_pairs
    assert 0.2 < progress.acceptance_rate < 0.3


def test_it_waits_for_the_judge() -> None:
    progress = progress_of(target=1000)
    progress.add_proposed(1, waiting=2, rejected=0)
    assert not progress.wants_pairs
    progress.add_verdict(1, "rejected")
    assert progress.wants_pairs


def test_calls_without_an_accepted_pair_in_a_row_exhaust_it() -> None:
    progress = progress_of()
    progress.add_proposed(1, waiting=0, rejected=2)
    progress.add_proposed(2, waiting=2, rejected=0)
    progress.add_verdict(2, "rejected")
    assert progress.fruitless == 1, "the second call has a pair left"
    progress.add_verdict(2, "review")
    assert progress.fruitless == 2
    progress.add_proposed(3, waiting=0, rejected=0)
    assert progress.exhausted
    assert not progress.wants_pairs


def test_an_accepted_pair_begins_the_count_again() -> None:
    progress = progress_of()
    progress.add_proposed(1, waiting=0, rejected=1)
    progress.add_proposed(2, waiting=1, rejected=0)
    progress.add_verdict(2, "accepted")
    assert progress.fruitless == 0
    assert (progress.accepted, progress.missing) == (1, 9)


def test_pairs_of_an_earlier_process_are_decided_without_their_call() -> None:
    progress = progress_of(waiting=2, accepted=3)
    progress.add_verdict(77, "accepted")
    assert (progress.accepted, progress.counts["waiting"]) == (4, 1)
    progress.add_verdict(77, "rejected")
    assert progress.counts["waiting"] == 0


def test_what_people_change_is_counted_anew() -> None:
    progress = progress_of(target=10, accepted=3, waiting=2, rejected=4)
    assert not progress.recount({"accepted": 3, "rejected": 4, "waiting": 2}, {})
    assert progress.recount({"accepted": 5, "rejected": 3, "waiting": 1}, {})
    assert (progress.accepted, progress.missing, progress.counts["waiting"], progress.counts["review"]) == (5, 5, 1, 0)


def test_a_state_that_no_pair_is_in_any_more_is_no_change_by_itself() -> None:
    progress = progress_of(waiting=1)
    progress.add_verdict(7, "accepted")
    assert not progress.recount({"accepted": 1}, {})


def test_a_pair_that_a_person_decided_leaves_its_call_with_the_others() -> None:
    progress = progress_of()
    progress.add_proposed(1, waiting=2, rejected=0)
    progress.add_proposed(2, waiting=1, rejected=0)
    progress.recount({"waiting": 1, "rejected": 2}, {1: 1, 99: 1})
    progress.add_verdict(1, "rejected")
    assert progress.fruitless == 1, "the one pair that was left of the first call brought nothing"
    progress.add_verdict(99, "rejected")
    assert progress.fruitless == 1, "a call of an earlier process"


def test_only_an_acceptance_of_a_person_begins_the_count_of_fruitless_calls_again() -> None:
    progress = progress_of()
    progress.add_proposed(1, waiting=0, rejected=1)
    progress.recount({"rejected": 2}, {})
    assert progress.fruitless == 1
    progress.recount({"rejected": 1, "accepted": 1}, {})
    assert progress.fruitless == 0
