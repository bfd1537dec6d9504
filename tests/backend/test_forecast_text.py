"""What the app is told of a run before it begins: each reason once, and what is certain to keep it from beginning."""

from pathlib import Path

import pytest

from lora_tui.backend.forecast_text import generation_forecast, training_forecast
from lora_tui.config.load import with_values
from lora_tui.config.models import Settings
from lora_tui.engine.forecast.forecast import forecast_with_history


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


def test_an_empty_training_file_may_be_filled_and_is_no_blocker() -> None:
    Path("accepted_training_data.txt").touch()
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
    assert lines["data"] == "accepted_training_data.txt does not exist: 1 makes one, 6 names another"
    assert lines["model"].startswith("nobody/nothing, unknown: it is fetched from")
    assert [lines[name] for name in ("trains", "steps", "memory", "time")] == ["unknown"] * 4
    assert not any("unknown" in words and "parameters" in words for words in lines.values())
    assert not any("--" in words for words in lines.values()), "the app has keys, not flags"


def test_another_reason_is_given_too() -> None:
    Path("accepted_training_data.txt").write_text("Question: a\nAnswer: b\n")
    settings = with_values(Settings(), {"fine_tuning.model_name": "nobody/nothing"})
    lines = dict(training_forecast(forecast_with_history(settings)).lines)
    assert lines["time"].startswith("unknown: no finished run has trained nobody/nothing")
