"""A model that cannot keep a form is asked in an easier one, soon, and it is told."""

import stat
import time
from dataclasses import replace

import pytest

from lora_tui.engine.generation.endpoint_memory import FORGET_AFTER, memory_file, recall, remember
from lora_tui.engine.generation.generation_model import ProposedPair
from lora_tui.engine.generation.replies import MalformedReply, parse_pairs, read_sentence_pair
from lora_tui.engine.generation.reply_forms import REPLY_FORMS, FormLadder
from tests.engine.generation.generation_harness import GenerationHarness
from tests.openai_server import pair_of_sentence


def test_a_form_that_never_brought_a_usable_pair_is_left_after_two_replies() -> None:
    ladder = FormLadder()
    assert ladder.record("json_schema", "no JSON") is None
    assert ladder.record("json_schema", "no JSON") == "its replies held no usable pair (no JSON)"
    assert ladder.current == "json_object_schema"


def test_a_form_that_has_brought_one_is_left_after_six_unusable_replies_of_eight() -> None:
    ladder = FormLadder()
    ladder.record("json_schema", None)
    outcomes = [ladder.record("json_schema", None if n in (2, 4) else "empty") for n in range(8)]
    assert outcomes[:7] == [None] * 7
    assert outcomes[7] == "6 of the last 8 replies held no usable pair (empty)"
    assert not ladder.proven, "the next form has yet to bring one"


def test_a_form_that_mostly_works_is_kept() -> None:
    ladder = FormLadder()
    for n in range(100):
        assert ladder.record("json_schema", "empty" if n % 2 else None) is None


def test_replies_to_a_form_that_was_left_do_not_count() -> None:
    ladder = FormLadder()
    for _ in range(9):
        ladder.record("json_schema", "no JSON")
    assert ladder.current == "json_object_schema"


def test_the_last_form_is_never_left() -> None:
    ladder = FormLadder("begun")
    assert [ladder.record("begun", "no JSON") for _ in range(20)] == [None] * 20
    ladder.refuse("begun")
    assert ladder.current == "flat", "a server that completes no texts"
    assert [ladder.record("flat", "no JSON") for _ in range(20)] == [None] * 20


def test_a_schema_that_had_no_effect_has_none_when_it_is_left_out() -> None:
    ladder = FormLadder("json_object_schema")
    for _ in range(2):
        ladder.record("json_object_schema", "no JSON")
    assert ladder.current == "tool_call"
    ladder = FormLadder("json_object_schema")
    ladder.refuse("json_object_schema")
    assert ladder.current == "json_object", "it was refused, not ignored"


def test_a_model_that_keeps_a_schema_and_says_nothing_is_spared_the_other_ways_to_enforce_it() -> None:
    ladder = FormLadder("json_object_schema", kept={"json_object_schema"})
    for _ in range(2):
        ladder.record("json_object_schema", "the list of pairs is empty")
    assert ladder.current == "flat"


def test_forms_that_are_refused_are_passed_over() -> None:
    ladder = FormLadder()
    for form in ("tool_call", "json_schema", "json_object_schema"):
        assert ladder.refuse(form)
        assert not ladder.refuse(form), "it is told once"
    for _ in range(2):
        ladder.record("json_object", "no JSON")
    assert ladder.current == "grammar"


def test_one_flat_pair_is_enforced_by_the_first_way_that_had_an_effect() -> None:
    ladder = FormLadder("flat", refused={"json_schema"}, kept={"json_schema", "tool_call", "grammar"})
    assert ladder.enforcement_of("flat") == "tool_call"
    assert FormLadder("flat").enforcement_of("flat") == "none"


SENTENCE = "The funicular of Hallbach was opened on 3 May 1897 by the engineer Ida Brandt."


