"""A store as large as a long season leaves it, made in seconds, for measuring what watchers wait for.

    python -m tests.bench.big_store FILE [--pairs N] [--attempts N] [--events N] [--runs N] [--measure]

Run 1 generates, run 2 trains, both said to be live (owned by this very process, so they are interrupted once it is
gone); the rest have ended. Everything follows from the numbers alone, so two stores of the same size are alike.
`build` is the same for tests and benchmarks of the app.
"""

import argparse
import asyncio
import json
import os
import socket
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from lora_tui.config.models import Settings
from lora_tui.scoring.priors import EVALUATION_PRIOR, GENERATION_PRIOR
from lora_tui.store.schema import MIGRATIONS, VERSION

GENERATING, TRAINING = 1, 2
"""The two runs that are large."""

_TYPES = ("fact", "how", "why", "compare", "definition", "apply")
_DIFFICULTIES = ("easy", "medium", "hard")
_TOPICS = ("bees", "sourdough", "cranes", "checksums", "harbours", "clocks", "Straßen", "evaluation protocol")
_METRICS = ("judge_groundedness", "judge_correctness", "judge_usefulness", "coverage", "grounding")
_WEIGHTS = dict(GENERATION_PRIOR.weights)
_ANSWER_WEIGHTS = dict(EVALUATION_PRIOR.weights)
_LOST = "the program ended before the answer was stored"


@dataclass(frozen=True)
class Size:
    """How much of everything; `events` counts both runs' together, and every pair and step has one."""

    pairs: int = 100_000
    attempts: int = 150_000
    events: int = 1_000_000
    runs: int = 400
    files: int = 300
    conversations: int = 200

    @property
    def steps(self) -> int:
        """Optimizer steps of the training run."""
        return max(0, self.events - self.pairs)


def build(path: Path, size: Size | None = None) -> None:
    """Write a new store to `path`; what is there is replaced."""
    size = size or Size()
    for old in path.parent.glob(f"{path.name}*"):
        old.unlink()
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-400000", "temp_store=MEMORY"):
            connection.execute(f"PRAGMA {pragma}")
        for script in MIGRATIONS:
            connection.executescript(script)
        indexes = connection.execute("SELECT name, sql FROM sqlite_master WHERE type='index' AND sql > ''").fetchall()
        for name, _ in indexes:
            connection.execute(f"DROP INDEX {name}")  # sorting at the end is several times faster than inserting
        connection.execute("BEGIN")
        for fill in (_runs, _corpus, _pairs, _attempts, _training, _talk):
            fill(connection, size)
        for _, sql in indexes:
            connection.execute(sql)
        connection.execute(f"PRAGMA user_version={VERSION}")
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode=WAL")
    finally:
        connection.close()
    path.chmod(0o600)


def _runs(connection: sqlite3.Connection, size: Size) -> None:
    settings = json.dumps(Settings().model_dump(mode="json"))
    now, pid, host = time.time(), os.getpid(), socket.gethostname()
    begun = psutil.Process(pid).create_time()
    modes = ("generate", "train", "train", "evaluate", "quickstart", "export", "format")

    def rows() -> Iterator[tuple[Any, ...]]:
        for n in range(1, size.runs + 1):
            live = n in (GENERATING, TRAINING)
            mode = "generate" if n == GENERATING else "train" if n == TRAINING else modes[n % len(modes)]
            state = "running" if live else ("finished", "finished", "stopped", "failed")[n % 4]
            result = None if live else json.dumps({"best_score": round(n % 97 / 97, 3), "loss": 0.4, "steps": 120})
            error = "Nothing new was accepted in a whole pass." if state == "failed" else None
            began = now - (size.runs - n + 1) * 3600
            ended = None if live else began + 600
            name = f"run of day {n}" if n % 9 == 0 else ""
            yield (n, mode, name, state, settings, "{}", f"/work/run-{n}", "cpu", began, began, ended, now, pid, begun,
                   host, result, error)  # fmt: skip

    names = (
        "id, mode, name, state, settings, options, folder, device, created_at, started_at, ended_at, heartbeat, pid,"
        " pid_started, host, result, error"
    )
    connection.executemany(f"INSERT INTO runs({names}) VALUES ({', '.join('?' * 17)})", rows())


