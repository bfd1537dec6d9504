"""Right answers made wrong on purpose: does the score see it?

    python -m tests.bench.score_attacks FILE.jsonl [FILE.jsonl …] [--each 200] [--show 3] [--prior-from OTHER.jsonl …]

Takes answers that a person accepted (a line each, as in `score_agreement`) and changes them in six ways that make them
wrong whatever the question: negated, its number swapped, its name swapped, a contradiction appended, two alternatives
offered, the reference listed among five. Prints, a JSON object for each way, the share of changed answers that score
below the original, the share that falls below a half (of those above it before), and the medians of both.

A change is made where it applies: a number is swapped only if it is the reference's and stands in the answer. The draws
are seeded, and each way has wordings that no rule of `scoring/features.py` names, so that it is not tested on itself.
"""

import argparse
import json
import random
import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lora_tui.scoring.words import content_tokens, tokens

Change = Callable[[random.Random, str, str, Sequence[str]], str | None]
"""An answer, the reference that it holds and other references, made into the changed answer; None where it cannot."""

_AUXILIARY = re.compile(r"\b(is|are|was|were|has|have|had|will|would|can|could|does|did)\b(?! not\b|n't)")
_NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?![\w])")
_NAME = re.compile(r"\b[A-Z][\w'’.-]+(?: (?:(?:of|the|de|and|van|von) )?[A-Z][\w'’.-]+)*")


def negated(rng: random.Random, answer: str, reference: str, _others: Sequence[str]) -> str | None:
    """Deny the sentence that holds the reference."""
    place = _place(answer, reference)
    if place is None:
        return None
    start, end = _sentence(answer, place)
    sentence = answer[start:end]
    auxiliaries = list(_AUXILIARY.finditer(sentence))
    if auxiliaries:
        nearest = min(auxiliaries, key=lambda found: abs(found.start() - (place - start)))
        denied = f"{sentence[: nearest.end()]} not{sentence[nearest.end() :]}"
    else:
        before = rng.choice(["Not ", "It is not ", "Certainly not ", "Anything but "])
        denied = before + sentence.lstrip()
    return answer[:start] + denied + answer[end:]


def number_swapped(rng: random.Random, answer: str, reference: str, _others: Sequence[str]) -> str | None:
    """Put another number in place of one that the reference has."""
    wanted = {found.group() for found in _NUMBER.finditer(reference)}
    places = [found for found in _NUMBER.finditer(answer) if found.group() in wanted]
    if not places:
        return None
    number = places[0].group()
    other = _other_number(rng, number)
    return re.sub(rf"(?<![\w.]){re.escape(number)}(?!\w)", other, answer)


def _other_number(rng: random.Random, number: str) -> str:
    """A number that looks like the first and is another: a digit changed, or one more or less."""
    digits = [place for place, sign in enumerate(number) if sign.isdigit()]
    while True:
        place = rng.choice(digits)
        other = number[:place] + rng.choice("123456789") + number[place + 1 :]
        if other != number:
            return other


def name_swapped(rng: random.Random, answer: str, reference: str, others: Sequence[str]) -> str | None:
    """Put another name in place of the reference."""
    place = _place(answer, reference)
    names = [other for other in others if _NAME.fullmatch(other) and not set(tokens(other)) & set(tokens(reference))]
    if place is None or not _NAME.fullmatch(reference.strip()) or not names:
        return None
    name = rng.choice(names)
    changed = re.sub(re.escape(reference), lambda _: name, answer, flags=re.IGNORECASE)
    return None if set(content_tokens(reference)) <= set(tokens(changed)) else changed


def contradicted(rng: random.Random, answer: str, reference: str, others: Sequence[str]) -> str | None:
    """Append a sentence that takes the answer back."""
    other = rng.choice(others)
    after = rng.choice(
        [
            f"Actually, no: it is {other}.",
            f"However, this is wrong; the correct answer is {other}.",
            f"On second thoughts, it must be {other}, not {reference}.",
            f"But that is a common mistake, and {other} is right.",
            f"Wait, I was mistaken. It is {other} instead.",
            "In fact, the opposite is true.",
        ]
    )
    return f"{answer.rstrip()} {after}"


def two_alternatives(rng: random.Random, answer: str, reference: str, others: Sequence[str]) -> str | None:
    """Offer another answer beside the right one."""
    other = rng.choice(others)
    place = _place(answer, reference)
    if place is None:
        return None
    wordings = (
        f"{reference} or {other}",
        f"{other} or {reference}",
        f"either {other} or {reference}",
        f"{reference} or possibly {other}",
        f"{reference}/{other}",
    )
    return answer[:place] + rng.choice(wordings) + answer[place + len(reference) :]


