"""Which examples are held out: whole questions, the same ones every time, never too few and never most of them."""

import random

import pytest

from lora_tui.engine.data.examples import Conversation, Example, Message, PlainText, PromptCompletion, QuestionAnswer
from lora_tui.engine.data.holdout import MIN_HELD_OUT, draw_documents, draw_holdout, question_digest


def ask(question: str, answer: str = "a") -> QuestionAnswer:
    return QuestionAnswer(question, answer, "f")


def talk(*turns: str) -> Conversation:
    parts = [turn.partition(": ") for turn in turns]
    return Conversation(tuple(Message(role, text) for role, _, text in parts), "f")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ask("What is a bee?", "an insect"), ask("what is  a bee", "a fly")),
        (PromptCompletion("Translate: Biene", " bee", "f"), PromptCompletion("translate: biene\n", " wasp", "f")),
        (PromptCompletion("", "some text", "f"), PromptCompletion(" ", "Some text", "f")),
        (talk("system: be kind", "user: hi", "assistant: hello"), talk("user: Hi!", "assistant: hey", "user: more")),
        (PlainText("Some text.", "f"), PlainText("some\ntext", "g")),
        (ask("ﬁve?"), ask("five?")),
    ],
)
def test_examples_that_ask_the_same_are_one_question(one: Example, other: Example) -> None:
    assert question_digest(one) == question_digest(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ask("What is a bee?"), ask("What is a wasp?")),
        (ask("?"), ask("!")),
        (PromptCompletion("", "some text", "f"), PromptCompletion("", "other text", "f")),
        (PlainText("one text", "f"), PlainText("another text", "f")),
        (ask("in 1889"), ask("in 1890")),
    ],
)
def test_examples_that_ask_otherwise_are_two(one: Example, other: Example) -> None:
    assert question_digest(one) != question_digest(other)


def test_the_share_is_drawn() -> None:
    digests = [question_digest(ask(f"is {n} odd?")) for n in range(200)]
    found = draw_holdout(digests, 0.1, 42)
    assert len(found) == len(set(found)) == 20
    assert max(found) - min(found) > 100, "from the whole file"
    assert draw_holdout(digests, 0.0, 42) == []
    assert len(draw_holdout(digests, 0.5, 42)) == 100


def test_the_same_data_and_seed_divide_the_same_way_whatever_the_order_of_the_file() -> None:
    digests = [question_digest(ask(f"is {n} odd?")) for n in range(100)]
    wanted = {digests[index] for index in draw_holdout(digests, 0.1, 42)}
    random.Random(1).shuffle(digests)
    assert {digests[index] for index in draw_holdout(digests, 0.1, 42)} == wanted
    assert {digests[index] for index in draw_holdout(digests, 0.1, 43)} != wanted
    fewer = digests[1:]
    assert {fewer[index] for index in draw_holdout(fewer, 0.1, 42)} >= wanted - {digests[0]}


def test_a_question_is_never_on_both_sides() -> None:
    digests = [question_digest(ask(f"is {n // 3} odd?", str(n))) for n in range(90)]
    found = set(draw_holdout(digests, 0.2, 7))
    assert len(found) == 18
    outside = {digests[index] for index in range(90) if index not in found}
    assert not outside & {digests[index] for index in found}


def test_a_question_asked_too_often_to_be_held_out_stays() -> None:
    digests = [question_digest(ask("unlock"))] * 60 + [question_digest(ask(f"is {n} odd?")) for n in range(40)]
    for seed in range(20):
        found = draw_holdout(digests, 0.1, seed)
        assert len(found) == 10
        assert min(found) >= 60


@pytest.mark.parametrize(
    ("examples", "share", "held_out"),
    [
        (2 * MIN_HELD_OUT - 1, 0.5, 0),  # one side would have too few
        (2 * MIN_HELD_OUT, 0.01, MIN_HELD_OUT),
        (11, 0.5, 5),  # at least half is trained on
        (50, 0.02, MIN_HELD_OUT),
    ],
)
def test_few_examples_are_held_out_in_a_useful_number_or_not_at_all(examples: int, share: float, held_out: int) -> None:
    digests = [question_digest(ask(f"is {n} odd?")) for n in range(examples)]
    assert len(draw_holdout(digests, share, 42)) == held_out


def test_nothing_is_held_out_of_wordings_of_one_question() -> None:
    assert draw_holdout([question_digest(ask("unlock"))] * 40, 0.25, 42) == []


def on_documents(sizes: dict[str, int]) -> tuple[list[int], dict[int, str]]:
    """Digests of questions, so many about each document, and the document of each."""
    asked = [(question_digest(ask(f"{name}, {n}?")), name) for name, size in sizes.items() for n in range(size)]
    return [digest for digest, _ in asked], dict(asked)


def test_whole_documents_are_drawn_where_there_are_enough() -> None:
    digests, documents = on_documents({f"{n}.txt": 10 for n in range(20)})
    drawn = draw_documents(digests, documents, 0.1, 42)
    names = {documents[digests[index]] for index in drawn}
    assert (len(drawn), len(names)) == (20, 2)
    assert drawn == draw_documents(digests, documents, 0.1, 42)
    assert {documents[digests[index]] for index in draw_documents(digests, documents, 0.1, 43)} != names


def test_one_document_may_be_larger_than_the_share_but_not_than_a_quarter() -> None:
    digests, documents = on_documents({f"{n}.txt": 10 for n in range(6)})
    assert len(draw_documents(digests, documents, 0.1, 42)) == 10
    digests, documents = on_documents({"large.txt": 60, **{f"{n}.txt": 3 for n in range(5)}})
    assert "large.txt" not in {documents[digests[index]] for index in draw_documents(digests, documents, 0.1, 42)}


@pytest.mark.parametrize(
    "sizes", [{"a": 20, "b": 20, "c": 20, "d": 20}, {"a": 40, "b": 40, "c": 40, "d": 40, "e": 40, "": 250}]
)
def test_too_few_documents_or_too_few_examples_with_one_are_not_drawn(sizes: dict[str, int]) -> None:
    digests, documents = on_documents(sizes)
    known = {digest: name for digest, name in documents.items() if name}
    assert draw_documents(digests, known, 0.1, 42) == []
