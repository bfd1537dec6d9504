"""The reader of training files of every format, the only entrance to training data; and which file a run trains on.

The suffix decides the format where it is known (JSON Lines, JSON, CSV), else the content; the keys decide the form
(`forms`), a ``Question:`` label the training text (`training_text`). A corrupt record stops the reading with its line;
a well-formed one that has nothing to learn from is skipped and listed, so that examples and skipped records add up to
the file.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lora_tui.config.models import Settings
from lora_tui.engine.data.examples import Example, QuestionAnswer
from lora_tui.engine.data.forms import Malformed, UnusableRecord, keys_not_read
from lora_tui.engine.data.records import Record, csv_rows, decode_json, json_document, json_lines, table_form
from lora_tui.engine.data.text_lines import require_text_file, text_lines
from lora_tui.engine.data.training_text import parse_training_text
from lora_tui.errors import UsageError
from lora_tui.text import count

TRAINING_TEXT = "training text"
"""The name under which `ReadResult.forms` counts examples of the ``Question: … Answer: …`` text."""

_ADVICE = (
    "Generate one (lora-tui --run generate) or name another (fine_tuning.train_data_file, --train-data-file FILE)."
)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A record that cannot be trained on, where it is ("line 17", "record 3 (line 17)") and why."""

    location: str
    reason: str


@dataclass(frozen=True, slots=True)
class ReadResult:
    """What a training file holds, in the file's order."""

    examples: tuple[Example, ...]
    forms: Mapping[str, int]
    """How many of the examples came in which form."""
    skipped: tuple[Skipped, ...]
    not_read: Mapping[str, int] = field(default_factory=dict)
    """In how many of the examples' records these keys hold something that the example lacks, such as ``tools``."""

    def warnings(self, path: Path) -> list[str]:
        """Return what whoever uses the file at `path` should know of what was left out of its examples."""
        if not self.not_read:
            return []
        keys = ", ".join(f"{key} in {count(number, 'record')}" for key, number in self.not_read.items())
        return [f"{path}: {keys}: left out, the model learns from the text of the turns alone."]


def training_file(settings: Settings, named: str | Path | None = None) -> Path:
    """The file that a run trains on.

    In this order: `named` (``--train-data-file``), ``fine_tuning.train_data_file``, or what generation writes.
    """
    return Path(named or settings.fine_tuning.train_data_file or settings.data_generation.output_file).expanduser()


def read_examples(path: Path) -> ReadResult:
    """Read a training file of any format.

    Raises `UsageError` where it is missing, empty, not text, holds a corrupt record (the message names the line and
    what was expected) or no record that can be trained on.
    """
    require_text_file(path, "training file", _ADVICE)
    lines = list(text_lines(path))
    if not any(line.strip() for line in lines):
        raise UsageError(f"the training file {path} holds blank lines only. {_ADVICE}")
    examples: list[Example] = []
    forms: Counter[str] = Counter()
    skipped: list[Skipped] = []
    not_read: Counter[str] = Counter()
    try:
        for form, location, outcome, keys in _outcomes(path, lines):
            if isinstance(outcome, UnusableRecord):
                skipped.append(Skipped(location, str(outcome)))
            else:
                examples.append(outcome)
                forms[form] += 1
                not_read.update(keys)
    except Malformed as error:
        where = _location(path, error.line, error.record)
        raise UsageError(f"{path}{' ' if where else ''}{where}: {error}") from error
    if not examples and not skipped:
        raise UsageError(f"the training file {path} holds no records. {_ADVICE}")
    if not examples:
        raise UsageError(
            f"the training file {path} holds nothing to train on: {count(len(skipped), 'record')} skipped "
            f"({skipped[0].location}: {skipped[0].reason})"
        )
    return ReadResult(tuple(examples), dict(forms), tuple(skipped), dict(sorted(not_read.items())))


def _outcomes(path: Path, lines: Sequence[str]) -> Iterator[tuple[str, str, Example | UnusableRecord, set[str]]]:
    """Yield each record's form, location, example or the reason why it is skipped, and the keys that are not read."""
    outcome: Example | UnusableRecord
    records = _records(path, lines)
    if records is None:
        for line, question, answer in parse_training_text(lines):
            outcome = QuestionAnswer(question, answer, f"{path}:{line}")
            if not question or not answer:
                outcome = UnusableRecord(f"the {'answer' if question else 'question'} is empty")
            yield TRAINING_TEXT, f"line {line}", outcome, set()
        return
    for record in records:
        source = f"{path}:{record.line}" if record.line else f"{path}:record {record.number}"
        try:
            outcome = record.form.example(record.fields, source)
        except UnusableRecord as reason:
            outcome = reason
        except Malformed as error:
            raise Malformed(f"{error}. Correct it or remove it.", record.line, record.number) from error
        yield record.form.name, _location(path, record.line, record.number), outcome, keys_not_read(record.fields)


def _location(path: Path, line: int | None, record: int | None) -> str:
    if line is None:
        return f"record {record}" if record else ""
    if record and path.suffix.lower() == ".json":  # several lines a record, or all records on one line
        return f"record {record} (line {line})"
    return f"line {line}"


def _records(path: Path, lines: Sequence[str]) -> Iterator[Record] | None:
    """Return the records of a file with named fields; None for a training text."""
    first = next(line for line in lines if line.strip()).lstrip()
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        return csv_rows(lines)
    if suffix in (".jsonl", ".ndjson", ".json") or first.startswith(("{", "[")):
        # People name JSON Lines .json and lists .jsonl: the first characters are more reliable.
        if not first.startswith("[") and (suffix in (".jsonl", ".ndjson") or _looks_like_json_lines(first, lines)):
            return json_lines(lines)
        return json_document("\n".join(lines))
    table = table_form(first)
    if table is not None and table[1] in first:  # one column named "text" could be the first line of anything
        return csv_rows(lines)
    return None


def _looks_like_json_lines(first: str, lines: Sequence[str]) -> bool:
    try:
        decode_json(first)
    except Malformed:
        return False
    return sum(1 for line in lines if line.strip()) > 1
