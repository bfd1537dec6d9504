"""The batch analysis: statistics of the accepted pairs so far, and the directives for the prompts that follow.

The statistics are computed here, without a model; a model may interpret them, and a run goes on if it cannot. They
yield at most `MAX_DIRECTIVES` short sentences for the prompts. Slots need no directives: `planner` balances them by
itself.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from lora_tui.engine.generation.near_duplicates import grams, jaccard
from lora_tui.engine.generation.question_types import QUESTION_TYPES
from lora_tui.store import generation as store_generation
from lora_tui.store.connection import Store

MAX_DIRECTIVES = 4

RECENT = 50
"""How many of the newest accepted pairs are compared with each other."""

ALIKE = 0.5
"""Jaccard similarity of questions that resemble each other. The gate refuses from 0.7 on; what lies below shows how
fast the set runs out of new questions."""

_DIRECTIVES = {
    "judge_groundedness": "Say nothing in an answer that the passage does not say.",
    "judge_correctness": "Answer exactly what is asked, and completely.",
    "judge_usefulness": "Ask what is worth knowing, and name everything the question is about.",
}
_WEAK = 0.75
_CROWDED = 2.0


async def statistics_of(store: Store, run_id: int, files: int) -> dict[str, Any]:
    """Return the statistics of a run's pairs; `files` is the number of files it reads."""
    accepted = ("accepted",)
    judged = ("accepted", "rejected")
    dimensions = {
        name: await store_generation.histogram(store, run_id, name, accepted)
        for name in ("question_type", "difficulty", "audience")
    }
    topics = await store_generation.histogram(store, run_id, "topic", accepted)
    sources = await store_generation.histogram(store, run_id, "source", accepted)
    judged_types = await store_generation.histogram(store, run_id, "question_type", judged)
    newest = await store_generation.newest_pairs(store, run_id, accepted, RECENT)
    counts = await store_generation.pair_counts(store, run_id)
    means = await store_generation.mean_metrics(store, run_id)
    means = {name: mean for name, mean in means.items() if "@" not in name}  # without each judge's own
    return {
        "pairs": counts,
        "causes": await store_generation.rejection_causes(store, run_id),
        "topics": dict(list(topics.items())[:20]),
        "different_topics": len(topics),
        **dimensions,
        "entropy": round(entropy(topics), 3),
        "files": files,
        "files_covered": len(sources),
        "acceptance_by_type": acceptance(dimensions["question_type"], judged_types),
        "metrics": {name: round(value, 3) for name, value in means.items()},
        "weakest": weakest(means),
        "near_duplicate_rate": round(near_duplicate_rate([pair.question for pair in newest]), 3),
        "mean_answer_words": round(sum(len(pair.answer.split()) for pair in newest) / max(1, len(newest)), 1),
    }


def directives_from(statistics: Mapping[str, Any]) -> list[str]:
    """Return the directives for the next prompts, the most important first."""
    found: list[str] = []
    if weak := statistics["weakest"]:
        found.append(_DIRECTIVES[weak])
    crowded = crowded_topics(statistics["topics"], statistics["different_topics"])
    if crowded:
        found.append("Well covered already, ask about something else where you can: " + ", ".join(crowded) + ".")
    if statistics["near_duplicate_rate"] > 0.2:
        found.append("Many questions begin alike: begin with another word than What or How where it reads well.")
    if lacking := missing_value(statistics["question_type"], QUESTION_TYPES):
        found.append(f"Rare so far, welcome where the passage allows: {QUESTION_TYPES[lacking]}.")
    return found[:MAX_DIRECTIVES]


def entropy(histogram: Mapping[str, int]) -> float:
    """Return the Shannon entropy of a histogram in bits."""
    total = sum(histogram.values())
    return sum(-n / total * math.log2(n / total) for n in histogram.values() if n) if total else 0.0


def acceptance(accepted: Mapping[str, int], judged: Mapping[str, int]) -> dict[str, float]:
    """Return the share of the judged pairs that was accepted, by value."""
    return {name: round(accepted.get(name, 0) / n, 2) for name, n in judged.items() if n}


def weakest(means: Mapping[str, float]) -> str | None:
    """Return the judge's metric with the lowest mean, if that mean is below 0.75."""
    known = {name: means[name] for name in _DIRECTIVES if name in means}
    lowest = min(known, key=lambda name: known[name], default=None)
    return lowest if lowest is not None and known[lowest] < _WEAK else None


def crowded_topics(topics: Mapping[str, int], different: int, most: int = 5) -> list[str]:
    """Return the topics that have more than twice their fair share, the most frequent first."""
    total = sum(topics.values())
    fair = total / max(1, different)
    return [topic for topic, n in Counter(topics).most_common(most) if topic and n >= 2 and n > _CROWDED * fair]


def missing_value(histogram: Mapping[str, int], values: Mapping[str, str]) -> str | None:
    """Return the rarest value if it has less than half its fair share and there are twice as many pairs as values."""
    total = sum(histogram.values())
    rarest = min(values, key=lambda value: histogram.get(value, 0))
    return rarest if total >= 2 * len(values) and histogram.get(rarest, 0) * len(values) < total / 2 else None


def near_duplicate_rate(questions: Sequence[str]) -> float:
    """Return the share of questions that resemble another one: a Jaccard similarity of `ALIKE` or more."""
    known = [grams(question) for question in questions]
    alike: set[int] = set()
    for (i, one), (j, other) in combinations(enumerate(known), 2):
        if jaccard(one, other) >= ALIKE:
            alike |= {i, j}
    return len(alike) / len(known) if known else 0.0


def describe(statistics: Mapping[str, Any]) -> str:
    """Return the statistics as a sentence or two, for want of a model that interprets them."""
    pairs = statistics["pairs"]
    words = (
        f"{pairs.get('accepted', 0)} pairs accepted, {pairs.get('rejected', 0)} rejected; "
        f"{statistics['different_topics']} topics ({statistics['entropy']:.1f} bits), "
        f"{statistics['files_covered']} of {statistics['files']} files covered, "
        f"{statistics['near_duplicate_rate']:.0%} of the questions resemble another."
    )
    if weak := statistics["weakest"]:
        words += f" Weakest: {weak.removeprefix('judge_')} ({statistics['metrics'][weak]:.2f} of 1)."
    return words
