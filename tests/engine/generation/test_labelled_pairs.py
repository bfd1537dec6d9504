"""The gates on labelled pairs, which lie beside this file: what each kind of fault is stopped by, and what is lost.

The first set was before the rules' eyes. The others were measured before any rule saw them: the second, from the same
passages; the third, from two more chapters of the guide; the fourth to sixth about other subjects and in freer words.
Before the rules had seen them, 16 of 49, 6 of 34 and 6 of 26 of their right pairs were refused, each time for other
reasons: what right answers in free words lose in a new text is nearer to that than to the figures of this table.

The table is printed by `python -m tests.engine.generation.test_labelled_pairs`. A pair counts as stopped whatever gate
stops it; a gate's precision is the share of pairs it stops that are not right ones.
"""

import json
import re
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from lora_tui.engine.generation.gates import check_gates
from lora_tui.engine.generation.generation_model import ProposedPair
from lora_tui.engine.generation.near_duplicates import NearDuplicates

TEXTS = Path(__file__).parents[2] / "bench" / "texts"
FREE_WORDS: list[dict[str, str]] = json.loads(Path(__file__).with_name("free_word_pairs.json").read_text("utf-8"))
"""Pairs in the freest words that are still right, about texts of the benchmarks, and wrong ones like them.

Of the right ones of the seventh set 33 of 96 were refused before the rules were mended by them, of the eighth, which
was written after that, 5 of 38 (7 by the rules before); then of the ninth 20 of 60, of the tenth, written after the
ninth, 4 of 30 (11 by the rules before the ninth), of the eleventh, after both, 7 of 40 (15). Nothing wrong passed in
the three but one of the 24 of the eleventh in between.
"""

DATA: dict[str, Any] = json.loads(Path(__file__).with_name("labelled_pairs.json").read_text("utf-8"))

LATER = ("second", "third", "fourth", "fifth", "sixth")


def cause_of(labelled: dict[str, str]) -> str | None:
    """Return the cause for which a labelled pair is kept from the judge, or None."""
    passage = DATA["passages"][labelled["passage"]]["text"]
    pair = ProposedPair(labelled["question"], labelled["answer"], labelled["evidence"], "")
    if (refusal := check_gates(pair, passage)) is not None:
        return refusal.cause
    index = NearDuplicates()
    if "like" in labelled:
        index.add(labelled["like"])
    return "near duplicate" if index.find(labelled["question"]) else None


@cache
def stopped() -> dict[tuple[str, str], Counter[str]]:
    """Return for each set and kind of pair how many each gate stops; "" counts those that pass."""
    found: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for labelled in DATA["pairs"]:
        found[labelled.get("set", "first"), labelled["kind"]][cause_of(labelled) or ""] += 1
    return found


def passage_of(labelled: dict[str, str]) -> str:
    """Return the passage of a labelled pair: its own, or what is around its evidence in a benchmark's text."""
    if "passage" in labelled:
        return str(DATA["passages"][labelled["passage"]]["text"])
    text, evidence = (TEXTS / labelled["file"]).read_text("utf-8"), labelled["evidence"]
    at = text.index(evidence)
    return text[max(0, at - 700) : at + len(evidence) + 700]


def cause_in_free_words(labelled: dict[str, str]) -> str | None:
    """Return the cause for which a pair of `FREE_WORDS` is refused, None for none."""
    pair = ProposedPair(labelled["question"], labelled["answer"], labelled["evidence"], "")
    refusal = check_gates(pair, passage_of(labelled))
    return refusal.cause if refusal else None


_FIGURE = re.compile(r"(?<![\w.,:=-])\d[\d,]*(?:\.\d+)?(?![\w:=-])")


def exchanged_numbers() -> list[bool]:
    """Exchange each number, in digits, of the right answers for others, and tell for each whether a gate stops it."""
    found = []
    for labelled in (*DATA["pairs"], *FREE_WORDS):
        passage, answer = passage_of(labelled), labelled["answer"]
        for match in _FIGURE.finditer(answer) if labelled["kind"] == "right" else ():
            value = float(match.group().replace(",", ""))
            others = {f"{value + by:g}" for by in (1, -1, 2, -2, 10, -10) if value + by > 1}
            others |= set(_FIGURE.findall(passage)) - {match.group()}
            for other in sorted(others):
                wrong = answer[: match.start()] + other + answer[match.end() :]
                pair = ProposedPair(labelled["question"], wrong, labelled["evidence"], "")
                found.append(check_gates(pair, passage) is not None)
    return found


