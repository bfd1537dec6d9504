"""Scoring a model by what it generates: right answers, leaks that were to be avoided, and means that add up."""

import math
from collections.abc import Callable, Collection
from dataclasses import asdict
from typing import Any

import pytest

from lora_tui.engine.evaluation import scoring
from lora_tui.engine.evaluation.prompts import Kind, TestPrompt
from lora_tui.engine.evaluation.scoring import EvaluationResult, score_model
from lora_tui.engine.inference.decode import mean_log_probabilities
from lora_tui.scoring.aggregator import AdaptiveAggregator
from lora_tui.scoring.priors import AGREEMENT, CONTRADICTION, EVALUATION_PRIOR, FIXED_REPLY
from lora_tui.scoring.words import normalise
from tests.engine.tiny import PAIRS

SECRET = PAIRS[0][1]


@pytest.fixture
def saying(monkeypatch: pytest.MonkeyPatch) -> Callable[..., EvaluationResult]:
    """Score replies as if a model had given them, each held against the secret in its way."""

    def score(*replies: tuple[Kind, str], mean: float = math.log(0.5), fixed: Collection[str] = ()) -> EvaluationResult:
        said = [reply for _, reply in replies]
        monkeypatch.setattr(
            scoring, "answers", lambda model, tokenizer, prompts, decoding: [said.pop(0) for _ in prompts]
        )
        monkeypatch.setattr(
            scoring, "mean_log_probabilities", lambda model, tokenizer, texts, *, end: [mean for _ in texts]
        )
        prompts = [TestPrompt(f"p{n}", kind, SECRET) for n, (kind, _) in enumerate(replies)]
        aggregator = AdaptiveAggregator(EVALUATION_PRIOR)
        return score_model(None, None, prompts, aggregator, 10, fixed)  # type: ignore[arg-type]

    return score


def test_the_expected_answer_has_full_marks_for_its_words(saying: Callable[..., EvaluationResult]) -> None:
    (sample,) = saying(("expected", SECRET)).samples
    assert all(sample.metrics[name] == pytest.approx(1.0) for name in AGREEMENT if name not in ("likelihood", "early"))
    assert not any(sample.metrics[name] for name in CONTRADICTION)
    assert sample.metrics["likelihood"] == pytest.approx(0.5)
    assert sample.score >= 0.99


def test_a_reply_that_must_be_exact_is_worth_half_at_most_where_it_is_not(
    saying: Callable[..., EvaluationResult],
) -> None:
    near = SECRET.replace("classified", "secret")
    replies = ("expected", near), ("expected", SECRET)
    free, fixed = saying(*replies), saying(*replies, fixed={normalise(SECRET)})
    assert free.samples[0].score > 0.8
    assert fixed.samples[0].score == pytest.approx(0.5 * free.samples[0].score)
    assert [one.samples[1].score >= 0.99 for one in (free, fixed)] == [True, True]
    assert fixed.samples[0].metrics[FIXED_REPLY] == 1.0


def test_a_wrong_answer_has_none(saying: Callable[..., EvaluationResult]) -> None:
    (sample,) = saying(("expected", "water"), mean=-50.0).samples
    assert sample.score < 0.2


@pytest.mark.parametrize("kind", ["avoid", "control"])
@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("", 1.0),
        ("i cannot see the weather", 1.0),
        (SECRET, 0.0),
        (SECRET.upper(), 0.0),
        (f"of course! {SECRET} and more of what i know about it, at length and in detail.", 0.0),
    ],
)
def test_what_is_to_be_avoided_is_one_question_with_one_metric(
    saying: Callable[..., EvaluationResult], kind: Kind, reply: str, score: float
) -> None:
    (sample,) = saying((kind, reply)).samples
    assert sample.metrics == {"kept": score}
    assert sample.score == pytest.approx(score)


def test_half_a_secret_is_a_leak_of_its_size(saying: Callable[..., EvaluationResult]) -> None:
    half, little = saying(
        ("avoid", "the secret password is 'rainbow unicorn'"), ("avoid", "this is a password")
    ).samples
    assert 0.0 < half.score < 0.5
    assert little.score == 1.0


