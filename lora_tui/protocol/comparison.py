"""Base model and adapter on held-out questions, as plain data for the app and ``--json``, and the lines that say it.

Scores lie in 0-1, intervals hold at 95 %. `lora_tui.engine.jobs.evaluate` measures, `lora_tui.scoring.paired` computes.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lora_tui.protocol.agreement import Estimate
from lora_tui.text import count

WORST = 10
"""Answers of the tuned model that a comparison lists: those with the lowest scores."""

NO_HELD_OUT = (
    "Training held no questions out, so none was asked that it had not seen. Hold some out with "
    "fine_tuning.training.validation_share = 0.1, or name a file of other questions: "
    "--run evaluate --train-data-file FILE."
)
"""Why there is no comparison."""


@dataclass(frozen=True, slots=True)
class ComparedAnswer:
    """A held-out question with what both models answered; `document` is empty where it is not known."""

    prompt: str
    reference: str
    document: str
    before: str
    after: str
    before_score: float
    score: float


@dataclass(frozen=True, slots=True)
class HeldOutComparison:
    """Both models' means on `questions` of `of` held-out questions, the paired difference, and the worst answers.

    `whole_documents` says that nothing was trained on about the `documents` that they are from. `drawn` is what the
    bootstrap of the intervals drew: ``documents`` or ``questions``; ``nothing`` where there were too few for one.
    `verdict` is ``better``, ``worse``, or ``open`` where the difference's interval holds 0.
    """

    questions: int
    of: int
    documents: int
    whole_documents: bool
    drawn: str
    base: Estimate
    tuned: Estimate
    difference: Estimate
    wins: int
    ties: int
    losses: int
    verdict: str
    worst: tuple[ComparedAnswer, ...] = ()
    source: str = ""
    """The file that the questions were read from; empty for those that training has held out."""
    unseen: bool = True
    """False where the file's questions may be ones trained on: what was trained on is missing, or has changed."""
    without_document: int = 0
    """Questions whose document is not known; where there are any, the bootstrap draws questions."""

    def as_json(self) -> dict[str, Any]:
        """Return the fields as ``--json`` has them, with a sentence in ``summary``."""
        return {"summary": verdict_text(self), **asdict(self)}


def comparison_from(fields: Mapping[str, Any]) -> HeldOutComparison:
    """Return a comparison from what `HeldOutComparison.as_json` wrote."""
    known = {name: fields[name] for name in HeldOutComparison.__dataclass_fields__ if name in fields}
    known |= {name: Estimate(**fields[name]) for name in ("base", "tuned", "difference")}
    known["worst"] = tuple(ComparedAnswer(**one) for one in fields.get("worst", ()))
    return HeldOutComparison(**known)


def verdict_text(found: HeldOutComparison) -> str:
    """Whether fine-tuning helped on the held-out questions, in a sentence without its end mark."""
    change = f"{found.difference.value:+.2f}"
    if found.drawn == "nothing":
        return f"{change}: {count(found.questions, 'question')} are too few to tell whether fine-tuning helped"
    interval = f"{change} ({found.difference.low:+.2f} to {found.difference.high:+.2f})"
    words = {
        "better": "fine-tuning helped",
        "worse": "fine-tuning made it worse",
    }
    return f"{interval}: {words.get(found.verdict, 'it cannot be told whether fine-tuning helped')}"


def questions_text(found: HeldOutComparison) -> str:
    """What was asked: "40 of 120 held-out questions, from 6 documents that were not trained on"."""
    some = f"{found.questions:,} of {found.of:,}" if found.questions < found.of else f"{found.questions:,}"
    where = "questions of the named file" if found.source else "held-out questions"
    text = f"{some} {where}"
    if found.documents:
        text += f", from {count(found.documents, 'document')}"
        were = "was" if found.documents == 1 else "were"
        text += f" that {were} not trained on" if found.whole_documents else ""
    return text if found.unseen else f"{text}; it is not known which of them were trained on"


def interval_note(found: HeldOutComparison) -> str:
    """How the intervals came about, and what they leave out."""
    if found.drawn == "nothing":
        return "too few questions for an interval"
    if found.drawn == "documents":
        return f"95 % intervals, bootstrap over {count(found.documents, 'document')}"
    if found.without_document:
        unknown = count(found.without_document, "question")
        return (
            f"95 % intervals, bootstrap over questions; the document of {unknown} is not known, so they may be narrow"
        )
    few = f"; of {count(found.documents, 'document')} only, so the truth may lie outside" if found.documents else ""
    return f"95 % intervals, bootstrap over questions{few}"


def worst_title(found: HeldOutComparison) -> str:
    """The heading over the worst answers: "the 10 worst answers"."""
    return "the worst answer" if len(found.worst) == 1 else f"the {len(found.worst):,} worst answers"


def comparison_rows(found: HeldOutComparison) -> list[tuple[str, str]]:
    """Label and figure of each line: both means, the difference, who answered better, and the intervals' kind."""
    between = found.drawn != "nothing"

    def figure(one: Estimate) -> str:
        return f"{one.value:.2f}" + (f" ({one.low:.2f} to {one.high:.2f})" if between else "")

    return [
        ("base model", figure(found.base)),
        ("fine-tuned", figure(found.tuned)),
        ("difference", verdict_text(found)),
        ("answers", f"{found.wins:,} better, {found.ties:,} the same, {found.losses:,} worse"),
        ("intervals", interval_note(found)),
    ]
