"""The file of held-out facts: questions that nothing was trained on, each with its answer, document and passage.

Generation writes it beside its output file (`held_out_facts`); a training on that file takes a copy into its run's
folder, so that what is asked later is what was held out then.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lora_tui.engine.data.examples import Example, QuestionAnswer
from lora_tui.engine.data.holdout import question_digest
from lora_tui.errors import LoraTuiError
from lora_tui.files import write_atomically

KNOWLEDGE_FILE = "knowledge.jsonl"
"""The copy in a run's folder."""


@dataclass(frozen=True, slots=True)
class KnowledgeQuestion:
    """A question about a fact that was held out, and the passage that states it."""

    question: str
    answer: str
    document: str
    passage: str


def knowledge_path(data_file: Path) -> Path:
    """Return the file of the held-out facts that stands beside a training file: "pairs.knowledge.jsonl"."""
    return data_file.with_name(f"{data_file.stem}.{KNOWLEDGE_FILE}")


def read_knowledge(path: Path) -> list[KnowledgeQuestion]:
    """Return the questions of a file; none where it does not exist. Raises `LoraTuiError` where it is damaged."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # JSON leaves other line ends inside its strings
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as problem:
        raise LoraTuiError(f"{path} cannot be read: {problem}. Remove the file, or restore it.") from problem
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            fields = {name: str(record[name]) for name in KnowledgeQuestion.__dataclass_fields__}
        except (ValueError, KeyError, TypeError) as problem:
            why = f"{path}, line {number}: not a held-out question ({problem!r}). Remove the line, or the file."
            raise LoraTuiError(why) from problem
        found.append(KnowledgeQuestion(**fields))
    return found


def keep_knowledge(folder: Path, data_file: Path, examples: Iterable[Example]) -> int:
    """Copy the facts that a training file holds out into a run's folder, without what is trained on all the same.

    Returns how many there are; without any, no file is written.
    """
    trained = set(map(question_digest, examples))
    kept = [
        one
        for one in read_knowledge(knowledge_path(data_file))
        if question_digest(QuestionAnswer(one.question, one.answer, "")) not in trained
    ]
    if kept:
        write_atomically(folder / KNOWLEDGE_FILE, knowledge_lines(kept))
    return len(kept)


def knowledge_lines(questions: Sequence[KnowledgeQuestion]) -> str:
    """Return the questions as the lines of their file."""
    return "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in questions)
