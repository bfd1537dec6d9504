"""What the app is told of a run before it begins: each reason once, and what is certain to keep it from beginning."""

import time
from pathlib import Path

import pytest

from lora_tui.backend.forecast_text import generation_forecast, training_forecast
from lora_tui.config.load import with_values
from lora_tui.config.models import Settings
from lora_tui.engine.forecast.forecast import forecast_with_history
from lora_tui.engine.generation.canaries import JudgeCheck, check_key
from lora_tui.engine.generation.endpoint_memory import remember_check
from lora_tui.protocol.backend import ForecastText


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def test_a_training_file_that_does_not_exist_keeps_training_from_beginning() -> None:
    forecast = training_forecast(forecast_with_history(Settings()))
    assert forecast.blocker is not None
    assert "accepted_training_data.txt" in forecast.blocker.what
    assert "6 names another" in forecast.blocker.remedy
    Path("accepted_training_data.txt").write_text("Question: a\nAnswer: b\n")
    assert training_forecast(forecast_with_history(Settings())).blocker is None


def test_no_advice_is_given_on_what_is_chosen_once_there_is_data() -> None:
    model = {"fine_tuning.model_name": "builtin"}
    assert training_forecast(forecast_with_history(with_values(Settings(), model))).warnings == ()
    for written in ({"fine_tuning.optimizer.lora_lr": 3e-5}, {"fine_tuning.recipe": "as written"}):
        warnings = training_forecast(forecast_with_history(with_values(Settings(), {**model, **written}))).warnings
        assert any(warning.startswith("fine_tuning.optimizer.lora_lr = 3e-5:") for warning in warnings)


def test_an_empty_training_file_may_be_filled_and_is_no_blocker() -> None:
    Path("accepted_training_data.txt").touch()
    assert training_forecast(forecast_with_history(Settings())).blocker is None


@pytest.mark.parametrize(
    ("beside", "line"), [(0, "about 7 an epoch"), (10, "about 227 an epoch, everyday examples among them")]
)
def test_the_tokens_of_an_epoch_count_the_everyday_examples(beside: int, line: str) -> None:
    Path("accepted_training_data.txt").write_text("Question: a\nAnswer: b\n")
    settings = with_values(Settings(), {"fine_tuning.training.everyday_examples": beside})
    assert dict(training_forecast(forecast_with_history(settings)).lines)["tokens"] == line


def test_a_training_file_that_is_refused_is_asked_for_before_a_run_begins() -> None:
    Path("accepted_training_data.txt").write_bytes(b"\xaf\xaf\n")
    blocker = training_forecast(forecast_with_history(Settings())).blocker
    assert blocker is not None
    assert blocker.form == "data"
    assert "is not UTF-8" in blocker.why
    Path("accepted_training_data.txt").write_text("Question: a\nAnswer: b\n")
    assert training_forecast(forecast_with_history(Settings())).blocker is None


def test_a_missing_folder_then_a_missing_key_keep_generation_from_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = with_values(Settings(), {"data_generation.input_folder": "notes"})
    blocker = generation_forecast(forecast_with_history(settings), settings).blocker
    assert blocker is not None
    assert "notes" in blocker.what
    Path("notes").mkdir()
    Path("notes/a.txt").write_text("Bees dance.")
    blocker = generation_forecast(forecast_with_history(settings), settings).blocker
    assert blocker is not None
    assert "OPENAI_API_KEY is not set" in blocker.what
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    assert generation_forecast(forecast_with_history(settings), settings).blocker is None
    monkeypatch.delenv("OPENAI_API_KEY")
    local = with_values(settings, {"data_generation.model": "builtin"})
    assert generation_forecast(forecast_with_history(local), local).blocker is None


def test_a_reason_is_given_once_and_what_is_not_known_has_no_unit() -> None:
    settings = with_values(Settings(), {"fine_tuning.model_name": "nobody/nothing"})
    lines = dict(training_forecast(forecast_with_history(settings)).lines)
    assert lines["data"] == "accepted_training_data.txt does not exist yet: 1 makes one of your text"
    assert lines["model"].startswith("nobody/nothing, unknown: it is fetched from")
    assert [lines[name] for name in ("trains", "steps", "memory", "time")] == ["unknown"] * 4
    assert not any("unknown" in words and "parameters" in words for words in lines.values())
    assert not any("--" in words for words in lines.values()), "the app has keys, not flags"


def test_another_reason_is_given_too() -> None:
    Path("accepted_training_data.txt").write_text("Question: a\nAnswer: b\n")
    settings = with_values(Settings(), {"fine_tuning.model_name": "nobody/nothing"})
    lines = dict(training_forecast(forecast_with_history(settings)).lines)
    assert lines["time"].startswith("unknown: no finished run has trained nobody/nothing")


def _plan(**values: object) -> ForecastText:
    Path("notes").mkdir(exist_ok=True)
    Path("notes/a.txt").write_text("Bees dance. " * 400)
    named = {f"data_generation.{key}": value for key, value in {"input_folder": "notes", **values}.items()}
    settings = with_values(Settings(), named)
    return generation_forecast(forecast_with_history(settings), settings)


