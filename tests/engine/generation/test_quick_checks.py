"""Quick checks before thorough ones: they leave out what would find nothing, and change nothing that is found."""

import asyncio
import gc
import random
import re
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_tui import secrets
from lora_tui.engine.generation import (
    claims,
    focus,
    injection,
    number_reading,
    question_types,
    quotations,
    remote_calls,
    stated_numbers,
)
from lora_tui.engine.generation.stated_numbers import wrong_number
from lora_tui.engine.generation.task_queue import TaskQueue
from lora_tui.engine.runtime import interpreter
from lora_tui.scoring import metrics, words
from lora_tui.scoring.words import tokens
from lora_tui.store.rows import TaskRow
from tests.engine.generation.test_labelled_pairs import DATA

PAIRS = DATA["pairs"]
PASSAGES = {name: one["text"] for name, one in DATA["passages"].items()}
TEXTS = [*PASSAGES.values(), *(pair[part] for pair in PAIRS for part in ("question", "answer", "evidence"))]


def test_what_stands_in_a_passage_word_for_word_is_read_there_too() -> None:
    rng = random.Random(1)
    found = 0
    for passage in PASSAGES.values():
        pieces = passage.split()
        for _ in range(60):
            first = rng.randrange(len(pieces))
            cut = " ".join(pieces[first : first + rng.randint(1, 12)])
            for piece in (cut, cut[rng.randint(0, 2) : len(cut) - rng.randint(0, 2)]):
                if quotations._stands_there(piece, passage):
                    found += 1
                    assert quotations._occurs(piece, passage, quotations._plain), piece
    assert found > 100


def test_an_answer_without_a_number_word_or_a_digit_states_none() -> None:
    quiet = [text for text in TEXTS if not stated_numbers._may_state(text)]
    assert len(quiet) > 300
    for text in quiet:
        assert not number_reading.written(text) | {value for value, _ in number_reading.counted(text)}


def test_whatever_counts_as_code_has_a_sign_of_it() -> None:
    found = {match.group() for text in TEXTS for match in claims._CODE.finditer(text)}
    assert len(found) > 100
    assert [code for code in found if not claims._SIGN_OF_CODE.search(code)] == []


def test_words_are_cut_by_the_quick_way_as_by_the_thorough_one() -> None:
    for text in (*TEXTS, "a. b, c.. d.e. it's, U.S. no., x.,"):
        folded = text.lower() if text.isascii() else words._folded(text)
        parts = folded.translate(words._TABLE).split()
        assert tokens(text) == [token for part in parts for token in words._tokens_of_part(part)]


def test_a_question_has_the_type_that_the_rules_find_one_by_one() -> None:
    for pair in PAIRS:
        for question in (pair["question"], pair["question"].upper(), f"What is {pair['answer'][:30]}?"):
            text = " ".join(question.split())
            plain = next((name for name, rule in question_types._RULES if rule.search(text)), None)
            if plain is not None:
                assert question_types.question_type_of(question) == plain


def test_a_long_name_does_not_keep_the_rules_busy() -> None:
    name = "What is the " + "a" * 4000 + " ?"  # halving a word in every way took longer than anybody waits
    assert question_types.question_type_of(name) == "fact"


