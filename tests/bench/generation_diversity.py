"""What steering changes: the same folder generated from with ``data_generation.diversity`` off and on.

    python -m tests.bench.generation_diversity [FOLDER] [--tokens 300000] [--seeds 3] [--follow 0.7]
    python -m tests.bench.generation_diversity FOLDER --builtin [--pairs 60]

The first asks a scripted endpoint that repeats itself the way models do, and stops both runs at as many tokens. It is
asked about a passage and answers with the sentence that it finds most striking: the first ones, and those with names
and numbers, by a Zipf law; it asks "What …" unless it follows the kind that was asked for. It follows each instruction
(kind, part of the passage, questions to avoid, openings to avoid) with the probability `--follow`; at 0 it heeds
nothing, and what is left is which passages are asked about. The second runs the built-in model to as many pairs.

A line for each run and a table of means: pairs accepted, refused as repetitions, topics, passages and sentences with a
pair, entropy of topics and of questions in bits, distinct-2, near-duplicates (a Jaccard similarity of .5 or more). All
but the first are over as many accepted pairs of both sides, the first of each.
"""

import argparse
import json
import math
import random
import re
import sqlite3
import statistics
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lora_tui.config.load import load_settings
from lora_tui.engine.generation.diversity import distinct_2, entropy, near_duplicate_rate, opening_of, question_entropy
from lora_tui.engine.generation.question_types import QUESTION_TYPES
from lora_tui.engine.generation.questions.sentences import sentences
from lora_tui.engine.runtime.engine import Engine
from tests.openai_server import MODEL, Fault, OpenAIServer, between, kind_of

FOLDER = Path(__file__).parent / "texts"

TEMPLATES: Mapping[str, Sequence[str]] = {
    "fact": ("What is known about {}?", "What is said of {}?", "Which fact is recorded of {}?"),
    "definition": ("What is meant by {}?", "Which term covers {}?"),
    "reason": ("Why does it matter that {}?", "For what reason is it noted that {}?"),
    "procedure": ("How does it come about that {}?", "In what way is it so that {}?"),
    "comparison": ("How does {} differ from what is usual?", "What sets {} apart from other things?"),
    "consequence": ("What follows from the fact that {}?", "What are the effects of {}?"),
    "application": ("How would you make use of the fact that {}?", "When should someone remember that {}?"),
    "exception": ("What is an exception to {}?", "Which limitation is named for {}?"),
}
"""Questions by kind, the one that the scripted model likes best first."""

_KINDS = re.compile(r"^Kind of question: (.+)\.$", re.MULTILINE)
_LISTED = re.compile(r'^- (".*")$', re.MULTILINE)
_FOCUS = "Ask about this part of the passage"
_AVOID = "These questions exist already"
_SALIENT = 1.4
"""Exponent of the Zipf law by which sentences are chosen."""


