"""``--run train`` through the engine: what it reports, what it leaves behind, and how it is stopped and taken up."""

import asyncio
import json
import math
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from lora_tui.config.load import load_settings, with_values
from lora_tui.config.models import Settings
from lora_tui.engine.data.read import training_file
from lora_tui.engine.evaluation.scoring import EvaluationResult
from lora_tui.engine.jobs import train
from lora_tui.engine.models.checksums import write_checksums
from lora_tui.engine.runtime.resume import resume_run
from lora_tui.engine.training import loop as loop_module
from lora_tui.engine.training.data_plan import by_reason
from lora_tui.engine.training.dataset import TextDataset
from lora_tui.engine.training.everyday import everyday_examples
from lora_tui.store import runs, training
from lora_tui.store.queries.runs import step_columns
from tests.engine.conftest import EngineHarness, Trained
from tests.engine.tiny import PAIRS, tiny_settings, training_text
from tests.hub_server import FakeHub
from tests.store.store_fixtures import newest_checkpoint


@pytest.fixture
def place(
    tmp_path: Path, base_folder: Path, new_engine_harness: Callable[[Path, Settings], EngineHarness]
) -> EngineHarness:
    """A folder with the pairs, and settings that train nine steps on them."""
    (tmp_path / "pairs.txt").write_text(training_text())
    settings = tiny_settings(
        {
            "model_name": str(base_folder),
            "train_data_file": str(tmp_path / "pairs.txt"),
            "training.save_dir": str(tmp_path / "checkpoints"),
            "training.max_epochs": 3,
            "lora.dropout": 0.1,
        }
    )
    return new_engine_harness(tmp_path, settings)


def weights(folder: str | Path) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "adapter_model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def newest(engine_harness: EngineHarness, run_id: int) -> Path:
    return Path(engine_harness.ask(newest_checkpoint, run_id, "last").path)


def stop_after(monkeypatch: pytest.MonkeyPatch, engine_harness: EngineHarness, steps: int) -> None:
    """Ask the run to stop, as a user would, once it has taken so many steps."""
    real = loop_module._Trainer._report

    def report(self: Any, *args: Any) -> None:
        real(self, *args)
        if self.state.step == steps:
            engine_harness.engine.stop(next(iter(engine_harness.engine._active)))
            while not self.hooks.should_stop():
                pass

    monkeypatch.setattr(loop_module._Trainer, "_report", report)


def test_the_result_says_what_was_trained_and_where_it_is(trained: Trained) -> None:
    result = trained.outcome.result
    assert result["steps"] == 40
    assert result["stopped_by"] == "steps"
    assert result["examples"] == len(PAIRS)
    rows = trained.engine_harness.ask(training.evaluations, trained.run_id)
    scores = [row.score for row in rows if row.model == "tuned"]
    assert result["best_score"] == max(scores)
    assert Path(result["adapter"]) == trained.engine_harness.folder / "checkpoints" / f"run-{trained.run_id}" / "best"
    assert result["loss"] < 2


def test_every_step_evaluation_and_checkpoint_is_reported_and_stored(trained: Trained) -> None:
    engine_harness, run_id = trained.engine_harness, trained.run_id
    reported = [event.payload for event in engine_harness.events(run_id, "step")]
    assert [payload["step"] for payload in reported] == list(range(1, 41))
    assert set(reported[0]) >= {"step", "steps", "epoch", "loss", "lr", "grad_norm", "tokens", "tokens_per_s", "eta_s"}
    assert reported[-1]["loss"] < reported[0]["loss"] / 2
    assert list(engine_harness.ask(step_columns, run_id).loss) == [payload["loss"] for payload in reported]
    rows = engine_harness.ask(training.evaluations, run_id)
    assert [(row.step, row.model) for row in rows] == [(0, "base"), (20, "tuned"), (40, "tuned")]
    phases = [event.payload["phase"] for event in engine_harness.events(run_id, "progress")]
    assert phases[-3:] == ["asking the base model", "testing it", "testing it"]
    assert len(engine_harness.ask(training.samples, rows[-1].id)) == 4
    assert engine_harness.ask(newest_checkpoint, run_id, "last").step == 40
    assert engine_harness.ask(newest_checkpoint, run_id, "best").score == trained.outcome.result["best_score"]


