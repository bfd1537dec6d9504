"""Which devices a run takes, and what it says of a rank that does not come or goes."""

import io
import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lora_tui.cli.request import Request
from lora_tui.cli.run import RunPlan, run
from lora_tui.engine.runtime.process import STARTED_RANK, torchrun_rank
from lora_tui.engine.training import launch, rank_worker
from lora_tui.engine.training.launch import ParallelPlan, RankProcesses, choose_parallel, started_store
from lora_tui.engine.training.ranks import LostRankError
from lora_tui.errors import ConfigError, UsageError
from tests.engine.tiny import tiny_settings

CPU, CARD = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def four_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    memory = SimpleNamespace(total_memory=24 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: memory)


def chosen(place: torch.device, **changes: Any) -> tuple[str, list[str]] | None:
    plan = choose_parallel(tiny_settings({"device": "auto", **changes}).fine_tuning, place)
    return None if plan is None else (plan.kind, list(plan.devices))


def test_a_cpu_is_divided_only_where_it_is_asked_for() -> None:
    assert chosen(CPU) is None
    assert chosen(CPU, parallel="none", devices=2) is None
    assert chosen(CPU, parallel="ddp") == ("ddp", ["cpu", "cpu"])
    assert chosen(CPU, parallel="fsdp", devices=3) == ("fsdp", ["cpu"] * 3)
    assert chosen(CPU, parallel="ddp", devices=1) is None
    with pytest.raises(ConfigError, match="a list names GPUs"):
        chosen(CPU, parallel="ddp", devices=[0, 1])


def test_a_cpu_has_no_more_ranks_than_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert chosen(CPU, parallel="ddp", devices=8) == ("ddp", ["cpu"] * 8)
    with pytest.raises(ConfigError, match="devices = 9: this machine has 8 processors"):
        chosen(CPU, parallel="ddp", devices=9)


@pytest.mark.usefixtures("four_cards")
def test_every_gpu_is_taken_unless_some_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(CARD) == ("ddp", ["cuda:0", "cuda:1", "cuda:2", "cuda:3"])
    assert chosen(CARD, devices=2) == ("ddp", ["cuda:0", "cuda:1"])
    assert chosen(CARD, devices=[1, 3], parallel="fsdp") == ("fsdp", ["cuda:1", "cuda:3"])
    assert chosen(CARD, device="cuda:2") is None, "somebody has named one"
    with pytest.raises(ConfigError, match="there is no cuda:4; this machine has 4"):
        chosen(CARD, devices=[0, 4])
    with pytest.raises(ConfigError, match="cannot divide weights in 4 bits"):
        chosen(CARD, parallel="fsdp", qlora=True)
    large = SimpleNamespace(parameters=32_000_000_000)
    monkeypatch.setattr(launch, "find_architecture", lambda name: large)
    assert chosen(CARD) == ("fsdp", ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]), "64 GB do not fit 24"
    assert chosen(CARD, qlora=True) == ("ddp", ["cuda:0", "cuda:1", "cuda:2", "cuda:3"])


def test_preferences_are_learnt_on_one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(CPU, method="dpo") is None
    with pytest.raises(ConfigError) as refused:
        chosen(CPU, method="dpo", parallel="ddp")
    assert str(refused.value) == (
        'fine_tuning.method = "dpo" trains on one device: set fine_tuning.parallel = "none" (it is "ddp").'
    )
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match='"kto" trains on one device: start lora-tui without torchrun'):
        chosen(CPU, method="kto")


def test_a_process_of_torchruns_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert torchrun_rank() is None
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert torchrun_rank() == (1, 4)
    monkeypatch.setenv(STARTED_RANK, "/somewhere")
    assert torchrun_rank() is None, "a rank that a run has started is not torchrun's"


def test_of_the_processes_that_torchrun_starts_one_alone_has_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("lora_tui.cli.run.serve_under_torchrun", lambda: 17)
    nothing: Any = None

    def status(request: Request) -> int:
        return run(request, nothing, nothing, nothing, Path("nowhere.db"))

    assert status(Request(run="train")) == 17
    assert status(Request(resume=3)) == 17
    for others in (Request(run="generate"), Request(run="queue"), Request(run="train", queue=True)):
        assert status(others) == 0, "rank 0 does it, or refuses"


