"""Gates of texts: what a document or a conversation must not be, told without a model, the cheapest check first.

As with pairs (`gates`), the judge is lenient and these are not: a number or a name that the passage does not hold,
words that point at the passage, a copy of it, a text that is there already.
"""

import re
from collections.abc import Iterator, Sequence

from lora_tui.engine.generation.claims import off_the_passage, wrong_names
from lora_tui.engine.generation.gates import Refusal, passage_reference
from lora_tui.engine.generation.injection import find_instruction
from lora_tui.engine.generation.question_checks import other_language
from lora_tui.engine.generation.stated_numbers import wrong_number
from lora_tui.scoring.words import tokens
from lora_tui.secrets import find_secret
from lora_tui.store.texts import NewText
from lora_tui.text import one_line

_FEWEST_WORDS = {"rewrite": 40, "summary": 15, "dialogue": 20}
_FEWEST_OF_PASSAGE = 0.35
"""Share of the passage's words that a rewrite has, at least: less is a summary."""

_MOST_OF_PASSAGE = {"rewrite": 3.0, "summary": 0.7}
_MOST_CHARACTERS = 24_000
_RUN = 12
"""Words in a row that count as copied: names and terms are shorter."""

_MOST_COPIED = 0.5
_MOST_ALIKE = 0.6
"""Share of the runs of five words that a text may have in common with another one about its passage."""

_FEWEST_EXCHANGES = 2


def check_text(
    text: NewText, passage: str, questions: Sequence[str], others: Sequence[str], *, by_rule: bool
) -> Refusal | None:
    """Return the refusal of the first gate that a text does not pass, or None.

    `questions` are those that it was written around, `others` the texts of its form about the same passage. What is
    made `by_rule` is the passage's own sentences: copying is no fault there.
    """
    return next(_refusals(text, passage, " ".join(questions), others, by_rule=by_rule), None)


def _refusals(
    text: NewText, passage: str, questions: str, others: Sequence[str], *, by_rule: bool
) -> Iterator[Refusal]:
    words, of_passage = len(text.body.split()), len(passage.split())
    least = min(_FEWEST_WORDS.get(text.form, 1), of_passage // 2)
    if text.form == "rewrite" and not by_rule:
        least = max(least, round(_FEWEST_OF_PASSAGE * of_passage))
    most = _MOST_OF_PASSAGE.get(text.form, 0) * max(of_passage, 60)
    if words < least:
        yield Refusal("too short", f"it has {words} words, of {of_passage} in the passage; the least is {least}")
    if len(text.body) > _MOST_CHARACTERS or (most and words > most):
        yield Refusal("too long", f"it has {words} words, of {of_passage} in the passage; the most is {most:.0f}")
    if text.form == "dialogue" and len(text.messages) < 1 + 2 * _FEWEST_EXCHANGES:
        yield Refusal("too short", f"a conversation has {_FEWEST_EXCHANGES} exchanges or more")
    # A transcript's labels, and our own system prompt, look like words to a model.
    turns = [message["content"] for message in text.messages if message["role"] != "system"]
    whole = "\n\n".join([text.title, *(turns or [text.body])])
    if found := passage_reference(whole):
        yield Refusal(
            "leans on the passage", f"«{_shown(found)}» means nothing to someone who has not seen the passage"
        )
    if kind := find_secret(whole):
        yield Refusal("holds a secret", f"it seems to hold {kind}")
    if to_model := find_instruction(whole):
        reason = f"«{to_model}» reads like words to a model: a person should look at it"
        yield Refusal("instructions", reason, "review")
    if language := other_language(text.body, passage):
        yield Refusal("another language", f"the passage is not in the same language ({language})")
    if not by_rule:
        if text.form != "dialogue" and (share := _copied(text.body, passage)) > _MOST_COPIED:
            yield Refusal("copied", f"{share:.0%} of it stands in the passage word for word")
        yield from _unsupported(text, passage, questions)
    if text.form != "dialogue" and any(_alike(text.body, other) > _MOST_ALIKE for other in others):
        yield Refusal("duplicate", "another text about the passage says it in nearly the same words")


def _unsupported(text: NewText, passage: str, questions: str) -> Iterator[Refusal]:
    """Yield the claims of a text that its passage does not hold."""
    said = [message["content"] for message in text.messages if message["role"] == "assistant"] or [text.body]
    for part in said:
        if number := wrong_number(part, passage, questions):
            yield Refusal("wrong number", f"the passage does not say {_shown(number)}")
        if off := off_the_passage(part, passage, questions):
            yield Refusal("off the passage", f"the passage does not speak of it: «{_shown(off)}»")
        if name := next(wrong_names(part, passage, questions, passage), None):
            yield Refusal("wrong name", f"«{_shown(name)}» is not in the passage")


def _copied(text: str, passage: str) -> float:
    """Return the share of a text's runs of `_RUN` words that stand in the passage."""
    ours, theirs = _runs(text, _RUN), set(_runs(passage, _RUN))
    return sum(run in theirs for run in ours) / len(ours) if ours else 0.0


def _alike(one: str, other: str) -> float:
    ours, theirs = set(_runs(one, 5)), set(_runs(other, 5))
    return len(ours & theirs) / len(ours | theirs) if ours and theirs else float(one == other)


def _runs(text: str, length: int) -> list[tuple[str, ...]]:
    words = tokens(text)
    return [tuple(words[place : place + length]) for place in range(len(words) - length + 1)]


def _shown(text: str) -> str:
    return one_line(re.sub(r"\s+", " ", text), 60)
