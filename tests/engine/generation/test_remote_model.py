"""Replies are read with tolerance for manners, and nothing broken is half used."""

import contextlib
import json
import time

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
        (WHOLE[:-3], "broken JSON"),
        (WHOLE[:-20], "broken JSON"),
        ('{"pairs": [{"question": "q", "answer": "use {x} and', "broken JSON"),
        ('{"question": "q", "answer": "a", "answer": "b"}', "a key has two values"),
        ('{"question": "q", "answer": "a" + "b"}', "broken JSON"),
        ('{"question": "q", "answer": "a"} Better: {"question": "q", "answer": "b"}', "two answers"),
        ('{"question": "q", "answer": true}', 'no "answer"'),
        ('{"pairs": [', "no list|broken JSON"),
        ('{"pairs": []}', "the list of pairs is empty"),
        ('{"answers": []}', 'no list "pairs"'),
        ('{"pairs": [{"question": "q"}]}', 'no "answer"'),
        ('{"pairs": ["q"]}', "str, not an object"),
        ('{"pairs": [{"question": "' + "q" * 5000 + '", "answer": "a"}]}', "5,000 characters"),
        ('[{"a":' * 100_000, "nested too deeply|broken"),
    ],
)
def test_what_is_not_whole_is_malformed_with_its_reason(text: str, reason: str) -> None:
    with pytest.raises(MalformedReply, match=reason):
        parse_pairs(text)


ONE = [("Why is it?", "Because.")]
TWO = [("Why is it?", "Because."), ("Who?", "He.")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"pairs": [{"question": "Why is it?", "answer": "Because.",},]}', ONE),
        ('{"pairs": [{"question": "Why is it?", "answer": "Because."}', ONE),  # the last brackets are forgotten
        ('{"pairs": [{"question": "Why is it?", "answer": "Because."} {"question": "Who?" "answer": "He."}]}', TWO),
        ('{"question": "Why is it?", "answer": "Because."}\n{"question": "Who?", "answer": "He."}', TWO),
        ('{"question": "Why is it?", "answer": "Because.",}\n{"question": "Who?", "answer": "He.",}', TWO),
        ('{"question": "Why is it?", "answer": "Because.", "question": "Who?", "answer": "He."}', TWO),
        ("{'question': 'Why is it?', 'answer': 'Because.'}", ONE),
        ('{question: "Why is it?", answer: "Because."} // as asked', ONE),
        ("{“question”: “Why is it?”, “answer”: “Because.”}", ONE),
        (r"{\"question\": \"Why is it?\", \"answer\": \"Because.\"}", ONE),
        (json.dumps('{"question": "Why is it?", "answer": "Because."}'), ONE),
        ('{"Question": "Why is it?", "Answer": "Because."}', ONE),
        ('{"qa_pairs": [{"Q": "Why is it?", "A": "Because."}, {"q": "Who?", "a": "He."}]}', TWO),
        (
            '{"1": {"question": "Why is it?", "answer": "Because."}, "2": {"question": "Who?", "answer": "He."}}',
            TWO,
        ),
        ('{"questions": ["Why is it?", "Who?"], "answers": ["Because.", "He."]}', TWO),
        ('As asked: {"note": "one pair"}\n{"pairs": [{"question": "Why is it?", "answer": "Because."}]}', ONE),
        ("**Question 1:** Why is it?\n**Answer:** Because.\n\n**Question 2:** Who?\n**Answer 2:** He.", TWO),
        ('- question: "Why is it?"\n  answer: "Because."\n- question: Who?\n  answer: He.', TWO),
        ("Q: Why is it?\nA: Because.", ONE),
        (
            '{"question": "Why is it?", "answer": "He said "no", and left."}',
            [("Why is it?", 'He said "no", and left.')],
        ),
        ('{"question": "Why is it?", "answer": "Because\nit is."}', [("Why is it?", "Because\nit is.")]),
        ('{"question": "How many?", "answer": 12}', [("How many?", "12")]),
        (
            r'{"question": "What is \(x\)?", "answer": "\frac{1}{2}\nor \beta \times \alpha"}',
            [("What is \\(x\\)?", "\\frac{1}{2}\nor \\beta \\times \\alpha")],
        ),
        (r'{"question": "Where?", "answer": "In C:\\data\\new"}', [("Where?", "In C:\\data\\new")]),
    ],
)
def test_the_one_reading_that_there_is_is_taken(text: str, expected: list[tuple[str, str]]) -> None:
    assert [(pair.question, pair.answer) for pair in parse_pairs(text).pairs] == expected


def test_a_reply_that_ended_at_its_limit_is_not_repaired() -> None:
    text = '{"pairs": [{"question": "q", "answer": "a",},]}'
    assert len(parse_pairs(text).pairs) == 1
    with pytest.raises(MalformedReply, match="cut off"):
        parse_pairs(text, cut_off=True)


def test_reasons_have_no_positions_so_that_they_are_counted_together() -> None:
    reasons = set()
    for number in range(3):
        with pytest.raises(MalformedReply) as problem:
            parse_pairs('{"pairs": [{"question": "' + "q" * number + '", "answer": "a')
        reasons.add(str(problem.value))
    assert len(reasons) == 1


def test_evidence_from_several_places_is_one_quotation() -> None:
    (pair,) = parse_pairs('{"question": "q", "answer": "a", "quote": ["One is.", "Two are."]}').pairs
    assert pair.evidence == "One is. … Two are."


@pytest.mark.parametrize(
    "piece", ['{"', '{"a":', '[{"', '"x', "\\", '{"a": "b" "c", ', '{"question": "a "b" c ', "{}", "'", "Q: "]
)
def test_a_hostile_reply_is_read_or_refused_within_two_seconds(piece: str) -> None:
    began = time.process_time()
    with contextlib.suppress(MalformedReply):
        parse_pairs('{"' + piece * (300_000 // len(piece)) + "]}")
    assert time.process_time() - began < 2


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
