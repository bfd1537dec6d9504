"""How much of a folder a model knows, as plain data for the app and ``--json``, and the lines that say it.

Questions about facts that no question was trained on are asked of the fine-tuned model, of the base model, and of the
base model with the passage in view, which is about as much as there is to know. An answer counts as known from a score
of one half on: a person would rather accept it than not. `lora_tui.engine.jobs.knowledge` measures.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lora_tui.protocol.agreement import Estimate
from lora_tui.text import count

KNOWN = 0.5
"""The score (0-1) from which an answer counts as known."""


@dataclass(frozen=True, slots=True)
class KnowledgeAnswer:
    """A held-out question with the answers to it; scores are 0-1."""

    question: str
    reference: str
    document: str
    base: str
    tuned: str
    in_view: str
    base_score: float
    score: float
    in_view_score: float


@dataclass(frozen=True, slots=True)
class KnowledgeTest:
    """What the fine-tuned model, the base model, and the base model with the passage in view know.

    Of `questions` asked (`of` there are) about `documents`. `tuned`, `base` and `in_view` are mean scores (0-1) with
    their intervals, `…_known` counts answers. `gain` is the paired difference of tuned and base; `verdict` is
    ``better``, ``worse``, or ``open`` where its interval holds 0. `drawn` says what the intervals are a bootstrap of.
    """

    questions: int
    of: int
    documents: int
    tuned: Estimate
    base: Estimate
    in_view: Estimate
    tuned_known: int
    base_known: int
    in_view_known: int
    gain: Estimate
    verdict: str
    drawn: str
    answers: tuple[KnowledgeAnswer, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the fields as ``--json`` has them, with a sentence in ``summary``."""
        return {"summary": knowledge_summary(self), **asdict(self)}


def knowledge_from(fields: Mapping[str, Any]) -> KnowledgeTest:
    """Return a test from what `KnowledgeTest.as_json` wrote."""
    known = {name: fields[name] for name in KnowledgeTest.__dataclass_fields__ if name in fields}
    known |= {name: Estimate(**fields[name]) for name in ("tuned", "base", "in_view", "gain")}
    known["answers"] = tuple(KnowledgeAnswer(**one) for one in fields.get("answers", ()))
    return KnowledgeTest(**known)


def knowledge_summary(found: KnowledgeTest) -> str:
    """What the model knows, in a sentence without its end mark."""

    def share(known: int) -> str:
        return f"{100 * known / found.questions:.0f} %"

    return (
        f"it knows {share(found.tuned_known)} of the facts that were held out; the base model knows "
        f"{share(found.base_known)}, and {share(found.in_view_known)} with the passage in view"
    )


def knowledge_title(found: KnowledgeTest) -> str:
    """What was asked: "24 questions about facts held out from training, from 5 documents"."""
    some = f"{found.questions:,} of {found.of:,}" if found.questions < found.of else f"{found.questions:,}"
    noun = "question" if found.questions == found.of == 1 else "questions"
    text = f"{some} {noun} about facts held out from training"
    return f"{text}, from {count(found.documents, 'document')}" if found.documents else text


def knowledge_rows(found: KnowledgeTest) -> list[tuple[str, str]]:
    """Label and figure of each line: what each model knows, and what training has brought."""
    between = found.drawn != "nothing"

    def figure(known: int, one: Estimate) -> str:
        interval = f", {one.low:.2f} to {one.high:.2f}" if between else ""
        return f"{known:,} of {found.questions:,} known, mean score {one.value:.2f}{interval}"

    gain = f"{found.gain.value:+.2f}"
    if between:
        words = {"better": "training taught it", "worse": "training lost it"}
        told = words.get(found.verdict, "it cannot be told whether training taught it")
        gain = f"{gain} ({found.gain.low:+.2f} to {found.gain.high:+.2f}): {told}"
    return [
        ("base model", figure(found.base_known, found.base)),
        ("fine-tuned", figure(found.tuned_known, found.tuned)),
        ("base, passage in view", figure(found.in_view_known, found.in_view)),
        ("fine-tuned - base", gain),
    ]
