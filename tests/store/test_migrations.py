"""What a file of an older version becomes."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from lora_tui.store import feedback, generation, runs, schema, training
from lora_tui.store.connection import Store
from tests.store.store_fixtures import with_store
from tests.store.test_store_file import pragma

ROWS = """
INSERT INTO runs(id, mode, state, settings, options, created_at, heartbeat, pid, pid_started, host)
    VALUES (1, 'generate', 'finished', '{}', '{}', 0, 0, 1, 0, 'here');
INSERT INTO tasks(id, run_id, kind, key, slot, state, created_at) VALUES (1, 1, 'generate', 'a', '{}', 'done', 0);
INSERT INTO attempts(task_id, run_id, sent_at, ended_at, status, prompt_tokens) VALUES (1, 1, 1, 2, 'ok', 7);
INSERT INTO pairs(id, run_id, task_id, ordinal, source, question, answer, evidence, topic, slot, question_key, state,
    score, cause, reason, created_at)
    VALUES (1, 1, 1, 0, 'a', 'Q?', 'A.', 'E.', 't', '{}', 'q', 'rejected', 3.5, 'not grounded', 'because', 0),
           (2, 1, 1, 1, 'a', 'R?', 'B.', 'E.', 't', '{}', 'r', 'waiting', NULL, '', '', 0);
INSERT INTO decisions(pair_id, verdict, score, threshold, weights_version, decided_by, reason, at)
    VALUES (1, 'review', NULL, 7, 1, 'aggregator', 'no judge', 1),
           (1, 'rejected', 3.5, 7, 1, 'aggregator', 'because', 2);
INSERT INTO feedback(scope, run_id, subject, subject_id, metrics, target, given_by, at)
    VALUES ('generation', 1, 'pair', 1, '{"coverage": 0.5}', 1, 'person', 3);
"""


@pytest.fixture
def old_file(tmp_path: Path) -> Path:
    """A file of version 1 with rows in it."""
    path = tmp_path / "store.db"
    with sqlite3.connect(path) as file:
        file.executescript(schema.MIGRATIONS[0] + ROWS + "PRAGMA user_version=1;")
    file.close()
    return path


def test_a_file_of_version_1_keeps_its_rows(old_file: Path) -> None:
    async def look(store: Store) -> None:
        run = await runs.get(store, 1)
        assert run is not None
        assert run.state == "finished"
        assert await generation.pair_counts(store, 1) == {"rejected": 1, "waiting": 1}
        (row,) = await feedback.in_force(store, "generation")
        assert (row.metrics, row.asked) == ({"coverage": 0.5}, feedback.FREE)
        assert await store.value("SELECT prompt_tokens FROM attempts") == 7

    with_store(old_file, look)
    assert pragma(old_file, "user_version") == schema.VERSION


def test_the_decision_that_a_pairs_verdict_comes_from_learns_the_pairs_cause(old_file: Path) -> None:
    async def look(store: Store) -> list[Any]:
        return await store.tuples("SELECT verdict, cause, undone_at, feedback_id FROM decisions ORDER BY id")

    assert with_store(old_file, look) == [("review", "", None, None), ("rejected", "not grounded", None, None)]


def test_a_migrated_file_has_the_same_tables_and_indexes_as_a_new_one(old_file: Path, tmp_path: Path) -> None:
    async def shape(store: Store) -> Any:
        names = await store.tuples("SELECT type, name FROM sqlite_master ORDER BY type, name")
        columns = {name: await store.tuples(f"PRAGMA table_info({name})") for kind, name in names if kind == "table"}
        return names, json.dumps(columns)

    assert with_store(old_file, shape) == with_store(tmp_path / "new.db", shape)


def test_an_evaluation_from_before_examples_were_held_out_has_no_loss_on_them(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    evaluation = (
        "INSERT INTO evaluations(run_id, step, model, score, metrics, weights, weights_version, at)"
        " VALUES (1, 3, 'tuned', 0.5, '{}', '{}', 1, 0);"
    )
    with sqlite3.connect(path) as file:
        file.executescript(schema.MIGRATIONS[0] + ROWS + schema.MIGRATIONS[1] + evaluation + "PRAGMA user_version=2;")
    file.close()
    (found,) = with_store(path, lambda store: training.evaluations(store, 1))
    assert (found.score, found.held_out_loss) == (0.5, None)


def test_edits_go_with_their_pair(old_file: Path) -> None:
    async def work(store: Store) -> Any:
        async with store.transaction() as t:
            await t.execute(
                "INSERT INTO pair_edits(pair_id, question, answer, question_key, at) VALUES (1, 'Q?', 'A.', 'q', 0)"
            )
            await t.execute("DELETE FROM runs")
        return await store.value("SELECT COUNT(*) FROM pair_edits")

    assert with_store(old_file, work) == 0
