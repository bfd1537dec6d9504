import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from lora_tui.engine.data.examples import QuestionAnswer
from lora_tui.engine.data.formatting import FormatSummary, format_file
from lora_tui.engine.data.read import read_examples
from lora_tui.engine.data.text_lines import text_lines
from lora_tui.errors import LoraTuiError, UnreachableError, UsageError

Model = Callable[[str], Awaitable[tuple[str, str]]]


def run(
    raw: Path, out: Path, model: Model | None = None, concurrency: int = 4
) -> tuple[FormatSummary, list[tuple[int, int]]]:
    progress: list[tuple[int, int]] = []
    summary = asyncio.run(format_file(raw, out, model, lambda *lines: progress.append(lines), concurrency))
    return summary, progress


def write(folder: Path, content: str | bytes, name: str = "raw.txt") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


async def echo(statement: str) -> tuple[str, str]:
    return f"What about {statement.split()[0]}?", statement


def pairs(path: Path) -> list[tuple[str, str]]:
    return [(e.question, e.answer) for e in read_examples(path).examples if isinstance(e, QuestionAnswer)]


RAW = """# all forms

q1\ta1
q2 | a2
Q: q3 A: a3
Question: q4 Answer: a4
q5? a5
{"question": "q6", "answer": "a6\\n\\nQuestion: inside"}
{"messages": [{"role":"system","content":"s"}, {"role":"user","content":"q7"}, {"role": "gpt", "content": "a7"}]}
q1 | a1
What is LoRA?
{"question": "q"
Q: q A:
LoRA is a method.
"""


def test_every_line_is_written_or_listed_and_the_numbers_add_up(tmp_path: Path) -> None:
    raw, out = write(tmp_path, RAW), tmp_path / "new" / "out.txt"
    summary, progress = run(raw, out, None)
    assert out.read_text() == (
        "Question: q1\nAnswer: a1\n\nQuestion: q2\nAnswer: a2\n\n"
        "Question: q3\nAnswer: a3\n\nQuestion: q4\nAnswer: a4\n\n"
        "Question: q5?\nAnswer: a5\n\nQuestion: q6\nAnswer: a6\n\n Question: inside\n\nQuestion: q7\nAnswer: a7\n\n"
        "Question: q1\nAnswer: a1\n"
    )
    rejected = tmp_path / "new" / "out.txt.rejected"
    assert rejected.read_text().split("\n") == [
        "line 11: a question without an answer\tWhat is LoRA?",
        'line 12: not valid JSON (Expecting \',\' delimiter, column 17)\t{"question": "q"',
        "line 13: the answer is empty\tQ: q A:",
        "line 14: a plain statement needs a model: set data_generation.model and its key in OPENAI_API_KEY, "
        'or model = "builtin"\tLoRA is a method.',
        "",
    ]
    assert summary.adds_up
    assert (summary.lines, summary.blank, summary.comments, summary.written, summary.rejected) == (14, 1, 1, 8, 4)
    needs_model = next(reason for reason in summary.reasons if reason.startswith("a plain statement needs a model"))
    reasons = ["a question without an answer", "not valid JSON", "the answer is empty", needs_model]
    assert summary.reasons == dict.fromkeys(reasons, 1)
    listed = [line.split("\t")[0] for line in rejected.read_text().splitlines()]
    for number, reason, shown in zip(range(11, 15), reasons, listed, strict=True):
        assert shown.startswith(f"line {number}: {reason}"), "the eight lines before them are written"
    assert summary.notes == {"the system message was left out": 1}
    assert (summary.duplicates, summary.from_model, summary.rejected_file) == (1, 0, rejected)
    assert progress == [(line, 14) for line in range(3, 15)], "not for the blank line and the comment"
    assert progress[-1] == (summary.lines, summary.lines)
    assert len(progress) == summary.written + summary.rejected, "one call for each verdict"
    assert len(pairs(out)) == 8


def test_statements_go_through_the_model_and_keep_their_place(tmp_path: Path) -> None:
    async def slow_for_the_first(statement: str) -> tuple[str, str]:
        await asyncio.sleep(0.05 if statement.startswith("One") else 0)
        return await echo(statement)

    raw = write(tmp_path, "One is first.\nq | a\nTwo is later.\n")
    summary, _ = run(raw, tmp_path / "out.txt", slow_for_the_first)
    assert pairs(tmp_path / "out.txt") == [
        ("What about One?", "One is first."),
        ("q", "a"),
        ("What about Two?", "Two is later."),
    ]
    assert (summary.from_model, summary.written, summary.rejected, summary.rejected_file) == (2, 3, 0, None)


def test_no_more_calls_run_at_once_than_allowed(tmp_path: Path) -> None:
    running = most = 0

    async def watched(statement: str) -> tuple[str, str]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        return await echo(statement)

    raw = write(tmp_path, "".join(f"Number {number}.\n" for number in range(40)))
    assert run(raw, tmp_path / "out.txt", watched, concurrency=3)[0].from_model == 40
    assert most == 3


