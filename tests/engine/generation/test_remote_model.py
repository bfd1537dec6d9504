"""Replies are read with tolerance for manners, and nothing broken is half used."""

import json

import pytest

from lora_tui.engine.generation.client.wire import cleaned
from lora_tui.engine.generation.replies import (
    MAX_PAIRS,
    MalformedReply,
    parse_pairs,
    parse_question_and_answer,
    without_thinking,
)

PAIR = {"evidence": "e", "question": "Why  is\nit?", "answer": " Because. ", "topic": "t"}
WHOLE = json.dumps({"pairs": [PAIR, PAIR]})


@pytest.mark.parametrize(
    "text",
    [
        WHOLE,
        f"```json\n{WHOLE}\n```",
        f"Certainly [as you wish]! Here {{it}} is:\n{WHOLE}\nAnything else?",
        f'<think>maybe {{"pairs": []}}?</think>{WHOLE}',
        f"thoughts that began in the prompt</think>\n{WHOLE}",
        json.dumps([PAIR, PAIR]),
    ],
)
def test_pairs_are_found_in_what_is_around_them(text: str) -> None:
    proposals = parse_pairs(text)
    assert len(proposals.pairs) == 2
    assert proposals.pairs[0].question == "Why is it?"
    assert proposals.pairs[0].answer == "Because."
    assert proposals.refused == ()


def test_a_single_object_is_a_pair() -> None:
    assert len(parse_pairs(json.dumps(PAIR)).pairs) == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("<think>never ends", "empty"),
        ("I would rather not.", "no JSON"),
        (WHOLE[: len(WHOLE) // 2], "broken JSON"),
        (WHOLE[:-2], "broken JSON"),
        ('{"pairs": [', "no list|broken JSON"),
        ('{"pairs": []}', "the list of pairs is empty"),
        ('{"answers": []}', 'no list "pairs"'),
        ('{"pairs": [{"question": "q"}]}', 'no "answer"'),
        ('{"pairs": [{"question": "q", "answer": 5}]}', 'no "answer"'),
        ('{"pairs": ["q"]}', "str, not an object"),
        ('{"pairs": [{"question": "' + "q" * 5000 + '", "answer": "a"}]}', "5,000 characters"),
        ('[{"a":' * 100_000, "nested too deeply|broken"),
    ],
)
def test_what_is_not_whole_is_malformed_with_its_reason(text: str, reason: str) -> None:
    with pytest.raises(MalformedReply, match=reason):
        parse_pairs(text)


def test_items_that_are_no_pair_are_counted_beside_those_that_are() -> None:
    proposals = parse_pairs(json.dumps({"pairs": [PAIR, {"question": ""}, 7]}))
    assert len(proposals.pairs) == 1
    assert len(proposals.refused) == 2


def test_an_endless_list_is_cut() -> None:
    assert len(parse_pairs(json.dumps([PAIR] * 1000)).pairs) == MAX_PAIRS


def test_missing_evidence_and_topic_are_empty() -> None:
    (pair,) = parse_pairs('[{"question": "q", "answer": "a", "evidence": null}]').pairs
    assert (pair.evidence, pair.topic) == ("", "")


def test_text_that_no_store_can_hold_is_replaced() -> None:
    (pair,) = parse_pairs('[{"question": "q\\ud800", "answer": "a\\u0000b"}]').pairs
    assert pair.question == "q\N{REPLACEMENT CHARACTER}"
    assert pair.answer == "a\N{REPLACEMENT CHARACTER}b"
    assert cleaned("fine") == "fine"


def test_one_pair_is_read_from_a_statement_reply() -> None:
    assert parse_question_and_answer('{"question": "Q?", "answer": "A."}') == ("Q?", "A.")
    with pytest.raises(MalformedReply):
        parse_question_and_answer('{"question": "Q?"}')


def test_thoughts_are_not_part_of_a_reply() -> None:
    assert without_thinking("<think>5 5 5</think> 1 2 3") == "1 2 3"
    assert without_thinking("<THINK>no end") == ""
