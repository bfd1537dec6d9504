"""Prices of models in US dollars for a million tokens: as configured, else from a dated list of well-known providers.

The list is what providers were said to ask for without discounts on `LISTED_ON`; prices change, so wherever one is
shown that was taken from it, so is the date. `data_generation.prompt_price`, `completion_price` and `cached_price` take
its place as soon as one of the first two is set. Knows nothing of runs; the app and the engine count dollars with it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from lora_tui.config.addresses import OPENAI_URL, asked_models

if TYPE_CHECKING:
    from lora_tui.config.generation import DataGeneration

LISTED_ON = "2026-11-30"
"""The day on which the list was put together, from what providers and others had published."""

CONFIGURED, LISTED = "configured", f"list prices of {LISTED_ON}"

_OPENAI = """
gpt-6-astra 10 50 1          gpt-6-sol 2 10 0.2           gpt-6-luna 0.1 0.5 0.01      gpt-6.1-sol 2 10 0.1
gpt-6.1-terra 1 5 0.05       gpt-5.6 4 20 0.4             gpt-5.6-sol 4 20 0.4         gpt-5.6-terra 2 12 0.2
gpt-5.6-luna 0.2 1.2 0.02    gpt-5.5 5 30 0.5             gpt-5.4 2.5 15 0.25          gpt-5.4-mini 0.75 4.5 0.075
gpt-5.4-nano 0.2 1.25 0.02   gpt-5.2 1.75 14 0.175        gpt-5.1 1.25 10 0.125        gpt-5 1.25 10 0.125
gpt-5-mini 0.25 2 0.025      gpt-5-nano 0.05 0.4 0.005    gpt-4.1 2 8 0.5              gpt-4.1-mini 0.4 1.6 0.1
gpt-4.1-nano 0.1 0.4 0.025   gpt-4o 2.5 10 1.25           gpt-4o-mini 0.15 0.6 0.075   gpt-4-turbo 10 30 10
gpt-4 30 60 30               gpt-3.5-turbo 0.5 1.5 0.5    o3 2 8 0.5                   o3-mini 1.1 4.4 0.55
o4-mini 1.1 4.4 0.275        o1 15 60 7.5
"""
_ANTHROPIC = """
claude-haiku-4-5 1 5 0.1     claude-haiku-5-5 0.1 0.5 0.01   claude-sonnet-4-5 3 15 0.3   claude-sonnet-4-6 3 15 0.3
claude-sonnet-5 2 10 0.2     claude-sonnet-5-5 2 10 0.1      claude-opus-4-5 5 25 0.5     claude-opus-4-6 5 25 0.5
claude-opus-5 5 25 0.5       claude-opus-5-5 4 20 0.2
"""
_GOOGLE = """
gemini-2.5-pro 1.25 10 0.125        gemini-2.5-flash 0.3 2.5 0.03        gemini-2.5-flash-lite 0.1 0.4 0.01
gemini-3.1-flash-lite 0.25 1.5 0.025   gemini-3.5-flash-lite 0.3 2.5 0.03   gemini-3.5-flash 1.5 9 0.15
gemini-3.6-flash 0.75 3.75 0.075    gemini-3.7-flash 0.75 3.75 0.075     gemini-3.8-flash 0.75 3.75 0.075
gemini-flash-latest 0.75 3.75 0.075 gemini-flash-lite-latest 0.3 2.5 0.03  gemini-pro-latest 2 12 0.2
"""
_MISTRAL = """
mistral-large-latest 0.5 1.5 0.05   mistral-medium-latest 1.5 7.5 0.15   mistral-small-latest 0.15 0.6 0.015
ministral-3b-latest 0.1 0.1 0.01    ministral-8b-latest 0.15 0.15 0.015  ministral-14b-latest 0.2 0.2 0.02
open-mistral-nemo 0.3 0.3 0.03
"""
_DEEPSEEK = "deepseek-flash 0.3 1.2 0.006   deepseek-v4-flash 0.3 1.2 0.006   deepseek-v4-pro 1.32 3.96 0.044"
_GROQ = "openai/gpt-oss-120b 0.15 0.6 0.075   openai/gpt-oss-20b 0.075 0.3 0.0375"
_XAI = "grok-4.3 1.25 2.5 0.2   grok-4.5 2 6 0.3   grok-4.6 2 6 0.5   grok-4.7 2 6 0.5   grok-4.20 1.25 2.5 0.2"

_LISTS = {
    "api.openai.com": _OPENAI,
    "api.anthropic.com": _ANTHROPIC,
    "generativelanguage.googleapis.com": _GOOGLE,
    "api.mistral.ai": _MISTRAL,
    "api.deepseek.com": _DEEPSEEK,
    "api.groq.com": _GROQ,
    "api.x.ai": _XAI,
}
"""By host: model, and dollars for a million tokens sent, written, and sent but taken from the provider's cache."""

