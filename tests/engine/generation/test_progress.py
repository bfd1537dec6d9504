"""When to ask for more, and when it no longer helps."""

from lora_tui.engine.generation.progress import GenerationProgress


def standing(target: int = 10, limit: int = 3, **counts: int) -> GenerationProgress:
    return GenerationProgress(target, limit, 2, counts)


def test_it_asks_for_no_more_than_is_missing() -> None:
    now = standing(target=4)
    assert now.wants_pairs
    now.requested = 4
    assert not now.wants_pairs


def test_it_asks_for_more_where_little_is_accepted() -> None:
    now = standing(target=20, accepted=10, rejected=40)
    now.requested = 10
    assert now.wants_pairs
    assert 0.2 < now.acceptance_rate < 0.3


def test_it_waits_for_the_judge() -> None:
    now = standing(target=1000)
    now.add_proposed(1, waiting=8, rejected=0)
    assert not now.wants_pairs
    now.add_verdict(1, "rejected")
    assert now.wants_pairs


def test_calls_without_an_accepted_pair_in_a_row_exhaust_it() -> None:
    now = standing()
    now.add_proposed(1, waiting=0, rejected=2)
    now.add_proposed(2, waiting=2, rejected=0)
    now.add_verdict(2, "rejected")
    assert now.fruitless == 1, "the second call has a pair left"
    now.add_verdict(2, "review")
    assert now.fruitless == 2
    now.add_proposed(3, waiting=0, rejected=0)
    assert now.exhausted
    assert not now.wants_pairs


def test_an_accepted_pair_begins_the_count_again() -> None:
    now = standing()
    now.add_proposed(1, waiting=0, rejected=1)
    now.add_proposed(2, waiting=1, rejected=0)
    now.add_verdict(2, "accepted")
    assert now.fruitless == 0
    assert (now.accepted, now.missing) == (1, 9)


def test_pairs_of_an_earlier_process_are_decided_without_their_call() -> None:
    now = standing(waiting=2, accepted=3)
    now.add_verdict(77, "accepted")
    assert (now.accepted, now.counts["waiting"]) == (4, 1)
    now.add_verdict(77, "rejected")
    assert now.counts["waiting"] == 0


def test_what_people_change_is_counted_anew() -> None:
    now = standing(target=10, accepted=3, waiting=2, rejected=4)
    assert not now.recount({"accepted": 3, "rejected": 4, "waiting": 2}, {})
    assert now.recount({"accepted": 5, "rejected": 3, "waiting": 1}, {})
    assert (now.accepted, now.missing, now.counts["waiting"], now.counts["review"]) == (5, 5, 1, 0)


def test_a_state_that_no_pair_is_in_any_more_is_no_change_by_itself() -> None:
    now = standing(waiting=1)
    now.add_verdict(7, "accepted")
    assert not now.recount({"accepted": 1}, {})


def test_a_pair_that_a_person_decided_leaves_its_call_with_the_others() -> None:
    now = standing()
    now.add_proposed(1, waiting=2, rejected=0)
    now.add_proposed(2, waiting=1, rejected=0)
    now.recount({"waiting": 1, "rejected": 2}, {1: 1, 99: 1})
    now.add_verdict(1, "rejected")
    assert now.fruitless == 1, "the one pair that was left of the first call brought nothing"
    now.add_verdict(99, "rejected")
    assert now.fruitless == 1, "a call of an earlier process"


def test_only_an_acceptance_of_a_person_begins_the_count_of_fruitless_calls_again() -> None:
    now = standing()
    now.add_proposed(1, waiting=0, rejected=1)
    now.recount({"rejected": 2}, {})
    assert now.fruitless == 1
    now.recount({"rejected": 1, "accepted": 1}, {})
    assert now.fruitless == 0