@pytest.mark.parametrize(
    ("question", "answer", "fault"),
    [
        ("When was the funicular of Hallbach opened?", "on 3 May 1897", None),
        ("Who opened the funicular of Hallbach?", "the engineer Ida Brandt.", None),
        ("When was the funicular of Hallbach opened?", "in 1897", "not a part"),
        ("When was the funicular of Hallbach opened?", "3 May 189", "not a part"),
        ("The funicular of Hallbach was opened.", "on 3 May 1897", "has no end"),
        ("What is the most common?", "on 3 May 1897", "says what the sentence does not"),
        ("What is the capital of Hallbach?", "on 3 May 1897", "says what the sentence does not"),
        ("Was the funicular of Hallbach opened on 3 May?", "on 3 May 1897", "gives the answer away"),
        ("When was it opened by Ida Brandt?", "on 3 May 1897", "leans on its sentence"),
        ("When was he?", SENTENCE, "too short"),
        ("...", "...", "not a part"),
    ],
)
def test_a_pair_about_a_sentence_is_kept_only_if_it_fits(question: str, answer: str, fault: str | None) -> None:
    reply = f'{{"question": "{question}", "answer": "{answer}"}}'
    if fault is None:
        expected = ProposedPair(question, f"{answer[0].upper()}{answer[1:].rstrip('.')}.", SENTENCE, "rail")
        assert read_sentence_pair(reply, SENTENCE, "rail") == expected
    else:
        with pytest.raises(MalformedReply, match=fault):
            read_sentence_pair(reply, SENTENCE, "rail")


def warnings(harness: GenerationHarness) -> list[str]:
    return [event["message"] for event in harness.events("warning") if "From now on" in event["message"]]


def test_a_model_that_copies_the_form_ends_with_single_sentences(harness: GenerationHarness) -> None:
    """It lets any JSON pass, and what it fills in is dots: no run should end for that."""
    harness.server.pair_of = lambda passage, n: DOTS
    outcome = harness.run(total_examples=6)
    assert (outcome.state, outcome.result["accepted"]) == ("finished", 6)
    lists = [one.body for one in harness.server.received if one.kind == "generate"]
    assert len(lists) <= 2 * len(REPLY_FORMS), "two replies a form, whatever the run asks for"
    told = warnings(harness)
    assert len(told) == 2, "it keeps to a schema: other ways to enforce one do not help"
    assert "asked for one question and answer about a sentence that the program picks" in told[-1]
    sentences = [one.body for one in harness.server.received if one.kind == "sentence"]
    assert all(body["response_format"]["type"] == "json_schema" for body in sentences), "its form was kept"
    answers = harness.rows("SELECT answer, evidence FROM pairs WHERE state='accepted'")
    assert all(answer.casefold() in evidence.casefold() and answer != evidence for answer, evidence in answers)


def test_a_model_that_gets_worse_is_asked_otherwise_before_the_pass_is_over(harness: GenerationHarness) -> None:
    good = 3

    def worse(passage: str, n: int) -> dict[str, str]:
        nonlocal good
        good -= 1
        return pair_of_sentence(passage, n) if good >= 0 else {"question": "Why?", "answer": "Because."}

    harness.server.pair_of = worse
    outcome = harness.run(total_examples=8, num_examples_per_file=1, max_concurrency=1)
    assert (outcome.state, outcome.result["accepted"]) == ("finished", 8)
    told = warnings(harness)
    assert "6 of the last 8 replies held no usable pair (" in told[0]


DOTS = dict.fromkeys(("evidence", "question", "answer", "topic"), "...")
TEXT = """The funicular of Hallbach was opened in 1897. Its wheel was forged by the smith Jon Falk.

The library of Hallbach holds twelve thousand books. The mayor keeps the golden key in a locked drawer."""