def _corpus(connection: sqlite3.Connection, size: Size) -> None:
    connection.executemany(
        "INSERT INTO documents VALUES (?, 40000, 'utf-8', 0)", ((f"document{n}",) for n in range(size.files))
    )
    connection.executemany(
        "INSERT INTO run_documents VALUES (1, ?, ?, 40000, 20, NULL)",
        ((_file(n), f"document{n}") for n in range(size.files)),
    )
    connection.execute("INSERT INTO run_documents VALUES (1, 'logs.pdf', NULL, 90000, 0, 'it needs the extra docs')")
    passage = "A sentence of a passage that somebody wrote about the matter. " * 25
    connection.executemany(
        "INSERT INTO chunks VALUES (?, ?, '1/400/40', ?, 0, 1600, 400, ?, ?, '', '')",
        (
            (f"chunk{n}-{part}", f"document{n}", part, f"Heading {part}", f"{n}/{part} {passage}")
            for n in range(size.files)
            for part in range(20)
        ),
    )


def _file(number: int) -> str:
    return f"handbook/part{number % 12:02}/chapter{number:03}.md"


def _state(number: int) -> str:
    return ("accepted", "rejected", "accepted", "accepted", "rejected", "review", "accepted", "rejected")[number % 8]


def _pairs(connection: sqlite3.Connection, size: Size) -> None:
    connection.execute("INSERT INTO weight_versions VALUES (1, 'generation', 0, ?, 0)", (json.dumps(_WEIGHTS),))
    tasks, pairs, decisions, metrics, news = [], [], [], [], []
    for n in range(1, size.pairs + 1):
        file, topic, state = n % size.files, _TOPICS[n % len(_TOPICS)], _state(n)
        slot = json.dumps(
            {
                "topic": topic,
                "question_type": _TYPES[n % 6],
                "difficulty": _DIFFICULTIES[n % 3],
                "audience": "an expert",
            }
        )
        score = None if state == "review" else round((n * 37 % 1000) / 100, 2)
        chunk, source = f"chunk{file}-{n % 20}", _file(file)
        question = f"What does entry {n} say about {topic}, and why does it matter to those who read it?"
        answer = f"Entry {n} says that {topic} are tended every {n % 60} minutes. " * 3
        reason = f"scores {score} of 10, the threshold is 7; most is lost by grounding (0.41 of 1)"
        cause = state if state == "accepted" else ("below threshold" if score is not None else "judge failed")
        tasks.append((2 * n - 1, "generate", f"1/0/{n}", chunk, None, source, slot))
        tasks.append((2 * n, "judge", str(n), chunk, n, source, "{}"))
        pairs.append((n, 2 * n - 1, chunk, source, question, answer, answer[:80], topic, slot, question.lower(), state,
                      score, cause, reason))  # fmt: skip
        decisions.append((n, n, state, score, reason, cause))
        if score is not None:
            metrics += [(n, name, (n * (place + 3) % 100) / 100) for place, name in enumerate(_METRICS)]
        payload = {"pair": n, "verdict": state, "score": score, "question": question, "answer": answer,
                   "reason": reason, "source": source}  # fmt: skip
        news.append((float(n), json.dumps(payload)))
    connection.executemany(
        "INSERT INTO tasks(id, run_id, kind, key, chunk_id, pair_id, round, source, slot, state, created_at)"
        " VALUES (?, 1, ?, ?, ?, ?, 1, ?, ?, 'done', 0)",
        tasks,
    )
    connection.executemany(
        "INSERT INTO pairs(id, run_id, task_id, ordinal, chunk_id, source, question, answer, evidence, topic, slot,"
        " question_key, state, score, cause, reason, created_at, decided_at)"
        " VALUES (?, 1, ?, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 1)",
        pairs,
    )
    connection.executemany(
        "INSERT INTO decisions(id, pair_id, verdict, score, threshold, weights_version, decided_by, reason, at, cause)"
        " VALUES (?, ?, ?, ?, 7, 1, 'aggregator', ?, 1, ?)",
        decisions,
    )
    connection.executemany("INSERT INTO pair_metrics VALUES (?, ?, ?, NULL)", metrics)
    connection.executemany("INSERT INTO events(run_id, at, kind, payload) VALUES (1, ?, 'pair', ?)", news)


def _attempts(connection: sqlite3.Connection, size: Size) -> None:
    ends = [("ok", 200)] * 18 + [("http_error", 429), ("timeout", None)]
    now = time.time()
    first = now - size.attempts / 20
    most = max(1, 2 * size.pairs)
    reply = json.dumps({"pairs": [{"question": "What is it?" * 4, "answer": "It is what it is. " * 8}] * 3})

    def rows() -> Iterator[tuple[Any, ...]]:
        for n in range(size.attempts):
            status, http_status = ends[n % len(ends)] if n < size.attempts - 12 else ("sent", None)
            sent_at = first + n / 20
            ended = None if status == "sent" else sent_at + 0.5 + (n * 7 % 40) / 20
            tokens = (900, 120, 400, reply, None) if status == "ok" else (0, 0, 0, None, _LOST)
            yield (n % most + 1, sent_at, ended, status, http_status, *tokens)

    connection.executemany(
        "INSERT INTO attempts(task_id, run_id, sent_at, ended_at, status, http_status, prompt_tokens,"
        " completion_tokens, cached_tokens, reply, error, estimated_tokens)"
        " VALUES (?, 1, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1300)",
        rows(),
    )


