"""Addresses of endpoints: how they are shown, and whether they leave this machine."""

from urllib.parse import urlsplit, urlunsplit

OPENAI_URL = "https://api.openai.com/v1"
"""Where requests go when ``data_generation.base_url`` is empty."""


def is_loopback(url: str) -> bool:
    """Tell whether an address names this machine."""
    host = urlsplit(url).hostname or ""
    return host == "localhost" or host.endswith(".localhost") or host.startswith("127.") or host == "::1"


def shown_url(url: str) -> str:
    """Return an address without user, password, query and fragment."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    return urlunsplit((parts.scheme, f"{host}:{parts.port}" if parts.port else host, parts.path.rstrip("/"), "", ""))