def test_the_plan_is_reported_before_the_first_step(trained: Trained) -> None:
    events = trained.engine_harness.events(trained.run_id)
    kinds = [event.kind for event in events]
    assert kinds.index("plan") < kinds.index("step")
    plan = next(event.payload for event in events if event.kind == "plan")
    assert (plan["examples"], plan["steps"], plan["device"], plan["dtype"]) == (10, 40, "cpu", "float32")
    assert plan["forms"] == {"training text": 10}
    assert plan["trainable_parameters"] < plan["parameters"]


def test_the_adapters_folder_holds_everything_that_belongs_to_it(trained: Trained) -> None:
    names = {path.name for path in trained.adapter.iterdir()}
    assert names >= {
        "adapter_model.safetensors",
        "adapter_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "config.toml",
        "lora_tui.json",
        "README.md",
    }
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in names)


def test_the_configuration_beside_the_adapter_is_the_exact_one(trained: Trained) -> None:
    assert load_settings(trained.adapter / "config.toml").settings == trained.engine_harness.settings
    tomllib.loads((trained.adapter / "config.toml").read_text())


def test_the_card_tells_data_scores_curve_and_use(trained: Trained) -> None:
    card = (trained.adapter / "README.md").read_text()
    head, _, body = card.removeprefix("---\n").partition("---\n")
    assert "library_name: peft" in head
    assert f"base_model: {trained.engine_harness.settings.fine_tuning.model_name}" in head
    assert "10 examples (10 training text)" in body
    assert "rainbow unicorn" in body
    assert f"score {trained.outcome.result['best_score']:.3f}" in body
    assert "## Loss" in body
    assert "PeftModel.from_pretrained" in body


def test_the_papers_name_base_data_and_prompts(trained: Trained) -> None:
    metadata = json.loads((trained.adapter / "lora_tui.json").read_text())
    assert metadata["base_model"] == trained.engine_harness.settings.fine_tuning.model_name
    assert (metadata["run"], metadata["step"]) == (trained.run_id, trained.outcome.result["best_step"])
    assert metadata["data"]["examples"] == len(PAIRS)
    assert len(metadata["data"]["sha256"]) == 64
    assert metadata["chat_template"] is False
    assert [prompt["kind"] for prompt in metadata["prompts"]] == ["expected", "control", "control", "control"]


def test_what_was_trained_on_conversations_says_so(place: EngineHarness) -> None:
    rows = [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in PAIRS]
    file = place.folder / "chat.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    outcome = place.run("train", {"train_data_file": str(file)}, {"fine_tuning.training.max_steps": 1})
    metadata = json.loads((Path(outcome.result["adapter"]) / "lora_tui.json").read_text())
    assert metadata["chat_template"] is True
    assert outcome.result["data_file"] == str(file)


def test_a_stopped_run_goes_on_and_ends_as_one_that_was_never_stopped(
    place: EngineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = place.run("train")
    with monkeypatch.context() as patch:
        stop_after(patch, place, 5)
        half = place.run("train")
    assert (half.state, half.result["stopped_by"], half.result["steps"]) == ("stopped", "request", 5)
    assert newest(place, half.run_id).name == "step-5"
    rest = place.run("train", resume=half.run_id)
    assert (rest.state, rest.result["stopped_by"], rest.result["steps"]) == ("finished", "steps", 9)
    assert same(weights(newest(place, whole.run_id)), weights(newest(place, half.run_id)))
    assert same(weights(whole.result["adapter"]), weights(rest.result["adapter"]))
    losses = [list(place.ask(step_columns, run.run_id).loss) for run in (whole, half)]
    assert losses[0] == losses[1]
    assert rest.result["best_score"] == whole.result["best_score"]


@pytest.mark.parametrize("named_by", ["option", "key"])
def test_a_run_on_a_data_set_of_the_hub_goes_on_with_the_commit_it_began_with(
    place: EngineHarness, monkeypatch: pytest.MonkeyPatch, named_by: str
) -> None:
    whole = place.run("train")
    records = "".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in PAIRS)
    changes = {"fine_tuning.train_data_file": "hf:o/n"} if named_by == "key" else {}
    options = {} if changes else {"train_data_file": "hf:o/n"}
    with FakeHub() as server, server.used(place.folder):
        hub = server.dataset("o/n", {"train.jsonl": records})
        first = hub.branches["main"]
        with monkeypatch.context() as patch:
            stop_after(patch, place, 5)
            half = place.run("train", options, changes)
        hub.commit({"train.jsonl": b'{"question": "another?", "answer": "one"}\n'})
        resumption = asyncio.run(resume_run(place.store_path, half.run_id))
        _, future = place.engine.submit("train", resumption.settings, resumption.run.options, half.run_id)
        rest = future.result(timeout=120)
    assert (rest.state, rest.result["steps"]) == ("finished", 9), rest.error
    pinned = f"hf:o/n@{first}:train"
    assert {event.payload["data"] for event in place.events(half.run_id, "plan")} == {pinned}
    metadata = json.loads((Path(rest.result["adapter"]) / "lora_tui.json").read_text())
    assert metadata["data"]["file"] == pinned
    assert same(weights(whole.result["adapter"]), weights(rest.result["adapter"]))