def recall(kind: str, part: str = "first") -> float:
    causes = stopped()[part, kind]
    return 1 - causes[""] / causes.total()


def test_right_answers_in_the_freest_words_pass_and_wrong_ones_like_them_do_not() -> None:
    causes = [(labelled["kind"], cause_in_free_words(labelled)) for labelled in FREE_WORDS]
    right = [cause for kind, cause in causes if kind == "right"]
    assert len(right) > 260
    assert sum(cause is not None for cause in right) <= 0.03 * len(right)
    for wrong, least in (("wrong number", 0.95), ("wrong name", 0.9), ("negated", 0.9), ("off the passage", 0.95)):
        found = [cause for kind, cause in causes if kind == wrong]
        assert sum(cause is not None for cause in found) >= least * len(found), wrong


def test_a_number_of_a_right_answer_is_exchanged_for_another_and_stopped() -> None:
    stopped_ones = exchanged_numbers()
    assert len(stopped_ones) > 1000
    assert sum(stopped_ones) >= 0.85 * len(stopped_ones)


def test_there_are_three_hundred_pairs_of_every_kind_and_the_licence_of_what_is_quoted() -> None:
    kinds = Counter(labelled["kind"] for labelled in DATA["pairs"])
    assert kinds.total() >= 300
    assert len(kinds) == 12
    assert min(kinds.values()) >= 8
    assert "MIT License" in DATA["licence"]


@pytest.mark.parametrize(
    ("kind", "least"),
    [
        ("wrong number", 0.95),
        ("off the passage", 0.95),
        ("wrong name", 0.9),
        ("negated", 0.8),
        ("near duplicate", 0.85),
        ("not self-contained", 0.9),
        ("trivial", 0.9),
        ("answer in the question", 0.9),
        ("injected", 1.0),
        ("secret", 1.0),
        ("other language", 0.9),
    ],
)
def test_wrong_pairs_are_stopped_without_a_model(kind: str, least: float) -> None:
    assert recall(kind) >= least, stopped()["first", kind]


def test_right_pairs_pass() -> None:
    assert recall("right") <= 0.03, stopped()["first", "right"]
    later = sum((stopped()[part, "right"] for part in LATER), Counter[str]())
    assert later.total() >= 160
    assert 1 - later[""] / later.total() <= 0.03, later


@pytest.mark.parametrize(
    ("kind", "least"), [("wrong number", 0.95), ("off the passage", 0.95), ("wrong name", 0.9), ("negated", 0.8)]
)
@pytest.mark.parametrize("part", LATER)
def test_wrong_pairs_of_later_sets_are_stopped(part: str, kind: str, least: float) -> None:
    assert recall(kind, part) >= least, stopped()[part, kind]


def table() -> str:
    """Return recall of each kind of pair, and precision of each gate, as Markdown."""
    lines = ["| set | pairs | of them | stopped | by |", "| --- | --- | --- | --- | --- |"]
    for (part, kind), causes in stopped().items():
        by = ", ".join(f"{cause} {number}" for cause, number in causes.most_common() if cause)
        lines.append(f"| {part} | {kind} | {causes.total()} | {1 - causes[''] / causes.total():.0%} | {by} |")
    lines += ["", "| gate | stops | of them wrong |", "| --- | --- | --- |"]
    gates: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for (_, kind), causes in stopped().items():
        gates += causes
        right += causes if kind == "right" else Counter()
    for gate, number in gates.most_common():
        if gate:
            lines.append(f"| {gate} | {number} | {1 - right[gate] / number:.0%} |")
    exchanged = exchanged_numbers()
    lines += ["", f"Right answers with another number: {sum(exchanged)} of {len(exchanged)} stopped."]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
