"""The formatter behind ``--generate-training-file``: raw lines in, a training text out, every line accounted for.

Lines stream through: memory holds a window of lines whose model calls are running, and sixteen bytes a pair to count
duplicates. The output keeps the input's order. Both files appear whole at the end, or not at all.
"""

import asyncio
import hashlib
import os
import re
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from lora_tui.engine.data.raw_lines import RawPair, RawRejection, RawSkip, RawStatement, parse_raw_line
from lora_tui.engine.data.text_lines import BadLine, require_text_file, text_lines
from lora_tui.engine.data.training_text import format_example, normalise_pair
from lora_tui.errors import LoraTuiError, UnreachableError, UsageError
from lora_tui.files import AtomicFile, atomic_writer
from lora_tui.text import count, one_line

StatementToPair: TypeAlias = Callable[[str], Awaitable[tuple[str, str]]]
"""Turns a statement into question and answer; raises `LoraTuiError` where it cannot."""

NEEDS_MODEL = (
    'a plain statement needs a model: set data_generation.model and its key in OPENAI_API_KEY, or model = "builtin"'
)
MODEL_FAILED = "the model made no pair of the statement"
MODEL_GONE = "the model cannot be reached"

_MAX_WINDOW = 1024  # lines from the oldest that waits for its model call to the newest that was read
_YIELD_EVERY = 256  # lines after which the loop gets to run other tasks
_REJECTED_PREFIX = re.compile(r"^line \d+: [^\t]*\t")


@dataclass(slots=True)
class FormatSummary:
    """Counts of what became of every line of the raw file; they grow while it is formatted."""

    lines: int = 0
    blank: int = 0
    comments: int = 0
    written: int = 0
    rejected: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    """How many lines were rejected for which reason; sums up to `rejected`."""
    from_model: int = 0
    """How many of the written pairs a model made."""
    duplicates: int = 0
    """How many of the written pairs are equal to an earlier one; they are kept."""
    notes: dict[str, int] = field(default_factory=dict)
    """What was left out of written pairs, such as system messages, and how often."""
    rejected_file: Path | None = None
    """Where the rejected lines are, if there are any."""

    @property
    def adds_up(self) -> bool:
        """Whether every line is in one of the counts."""
        by_reason = sum(self.reasons.values())
        return self.lines == self.blank + self.comments + self.written + self.rejected and by_reason == self.rejected


@dataclass(frozen=True, slots=True)
class _Line:
    """A raw line in the window: its outcome, or the model call that will give it."""

    number: int
    text: str
    outcome: RawPair | RawRejection | RawSkip | asyncio.Task[RawPair | RawRejection]

    @property
    def pending(self) -> bool:
        return isinstance(self.outcome, asyncio.Task) and not self.outcome.done()


def rejected_path(out: Path) -> Path:
    """Return where the rejected lines of `out` go."""
    return out.with_name(f"{out.name}.rejected")


async def format_file(
    raw: Path,
    out: Path,
    statement_to_pair: StatementToPair | None,
    on_progress: Callable[[int, int], None] | None = None,
    concurrency: int = 4,
) -> FormatSummary:
    """Turn the raw lines in `raw` into the training text `out`, and list what was rejected in ``OUT.rejected``.

    `raw` holds one example a line, in any of the forms of `raw_lines.parse_raw_line`; a corrected ``.rejected`` file is
    taken as it is, the number and reason before each line are stripped. ``OUT.rejected`` is removed if no line was
    rejected. `on_progress` is called with the lines done and all lines, `concurrency` is how many model calls run at a
    time. Without `statement_to_pair`, statements are rejected; it is not called again after an `UnreachableError`: it
    has retried by itself, and ten thousand lines should not each wait for a dead endpoint.

    Raises `UsageError` where `raw` is missing, empty, not UTF-8 text or the same file as `out`, and `LoraTuiError`
    where no line gave a pair or a file cannot be written; `out` is as it was before.
    """
    rejected_file = rejected_path(out)
    _require_distinct(raw, out, rejected_file)
    advice = "Write one example a line, such as: question | answer"
    require_text_file(raw, "raw file", advice)
    # The first pass counts, and finds an unreadable file before a model is paid.
    total = sum(1 for _ in text_lines(raw, keep_bad=True))
    calls = _StatementCalls(statement_to_pair, concurrency)
    summary = FormatSummary()
    with atomic_writer(out) as output, atomic_writer(rejected_file) as rejected:
        writer = _LineWriter(output, rejected, summary, lambda: on_progress and on_progress(summary.lines, total))
        await _format_lines(_numbered(raw), calls, writer)
        if not summary.written:
            output.discard()
        if not summary.rejected:
            rejected.discard()
    assert summary.adds_up, summary
    if summary.rejected:
        summary.rejected_file = rejected_file
    else:
        _remove(rejected_file)
    if not summary.written and not summary.rejected:
        raise UsageError(f"the raw file {raw} holds no examples, only blank lines and comments. {advice}")
    if not summary.written:
        raise LoraTuiError(
            f"none of the {count(summary.rejected, 'example line')} in {raw} gave a pair ({writer.first_rejection}); "
            f"{out} was not written, all reasons are in {rejected_file}"
        )
    return summary