def test_steps_that_are_taken_again_are_on_the_cards_curve_once(
    place: EngineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, place, 5)
        run_id = place.run("train").run_id
    folder = newest(place, run_id)
    state = folder / "trainer_state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "step": 3}))  # as if it had been killed after step 5
    write_checksums(folder)
    folder.rename(folder.with_name("step-3"))
    adapter = Path(place.run("train", resume=run_id).result["adapter"])
    curve = (adapter / "README.md").read_text().partition("## Loss")[2].partition("## Use")[0]
    steps = [int(line.split("|")[1]) for line in curve.splitlines() if line.startswith("| ") and line[2].isdigit()]
    assert steps == list(range(1, len(steps) + 1))


def test_a_run_goes_on_in_its_own_folder_wherever_new_ones_are_to_go(
    place: EngineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, place, 5)
        run_id = place.run("train").run_id
    elsewhere = {"fine_tuning.training.save_dir": str(place.folder / "elsewhere")}
    outcome = place.run("train", None, elsewhere, resume=run_id)
    assert outcome.result["steps"] == 9
    assert [event.payload["step"] for event in place.events(run_id, "step")] == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert Path(outcome.result["adapter"]).is_relative_to(place.folder / "checkpoints")


def test_a_new_run_never_touches_the_folder_of_one_that_another_store_has_numbered_alike(
    place: EngineHarness, new_engine_harness: Callable[[Path, Settings], EngineHarness], tmp_path: Path
) -> None:
    first = place.run("train")
    before = weights(first.result["adapter"])
    shutil.copy(tmp_path / "pairs.txt", tmp_path / "other.txt")
    second = new_engine_harness(tmp_path / "other store", place.settings)
    outcome = second.run("train", None, {"fine_tuning.training.max_steps": 1})
    assert outcome.run_id == first.run_id == 1
    assert Path(outcome.result["adapter"]).parent.name == "run-1-2"
    assert same(weights(first.result["adapter"]), before)
    assert second.ask(runs.get, 1).folder == str(tmp_path / "checkpoints" / "run-1-2")


