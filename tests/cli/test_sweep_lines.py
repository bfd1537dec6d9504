"""--sweep: its plan, its table with the best named, and what is refused before the first run is added."""

from tests.cli.conftest import Program
from tests.cli.test_queue_lines import left

RATES = "fine_tuning.optimizer.lora_lr=1e-4,3e-4,1e-3"


def test_a_sweep_ends_with_a_table_and_names_the_best(program: Program) -> None:
    ended = program.run("train=scored", "--run", "train", "--sweep", RATES, "--sweep", "fine_tuning.lora.r=8,13")
    assert ended.status == 1, "three of the six have failed"
    assert "sweep 1: 6 training runs, one after the other" in ended.err
    assert "run 1: lora_lr 1e-4, r 8" in ended.err
    rows = [line.split() for line in ended.out.splitlines() if line[:4].strip().isdigit()]
    assert [row[:3] for row in rows[:3]] == [["3", "3e-4", "8"], ["1", "1e-4", "8"], ["5", "1e-3", "8"]]
    assert rows[0][3:8] == ["2", "1.000", "1.00", "1/2", "0s"], "loss, held-out loss, score, right answers, time"
    assert [row[-1] for row in rows] == ["finished"] * 3 + ["failed"] * 3
    assert "best: run 3 (lora_lr 3e-4, r 8)" in ended.out
    assert "lora-tui --run export --format merged --resume 3\n" in ended.out

    shown = program.run("", "--sweep", "1")
    assert shown.out == ended.out


def test_a_sweep_in_json(program: Program) -> None:
    lines = program.run("train=scored", "--run", "train", "--sweep", RATES, "--json").lines()
    assert lines[0]["event"] == "sweep"
    assert [run["sets"] for run in lines[0]["runs"]] == [
        {"fine_tuning.optimizer.lora_lr": rate} for rate in (1e-4, 3e-4, 1e-3)
    ]
    assert [line["run"] for line in lines if line["event"] == "done"] == [1, 2, 3, None]
    (sweep,) = lines[-1]["result"]["sweeps"]
    assert sweep["best"] == 2
    assert [(run["run"], run["right"], run["asked"]) for run in sweep["runs"]] == [(2, 1, 2), (1, 1, 2), (3, 1, 2)]
    assert program.run("", "--sweep", "1", "--json").lines()[-1]["result"] == sweep


def test_a_sweep_can_wait_in_the_queue(program: Program) -> None:
    program.run("", "--run", "train", "--queue")
    assert program.run("", "--run", "train", "--sweep", RATES, "--queue").status == 0
    assert left(program) == [1, 2, 3, 4]
    ended = program.run("train=scored", "--run", "queue")
    assert "best: run 3 (lora_lr 3e-4)" in ended.out
    assert "the queue is done: 4 runs" in ended.err


def test_a_sweep_does_not_work_what_else_waits(program: Program) -> None:
    program.run("", "--run", "train", "--queue")
    ended = program.run("train=scored", "--run", "train", "--sweep", RATES)
    assert ended.status == 0
    assert "sweep 1 is done: 3 runs; 1 other run in the queue: lora-tui --run queue" in ended.err
    assert left(program) == [1]


def test_a_mistake_in_one_point_adds_no_run(program: Program) -> None:
    for spec, message in (
        ("fine_tuning.lora.r=8,0", "the sweep: fine_tuning.lora.r must"),
        ("fine_tuning.lora.rank=8,16", "fine_tuning.lora.rank"),
        ("lora_lr=1e-4,1e-3", "Did you mean fine_tuning.optimizer.lora_lr?"),
        ("fine_tuning.lora.r=8", "one run alone"),
        ("fine_tuning.lora.r", 'write --sweep "KEY=VALUE,VALUE"'),
        ("none.toml", "there is no file none.toml"),
    ):
        ended = program.run("", "--run", "train", "--sweep", spec)
        assert ended.status == 2, spec
        assert message in ended.err
    assert not (program.folder / "training_data.db").exists()
    assert "--sweep belongs to --run train" in program.run("", "--run", "generate", "--sweep", RATES).err
    assert program.run("", "--sweep", "7").status == 2
