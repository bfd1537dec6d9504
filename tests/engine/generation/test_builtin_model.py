"""The built-in model's side of generation, on a tiny random model: reading, scoring, handing out, judging."""

import asyncio
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_tui.engine.generation import builtin_model
from lora_tui.engine.generation.builtin_model import BuiltinModel
from lora_tui.engine.generation.diversity import opening_of, similarities
from lora_tui.engine.generation.generation_model import (
    UNSTEERED,
    CallFailed,
    CallStopped,
    PairRequest,
    Slot,
    Steering,
    UnrecordedCall,
)
from lora_tui.engine.models.base_model import BaseModel
from lora_tui.scoring.words import tokens
from tests.engine.generation.generation_harness import GenerationHarness
from tests.engine.tiny import make_model, make_tokenizer

PASSAGE = (
    "The line was opened on 3 May 1897 by the mayor of Brell. It is 412 metres long. Each car carries 24 passengers, "
    "and a single ticket costs 2.40 crowns. The wooden blocks are made of poplar."
)


@pytest.fixture(scope="module")
def base() -> BaseModel:
    tokenizer = make_tokenizer()
    return BaseModel(make_model(tokenizer).eval(), tokenizer, torch.device("cpu"), torch.float32, "builtin")


class Context:
    """As much of a run as the model needs."""

    def __init__(self) -> None:
        self.stop = threading.Event()

    async def in_torch_thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return work(*arguments)


def writer(base: BaseModel) -> BuiltinModel:
    return BuiltinModel(Context(), base)  # type: ignore[arg-type]


def request(count: int, question_type: str = "fact", avoid: tuple[str, ...] = ()) -> PairRequest:
    return PairRequest(PASSAGE, Slot("The line", question_type, "easy", "a beginner"), count, (), (), avoid)


async def until_exhausted(model: BuiltinModel, **asked: Any) -> list[Any]:
    pairs: list[Any] = []
    while found := (await model.propose(request(2, **asked), UnrecordedCall())).pairs:
        pairs += found
    return pairs


def test_every_fact_of_a_passage_is_proposed_once(base: BaseModel) -> None:
    pairs = asyncio.run(until_exhausted(writer(base)))
    questions = [pair.question for pair in pairs]
    assert len(set(questions)) == len(questions) >= 6
    assert len({(pair.evidence, pair.answer) for pair in pairs}) == len(pairs)
    assert {"How long is the line?", "How many passengers does each car carry?"} <= set(questions)
    assert all(pair.question_type for pair in pairs)
    assert "412 metres." in [pair.answer for pair in pairs]


def test_a_fact_that_two_passages_hold_is_proposed_once(base: BaseModel) -> None:
    async def story() -> list[str]:
        model, questions = writer(base), list[str]()
        for title in ("Prices", "The Tarrow Mill"):  # the second names the question in full
            passage = f"{title}\n\nA ticket costs two crowns."
            asked = replace(request(5), passage=passage)
            questions += [pair.question for pair in (await model.propose(asked, UnrecordedCall())).pairs]
        return questions

    assert asyncio.run(story()) == ["How much does a ticket cost?"]


def test_an_exhausted_passage_says_so(base: BaseModel) -> None:
    async def story() -> Any:
        model = writer(base)
        await until_exhausted(model)
        return await model.propose(request(1), UnrecordedCall())

    assert asyncio.run(story()).refused == ("the passage holds no further fact that can be asked for",)


def test_a_question_that_was_asked_before_is_not_proposed_again(base: BaseModel) -> None:
    pairs = asyncio.run(until_exhausted(writer(base), avoid=("How long is the line?",)))
    assert "How long is the line?" not in [pair.question for pair in pairs]


def test_the_judge_measures_the_same_after_a_resume(base: BaseModel) -> None:
    async def story(*, resumed: bool) -> list[float]:
        first = writer(base)
        pairs = await until_exhausted(first)
        judge = writer(base) if resumed else first
        judged = [await judge.judge(PASSAGE, pair, UnrecordedCall()) for pair in pairs]
        assert all(set(one.metrics) == {"judge_correctness", "judge_usefulness", "judge_probability"} for one in judged)
        return [one.metrics["judge_correctness"] for one in judged]

    assert asyncio.run(story(resumed=True)) == pytest.approx(asyncio.run(story(resumed=False)), abs=1e-4)


