"""Rating in lines: a line or a key a rating, each stored at once, as text or JSON."""

import asyncio
import io
import json
import re
import signal
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lora_tui.cli.rate import rate_mode
from lora_tui.cli.request import Request, check_request
from lora_tui.engine.runtime.engine import Engine
from lora_tui.errors import UsageError
from lora_tui.store import feedback
from lora_tui.store.connection import Store
from tests.cli.conftest import Program
from tests.engine.review.test_rating_queue import evaluated_run, judged_run
from tests.store.store_fixtures import with_store


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """An engine on a store with a run of six judged pairs, and after it one with three answers."""
    monkeypatch.chdir(tmp_path)

    async def fill(store: Store) -> None:
        await judged_run(store, 6)
        asked = [("Question: who?\nAnswer:", "expected", "me\x1b[2J"), ("why?", "expected", "so")]
        await evaluated_run(store, *asked, ("when?", "expected", ""))

    with_store(tmp_path / "store.db", fill)
    engine = Engine(tmp_path / "store.db")
    engine.start()
    yield engine
    engine.close()


def rated(engine: Engine, monkeypatch: pytest.MonkeyPatch, typed: str, **options: Any) -> tuple[int, str]:
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    out = io.StringIO()
    return rate_mode(engine, Request(run="rate", **options), out), out.getvalue()


def log_of(engine: Engine, scope: str = "generation") -> list[tuple[int, float]]:
    rows = engine.call(feedback.in_force(engine.open_store, scope)).result()
    return [(row.subject_id, row.target) for row in rows]