class RepeatingServer(OpenAIServer):
    """An endpoint whose model has habits, and heeds an instruction with probability `follow`."""

    def __init__(self, follow: float, seed: int) -> None:
        super().__init__()
        self._follow = follow
        self._rng = random.Random(seed)
        self.digits = lambda prompt: "5 5 5"

    def _content(self, body: dict[str, Any], fault: Fault | None) -> tuple[str, str]:
        if kind_of(body) != "generate":
            return super()._content(body, fault)
        prompt = body["messages"][-1]["content"]
        wanted = int(re.search(r"Task: write (\d+)", prompt)[1])  # type: ignore[index]  # the prompt always has it
        return "generate", json.dumps({"pairs": [self._pair(prompt, n) for n in range(wanted)]})

    def _heeds(self) -> bool:
        return self._rng.random() < self._follow

    def _pair(self, prompt: str, number: int) -> dict[str, str]:
        passage = between(prompt, "PASSAGE")
        task = prompt[prompt.rindex("END PASSAGE") :]
        found = [one.text for one in sentences(passage) if 5 <= len(one.text.split()) <= 60] or [passage[:300]]
        ranked = sorted(range(len(found)), key=lambda place: place - 2 * bool(re.search(r"\d", found[place])))
        focus = _listed(task, _FOCUS)
        avoid = set(_listed(task, _AVOID))
        question = ""
        for _ in range(3):
            sentence = found[self._rng.choices(ranked, [(n + 1) ** -_SALIENT for n in range(len(ranked))])[0]]
            if focus and self._heeds():
                named = focus[number % len(focus)].rstrip("…")
                sentence = next((one for one in found if one.startswith(named)), sentence)
            question = self._question(task, sentence)
            if question not in avoid or not self._heeds():
                break
        topic = " ".join(sentence.split()[:3])
        return {"evidence": sentence, "question": question, "answer": sentence, "topic": topic}

    def _question(self, task: str, sentence: str) -> str:
        asked = _KINDS.search(task)
        kind = "fact"
        if asked is not None and self._heeds():
            kind = next((name for name, described in QUESTION_TYPES.items() if described == asked[1]), "fact")
        names = re.findall(r"[^\W_][\w'’.-]*", sentence.rstrip(".!?"))
        subject = " ".join(names[: min(7, max(3, len(names) // 2))])
        subject = subject[0].lower() + subject[1:]
        templates = list(TEMPLATES[kind])
        if self._heeds():
            begun = [opening.casefold() for opening in re.findall(r'"([^"]+) …"', task)]
            templates = [one for one in templates if opening_of(one) not in begun] or templates
        likely = [(n + 1) ** -1.5 for n in range(len(templates))]
        return self._rng.choices(templates, likely)[0].format(subject)


def _listed(task: str, heading: str) -> list[str]:
    """Return the quoted lines that follow a line of the prompt."""
    at = task.find(heading)
    if at < 0:
        return []
    lines = task[at:].splitlines()[1:]
    found = []
    for line in lines:
        if (match := _LISTED.match(line)) is None:
            break
        found.append(json.loads(match[1]))
    return found


def generate(folder: Path, work: Path, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Run a generation; returns its pairs in order, each with state, cause, question, type, evidence, passage, area."""
    store = work / "store.db"
    chosen = {"input_folder": str(folder), "output_file": str(work / "pairs.txt"), "check_judge": False, **values}
    overrides = [f"data_generation.{key}={json.dumps(value)}" for key, value in chosen.items()]
    engine = Engine(store)
    engine.start()
    try:
        outcome = engine.submit("generate", load_settings(overrides=overrides, environment={}).settings)[1].result()
    finally:
        engine.close()
    connection = sqlite3.connect(store)
    connection.row_factory = sqlite3.Row
    rows = connection.execute(
        "SELECT pairs.state, cause, question, answer, evidence, json_extract(slot, '$.question_type') AS type,"
        " pairs.source, position, heading, text FROM pairs JOIN chunks ON chunks.id = chunk_id ORDER BY pairs.id"
    )
    found = [dict(row) for row in rows]
    everything = connection.execute(
        "SELECT run_documents.path, heading, text, position FROM run_documents JOIN chunks USING (document_id)"
    ).fetchall()
    result = outcome.result
    tokens = result.get("prompt_tokens", 0) + result.get("completion_tokens", 0)
    connection.close()
    return [{"passages": [tuple(row) for row in everything], "tokens": tokens, "reason": result.get("reason")}, *found]


def measure(found: Sequence[dict[str, Any]], pairs: int) -> dict[str, float]:
    """Return the measures of a run, those of its first `pairs` accepted pairs."""
    head, *rows = found
    accepted = [row for row in rows if row["state"] == "accepted"]
    first = accepted[:pairs]
    repeated = sum("duplicate" in (row["cause"] or "") for row in rows)
    topics = Counter(f"{path}#{heading}" for path, heading, *_ in head["passages"])
    covered = Counter(f"{row['source']}#{row['heading']}" for row in first)
    places = {(row["source"], row["position"]) for row in first}
    all_sentences = {
        one.text for *_, text, _ in head["passages"] for one in sentences(text) if len(one.text.split()) > 4
    }
    quoted = {one for one in all_sentences if any(one in row["evidence"] or row["evidence"] in one for row in first)}
    questions = [row["question"] for row in first]
    return {
        "accepted": len(accepted),
        "tokens": head["tokens"],
        "repeated_share": repeated / max(1, len(rows)),
        "topics": len(covered) / len(topics),
        "passages": len(places) / len(head["passages"]),
        "sentences": len(quoted) / max(1, len(all_sentences)),
        "topic_entropy": entropy(covered),
        "type_entropy": entropy(Counter(str(row["type"]) for row in first)),
        "question_entropy": question_entropy(questions),
        "distinct_2": distinct_2(questions),
        "near_duplicates": near_duplicate_rate(questions),
        "question_words": statistics.fmean(len(question.split()) for question in questions) if questions else math.nan,
    }


def compare(folder: Path, values: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Run with diversity off, then on; returns the measures of both."""
    runs = {}
    for name, on in (("off", False), ("on", True)):
        with tempfile.TemporaryDirectory() as work:
            runs[name] = generate(folder, Path(work), {**values, "diversity": on})
    pairs = min(sum(row.get("state") == "accepted" for row in rows) for rows in runs.values())
    return {name: measure(rows, pairs) for name, rows in runs.items()}


def show(compared: Sequence[dict[str, dict[str, float]]]) -> None:
    """Print the means of several comparisons as a table, and as one JSON line."""
    names = list(compared[0]["off"])
    means = {
        side: {name: statistics.fmean(one[side][name] for one in compared) for name in names} for side in ("off", "on")
    }
    for name in names:
        print(f"{name:>18} {means['off'][name]:10.3f} {means['on'][name]:10.3f}")
    print(json.dumps({side: {name: round(value, 4) for name, value in of.items()} for side, of in means.items()}))


def main() -> None:
    """Compare both sides with a scripted endpoint, or with the built-in model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    parser.add_argument("--tokens", type=int, default=300_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--follow", type=float, default=0.7)
    parser.add_argument("--builtin", action="store_true")
    parser.add_argument("--pairs", type=int, default=60)
    arguments = parser.parse_args()
    if arguments.builtin:
        show([compare(arguments.folder, {"model": "builtin", "total_examples": arguments.pairs})])
        return
    compared = []
    for seed in range(arguments.seeds):
        with RepeatingServer(arguments.follow, seed) as server:
            values = {
                "base_url": server.url,
                "model": MODEL,
                "total_examples": 100_000,
                "budget_tokens": arguments.tokens,
                "seed": seed,
            }
            compared.append(compare(arguments.folder, values))
        print(json.dumps({"seed": seed, **compared[-1]}), flush=True)
    show(compared)


if __name__ == "__main__":
    main()
