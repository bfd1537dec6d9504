"""What generation will take, before it begins: nothing is asked of anybody, and the figures come near the run's own."""

import dataclasses
import itertools
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

from lora_tui.config.load import with_values
from lora_tui.config.models import Settings
from lora_tui.config.prices import LISTED_ON
from lora_tui.engine.forecast import generation
from lora_tui.engine.forecast.generation import GenerationForecast, forecast_generation, price_text
from lora_tui.engine.generation import documents
from tests.engine.generation.generation_harness import GenerationHarness
from tests.engine.generation.test_generation_run import made_up_text

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _nothing_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generation._LISTINGS.clear()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def forecast(folder: Path, **changes: Any) -> GenerationForecast:
    values = {f"data_generation.{name.replace('__', '.')}": value for name, value in changes.items()}
    return forecast_generation(with_values(Settings(), {"data_generation.input_folder": str(folder), **values}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "input"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text("a" * 400)
    (folder / "deep" / "b.md").write_text("b" * 40_000)
    (folder / "c.png").write_bytes(b"c")
    (folder / "empty.txt").touch()
    return folder


def test_files_are_those_that_a_run_reads(folder: Path) -> None:
    found = forecast(folder)
    assert (found.files.value, found.bytes.value, found.skipped, found.problem) == (2, 40_400, 2, None)
    own = forecast(folder, output_file=str(folder / "a.txt"))
    assert (own.files.value, own.skipped) == (1, 3)


@pytest.mark.parametrize(
    ("changes", "calls"),
    [
        ({"total_examples": 10}, (10, 10, 2)),
        ({"total_examples": 10, "num_examples_per_file": 4, "generation__max_tokens": 1000}, (3, 10, 2)),
        ({"total_examples": 12, "num_examples_per_file": 7, "generation__max_tokens": 1000}, (3, 12, 2)),
        ({"total_examples": 13, "num_examples_per_file": 7, "generation__max_tokens": 1000}, (4, 13, 2)),
        ({"total_examples": 4}, (4, 4, 0)),
    ],
)
def test_calls_are_the_fewest_that_can_do(changes: dict[str, Any], calls: tuple[int, int, int], folder: Path) -> None:
    found = forecast(folder, **changes)
    assert (found.write_calls.value, found.judge_calls.value, found.analysis_calls.value) == calls


def test_dollars_follow_from_tokens_and_prices(folder: Path) -> None:
    without = forecast(folder, model="a-model-of-nobody")
    assert without.dollars.value is None
    assert "prompt_price" in without.dollars.note
    listed = forecast(folder)  # gpt-4 at OpenAI
    assert listed.dollars.value == pytest.approx(
        (30 * (listed.prompt_tokens.value or 0) + 60 * (listed.completion_tokens.value or 0)) / 1e6
    )
    assert f"(list prices of {LISTED_ON})" in price_text(listed)
    found = forecast(folder, prompt_price=2.5, completion_price=10)
    sent, written = found.prompt_tokens.value, found.completion_tokens.value
    assert sent is not None
    assert written is not None
    assert found.dollars.value == pytest.approx((2.5 * sent + 10 * written) / 1e6)
    assert found.dollars.estimated
    assert found.prompt_tokens.estimated


def test_larger_passages_send_more_tokens_up_to_the_size_of_the_files(folder: Path) -> None:
    sent = [forecast(folder, chunk_tokens=size, total_examples=50).prompt_tokens.value or 0 for size in (100, 200, 400)]
    # Two files: one of 100 tokens, one of 10,000; a passage goes out with every pair's two calls.
    # Analyses may use a twentieth more.
    grown = [more - less for less, more in itertools.pairwise(sent)]
    assert grown == pytest.approx([100 * 50, 200 * 50], rel=0.05)
    assert grown > [100 * 50, 200 * 50]


def test_the_built_in_model_costs_nothing_and_needs_no_key(folder: Path) -> None:
    found = forecast(folder, model="builtin", prompt_price=3)
    assert (found.prompt_tokens.value, found.completion_tokens.value, found.dollars.value) == (0, 0, 0.0)
    assert not found.key_needed
    assert found.write_calls.value == 100


def test_a_key_is_told_of_and_never_shown(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = forecast(folder)
    assert (found.key_name, found.key_needed, found.key_set) == ("OPENAI_API_KEY", True, False)
    monkeypatch.setenv("OTHER_KEY", "sk-VERYSECRET")
    found = forecast(folder, api_key_env="OTHER_KEY")
    assert (found.key_name, found.key_needed, found.key_set) == ("OTHER_KEY", True, True)
    assert "VERYSECRET" not in repr(found)
    monkeypatch.setenv("OTHER_KEY", "  ")
    found = forecast(folder, api_key_env="OTHER_KEY", base_url="http://localhost:8000/v1")
    assert (found.key_needed, found.key_set) == (False, False)


def test_a_folder_that_cannot_be_used_is_told_and_nothing_is_made_up(tmp_path: Path) -> None:
    for name, reason in (("none", "does not exist"), ("bare", "is empty"), ("file", "is not a folder")):
        path = tmp_path / name
        if name == "bare":
            path.mkdir()
        if name == "file":
            path.touch()
        found = forecast(path)
        assert reason in (found.problem or "")
        assert (found.files.value, found.bytes.value, found.prompt_tokens.value, found.dollars.value) == (None,) * 4
    (tmp_path / "bare" / "x.png").touch()
    generation._LISTINGS.clear()
    found = forecast(tmp_path / "bare")
    assert "no file in" in (found.problem or "")
    assert (found.files.value, found.skipped, found.prompt_tokens.value) == (0, 1, None)


def test_folder_is_not_walked_again_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forecast(folder)
    find = documents.list_files
    monkeypatch.setattr(documents, "list_files", lambda *_: pytest.fail("walked again"))
    assert forecast(folder, total_examples=3).files.value == 2
    monkeypatch.setattr(generation, "_LISTING_SECONDS", 0.0)
    monkeypatch.setattr(documents, "list_files", find)
    (folder / "d.txt").write_text("d")
    assert forecast(folder).files.value == 3


def test_figures_come_near_those_of_a_run(harness: GenerationHarness) -> None:
    harness.write("three.txt", made_up_text(3, 60))
    harness.write("four.md", made_up_text(4, 60))
    values = {"total_examples": 40, "num_examples_per_file": 2, "evaluation_threshold": 0.0}
    told = forecast_generation(harness.settings(**values))
    result = harness.run(**values).result
    assert told.prompt_tokens.value == pytest.approx(result["prompt_tokens"], rel=0.35)
    assert told.write_calls.value is not None
    assert told.write_calls.value <= result["tasks"]["generate"]["done"]
    assert told.judge_calls.value == result["accepted"] == 40


@pytest.mark.parametrize("judge", ["", "second"])
def test_what_a_run_took_tells_what_the_next_hundred_pairs_cost(harness: GenerationHarness, judge: str) -> None:
    """Three in ten pairs are refused, and the judge is another model at another price."""
    harness.server.models.add("second")
    harness.server.digits = lambda prompt: "1 1 1" if zlib.crc32(prompt.encode()) % 10 < 3 else "5 5 4"
    values = {"total_examples": 100, "num_examples_per_file": 2, "prompt_price": 2.0, "completion_price": 8.0}
    values |= {"judge_model": judge}
    for name in ("first.txt", "second.md"):
        harness.write(name, made_up_text(len(name), 150))
    before = forecast_generation(harness.settings(**values))
    assert before.measured_pairs == 0
    harness.run(**values)
    told = forecast_generation(harness.settings(**values))
    assert told.measured_pairs == 100
    assert "as the last 100 pairs took" in price_text(dataclasses.replace(told, is_paid=True))
    for name in ("first.txt", "second.md"):
        harness.write(name, made_up_text(20 + len(name), 150))
    result = harness.run(**values).result
    assert result["accepted"] == 100
    assert told.dollars.value == pytest.approx(result["dollars"], rel=0.2), before.dollars
    assert told.prompt_tokens.value == pytest.approx(result["prompt_tokens"], rel=0.2)
    assert forecast_generation(harness.settings(**values, chunk_tokens=900)).measured_pairs == 0, "other passages"


def test_nothing_heavy_is_needed() -> None:
    code = (
        "import sys; from lora_tui.config.models import Settings; "
        "from lora_tui.engine.forecast.generation import forecast_generation; forecast_generation(Settings()); "
        "print(*{n.partition('.')[0] for n in sys.modules})"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(run.stdout.split())
    assert loaded & {"torch", "transformers", "peft", "openai", "textual", "rich", "numpy"} == set()


def test_a_run_that_costs_money_says_so_before_its_first_call(
    harness: GenerationHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.run(total_examples=1, evaluation_threshold=0.0)
    assert not [note for note in harness.events("note") if "is paid for by use" in note["message"]]
    monkeypatch.setattr(generation, "is_own_network", lambda url: False)
    harness.run(total_examples=1, evaluation_threshold=0.0)
    said = [note["message"] for note in harness.events("note") if "is paid for by use" in note["message"]]
    assert len(said) == 1
    assert "Price: not known for about" in said[0]
    assert "data_generation.budget_tokens" in said[0]
