"""A model groups the topics of a folder before the first pair; a run needs no groups."""

import re

import pytest

from lora_tui.engine.generation.topic_grouping import LEAST_TOPICS, groups_of
from tests.engine.generation.generation_harness import GenerationHarness
from tests.openai_server import http, made_up_text


@pytest.mark.parametrize(
    ("reply", "groups"),
    [
        ("Sea life: 1, 2, 5\nTrade: 3-4", [("Sea life", [1, 2, 5]), ("Trade", [3, 4])]),
        ("1. **Sea life**: 1, 2 and 5\n2. Trade: 3", [("Sea life", [1, 2, 5]), ("Trade", [3])]),
        ("Here are the topics:\n- Sea life: 7", [("Sea life", [7])]),
        ("I cannot do that.", []),
        ("Everything: 1-999999999", [("Everything", list(range(1, 152)))]),
    ],
)
def test_lines_of_a_name_and_numbers_are_groups(reply: str, groups: list[tuple[str, list[int]]]) -> None:
    assert groups_of(reply) == groups


def many_files(harness: GenerationHarness) -> None:
    for number in range(LEAST_TOPICS):
        harness.write(f"area-{number}.txt", made_up_text(90 + number, 1))


def halves(outline: str) -> str:
    numbers = re.findall(r"^(\d+)\. ", outline, re.M)
    return f"First things: {', '.join(numbers[:6])}\nOther\x1b[31m things: {', '.join(numbers[6:])}"


def test_the_tree_has_the_models_groups_and_is_asked_for_once(harness: GenerationHarness) -> None:
    many_files(harness)
    harness.server.groups = halves
    outcome = harness.run(total_examples=4)
    assert outcome.state == "finished"
    assert [one.kind for one in harness.server.received].index("topics") == 0, "before the first pair"
    found = dict(harness.rows("SELECT name, number FROM topics WHERE origin='model'"))
    assert "First things" in found
    assert not any("\x1b" in name for name in found)
    members = harness.value("SELECT COUNT(*) FROM topics WHERE parent=?", found["First things"])
    assert members == 6
    assert harness.events("topics")[0]["groups"] == list(found)
    harness.change("UPDATE runs SET state='interrupted'")
    harness.run(resume=1, total_examples=8)
    assert harness.server.count("topics") == 1


def test_a_call_that_fails_leaves_files_and_headings(harness: GenerationHarness) -> None:
    many_files(harness)
    harness.server.kind_faults["topics"] = http(400, "I do not sort")
    outcome = harness.run(total_examples=4)
    assert outcome.state == "finished"
    assert harness.value("SELECT COUNT(*) FROM topics WHERE origin='model'") == 0
    assert harness.rows("SELECT state FROM tasks WHERE kind='topics'") == [("dead",)]


def test_a_small_folder_is_not_asked_about(harness: GenerationHarness) -> None:
    harness.run(total_examples=4)
    assert harness.server.count("topics") == 0
