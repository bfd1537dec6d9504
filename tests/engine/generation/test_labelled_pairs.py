"""The gates on labelled pairs, which lie beside this file: what each kind of fault is stopped by, and what is lost.

The first set was before the rules' eyes. The others were measured before any rule saw them: the second, from the same
passages; the third, from two more chapters of the guide; the fourth to sixth about other subjects and in freer words.
Before the rules had seen them, 16 of 49, 6 of 34 and 6 of 26 of their right pairs were refused, each time for other
reasons: what right answers in free words lose in a new text is nearer to that than to the figures of this table.

The table is printed by `python -m tests.engine.generation.test_labelled_pairs`. A pair counts as stopped whatever gate
stops it; a gate's precision is the share of pairs it stops that are not right ones. A doubt stops nobody: its pair goes
to a judge, who is asked to work the number out, or to a person. Of a wrong pair it counts as found, of a right one not
as refused; where doubts end up is counted by itself.
"""

import json
import re
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from lora_tui.engine.generation.gates import check_gates, doubts_about
from lora_tui.engine.generation.generation_model import ProposedPair
from lora_tui.engine.generation.near_duplicates import NearDuplicates
from lora_tui.engine.generation.number_reading import written

TEXTS = Path(__file__).parents[2] / "bench" / "texts"
FREE_WORDS: list[dict[str, str]] = json.loads(Path(__file__).with_name("free_word_pairs.json").read_text("utf-8"))
"""Pairs in the freest words that are still right, about texts of the benchmarks, and wrong ones like them.

Of the right ones of the seventh set 33 of 96 were refused before the rules were mended by them, of the eighth, which
was written after that, 5 of 38 (7 by the rules before); then of the ninth 20 of 60, of the tenth, written after the
ninth, 4 of 30 (11 by the rules before the ninth), of the eleventh, after both, 7 of 40 (15). Nothing wrong passed in
the three but one of the 24 of the eleventh in between. From the twelfth on, which asks for arithmetic in every other
pair, a number may be a doubt. Of the twelfth to fifteenth, each measured once before it mended anything, 5, 5, 6 and 5
of 60 right ones were refused; by the rules without doubts 21, 21, 16 and 10.
"""

DOUBT = "doubtful number"
"""The cause under which a doubt is counted."""

DATA: dict[str, Any] = json.loads(Path(__file__).with_name("labelled_pairs.json").read_text("utf-8"))

LATER = ("second", "third", "fourth", "fifth", "sixth")


def cause_of(labelled: dict[str, str]) -> str | None:
    """Return the cause for which a labelled pair is kept from the judge, `DOUBT` if a number is doubtful, or None."""
    passage = DATA["passages"][labelled["passage"]]["text"]
    if cause := _cause(_proposed(labelled), passage):
        return cause
    index = NearDuplicates()
    if "like" in labelled:
        index.add(labelled["like"])
    return "near duplicate" if index.find(labelled["question"]) else None


def _proposed(labelled: dict[str, str]) -> ProposedPair:
    return ProposedPair(labelled["question"], labelled["answer"], labelled["evidence"], "")


def _cause(pair: ProposedPair, passage: str) -> str | None:
    if (refusal := check_gates(pair, passage)) is not None:
        return refusal.cause
    return DOUBT if doubts_about(pair, passage) else None


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
    """Return the cause for which a pair of `FREE_WORDS` is refused, `DOUBT` for a doubtful number, None for none."""
    return _cause(_proposed(labelled), passage_of(labelled))


_FIGURE = re.compile(r"(?<![\w.,:=-])\d[\d,]*(?:\.\d+)?(?![\w:=-])")


