"""The forms in which a model can be asked for pairs, and the ladder that finds the one a model can keep.

A large model behind a full server writes a list of pairs under a JSON schema. A small one behind a simple server does
not: SmolLM2 behind llama-cpp-python is refused the schema, writes any other JSON, and once it is held to the schema,
quotes sentences that do not exist. Each step down takes something off the model: the format, then the choice of the
sentence, then the beginning of the question.

What decides is whether replies hold a *usable* pair, one that the gates let through. A form that has brought one is
left after `_MOST_UNUSABLE` unusable replies of the last `_WINDOW`, one that has not after `_TRIES`. A form that the
server refuses is left at once.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from lora_tui.engine.generation.client.enforcement import Enforcement

ReplyForm = Literal[
    "json_schema", "json_object_schema", "json_object", "tool_call", "grammar", "plain", "flat", "begun"
]
"""Down to ``plain`` the model picks the evidence and writes a list of pairs, with the form enforced or only asked for.

From ``flat`` on the program picks the sentence, and the model writes one question and its answer, words of it. For
``begun`` the program picks the answer, too, and begins the question, as it does for the built-in model.
"""

REPLY_FORMS: Mapping[ReplyForm, str] = {
    "json_schema": "JSON under a schema (json_schema)",
    "json_object_schema": "JSON under a schema (json_object)",
    "json_object": "JSON of any form (json_object)",
    "tool_call": "the arguments of a tool call",
    "grammar": "JSON under a grammar",
    "plain": "JSON in words alone",
    "flat": "one question and answer about a sentence that the program picks",
    "begun": "the rest of a question that the program begins about a sentence",
}
"""The forms from the one that asks most of model and server to the one that asks least, in words."""

SINGLE_FORMS: tuple[ReplyForm, ...] = ("flat", "begun")
"""The forms of a weak model, which writes only about single sentences."""

JudgeForm = Literal["digits", "levels", "yes_no", "gates"]

JUDGE_FORMS: Mapping[JudgeForm, str] = {
    "digits": "three digits",
    "levels": "three levels in JSON",
    "yes_no": "yes or no to each dimension",
    "gates": "nothing: the program's gates and its measures of text decide alone",
}
"""The forms of judgement from the one that asks most of the model to the one that asks nothing, in words."""

_ORDER: tuple[ReplyForm, ...] = tuple(REPLY_FORMS)
_TRIES = 2
_MOST_UNUSABLE, _WINDOW = 6, 8


@dataclass
class FormLadder:
    """The form of a model's replies: `current`, `proven` once it has brought a usable pair.

    `refused` are the forms that the server does not take, `kept` those whose replies had the form that was asked for.
    `how` says why it is the current one.
    """

    current: ReplyForm = _ORDER[0]
    proven: bool = False
    how: str = ""
    refused: set[ReplyForm] = field(default_factory=set)
    kept: set[ReplyForm] = field(default_factory=set)
    _recent: deque[bool] = field(default_factory=lambda: deque(maxlen=_WINDOW))

    @property
    def enforcement(self) -> Enforcement:
        """How the server is to enforce the form of a reply, whatever it is about."""
        return self.enforcement_of(self.current)

    def enforcement_of(self, form: ReplyForm) -> Enforcement:
        """Return how the server is to enforce a form; for ``flat``, the first way that had an effect."""
        for known in ("json_schema", "json_object_schema", "json_object", "tool_call", "grammar"):
            if form == known or (form == "flat" and known in self.kept and known not in self.refused):
                return known
        return "none"

    def record(self, form: ReplyForm, reason: str | None) -> str | None:
        """Record a reply in a form: usable, or not for a `reason`; returns why the form was left, if it was.

        Replies to requests that left before the last step down no longer count.
        """
        if form != self.current:
            return None
        self._recent.append(reason is None)
        if reason is None:
            self.proven = True
            return None
        unusable = self._recent.count(False)
        if unusable < (_MOST_UNUSABLE if self.proven else _TRIES) or self.is_last:
            return None
        replies = f"{unusable} of the last {len(self._recent)} replies" if self.proven else "its replies"
        self._lower(unable=form in self.kept and form != _ORDER[0])
        self.how = f"{replies} to {REPLY_FORMS[form]} held no usable pair ({reason})"
        return f"{replies} held no usable pair ({reason})"

    def refuse(self, form: ReplyForm) -> bool:
        """Record that the server does not take a form; returns whether that was new."""
        if form in self.refused:
            return False
        self.refused.add(form)
        if form == self.current:
            self.how = f"the server does not take {REPLY_FORMS[form]}"
            self._lower()
        return True

    @property
    def is_last(self) -> bool:
        """Whether there is no form below the current one."""
        return all(form in self.refused for form in _ORDER[_ORDER.index(self.current) + 1 :])

    def _lower(self, *, unable: bool = False) -> None:
        """Go to the next form; `unable`: the model kept to the schema and had nothing to say, so no other way helps."""
        if self.is_last:  # the server completes no texts: back to single pairs, the last form that it does take
            self.current = "flat"
            return
        # Where the schema beside `json_object` had no effect, leaving it out has none either.
        skipped = (
            {"json_object"} if self.current == "json_object_schema" and self.current not in self.refused else set()
        )
        start: ReplyForm = "flat" if unable else _ORDER[_ORDER.index(self.current) + 1]
        below = _ORDER[_ORDER.index(start) :]
        self.current = next(form for form in below if form not in self.refused and form not in skipped)
        self.proven = False
        self._recent.clear()
