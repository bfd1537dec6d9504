"""The formatter behind ``--generate-training-file``: raw lines in, a training text out, every line accounted for.

Lines stream through: memory holds a window of lines whose model calls are running, and sixteen bytes a pair to count
duplicates. The output keeps the input's order. Both files appear whole at the end, or not at all.
"""

import asyncio
import hashlib
import os
import re
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
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


@dataclass(frozen=True, slots=True)
class FormatEvent:
    """One raw line that was written or rejected, in the input's order."""

    line: int
    verdict: Literal["written", "rejected"]
    question: str
    answer: str
    reason: str
    """Why it was rejected; empty for a pair."""
    from_model: bool
    lines_done: int
    lines_total: int


@dataclass(frozen=True, slots=True)
class FormatSummary:
    """Where every line of the raw file went."""

    lines: int
    blank: int
    comments: int
    written: int
    rejected: int
    reasons: Mapping[str, int]
    """How many lines were rejected for which reason; sums up to `rejected`."""
    from_model: int
    """How many of the written pairs a model made."""
    duplicates: int
    """How many of the written pairs are equal to an earlier one; they are kept."""
    notes: Mapping[str, int]
    """What was left out of written pairs, such as system messages, and how often."""
    rejected_file: Path | None
    """Where the rejected lines are, if there are any."""

    @property
    def adds_up(self) -> bool:
        """Whether every line is in one of the numbers."""
        by_reason = sum(self.reasons.values())
        return self.lines == self.blank + self.comments + self.written + self.rejected and by_reason == self.rejected


@dataclass(slots=True)
class _Counts:
    """The running counts behind a `FormatSummary`; `digests` are hashes of the written pairs."""

    total: int
    lines: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    from_model: int = 0
    duplicates: int = 0
    digests: set[bytes] = field(default_factory=set)
    first_rejection: str = ""

    def summary(self, rejected_file: Path) -> FormatSummary:
        rejected = self.kinds["rejected"]
        return FormatSummary(
            lines=self.lines,
            blank=self.kinds["blank"],
            comments=self.kinds["comment"],
            written=self.kinds["written"],
            rejected=rejected,
            reasons=dict(self.reasons),
            from_model=self.from_model,
            duplicates=self.duplicates,
            notes=dict(self.notes),
            rejected_file=rejected_file if rejected else None,
        )


_Outcome: TypeAlias = RawPair | RawRejection | RawSkip


@dataclass(frozen=True, slots=True)
class _Line:
    """A raw line in the window: its outcome, or the model call that will give it."""

    number: int
    text: str
    outcome: _Outcome | asyncio.Task[RawPair | RawRejection]


async def format_file(
    raw: Path,
    out: Path,
    statement_to_pair: StatementToPair | None,
    on_progress: Callable[[FormatEvent], None] | None = None,
    concurrency: int = 4,
) -> FormatSummary:
    """Turn the raw lines in `raw` into the training text `out`, and list what was rejected in ``OUT.rejected``.

    Args:
        raw: One example a line, in any of the forms of `raw_lines.parse_raw_line`. A corrected ``.rejected`` file is
            taken as it is: the number and reason before each line are stripped.
        out: The training text; ``OUT.rejected`` beside it is removed if no line was rejected.
        statement_to_pair: Turns a plain statement into a pair; without it, statements are rejected. It is not called
            again after an `UnreachableError`: it has retried by itself, and ten thousand lines should not each wait
            for a dead endpoint.
        on_progress: Called for every line that was written or rejected.
        concurrency: How many model calls run at a time.

    Raises:
        UsageError: `raw` is missing, empty, no UTF-8 text or the same file as `out`.
        LoraTuiError: No line gave a pair, or a file cannot be written; `out` is as it was before.
    """
    rejected_file = out.with_name(f"{out.name}.rejected")
    _require_distinct(raw, out, rejected_file)
    advice = "Write one example a line, such as: question | answer"
    require_text_file(raw, "raw file", advice)
    # The first pass counts, and finds an unreadable file before a model is paid.
    counts = _Counts(total=sum(1 for _ in text_lines(raw, keep_bad=True)))
    calls = _StatementCalls(statement_to_pair, concurrency)
    with atomic_writer(out) as output, atomic_writer(rejected_file) as rejected:
        try:
            await _format_lines(_numbered(raw), calls, _LineWriter(output, rejected, counts, on_progress))
        finally:
            await calls.cancel()
        if not counts.kinds["written"]:
            output.discard()
        if not counts.kinds["rejected"]:
            rejected.discard()
    summary = counts.summary(rejected_file)
    assert summary.adds_up, summary
    if not summary.rejected:
        _remove(rejected_file)
    if not summary.written and not summary.rejected:
        raise UsageError(f"the raw file {raw} holds no examples, only blank lines and comments. {advice}")
    if not summary.written:
        raise LoraTuiError(
            f"none of the {count(summary.rejected, 'example line')} in {raw} gave a pair ({counts.first_rejection}); "
            f"{out} was not written, all reasons are in {rejected_file}"
        )
    return summary


