"""What an endpoint means by an error answer: the key, the model, the account, a parameter, one passage, or not now.

Servers agree neither on statuses nor on forms. Mistral, OpenRouter and DeepSeek answer 400 to a model that they do not
have, Google 400 and a list to a wrong key, OpenAI's reasoning models 403 to log-probabilities, Azure 400 to a passage
that its filter withholds, and OpenRouter puts whole errors into HTTP 200. What they say in words and codes is what they
agree on, so that is read first, and the status only where nothing else is said.

Pure: nothing is sent from here, and nothing that a server sends is trusted in its form.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lora_tui.config.addresses import address_advice
from lora_tui.config.generation import DataGeneration
from lora_tui.engine.generation.client.wire import exceeds_context, names_a_parameter, sent_names


class Refused(Exception):  # noqa: N818  # the caller asks again without
    """The server did not understand a request; sending the same again is pointless."""

    def __init__(self, reason: str, parameters: dict[str, Any]) -> None:
        super().__init__(reason)
        self.parameters = parameters


class FormRefused(Exception):  # noqa: N818  # the caller asks in another form
    """The server does not take the parameter that was to enforce the reply's form, or completes no texts.

    The text is its reason.
    """


Meaning = Literal[
    "context", "too_large", "filtered", "credit", "key", "forbidden", "model", "tls", "parameter", "rate", "busy",
    "server", "other",
]  # fmt: skip
"""``context``: prompt and reply do not fit the model; ``too_large``: no limit of the account will ever let it through.

``filtered``: this passage is withheld; ``credit``: nothing more is paid for; ``tls``: the port wants https;
``rate``, ``busy``: later; ``server``: a fault that may pass; ``other``: the request is refused without a reason.
"""

REFUSAL_STATUSES = (400, 405, 413, 415, 422, 501)
"""Statuses by which servers refuse a request that they do not understand."""

_CONTEXT_STATUSES = (*REFUSAL_STATUSES, 200, 404, 500)
"""Statuses with which a prompt that is too long is refused. A gateway's page says "too long" of its own waiting."""

_PASSING_STATUSES = (408, 409, 429, 502, 503, 504, 529)
"""Statuses of something that may pass."""

_MODEL_CODES = (
    "model_not_found", "invalid_model", "unknown_model", "model_not_supported", "model_not_available",
    "deploymentnotfound", "model_decommissioned", "model_not_exist",
)  # fmt: skip
_FILTER_CODES = (
    "content_filter", "content_policy_violation", "responsibleaipolicyviolation", "data_inspection_failed",
    "prohibited_content", "moderation_error", "content_moderation",
)  # fmt: skip
_CREDIT_CODES = ("insufficient_quota", "insufficient_balance", "billing_hard_limit_reached", "arrearage",
                 "billing_not_active", "insufficient_credits", "credit_exhausted")  # fmt: skip
_KEY_CODES = ("invalid_api_key", "api_key_invalid", "invalid_authentication", "authentication_error",
              "unauthorized", "unauthenticated", "account_deactivated", "invalid_key")  # fmt: skip

