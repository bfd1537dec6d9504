"""Keys and passwords in text: found before a pair is kept, and taken out of whatever is stored, logged or shown.

Only forms that hardly anything else has are known; a secret without a form is not found.
"""

import re

_PATTERNS: dict[str, re.Pattern[str]] = {
    "an OpenAI-style key": re.compile(r"\bsk-[A-Za-z0-9_-]{16,}"),
    "a Hugging Face token": re.compile(r"\bhf_[A-Za-z0-9]{20,}"),
    "a GitHub token": re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,})"),
    "an AWS key": re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    "a Google key": re.compile(r"\bAIza[A-Za-z0-9_-]{35}"),
    "a Slack token": re.compile(r"\bxox[abprs]-[A-Za-z0-9-]{10,}"),
    "a private key": re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----"),
    "a bearer token": re.compile(r"\bBearer\s+[A-Za-z0-9._~+/-]{20,}=*", re.IGNORECASE),
    "a JSON web token": re.compile(r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"),
    "a password in an address": re.compile(r"\b[a-z][a-z0-9+.-]*://[^/\s:@]+:[^/\s:@]{3,}@", re.IGNORECASE),
}


def find_secret(text: str) -> str | None:
    """Return what kind of secret `text` seems to hold, or None."""
    return next((kind for kind, pattern in _PATTERNS.items() if pattern.search(text)), None)


def redacted(text: str, known: str = "") -> str:
    """Return `text` without the secret `known`, nor anything that has the form of one."""
    if known:
        text = text.replace(known, "[key]")
    for pattern in _PATTERNS.values():
        text = pattern.sub("[key]", text)
    return text
