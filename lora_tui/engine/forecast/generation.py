"""Forecast of a generation run before it begins: files, calls, tokens and dollars, as lower bounds.

Calls, if every pair is accepted: a file is asked for `num_examples_per_file` pairs in each pass, in calls of as many
pairs as a reply has room for (`planner.pairs_by_call`); every pair is judged by one call, or by two where there are
several judges, and every `batch_analysis_interval` accepted pairs are analysed by one. A judge of whom nothing is
remembered is first asked about the canary pairs. Rejected pairs, third judges, retries and repairs come on top.

Tokens: a call sends its own instructions, measured on the very prompts, and

    writing    a passage                                  and gets back 200 tokens a pair, at most `max_tokens`
    judging    a passage and a pair of 100 tokens         and gets back three digits, 6 tokens
    analysing  statistics of 520 tokens                   and gets back at most `max_tokens`
    checking   the canary pairs, as they are              and gets back three digits, 6 tokens

(analyses are put into words by a model within their share of the tokens alone, `ledger.ANALYSES_SHARE`)
where a passage is `chunk_tokens` long, or as long as its file (4 characters a token) where that is shorter.
Dollars = (tokens sent * prompt_price + tokens written * completion_price) / 1,000,000.

Where a run with such settings was finished within a week, what it took for each accepted pair takes the place of all
that but the checks: then the figures are no lower bounds.
"""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from lora_tui.config.addresses import OPENAI_URL
from lora_tui.config.generation import DataGeneration
from lora_tui.config.models import Settings
from lora_tui.config.prices import LISTED, token_prices
from lora_tui.engine.forecast.texts import forecast_texts, prompt_tokens
from lora_tui.engine.forecast.types import Estimate
from lora_tui.engine.generation import documents
from lora_tui.engine.generation.canaries import KNOWN_PAIRS, JudgeCheck
from lora_tui.engine.generation.client.wire import is_own_network, shown_url
from lora_tui.engine.generation.documents import Candidate
from lora_tui.engine.generation.endpoint_memory import PairTokens, known_checks, recall_pair_tokens
from lora_tui.engine.generation.generation_model import PairRequest, ProposedPair, Slot
from lora_tui.engine.generation.ledger import ANALYSES_FREE, ANALYSES_SHARE
from lora_tui.engine.generation.planner import TOKENS_PER_PAIR, pairs_by_call
from lora_tui.engine.generation.prompts import Prompts
from lora_tui.engine.models.builtin import BUILTIN
from lora_tui.errors import LoraTuiError
from lora_tui.text import count, dollars, one_line

_JUDGED_PAIR_TOKENS = 100
_JUDGEMENT_TOKENS = 6
_STATISTICS_TOKENS = 520
"""About 2,100 characters of JSON once there are twenty topics, as measured."""

_LISTING_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class GenerationForecast:
    """What generation will read and cost.

    `problem` says why the folder cannot be used; `skipped` counts the files in it that are not read. `key_set` tells
    whether the environment variable `key_name` holds anything, never what; `key_needed` whether a run needs it.
    `address` is where the passages are sent, None for the built-in model; `is_paid` whether it is somebody else's
    machine, which asks for money as a rule. `checks` has what is known of each judge that is checked, None where that
    is still to come, in `check_calls`.
    """

    folder: Path
    problem: str | None
    files: Estimate
    bytes: Estimate
    skipped: int
    write_calls: Estimate
    judge_calls: Estimate
    analysis_calls: Estimate
    check_calls: Estimate
    checks: Mapping[str, JudgeCheck | None]
    prompt_tokens: Estimate
    completion_tokens: Estimate
    dollars: Estimate
    measured_pairs: int
    """Accepted pairs of an earlier run from which tokens and dollars follow; 0 where they are lower bounds."""
    key_name: str
    key_needed: bool
    key_set: bool
    address: str | None
    is_paid: bool
    text_calls: Estimate
    """Calls that write and judge texts beside the pairs."""
    endpoints: tuple[str, ...] = ()
    """Each endpoint in words: its address, what it does, whether its key is set."""