def test_the_price_is_known_or_said_to_be_unknown_before_anything_is_paid() -> None:
    unknown = _plan(model="gpt-4o-of-ours")
    assert "not known for about" in dict(unknown.lines)["price"]
    said = "gpt-4o-of-ours at https://api.openai.com/v1 is paid for by use, and no budget is set."
    assert unknown.charge.startswith(said)
    listed = _plan(model="gpt-4o")
    assert dict(listed.lines)["price"].startswith("about $0.")
    assert "list prices of 20" in listed.charge
    priced = _plan(model="gpt-4o", prompt_price=2.5, completion_price=10.0)
    assert dict(priced.lines)["price"].startswith("about $0.")
    assert "tokens" in priced.charge
    limited = _plan(model="gpt-4o", budget_tokens=50_000)
    assert dict(limited.lines)["budget"] == "it stops at 50,000 tokens"
    assert limited.charge == "", "whoever has set a limit has decided"


@pytest.mark.parametrize(
    "values",
    [
        {"model": "builtin"},
        {"base_url": "http://localhost:11434/v1"},
        {"base_url": "http://192.168.1.7:8000/v1"},
        {"base_url": "http://gpu-box:8000/v1"},
    ],
)
def test_nobody_is_asked_about_what_is_free(values: dict[str, object]) -> None:
    plan = _plan(**values)
    assert plan.charge == ""
    assert dict(plan.lines)["price"].startswith("nothing: ")


def test_the_plan_tells_what_is_known_of_the_judge_and_counts_its_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORA_TUI_CACHE", str(tmp_path / "cache"))
    unknown = _plan(model="gpt-4o", judge_model="small")
    assert dict(unknown.lines)["judge"].startswith("small, asked about 18 known pairs")
    check = JudgeCheck("small", 9, 12, {"negated": 3}, 4.9, 2.0, time.time())
    remember_check(check_key("https://api.openai.com/v1", "small", "digits"), check)
    known = _plan(model="gpt-4o", judge_model="small")
    assert dict(known.lines)["judge"].startswith("small tells right from wrong in 9 of 12 test pairs: misses negated")
    assert _calls(unknown) - _calls(known) == 18
    assert "judge" not in dict(_plan(model="builtin").lines)
    assert "judge" not in dict(_plan(model="gpt-4o", check_judge=False).lines)
    several = _plan(model="gpt-4o", judge_models=["a", "b", "c"], check_judge=False)
    assert _calls(several) - _calls(known) == 100, "two judges for each of 100 pairs"


def _calls(plan: ForecastText) -> int:
    return int(dict(plan.lines)["calls"].removeprefix("at least ").partition(",")[0])


def test_the_plan_says_what_becomes_of_pairs_that_are_there() -> None:
    assert dict(_plan().lines)["file"] == "accepted_training_data.txt"
    Path("accepted_training_data.txt").write_text("Question: a\nAnswer: b\n")
    assert "kept under another name" in dict(_plan().lines)["file"]


def test_what_will_be_chosen_is_told_with_the_forecast_that_follows_from_it() -> None:
    Path("accepted_training_data.txt").write_text(
        "".join(f"Question: who is {n}?\nAnswer: a{n}\n\n" for n in range(27))
    )
    settings = with_values(Settings(), {"fine_tuning.model_name": "builtin"})
    forecast = training_forecast(forecast_with_history(settings))
    chosen = {choice.key: choice.value for choice in forecast.choices}
    assert chosen["fine_tuning.optimizer.lora_lr"] == 1e-3
    steps = dict(forecast.lines)["steps"]
    assert f"{chosen['fine_tuning.scheduler.warmup_steps']} of warm-up" in steps
    assert forecast.blocker is None
    assert not any("lora_lr" in warning for warning in forecast.warnings)


def test_a_run_that_cannot_learn_is_kept_from_beginning_with_the_values_that_can() -> None:
    Path("accepted_training_data.txt").write_text("Question: a b c?\nAnswer: b\n")
    written = {"fine_tuning.optimizer.lora_lr": 3e-6, "fine_tuning.training.max_steps": 20}
    settings = with_values(Settings(), {"fine_tuning.model_name": "builtin", **written})
    blocker = training_forecast(forecast_with_history(settings)).blocker
    assert blocker is not None
    assert "fine_tuning.optimizer.lora_lr" in blocker.what
    assert "20 steps at a rate of at most 3e-6" in blocker.why
    assert "fine_tuning.optimizer.lora_lr = 1e-3" in blocker.remedy


def test_the_plan_names_each_of_several_endpoints_with_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROQ_API_KEY", "gsk_0123456789abcdefghij")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    plan = _plan(
        model="m",
        base_urls=["http://one:8000/v1", "https://api.groq.com/v1"],
        judge_base_urls=["http://one:8000/v1"],
        api_key_envs={"api.groq.com": "GROQ_API_KEY"},
        models_by_host={"api.groq.com": "vendor/m"},
    )
    assert [text for name, text in plan.lines if name == "endpoint"] == [
        "http://one:8000/v1: writes and judges, OPENAI_API_KEY is not set",
        "https://api.groq.com/v1: writes, as vendor/m, GROQ_API_KEY is set",
    ]
    assert dict(plan.lines)["model"] == "m, 2 endpoints"