@pytest.mark.parametrize(
    ("result", "detail"),
    [
        (LoraTuiError("the reply was\ncut off"), "the reply was cut off"),
        ((" ", "a"), "its question is empty"),
        (("q", "\n"), "its answer is empty"),
    ],
)
def test_a_statement_that_the_model_fails_on_is_rejected_alone(
    tmp_path: Path, result: LoraTuiError | tuple[str, str], detail: str
) -> None:
    async def fails_on_bad(statement: str) -> tuple[str, str]:
        if not statement.startswith("Bad"):
            return await echo(statement)
        if isinstance(result, LoraTuiError):
            raise result
        return result

    raw = write(tmp_path, "Good one.\nBad one.\nGood two.\n")
    summary, _ = run(raw, tmp_path / "out.txt", fails_on_bad)
    assert (summary.written, summary.rejected) == (2, 1)
    reason = "the model made no pair of the statement"
    assert summary.reasons == {reason: 1}
    assert (tmp_path / "out.txt.rejected").read_text() == f"line 2: {reason} ({detail})\tBad one.\n"


def test_a_model_that_cannot_be_reached_is_not_asked_again(tmp_path: Path) -> None:
    calls = 0

    async def gone(statement: str) -> tuple[str, str]:
        nonlocal calls
        calls += 1
        raise UnreachableError("cannot reach http://localhost:1")

    raw = write(tmp_path, "q | a\n" + "A statement.\n" * 50)
    summary, _ = run(raw, tmp_path / "out.txt", gone, concurrency=1)
    assert calls == 1
    assert summary.reasons == {"the model cannot be reached": 50}
    assert pairs(tmp_path / "out.txt") == [("q", "a")]


def test_a_bug_in_the_model_code_is_not_hidden_and_leaves_no_file(tmp_path: Path) -> None:
    async def broken(statement: str) -> tuple[str, str]:
        raise KeyError(statement)

    raw = write(tmp_path, "q | a\n" + "A statement.\n" * 10)
    with pytest.raises(KeyError):
        run(raw, tmp_path / "out.txt", broken)
    assert list(tmp_path.iterdir()) == [raw]


def test_a_cancelled_job_ends_its_calls_and_leaves_no_file(tmp_path: Path) -> None:
    ended = 0

    async def endless(statement: str) -> tuple[str, str]:
        nonlocal ended
        try:
            await asyncio.Event().wait()
        finally:
            ended += 1
        return await echo(statement)

    async def cancel_soon() -> None:
        job = asyncio.create_task(format_file(raw, tmp_path / "out.txt", endless, concurrency=2))
        await asyncio.sleep(0.05)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        assert ended == 2

    raw = write(tmp_path, "q | a\n" + "A statement.\n" * 5)
    asyncio.run(cancel_soon())
    assert list(tmp_path.iterdir()) == [raw]


def test_a_stale_list_of_rejected_lines_is_removed(tmp_path: Path) -> None:
    write(tmp_path, "line 1: old\tx\n", "out.txt.rejected")
    run(write(tmp_path, "q | a\n"), tmp_path / "out.txt")
    assert not (tmp_path / "out.txt.rejected").exists()


def test_corrected_rejected_lines_can_be_formatted_as_they_are(tmp_path: Path) -> None:
    raw = write(tmp_path, "line 4: a question without an answer\tWhat is LoRA? A method.\nq | a\n", "old.txt.rejected")
    run(raw, tmp_path / "out.txt")
    assert pairs(tmp_path / "out.txt") == [("What is LoRA?", "A method."), ("q", "a")]


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_a_byte_order_mark_and_line_ends_make_no_difference(tmp_path: Path, ends: str) -> None:
    raw = write(tmp_path, b"\xef\xbb\xbf" + "# c\nq | ä\nWhat?\nr | b\n".replace("\n", ends).encode())
    summary, _ = run(raw, tmp_path / "out.txt")
    assert (summary.lines, summary.comments, summary.written, summary.rejected) == (4, 1, 2, 1)
    assert (tmp_path / "out.txt").read_text() == "Question: q\nAnswer: ä\n\nQuestion: r\nAnswer: b\n"
    assert (tmp_path / "out.txt.rejected").read_text() == "line 3: a question without an answer\tWhat?\n"


def test_many_lines_stream_through_in_order(tmp_path: Path) -> None:
    raw = write(tmp_path, "".join(f"Number {n}.\n" if n % 7 == 0 else f"q{n} | a{n}\n" for n in range(5000)))
    summary, _ = run(raw, tmp_path / "out.txt", echo)
    assert (summary.written, summary.from_model, summary.duplicates) == (5000, 715, 0)
    assert [answer.strip("a.").removeprefix("Number ") for _, answer in pairs(tmp_path / "out.txt")] == [
        str(n) for n in range(5000)
    ]