def forecast_generation(settings: Settings) -> GenerationForecast:
    """Return the forecast for these settings; blocks while the folder is listed. Never raises."""
    data = settings.data_generation
    folder = Path(data.input_folder)
    candidates, problem = _listing(folder, Path(data.output_file), data.extractors)
    used = [candidate for candidate in candidates if candidate.skipped is None]
    if problem is None and not used:
        problem = f"data_generation.input_folder: no file in {folder} can be used"
    checks = known_checks(data) if data.check_judge else {}
    calls = _calls(data)
    checked = len(KNOWN_PAIRS) * sum(check is None for check in checks.values())
    earlier = None if data.model == BUILTIN or problem is not None else recall_pair_tokens(data)
    sent, written, cost = (
        _cost(data, used, calls, checked, problem) if earlier is None else _measured_cost(data, earlier, checked)
    )
    write, judge, analyse = (Estimate(number, "if every pair is accepted") for number in calls)
    texts = forecast_texts(data, data.chunk_tokens)
    unreadable = _unknown(problem) if problem and not candidates else None
    return GenerationForecast(
        folder=folder,
        problem=problem,
        files=unreadable or Estimate(len(used)),
        bytes=unreadable or Estimate(sum(file.bytes for file in used)),
        skipped=len(candidates) - len(used),
        write_calls=write,
        judge_calls=judge,
        analysis_calls=analyse,
        check_calls=Estimate(checked),
        checks=checks,
        prompt_tokens=sent,
        completion_tokens=written,
        dollars=cost,
        measured_pairs=earlier.pairs if earlier is not None else 0,
        key_name=_key(data)[0],
        key_needed=data.model != BUILTIN and "" in data.urls,
        key_set=_key(data)[1],
        address=None if data.model == BUILTIN else " and ".join(shown_url(url or OPENAI_URL) for url in data.urls),
        endpoints=() if data.model == BUILTIN else tuple(_endpoint(data, url) for url in data.urls),
        is_paid=data.model != BUILTIN and not all(is_own_network(url or OPENAI_URL) for url in data.urls),
        text_calls=Estimate(texts.write_calls + texts.judge_calls, "if every text is accepted"),
    )


def _endpoint(data: DataGeneration, url: str) -> str:
    """Return an endpoint as the plan names it: its address, what it does, its own name of the model, its key."""
    own = data.at(url)
    does = [word for word, urls in (("writes", data.writer_urls), ("judges", data.judge_urls)) if url in urls]
    model = f", as {own.model}" if own.model != data.model else ""
    key = "is set" if os.environ.get(own.api_key_env, "").strip() else "is not set"
    return f"{shown_url(url or OPENAI_URL)}: {' and '.join(does)}{model}, {own.api_key_env} {key}"


def _key(data: DataGeneration) -> tuple[str, bool]:
    """Return the variable of the key, and whether it is set; of several, OpenAI's, else the first that is not set."""
    names = [data.at(url).api_key_env for url in ([""] if "" in data.urls else data.urls)]
    missing = next((name for name in names if not os.environ.get(name, "").strip()), None)
    return missing or names[0], missing is None


def price_text(forecast: GenerationForecast) -> str:
    """Return what a run will cost in words: "nothing: …", "about $0.42-0.84, …" or that it is not known.

    The lower figure is if every pair is accepted, the higher if half of them are; there is one figure where an earlier
    run has shown it.
    """
    if not forecast.is_paid:
        return "nothing: it runs on this machine" if forecast.address is None else "nothing: a server of your own"
    sent, written, least = forecast.prompt_tokens.value, forecast.completion_tokens.value, forecast.dollars.value
    if sent is None or written is None:
        return "not known"
    tokens = f"{_rounded(sent + written)}-{_rounded(2 * (sent + written))} tokens"
    tokens = f"{_rounded(sent + written)} tokens" if forecast.measured_pairs else tokens
    if least is None:
        return f"not known for about {tokens}: set data_generation.prompt_price and completion_price to see it"
    if forecast.measured_pairs:
        return f"about {dollars(least)} for {tokens}, {forecast.dollars.note}"
    listed = f" ({forecast.dollars.note.rpartition('; ')[2]})" if LISTED in forecast.dollars.note else ""
    return f"about {dollars(least)}-{dollars(2 * least)[1:]} for {tokens}{listed}"


def charge_text(data: DataGeneration, forecast: GenerationForecast) -> str:
    """Return what whoever begins a run should know of its price; empty where it costs nothing or has a budget."""
    if not forecast.is_paid or data.budget_tokens or data.budget_dollars:
        return ""
    return (
        f"{one_line(data.model, 60)} at {one_line(forecast.address or '', 80)} is paid for by use, and no budget is "
        f"set. Price: {price_text(forecast)}."
    )


def _rounded(tokens: float) -> str:
    """Return a number of tokens in two digits: "0.8 M", "120,000"."""
    if tokens >= 1e6:
        return f"{tokens / 1e6:.1f} M"
    digits = max(0, len(str(round(tokens))) - 2)
    return f"{round(tokens, -digits):,.0f}"


_LISTINGS: dict[tuple[Path, Path, tuple[str, ...]], tuple[float, Sequence[Candidate], str | None]] = {}


def _listing(folder: Path, own_output: Path, commands: Mapping[str, str]) -> tuple[Sequence[Candidate], str | None]:
    """Return the files of a folder, or why there are none; cached for 5 s, since a folder may hold thousands."""
    key, now = (folder.absolute(), own_output.absolute(), tuple(sorted(commands))), time.monotonic()
    if key in _LISTINGS and now - _LISTINGS[key][0] < _LISTING_SECONDS:
        return _LISTINGS[key][1:]
    try:
        found: tuple[Sequence[Candidate], str | None] = (documents.list_files(folder, own_output, commands), None)
    except LoraTuiError as problem:
        found = ((), str(problem))
    _LISTINGS.clear()
    _LISTINGS[key] = (time.monotonic(), *found)
    return found