def test_a_stop_ends_a_call_without_pairs(base: BaseModel) -> None:
    async def story() -> None:
        model = writer(base)
        model._ctx.stop.set()
        await model.propose(request(1), UnrecordedCall())

    with pytest.raises(CallStopped):
        asyncio.run(story())


def test_a_statement_becomes_its_best_pair_or_fails(base: BaseModel) -> None:
    async def story() -> tuple[str, str]:
        model = writer(base)
        with pytest.raises(CallFailed, match="no form"):
            await model.pair_from_statement("whatever happens")
        return await model.pair_from_statement("the bridge was opened in 1912")

    question, answer = asyncio.run(story())
    assert (question, answer) == ("When was the bridge opened?", "In 1912.")


def test_a_run_with_the_builtin_model(
    harness: GenerationHarness, base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builtin_model, "load_base", lambda *arguments: base)
    for path in harness.input.rglob("*.*"):
        path.unlink()
    harness.write("line.txt", PASSAGE)
    outcome = harness.run(model="builtin", base_url="", total_examples=40, evaluation_threshold=0.1)
    assert (outcome.state, outcome.exit_status) == ("finished", 0)
    assert harness.events("note")[-1]["message"].startswith(f"done: {outcome.result['accepted']} of 40 found")
    assert outcome.result["commands"][0].endswith("--set fine_tuning.model_name=builtin")
    assert harness.server.received == []
    types = {
        question: json.loads(slot)["question_type"]
        for question, slot in harness.rows("SELECT question, slot FROM pairs")
    }
    assert types["How long is the line?"] == "fact"
    assert Path(outcome.result["output_file"]).read_text().count("Question: ") == outcome.result["accepted"] > 3


def test_documents_of_a_folder_are_asked_about_by_the_name_that_one_of_them_has(
    harness: GenerationHarness, base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builtin_model, "load_base", lambda *arguments: base)
    for path in harness.input.rglob("*.*"):
        path.unlink()
    harness.write("1.txt", "The Tarrow Mill\n\nThe mill was opened in 1812.")
    harness.write("2.txt", "Prices\n\nA ticket costs two crowns. The mill is closed in May, and the mill is dear.")
    harness.run(model="builtin", base_url="", total_examples=40, evaluation_threshold=0.01)
    assert "How much does a ticket cost at the Tarrow Mill?" in [
        q for (q,) in harness.rows("SELECT question FROM pairs")
    ]


def test_directives_reach_the_built_in_writer(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtin_model, "_GOOD", 0.0)  # the tiny model rates nothing as good

    def first(steering: Steering, *, question_type: str = "fact", avoid: tuple[str, ...] = ()) -> str:
        asked = replace(request(1, question_type, avoid), steering=steering)
        (pair,) = asyncio.run(writer(base).propose(asked, UnrecordedCall())).pairs
        return str(pair.question)

    plain = first(UNSTEERED)
    opening = opening_of(plain)
    other = first(Steering(openings=(opening,)))
    assert opening_of(other) != opening
    assert not set(tokens(first(Steering(words=("line", "car"))))) & {"line", "car"}
    assert first(UNSTEERED, avoid=(f"{other[:-1]} today?",)) == plain


def test_questions_that_resemble_each_other_come_last(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtin_model, "_GOOD", 0.0)

    async def rate(steering: Steering) -> float:
        model, questions = writer(base), list[str]()
        for _ in range(4):
            asked = replace(request(1), steering=steering)
            questions += [pair.question for pair in (await model.propose(asked, UnrecordedCall())).pairs]
        return float(similarities(questions).max(axis=1).mean())

    assert asyncio.run(rate(Steering())) <= asyncio.run(rate(UNSTEERED))