def among_five(rng: random.Random, _answer: str, reference: str, others: Sequence[str]) -> str | None:
    """List the reference among five candidates."""
    listed = [*rng.sample(list(others), 4), reference]
    rng.shuffle(listed)
    form = rng.choice(["{}", "It could be one of these: {}.", "The answer is among {}.", "Possible answers: {}"])
    between = rng.choice([", ", "; ", "\n- "])
    return form.format(between.join(listed))


CHANGES: dict[str, Change] = {
    "negated": negated,
    "number swapped": number_swapped,
    "name swapped": name_swapped,
    "contradiction appended": contradicted,
    "two alternatives": two_alternatives,
    "among five": among_five,
}


def _place(answer: str, reference: str) -> int | None:
    found = re.search(rf"(?<!\w){re.escape(reference)}(?!\w)", answer, re.IGNORECASE) if reference else None
    return found.start() if found else None


def _sentence(text: str, place: int) -> tuple[int, int]:
    """The borders of the sentence that holds a place."""
    start = max((found.end() for found in re.finditer(r"[.!?]\s+|\n+", text) if found.end() <= place), default=0)
    end = re.compile(r"[.!?](?=\s|$)|\n").search(text, place)
    return start, end.start() if end else len(text)


def attacks(records: Sequence[dict[str, Any]], each: int, seed: int = 1) -> dict[str, list[tuple[dict[str, Any], str]]]:
    """Return, for each way, up to `each` pairs of a record and its changed answer."""
    rng = random.Random(seed)
    right = [record for record in records if record["label"] >= 0.5]
    pool = sorted({record["references"][0] for record in records if len(record["references"][0].split()) <= 5})
    made: dict[str, list[tuple[dict[str, Any], str]]] = {}
    for name, change in CHANGES.items():
        made[name] = []
        for record in rng.sample(right, len(right)):
            if len(made[name]) == each:
                break
            held = next((ref for ref in record["references"] if _place(record["answer"], ref) is not None), None)
            if held is None:
                continue
            known = {token for ref in record["references"] for token in tokens(ref)}
            others = [other for other in rng.sample(pool, min(40, len(pool))) if not known & set(tokens(other))][:12]
            if len(others) < 4:
                continue
            changed = change(rng, record["answer"], held, others)
            if changed is not None and changed != record["answer"]:
                made[name].append((record, changed))
    return made


def main() -> None:
    """Make the changes and print how the score takes them."""
    from lora_tui.scoring.aggregator import AdaptiveAggregator
    from lora_tui.scoring.priors import EVALUATION_PRIOR
    from tests.bench.judged_sets import best_reference, read
    from tests.bench.score_prior import derive  # which makes its comparisons with this module

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.jsonl")
    parser.add_argument("--each", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1, help="the prior's own comparisons have 7")
    parser.add_argument("--show", type=int, default=0, help="changed answers to print that did not fall")
    parser.add_argument("--prior-from", nargs="+", type=Path, default=[], metavar="OTHER.jsonl")
    given = parser.parse_args()
    prior = derive([read(file) for file in given.prior_from]) if given.prior_from else EVALUATION_PRIOR
    score = AdaptiveAggregator(prior).score
    for file in given.files:
        for way, pairs in attacks(read(file), given.each, given.seed).items():
            if not pairs:
                continue
            before, after = [], []
            for record, changed in pairs:
                asked = record["references"], record["question"], score
                before.append(best_reference(record["answer"], *asked)[0])
                after.append(best_reference(changed, *asked)[0])
            fell = [b < a for a, b in zip(before, after, strict=True)]
            flips = [b < 0.5 for a, b in zip(before, after, strict=True) if a >= 0.5]
            found = {
                "set": file.stem,
                "change": way,
                "n": len(pairs),
                "below": round(statistics.fmean(fell), 3),
                "rejected": round(statistics.fmean(flips), 3) if flips else None,
                "median_before": round(statistics.median(before), 3),
                "median_after": round(statistics.median(after), 3),
            }
            print(json.dumps(found), flush=True)
            stood = [pair for pair, below in zip(pairs, fell, strict=True) if not below]
            for record, changed in stood[: given.show]:
                print("   ", json.dumps([record["references"], record["answer"][:200], changed[:200]]))


if __name__ == "__main__":
    main()
