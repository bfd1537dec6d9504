"""Detector of secrets (keys, tokens, passwords) in text: `find_secret` names one, `redact` blots all of them out.

Everything that leaves the program passes here: log records, narration, stored failures, warnings and calls, exception
messages, the configuration's complaints. There is one list of forms, `_FORMS`, in two strengths. The certain ones are
so rare in ordinary text that a generated pair which holds one is refused. `redact` also takes what merely looks like a
key, because a message loses little by a blot too many. A secret without a form is taken out only if it is the value of
a key variable, and if that value could be one: local servers are given placeholders such as ``ollama``, and blotting
those out would eat ordinary words.

Servers and gateways give back what they got as it suits them: secrets are also found in base64, in hexadecimal, and
with their characters escaped for addresses, JSON or HTML.
"""

import base64
import binascii
import html
import os
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from urllib.parse import unquote

BLOT = "[redacted]"

_PEM = r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----"
_START = r"(?<![A-Za-z0-9])"
"""Before a form that is certain: also behind an underscore, as in "req_sk-…"."""

_FORMS: Sequence[tuple[str, str, str]] = (
    # kind, what is certain, what is likely beside it ("" = nothing more)
    ("an OpenAI-style key", _START + r"sk-[A-Za-z0-9_-]{16,}", r"(?i:\bsk-[A-Za-z0-9_*-]{6,})"),
    ("a Hugging Face token", _START + r"hf_[A-Za-z0-9]{20,}", r"(?i:\bhf_[A-Za-z0-9]{6,})"),
    (
        "a GitHub token",
        _START + r"(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,})",
        r"(?i:\bghp_[A-Za-z0-9]{16,})",
    ),
    ("a GitLab token", _START + r"glpat-[A-Za-z0-9_-]{20,}", ""),
    ("an AWS key", _START + r"(?:AKIA|ASIA)[A-Z0-9]{16}\b", ""),
    (
        "a Google key",
        _START + r"(?:AIza[A-Za-z0-9_-]{35}|ya29\.[A-Za-z0-9_-]{20,})",
        r"\bAIza[A-Za-z0-9_-]{20,}",
    ),
    ("a Slack token", _START + r"xox[abeprs]-[A-Za-z0-9-]{10,}", ""),
    # Long and without hyphens, or hexadecimal: models and files are called xai-finetune and pk_samples2.
    ("a Groq key", _START + r"gsk_[A-Za-z0-9]{20,}", r"(?i:\bgsk_[A-Za-z0-9]{16,})"),
    ("an xAI key", _START + r"xai-[A-Za-z0-9]{20,}", r"(?i:\bxai-[A-Za-z0-9]{16,})"),
    (
        "a Stripe key",
        _START + r"[prs]k_(?:live|test)_[A-Za-z0-9]{20,}",
        r"(?i:\b[ps]k_(?:live|test)_[A-Za-z0-9]{16,})",
    ),
    ("a Langfuse key", _START + r"[ps]k-lf-[0-9a-f-]{30,}", r"(?i:\b[ps]k-lf-[0-9a-f-]{16,})"),
    ("an NVIDIA key", _START + r"nvapi-[A-Za-z0-9_-]{20,}", ""),
    (
        "a provider's key",
        _START + r"(?:(?:r8|fw|npm|tgp_v1|dop_v1|pplx|pypi|lin_api)[_-][A-Za-z0-9]{32,}|SG\.[\w-]{16,}\.[\w-]{16,})",
        "",
    ),
    # A private key whole, or as many of its lines as there are; a log may hold them with \n spelt out.
    (
        "a private key",
        _PEM,
        _PEM + r"(?:(?s:.{0,8000}?)-----END (?:[A-Z]+ )*PRIVATE KEY-----|(?:(?:\s|\\[rn])*[A-Za-z0-9+/=]{20,})*)",
    ),
    (
        "a bearer token",
        r"(?i:\bBearer\s+[A-Za-z0-9._~+/-]{20,}=*)",
        r"(?P<kept>(?i:\bBearer\s+))[^\s'\",;]{6,}",
    ),
    ("a JSON web token", _START + r"eyJ[A-Za-z0-9_-]{10,2000}+\.eyJ[A-Za-z0-9_-]{10,}+\.[A-Za-z0-9_-]{10,}", ""),
    (
        "a password in an address",
        r"(?i:\b[a-z][a-z0-9+.-]{0,30}://[^/\s:@]+:[^/\s:@]{3,}@)",
        r"(?<=://)(?:[^/\s:@]+:[^/\s:@]{3,}|[^/\s'\"<>]+)(?=@)",
    ),
)
_SIGNS = (
    *"sk- hf_ ghp_ gho_ ghu_ ghs_ ghr_ github_pat_ glpat- akia asia aiza ya29. xox gsk_ xai- k_live_ k_test_".split(),
    *"k-lf- nvapi- r8_ r8- fw_ fw- npm_ npm- tgp_v1 dop_v1 pplx pypi lin_api sg. -----begin bearer eyj ://".split(),
)
"""One of these stands in everything that has a form of `_FORMS`, case-folded: most texts hold none."""

_BLOTTED_BY_LIKELY = ("a private key", "a bearer token", "a password in an address")
"""Kinds whose certain form is only the sign of it: the likely form says how far it goes, and what of it stays."""