class _StatementCalls:
    """The model calls for statements, at most `concurrency` at a time."""

    def __init__(self, statement_to_pair: StatementToPair | None, concurrency: int) -> None:
        self._statement_to_pair = statement_to_pair
        self._slots = asyncio.Semaphore(concurrency)
        self._endpoint_failure: RawRejection | None = None

    def outcome(self, statement: str) -> RawRejection | asyncio.Task[RawPair | RawRejection]:
        if self._statement_to_pair is None:
            return RawRejection(NEEDS_MODEL)
        return asyncio.create_task(self._call(self._statement_to_pair, statement))

    async def _call(self, statement_to_pair: StatementToPair, statement: str) -> RawPair | RawRejection:
        async with self._slots:
            if self._endpoint_failure is not None:
                return self._endpoint_failure
            try:
                question, answer = await statement_to_pair(statement)
            except UnreachableError as error:
                self._endpoint_failure = RawRejection(MODEL_GONE, one_line(str(error), 300))
                return self._endpoint_failure
            except LoraTuiError as error:
                return RawRejection(MODEL_FAILED, one_line(str(error), 300))
        if not question.strip() or not answer.strip():
            return RawRejection(MODEL_FAILED, f"its {'answer' if question.strip() else 'question'} is empty")
        return RawPair(question, answer)


@dataclass(slots=True)
class _LineWriter:
    """Writes finished lines to the output or the rejected file, counts them and reports progress."""

    output: AtomicFile
    rejected: AtomicFile
    summary: FormatSummary
    on_line: Callable[[], object]
    first_rejection: str = ""
    digests: set[bytes] = field(default_factory=set)

    def skip(self, kind: Literal["blank", "comment"]) -> None:
        self.summary.lines += 1
        self.summary.blank += kind == "blank"
        self.summary.comments += kind == "comment"

    def write(self, pair: RawPair, *, from_model: bool) -> None:
        summary = self.summary
        block = format_example(*normalise_pair(pair.question, pair.answer))
        self.output.write(f"\n{block}\n" if summary.written else f"{block}\n")
        summary.lines += 1
        summary.written += 1
        summary.from_model += from_model
        if pair.note:
            summary.notes[pair.note] = summary.notes.get(pair.note, 0) + 1
        digest = hashlib.blake2b(block.encode(), digest_size=16).digest()
        summary.duplicates += digest in self.digests
        self.digests.add(digest)
        self.on_line()

    def reject(self, line: _Line, rejection: RawRejection) -> None:
        summary = self.summary
        reason = " ".join(str(rejection).split())
        self.rejected.write(f"line {line.number}: {reason}\t{line.text}\n")
        summary.lines += 1
        summary.rejected += 1
        summary.reasons[rejection.reason] = summary.reasons.get(rejection.reason, 0) + 1
        self.first_rejection = self.first_rejection or f"line {line.number}: {reason}"
        self.on_line()


async def _format_lines(lines: Iterator[tuple[int, str]], calls: _StatementCalls, writer: _LineWriter) -> None:
    window: deque[_Line] = deque()
    try:
        for number, text in lines:
            result = RawRejection("not UTF-8 text", text.reason) if isinstance(text, BadLine) else parse_raw_line(text)
            outcome = calls.outcome(result.text) if isinstance(result, RawStatement) else result
            window.append(_Line(number, text, outcome))
            while window and (len(window) > _MAX_WINDOW or not window[0].pending):
                await _finish(window[0], writer)
                window.popleft()
            if number % _YIELD_EVERY == 0:
                await asyncio.sleep(0)
        while window:
            await _finish(window[0], writer)
            window.popleft()
    finally:
        tasks = [line.outcome for line in window if isinstance(line.outcome, asyncio.Task)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _finish(line: _Line, writer: _LineWriter) -> None:
    outcome = line.outcome
    from_model = isinstance(outcome, asyncio.Task)
    if isinstance(outcome, asyncio.Task):
        # Not awaited directly: a cancelled job would cancel this call alone first, and the next in line would start.
        await asyncio.wait([outcome])
        outcome = outcome.result()
    match outcome:
        case RawSkip(kind):
            writer.skip(kind)
        case RawPair() as pair:
            writer.write(pair, from_model=from_model)
        case RawRejection() as rejection:
            writer.reject(line, rejection)


def _numbered(raw: Path) -> Iterator[tuple[int, str]]:
    corrected = raw.suffix == ".rejected"
    for number, line in enumerate(text_lines(raw, keep_bad=True), start=1):
        strip = corrected and not isinstance(line, BadLine)
        yield number, _REJECTED_PREFIX.sub("", line, count=1) if strip else line


def _require_distinct(raw: Path, out: Path, rejected_file: Path) -> None:
    if _same_file(raw, out):
        raise UsageError(f"{out} is the raw file itself; name another file for the result")
    if _same_file(raw, rejected_file):
        raise UsageError(f"{raw} is where the rejected lines of {out} go; name another file for the result")


def _same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # one of them does not exist yet
        return os.path.realpath(one) == os.path.realpath(other)


def _remove(rejected_file: Path) -> None:
    try:
        rejected_file.unlink(missing_ok=True)
    except OSError as error:
        raise LoraTuiError(f"cannot remove {rejected_file}, which is out of date: {error.strerror}") from error