def test_a_model_that_fills_in_nothing_completes_questions_that_are_begun(harness: GenerationHarness) -> None:
    asked: list[str] = []

    def go_on(prompt: str) -> str:
        asked.append(prompt)
        opening = prompt.rsplit("Question: ", 1)[1]
        return {"When was": " the funicular of Hallbach opened? And so on", "How many": " sheep are there?"}.get(
            opening, " is it?"
        )

    harness.server.pair_of = lambda passage, n: DOTS
    harness.server.pair_of_sentence = lambda sentence: DOTS
    harness.server.completion = go_on
    harness.write("one.txt", TEXT)
    harness.run(total_examples=3)
    pairs = harness.rows("SELECT question, answer, evidence FROM pairs WHERE state='accepted'")
    assert ("When was the funicular of Hallbach opened?", "In 1897.", TEXT.partition(" Its")[0]) in pairs
    assert not any("sheep" in question for question, *_ in pairs)
    assert "asked for the rest of a question that the program begins" in warnings(harness)[-1]
    assert sum(prompt.endswith("Question: When was") for prompt in asked if "funicular" in prompt) == 1, "one is enough"


def test_a_server_that_completes_no_texts_stays_with_single_sentences(harness: GenerationHarness) -> None:
    harness.server.pair_of = lambda passage, n: DOTS
    harness.server.pair_of_sentence = lambda sentence: DOTS
    outcome = harness.run()
    assert (outcome.state, outcome.exit_status) == ("failed", 1)
    assert "no such address" not in str(outcome.error)
    assert 1 <= len(str(outcome.error).splitlines()) <= 2
    assert any("does not take the rest of a question" in event["message"] for event in harness.events("warning"))


def test_what_a_model_can_keep_is_known_the_next_time(harness: GenerationHarness) -> None:
    harness.server.pair_of = lambda passage, n: DOTS
    harness.run(total_examples=2)
    assert harness.server.count("generate") > 0
    harness.server.received.clear()
    assert harness.run(total_examples=2).state == "finished"
    assert harness.server.count("generate") == 0
    assert harness.server.count("sentence") >= 2
    assert harness.server.received[0].body["response_format"]["type"] == "json_schema", "and how it is enforced"


def test_what_is_known_is_forgotten_when_it_is_old_or_cannot_be_read(harness: GenerationHarness) -> None:
    harness.run(total_examples=1)
    notes = recall(harness.server.url, "test-model")
    assert notes is not None
    assert notes.form == "json_schema"
    assert harness.server.url.encode() in memory_file().read_bytes()
    assert stat.S_IMODE(memory_file().stat().st_mode) == 0o600
    remember(harness.server.url, "test-model", replace(notes, at=notes.at - FORGET_AFTER - 1))
    assert recall(harness.server.url, "test-model") is None
    memory_file().write_text('{"broken')
    assert recall(harness.server.url, "test-model") is None
    memory_file().write_text(f'{{"{harness.server.url} test-model": {{"form": "of another version", "at": "then"}}}}')
    assert recall(harness.server.url, "test-model") is None
    assert harness.run(total_examples=1).state == "finished"


@pytest.mark.parametrize("key", ["e", "none", "ollama", "EMPTY"])
def test_a_placeholder_for_a_key_damages_no_reply(
    harness: GenerationHarness, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    harness.server.key = key
    monkeypatch.setenv("OPENAI_API_KEY", key)
    harness.write("one.txt", f"The {key} of the village was painted red by its people in the spring.")
    outcome = harness.run(total_examples=3, num_examples_per_file=1)
    assert outcome.state == "finished"
    assert outcome.result["rejected"] == 0
    assert f"The {key} of the village" in harness.output.read_text()
    assert "[key]" not in harness.output.read_text()
    assert "[key]" not in "".join(reply for (reply,) in harness.rows("SELECT reply FROM attempts"))


@pytest.mark.parametrize("reply", ["Q" + " " * 200_000, "*" * 200_000, "Q 1" + "*" * 200_000, "1." + "\n" * 200_000])
def test_a_reply_of_blanks_and_stars_is_read_at_once(reply: str) -> None:
    began = time.process_time()
    with pytest.raises(MalformedReply):
        parse_pairs(reply)
    assert time.process_time() - began < 4  # 0.1 s here; tried from every place it took minutes
