"""Addresses of endpoints, and what a table by host says of one.

Small and apart: the app asks it about the settings of stored runs, before pydantic is loaded.
"""

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

OPENAI_URL = "https://api.openai.com/v1"
"""The address where ``data_generation.base_url`` is empty."""


def address_advice(key: str, url: str) -> str:
    """Return what to do, after "please", so that the address at a dotted key is `url`; a list keeps its others."""
    return f"set {key} to {url}" if key.endswith("base_url") else f"write {url} in its place in {key}"


def each_once(urls: Iterable[str]) -> list[str]:
    """Return addresses in their order, each once: with a slash at the end and without is the same endpoint."""
    return list(dict.fromkeys(url.rstrip("/") for url in urls))


def asked_models(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return each address with each model that is asked there, those that write first; `data` are a run's settings."""
    model, by_host = str(data.get("model") or ""), data.get("models_by_host") or {}
    writers = data.get("base_urls") or [data.get("base_url") or ""]
    asked = [(url, of_host(by_host, url) or model) for url in writers]
    for url in data.get("judge_base_urls") or writers:
        own = data.get("judge_model") or of_host(by_host, url) or model
        asked += [(url, judge) for judge in data.get("judge_models") or [own]]
    return asked


def of_host(table: Mapping[str, str], url: str) -> str | None:
    """Return what a table has for the host of an address, with its port or without; an empty address is OpenAI's."""
    parts = urlsplit(url or OPENAI_URL)
    known = {host.lower(): value for host, value in table.items()}
    host = parts.hostname or ""
    return known.get(parts.netloc.lower()) or known.get(f"[{host}]" if ":" in host else host)
