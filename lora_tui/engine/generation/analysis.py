"""The batch analysis: statistics of the accepted pairs so far, and the directives for the prompts that follow.

The statistics are computed here, without a model; a model may interpret them, and a run goes on if it cannot. They
yield at most `MAX_DIRECTIVES` short sentences for the prompts, and the same as `Steering` for a writer that is a
program. Slots need no directives: `planner` balances them by itself.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from lora_tui.engine.generation import diversity
from lora_tui.engine.generation.generation_model import Steering
from lora_tui.engine.generation.question_types import QUESTION_TYPES
from lora_tui.engine.generation.topic_tree import TopicTree
from lora_tui.store import generation as store_generation
from lora_tui.store import topics as store_topics
from lora_tui.store.connection import Store

MAX_DIRECTIVES = 4

RECENT = 50
"""How many of the newest accepted pairs are compared with each other."""

MEASURES = ("coverage", "topic_entropy", "question_entropy", "distinct_2", "near_duplicate_rate")
"""The statistics that an analysis repeats of the one before, under ``before``: what became of its directives."""

_DIRECTIVES = {
    "judge_groundedness": "Say nothing in an answer that the passage does not say.",
    "judge_correctness": "Answer exactly what is asked, and completely.",
    "judge_usefulness": "Ask what is worth knowing, and name everything the question is about.",
}
_WEAK = 0.75
_CROWDED = 2.0
_CROWDED_SHARE = 0.1
_MOST_NAMED = 20
_LACKING = 7


async def statistics_of(
    store: Store, run_id: int, files: int, passages: int = 0, tree: TopicTree | None = None
) -> dict[str, Any]:
    """Return the statistics of a run's pairs; it reads so many `files` with so many `passages`."""
    accepted = ("accepted",)
    judged = ("accepted", "rejected")
    dimensions = {
        name: await store_generation.histogram(store, run_id, name, accepted)
        for name in ("question_type", "difficulty", "audience")
    }
    topics = await store_generation.histogram(store, run_id, "topic", accepted)
    sources = await store_generation.histogram(store, run_id, "source", accepted)
    judged_types = await store_generation.histogram(store, run_id, "question_type", judged)
    asked = await store_generation.histogram(store, run_id, "asked_type", judged)
    kept_as_asked = await store_generation.followed_types(store, run_id, judged)
    newest = await store_generation.newest_pairs(store, run_id, accepted, RECENT)
    counts = await store_generation.pair_counts(store, run_id)
    means = await store_generation.mean_metrics(store, run_id)
    means = {name: mean for name, mean in means.items() if "@" not in name}  # without each judge's own
    questions = [pair.question for pair in newest]
    return {
        "pairs": counts,
        "causes": await store_generation.rejection_causes(store, run_id),
        "topics": dict(list(topics.items())[:_MOST_NAMED]),
        "different_topics": len(topics),
        **dimensions,
        "entropy": round(diversity.entropy(topics), 3),
        **await _coverage(store, run_id, tree),
        "passages": passages,
        "passages_covered": await store_generation.covered_passages(store, run_id),
        "question_entropy": round(diversity.question_entropy(questions), 3),
        "distinct_2": round(diversity.distinct_2(questions), 3),
        "openings": dict(Counter(map(diversity.opening_of, questions)).most_common(5)),
        "acceptance_by_file": await _acceptance_by_file(store, run_id, sources),
        "written_as_asked": acceptance(kept_as_asked, asked),
        "files": files,
        "files_covered": len(sources),
        "acceptance_by_type": acceptance(dimensions["question_type"], judged_types),
        "metrics": {name: round(value, 3) for name, value in means.items()},
        "weakest": weakest(means),
        "near_duplicate_rate": round(diversity.near_duplicate_rate(questions), 3),
        "mean_answer_words": round(sum(len(pair.answer.split()) for pair in newest) / max(1, len(newest)), 1),
        "steering": {
            "openings": diversity.crowded_openings(questions),
            "words": diversity.crowded_words(questions),
            "types": lacking_types(dimensions["question_type"]),
        },
    }


