"""One pair in words: the passage with its evidence marked, what was measured, and why it was decided as it was."""

import re
from collections.abc import Mapping
from typing import Any

from lora_tui.store.queries.generation import DecisionLine, PairDetail
from lora_tui.text import one_line
from lora_tui.tui.curve import bar
from lora_tui.tui.text import DIM, Content, line, plain, styled
from lora_tui.tui.theme import VERDICT_COLOURS, VERDICT_GLYPHS, VERDICT_WORDS

_NAMES = {
    "judge_groundedness": "judge: grounded",
    "judge_correctness": "judge: correct",
    "judge_usefulness": "judge: useful",
    "coverage": "evidence holds it",
    "grounding": "words of the passage",
    "token_f1": "shared words",
    "rougeL": "ROUGE-L",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "bleu": "BLEU",
    "exact_match": "exact match",
    "likelihood": "likelihood",
}
_SOFT_BREAK = re.compile(r"(?<=\S)\n(?=[^\s#>|*+\-\d])")
"""A line's end inside a paragraph: not before a list, a table, a heading, a quotation or an indented line."""

_BAR = 14
_NAME = 21


def metric_name(name: str) -> str:
    """A metric's name for people."""
    return _NAMES.get(name, name)


def passage(detail: PairDetail) -> Content:
    """The passage with the evidence in reverse; brackets mark it as well, for terminals without colour."""
    text = _SOFT_BREAK.sub(" ", detail.passage)
    found = _find(text, detail.pair.evidence)
    if found is None:
        quoted = ("\n\nThe evidence it names is not in the passage:\n", "$warning")
        return styled(plain(text), *((quoted, plain(detail.pair.evidence, "italic")) if detail.pair.evidence else ()))
    start, end = found
    return styled(
        plain(text[:start]), ("▐", "$accent"), plain(text[start:end], "reverse"), ("▌", "$accent"), plain(text[end:])
    )


def _find(text: str, evidence: str) -> tuple[int, int] | None:
    """Where the evidence stands in the passage, whatever its white space; None when it does not."""
    words = evidence.split()
    if not words:
        return None
    found = re.search(r"\s+".join(re.escape(word) for word in words), text, re.IGNORECASE)
    return found.span() if found else None


def in_force(detail: PairDetail) -> DecisionLine | None:
    """The decision that holds: the newest that was not taken back."""
    return next((decision for decision in detail.decisions if decision.undone_at is None), None)


def _who(decision: DecisionLine) -> str:
    names = {"aggregator": "the aggregator", "gate": "a check before the judge", "person": "you"}
    return names.get(decision.decided_by, one_line(decision.decided_by, 40))


def verdict(detail: PairDetail) -> Content:
    """The verdict with its score, who gave it, and why."""
    pair = detail.pair
    newest = in_force(detail)
    colour = VERDICT_COLOURS.get(pair.state, "")
    head = f"{VERDICT_GLYPHS.get(pair.state, '·')} {VERDICT_WORDS.get(pair.state, pair.state)}"
    parts: list[Any] = [(head, f"bold {colour}")]
    if pair.score is not None:
        threshold = f" of 10, threshold {newest.threshold:g}" if newest and newest.threshold is not None else " of 10"
        parts += [(f"  {pair.score:.1f}", "bold"), (threshold, DIM)]
    if newest is not None:
        parts.append((f"\nby {_who(newest)}, weights {newest.weights_version or '–'}", DIM))
    if pair.reason:
        parts += ["\n", plain(pair.reason)]
    return styled(*parts)


def measures(detail: PairDetail) -> Content:
    """Each metric as a bar with its value and the weight it had in the newest decision by weights."""
    if not detail.metrics:
        return Content.styled("Nothing was measured: it never reached the judge.", DIM)
    weights: Mapping[str, float] = next((d.weights for d in detail.decisions if d.weights), {})
    lines = [styled((f"{'':{_NAME}}{'':{_BAR}} value weight", DIM))]
    for metric in sorted(detail.metrics, key=lambda m: (-weights.get(m.name, 0.0), m.name)):
        weight = weights.get(metric.name)
        lines.append(
            styled(
                f"{one_line(metric_name(metric.name), _NAME):{_NAME}}",
                (f"{bar(metric.value, _BAR):{_BAR}}", "$accent"),
                f" {metric.value:5.2f}",
                (f"  {weight:.2f}" if weight is not None else "     –", DIM),
            )
        )
    return Content("\n").join(lines)


def judge_words(detail: PairDetail) -> Content:
    """What the judge said, where it said anything."""
    said = list(dict.fromkeys(m.detail for m in detail.metrics if m.detail and m.detail.strip(": ")))
    return Content("\n").join([plain(words, limit=2000) for words in said]) if said else Content("")


def history(detail: PairDetail) -> Content:
    """Other decisions and earlier wordings, newest first; nothing where there is just one."""
    lines: list[Content] = []
    holds = in_force(detail)
    for decision in detail.decisions:
        if decision is not holds:
            when = "before" if decision.undone_at is None else "taken back"
            verdict = VERDICT_WORDS.get(decision.verdict, decision.verdict)
            lines.append(styled((f"{when}: {verdict} by {_who(decision)}", DIM)))
    lines += [
        styled(("edited; it was: ", DIM), line(edit.question, 200)) for edit in detail.edits if edit.undone_at is None
    ]
    return Content("\n").join(lines)
