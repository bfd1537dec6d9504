"""Held-out questions as tasks of lm-evaluation-harness (https://github.com/EleutherAI/lm-evaluation-harness).

    NAME.yaml            a group of the two tasks below
    NAME_answers.yaml    the model writes an answer (``generate_until``): exact match, contained, F1 of the words
    NAME_choices.yaml    it tells the answer from those to other questions (``multiple_choice``), where there are enough
    data.jsonl           the questions
    answer_scores.py     how answers are scored, and where the questions are found; nothing beyond Python
    README.md            the command

A task names its data relative to its own file (``custom_dataset``, since 0.4.9), so the folder may lie anywhere.
"""

import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lora_tui import __version__
from lora_tui.engine.evaluation.prompts import TestPrompt
from lora_tui.text import count

FORM = "lm-eval"
"""What ``--format`` calls it."""

MOST_CHOICES = 4
"""Answers to choose from: the right one and those to other questions."""

DATA = "data.jsonl"
SCORES = "answer_scores.py"

_SCORES = '''\
"""How lm-evaluation-harness finds the questions of this folder and scores the answers to them."""

import json
import re
import string
from collections import Counter
from pathlib import Path


def held_out(**_):
    """The questions, one record each."""
    import datasets

    with Path(__file__).with_name("data.jsonl").open(encoding="utf-8") as lines:
        return datasets.DatasetDict({"test": datasets.Dataset.from_list([json.loads(line) for line in lines])})


def _words(text):
    """Words without case, punctuation and articles, as SQuAD compares them."""
    bare = text.lower().translate(str.maketrans("", "", string.punctuation))
    return re.sub(r"\\b(a|an|the)\\b", " ", bare).split()


def process_results(doc, results):
    """Exact match, whether the answer contains what was expected, and the F1 of their words."""
    answer, expected = _words(results[0]), _words(doc["answer"])
    shared = sum((Counter(answer) & Counter(expected)).values())
    said, wanted = f" {' '.join(answer)} ", f" {' '.join(expected)} "
    return {
        "exact_match": float(answer == expected),
        "contains": float(wanted in said),
        "f1": 2 * shared / (len(answer) + len(expected)) if shared else float(answer == expected),
    }
'''


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """What the tasks are called, and what they are about: models by name, tokens an answer may have."""

    name: str
    base_model: str
    adapter: str
    max_new_tokens: int
    made_from: str
    delimiter: str = " "
    """What stands between a prompt and its answer: nothing behind a chat template."""


def task_name(text: str) -> str:
    """Return `text` as the name of a task: letters, digits and underscores."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_") or "held_out"


def write_tasks(
    folder: Path, prompts: Sequence[TestPrompt], documents: Sequence[str | None], facts: TaskFacts
) -> dict[str, int]:
    """Write the tasks into `folder`; returns how many questions each has."""
    ends = {prompt.prompt[-1:] for prompt in prompts}
    if all(end.isspace() or end == ">" for end in ends):
        facts = replace(facts, delimiter="")
    rows = [
        {"prompt": prompt.prompt, "answer": prompt.reference, "document": document or ""}
        for prompt, document in zip(prompts, documents, strict=True)
    ]
    choices = _with_choices(rows)
    with (folder / DATA).open("w", encoding="utf-8", newline="\n") as lines:
        lines.writelines(f"{json.dumps(row, ensure_ascii=False)}\n" for row in choices or rows)
    (folder / SCORES).write_text(_SCORES, encoding="utf-8")
    tasks = {f"{facts.name}_answers": _answers_task(facts)}
    if choices:
        tasks[f"{facts.name}_choices"] = _choices_task(facts)
    for name, text in tasks.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    group = [f"group: {facts.name}", "task:", *(f"  - {name}" for name in tasks)]
    (folder / f"{facts.name}.yaml").write_text("\n".join(group) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(_readme(facts, tasks, len(rows)), encoding="utf-8")
    return dict.fromkeys(tasks, len(rows))


def lm_eval_command(facts: TaskFacts, folder: str) -> str:
    """Return the command that runs the tasks on the adapter."""
    models = f"pretrained={facts.base_model},peft={facts.adapter}"
    return (
        f"lm_eval --model hf --model_args {shlex.quote(models)} --tasks {facts.name} "
        f"--include_path {shlex.quote(folder)}"
    )


def _with_choices(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with answers to choose from, those of other questions; none where there are fewer than three.

    Which ones, and in which order, only the question decides: the nearest in length, so that length tells nothing.
    """
    answers = sorted({row["answer"] for row in rows})
    if len(answers) <= 2:
        return []
    found = []
    for row in rows:
        right = row["answer"]
        others = sorted((one for one in answers if one != right), key=lambda one: (abs(len(one) - len(right)), one))
        chosen = [right, *others[: MOST_CHOICES - 1]]
        chosen.sort(key=lambda one: hashlib.sha256(f"{row['prompt']}\0{one}".encode("utf-8", "replace")).digest())
        found.append({**row, "choices": chosen, "gold": chosen.index(right)})
    return found


def _task(facts: TaskFacts, name: str, kind: str, target: str) -> list[str]:
    return [
        f"task: {name}",
        f"custom_dataset: !function {SCORES.removesuffix('.py')}.held_out",
        "test_split: test",
        f"output_type: {kind}",
        'doc_to_text: "{{prompt}}"',
        f'target_delimiter: "{facts.delimiter}"',
        f'doc_to_target: "{target}"',
    ]


def _answers_task(facts: TaskFacts) -> str:
    lines = _task(facts, f"{facts.name}_answers", "generate_until", "{{answer}}")
    lines += [
        "generation_kwargs:",
        '  until: ["\\nQuestion:"]',
        "  do_sample: false",
        f"  max_gen_toks: {facts.max_new_tokens}",
        f"process_results: !function {SCORES.removesuffix('.py')}.process_results",
        "metric_list:",
    ]
    for metric in ("exact_match", "contains", "f1"):
        lines += [f"  - metric: {metric}", "    aggregation: mean", "    higher_is_better: true"]
    return "\n".join([*lines, "metadata:", "  version: 1.0"]) + "\n"


def _choices_task(facts: TaskFacts) -> str:
    lines = _task(facts, f"{facts.name}_choices", "multiple_choice", "{{gold}}")
    lines += ['doc_to_choice: "{{choices}}"', "metric_list:"]
    for metric in ("acc", "acc_norm"):
        lines += [f"  - metric: {metric}", "    aggregation: mean", "    higher_is_better: true"]
    return "\n".join([*lines, "metadata:", "  version: 1.0"]) + "\n"


def _readme(facts: TaskFacts, tasks: Mapping[str, Any], questions: int) -> str:
    second = (
        f"`{facts.name}_choices` has it tell the answer from those to other questions (accuracy).\n"
        if len(tasks) > 1
        else ""
    )
    return (
        f"# {facts.name}\n\n{count(questions, 'question')} {facts.made_from}, as tasks of lm-evaluation-harness 0.4.9 "
        f"or newer, written by lora-tui {__version__}.\n\n"
        f"`{facts.name}_answers` has the model answer (exact match, contained, F1 of the words).\n{second}\n"
        f"```sh\npip install 'lm-eval[hf]'\n{lm_eval_command(facts, '.')}\n```\n\n"
        "The prompts stand in `data.jsonl` as the model gets them: no `--apply_chat_template` is needed.\n"
    )
