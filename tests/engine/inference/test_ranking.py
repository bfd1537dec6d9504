"""Scores of continuations that share a text are those of each text by itself."""

from typing import Any

import pytest

from lora_tui.engine.inference import ranking
from lora_tui.engine.inference.decode import mean_log_probabilities
from lora_tui.engine.inference.fast_model import fast_form
from lora_tui.engine.inference.ranking import read_text, read_texts, score_continuations
from tests.engine.tiny import make_model, make_tokenizer

PASSAGE, QUESTION = "What do cows drink? Water.\n\n", "Question: what do cows drink?\nAnswer:"
ANSWERS = [" water", " a very long answer that fills the row", " x"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer()


@pytest.mark.parametrize("rows", [1, 2, 16])
@pytest.mark.parametrize("fast", [True, False])
def test_a_shared_text_changes_no_score(tokenizer: Any, rows: int, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(tokenizer).eval()
    monkeypatch.setattr(ranking, "_ROWS", rows)
    monkeypatch.setattr(ranking, "_PADDED_ROWS", rows)
    if not fast:
        monkeypatch.setattr(ranking, "fast_form", lambda *_: None)
    plain = mean_log_probabilities(model, tokenizer, [(PASSAGE + QUESTION, answer) for answer in ANSWERS])
    asked = read_text(model, tokenizer, QUESTION, after=read_text(model, tokenizer, PASSAGE))
    (scores,) = score_continuations(model, tokenizer, [(asked, ANSWERS)])
    assert [score.mean for score in scores] == pytest.approx(plain, abs=1e-4)
    assert [score.tokens for score in scores] == [len(tokenizer(answer)["input_ids"]) for answer in ANSWERS]


def test_what_is_read_on_is_scored_too(tokenizer: Any) -> None:
    model = make_model(tokenizer).eval()
    (plain,) = mean_log_probabilities(model, tokenizer, [(PASSAGE, QUESTION)])
    asked = read_text(model, tokenizer, QUESTION, after=read_text(model, tokenizer, PASSAGE))
    assert asked.mean == pytest.approx(plain, abs=1e-4)


def test_the_text_that_was_read_stays_as_it_is(tokenizer: Any) -> None:
    model = make_model(tokenizer).eval()
    text = read_text(model, tokenizer, PASSAGE)
    first = score_continuations(model, tokenizer, [(text, ANSWERS)])
    assert score_continuations(model, tokenizer, [(text, ANSWERS)]) == first


def test_several_texts_are_read_and_scored_as_each_alone(tokenizer: Any) -> None:
    model = make_model(tokenizer).eval()
    passage = read_text(model, tokenizer, PASSAGE)
    begun = read_text(model, tokenizer, "Question", after=passage)
    questions = [": what is it?\nAnswer:", ": a\nAnswer:", ": who drinks the water of the cows?\nAnswer:"]
    asked = read_texts(model, tokenizer, questions, after=begun)
    scores = score_continuations(
        model, tokenizer, [(begun, [" x"]), (asked[0], ANSWERS), (asked[1], []), (asked[2], ANSWERS[1:])]
    )
    assert [len(own) for own in scores] == [1, 3, 0, 2]
    whole = [PASSAGE + "Question" + question for question in questions]
    for text, before in zip(asked, whole, strict=True):
        (mean,) = mean_log_probabilities(model, tokenizer, [(PASSAGE + "Question", before[len(PASSAGE) + 8 :])])
        assert text.mean == pytest.approx(mean, abs=1e-4)
    plain = mean_log_probabilities(model, tokenizer, [(whole[2], answer) for answer in ANSWERS[1:]])
    assert [score.mean for score in scores[3]] == pytest.approx(plain, abs=1e-4)
    plain = mean_log_probabilities(model, tokenizer, [(PASSAGE + "Question", " x")])
    assert [score.mean for score in scores[0]] == pytest.approx(plain, abs=1e-4)


def test_what_is_too_long_for_the_fast_form_goes_on_in_transformers(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(tokenizer).eval()
    asked = read_text(model, tokenizer, QUESTION, after=read_text(model, tokenizer, PASSAGE))
    whole = score_continuations(model, tokenizer, [(asked, ANSWERS)])[0]
    fast = fast_form(model, [[5]], 0)
    assert fast is not None
    for limit in (asked.tokens, asked.tokens + 2):
        monkeypatch.setattr(fast[0], "max_tokens", limit)
        found = score_continuations(model, tokenizer, [(asked, ANSWERS)])[0]
        assert [one.mean for one in found] == pytest.approx([one.mean for one in whole], abs=1e-4)
        longer = read_text(model, tokenizer, " who is it that drinks?", after=asked)
        assert isinstance(longer.kept, tuple)


def test_a_model_is_looked_through_once_for_what_follows_a_text(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(tokenizer).eval()
    looks: list[int] = []

    def counted(*arguments: Any) -> Any:
        looks.append(1)
        return fast_form(*arguments)

    monkeypatch.setattr(ranking, "fast_form", counted)
    text = read_text(model, tokenizer, PASSAGE)
    assert not isinstance(text.kept, tuple)
    asked = read_text(model, tokenizer, QUESTION, after=text)
    score_continuations(model, tokenizer, [(asked, ANSWERS)])
    assert looks == [1]