_MODEL = re.compile(
    r"\b(?:invalid|unknown|unsupported|no such|not a valid|not an existing) (?:chat )?model\b"
    r"|\bmodel identifier is invalid|\bno models? (?:is |are )?loaded"
    r"|\bmodels?\b[^.;]{0,120}?(?:\bnot found|\bnot exist|n't exist|\bnot available|\bnot a valid|\bis invalid"
    r"|\bdecommissioned|\bdeprecated|\bnot supported by any|\bnot a chat model|\bno access|\bhave access)"
    r"|\bunable to access model|\bdeployment\b[^.;]{0,60}\bnot exist"
)
_FILTER = re.compile(
    r"content management policy|content[- _]polic|content[- _]filter|safety (?:system|filter|polic)|usage polic"
    r"|inappropriate content|flagged (?:as|by|for)|\bmoderation\b"
    r"|blocked (?:by|for|due to) (?:safety|content|the content)"
    r"|prohibited content|content exists risk|sensitive content|high risk"
)
_CREDIT = re.compile(
    r"insufficient[ _](?:account )?(?:balance|funds|quota|credits?)|balance is (?:too low|insufficient|not enough)"
    r"|credit balance|out of credits?|no credits?\b|(?:not enough|more|lack of|without) credits|payment required"
    r"|billing hard limit|check your plan and billing|account is not active|overdue|negative balance|top up|add funds"
)
_KEY = re.compile(
    r"\b(?:api|access|auth|secret|your|provided)[ _-]?(?:api[ _-])?key\b[^.;]{0,40}"
    r"(?:not valid|invalid|incorrect|expired|revoked|disabled|not found|malformed)"
    r"|(?:incorrect|invalid|expired|missing|no|wrong|unknown|malformed) (?:\w+ )?"
    r"(?:api[ _-]?key|bearer token|access token)"
    r"|unauthori[sz]ed|(?:invalid|missing|no) (?:authentication|credentials|auth)"
    r"|authentication (?:failed|required|fails)"
    r"|must provide an api key|user not found"
)
_TLS = re.compile(r"plain http request was sent to https|http request to an https server|http request to https")
_RATE = re.compile(r"rate[ _-]?limit|too many requests|requests per|tokens per|resource[_ ]exhausted|throttl")
_BUSY = re.compile(r"overloaded|over capacity|at capacity|loading model|model is (?:currently )?loading|unavailable")
_TOO_LARGE = re.compile(r"request too large|reduce (?:the|your) (?:length|message|input|prompt) size|must be reduced")
_PER_TIME = re.compile(r"\bretrydelay\b|per[ -](?:minute|min|second|sec|hour|day|model_per)|perminute|perday|retry in")


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """An error as a server told it: HTTP status, its words, and codes (lower case, code, type and status as one)."""

    status: int
    message: str
    codes: str
    details: str = ""
    """All of the body in lower case, as far as it is looked at: waits may be anywhere in it."""

    @property
    def text(self) -> str:
        """The server's words, with its code where they do not hold it."""
        code = next((code for code in self.codes.split() if not code.isdigit()), "")
        return f"{self.message} [{code}]" if code and code not in self.message.lower() else self.message


_LONGEST = 8000
"""Characters of an error body that are looked at."""


def read_error(status: int, body: str) -> ErrorAnswer:
    """Return the error in a body of any form: an object, a list with one, a bare text, a page."""
    try:
        parsed = json.loads(body) if len(body) <= 50 * _LONGEST else None
    except (ValueError, RecursionError):
        parsed = None
    found = _error_in(parsed)
    message, codes = body, ""
    if found is not None:
        message = next((text for text in _messages(found) if text), body)
        codes = " ".join(dict.fromkeys(_codes(found))).lower()
    return ErrorAnswer(status, message[:_LONGEST], codes[:300], body[:_LONGEST].lower())


def error_in_answer(body: str) -> ErrorAnswer | None:
    """Return the error that an answer with HTTP 200 holds instead of a reply, or None."""
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return None
    error = parsed.get("error") if isinstance(parsed, dict) else None
    choices = parsed.get("choices") if isinstance(parsed, dict) else None
    if not error and isinstance(choices, list) and choices and isinstance(choices[0], dict):
        error = choices[0].get("error")
    if not error and isinstance(parsed, list):
        error = _error_in(parsed)
    if not error:
        return None
    answer = read_error(200, json.dumps({"error": error}))
    code = error.get("code") if isinstance(error, dict) else None
    status = next((int(part) for part in re.findall(r"\b[45]\d\d\b", f"{code or ''} {answer.codes}")), 0)
    if not status:
        said = f"{answer.message} {answer.codes}".lower()
        status = 429 if _RATE.search(said) else 503 if _BUSY.search(said) else 500
    return ErrorAnswer(status, answer.message, answer.codes, answer.details)