@pytest.mark.parametrize(
    ("request_", "refusal"),
    [
        (Request(run="queue"), "without it"),
        (Request(run="train", queue=True), "without it"),
        (Request(run="train", sweep=("fine_tuning.lora.r=4,8",)), "without it"),
        (Request(resume=3), "Run 3 is a generate run: resume it without torchrun"),
    ],
)
def test_torchrun_is_refused_what_its_other_ranks_would_wait_for_in_vain(
    monkeypatch: pytest.MonkeyPatch, request_: Request, refusal: str
) -> None:
    async def found(*_: Any) -> RunPlan:
        return RunPlan("generate", tiny_settings(), {}, 3)

    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("lora_tui.cli.run._plan_run", found)
    monkeypatch.setattr("lora_tui.cli.run.EndingTeller", lambda *_: None)
    monkeypatch.setattr("lora_tui.cli.run.work_queue", lambda *_: pytest.fail("it is worked"))
    nothing: Any = SimpleNamespace(settings=tiny_settings(), in_is_terminal=False, path=None)
    with pytest.raises(UsageError, match=refusal):
        run(request_, nothing, nothing, nothing, Path("nowhere.db"))


def started(monkeypatch: pytest.MonkeyPatch, script: str) -> RankProcesses:
    """Ranks whose second one is this script, in a Python without torch."""
    python = sys.executable

    def popen(command: list[str], **options: Any) -> Any:
        return real([python, "-c", script], **options)

    real = launch.subprocess.Popen
    monkeypatch.setattr(launch.subprocess, "Popen", popen)
    return RankProcesses(ParallelPlan("ddp", ("cpu", "cpu"), 2, 1), tiny_settings())


def test_a_rank_that_ends_before_it_is_ready_is_told_with_how(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    killed = started(monkeypatch, "import os; print('no room', flush=True); os.kill(os.getpid(), 9)")
    folder = killed._folder
    with pytest.raises(LostRankError, match=r"Rank 1 of 2 \(cpu, process \d+\) was killed: .*because memory ran out"):
        killed.connect(None)  # type: ignore[arg-type]
    killed.close()
    assert "no room" in caplog.text, "what it had written is in the log"
    assert folder is not None
    assert not folder.exists()
    monkeypatch.undo()
    ended = started(monkeypatch, "import sys; sys.exit(3)")
    with pytest.raises(LostRankError, match="ended with status 3"):
        ended.connect(None)  # type: ignore[arg-type]
    ended.close()


def test_a_rank_that_does_not_listen_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    processes = started(monkeypatch, "import time; time.sleep(60)")
    (process,) = processes._processes
    assert processes.lost() is None
    processes.close()
    assert process.returncode == -signal.SIGKILL


def test_what_a_rank_fails_of_reaches_rank_0_and_the_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv(STARTED_RANK, str(tmp_path / "store"))
    store = started_store()[0]
    settings = tiny_settings({"model_name": str(tmp_path / "nowhere")}).model_dump(mode="json")
    job = {"settings": settings, "kind": "ddp", "devices": ["cpu", "cpu"], "threads": torch.get_num_threads()}
    store.set("job", json.dumps(job))
    assert rank_worker._serve(of_torchrun=False) == 1
    told = store.get("failed").decode()
    assert told.startswith("Rank 1 of 2 (cpu) failed: ")
    assert str(tmp_path / "nowhere") in told
    assert "Traceback" in caplog.text
    assert os.environ["RANK"] == "1"


def test_ranks_of_a_killed_run_take_the_folder_where_they_met_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ranks").mkdir()
    (tmp_path / "ranks" / "store").write_bytes(b"settings")
    monkeypatch.setenv(STARTED_RANK, str(tmp_path / "ranks" / "store"))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO()))  # its other end has closed
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    rank_worker._end_with_starter()
    assert ended == [1]
    assert not list(tmp_path.iterdir())