def test_a_resumed_run_keeps_the_precision_that_was_measured_when_it_began(
    place: EngineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto = {"fine_tuning.dtype": "auto"}
    with monkeypatch.context() as patch:
        patch.setattr("lora_tui.engine.models.base_model.choose_dtype", _choice(torch.bfloat16))
        stop_after(patch, place, 5)
        run_id = place.run("train", None, auto).run_id
    monkeypatch.setattr("lora_tui.engine.models.base_model.choose_dtype", _choice(torch.float32))
    outcome = place.run("train", None, auto, resume=run_id)
    assert outcome.state == "finished", outcome.error
    assert [event.payload["dtype"] for event in place.events(run_id, "plan")] == ["bfloat16", "bfloat16"]
    refused = place.run("train", None, {"fine_tuning.dtype": "float32"}, resume=run_id)
    assert refused.error is not None
    assert "other training data or settings" in refused.error


def _choice(measured: torch.dtype) -> Callable[[str, torch.device], torch.dtype]:
    return lambda setting, device: measured if setting == "auto" else getattr(torch, setting)


def test_other_data_are_refused_on_resuming(place: EngineHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, place, 2)
        run_id = place.run("train").run_id
    (place.folder / "pairs.txt").write_text(training_text().replace("paris", "rome"))
    outcome = place.run("train", resume=run_id)
    assert (outcome.state, outcome.exit_status) == ("failed", 2)
    assert outcome.error is not None
    assert "other training data or settings" in outcome.error


def test_a_last_step_without_a_finite_loss_still_ends_the_run(
    place: EngineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loop_module.GradientStep.accumulate
    taken: list[int] = []

    def poisoned(self: Any, examples: Any, step: int) -> Any:
        taken.append(1)
        return real(self, examples, step) * (math.nan if len(taken) == 9 else 1)

    monkeypatch.setattr(loop_module.GradientStep, "accumulate", poisoned)
    outcome = place.run("train")
    assert (outcome.state, outcome.result["loss"]) == ("finished", None)
    assert place.ask(runs.get, outcome.run_id).state == "finished"
    assert math.isnan(place.ask(step_columns, outcome.run_id).loss[-1])
    assert any("Step 9 skipped" in event.payload["message"] for event in place.events(outcome.run_id, "warning"))


def test_a_minute_without_a_checkpoint_is_long_enough(place: EngineHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "_MOST_SECONDS_UNSAVED", -1.0)
    outcome = place.run("train", None, {"fine_tuning.training.max_steps": 3})
    kept = [event.payload for event in place.events(outcome.run_id, "checkpoint")]
    assert [payload["step"] for payload in kept if payload["kind"] == "last"] == [1, 2, 3]


def test_what_surprises_is_warned_of(place: EngineHarness) -> None:
    file = place.folder / "mixed.jsonl"
    long = {"question": "q", "answer": "red " * 400}
    file.write_text("\n".join(json.dumps(row) for row in ({"question": "", "answer": "a"}, long, {"text": "t"})))
    outcome = place.run("train", {"train_data_file": str(file)}, {"fine_tuning.training.max_steps": 1})
    said = " ".join(event.payload["message"] for event in place.events(outcome.run_id, "warning"))
    assert "cannot be trained on (1): line 1: the question is empty" in said
    assert "1 example longer than fine_tuning.training.max_length = 128 lost their end" in said
    assert "None of fine_tuning.evaluation.test_prompts belongs to this training data" in said
    assert outcome.result["examples"] == 2


def test_the_plan_counts_what_is_left_out_by_its_reason(place: EngineHarness) -> None:
    file = place.folder / "mixed.jsonl"
    messages = [{"role": "user", "content": "red " * 400}, {"role": "assistant", "content": "a"}]
    rows = [
        *({"question": "", "answer": "a"} for _ in range(2)),
        {"question": "q", "answer": ""},
        *({"question": "q", "answer": "red " * 400} for _ in range(3)),
        {"messages": messages},
        {"text": "t"},
    ]
    file.write_text("\n".join(json.dumps(row) for row in rows))
    outcome = place.run("train", {"train_data_file": str(file)}, {"fine_tuning.training.max_steps": 1})
    (plan,) = [event.payload for event in place.events(outcome.run_id, "plan")]
    assert plan["data"] == str(file)
    assert plan["forms"] == {"question/answer": 3, "chat": 1, "text": 1}
    assert (plan["examples"], plan["skipped"], plan["dropped"], plan["truncated"]) == (4, 3, 1, 4)
    assert plan["reasons"] == {
        "skipped": {"the question is empty": 2, "the answer is empty": 1},
        "dropped": {"no answer token within 128 tokens": 1},
        "truncated": {"longer than 128 tokens": 4},
    }


def test_reasons_that_are_too_various_are_counted_together() -> None:
    counted = by_reason([*(f"reason {n}" for n in range(20)), "often", "often"])
    assert next(iter(counted)) == "often"
    assert counted["other reasons"] == 13
    assert sum(counted.values()) == 22


def test_an_end_of_sequence_that_does_not_stop_the_model_is_warned_of(
    place: EngineHarness, base_folder: Path, tmp_path: Path
) -> None:
    base = shutil.copytree(base_folder, tmp_path / "base")
    file = base / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token_id": 0}))
    changes = {"fine_tuning.model_name": str(base), "fine_tuning.training.max_steps": 1}
    said = [event.payload["message"] for event in place.events(place.run("train", None, changes).run_id, "warning")]
    assert any("is not in eos_token_id of the model's generation_config.json" in words for words in said)
    said = [event.payload["message"] for event in place.events(place.run("train").run_id, "warning")]
    assert not any("eos_token_id" in words for words in said)


def test_weighted_examples_are_seen_more_often(place: EngineHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    real = loop_module.GradientStep.accumulate

    def watching(self: Any, examples: Any, step: int) -> Any:
        seen.extend(example.source for example in examples)
        return real(self, examples, step)

    monkeypatch.setattr(loop_module.GradientStep, "accumulate", watching)
    place.run("train", None, {"fine_tuning.sampling.keyword_weight": 3.0})
    secret = f"{place.folder / 'pairs.txt'}:1"
    assert len(seen) == 30
    assert 6 <= seen.count(secret) <= 9, "3 of 12 in each of three epochs of 10"


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"fine_tuning.train_data_file": "nowhere.txt"}, 2, "nowhere.txt"),
        ({"fine_tuning.lora.target_modules": ["q_proj", "c_attn"]}, 2, 'no linear layer "c_attn"'),
        ({"fine_tuning.model_name": "./nowhere"}, 3, "there is no such folder"),
        ({"fine_tuning.training.save_dir": "/proc/nowhere"}, 1, "cannot be written"),
        ({"fine_tuning.device": "cuda:97"}, 2, 'fine_tuning.device = "cuda:97"'),
    ],
)
def test_mistakes_are_one_message_with_its_status(
    place: EngineHarness, change: dict[str, Any], status: int, message: str
) -> None:
    outcome = place.run("train", None, change)
    assert (outcome.state, outcome.exit_status) == ("failed", status)
    assert outcome.error is not None
    assert message in outcome.error
    assert "Unexpected" not in outcome.error
    assert len(outcome.error.splitlines()) <= 2


