"""What is mistyped or contradicts itself: status 2, two lines at most, the nearest thing that exists."""

import json

import pytest

from tests.cli.conftest import Program

MISTAKES = [
    (["--rnu", "train"], "Did you mean --run?"),
    (["--josn", "--runs"], "Did you mean --json?"),
    (["--frobnicate"], "There is no option --frobnicate"),
    (["--run", "trian"], "Did you mean --run train?"),
    (["--run", "xyzzy"], "generate, train, probe, evaluate, chat, export, rate, serve, quickstart, queue"),
    (["--run"], "--run needs a mode"),
    (["--run", "--json"], "--run needs a mode"),
    (["train"], "Did you mean --run train?"),
    (["--run", "train", "quickly"], "'quickly' is not an option"),
    (["--run", "train", "--attach", "3"], "--run train and --attach cannot be used together"),
    (["--runs", "--doctor"], "--runs and --doctor cannot be used together"),
    (["--doctor", "--resume", "3"], "--resume goes with --run or alone"),
    (["--run", "train", "--prompt", "hi"], "--prompt belongs to --run chat, not to --run train"),
    (["--prompt", "hi"], "--prompt belongs to --run chat"),
    (["--run", "chat", "--prompt", " "], "--prompt is empty"),
    (["--run", "chat", "--adapter", "x", "--adapter", "y"], "--run chat uses one adapter"),
    (["--run", "generate", "--adapter", "x"], "--adapter belongs to --run chat, evaluate, export, serve or train"),
    (
        ["--run", "generate", "--train-data-file", "x"],
        "--train-data-file belongs to --run train, probe, evaluate or export",
    ),
    (["--run", "train", "--format", "merged"], "--format belongs to --run export"),
    (["--run", "train", "--output", "x"], "--output belongs to --run export"),
    (["--run", "chat", "--adapter", "x", "--resume", "3"], "--adapter and --resume"),
    (["--run", "train", "--resume", "latest"], "--resume takes the number of a run"),
    (["--attach", "latest"], "'latest' is not a valid integer"),
    (["--log-level", "DEBGU"], "Did you mean DEBUG?"),
    (["--generate-training-file", "raw.txt"], "requires 2 arguments"),
    (["--json"], "--json needs something to report"),
    (["--run", "train", "--set", "fine_tuning.lora.rank=8"], "fine_tuning.lora"),
    (["--run", "train", "--config", "missing.toml"], "missing.toml"),
    (["--run", "train", "--train-data-file", "a\udcff.txt"], "--train-data-file: what follows is not UTF-8"),
    (["--generate-training-file", "a\udcff.txt", "b"], "a file name is not UTF-8"),
    (["--resume"], "There are no runs yet"),
    (["--attach", "7"], "There are no runs yet"),
    (["--run", "train", "--store", "/dev/null/x.db"], "--store"),
]


@pytest.mark.parametrize(("arguments", "said"), MISTAKES, ids=[ascii(" ".join(words)) for words, _ in MISTAKES])
def test_a_mistake_is_one_or_two_lines_with_a_way_out(program: Program, arguments: list[str], said: str) -> None:
    ended = program.run("", *arguments)
    assert ended.status == 2
    assert said in ended.err
    lines = ended.err.splitlines()
    assert 1 <= len(lines) <= 2
    assert lines[0].startswith("lora-tui: ")
    assert "Traceback" not in ended.err
    assert "Usage:" not in ended.err
    if "--json" in arguments:
        (done,) = ended.lines()
        assert (done["event"], done["run"], done["status"], done["exit_status"]) == ("done", None, "failed", 2)
        assert said in done["error"]
    else:
        assert ended.out == ""


def test_a_mistake_in_the_configuration_also_ends_the_json_lines(program: Program) -> None:
    ended = program.run("", "--run", "train", "--json", "--set", "fine_tuning.lora.r=many")
    assert ended.status == 2
    done = json.loads(ended.out)
    assert done["event"] == "done"
    assert "fine_tuning.lora.r" in done["error"]
    assert "fine_tuning.lora.r" in ended.err


def test_looking_for_a_run_creates_no_store(program: Program) -> None:
    for arguments in (["--runs"], ["--resume"], ["--attach", "1"], ["--run", "evaluate", "--resume", "1"], []):
        program.run("", *arguments)
    assert not list(program.folder.iterdir())


def test_a_key_that_a_configuration_names_is_not_sent_before_somebody_allows_it(program: Program) -> None:
    program.environment["AWS_SECRET_ACCESS_KEY"] = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"
    lines = ["[data_generation]", 'model = "m"', 'base_url = "http://127.0.0.1:9/v1"']
    (program.folder / "config.toml").write_text("\n".join([*lines, 'api_key_env = "AWS_SECRET_ACCESS_KEY"']))
    ended = program.run("", "--run", "generate")
    assert ended.status == 2
    assert "config.toml has AWS_SECRET_ACCESS_KEY as the key for http://127.0.0.1:9" in ended.err
    assert "--set data_generation.api_key_env=AWS_SECRET_ACCESS_KEY" in ended.err
    assert "wJalrXUtnFEMIK7" not in ended.err
    (program.folder / "training_input").mkdir()
    allowed = program.run("", "--run", "generate", "--set", "data_generation.api_key_env=AWS_SECRET_ACCESS_KEY")
    assert "has AWS_SECRET_ACCESS_KEY" not in allowed.err
