"""The reader of training data of every format, its only entrance; and which file a run trains on.

The suffix decides the format where it is known (JSON Lines, JSON, CSV), else the content; the keys decide the form
(`forms`), a ``Question:`` label the training text (`training_text`). Files may be compressed (`compressed`), and a data
set of the hub is as many files as hold its split (`hub_dataset`). A corrupt record stops the reading with its line;
a well-formed one that has nothing to learn from is skipped and listed, so that examples and skipped records add up to
the file.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_tui.config.hub_names import HubDataset, hub_dataset, is_hub_name
from lora_tui.config.models import Settings
from lora_tui.engine.data.compressed import inner_suffix
from lora_tui.engine.data.examples import Example, Judgement, QuestionAnswer, asked_example, is_wanted
from lora_tui.engine.data.forms import EXAMPLE_FORMS, FormSet, Malformed, UnusableRecord, keys_not_read
from lora_tui.engine.data.hub_dataset import FETCHING, PinnedDataset, Progress, check_size, fetch, look_up
from lora_tui.engine.data.parquet import SUFFIX as PARQUET
from lora_tui.engine.data.parquet import is_parquet, parquet_rows
from lora_tui.engine.data.preference_forms import JUDGEMENT_FORMS
from lora_tui.engine.data.records import Record, csv_rows, decode_json, json_document, json_lines, table_form
from lora_tui.engine.data.text_lines import require_text_file, text_lines
from lora_tui.engine.data.training_text import parse_training_text
from lora_tui.errors import UnreachableError, UsageError
from lora_tui.text import count, one_line

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
    judgements: tuple[Judgement, ...] = ()
    """What preference training learns from; `examples` then ask their questions, with the answer that is judged."""
    not_read: Mapping[str, int] = field(default_factory=dict)
    """In how many of the examples' records these keys hold something that the example lacks, such as ``tools``."""

    @property
    def wanted(self) -> tuple[Example, ...]:
        """The examples whose answers a model is to give."""
        if not self.judgements:
            return self.examples
        return tuple(map(asked_example, filter(is_wanted, self.judgements)))

    def number_of(self, kind: type[Example]) -> int:
        """How many of the examples are of a kind, whatever form their records had."""
        return sum(isinstance(example, kind) for example in self.examples)

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


def judgements_file(settings: Settings, named: str | Path | None = None) -> Path | None:
    """The file with the preferences or verdicts of a run; None: what people have said in the store.

    In this order: `named` (``--train-data-file``), ``fine_tuning.preferences.data_file``.
    """
    name = named or settings.fine_tuning.preferences.data_file
    return Path(name).expanduser() if name else None


def read_examples(path: Path, progress: Progress | None = None) -> ReadResult:
    """Read a training file of any format, or a data set of the hub (`hub_dataset`), which is fetched first.

    `progress` is told of what is fetched. Raises `UsageError` where it is missing, empty, not text, holds a corrupt
    record (the message names the line and what was expected) or no record that can be trained on, and
    `UnreachableError` where the hub is needed and cannot be reached.
    """
    found = _read(path, _Collected(EXAMPLE_FORMS), progress)
    return ReadResult(tuple(found.items), dict(found.forms), tuple(found.skipped), not_read=found.left_out())


def read_judgements(path: Path, progress: Progress | None = None) -> ReadResult:
    """Read preferences or single verdicts of any format; otherwise as `read_examples`."""
    found = _read(path, _Collected(JUDGEMENT_FORMS), progress)
    judgements = tuple(found.items)
    asked = tuple(map(asked_example, judgements))
    return ReadResult(asked, dict(found.forms), tuple(found.skipped), judgements, found.left_out())


def _read(path: Path, collected: "_Collected", progress: Progress | None) -> "_Collected":
    """Read a file or data set whole; raises `UsageError` where nothing is in it that can be used."""
    dataset = hub_name(path)
    if dataset is None:
        require_text_file(path, "training file", _ADVICE)
        _read_file(path, str(path), collected)
    else:
        _read_dataset(look_up(dataset), collected, progress)
    skipped = collected.skipped
    what = f"the training file {path}" if dataset is None else f"the data set {path}"
    if not collected.items and not skipped:
        raise UsageError(f"{what} holds no records. {_ADVICE}")
    if not collected.items:
        raise UsageError(
            f"{what} holds nothing to train on: {count(len(skipped), 'record')} skipped "
            f"({skipped[0].location}: {skipped[0].reason})"
        )
    return collected


def examples_if_there(path: Path | None) -> tuple[Example, ...] | None:
    """Return the examples of a training file that may be gone by now, or hold something else; None where it is."""
    if path is None or not (is_hub_name(path) or path.is_file()):
        return None
    try:
        return read_examples(path).examples
    except (UsageError, UnreachableError):
        return None


def hub_name(path: str | Path) -> HubDataset | None:
    """Return the data set of the hub that a training file's name means; raises `UsageError` for a wrong form."""
    try:
        return hub_dataset(path)
    except ValueError as problem:
        raise UsageError(f"{one_line(str(path), 120)} {problem}.") from problem


class _Full(Exception):  # noqa: N818  # never leaves this module
    """The records that were asked for have been read."""


