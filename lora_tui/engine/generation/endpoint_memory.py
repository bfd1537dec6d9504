"""What is known of endpoints: the form of reply that each model behind each address could keep, found in earlier runs.

Kept in the cache folder and not in a store, because it is about a server and not about a run: whatever project asks it
next begins where the last one ended. Beside it lies what each judge made of the canary pairs, by `check_key`, and what
an accepted pair took in tokens, by the settings that decide it. All of it is forgotten after a week, since servers and
models are replaced under the same name, and whoever cannot wait deletes the file. Neither keys nor texts are in it.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lora_tui.config.addresses import OPENAI_URL
from lora_tui.config.generation import DataGeneration
from lora_tui.config.paths import cache_folder, private_folder
from lora_tui.engine.generation.canaries import JudgeCheck, check_key
from lora_tui.engine.generation.client.wire import shown_url
from lora_tui.engine.generation.reply_forms import JUDGE_FORMS, SINGLE_FORMS, JudgeForm
from lora_tui.engine.models.builtin import BUILTIN
from lora_tui.errors import LoraTuiError
from lora_tui.files import write_atomically

FORGET_AFTER = 7 * 86400.0
"""Seconds."""


@dataclass(frozen=True, slots=True)
class EndpointNotes:
    """What was learned of one model at one address, how, and when (seconds since the epoch).

    `form` is a key of `REPLY_FORMS`, `judge` one of `JUDGE_FORMS`, "" while it is not known.
    """

    form: str = ""
    refused: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    judge: str = ""
    how: str = ""
    judge_how: str = ""
    at: float = 0.0


def memory_file() -> Path:
    """Return the file that holds the notes."""
    return cache_folder() / "endpoints.json"


def recall(url: str, model: str) -> EndpointNotes | None:
    """Return what is known of a model at an address (without user and password), unless it is too old."""
    found = _read().get(f"{url} {model}")
    if not isinstance(found, dict):
        return None
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}
    try:
        notes = EndpointNotes(**values)
        fresh = 0 <= time.time() - notes.at < FORGET_AFTER
    except TypeError:  # written by another version
        return None
    return notes if fresh else None


def remember(url: str, model: str, notes: EndpointNotes) -> None:
    """Store what is known of a model at an address. A cache that cannot be written loses it, and no more."""
    _write(f"{url} {model}", asdict(notes))


def judge_form(url: str, model: str) -> JudgeForm:
    """Return the form in which a model at an address is asked for judgements first: the one it was found to keep."""
    notes = recall(url, model) or EndpointNotes()
    return next((form for form in JUDGE_FORMS if form == notes.judge), "digits")


def recall_check(key: str) -> JudgeCheck | None:
    """Return what was found about a judge, by its `check_key`, unless it is too old."""
    found = _read().get(key)
    try:
        check = JudgeCheck(**found) if isinstance(found, dict) else None
        fresh = check is not None and 0 <= time.time() - check.at < FORGET_AFTER
    except TypeError:  # written by another version
        return None
    return check if fresh else None


def remember_check(key: str, check: JudgeCheck) -> None:
    """Store what was found about a judge."""
    _write(key, asdict(check))


@dataclass(frozen=True, slots=True)
class PairTokens:
    """Tokens that a run took for each accepted pair, rejected ones, retries and analyses included, checks not.

    `by_model` has those sent, written, and sent but cached; `pairs` is how many were accepted, `at` in seconds since
    the epoch.
    """

    by_model: Mapping[str, tuple[float, float, float]]
    pairs: int
    at: float


def recall_pair_tokens(chosen: DataGeneration) -> PairTokens | None:
    """Return what an accepted pair took in the last run with such settings, unless that is too long ago."""
    found = _read().get(_pair_key(chosen))
    try:
        known = PairTokens(**found) if isinstance(found, dict) else None
        fresh = known is not None and 0 <= time.time() - known.at < FORGET_AFTER
        return known if known is not None and fresh and all(len(one) == 3 for one in known.by_model.values()) else None
    except (AttributeError, TypeError):  # written by another version
        return None


def remember_pair_tokens(chosen: DataGeneration, tokens: PairTokens) -> None:
    """Store what an accepted pair took."""
    _write(_pair_key(chosen), asdict(tokens))


def _pair_key(chosen: DataGeneration) -> str:
    """Return the key of the settings that decide what a pair takes."""
    decide = {
        "chunk_tokens",
        "num_examples_per_file",
        "batch_analysis_interval",
        "evaluation_threshold",
        "forms",
        "mix",
    }
    settings = chosen.model_dump_json(include=decide)
    addresses = " ".join(shown_url(url or OPENAI_URL) for url in chosen.urls)
    return f"pairs {addresses} {chosen.model} {' '.join(chosen.judges)} {settings}"


def known_checks(chosen: DataGeneration) -> dict[str, JudgeCheck | None]:
    """Return what is known of each of the configured judges that a check would ask, None where it is still to come."""
    if chosen.model == BUILTIN:
        return {}
    chosen = chosen.at(chosen.judge_urls[0])  # the same model is taken for the same judge wherever it runs
    url = shown_url(chosen.base_url or OPENAI_URL)
    writer = recall(url, chosen.model) or EndpointNotes()
    weak = {chosen.model} if writer.form in SINGLE_FORMS else set()
    forms = {judge: judge_form(url, judge) for judge in chosen.judges if judge not in weak}
    return {judge: recall_check(check_key(url, judge, form)) for judge, form in forms.items() if form != "gates"}


def _write(key: str, value: Mapping[str, Any]) -> None:
    try:
        private_folder(memory_file().parent)
        known = {**_read(), key: value}
        write_atomically(memory_file(), json.dumps(known, indent=1, ensure_ascii=False) + "\n", mode=0o600)
    except (OSError, LoraTuiError):
        return


def _read() -> Mapping[str, Any]:
    try:
        known = json.loads(memory_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