@cache
def exchanged_numbers() -> tuple[Counter[str], Counter[str]]:
    """Exchange each number, in digits, of the right answers for others, and count what becomes of the pairs.

    Returns the "refused", the "doubtful" and those that pass (""), of all and of plain exchanges: the evidence has
    every number of the right answer, and not the other one.
    """
    every, plain = Counter[str](), Counter[str]()
    for labelled in (*DATA["pairs"], *FREE_WORDS):
        passage, answer = passage_of(labelled), labelled["answer"]
        figures = list(_FIGURE.finditer(answer)) if labelled["kind"] == "right" else []
        there = written(labelled["evidence"])
        is_plain = {match.group().replace(",", "") for match in figures} <= there
        for match in figures:
            value = float(match.group().replace(",", ""))
            others = {f"{value + by:g}" for by in (1, -1, 2, -2, 10, -10) if value + by > 1}
            others |= set(_FIGURE.findall(passage)) - {match.group()}
            for other in sorted(others):
                wrong = answer[: match.start()] + other + answer[match.end() :]
                cause = _cause(ProposedPair(labelled["question"], wrong, labelled["evidence"], ""), passage)
                fate = "" if cause is None else "doubtful" if cause == DOUBT else "refused"
                every[fate] += 1
                plain[fate] += is_plain and other.replace(",", "") not in there
    return every, plain


def recall(kind: str, part: str = "first") -> float:
    causes = stopped()[part, kind]
    return 1 - causes[""] / causes.total()


def test_right_answers_in_the_freest_words_pass_and_wrong_ones_like_them_do_not() -> None:
    causes = [(labelled["kind"], cause_in_free_words(labelled)) for labelled in FREE_WORDS]
    right = [cause for kind, cause in causes if kind == "right"]
    assert len(right) > 500
    assert sum(cause not in (None, DOUBT) for cause in right) <= 0.03 * len(right)
    assert right.count(DOUBT) <= 0.1 * len(right)
    for wrong, least in (("wrong number", 0.95), ("wrong name", 0.9), ("negated", 0.9), ("off the passage", 0.95)):
        found = [cause for kind, cause in causes if kind == wrong]
        assert sum(cause is not None for cause in found) >= least * len(found), wrong


def test_a_number_of_a_right_answer_is_exchanged_for_another_and_stopped() -> None:
    every, plain = exchanged_numbers()
    assert every.total() > 2000
    assert every[""] <= 0.2 * every.total()
    assert plain["refused"] >= 0.8 * plain.total()
    assert plain[""] <= 0.09 * plain.total()


def test_a_judge_that_confirms_everything_lets_no_plain_exchange_in() -> None:
    plain = [pair for pair in DATA["pairs"] if pair["kind"] == "wrong number"]
    assert len(plain) > 60
    assert sum(cause_of(pair) in (None, DOUBT) for pair in plain) <= 0.05 * len(plain)
    free = Counter(cause_in_free_words(pair) for pair in FREE_WORDS if pair["kind"] == "wrong number")
    assert free[DOUBT] <= 0.3 * free.total(), "these had to be worked out"


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
    first = stopped()["first", "right"]
    assert 1 - (first[""] + first[DOUBT]) / first.total() <= 0.03, first
    later = sum((stopped()[part, "right"] for part in LATER), Counter[str]())
    assert later.total() >= 160
    assert 1 - (later[""] + later[DOUBT]) / later.total() <= 0.03, later


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
    lines += ["", "| in the freest words | pairs | refused | doubtful | pass |", "| --- | --- | --- | --- | --- |"]
    free: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for labelled in FREE_WORDS:
        cause = cause_in_free_words(labelled)
        fate = "pass" if cause is None else "doubtful" if cause == DOUBT else "refused"
        for part in (labelled["set"], "all"):
            free[part, labelled["kind"]][fate] += 1
    for (part, kind), fates in sorted(free.items()):
        figures = " | ".join(str(fates[fate]) for fate in ("refused", "doubtful", "pass"))
        lines.append(f"| {part}: {kind} | {fates.total()} | {figures} |")
    for name, fates in zip(("all", "plain"), exchanged_numbers(), strict=True):
        shares = ", ".join(f"{fates[fate]} {fate or 'pass'}" for fate in ("refused", "doubtful", ""))
        lines += ["", f"Right answers with another number, {name}: of {fates.total()} {shares}."]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
