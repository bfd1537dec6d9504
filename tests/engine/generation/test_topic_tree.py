"""The topic tree of a folder, and the turns of passages by its quotas."""

from collections import Counter

import pytest

from lora_tui.engine.generation.corpus import Source
from lora_tui.engine.generation.passage_turns import PassageTurns
from lora_tui.engine.generation.topic_tree import MOST_TOPICS, Headings, TopicTree, build_tree, grouped

BEES = Headings("bees.md", "b", 6, ((0, "Bees"), (2, "Dance"), (5, "Winter")))
ANTS = Headings("deep/ants.txt", "a", 2, ((0, ""),))


def named(tree: TopicTree) -> dict[str, tuple[str | None, int]]:
    """Return parent's name and passages of each topic, by its name."""
    return {
        topic.name: (tree.name_of(topic.parent) if topic.parent else None, topic.passages)
        for topic in tree.topics.values()
    }


def test_headings_are_topics_beneath_their_file() -> None:
    tree = build_tree([BEES, ANTS])
    assert named(tree) == {
        "bees": (None, 0),
        "Bees": ("bees", 2),
        "Dance": ("bees", 3),
        "Winter": ("bees", 1),
        "ants": (None, 2),
    }
    assert [tree.name_of(tree.topic_of("b", position)) for position in (0, 1, 2, 4, 5)] == [
        "Bees",
        "Bees",
        "Dance",
        "Dance",
        "Winter",
    ]
    assert tree.topic_of("unknown", 3) == 0


def test_quotas_are_shares_of_the_passages_times_the_weights() -> None:
    tree = build_tree([BEES, ANTS])
    numbers = {topic.name: number for number, topic in tree.topics.items()}
    assert tree.quotas()[numbers["Dance"]] == pytest.approx(3 / 8)
    tree.reweigh({numbers["Dance"]: 0.0, numbers["ants"]: 2.0})
    assert tree.quotas()[numbers["Dance"]] == 0
    assert tree.quotas()[numbers["ants"]] == pytest.approx(4 / 7)
    tree.reweigh({numbers["bees"]: 0.0})
    assert tree.quotas()[numbers["ants"]] == 1, "a weight holds for what is beneath"
    tree.reweigh({numbers["ants"]: 0.0})
    assert sum(tree.quotas().values()) == pytest.approx(1), "all left out is nothing left out"


def test_a_tree_that_is_read_again_keeps_numbers_and_weights() -> None:
    tree = build_tree([BEES, ANTS])
    number = tree.topic_of("a", 0)
    tree.reweigh({number: 3.0})
    longer = Headings("bees.md", "b2", 8, (*BEES.runs, (7, "Honey")))
    again = build_tree([longer, ANTS], list(tree.topics.values()))
    assert again.topic_of("a", 1) == number
    assert again.weight(number) == 3
    assert again.name_of(again.topic_of("b2", 7)) == "Honey"
    assert again.topic_of("b2", 2) == tree.topic_of("b", 2)


def test_a_large_folder_has_a_bounded_tree() -> None:
    chapters = [
        Headings(f"{n}.md", str(n), 9, tuple((p, f"Heading {p}") for p in range(9))) for n in range(MOST_TOPICS // 4)
    ]
    assert {topic.origin for topic in build_tree(chapters).topics.values()} == {"file"}
    many = [Headings(f"area {n % 7}/{n}.txt", str(n), 1, ((0, ""),)) for n in range(3_000)]
    tree = build_tree(many)
    assert len(tree.topics) == 7
    assert sum(leaf.passages for leaf in tree.leaves) == 3_000
    deep = [Headings(f"{n % 3}/{n}/text.txt", str(n), 1, ((0, ""),)) for n in range(3_000)]
    assert len(build_tree(deep).topics) == 3, "where folders are too many, those above them"


def test_groups_join_topics_once() -> None:
    tree = build_tree([BEES, ANTS, Headings("wasps.txt", "w", 1, ((0, ""),))])
    numbers = {topic.name: number for number, topic in tree.topics.items()}
    found = grouped(tree, [("Insects", [numbers["bees"], numbers["ants"]]), ("Alone", [numbers["ants"]]), ("?", [99])])
    assert named(found)["bees"] == ("Insects", 0)
    assert named(found)["wasps"] == (None, 1)
    assert "Alone" not in named(found)
    group = next(topic for topic in found.topics.values() if topic.origin == "model")
    found.reweigh({group.number: 0.0})
    assert set(found.quotas().values()) == {0.0, 1.0}
    again = build_tree([BEES, ANTS], list(found.topics.values()))
    assert named(again)["bees"] == ("Insects", 0)


SOURCES = (Source("bees.md", "b", 6), Source("deep/ants.txt", "a", 2))


def turns_of(tree: TopicTree) -> PassageTurns:
    return PassageTurns(SOURCES, tree, {})


def drawn(turns: PassageTurns, tree: TopicTree, calls: int) -> Counter[tuple[str, int]]:
    found: Counter[tuple[str, int]] = Counter()
    asked: Counter[str] = Counter()
    number = 1
    while sum(found.values()) < calls:
        for source in SOURCES:
            if turns.has_turn(source.path, number):
                position = turns.take(source.path, asked)
                found[source.path, position] += 1
                asked[str(tree.topic_of(source.document_id, position))] += 1
        number += 1
    return found


def test_every_passage_is_asked_about_as_often_whatever_its_files_length() -> None:
    tree = build_tree([BEES, ANTS])
    found = drawn(turns_of(tree), tree, 80)
    assert len(found) == 8
    assert max(found.values()) - min(found.values()) <= 3


def test_each_file_has_a_turn_in_the_first_pass_and_none_comes_twice_before_all_came_once() -> None:
    tree = build_tree([BEES, ANTS])
    found = drawn(turns_of(tree), tree, 8)
    assert max(found.values()) <= 2
    assert len(found) >= 7
    assert {path for path, _ in drawn(turns_of(tree), tree, 2)} == {"bees.md", "deep/ants.txt"}


def test_what_is_left_out_is_not_asked_about_and_what_weighs_more_is_asked_more() -> None:
    tree = build_tree([BEES, ANTS])
    tree.reweigh({tree.topic_of("b", 2): 0.0, tree.topic_of("a", 0): 3.0})
    found = drawn(turns_of(tree), tree, 90)
    assert not any(found["bees.md", position] for position in (2, 3, 4))
    assert sum(found["deep/ants.txt", p] for p in (0, 1)) == pytest.approx(60, abs=4)


def test_passages_that_bring_nothing_wait_until_all_do() -> None:
    tree = build_tree([BEES, ANTS])
    turns = turns_of(tree)
    for _ in range(2):
        turns.report("bees.md", 3, 0)
        turns.report("deep/ants.txt", 0, 0)
    found = drawn(turns, tree, 60)
    assert found["bees.md", 3] == found["deep/ants.txt", 0] == 0
    for source in SOURCES:
        for position in range(source.chunks):
            for _ in range(2):
                turns.report(source.path, position, 0)
    assert sum(drawn(turns, tree, 30).values()) >= 30, "then they are asked about again"


def test_a_passage_that_brings_a_pair_now_and_then_is_not_given_up() -> None:
    tree = build_tree([BEES, ANTS])
    turns = turns_of(tree)
    for kept in (0, 1, 0, 1, 0):
        turns.report("bees.md", 3, kept)
    assert drawn(turns, tree, 40)["bees.md", 3] > 0
