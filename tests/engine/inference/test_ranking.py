"""Scores of continuations that share a text are those of each text by itself."""

from typing import Any

import pytest

from lora_tui.engine.inference import ranking
from lora_tui.engine.inference.decode import mean_log_probabilities
from lora_tui.engine.inference.fast_model import fast_form
from lora_tui.engine.inference.ranking import read_text, score_continuations
from tests.engine.tiny import make_model, make_tokenizer

PASSAGE, QUESTION = "What do cows drink? Water.\n\n", "Question: what do cows drink?\nAnswer:"
ANSWERS = [" water", " a very long answer that fills the row", " x"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer()


@pytest.mark.parametrize("batch", [1, 2, 16])
def test_a_shared_text_changes_no_score(tokenizer: Any, batch: int) -> None:
    model = make_model(tokenizer).eval()
    plain = mean_log_probabilities(model, tokenizer, [(PASSAGE + QUESTION, answer) for answer in ANSWERS])
    asked = read_text(model, tokenizer, QUESTION, after=read_text(model, tokenizer, PASSAGE))
    scores = score_continuations(model, tokenizer, asked, ANSWERS, batch)
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
    first = score_continuations(model, tokenizer, text, ANSWERS)
    assert score_continuations(model, tokenizer, text, ANSWERS) == first
    assert text.layers[0][0].shape[-2] == text.tokens


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
    assert text.form is not None
    asked = read_text(model, tokenizer, QUESTION, after=text)
    score_continuations(model, tokenizer, asked, ANSWERS, 1)
    assert looks == [1]