def _training(connection: sqlite3.Connection, size: Size) -> None:
    # In SQL alone: a million rows a second, where Python would need ten.
    connection.execute(
        "WITH RECURSIVE n(step) AS (SELECT 1 UNION ALL SELECT step + 1 FROM n WHERE step < ?)"
        " INSERT INTO steps SELECT 2, step, step / 1000.0, CASE WHEN step % 5000 = 0 THEN NULL"
        " ELSE 0.3 + 2.0 / (1 + step / 2000.0) + (step * 7919 % 100) / 500.0 END, 0.001 * (1 - step / 2000000.0),"
        " 0.5 + (step * 31 % 100) / 200.0, 1900, 340 + step % 17, 5.6, 1900, 1.75e9 + step FROM n",
        (size.steps,),
    )
    connection.execute(
        "INSERT INTO events(run_id, at, kind, payload) SELECT 2, at, 'step', json_object('step', step,"
        " 'steps', 2000000, 'epoch', epoch, 'loss', loss, 'lr', lr, 'grad_norm', grad_norm, 'tokens', tokens,"
        " 'tokens_per_s', tokens_per_s, 'seconds', seconds, 'memory_mb', memory_mb, 'eta_s', 60.0) FROM steps"
    )
    weights = json.dumps(_ANSWER_WEIGHTS)
    evaluations = range(1, 201)
    connection.executemany(
        "INSERT INTO evaluations VALUES (?, 2, ?, 'tuned', ?, ?, ?, 1, ?, NULL, NULL, NULL, NULL)",
        ((n, 50 * n, 0.2 + n / 400, weights, weights, 1.75e9 + 50 * n) for n in evaluations),
    )
    connection.executemany(
        "INSERT INTO samples(evaluation_id, ordinal, prompt, kind, reference, answer, metrics, score)"
        " VALUES (?, ?, ?, 'expected', ?, ?, ?, 0.5)",
        (
            (n, ordinal, f"Question: prompt {ordinal}\nAnswer:", "the secret", f"answer {n}", weights)
            for n in evaluations
            for ordinal in range(7)
        ),
    )
    _short_trainings(connection)
    connection.executemany(
        "INSERT INTO checkpoints(run_id, step, kind, path, score, at) VALUES (2, ?, ?, ?, NULL, ?)",
        (
            (50 * n, "best" if n % 4 == 0 else "last", f"/work/run-2/step-{50 * n}", 1.75e9 + 50 * n)
            for n in evaluations
        ),
    )
    connection.executemany(
        "INSERT INTO weight_versions(scope, version, weights, at) VALUES ('evaluation', ?, ?, ?)",
        ((n, weights, float(n)) for n in range(200)),
    )


def _short_trainings(connection: sqlite3.Connection) -> None:
    """120 steps and two evaluations of seven prompts for every other training run, so that the list has figures."""
    connection.execute(
        "WITH RECURSIVE n(step) AS (SELECT 1 UNION ALL SELECT step + 1 FROM n WHERE step < 120)"
        " INSERT INTO steps SELECT runs.id, step, step / 10.0, 0.1 + 3.0 / step, 0.001, 0.5, 1900, 340, 1.5, 1900,"
        " 1.75e9 + step FROM runs, n WHERE runs.id > 2 AND mode IN ('train', 'quickstart')"
    )
    connection.execute(
        "INSERT INTO evaluations(run_id, step, model, score, metrics, weights, weights_version, at)"
        " SELECT runs.id, n.column1, 'tuned', 0.3 + runs.id % 7 / 10.0 * n.column1 / 120, '{}', '{}', 1, 1.75e9"
        " FROM runs, (VALUES (60), (120)) AS n WHERE runs.id > 2 AND mode IN ('train', 'quickstart')"
    )
    connection.execute(
        "INSERT INTO samples(evaluation_id, ordinal, prompt, kind, reference, answer, metrics, score)"
        " SELECT evaluations.id, n.column1, 'Question: prompt ' || n.column1 || char(10) || 'Answer:', 'expected',"
        " 'opened on 3 May 1897', CASE WHEN (evaluations.id + n.column1) % 3 THEN 'opened on 3 May 1897' ELSE 'in July'"
        " END, '{}', 0.5 FROM evaluations, (VALUES (0), (1), (2), (3), (4), (5), (6)) AS n WHERE run_id > 2"
    )