def forget_listing() -> None:
    """Give up the memory of the last folder's list of files: 20,000 take 14 MB."""
    _LISTINGS.clear()


def _calls(data: DataGeneration) -> tuple[int, int, int]:
    """Return the fewest calls that can bring the wanted pairs: writing, judging, analysing."""
    counts = pairs_by_call(data)
    rounds, left = divmod(data.total_examples, sum(counts))  # a round is what one file is asked for in one pass
    write = rounds * len(counts) + sum(before < left for before in accumulate(counts[:-1], initial=0))
    judges = 1 if data.model == BUILTIN else min(2, len(data.judges))
    return write, judges * data.total_examples, data.total_examples // data.batch_analysis_interval


def _cost(
    data: DataGeneration, used: Sequence[Candidate], calls: tuple[int, int, int], checked: int, problem: str | None
) -> tuple[Estimate, Estimate, Estimate]:
    """Return the tokens sent and written and what they cost."""
    if data.model == BUILTIN:
        local = "the built-in model works on this machine"
        return Estimate(0, local), Estimate(0, local), Estimate(0.0, local)
    if problem is not None:
        return _unknown(problem), _unknown(problem), _unknown(problem)
    passage = sum(min(data.chunk_tokens, _tokens_of(file, data.chunk_tokens)) for file in used) / len(used)
    write, judge, analyse = calls
    pairs = data.total_examples / write
    prompts, slot = Prompts("-"), Slot("a topic", "comparison", "medium", "a practitioner")
    write_prompt = prompts.propose(PairRequest("", slot, max(1, round(pairs)), (), (), ()))
    judge_prompt = prompts.judge("", ProposedPair("", "", "", ""))
    answer = min(data.evaluation.max_tokens, _JUDGEMENT_TOKENS)
    check = sum(prompt_tokens(prompts.judge(one.passage, one.pair)) for one in KNOWN_PAIRS) / len(KNOWN_PAIRS)
    judging = (
        judge * (prompt_tokens(judge_prompt) + passage + _JUDGED_PAIR_TOKENS) + checked * check,
        (judge + checked) * answer,
    )
    writing = (
        write * (prompt_tokens(write_prompt) + passage),
        write * min(data.generation.max_tokens, TOKENS_PER_PAIR * pairs),
    )
    asking, answering = prompt_tokens(prompts.analyse("")) + _STATISTICS_TOKENS, data.batch_analysis.max_tokens
    share = ANALYSES_SHARE * (sum(writing) + sum(judging))
    asked = min(analyse, (ANALYSES_FREE + share) / (asking + answering))
    texts = forecast_texts(data, passage)
    judges = data.judges[:2]
    used_by = [
        (data.model, writing[0] + asked * asking + texts.sent, writing[1] + asked * answering + texts.written, 0.0)
    ]
    used_by += [(name, judging[0] / len(judges), judging[1] / len(judges), 0.0) for name in judges]
    more = texts.write_calls + texts.judge_calls
    return _estimates(data, used_by, f"for {count(sum(calls) + checked + more, 'call')}, if every pair is accepted")


def _measured_cost(data: DataGeneration, earlier: PairTokens, checked: int) -> tuple[Estimate, Estimate, Estimate]:
    """Return the tokens sent and written and what they cost, as an earlier run with such settings took them."""
    pairs = data.total_examples
    used_by = [
        (name, pairs * sent, pairs * written, pairs * cached)
        for name, (sent, written, cached) in earlier.by_model.items()
    ]
    check = sum(prompt_tokens(Prompts("-").judge(one.passage, one.pair)) for one in KNOWN_PAIRS) / len(KNOWN_PAIRS)
    used_by.append((data.judges[0], checked * check, float(checked * _JUDGEMENT_TOKENS), 0.0))
    return _estimates(data, used_by, f"as the last {count(earlier.pairs, 'pair')} took")


def _estimates(
    data: DataGeneration, used_by: Sequence[tuple[str, float, float, float]], note: str
) -> tuple[Estimate, Estimate, Estimate]:
    """Return tokens sent and written and their price, of what each model is sent, writes, and has cached."""
    prices = token_prices(data)
    spent = sum(
        prices.cost(round(sent), round(written), round(cached), model) for model, sent, written, cached in used_by
    )
    listed = f"{note}; {prices.source}" if prices.source == LISTED else note
    return (
        Estimate(round(sum(sent for _, sent, _, _ in used_by)), note, estimated=True),
        Estimate(round(sum(written for _, _, written, _ in used_by)), note, estimated=True),
        Estimate(spent, listed, estimated=True)
        if prices.known
        else Estimate(None, "set data_generation.prompt_price and completion_price to see it"),
    )


def _unknown(problem: str) -> Estimate:
    return Estimate(None, problem.partition("\n")[0])


def _tokens_of(file: Candidate, chunk_tokens: int) -> int:
    """Return the tokens of a file of plain text; of others the size says little, and a whole passage is assumed."""
    return max(1, file.bytes // 4) if file.path.suffix.lower() in documents.NATIVE else chunk_tokens
