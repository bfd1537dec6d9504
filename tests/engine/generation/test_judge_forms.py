"""A judge that cannot do what is asked for is asked for less, and one that decides by chance is not asked at all."""

import json
import re

import pytest

from lora_tui.engine.generation.client.wire import ChatReply
from lora_tui.engine.generation.remote_judge import _CONTRASTS
from lora_tui.engine.generation.remote_writer import TRIAL
from lora_tui.engine.generation.replies import MalformedReply, read_yes_or_no
from lora_tui.engine.generation.reply_forms import JUDGE_FORMS
from lora_tui.store.rows import AttemptEnd
from tests.engine.generation.generation_harness import GenerationHarness

DOTS = dict.fromkeys(("evidence", "question", "answer", "topic"), "...")


def modes(harness: GenerationHarness) -> set[str]:
    return {detail.split(":")[0] for (detail,) in harness.rows("SELECT detail FROM pair_metrics WHERE detail != ''")}


def warnings(harness: GenerationHarness) -> list[str]:
    return [event["message"] for event in harness.events("warning") if "as the judge" in event["message"]]


def weak_writer(harness: GenerationHarness) -> None:
    harness.server.pair_of = lambda passage, n: DOTS


def judging(prompt: str) -> bool:
    """Judge as a sensible model would: is the answer, word for word, in the passage?"""
    passage, pair = re.findall(r"BEGIN \w+ \w+\n(.*?)\nEND", prompt, re.DOTALL)
    words = set(re.findall(r"\w+", pair.partition("Answer: ")[2].casefold())) - set(
        "it is was opened because large".split()
    )
    asked = pair.partition("Answer:")[0]
    return words <= set(re.findall(r"\w+", passage.casefold())) and not (
        ("Norway" in pair and "Who" in asked) or ("white" in pair and "How large" in asked)
    )


def test_the_sound_pairs_are_in_the_passage_and_the_wrong_ones_are_not_its_answers() -> None:
    for question, right, wrong in _CONTRASTS:
        for answer, sound in ((right, True), (wrong, False)):
            prompt = f"BEGIN PASSAGE x\n{TRIAL.passage}\nEND\nBEGIN PAIR x\nQuestion: {question}\nAnswer: {answer}\nEND"
            assert judging(prompt) == sound


def test_a_weak_models_judge_that_rates_all_alike_is_not_asked(harness: GenerationHarness) -> None:
    weak_writer(harness)
    harness.server.digits = lambda prompt: "Yes." if "Yes or no" in prompt else "5 5 5"
    outcome = harness.run(total_examples=6)
    assert (outcome.state, outcome.result["accepted"]) == ("finished", 6)
    assert modes(harness) == {"gates"}
    assert harness.server.count("judge") <= 2 + 2 + 6, "two calls a form, three dimensions of yes and no"
    assert "no lower than" in warnings(harness)[0]
    assert "nothing: the program's gates" in warnings(harness)[-1]
    reason = harness.value("SELECT reason FROM pairs WHERE state='accepted'")
    assert reason.endswith("; no model judged it")
    harness.server.received.clear()
    harness.run(total_examples=6)
    assert harness.server.count("judge") == 0, "it is remembered"


def test_a_weak_models_judge_that_knows_right_from_wrong_is_asked(harness: GenerationHarness) -> None:
    weak_writer(harness)
    harness.server.digits = lambda prompt: "5 5 4" if judging(prompt) else "1 2 3"
    harness.run(total_examples=6)
    assert modes(harness) == {"logprob"}
    assert warnings(harness) == []


def test_a_weak_models_judge_may_know_it_in_words_only(harness: GenerationHarness) -> None:
    weak_writer(harness)
    harness.server.logprobs = False
    harness.server.digits = lambda prompt: ("yes" if judging(prompt) else "No.") if "Yes or no" in prompt else "3 3 3"
    outcome = harness.run(total_examples=4)
    assert outcome.result["accepted"] == 4
    assert modes(harness) == {"yes/no"}


def test_a_judge_that_writes_no_digits_gives_levels_in_json(harness: GenerationHarness) -> None:
    levels = json.dumps({"groundedness": "5", "correctness": "5", "usefulness": "4"})
    harness.server.digits = lambda prompt: levels if prompt.endswith("The JSON object:") else "This is a fine pair."
    outcome = harness.run(total_examples=6, max_concurrency=1)
    assert (outcome.state, outcome.result["accepted"]) == ("finished", 6)
    bodies = [one.body for one in harness.server.received if one.kind == "judge"]
    digits = sum("response_format" not in body for body in bodies)
    assert 4 <= digits <= 6, "two judgements with a second try each, perhaps one more that was under way"
    assert bodies[-1]["response_format"]["json_schema"]["schema"]["required"][0] == "groundedness"
    assert "could not be read" in warnings(harness)[0]


def test_a_judge_that_says_nothing_of_use_is_done_without(harness: GenerationHarness) -> None:
    harness.server.digits = lambda prompt: "As I said."
    outcome = harness.run(total_examples=6, max_concurrency=1)
    assert (outcome.state, outcome.result["accepted"]) == ("finished", 6)
    assert len(warnings(harness)) == len(JUDGE_FORMS) - 1
    assert modes(harness) == {"gates"}


def reply(text: str, *candidates: dict[str, float]) -> ChatReply:
    tokens = tuple((token, candidate) for token, candidate in zip(text.split(), candidates, strict=False))
    return ChatReply(1, text, "stop", "", tokens, AttemptEnd("ok"))


@pytest.mark.parametrize(
    ("text", "candidates", "expected"),
    [
        ("Yes", [], 1.0),
        (" no.", [], 0.0),
        ("<think>no</think>**Yes**, it is", [], 1.0),
        ("yes", [{"yes": -0.2231435, " No": -1.6094379, "maybe": -3.0}], 0.8),
    ],
)
def test_yes_and_no_are_read_with_their_probability(
    text: str, candidates: list[dict[str, float]], expected: float
) -> None:
    assert read_yes_or_no(reply(text, *candidates)) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "yesterday", "5 5 5", "I think yes"])
def test_what_is_neither_yes_nor_no_is_malformed(text: str) -> None:
    with pytest.raises(MalformedReply):
        read_yes_or_no(reply(text))