def meaning_of(error: ErrorAnswer, parameters: Mapping[str, Any], model: str) -> Meaning:
    """Return what an error means for a request that was sent with these `parameters` to this `model`."""
    said = f"{error.message} {error.codes}".lower()
    if error.status in _CONTEXT_STATUSES and exceeds_context(said):
        return "context"
    if _TLS.search(said):
        return "tls"
    passing = error.status in _PASSING_STATUSES  # what a gateway says beside it is about itself
    if error.status not in (401, 402, 429) and (_has(error, _FILTER_CODES) or (not passing and _FILTER.search(said))):
        return "filtered"
    if error.status == 402 or (_says_credit(error, said) and not _PER_TIME.search(error.details)):
        return "credit"
    if error.status == 401:
        return "key"
    if error.status == 429:
        return "too_large" if _TOO_LARGE.search(said) else "rate"
    if _has(error, _MODEL_CODES):
        return "model"
    named = any(re.search(rf"\b{name}\b", said) for name in sent_names(parameters))
    if error.status != 404 and not passing and (named or names_a_parameter(said, parameters)):
        return "parameter"
    if error.status < 500 and (_has(error, _KEY_CODES) or _KEY.search(said)):
        return "key"
    if error.status < 500 and (error.status == 404 or _says_model(said, model)):
        return "model"
    if error.status == 403:
        return "forbidden"
    if error.status in (503, 529) or (error.status >= 500 and _BUSY.search(said)):
        return "busy"
    if error.status in (408, 409) or (error.status >= 500 and error.status not in REFUSAL_STATUSES):
        return "server"
    return "other"


def end_of_run(
    meaning: Meaning, url: str, chosen: DataGeneration, model: str, said: str, *, has_key: bool
) -> str | None:
    """Return the message where no further request will be answered: what, and what to do; else None.

    `said` is the endpoint's answer in brackets, `chosen` its own settings.
    """
    key, variable = chosen.address_key, chosen.api_key_env
    match meaning:
        case "key" | "forbidden":
            what = f"refuses the key in {variable}" if has_key else f"wants a key and {variable} is not set"
            return f"{url} {what} {said}.\nExport the right key as {variable}, or set another {key}."
        case "credit":
            return (
                f"The account behind {variable} has no quota left at {url} {said}.\nAdd credit and go on with "
                f"--resume, or set another key or {key}; {model} was to be asked."
            )
        case "model":
            return (
                f"{url} has no model {model!r} or no such address {said}.\nCheck data_generation.model and "
                f"{key}, which usually ends in /v1 (the key comes from {variable})."
            )
        case "tls":
            advice = address_advice(key, f"https{url[4:]}")
            return f"{url} wants an encrypted connection {said}.\n{advice[0].upper()}{advice[1:]}."
    return None


def _says_model(said: str, model: str) -> bool:
    """Whether a text is about a model that is not there; the model's own name in it counts as the word."""
    return _MODEL.search(said.replace(f"'{model.lower()}'", "model") if len(model) > 1 else said) is not None


def _says_credit(error: ErrorAnswer, said: str) -> bool:
    return _has(error, _CREDIT_CODES) or any(code in said for code in _CREDIT_CODES[:2]) or bool(_CREDIT.search(said))


def _has(error: ErrorAnswer, codes: tuple[str, ...]) -> bool:
    return any(code in codes for code in error.codes.split(" "))


def _error_in(parsed: Any) -> dict[str, Any] | None:
    """Return the object that describes the error; a bare text becomes one."""
    if isinstance(parsed, list):
        parsed = next((item for item in parsed if isinstance(item, dict)), None)
    if not isinstance(parsed, dict):
        return None
    inner = parsed.get("error")
    if isinstance(inner, dict):
        return {**inner, "outer": {name: value for name, value in parsed.items() if name != "error"}}
    return parsed


def _messages(error: Mapping[str, Any]) -> Iterator[str]:
    outer = error.get("outer")
    for holder in (error, outer if isinstance(outer, dict) else {}):
        for name in ("message", "msg", "detail", "error", "error_description", "title"):
            value = holder.get(name)
            if isinstance(value, str):
                yield value
            elif name == "detail" and isinstance(value, list):  # FastAPI's: [{"loc": […], "msg": "…"}]
                parts = [item for item in value if isinstance(item, dict)]
                yield "; ".join(
                    f"{'.'.join(str(step) for step in _list(item.get('loc')))}: {item.get('msg', '')}" for item in parts
                )


def _codes(error: Mapping[str, Any]) -> Iterator[str]:
    """Yield what stands for a kind of error: code, type, status, Azure's inner code, Google's reasons."""
    inner, outer = error.get("innererror"), error.get("outer")
    for holder in (error, inner if isinstance(inner, dict) else {}, outer if isinstance(outer, dict) else {}):
        for name in ("code", "type", "status", "reason"):
            value = holder.get(name)
            if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
                yield str(value).replace(" ", "_")
    for item in _list(error.get("details")):
        if isinstance(item, dict) and isinstance(item.get("reason"), str):
            yield item["reason"].replace(" ", "_")


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
