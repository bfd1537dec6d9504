"""The built-in writer on a folder of text: every pair with its score, for a person to mark; and what the marks say.

    python -m tests.bench.builtin_writer FOLDER [--pairs 40] [--minutes 6] > pairs.txt
    python -m tests.bench.builtin_writer --marked pairs.txt [pairs.txt ...]

The first runs `generate` with the built-in model on the folder until there are enough accepted pairs, the text is
exhausted or the time is over, and writes a line a pair. Put an ``x`` between the brackets of a pair that is sensible
and right, a ``-`` between those of one that is wrong or makes no sense by itself. The second counts the marks: how many
of the accepted pairs are right, how many kinds of question there are, and the AUROC of the score (the probability that
a right pair scores above a wrong one, ties counted half), rejected pairs included where they are marked.
"""

import argparse
import json
import re
import resource
import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lora_tui.config.load import load_settings
from lora_tui.engine.runtime.engine import Engine

_LINE = re.compile(r"\[(?P<mark>[x \-])\] +(?P<score>[\d.]+|–) (?P<state>\w+) (?P<type>\S+) +(?P<question>.+?) \| ")
_QUANTITIES = ("how many", "how much", "how long", "how often", "how high", "how far")


def write(folder: Path, pairs: int, minutes: float) -> None:
    """Run the built-in writer and print its pairs."""
    with tempfile.TemporaryDirectory() as work:
        store = Path(work) / "store.db"
        chosen = {
            "model": "builtin",
            "input_folder": str(folder),
            "output_file": str(Path(work) / "pairs.txt"),
            "total_examples": pairs,
        }
        overrides = [f"data_generation.{key}={json.dumps(value)}" for key, value in chosen.items()]
        engine = Engine(store)
        engine.start()
        began = time.monotonic()
        run_id, ended = engine.submit("generate", load_settings(overrides=overrides, environment={}).settings)
        timer = threading.Timer(60 * minutes, engine.stop, [run_id])
        timer.start()
        outcome = ended.result()
        timer.cancel()
        seconds = time.monotonic() - began
        engine.close()
        used = resource.getrusage(resource.RUSAGE_SELF)
        rows = sqlite3.connect(store).execute(
            "SELECT score, state, json_extract(slot, '$.question_type'), question, answer, cause FROM pairs"
            " ORDER BY state, score DESC"
        )
        for score, state, kind, question, answer, cause in rows:
            shown = "–" if score is None else f"{score:.1f}"
            why = "" if state == "accepted" else f"  ({cause})"
            print(f"[ ] {shown:>4} {state} {kind} {question} | {answer}{why}")
        result = outcome.result
        print(
            f"# {outcome.state}, {result.get('reason')}: {result.get('accepted')} of {pairs} accepted in "
            f"{seconds:.0f} s, {used.ru_utime + used.ru_stime:.0f} s of processor time in this process; {folder}"
        )


def report(files: Sequence[Path]) -> None:
    """Print what the marks in files of pairs say."""
    for file in files:
        found = [match for line in file.read_text().splitlines() if (match := _LINE.match(line))]
        marked = [match for match in found if match["mark"] != " " and match["score"] != "–"]
        accepted = [match for match in marked if match["state"] == "accepted"]
        right = sum(match["mark"] == "x" for match in accepted)
        kinds = Counter(question_kind(match["question"]) for match in accepted)
        curve = auroc(
            [float(match["score"]) for match in marked if match["mark"] == "x"],
            [float(match["score"]) for match in marked if match["mark"] == "-"],
        )
        print(f"{file}: {right} of {len(accepted)} accepted pairs right; AUROC {curve:.2f} over {len(marked)} marked")
        print("    " + ", ".join(f"{kind} {number}" for kind, number in kinds.most_common()))


def question_kind(question: str) -> str:
    """Return the question word: when, where, who, why, what, how, or how many and the like as one kind each."""
    lowered = question.casefold()
    if lowered.startswith(("with ", "at ", "for ", "in ")) and ", " in lowered:
        lowered = lowered.split(", ", 1)[1]  # "With the Lumo 40, how long ...?"
    return next((kind for kind in _QUANTITIES if lowered.startswith(kind)), lowered.split()[0])


def auroc(right: Sequence[float], wrong: Sequence[float]) -> float:
    """Return the probability that one of `right` is above one of `wrong`; NaN where either is empty."""
    if not right or not wrong:
        return float("nan")
    return sum((a > b) + 0.5 * (a == b) for a in right for b in wrong) / (len(right) * len(wrong))


def main() -> None:
    """Write pairs, or count the marks of those that were written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--marked", nargs="+", type=Path)
    arguments = parser.parse_args()
    if arguments.marked:
        report(arguments.marked)
    elif arguments.folder:
        write(arguments.folder, arguments.pairs, arguments.minutes)
    else:
        parser.print_help(sys.stderr)


if __name__ == "__main__":
    main()
