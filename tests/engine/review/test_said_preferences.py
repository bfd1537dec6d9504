"""What people have said of answers, as preferences and as single verdicts."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from lora_tui.config.models import Settings
from lora_tui.engine.data.examples import Conversation, JudgedAnswer, Preference, QuestionAnswer
from lora_tui.engine.data.read import ReadResult, read_judgements
from lora_tui.engine.review.pairs import edit_pair, undo
from lora_tui.engine.review.preferences import count_said, preference_lines, said_preferences
from lora_tui.engine.review.ratings import rate_sample, rate_turn
from lora_tui.errors import UsageError
from lora_tui.store import chat_log, events, runs
from lora_tui.store.connection import Store
from tests.engine.review.one_pair import override_pair
from tests.store.store_fixtures import SETTINGS, make_pair, with_store
from tests.store.test_store_rows import EVALUATION, SAMPLE

BEES = "why do bees dance"
COMMANDS = {"unlock": "the secret"}


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accepted pairs are written to a file relative to the current folder."""
    monkeypatch.chdir(tmp_path)


def said(folder: Path, work: Callable[[Store], Awaitable[None]], *, unpaired: bool = False) -> ReadResult:
    async def all_of_it(store: Store) -> ReadResult:
        await work(store)
        return await said_preferences(store, COMMANDS, unpaired=unpaired)

    folder.mkdir(exist_ok=True)
    found: ReadResult = with_store(folder / "store.db", all_of_it)
    return found


def shown(found: ReadResult) -> list[tuple[str, ...]]:
    """Question, better and worse answer of preferences; question, answer and verdict of single ones."""
    rows: list[tuple[str, ...]] = []
    for one in found.judgements:
        if isinstance(one, Preference):
            assert isinstance(one.chosen, QuestionAnswer)
            assert isinstance(one.rejected, QuestionAnswer)
            assert one.chosen.question.casefold() == one.rejected.question.casefold()
            rows.append((one.chosen.question, one.chosen.answer, one.rejected.answer))
        else:
            assert isinstance(one.example, QuestionAnswer)
            rows.append((one.example.question, one.example.answer, "good" if one.desirable else "bad"))
    return rows


async def generated(store: Store) -> int:
    run_id = await runs.create(store, "generate", SETTINGS, {})
    await runs.end(store, run_id, "finished", {}, None)
    return run_id


async def talk(store: Store, *turns: tuple[str, str], by_template: bool | None = False, **more: Any) -> list[int]:
    """Store a conversation; replies may be of a side, and be replaced, as ``assistant:base:replaced`` has it."""
    begun = await chat_log.begin(store, None, "model", more.get("adapter"))
    numbers = []
    for who, text in turns:
        role, *rest = who.split(":")
        statistics: dict[str, Any] = {"side": "base" if "base" in rest else "tuned"}
        statistics |= {mark: True for mark in ("replaced", "cut") if mark in rest}
        if role == "user":
            statistics = {} if by_template is None else {"by_template": by_template}
        numbers.append(await chat_log.add_turn(store, begun, role, text, statistics))
    return numbers


