"""Questions in other words: which passes read them, what stays of them, and that a resumed run reads the same."""

from lora_tui.engine.data.examples import Example, PlainText, QuestionAnswer
from lora_tui.engine.data.other_wordings import other_wordings
from lora_tui.engine.data.reworded import EVERYDAY, reads_as_written, reworded

FACT = QuestionAnswer("Who designed the old funicular of Marn?", "The funicular was designed by Ilse Torvald.", "f:1")


def question(example: Example) -> str:
    assert isinstance(example, QuestionAnswer)
    return example.question


def test_the_share_of_the_passes_is_exact_and_evenly_spread() -> None:
    for index in range(7):
        kept = [reads_as_written(index, epoch, 0.75) for epoch in range(16)]
        assert sum(kept) == 4
        assert all(sum(kept[start : start + 4]) == 1 for start in range(13))
    assert all(reads_as_written(index, epoch, 0.0) for index in range(5) for epoch in range(9))


def test_at_every_pass_some_examples_are_read_as_written() -> None:
    assert [sum(reads_as_written(index, epoch, 0.75) for index in range(40)) for epoch in range(5)] == [10] * 5


def test_words_are_left_out_moved_or_taken_from_the_answer_and_the_answer_stays() -> None:
    wordings = other_wordings(FACT.question, FACT.answer)
    known = set(f"{FACT.question} {FACT.answer} {' '.join(wordings)}".replace("?", "").replace(".", "").split())
    seen = set()
    for epoch in range(60):
        changed = reworded(FACT, 0, epoch, 42)
        assert isinstance(changed, QuestionAnswer)
        assert (changed.answer, changed.source) == (FACT.answer, FACT.source)
        words = changed.question.removesuffix("?").split()
        assert changed.question.endswith("?")
        assert 2 <= len(words) <= max(len(one.split()) for one in wordings)
        assert any(len(word) > 3 for word in words)
        assert set(words) <= known
        seen.add(changed.question)
    assert len(seen) > 40
    assert f"{wordings[0]}?" in seen


def test_the_question_word_stays_first_and_nobody_asks_with_the_names_of_the_answer() -> None:
    words = set[str]()
    for epoch in range(60):
        read = question(reworded(FACT, 0, epoch, 42)).removesuffix("?").split()
        assert read[0] in ("Who", "Which", "What", "By")
        words.update(read)
    assert "funicular" in words
    assert not {"Ilse", "Torvald"} & words


def test_a_pass_reads_the_same_after_a_resumption_and_another_seed_reads_otherwise() -> None:
    once = [question(reworded(FACT, 3, epoch, 42)) for epoch in range(20)]
    assert once == [question(reworded(FACT, 3, epoch, 42)) for epoch in range(20)]
    assert once != [question(reworded(FACT, 3, epoch, 43)) for epoch in range(20)]
    assert once != [question(reworded(FACT, 4, epoch, 42)) for epoch in range(20)]


def test_what_cannot_be_reworded_is_left_as_it_is() -> None:
    for example in (
        QuestionAnswer("Why now?", "Because.", "f"),
        QuestionAnswer("何が駅の下にありますか？", "梨のワインです。", "f"),
        QuestionAnswer("word " * 61, "long", "f"),
        QuestionAnswer("What is the capital of Spain?", "Madrid.", EVERYDAY),
        PlainText("Once upon a time there was a mill.", "f"),
    ):
        assert reworded(example, 0, 1, 42) is example