def test_a_line_is_a_rating_and_the_end_of_the_input_ends_it(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    status, out = rated(engine, monkeypatch, "g\nbad\n\ns\nG\n", resume=1)
    assert status == 0
    assert [target for _, target in log_of(engine)] == [1.0, 0.0, 1.0]
    assert out.count("question   Why ") == 5
    assert "passage    Bees dance in the dark." in out
    assert "The evidence it names is not in the passage: They show the way." in out
    assert re.search(r"good: accepted · the score had said [1-9]\.\d", out)
    assert "3 pairs rated: 2 good, 1 bad, 1 skipped." in out
    assert "eights of the score" in out
    assert "In all 3 ratings of pairs: 2 good, 1 bad, 1 of them drawn at random; 3 left in run 1." in out
    assert out.endswith("not enough ratings yet: 8 good, 9 bad are missing.\n")
    assert "\x1b" not in out


def test_undo_takes_the_last_answer_back_and_asks_it_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out = rated(engine, monkeypatch, "u\ng\nu\nb\ns\nu\nq\ng\n", resume=1)
    ((first, target),) = log_of(engine)
    assert target == 0.0
    assert out.count(f"pair {first} ·") == 3, "asked first, after the undo before anything, and after its own"
    assert out.count("taken back") == 2
    assert "1 pair rated: 0 good, 1 bad." in out
    assert "nothing to take back" in capsys.readouterr().err


def test_a_line_that_is_no_key_is_said_so_and_rates_nothing(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rated(engine, monkeypatch, "yes\n\x1b[2J\n", resume=1)
    assert not log_of(engine)
    err = capsys.readouterr().err
    assert "«yes» is none of the keys: g good" in err
    assert "\x1b" not in err


def test_json_has_an_item_before_and_a_rating_after(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    status, out = rated(engine, monkeypatch, "g\ns\nu\nb\n", json_lines=True)
    lines = [json.loads(line) for line in out.splitlines()]
    events = [line["event"] for line in lines]
    asked = ["item", "rating", "item", "skipped", "item", "undone", "item", "rating", "item"]
    assert events == ["started", *asked, "done"]
    assert {line["run"] for line in lines} == {2}, "the newest run that has something to rate"
    ratings = [line for line in lines if line["event"] == "rating"]
    assert [(line["rating"], line["target"]) for line in ratings] == [("good", 1.0), ("bad", 0.0)]
    assert {line["subject"] for line in ratings} == {"sample"}
    assert all(0 <= line["score"] <= 1 and line["weights"] and line["asked"] in ("audit", "active") for line in ratings)
    result = lines[-1]["result"]
    assert (status, lines[-1]["status"], result["rated"], result["skipped"]) == (0, "finished", 2, 0)
    assert (result["agreement"]["missing_good"], result["agreement"]["missing_bad"]) == (9, 9)
    assert result["weights"] != result["weights_before"]


def test_the_end_says_what_can_be_learned_from_what_was_said(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    _, out = rated(engine, monkeypatch, "g\n", what="answers")
    assert "--method dpo" not in out, "an answer that is good is better than none that is known"
    _, out = rated(engine, monkeypatch, "b\n", what="answers")
    assert out.endswith("What was said so far makes 1 preference: lora-tui --run train --method dpo learns from it.\n")


def test_when_nothing_is_left_it_ends(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    status, out = rated(engine, monkeypatch, "g\n" * 9, what="answers")
    assert (status, out.count(" good · the score")) == (0, 3)
    assert "question   who?\n" in out
    assert "answer     (nothing)\n" in out
    assert "\x1b" not in out
    status, out = rated(engine, monkeypatch, "g\n", what="answers")
    assert status == 0
    assert "Nothing was rated.\nIn all 3 ratings of answers: 3 good" in out


def test_ctrl_c_ends_it_with_what_was_rated(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(io.StringIO):
        def readline(self, size: int | None = -1) -> str:  # type: ignore[override]
            if line := super().readline():
                return line
            raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdin", Interrupted("g\n"))
    out = io.StringIO()
    assert rate_mode(engine, Request(run="rate", resume=1), out) == 130
    assert len(log_of(engine)) == 1
    assert "1 pair rated: 1 good, 0 bad." in out.getvalue()


def test_what_belongs_to_rate() -> None:
    with pytest.raises(UsageError, match="--what belongs to --run rate"):
        check_request(Request(run="train", what="pairs"))


def test_at_a_terminal_a_key_acts_without_enter_and_a_kill_loses_nothing(program: Program) -> None:
    path = program.folder / "training_data.db"
    with_store(path, lambda store: judged_run(store, 6))
    with program.warm_terminal("", "--run", "rate") as terminal:
        terminal.read_until("q end > ")
        for key, becomes, asked in (("g", "good: accepted", 2), ("\x1b[A", "", 2), ("b", "bad: rejected", 3)):
            terminal.send(key)
            if becomes:
                terminal.read_until(becomes)
            while terminal.output.count("q end > ") < asked:  # a key counts only for a question that is shown
                terminal._read(0.1)
        terminal.signal(signal.SIGKILL)
        terminal.wait()

    async def look() -> list[float]:
        async with await Store.open(path) as store:
            return [row.target for row in await feedback.in_force(store, "generation")]

    assert asyncio.run(look()) == [1.0, 0.0]


def test_without_a_store_none_is_made(program: Program) -> None:
    ended = program.run("", "--run", "rate")
    assert ended.status == 2
    assert "There are no runs yet" in ended.err
    assert not (program.folder / "training_data.db").exists()


def test_after_a_stop_a_key_acts_without_enter_again(program: Program) -> None:
    with_store(program.folder / "training_data.db", lambda store: judged_run(store, 3))
    with program.warm_terminal("", "--run", "rate") as terminal:
        terminal.read_until("q end > ")
        attributes = termios.tcgetattr(terminal._master)
        attributes[3] |= termios.ICANON | termios.ECHO  # as a shell has it
        termios.tcsetattr(terminal._master, termios.TCSANOW, attributes)
        terminal.signal(signal.SIGCONT)
        while terminal.output.count("q end > ") < 2:
            terminal._read(0.1)
        terminal.send("g")
        terminal.read_until("good: accepted")
        terminal.send("q")
        assert terminal.wait() == 0
        assert termios.tcgetattr(terminal._master)[3] & termios.ICANON, "the terminal is given back as it was"


def test_a_rating_typed_before_its_question_was_shown_is_not_given(program: Program) -> None:
    path = program.folder / "training_data.db"
    with_store(path, lambda store: judged_run(store, 6))
    with program.warm_terminal("", "--run", "rate") as terminal:
        terminal.read_until("q end > ")
        terminal.send("gbbbgq")
        assert terminal.wait() == 0
    assert "1 pair rated: 1 good, 0 bad." in terminal.output