async def _coverage(store: Store, run_id: int, tree: TopicTree | None) -> dict[str, Any]:
    """Return how many topics of the tree have an accepted pair, how evenly, and which have many or none."""
    if tree is None:
        return {}
    counts = {leaf.number: 0 for leaf in tree.leaves if tree.weight(leaf.number) > 0}
    judged = await store_topics.pairs_by_topic(store, run_id)
    counts |= {number: accepted for number, (accepted, _) in judged.items() if number in counts}
    quotas, total = tree.quotas(), sum(counts.values())
    behind = sorted(counts, key=lambda number: (counts[number] - total * quotas.get(number, 0), number))
    return {
        "tree_topics": len(counts),
        "tree_topics_covered": sum(map(bool, counts.values())),
        "coverage": round(sum(map(bool, counts.values())) / max(1, len(counts)), 3),
        "topic_entropy": round(diversity.entropy({str(number): n for number, n in counts.items()}), 3),
        "topics_behind": {tree.name_of(number): counts[number] for number in behind[:5]},
        "acceptance_by_topic": {
            tree.name_of(number): round(accepted / proposed, 2)
            for number, (accepted, proposed) in sorted(judged.items(), key=lambda one: one[1][0] / one[1][1])[:5]
            if proposed >= 5
        },
    }


async def _acceptance_by_file(store: Store, run_id: int, accepted: Mapping[str, int]) -> dict[str, float]:
    """Return the acceptance of the five files that have the lowest, of those with five judged pairs or more."""
    judged = await store_generation.histogram(store, run_id, "source", ("accepted", "rejected"))
    shares = acceptance(accepted, {source: n for source, n in judged.items() if n >= 5})
    return dict(sorted(shares.items(), key=lambda item: item[1])[:5])


def directives_from(statistics: Mapping[str, Any]) -> list[str]:
    """Return the directives for the next prompts, the most important first."""
    found: list[str] = []
    if weak := statistics["weakest"]:
        found.append(_DIRECTIVES[weak])
    crowded = crowded_topics(statistics["topics"], statistics["different_topics"])
    if statistics.get("tree_topics"):  # by quotas none is; what models call a topic is new each time
        accepted = statistics["pairs"].get("accepted", 0)
        crowded = [topic for topic in crowded if statistics["topics"][topic] >= max(3, _CROWDED_SHARE * accepted)]
    if crowded:
        found.append("Well covered already, ask about something else where you can: " + ", ".join(crowded) + ".")
    steering = steering_from(statistics)
    if steering.openings:
        begun = ", ".join(f'"{opening.capitalize()} …"' for opening in steering.openings)
        found.append(f"Many questions begin with {begun}: begin otherwise where it reads well.")
    elif statistics["near_duplicate_rate"] > 0.2:
        found.append("Many questions resemble each other: ask what no other question asks, in other words.")
    if steering.words:
        found.append(f"Many questions name {', '.join(steering.words)}: ask about other things where you can.")
    if lacking := missing_value(statistics["question_type"], QUESTION_TYPES):
        found.append(f"Rare so far, welcome where the passage allows: {QUESTION_TYPES[lacking]}.")
    return found[:MAX_DIRECTIVES]


def steering_from(statistics: Mapping[str, Any]) -> Steering:
    """Return the directives of stored statistics for a writer that is a program; those of before have none."""
    stored = statistics.get("steering") or {}
    openings, types, words = (tuple(map(str, stored.get(name) or ())) for name in ("openings", "types", "words"))
    return Steering(openings, types, words)


def lacking_types(histogram: Mapping[str, int]) -> list[str]:
    """Return the question types with less than half their fair share, the rarest first, once there are 16 pairs."""
    total = sum(histogram.values())
    if total < 2 * len(QUESTION_TYPES):
        return []
    lacking = [name for name in QUESTION_TYPES if histogram.get(name, 0) * len(QUESTION_TYPES) < total / 2]
    return sorted(lacking, key=lambda name: histogram.get(name, 0))[:_LACKING]


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


def describe(statistics: Mapping[str, Any]) -> str:
    """Return the statistics as a sentence or two, for want of a model that interprets them."""
    pairs = statistics["pairs"]
    words = (
        f"{pairs.get('accepted', 0)} pairs accepted, {pairs.get('rejected', 0)} rejected; "
        f"{statistics['different_topics']} topics ({statistics['entropy']:.1f} bits), "
        f"{statistics['files_covered']} of {statistics['files']} files covered, "
        + (
            f"{statistics['tree_topics_covered']} of {statistics['tree_topics']} parts of the folder, "
            if statistics.get("tree_topics")
            else ""
        )
        + f"{100 * statistics['near_duplicate_rate']:.0f} % of the questions resemble another."
    )
    if weak := statistics["weakest"]:
        words += f" Weakest: {weak.removeprefix('judge_')} ({statistics['metrics'][weak]:.2f} of 1)."
    return words