def test_signs_of_words_to_a_model_are_counted_as_by_all_expressions(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = [injection._suspicious(text) for text in TEXTS]
    monkeypatch.setattr(injection, "_SIGN_WORDS", ((frozenset(), injection.ENOUGH),))
    assert quick == [injection._suspicious(text) for text in TEXTS]
    assert any(quick)


@settings(max_examples=4, deadline=None, database=None, derandomize=True)
@given(data=st.data())
def test_every_form_of_a_key_has_one_of_the_signs(data: st.DataObject) -> None:
    for _, *forms in secrets._FORMS:
        for form in filter(None, forms):
            key = data.draw(st.from_regex(re.compile(form, re.ASCII)))
            assert secrets._may_have_form(key), form
            assert secrets._may_have_form(key.swapcase())


def test_sentences_are_quoted_as_often_as_their_words_say() -> None:
    def plain(sentence: str, quoted: list[str]) -> int:
        said, times = set(tokens(sentence)), 0
        for quotation in quoted:
            theirs = set(tokens(quotation))
            times += bool(theirs) and len(said & theirs) >= 0.6 * min(len(said), len(theirs))
        return times

    rng = random.Random(2)
    for passage in PASSAGES.values():
        found = focus._sentences_of(passage)
        quoted = [rng.choice(found)[: rng.randint(5, 200)] for _ in range(4)] if found else []
        quoted += ["", "nothing of it", *(pair["evidence"] for pair in rng.sample(PAIRS, 3))]
        assert list(focus._times_quoted(passage, quoted)) == [plain(one, quoted) for one in found]


def test_a_stem_begins_as_its_word_does() -> None:
    said = {word for text in TEXTS for word in metrics._said_in(text)[0]} | {"dying", "skies", "ies", "innings", "y"}
    assert len(said) > 1500
    assert [word for word in said if metrics.porter_stem(word)[:1] != word[:1]] == []


def test_those_who_have_an_answer_take_turns_with_everything_else() -> None:
    async def story() -> list[str]:
        done: list[str] = []
        turns = remote_calls._Turns()

        async def answered(number: int) -> None:
            await turns.take()
            done.append(f"answer {number}")

        async def leave() -> None:
            for number in range(3):
                done.append(f"request {number}")
                await asyncio.sleep(0)

        waiting = [asyncio.create_task(answered(number)) for number in range(5)]
        await asyncio.sleep(0)
        waiting[3].cancel()
        await asyncio.gather(leave(), *waiting, return_exceptions=True)
        return done

    done = asyncio.run(story())
    assert [one for one in done if one.startswith("answer")] == [f"answer {number}" for number in (0, 1, 2, 4)]
    assert done.index("request 2") < done.index("answer 2")


def test_the_interpreters_settings_come_back() -> None:
    before = sys.getswitchinterval(), gc.get_threshold()
    interpreter.begin_many_calls()
    interpreter.begin_many_calls()
    interpreter.end_many_calls()
    assert sys.getswitchinterval() < before[0]
    assert gc.get_threshold()[0] > before[1][0]
    interpreter.end_many_calls()
    assert (sys.getswitchinterval(), gc.get_threshold()) == before


def test_tasks_that_are_handed_over_come_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stored: list[TaskRow] = []

    async def pending(store: object, run_id: int, kind: str, limit: int, after: int = 0) -> list[TaskRow]:
        return [task for task in stored if task.id > after][:limit]

    def task(number: int) -> TaskRow:
        stored.append(TaskRow(number, "judge", str(number), None, number, 1, "", {}))
        return stored[-1]

    monkeypatch.setattr("lora_tui.store.tasks.pending_tasks", pending)

    async def story() -> None:
        queue = TaskQueue(None, 1)  # type: ignore[arg-type]  # what it asks the store is above
        early = task(1)
        queue.hand_over("judge", [early])  # nothing was read yet: it comes with the page
        assert await queue.take("judge", 9) == [early]
        queue.hand_over("judge", [early])  # it came with the page
        later = [task(2), task(3)]
        queue.hand_over("judge", later[1:])
        queue.hand_over("judge", later[:1])  # in whatever order
        assert await queue.take("judge", 9) == later[::-1]
        queue.read_anew({2})
        queue.hand_over("judge", [task(4)])
        assert [one.id for one in await queue.take("judge", 9)] == [1, 3, 4]

    asyncio.run(story())


@pytest.mark.parametrize(
    "evidence",
    [
        "Model z00 is for each of the persons, 7 in all.",
        f"Every box for persons holds {'1' * 5000} cats.",
        "Each of the persons has " + "1," * 6000 + " of them.",
    ],
)
def test_numbers_that_are_no_amounts_are_not_reckoned_with(evidence: str) -> None:
    assert wrong_number("They get 5 of these.", evidence, f"How many for 20 persons each, or {'2' * 5000}?") == "5"