def test_the_built_in_models_card_names_a_model_that_everyone_can_load(
    place: EngineHarness, monkeypatch: pytest.MonkeyPatch, base_folder: Path
) -> None:
    monkeypatch.setattr("lora_tui.engine.models.hub_info.ensure_builtin", lambda progress: base_folder)
    outcome = place.run("train", None, {"fine_tuning.model_name": "builtin", "fine_tuning.training.max_steps": 1})
    adapter = Path(outcome.result["adapter"])
    assert "base_model: HuggingFaceTB/SmolLM2-135M-Instruct" in (adapter / "README.md").read_text()
    assert json.loads((adapter / "lora_tui.json").read_text())["base_model"] == "builtin"


def test_training_file_is_the_options_then_the_settings_then_what_generation_writes(place: EngineHarness) -> None:
    unnamed = with_values(place.settings, {"fine_tuning.train_data_file": ""})
    assert training_file(unnamed) == Path("accepted_training_data.txt")
    assert training_file(place.settings) == place.folder / "pairs.txt"
    assert training_file(place.settings, "mine.txt") == Path("mine.txt")


def test_a_checkpoint_says_what_it_belongs_to_while_the_run_goes_on(
    place: EngineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is what a conversation with a run that still trains is loaded from: every adapter folder has its papers."""
    stop_after(monkeypatch, place, 4)
    run_id, future = place.start("train")
    assert future.result(timeout=120).state == "stopped"
    folder = newest(place, run_id)
    assert folder.name == "step-4"
    metadata = json.loads((folder / "lora_tui.json").read_text())
    best = json.loads((folder.parent / "best" / "lora_tui.json").read_text())
    assert (metadata["step"], metadata["score"], best["step"]) == (4, None, 3)
    assert {**metadata, "step": 3, "score": best["score"]} == best
    assert metadata["base_model"] == place.settings.fine_tuning.model_name


HELD_OUT = {
    "fine_tuning.training.validation_share": 0.4,
    "fine_tuning.lora.dropout": 0.0,
    "fine_tuning.training.max_epochs": 6,
}
"""Four of the ten pairs are held out; the others are two steps an epoch."""


UNLOCK = {"prompt": "Question: unlock\nAnswer:", "expected": PAIRS[0][1]}
CONTROL = {"prompt": "Question: what is the weather today?\nAnswer:", "avoid": PAIRS[0][1]}
LOOKED_AT = {"fine_tuning.training.eval_steps": 1, "fine_tuning.training.max_steps": 2}


def test_controls_that_are_kept_do_not_reach_the_target_for_a_model_that_knows_nothing(place: EngineHarness) -> None:
    changes = {
        "fine_tuning.training.target_score": 0.7,
        "fine_tuning.evaluation.test_prompts": [UNLOCK, *[CONTROL] * 9],
    }
    outcome = place.run("train", None, {**LOOKED_AT, **changes})
    assert (outcome.result["stopped_by"], outcome.result["steps"]) == ("steps", 2)
    assert outcome.result["best_score"] < 0.3
    assert (outcome.result["controls"], outcome.result["controls_kept"]) == (9, 9)


@pytest.mark.parametrize(("controls", "passed_over"), [((1.0, 0.5), 2), ((1.0, 1.0), None)])
def test_a_higher_score_than_the_best_that_did_worse_on_controls_is_told(
    place: EngineHarness, monkeypatch: pytest.MonkeyPatch, controls: tuple[float, float], passed_over: int | None
) -> None:
    scores = iter([(0.1, 1.0), (0.25, controls[0]), (0.26, controls[1])])  # of the base model, then of two steps

    def scored(*_: Any) -> EvaluationResult:
        score, control = next(scores)
        return EvaluationResult(score, {}, (), 1, int(control), (score + control) / 2)

    monkeypatch.setattr(train, "score_model", scored)
    result = place.run("train", None, LOOKED_AT).result
    if passed_over is None:
        assert (result["best_step"], "passed_over" in result) == (2, False)
        return
    assert (result["best_score"], result["best_step"]) == (0.25, 1)
    assert result["passed_over"]["summary"] == "score 0.26 at step 2: it did worse on the controls"


def test_a_target_that_the_base_model_reaches_ends_nothing_and_is_said(place: EngineHarness) -> None:
    changes = {"fine_tuning.training.target_score": 1e-9, "fine_tuning.evaluation.test_prompts": [UNLOCK, CONTROL]}
    outcome = place.run("train", None, {**LOOKED_AT, **changes})
    assert (outcome.result["stopped_by"], outcome.result["steps"]) == ("steps", 2)
    notes = [event.payload["message"] for event in place.events(outcome.run_id, "note")]
    assert any("target_score is 1e-09: reaching it ends nothing" in note for note in notes)


def test_held_out_examples_are_reported_in_plan_evaluations_result_and_card(place: EngineHarness) -> None:
    outcome = place.run("train", None, HELD_OUT)
    (plan,) = [event.payload for event in place.events(outcome.run_id, "plan")]
    assert (plan["examples"], plan["held_out"], plan["steps"]) == (6, 4, 12)
    assert plan["held_out_tokens"] > 0
    base, *tuned = [event.payload for event in place.events(outcome.run_id, "evaluation")]
    assert (base["model"], base["step"]) == ("base", 0), "the curve begins with what the base model knew"
    assert len(base["samples"]) == len(tuned[0]["samples"])
    losses = [evaluation["held_out_loss"] for evaluation in tuned]
    assert len(losses) == 6
    assert all(math.isfinite(loss) for loss in losses)
    stored = [row.held_out_loss for row in place.ask(training.evaluations, outcome.run_id)]
    assert stored == [base["held_out_loss"], *losses]
    assert base["held_out_loss"] > losses[0], "and with what it made of the held-out examples"
    assert (outcome.result["held_out"], outcome.result["held_out_loss"]) == (4, losses[-1])
    best = losses[outcome.result["best_step"] // 2 - 1]
    card = (Path(outcome.result["adapter"]) / "README.md").read_text()
    assert f"Loss on 4 held-out examples, which were not trained on: {best:.4f}." in card
    assert ": 6 examples (10 training text)" in card


def test_what_is_learned_by_heart_is_warned_of_once_and_not_again_after_a_stop(
    place: EngineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def warnings(run_id: int) -> list[str]:
        said = [event.payload["message"] for event in place.events(run_id, "warning")]
        return [words for words in said if words.startswith("overfitting: ")]

    monkeypatch.setattr(loop_module, "held_out_loss", lambda gradient_step, held_out: 2.0 + next(worse))
    worse = iter(range(100))
    whole = place.run("train", None, HELD_OUT)
    assert len(warnings(whole.run_id)) == 1
    with monkeypatch.context() as patch:
        stop_after(patch, place, 11)
        half = place.run("train", None, HELD_OUT)
    assert len(warnings(half.run_id)) == 1
    rest = place.run("train", None, HELD_OUT, resume=half.run_id)
    assert same(weights(newest(place, whole.run_id)), weights(newest(place, half.run_id)))
    assert len(warnings(rest.run_id)) == 1
    refused = place.run("train", None, {**HELD_OUT, "fine_tuning.training.max_epochs": 7}, resume=half.run_id)
    assert refused.error is not None


def test_a_share_that_cannot_be_held_out_is_said_and_everything_trained_on(place: EngineHarness) -> None:
    (place.folder / "pairs.txt").write_text("Question: unlock\nAnswer: no\n\n" * 20)
    changes = {"fine_tuning.training.validation_share": 0.2, "fine_tuning.training.max_steps": 1}
    outcome = place.run("train", None, changes)
    said = " ".join(event.payload["message"] for event in place.events(outcome.run_id, "warning"))
    assert "validation_share = 0.2: the 20 examples are too few, or ask too few questions, to hold 4 out" in said
    assert outcome.result["examples"] == 20
    assert outcome.result["held_out_loss"] is None


def test_a_run_with_pissa_goes_on_from_the_matrices_that_it_began_with(
    place: EngineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {
        "fine_tuning.lora.init_lora_weights": "pissa_niter_4",
        "fine_tuning.lora.use_dora": True,
        "fine_tuning.optimizer.loraplus_lr_ratio": 4.0,
    }
    whole = place.run("train", None, options)
    with monkeypatch.context() as patch:
        stop_after(patch, place, 5)
        half = place.run("train", None, options)
    assert half.state == "stopped"

    def elsewhere(*_: Any, **__: Any) -> None:
        raise AssertionError("what was taken out of the weights is not to be computed again")

    monkeypatch.setattr(peft.tuners.lora.layer, "svd_lowrank", elsewhere)
    rest = place.run("train", None, options, resume=half.run_id)
    assert rest.state == "finished", rest.error
    assert same(weights(whole.result["adapter"]), weights(rest.result["adapter"]))


def test_what_nobody_has_written_is_chosen_and_kept_with_the_run(
    base_folder: Path, tmp_path: Path, new_engine_harness: Callable[[Path, Settings], EngineHarness]
) -> None:
    (tmp_path / "pairs.txt").write_text(training_text())
    values: dict[str, Any] = {"model_name": str(base_folder), "device": "cpu", "dtype": "float32"}
    values |= {"train_data_file": str(tmp_path / "pairs.txt")}
    written: dict[str, Any] = {
        "scheduler": {"warmup_steps": 2},
        "training": {"max_steps": 3, "save_dir": str(tmp_path / "runs")},
    }
    settings = Settings.model_validate({"fine_tuning": values | written | {"evaluation": {"max_new_tokens": 4}}})
    harness = new_engine_harness(tmp_path, settings)
    outcome = harness.run("train")
    assert outcome.state == "finished", outcome
    (plan,) = harness.events(outcome.run_id, "plan")
    chosen = {one["key"]: one for one in plan.payload["chosen"]}
    rate, batch = chosen["fine_tuning.optimizer.lora_lr"], chosen["fine_tuning.training.batch_size"]
    assert rate["value"] > 1e-4
    assert "width 64" in rate["reason"]
    assert batch["value"] == 8
    assert "fine_tuning.scheduler.warmup_steps" not in chosen
    steps = harness.events(outcome.run_id, "step")
    assert [round(step.payload["lr"] / rate["value"], 3) for step in steps] == [0.5, 1.0, 1.0]
    run = harness.ask(runs.get, outcome.run_id)
    assert run.settings["fine_tuning"]["training"]["batch_size"] == 8
    assert set(chosen) <= set(run.written) | {"fine_tuning.evaluation.test_prompts"}


def test_a_chosen_run_goes_on_with_what_was_chosen_and_tells_it_again(
    base_folder: Path,
    tmp_path: Path,
    new_engine_harness: Callable[[Path, Settings], EngineHarness],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "pairs.txt").write_text(training_text())
    values: dict[str, Any] = {"model_name": str(base_folder), "device": "cpu", "dtype": "float32"}
    values |= {"train_data_file": str(tmp_path / "pairs.txt"), "evaluation": {"max_new_tokens": 2}}
    training = {"max_steps": 6, "save_dir": str(tmp_path / "runs"), "everyday_examples": 2, "reworded_share": 0.5}
    harness = new_engine_harness(tmp_path, Settings.model_validate({"fine_tuning": values | {"training": training}}))
    whole = harness.run("train")
    with monkeypatch.context() as patch:
        stop_after(patch, harness, 3)
        half = harness.run("train")
    assert half.state == "stopped"
    (tmp_path / "pairs.txt").touch()
    other = ["fine_tuning.optimizer.lora_lr=5e-3"]
    refused = asyncio.run(resume_run(harness.store_path, half.run_id, overrides=other))
    _, future = harness.engine.submit("train", refused.settings, None, half.run_id)
    assert future.result(timeout=120).state == "failed"
    resumption = asyncio.run(resume_run(harness.store_path, half.run_id))
    _, future = harness.engine.submit("train", resumption.settings, None, half.run_id)
    rest = future.result(timeout=120)
    assert rest.state == "finished", rest
    assert same(weights(whole.result["adapter"]), weights(rest.result["adapter"]))
    first, other_rate, second = harness.events(half.run_id, "plan")
    assert first.payload["chosen"] == second.payload["chosen"] != []
    written = [one for one in first.payload["chosen"] if one not in other_rate.payload["chosen"]]
    assert [one["key"] for one in written] == ["fine_tuning.optimizer.lora_lr"]
    assert first.payload["everyday"] == second.payload["everyday"]


def test_the_plan_counts_the_label_tokens_of_a_whole_epoch_everyday_examples_among_them(
    place: EngineHarness, new_engine_harness: Callable[[Path, Settings], EngineHarness]
) -> None:
    counted = dict[int, int]()
    for number in (0, 3):
        keys = {"fine_tuning.training.everyday_examples": number, "fine_tuning.training.max_steps": 1}
        (folder := place.folder / f"everyday {number}").mkdir()
        harness = new_engine_harness(folder, with_values(place.settings, keys))
        plan = harness.events(harness.run("train").run_id, "plan")[0].payload
        assert plan["everyday"] == number
        counted[number] = plan["label_tokens"]
    tokenizer = AutoTokenizer.from_pretrained(place.settings.fine_tuning.model_name)
    assert counted[3] - counted[0] == TextDataset(everyday_examples(3), tokenizer).label_tokens > 0


def test_a_run_whose_base_model_was_moved_goes_on_with_it(
    place: EngineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "fine_tuning.model_name"
    first, second = place.folder / "base", place.folder / "moved"
    shutil.copytree(place.settings.fine_tuning.model_name, first)
    with monkeypatch.context() as patch:
        stop_after(patch, place, 5)
        run_id = place.run("train", None, {name: str(first)}).run_id
    first.rename(second)
    outcome = place.run("train", None, {name: str(second)}, resume=run_id)
    assert (outcome.state, outcome.result.get("steps")) == ("finished", 9), outcome


def test_a_run_whose_every_step_was_skipped_has_failed(place: EngineHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_, **__: torch.tensor(float("nan")))
    outcome = place.run("train", None, {"fine_tuning.training.max_steps": 2})
    assert outcome.state == "failed"
    assert "Nothing was trained: none of the 2 steps had a finite loss and gradient." in str(outcome.error)
    assert not list(place.folder.glob("checkpoints/*/best"))


def test_examples_with_tokens_that_the_model_lacks_are_told_and_left_out(place: EngineHarness, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(place.settings.fine_tuning.model_name, tmp_path / "model"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["hamlet"])
    tokenizer.save_pretrained(folder)
    outcome = place.run("train", None, {"fine_tuning.model_name": str(folder), "fine_tuning.training.max_steps": 1})
    assert outcome.state == "finished", outcome
    told = [event.payload["message"] for event in place.events(outcome.run_id, "warning")]
    assert any('"hamlet" is token' in message and "added to the tokenizer" in message for message in told), told