_DATED = re.compile(r"-(?:\d{4}-\d{2}-\d{2}|\d{8})$")
"""What providers hang on to a model's name for the version of a day, which costs as much."""


BATCHED, BATCH_SHARE = " (batch)", 0.5
"""What the name of a model ends in where it was asked in a batch, and what that costs of the price, at OpenAI."""


@dataclass(frozen=True, slots=True)
class Prices:
    """US dollars for a million tokens sent, written, and sent but cached by the server; 0 is unknown.

    `cached` is None where cached tokens count in full. `others` has models that cost something else, by name; `source`
    says where prices come from, `CONFIGURED` or `LISTED`.
    """

    prompt: float = 0.0
    completion: float = 0.0
    cached: float | None = None
    others: Mapping[str, "Prices"] = field(default_factory=dict)
    source: str = field(default="", compare=False)

    @property
    def known(self) -> bool:
        """Whether either price is set."""
        return self.prompt > 0 or self.completion > 0

    def cost(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0, model: str = "") -> float:
        """Return what these tokens of a model cost, in dollars; the cached ones are among those that were sent."""
        name = model.removesuffix(BATCHED)
        prices = self.others.get(name, self)
        cached = prices.prompt if prices.cached is None else prices.cached
        sent = (prompt_tokens - cached_tokens) * prices.prompt + cached_tokens * cached
        share = 1.0 if name == model else BATCH_SHARE
        return share * (sent + completion_tokens * prices.completion) / 1e6

    def highest_cost(self, tokens: int) -> float:
        """Return the most that tokens can cost, in dollars, whether they are sent or written, and by which model."""
        return tokens * max(max(one.prompt, one.completion) for one in (self, *self.others.values())) / 1e6


def token_prices(data: "DataGeneration") -> Prices:
    """Return the prices of a run with these settings; the built-in model costs nothing."""
    configured = Prices(data.prompt_price, data.completion_price, data.cached_price or None, source=CONFIGURED)
    names = {"base_url", "base_urls", "judge_base_urls", "model", "models_by_host", "judge_model", "judge_models"}
    asked = asked_models(data.model_dump(include=names))
    return Prices() if data.model == "builtin" else prices_of(asked, configured)


def prices_of(asked: Sequence[tuple[str, str]], configured: Prices) -> Prices:
    """Return what models cost, each behind an address: as configured, else as listed; unknown where one is not listed.

    Of a model that several providers list, the highest price counts: the account of a call has its name alone.
    """
    if configured.known:
        return configured
    known: dict[str, Prices] = {}
    for url, model in asked:
        listed = _listed(urlsplit(url or OPENAI_URL).hostname or "", model)
        if listed is None:
            return Prices()
        known[model] = max(known.get(model, listed), listed, key=lambda one: (one.completion, one.prompt))
    first = known[asked[0][1]]
    others = {model: prices for model, prices in known.items() if prices != first}
    return Prices(first.prompt, first.completion, first.cached, others, LISTED)


def _listed(host: str, model: str) -> Prices | None:
    fields = _LISTS.get(host, "").split()
    for name in (model, _DATED.sub("", model)):
        for place in range(0, len(fields), 4):
            if fields[place] == name:
                sent, written, cached = map(float, fields[place + 1 : place + 4])
                return Prices(sent, written, cached, source=LISTED)
    return None
