"""The points of a sweep."""

from pathlib import Path

import pytest

from lora_tui.config.sweep import MOST_RUNS, read_sweep
from lora_tui.errors import UsageError

RATE, RANK, TYPE = "fine_tuning.optimizer.lora_lr", "fine_tuning.lora.r", "fine_tuning.scheduler.type"


def test_axes_multiply() -> None:
    points = read_sweep([f"{RATE}=1e-4, 3e-4", f"{TYPE}=cosine,linear"])
    assert points == [{RATE: rate, TYPE: kind} for rate in (1e-4, 3e-4) for kind in ("cosine", "linear")]
    assert read_sweep([f"{RANK}=8,16,8"]) == [{RANK: 8}, {RANK: 16}], "twice the same is one run"
    assert read_sweep(['fine_tuning.lora.target_modules=["q_proj", "v_proj"], "all-linear"']) == [
        {"fine_tuning.lora.target_modules": ["q_proj", "v_proj"]},
        {"fine_tuning.lora.target_modules": "all-linear"},
    ]


def test_a_file_has_axes_and_points(tmp_path: Path) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text(
        f'[axes]\n{RATE} = [1e-4, 1e-3]\n"{TYPE}" = ["linear"]\n'
        "[[points]]\nfine_tuning.lora.r = 8\n[[points]]\nfine_tuning.lora.r = 16\nfine_tuning.lora.alpha = 64\n"
    )
    assert read_sweep([str(file)]) == [
        {**point, RATE: rate, TYPE: "linear"}
        for point in ({RANK: 8}, {RANK: 16, "fine_tuning.lora.alpha": 64})
        for rate in (1e-4, 1e-3)
    ]
    assert len(read_sweep([str(file), "fine_tuning.training.seed=1,2,3"])) == 12


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[axis]\na = 1\n", r"a sweep has \[axes\] and \[\[points\]\], not axis"),
        (f"[axes]\n{RATE} = 1e-4\n", "needs a list of values"),
        (f"[axes]\n{RANK} = [8, 16]\n[[points]]\n{RANK} = 4\n", "give it in one of them"),
        ("axes = 3\n", r"\[axes\] holds keys"),
        ("[axes]\ndata_generation.model = ['a', 'b']\n", "its keys begin with fine_tuning."),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=problem):
        read_sweep([str(file)])


def test_too_many_runs_are_refused() -> None:
    many = ",".join(map(str, range(1, MOST_RUNS + 2)))
    with pytest.raises(UsageError, match="201 runs; 200 are the most"):
        read_sweep([f"{RANK}={many}"])
    with pytest.raises(UsageError, match="twice"):
        read_sweep([f"{RANK}=8,16", f"{RANK}=32"])
    with pytest.raises(UsageError, match="1,000,000,000 runs; 200 are the most"):  # at once, and in no memory
        read_sweep([f"fine_tuning.{key}={','.join(map(str, range(1000)))}" for key in ("a", "b", "c")])


def test_values_that_cannot_be_read_are_said() -> None:
    with pytest.raises(UsageError, match="close every bracket and quote"):
        read_sweep([f"{TYPE}=['q_proj,v_proj"])
    assert read_sweep([f"{RANK}=8,,16"]) == [{RANK: 8}, {RANK: 16}]