def test_reading_goes_no_further_ahead_than_the_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines_read = 0
    seen_by_the_first_call = 0

    def counted(path: Path, *, keep_bad: bool) -> Iterator[str]:
        nonlocal lines_read
        for lines_read, line in enumerate(text_lines(path, keep_bad=keep_bad), start=1):  # noqa: B007  # counts as it goes
            yield line

    async def slow(statement: str) -> tuple[str, str]:
        nonlocal seen_by_the_first_call
        if statement.startswith("First"):
            await asyncio.sleep(0.1)
            seen_by_the_first_call = lines_read
        return await echo(statement)

    monkeypatch.setattr("lora_tui.engine.data.formatting.text_lines", counted)
    raw = write(tmp_path, "First.\n" + "q | a\n" * 20_000)
    assert run(raw, tmp_path / "out.txt", slow)[0].written == 20_001
    assert 1000 <= seen_by_the_first_call <= 1100


def test_other_work_on_the_loop_gets_its_turn_meanwhile(tmp_path: Path) -> None:
    turns = 0

    async def beside() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def both() -> None:
        other = asyncio.create_task(beside())
        await format_file(raw, tmp_path / "out.txt", None)
        other.cancel()

    raw = write(tmp_path, "q | a\n" * 5000)
    asyncio.run(both())
    assert turns >= 15


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "raw.txt is empty. Write one example a line, such as: question | answer"),
        ("\n# only a comment\n", "raw.txt holds no examples, only blank lines and comments"),
        ("q | a".encode("utf-16"), "raw.txt is UTF-16 text"),
    ],
)
def test_a_raw_file_that_cannot_be_used_is_refused_and_nothing_is_written(
    tmp_path: Path, content: str | bytes, expected: str
) -> None:
    async def unpaid(statement: str) -> tuple[str, str]:
        raise AssertionError("the model was asked for a file that cannot be used")

    raw = write(tmp_path, content)
    out = write(tmp_path, "older", "out.txt")
    with pytest.raises(UsageError) as caught:
        run(raw, out, unpaid)
    assert expected in str(caught.value)
    assert out.read_text() == "older"
    assert sorted(tmp_path.iterdir()) == [out, raw]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"\x00", "not UTF-8 text (a NUL byte. The file is binary or not UTF-8)"),
        (b"q | caf\xe9", "not UTF-8 text (byte 8 of the line (0xe9) is not UTF-8)"),
    ],
)
def test_a_line_that_is_no_text_is_reported_and_the_rest_is_written(tmp_path: Path, bad: bytes, reason: str) -> None:
    summary, _ = run(write(tmp_path, b"one | a\r\n" + bad + b"\r\ntwo | b\r\n"), tmp_path / "out.txt")
    assert (summary.lines, summary.written, summary.rejected) == (3, 2, 1)
    assert (tmp_path / "out.txt").read_text() == "Question: one\nAnswer: a\n\nQuestion: two\nAnswer: b\n"
    assert (tmp_path / "out.txt.rejected").read_text().startswith(f"line 2: {reason}\t")


def test_a_missing_raw_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the raw file .*none\.txt does not exist\. Write one example a line"):
        run(tmp_path / "none.txt", tmp_path / "out.txt")
    with pytest.raises(UsageError, match="is a folder"):
        run(tmp_path, tmp_path / "out.txt")


def test_when_every_line_is_rejected_the_old_output_stays_and_the_reasons_are_listed(tmp_path: Path) -> None:
    raw, out = write(tmp_path, "What is LoRA?\nA: b\n"), write(tmp_path, "older", "out.txt")
    with pytest.raises(LoraTuiError) as caught:
        run(raw, out)
    assert not isinstance(caught.value, UsageError)
    message = str(caught.value)
    assert message.startswith(
        f"none of the 2 example lines in {raw} gave a pair (line 1: a question without an answer);"
    )
    assert out.read_text() == "older"
    assert (tmp_path / "out.txt.rejected").read_text().count("\n") == 2


def test_the_raw_file_is_never_overwritten(tmp_path: Path) -> None:
    raw = write(tmp_path, "q | a\n")
    (tmp_path / "link.txt").symlink_to(raw)
    os.link(raw, tmp_path / "hard.txt")
    for out in (raw, tmp_path / "x" / ".." / "raw.txt", tmp_path / "link.txt", tmp_path / "hard.txt"):
        with pytest.raises(UsageError, match="is the raw file itself"):
            run(raw, out)
    rejected = write(tmp_path, "q | a\n", "out.txt.rejected")
    with pytest.raises(UsageError, match="is where the rejected lines of"):
        run(rejected, tmp_path / "out.txt")
    assert raw.read_text() == rejected.read_text() == "q | a\n"


def test_an_output_that_cannot_be_written_is_told_before_the_model_is_asked(read_only_folder: Path) -> None:
    calls: list[str] = []

    async def counted(statement: str) -> tuple[str, str]:
        calls.append(statement)
        return await echo(statement)

    with pytest.raises(LoraTuiError, match=r"cannot write .*/out\.txt: Permission denied"):
        run(read_only_folder / "raw.txt", read_only_folder / "out.txt", counted)
    assert calls == []


def test_an_output_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(LoraTuiError, match="it is a folder; name a file in it"):
        run(write(tmp_path, "q | a\n"), tmp_path / "out")