_CERTAIN_FORMS = {kind: re.compile(certain) for kind, certain, _ in _FORMS}
_ANY_CERTAIN = re.compile("|".join(certain for _, certain, _ in _FORMS))
_MESSAGE_FORMS = re.compile(
    "|".join(
        [
            *(likely for kind, _, likely in _FORMS if kind in _BLOTTED_BY_LIKELY),
            *(form for kind, *both in _FORMS if kind not in _BLOTTED_BY_LIKELY for form in both[::-1] if form),
        ]
    )
)

_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{16,}={0,2}")
_HEX = re.compile(r"(?<![0-9A-Za-z])(?:[0-9a-fA-F]{2}){8,}(?![0-9A-Za-z])")
_ESCAPED = re.compile(
    r"(?:[\w.~+/=:@-]|%[0-9A-Fa-f]{2}|\\{1,4}u[0-9A-Fa-f]{4}|\\{1,4}x[0-9A-Fa-f]{2}|\\{1,4}/|&\#?\w{1,8};){4,}"
)
_ESCAPE = re.compile(r"\\{1,4}u00([0-9A-Fa-f]{2})|\\{1,4}x([0-9A-Fa-f]{2})|\\{1,4}(/)")

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
    """Return what kind of secret `text` seems to hold, as it is or encoded, or None."""
    for said in (text, *(decoded for _, _, decoded in _decoded(text) if _holds_certain(decoded))):
        for kind, form in _CERTAIN_FORMS.items() if _may_have_form(said) else ():
            if form.search(said):
                return kind
    return None


def _may_have_form(text: str) -> bool:
    """Return whether a text holds one of `_SIGNS`, which is found out in a tenth of the time that the forms take."""
    folded = text.lower() if text.isascii() else text.casefold()
    return any(sign in folded for sign in _SIGNS)


def _holds_certain(text: str) -> bool:
    return _may_have_form(text) and _ANY_CERTAIN.search(text) is not None


def holds_value(text: str, value: str) -> bool:
    """Return whether `text` holds a value, as it is or encoded."""
    return value in text or any(value in decoded for _, _, decoded in _decoded(text))


def may_hold_secret(text: str) -> bool:
    """Return whether `text`, typed as a key's name, is better not shown at all."""
    return _LIKE_A_KEY.search(text) is not None or redact(text) != text


def may_be_secret(text: str) -> bool:
    """Return whether `text`, typed as a value, is better not shown: also one long word of letters and digits."""
    return may_hold_secret(text) or _LIKE_A_KEY_ALONE.fullmatch(text.strip()) is not None


@lru_cache(maxsize=64)
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
    whatever has the form of a key, each of them also encoded.
    """
    if not text:
        return text
    values = [value for value in (known, *_key_values()) if value and not is_placeholder(value)]
    for value in values:
        text = text.replace(value, blot)
    if _may_have_form(text):
        text = _MESSAGE_FORMS.sub(lambda found: (found["kept"] or "") + blot, text)
    spans = [
        (start, end)
        for start, end, decoded in _decoded(text)
        if _holds_certain(decoded) or any(value in decoded for value in values)
    ]
    for start, end in _joined(spans)[::-1]:
        text = text[:start] + blot + text[end:]
    return text


def _decoded(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield the stretches of a text that may be encoded, where they stand, and what they say then."""
    for found in _BASE64.finditer(text):
        written = found.group().rstrip("=").replace("-", "+").replace("_", "/")
        for skipped in range(4):  # something may stand before it that looks the same: "req-c2st…"
            part = written[skipped:]
            part = part[:-1] if len(part) % 4 == 1 else part
            with_padding = part + "=" * (-len(part) % 4)
            try:
                yield found.start(), found.end(), base64.b64decode(with_padding).decode("latin-1")
            except (binascii.Error, ValueError):
                continue
    for found in _HEX.finditer(text):
        yield found.start(), found.end(), bytes.fromhex(found.group()).decode("latin-1")
    if "%" in text or "\\" in text or "&" in text:
        for found in _ESCAPED.finditer(text):
            said = _ESCAPE.sub(lambda one: one[3] or chr(int(one[1] or one[2], 16)), found.group())
            said = html.unescape(unquote(said, errors="replace"))
            if said != found.group():
                yield found.start(), found.end(), said


def _joined(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return stretches in their order, those that touch each other as one."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def register_key_variable(name: str) -> None:
    """Redact the value of this environment variable too: the configuration says that it holds a key."""
    _named_variables.add(name)


def is_key_variable(name: str) -> bool:
    """Tell whether an environment variable is one for a key, by its name or because the configuration says so."""
    return name in _named_variables or _ends_like_a_key(name)


@lru_cache(maxsize=1024)  # every message asks about every variable
def _ends_like_a_key(name: str) -> bool:
    return _KEY_VARIABLE.search(name.upper()) is not None


def _key_values() -> list[str]:
    """Values of the environment's key variables, longest first, so that no prefix spoils a longer one."""
    named = {name for name in os.environ if is_key_variable(name)}
    values = {os.environ[name].strip() for name in named}
    return sorted(values, key=len, reverse=True)