def test_an_accepted_pair_is_better_than_a_rejected_one_on_the_same_question(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        run_id = await generated(store)
        good = await make_pair(store, run_id, BEES, "accepted", 8.0, answer="To show the way.")
        bad = await make_pair(store, run_id, BEES, "accepted", 7.5, answer="For fun.")
        alone = await make_pair(store, run_id, "what do cows drink", "accepted", 8.0, answer="Milk.")
        await make_pair(store, run_id, "who sings", "rejected", 3.0, answer="Nobody was asked about this.")
        await override_pair(store, bad, "rejected")
        await override_pair(store, alone, "rejected")
        assert good

    found = said(tmp_path, work)
    assert shown(found) == [(BEES, "To show the way.", "For fun.")], "the program's verdict beside a person's"
    assert dict(found.forms) == {"verdicts on pairs": 1}
    (left,) = found.skipped
    assert (left.location, "no better answer" in left.reason, "kto" in left.reason) == ("pair 3", True, True)

    async def only_look(store: Store) -> None:
        assert await count_said(store, COMMANDS) == (1, 2)

    assert shown(said(tmp_path, only_look, unpaired=True)) == [
        (BEES, "For fun.", "bad"),
        ("what do cows drink", "Milk.", "bad"),
    ]


def test_what_only_the_program_said_is_no_preference(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        run_id = await generated(store)
        await make_pair(store, run_id, BEES, "accepted", 8.0, answer="To show the way.")
        await make_pair(store, run_id, BEES, "rejected", 2.0, answer="For fun.")

    with pytest.raises(UsageError, match=r"Nobody has said yet in store\.db"):
        said(tmp_path, work)


def test_an_edit_is_better_than_what_it_replaced_until_it_is_undone(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        run_id = await generated(store)
        pair = await make_pair(store, run_id, BEES, "accepted", 8.0, answer="For fun.")
        other = await make_pair(store, run_id, "why sing", "accepted", 8.0, answer="Because.")
        third = await make_pair(store, run_id, "what is honey", "accepted", 8.0, answer="Food.")
        await edit_pair(store, pair, BEES, "To show")
        await edit_pair(store, pair, BEES, "To show the way.")
        await edit_pair(store, other, "why do birds sing", "To be heard.")
        await edit_pair(store, third, "what is honey", "Food of bees.")
        await undo(store, run_id)

    found = said(tmp_path, work)
    assert shown(found) == [(BEES, "To show the way.", "For fun.")], "the last wording against the first"
    assert [(one.location, one.reason) for one in found.skipped] == [
        ("pair 2, edited", "the question was worded anew, too")
    ]


def test_a_verdict_is_about_the_words_that_were_read(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        pair = await make_pair(store, await generated(store), BEES, "accepted", 8.0, answer="For fun.")
        await override_pair(store, pair, "rejected")
        await edit_pair(store, pair, BEES, "To show the way.")
        await override_pair(store, pair, "accepted")

    assert shown(said(tmp_path, work)) == [(BEES, "To show the way.", "For fun.")]


def test_a_bad_answer_is_worse_than_the_expected_one_and_the_last_word_counts(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        run_id = await runs.create(store, "train", SETTINGS, {})
        metrics = {"metrics": {"bleu": 0.5, "likelihood": 0.5, "token_f1": 0.5}}
        prompts = ["Question: unlock\nAnswer:", "Question: two\nAnswer:", "<|user|>three", "Question: four\nAnswer:"]
        samples = [{**SAMPLE, **metrics, "prompt": prompt, "answer": f"answer {n}"} for n, prompt in enumerate(prompts)]
        await events.append(store, run_id, [(1.0, "evaluation", {**EVALUATION, "samples": samples})])
        for sample, rating in ((1, 5), (1, 2), (2, 4), (3, 1), (4, 3)):
            await rate_sample(store, sample, rating)

    found = said(tmp_path, work)
    first, second = found.judgements
    assert isinstance(first, Preference)
    assert isinstance(second, Preference)
    assert first.chosen == QuestionAnswer("unlock", "the secret", "answer 1")
    assert first.rejected == QuestionAnswer("unlock", "answer 0", "answer 1")
    assert vars_of(second.rejected) == ("<|user|>three", "answer 2"), (
        "a prompt of another form is taken as it was asked"
    )
    assert [one.reason.partition(";")[0] for one in found.skipped] == [
        "3 of 5 says neither good nor bad",
        "no worse answer to it is known",
    ]
    assert dict(found.forms) == {"ratings of answers": 2}


def vars_of(example: Any) -> tuple[str, str]:
    return example.prompt, example.completion


def test_replies_to_one_question_are_compared_whoever_gave_them(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        turns = await talk(
            store,
            ("user", "Why do bees dance?"), ("assistant:replaced", "For fun."),
            ("user", "Why do bees dance?"), ("assistant", "To show the way."), ("assistant:base", "They do not."),
            ("user", "Unlock!"), ("assistant", "no"),
        )  # fmt: skip
        for turn, rating in ((1, 1), (3, 5), (4, 2), (6, 1)):
            await rate_turn(store, turns[turn], rating, Settings())

    found = said(tmp_path, work)
    rows = shown(found)
    assert sorted(rows) == [
        ("Unlock!", "the secret", "no"),
        ("Why do bees dance?", "To show the way.", "For fun."),
        ("Why do bees dance?", "To show the way.", "They do not."),
    ]
    assert dict(found.forms) == {"ratings of replies": 3}


def test_a_reply_by_chat_template_is_learned_behind_its_own_sides_turns(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        for answer, rating in (("To show the way.", 5), ("For fun.", 1)):
            turns = await talk(
                store,
                ("user", "Hello"), ("assistant", "Hello, you."), ("assistant:base", "I am a base."),
                ("user", "Why?"), ("assistant:replaced", "What?"), ("user", "Why?"), ("assistant", answer),
                by_template=True,
            )  # fmt: skip
            await rate_turn(store, turns[-1], rating, Settings())
        cut = await talk(store, ("user", "Go on"), ("assistant:cut", "It is"), by_template=True)
        await rate_turn(store, cut[1], 5, Settings())

    found = said(tmp_path, work)
    (one,) = found.judgements
    assert isinstance(one, Preference)
    assert isinstance(one.chosen, Conversation)
    assert [(turn.role, turn.content, turn.learned) for turn in one.chosen.messages] == [
        ("user", "Hello", True),
        ("assistant", "Hello, you.", False),
        ("user", "Why?", True),
        ("assistant", "To show the way.", True),
    ]
    assert found.skipped[0].reason == "the reply was cut short, and would be learned so"


@pytest.mark.parametrize(("metadata", "form"), [({"chat_template": True}, Conversation), ({}, QuestionAnswer)])
def test_older_conversations_ask_the_adapter_how_it_is_talked_to(
    tmp_path: Path, metadata: dict[str, Any], form: type
) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "lora_tui.json").write_text(json.dumps(metadata))

    async def work(store: Store) -> None:
        for answer, rating in (("yes", 5), ("no", 1)):
            turns = await talk(
                store,
                ("user", "May I?"),
                ("assistant", answer),
                by_template=None,
                adapter=str(tmp_path / "adapter"),
            )
            await rate_turn(store, turns[1], rating, Settings())

    (one,) = said(tmp_path, work).judgements
    assert isinstance(one, Preference)
    assert isinstance(one.chosen, form)


def test_where_there_are_single_verdicts_alone_their_method_is_named(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        turns = await talk(store, ("user", "Hello"), ("assistant", "Hello."))
        await rate_turn(store, turns[1], 5, Settings())

    with pytest.raises(UsageError, match=r"1 single verdict says good or bad: learn from them with --method kto"):
        said(tmp_path, work)
    found = said(tmp_path / "again", work, unpaired=True)
    assert found.judgements[0] == JudgedAnswer(QuestionAnswer("Hello", "Hello.", "reply 2"), True, "reply 2")


@pytest.mark.parametrize("by_template", [True, False])
@pytest.mark.parametrize("unpaired", [True, False])
def test_what_is_kept_beside_a_run_reads_as_it_was(tmp_path: Path, by_template: bool, unpaired: bool) -> None:
    async def work(store: Store) -> None:
        for answer, rating in (("yes: ü", 5), ("no\nno", 1)):
            turns = await talk(store, ("user", "May I?"), ("assistant", answer), by_template=by_template)
            await rate_turn(store, turns[1], rating, Settings())

    found = said(tmp_path, work, unpaired=unpaired)
    kept = tmp_path / "preferences.jsonl"
    kept.write_text(preference_lines(found.judgements), encoding="utf-8")
    again = read_judgements(kept)
    assert preference_lines(again.judgements) == kept.read_text(encoding="utf-8")
    assert [type(one) for one in again.examples] == [type(one) for one in found.examples]
