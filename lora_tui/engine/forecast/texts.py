"""Forecast of the texts beside the pairs: calls and tokens, if every pair and every text is accepted.

Apart from `generation`, which adds them to those of the pairs. A document is taken to be as long as its passage, a
summary a third of it, a conversation as long as the passage again; a wording is as long as a pair.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lora_tui.config.generation import DataGeneration
from lora_tui.engine.data.survey import estimate_tokens
from lora_tui.engine.generation.generation_model import KnownPair, ProposedPair, TextRequest
from lora_tui.engine.generation.planner import TOKENS_PER_PAIR
from lora_tui.engine.generation.prompts import Message
from lora_tui.engine.generation.texts.text_plan import PHRASING, wanted_texts
from lora_tui.engine.generation.texts.text_prompts import TextPrompts
from lora_tui.engine.models.builtin import BUILTIN

_LENGTHS = {"rewrite": 1.0, "summary": 1 / 3, "dialogue": 1.0}
"""Length of each form, in passages."""

_QUESTION_TOKENS, _PAIR_TOKENS, _JUDGEMENT_TOKENS = 20, 100, 6
_QUESTIONS = 2
"""Questions that a text is written around, where passages have a few pairs each."""


@dataclass(frozen=True, slots=True)
class TextForecast:
    """Calls that write and judge texts, and their tokens."""

    write_calls: int = 0
    judge_calls: int = 0
    sent: float = 0.0
    written: float = 0.0


def forecast_texts(data: DataGeneration, passage: float) -> TextForecast:
    """Return what the texts of a run take; `passage` is the tokens of a passage. The built-in model's are by rule."""
    wanted = wanted_texts(data, data.total_examples)
    writing, judging = 0, 0
    sent = written = 0.0
    prompts = TextPrompts("-")
    pair = KnownPair(0, "", "", "")
    judge_prompt = prompt_tokens(prompts.judge("", ProposedPair("", "", "", "")))
    for form, number in wanted.items():
        request = TextRequest(form, "", "a topic", (pair,), 0, max(1, data.mix.phrasings))
        prompt = prompt_tokens(prompts.write(request)) + passage
        if form == PHRASING:
            calls, prompt = data.total_examples, prompt + _PAIR_TOKENS
            length = float(min(TOKENS_PER_PAIR, _PAIR_TOKENS + 50))
        else:
            calls, prompt = number, prompt + _QUESTIONS * _QUESTION_TOKENS
            length = _LENGTHS[form] * passage
        writing, judging = writing + calls, judging + number
        sent += calls * prompt + number * (judge_prompt + passage + length)
        written += number * (length + min(data.evaluation.max_tokens, _JUDGEMENT_TOKENS))
    if data.model == BUILTIN:
        return TextForecast(writing, judging)
    return TextForecast(writing, judging, sent, written)


def prompt_tokens(messages: Sequence[Message]) -> int:
    """Return how many tokens a prompt has, about."""
    return sum(estimate_tokens(message["content"]) for message in messages)