class _StatementCalls:
    """The model calls for statements, at most `concurrency` at a time."""

    def __init__(self, statement_to_pair: StatementToPair | None, concurrency: int) -> None:
        self._statement_to_pair = statement_to_pair
        self._slots = asyncio.Semaphore(concurrency)
        self._tasks: set[asyncio.Task[RawPair | RawRejection]] = set()
        self._endpoint_failure: RawRejection | None = None

    def outcome(self, statement: str) -> RawRejection | asyncio.Task[RawPair | RawRejection]:
        if self._statement_to_pair is None:
            return RawRejection(NEEDS_MODEL)
        task = asyncio.create_task(self._call(self._statement_to_pair, statement))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def cancel(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

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


@dataclass(frozen=True, slots=True)
class _LineWriter:
    """Writes finished lines to the output or the rejected file, counts them and reports progress."""

    output: AtomicFile
    rejected: AtomicFile
    counts: _Counts
    on_progress: Callable[[FormatEvent], None] | None

    def skip(self, kind: str) -> None:
        self.counts.lines += 1
        self.counts.kinds[kind] += 1

    def write(self, line: _Line, pair: RawPair, *, from_model: bool) -> None:
        counts = self.counts
        question, answer = normalise_pair(pair.question, pair.answer)
        block = format_example(question, answer)
        self.output.write(f"\n{block}\n" if counts.kinds["written"] else f"{block}\n")
        counts.lines += 1
        counts.kinds["written"] += 1
        counts.from_model += from_model
        if pair.note:
            counts.notes[pair.note] += 1
        digest = hashlib.blake2b(block.encode(), digest_size=16).digest()
        counts.duplicates += digest in counts.digests
        counts.digests.add(digest)
        self._notify(line, "written", question, answer, "", from_model)

    def reject(self, line: _Line, rejection: RawRejection) -> None:
        counts = self.counts
        reason = " ".join(str(rejection).split())
        self.rejected.write(f"line {line.number}: {reason}\t{line.text}\n")
        counts.lines += 1
        counts.kinds["rejected"] += 1
        counts.reasons[rejection.reason] += 1
        counts.first_rejection = counts.first_rejection or f"line {line.number}: {reason}"
        self._notify(line, "rejected", "", "", reason, from_model=False)

    def _notify(
        self,
        line: _Line,
        verdict: Literal["written", "rejected"],
        question: str,
        answer: str,
        reason: str,
        from_model: bool,
    ) -> None:
        if self.on_progress is not None:
            total = self.counts.total
            self.on_progress(
                FormatEvent(line.number, verdict, question, answer, reason, from_model, self.counts.lines, total)
            )


async def _format_lines(lines: Iterator[tuple[int, str]], calls: _StatementCalls, writer: _LineWriter) -> None:
    window: deque[_Line] = deque()
    for number, text in lines:
        result = RawRejection("not UTF-8 text", text.reason) if isinstance(text, BadLine) else parse_raw_line(text)
        window.append(_Line(number, text, calls.outcome(result.text) if isinstance(result, RawStatement) else result))
        while window and (len(window) > _MAX_WINDOW or not _is_pending(window[0])):
            await _finish(window.popleft(), writer)
        if number % _YIELD_EVERY == 0:
            await asyncio.sleep(0)
    while window:
        await _finish(window.popleft(), writer)


def _is_pending(line: _Line) -> bool:
    return isinstance(line.outcome, asyncio.Task) and not line.outcome.done()


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
            writer.write(line, pair, from_model=from_model)
        case RawRejection() as rejection:
            writer.reject(line, rejection)


def _numbered(raw: Path) -> Iterator[tuple[int, str]]:
    corrected = raw.suffix == ".rejected"
    for number, line in enumerate(text_lines(raw, keep_bad=True), start=1):
        if isinstance(line, BadLine):
            yield number, line
            continue
        yield number, _REJECTED_PREFIX.sub("", line, count=1) if corrected else line


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