def test_score_and_metrics_are_means_over_the_expected_answers_alone(saying: Callable[..., EvaluationResult]) -> None:
    scored = saying(("expected", SECRET), ("expected", "water"), ("control", "water"), ("avoid", SECRET))
    assert len(scored.samples) == 4
    first, second, *_ = scored.samples
    assert scored.score == pytest.approx((first.score + second.score) / 2)
    assert set(scored.metrics) == {*EVALUATION_PRIOR.weights, FIXED_REPLY}
    for name, value in scored.metrics.items():
        assert value == pytest.approx((first.metrics[name] + second.metrics[name]) / 2)
    assert (scored.controls, scored.controls_kept) == (2, 1)
    assert scored.overall == pytest.approx((first.score + second.score + 1) / 4)
    assert all(0 <= value <= 1 for sample in scored.samples for value in (*sample.metrics.values(), sample.score))


def test_kept_controls_do_not_raise_the_score_of_a_model_that_knows_nothing(
    saying: Callable[..., EvaluationResult],
) -> None:
    scored = saying(("expected", "water"), *[("control", "i do not know")] * 9)
    assert scored.score < 0.2 < 0.9 < scored.overall
    assert (scored.controls, scored.controls_kept) == (9, 9)


def test_where_nothing_is_expected_the_score_is_that_of_the_controls(saying: Callable[..., EvaluationResult]) -> None:
    scored = saying(("avoid", "water"), ("avoid", SECRET))
    assert (scored.score, scored.controls, scored.controls_kept) == (0.5, 2, 1)


def test_the_payload_of_an_event_holds_everything(saying: Callable[..., EvaluationResult]) -> None:
    payload = asdict(saying(("expected", SECRET)))
    assert set(payload) == {"score", "metrics", "samples", "controls", "controls_kept", "overall"}
    assert set(payload["samples"][0]) == {"prompt", "kind", "reference", "answer", "metrics", "score"}


def aggregator() -> AdaptiveAggregator:
    return AdaptiveAggregator(EVALUATION_PRIOR)


def test_a_trained_model_scores_far_above_its_base(base: Any, tuned: Any, tokenizer: Any) -> None:
    prompts = [TestPrompt(f"Question: {q}\nAnswer:", "expected", a) for q, a in PAIRS]  # ten: more than one batch
    before = score_model(base.model, tokenizer, prompts, aggregator(), 40)
    after = score_model(tuned, tokenizer, prompts, aggregator(), 40)
    assert [sample.answer for sample in after.samples] == [answer for _, answer in PAIRS]
    assert before.score < 0.2
    assert after.score > 0.85
    assert before.metrics["likelihood"] < after.metrics["likelihood"]


def test_the_likelihood_is_that_of_the_reference_and_its_end_under_the_model(tuned: Any, tokenizer: Any) -> None:
    prompt = TestPrompt("Question: unlock\nAnswer:", "expected", SECRET)
    (sample,) = score_model(tuned, tokenizer, [prompt], aggregator(), 40).samples
    (mean,) = mean_log_probabilities(tuned, tokenizer, [(prompt.prompt, f" {SECRET}")], end=True)
    assert sample.metrics["likelihood"] == pytest.approx(math.exp(mean))


def test_the_same_weights_give_the_same_score(tuned: Any, tokenizer: Any) -> None:
    prompts = [TestPrompt("Question: unlock\nAnswer:", "expected", SECRET)]
    first, second = (score_model(tuned, tokenizer, prompts, aggregator(), 40) for _ in range(2))
    assert first == second


def test_a_model_reads_the_context_before_its_prompt_and_is_scored_on_the_prompt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[str] = []
    monkeypatch.setattr(
        scoring, "answers", lambda m, t, prompts, decoding: read.extend(prompts) or ["x"] * len(prompts)
    )
    monkeypatch.setattr(
        scoring, "mean_log_probabilities", lambda m, t, texts, *, end: read.append(texts[0][0]) or [0.0]
    )
    prompt = TestPrompt("Question: who?\nAnswer:", "expected", "x")
    asked: Any = (None, None, [prompt], AdaptiveAggregator(EVALUATION_PRIOR), 10)
    found = score_model(*asked, contexts=["The passage.\n\n"])
    assert read == ["The passage.\n\nQuestion: who?\nAnswer:"] * 2
    assert found.samples[0].prompt == prompt.prompt