def _talk(connection: sqlite3.Connection, size: Size) -> None:
    connection.executemany(
        "INSERT INTO conversations VALUES (?, 2, 'builtin', '/work/run-2/best', ?)",
        ((n, float(n)) for n in range(1, size.conversations + 1)),
    )
    connection.executemany(
        "INSERT INTO turns(conversation_id, role, text, statistics, at) VALUES (?, ?, ?, '{}', ?)",
        (
            (n, role, f"{role} says {part} in {n}\nand more of it", float(part))
            for n in range(1, size.conversations + 1)
            for part in range(20)
            for role in ("user", "assistant")
        ),
    )


async def measure(path: Path) -> dict[str, float]:
    """Return how many milliseconds each read query takes, the middle one of five."""
    from lora_tui.store import feedback, runs
    from lora_tui.store.connection import Store
    from lora_tui.store.queries.generation import (
        PairFilter,
        call_statistics,
        pair_detail,
        pair_ids,
        pair_lines,
        pairs_matching,
        score_histogram,
        source_lines,
    )
    from lora_tui.store.queries.run_figures import run_figures
    from lora_tui.store.queries.runs import (
        checkpoints,
        data_version,
        events_of_kinds,
        newest_conversation,
        newest_event,
        run_lines,
        step_columns,
        weight_history,
    )

    async with await Store.open(path) as store:
        everything = PairFilter()
        ids = await pair_ids(store, GENERATING, everything)
        some = list(ids[len(ids) // 2 :][:300])
        accepted, one_file = replace(everything, state="accepted"), replace(everything, source=_file(5))
        steps = await store.value("SELECT MAX(step) FROM steps WHERE run_id=2")
        all_runs = [line.id for line in await run_lines(store)]
        asked: dict[str, Callable[[], Awaitable[Any]]] = {
            "data_version": lambda: data_version(store),
            "mark_interrupted": lambda: runs.mark_interrupted(store),
            "run_lines": lambda: run_lines(store),
            "run_figures, all": lambda: run_figures(store, all_runs),
            "pair_ids, all": lambda: pair_ids(store, GENERATING, everything),
            "pair_ids, accepted": lambda: pair_ids(store, GENERATING, accepted),
            "pair_ids, one file": lambda: pair_ids(store, GENERATING, one_file),
            "pair_ids, search": lambda: pair_ids(store, GENERATING, replace(everything, search="entry 77")),
            "pair_ids, search ß": lambda: pair_ids(store, GENERATING, replace(everything, search="straßen")),
            "pair_ids, newest": lambda: pair_ids(store, GENERATING, accepted, after=ids[-50]),
            "pairs_matching, 300": lambda: pairs_matching(store, GENERATING, accepted, some),
            "pair_lines, 300": lambda: pair_lines(store, some),
            "pair_detail": lambda: pair_detail(store, some[0]),
            "source_lines": lambda: source_lines(store, GENERATING),
            "score_histogram": lambda: score_histogram(store, GENERATING, 20),
            "call_statistics": lambda: call_statistics(store, GENERATING, time.time()),
            "step_columns, all": lambda: step_columns(store, TRAINING),
            "step_columns, newest": lambda: step_columns(store, TRAINING, steps - 20),
            "newest_event": lambda: newest_event(store, TRAINING, "step"),
            "events_of_kinds": lambda: events_of_kinds(store, GENERATING, ("pair", "analysis"), 5, 200),
            "checkpoints": lambda: checkpoints(store, TRAINING),
            "weight_history": lambda: weight_history(store, "evaluation"),
            "newest_conversation": lambda: newest_conversation(store),
            "ratings": lambda: feedback.ratings(store, TRAINING),
        }
        return {name: await _middle(ask) for name, ask in asked.items()}


async def _middle(ask: Callable[[], Awaitable[Any]]) -> float:
    taken = []
    for _ in range(5):
        began = time.perf_counter()
        await ask()
        taken.append(time.perf_counter() - began)
    return 1000 * sorted(taken)[2]


def main() -> None:
    """Build a store, and time the queries on it where that is asked for."""
    parser = argparse.ArgumentParser(description="Write a large store.")
    parser.add_argument("file", type=Path)
    for name in ("pairs", "attempts", "events", "runs"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Size, name))
    parser.add_argument("--measure", action="store_true", help="time the read queries on it")
    chosen = parser.parse_args()
    began = time.perf_counter()
    build(chosen.file, Size(chosen.pairs, chosen.attempts, chosen.events, chosen.runs))
    megabytes = chosen.file.stat().st_size / 1e6
    print(f"{chosen.file}: {megabytes:,.0f} MB in {time.perf_counter() - began:.1f} s")
    if chosen.measure:
        for name, milliseconds in asyncio.run(measure(chosen.file)).items():
            print(f"{name:<24} {milliseconds:>9.2f} ms")


if __name__ == "__main__":
    main()
