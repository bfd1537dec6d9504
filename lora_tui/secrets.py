"""Detector of secrets (keys, tokens, passwords) in text: `find_secret` names one, `redact` blots all of them out.

Everything that leaves the program passes here: log records, narration, stored failures, warnings and calls, exception
messages, the configuration's complaints. Forms come in two strengths. Those of `find_secret` are so rare in ordinary
text that a generated pair which holds one is refused. `redact` also takes what merely looks like a key, because a
message loses little by a blot too many. A secret without a form is taken out only if it is the value of a key
variable, and if that value could be one: local servers are given placeholders such as ``ollama``, and blotting those
out would eat ordinary words.
"""

import os
import re

BLOT = "[redacted]"

_CERTAIN: dict[str, str] = {
    "an OpenAI-style key": r"\bsk-[A-Za-z0-9_-]{16,}",
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{20,}",
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,})",
    "an AWS key": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "a Google key": r"\bAIza[A-Za-z0-9_-]{35}",
    "a Slack token": r"\bxox[abprs]-[A-Za-z0-9-]{10,}",
    "a private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----",
    "a bearer token": r"(?i:\bBearer\s+[A-Za-z0-9._~+/-]{20,}=*)",
    "a JSON web token": r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
    "a password in an address": r"(?i:\b[a-z][a-z0-9+.-]{0,30}://[^/\s:@]+:[^/\s:@]{3,}@)",
}
_CERTAIN_FORMS = {kind: re.compile(form) for kind, form in _CERTAIN.items()}

_MESSAGE_FORMS = re.compile(
    "|".join(
        (
            r"(?P<kept>(?i:\bBearer\s+))[^\s'\",;]{6,}",
            r"(?<=://)(?:[^/\s:@]+:[^/\s:@]{3,}|[^/\s'\"<>]+)(?=@)",
            r"(?i:\bsk-[A-Za-z0-9_*-]{6,}|\bhf_[A-Za-z0-9]{6,})",
            # Long and without hyphens, or hexadecimal: models and files are called xai-finetune and pk_samples2.
            r"(?i:\b(?:gsk_|xai-|ghp_|[ps]k_(?:live|test)_)[A-Za-z0-9]{16,}|\b[ps]k-lf-[0-9a-f-]{16,})",
            # A private key whole, or as many of its lines as there are; a log may hold them with \n spelt out.
            _CERTAIN["a private key"]
            + r"(?:(?s:.{0,8000}?)-----END (?:[A-Z]+ )*PRIVATE KEY-----|(?:(?:\s|\\[rn])*[A-Za-z0-9+/=]{20,})*)",
            *(_CERTAIN[kind] for kind in ("a GitHub token", "an AWS key", "a Google key", "a Slack token")),
            _CERTAIN["a JSON web token"],
        )
    )
)

_LIKE_A_KEY = re.compile(r"(?i)\b(?:sk|gsk|hf|xai|ghp|pk)[-_][a-z0-9_-]{6,}|\bbearer\b|://[^/\s]*@")
_LIKE_A_KEY_ALONE = re.compile(r"(?i)(?=.*\d)(?=.*[a-z])[a-z0-9_+/=-]{32,}")

_KEY_VARIABLE = re.compile(r"(_API_KEY|_ACCESS_KEY|_TOKEN|_SECRET)$")
_SHORTEST_KEY = 12
"""Characters. Shorter values are placeholders, unless digits and letters are mixed in them."""

_SHORTEST_MIXED_KEY = 8
_PLACEHOLDER_WORDS = frozenset(
    "a abc any anything api apikey bearer cpp change changeme dummy empty example fake foo bar here insert is key keys "
    "lm lmstudio llama llamacpp llm local localhost me my mykey na needed nil no nokey none not nothing null ollama "
    "open openai optional pass password placeholder required sample secret set sk some string studio test testing the "
    "this token unused value vllm whatever with your".split()
)
_named_variables: set[str] = set()


def find_secret(text: str) -> str | None:
    """Return what kind of secret `text` seems to hold, or None."""
    return next((kind for kind, form in _CERTAIN_FORMS.items() if form.search(text)), None)


def may_hold_secret(text: str) -> bool:
    """Return whether `text`, typed as a key's name, is better not shown at all."""
    return _LIKE_A_KEY.search(text) is not None or redact(text) != text


def may_be_secret(text: str) -> bool:
    """Return whether `text`, typed as a value, is better not shown: also one long word of letters and digits."""
    return may_hold_secret(text) or _LIKE_A_KEY_ALONE.fullmatch(text.strip()) is not None


def is_placeholder(key: str) -> bool:
    """Return whether a key is only there because a client insists on one: ``ollama``, ``EMPTY``, ``sk-xxxx``, ``x``."""
    words = re.findall(r"[a-z]+|\d+", key.casefold())
    if all(word in _PLACEHOLDER_WORDS or (len(word) > 2 and _fills_space(word)) for word in words):
        return True
    mixed = any(character.isdigit() for character in key) and any(character.isalpha() for character in key)
    return len(key) < (_SHORTEST_MIXED_KEY if mixed else _SHORTEST_KEY)


def _fills_space(word: str) -> bool:
    """Return whether a word is one character over and over, or digits in their order: ``xxxx``, ``1234``."""
    return len(set(word)) == 1 or word in "01234567890"


def redact(text: str, known: str = "", blot: str = BLOT) -> str:
    """Return `text` with `blot` in place of every secret.

    Secrets are the key `known` and the values of the environment's key variables, unless they are placeholders, and
    whatever has the form of a key.
    """
    for value in (known, *_key_values()):
        if value and not is_placeholder(value):
            text = text.replace(value, blot)
    return _MESSAGE_FORMS.sub(lambda found: (found["kept"] or "") + blot, text)


def register_key_variable(name: str) -> None:
    """Redact the value of this environment variable too: the configuration says that it holds a key."""
    _named_variables.add(name)


def _key_values() -> list[str]:
    """Values of the environment's key variables, longest first, so that no prefix spoils a longer one."""
    named = {name for name in os.environ if name in _named_variables or _KEY_VARIABLE.search(name.upper())}
    values = {os.environ[name] for name in named}
    return sorted(values, key=len, reverse=True)