@dataclass
class _Collected:
    """What has been read so far of one set of forms; records from `first` up to but not including `last` count."""

    known: FormSet[Any]
    items: list[Any] = field(default_factory=list)
    forms: Counter[str] = field(default_factory=Counter)
    skipped: list[Skipped] = field(default_factory=list)
    not_read: Counter[str] = field(default_factory=Counter)
    first: int = 0
    last: int | None = None
    records: int = 0

    def add(self, form: str, location: str, outcome: Any, keys: set[str]) -> None:
        """Take one record; raises `_Full` where it comes after the last that is wanted."""
        if self.last is not None and self.records >= self.last:
            raise _Full
        self.records += 1
        if self.records <= self.first:
            return
        if isinstance(outcome, UnusableRecord):
            self.skipped.append(Skipped(location, str(outcome)))
        else:
            self.items.append(outcome)
            self.forms[form] += 1
            self.not_read.update(keys)

    def left_out(self) -> dict[str, int]:
        """In how many records each key was left out, by key."""
        return dict(sorted(self.not_read.items()))


def _read_dataset(pinned: PinnedDataset, collected: _Collected, progress: Progress | None) -> None:
    """Fetch and read the files of a split, one after the other, until the records that are wanted are there."""
    check_size(pinned)
    dataset = pinned.dataset
    collected.first, collected.last = dataset.first, dataset.last
    total, done = sum(file.size for file in pinned.files) // 1000, 0
    with suppress(_Full):
        for file in pinned.files:
            if progress is not None:
                progress(FETCHING, done, total)
            where = file.path if len(pinned.files) > 1 else ""
            _read_file(fetch(pinned, file), f"{dataset} {file.path}", collected, where)
            done += file.size // 1000
            if collected.last is not None and collected.records >= collected.last:
                break
    if progress is not None:
        progress(FETCHING, total, total)


def _read_file(path: Path, shown: str, collected: _Collected, where: str = "") -> None:
    """Read a file on this machine; `shown` is its name in messages, `where` goes before a record's place."""
    parquet = _is_parquet(path)
    lines = [] if parquet else list(text_lines(path))
    if not parquet and not any(line.strip() for line in lines):
        raise UsageError(f"the training file {shown} holds blank lines only. {_ADVICE}")
    try:
        for form, location, outcome, keys in _outcomes(path, shown, lines, collected.known, parquet=parquet):
            collected.add(form, f"{where} {location}".lstrip(), outcome, keys)
    except Malformed as error:
        place = _location(path, error.line, error.record)
        raise UsageError(f"{shown}{' ' if place else ''}{place}: {error}") from error


def _is_parquet(path: Path) -> bool:
    """Whether a file is Parquet; raises `UsageError` where it cannot be read."""
    try:
        return is_parquet(path)
    except OSError as problem:
        raise UsageError(f"cannot read {path}: {problem.strerror or problem}") from problem


def _outcomes(
    path: Path, shown: str, lines: Sequence[str], known: FormSet[Any], *, parquet: bool
) -> Iterator[tuple[str, str, Any, set[str]]]:
    """Yield each record's form, location, what it is or why it is skipped, and the keys that are not read."""
    outcome: Any
    records = parquet_rows(path, known) if parquet else _records(path, lines, known)
    if records is None and known is not EXAMPLE_FORMS:
        raise Malformed(
            f"a text cannot say which answer is better; expected JSON Lines or a table with {known.expected}"
        )
    if records is None:
        for line, question, answer in parse_training_text(lines):
            outcome = QuestionAnswer(question, answer, f"{shown}:{line}")
            if not question or not answer:
                outcome = UnusableRecord(f"the {'answer' if question else 'question'} is empty")
            yield TRAINING_TEXT, f"line {line}", outcome, set()
        return
    for record in records:
        source = f"{shown}:{record.line}" if record.line else f"{shown}:{_unit(path)} {record.number}"
        try:
            outcome = record.form.example(record.fields, source)
        except UnusableRecord as reason:
            outcome = reason
        except Malformed as error:
            raise Malformed(f"{error}. Correct it or remove it.", record.line, record.number) from error
        yield record.form.name, _location(path, record.line, record.number), outcome, keys_not_read(record.fields)


def _location(path: Path, line: int | None, record: int | None) -> str:
    if line is None:
        return f"{_unit(path)} {record}" if record else ""
    if record and inner_suffix(path) == ".json":  # several lines a record, or all records on one line
        return f"record {record} (line {line})"
    return f"line {line}"


def _unit(path: Path) -> str:
    """What records without lines are called."""
    return "row" if inner_suffix(path) == PARQUET else "record"


def _records(path: Path, lines: Sequence[str], known: FormSet[Any]) -> Iterator[Record] | None:
    """Return the records of a file with named fields; None for a training text."""
    first = next(line for line in lines if line.strip()).lstrip()
    suffix = inner_suffix(path)
    if suffix in (".csv", ".tsv"):
        return csv_rows(lines, known)
    if suffix in (".jsonl", ".ndjson", ".json") or first.startswith(("{", "[")):
        # People name JSON Lines .json and lists .jsonl: the first characters are more reliable.
        if not first.startswith("[") and (suffix in (".jsonl", ".ndjson") or _looks_like_json_lines(first, lines)):
            return json_lines(lines, known)
        return json_document("\n".join(lines), known)
    table = table_form(first, known)
    if table is not None and table[1] in first:  # one column named "text" could be the first line of anything
        return csv_rows(lines, known)
    return None


def _looks_like_json_lines(first: str, lines: Sequence[str]) -> bool:
    try:
        decode_json(first)
    except Malformed:
        return False
    return sum(1 for line in lines if line.strip()) > 1
