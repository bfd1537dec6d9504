"""Counter of a training file's examples and estimated tokens, without a tokenizer, cached until the file changes.

The file is read by `read_examples`, so what is counted here is what training will see. Only counts are cached: asking
again and again while somebody edits a configuration costs a stat of the file.
"""

import re
from array import array
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

from lora_tui.config.hub_names import is_hub_name
from lora_tui.config.models import Settings
from lora_tui.engine.data.examples import (
    Conversation,
    Example,
    JudgedAnswer,
    Judgement,
    PlainText,
    Preference,
    PromptCompletion,
    QuestionAnswer,
)
from lora_tui.engine.data.holdout import question_digest
from lora_tui.engine.data.hub_dataset import cached_file, last_look_up
from lora_tui.engine.data.read import (
    ReadResult,
    hub_name,
    judgements_file,
    read_examples,
    read_judgements,
    training_file,
)
from lora_tui.errors import UnreachableError, UsageError

NOTHING_SAID = ("No answer", "Nobody has said yet")
"""How a refusal begins where nothing was said that can be trained on: single verdicts alone, or nothing at all."""

MAX_BYTES = 100_000_000
"""A larger file is not counted: reading it takes longer than anyone waits for a number."""

_TURN_TOKENS = 4
"""About what a chat template adds to a turn: the tokens that begin and end it, the role, a line break."""

_CACHE_SIZE = 8

_CJK = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]+")


@dataclass(frozen=True, slots=True)
class Survey:
    """Counts of a training file: examples by form, and what each holds. All are 0 where `problem` says why.

    `refused` says that the problem is in what the file holds: training would refuse it, too.
    `tokens` is an estimate for each example, its end mark included, `questions` each one's `question_digest`, and
    `changed_at` when the file was last written.
    """

    path: Path
    exists: bool
    problem: str | None = None
    forms: Mapping[str, int] = field(default_factory=dict)
    skipped: int = 0
    tokens: Sequence[int] = ()
    questions: Sequence[int] = ()
    changed_at: float = 0.0
    refused: bool = False

    @property
    def examples(self) -> int:
        """How many examples can be trained on, as far as the text tells."""
        return len(self.tokens)

    def tokens_up_to(self, max_length: int, without: Set[int] = frozenset()) -> int:
        """Return the estimated tokens of all examples but those of the indices `without`, each cut to `max_length`."""
        return sum(min(count, max_length) for index, count in enumerate(self.tokens) if index not in without)

    def longest_up_to(self, max_length: int) -> int:
        """Return the estimated tokens of the longest example, cut to `max_length`."""
        return min(max(self.tokens, default=0), max_length)


_CACHE: dict[tuple[Path, Path, int, int], Survey] = {}
"""By the path as given, which messages name, the resolved path, time of change, and size.

A data set of the hub is kept by its commit's name alone, which always holds the same.
"""


def survey_of_run(settings: Settings, named: str | Path | None = None) -> Survey:
    """Count what a run trains on, as far as that is a file; `named` is what ``--train-data-file`` names.

    What people have said in the store is not counted here: the problem says so.
    """
    if settings.fine_tuning.method == "sft":
        return survey(training_file(settings, named))
    judged = judgements_file(settings, named)
    if judged is None:
        return Survey(Path(settings.data_generation.db_path), exists=True, problem="counted when training begins")
    try:
        return survey_of(judged, read_judgements(judged))
    except (UsageError, UnreachableError) as refusal:
        return Survey(judged, exists=judged.exists(), problem=str(refusal))


def survey(path: Path) -> Survey:
    """Count the examples and estimated tokens of the file at `path`, or note the problem; blocks the first time."""
    if is_hub_name(path):
        return _survey_of_hub(path)
    try:
        status = path.stat()
        key = (path, path.resolve(), status.st_mtime_ns, status.st_size)
    except OSError:
        return replace(_count(path, 0, 0.0), exists=False)  # with the message with which training refuses it
    if key not in _CACHE:
        if len(_CACHE) >= _CACHE_SIZE:
            del _CACHE[next(iter(_CACHE))]
        _CACHE[key] = _count(path, status.st_size, status.st_mtime)
    return _CACHE[key]


def _survey_of_hub(path: Path) -> Survey:
    """Count a data set of the hub as it was last looked up and fetched; nothing is asked of the hub."""
    try:
        dataset = hub_name(path)
    except UsageError as refusal:
        return Survey(path, exists=True, problem=str(refusal))
    known = None if dataset is None else last_look_up(dataset)
    files = [] if known is None else [cached_file(known, file) for file in known.files]
    if known is None or (None in files and known.dataset.last is None) or files[:1] == [None]:
        return Survey(path, exists=True, problem=f"{path} is fetched and counted when training begins")
    pinned = Path(str(known.dataset))
    key = (path, pinned, 0, 0)
    if key not in _CACHE:
        if len(_CACHE) >= _CACHE_SIZE:
            del _CACHE[next(iter(_CACHE))]
        found = _count(pinned, sum(file.size for file in known.files), 0.0)
        _CACHE[key] = replace(found, path=path)
    return _CACHE[key]


def _count(path: Path, size: int, changed_at: float) -> Survey:
    if size > MAX_BYTES:
        problem = f"{path} has {size / 1e6:,.0f} MB and is counted when training begins"
        return Survey(path, exists=True, problem=problem, changed_at=changed_at)
    try:
        found = read_examples(path)
    except (UsageError, UnreachableError) as refusal:
        refused = isinstance(refusal, UsageError) and size > 0  # an empty one may be about to be filled
        return Survey(path, exists=True, problem=str(refusal), refused=refused, changed_at=changed_at)
    return replace(survey_of(path, found), changed_at=changed_at)


def survey_of(path: Path, found: ReadResult) -> Survey:
    """Count what has been read of the file at `path`."""
    counted = map(_tokens, found.examples) if not found.judgements else map(_judged_tokens, found.judgements)
    tokens, questions = array("l", counted), array("Q", map(question_digest, found.examples))
    return Survey(path, True, None, dict(found.forms), len(found.skipped), tokens, questions)


def estimate_tokens(text: str) -> int:
    """Estimate the tokens of `text`: four characters of an alphabet, or one ideogram or kana, make one.

    English prose has 4.2 to 4.7 characters a token with the usual vocabularies: this errs on the side of more tokens.
    """
    if text.isascii():
        return (len(text) + 3) // 4
    ideograms = len(text) - len(_CJK.sub("", text))
    return ideograms + (len(text) - ideograms + 3) // 4


def _judged_tokens(judgement: Judgement) -> int:
    """Both answers of a preference are read, each behind its question."""
    match judgement:
        case Preference(chosen, rejected):
            return _tokens(chosen) + _tokens(rejected)
        case JudgedAnswer(example):
            return _tokens(example)


def _tokens(example: Example) -> int:
    match example:
        case QuestionAnswer(question, answer):
            return estimate_tokens(f"Question: {question}\nAnswer: {answer}") + 1
        case PromptCompletion(prompt, completion):
            return estimate_tokens(prompt + completion) + 1
        case PlainText(text):
            return estimate_tokens(text) + 1
        case Conversation(messages):
            return sum(estimate_tokens(message.content) + _TURN_TOKENS for message in messages) + 1
