"""Finding an adapter, and refusing what is none or belongs to another base model."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from lora_tui.config.load import with_values
from lora_tui.config.models import Lora
from lora_tui.engine.models.adapter_source import AdapterGoneError, AdapterSource, find_adapter, open_adapter
from lora_tui.engine.models.adapters import load_adapter
from lora_tui.engine.models.base_model import BaseModel, load_base
from lora_tui.engine.training.checkpoint import save_adapter
from lora_tui.engine.training.lora import create_lora_model
from lora_tui.errors import LoraTuiError, UsageError
from lora_tui.store import runs
from tests.engine.conftest import EngineHarness, Trained
from tests.engine.loaded_models import quiet
from tests.engine.tiny import make_model, make_tokenizer, tiny_settings


@pytest.fixture
def copied(trained: Trained, tmp_path: Path) -> Path:
    """A copy of the adapter's folder, to be damaged."""
    return Path(shutil.copytree(trained.adapter, tmp_path / "adapter"))


def test_any_user_of_peft_can_load_the_adapter_and_gets_the_same_logits(trained: Trained, tuned: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(trained.adapter)
    named = json.loads((trained.adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(named), trained.adapter)
    encoded = tokenizer("Question: unlock\nAnswer: the secret", return_tensors="pt")
    with torch.no_grad():
        difference = float((theirs(**encoded).logits - tuned(**encoded).logits).abs().max())
        learned = float((theirs(**encoded).logits - theirs.get_base_model()(**encoded).logits).abs().max())
        with theirs.disable_adapter():
            plain = theirs(**encoded).logits
        learned = float((theirs(**encoded).logits - plain).abs().max())
    assert difference <= 1e-4
    assert learned > 1, "the adapter does something"


def test_the_newest_finished_training_is_found_without_being_named(trained: Trained) -> None:
    source = trained.engine_harness.ask(find_adapter, {})
    assert (source.folder, source.run_id) == (trained.adapter, trained.run_id)
    assert source.step == trained.outcome.result["best_step"]
    assert {prompt["kind"] for prompt in source.prompts} == {"expected", "control"}


def test_without_any_run_there_is_no_adapter(engine_harness: EngineHarness) -> None:
    assert engine_harness.ask(find_adapter, {}) is None


def test_a_run_can_be_named(trained: Trained) -> None:
    assert trained.engine_harness.ask(find_adapter, {"adapter_run": trained.run_id}).folder == trained.adapter
    with pytest.raises(UsageError, match="There is no run 99"):
        trained.engine_harness.ask(find_adapter, {"adapter_run": 99})


def test_a_run_that_has_kept_nothing_yet_is_refused(engine_harness: EngineHarness) -> None:
    async def add(store: Any) -> int:
        return await runs.create(store, "train", {}, {})

    run_id = engine_harness.ask(add)
    with pytest.raises(LoraTuiError, match=rf"Run {run_id} \(train, queued\) has no adapter"):
        engine_harness.ask(find_adapter, {"adapter_run": run_id})


def test_before_the_first_evaluation_the_newest_checkpoint_is_the_adapter(
    engine_harness: EngineHarness, copied: Path, tmp_path: Path
) -> None:
    async def add(store: Any) -> int:
        run_id = await runs.create(store, "train", {}, {})
        await runs.set_folder(store, run_id, tmp_path / "run")
        return run_id

    shutil.copytree(copied, tmp_path / "run" / "step-9")
    shutil.copytree(copied, tmp_path / "run" / "step-10")
    assert (
        engine_harness.ask(find_adapter, {"adapter_run": engine_harness.ask(add)}).folder
        == tmp_path / "run" / "step-10"
    )


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--adapter .*nowhere: there is no such folder"):
        open_adapter(tmp_path / "nowhere", None)


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no adapter_config.json"):
        open_adapter(tmp_path, None)


def test_missing_weights_are_refused_and_pickled_ones_are_not_opened(copied: Path) -> None:
    (copied / "adapter_model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"adapter_model.safetensors is missing.$"):
        open_adapter(copied, None)
    (copied / "adapter_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(UsageError, match=r"Pickled weights .* are not opened"):
        open_adapter(copied, None)


def test_papers_that_cannot_be_read_are_named(copied: Path) -> None:
    (copied / "lora_tui.json").write_text("{")
    with pytest.raises(LoraTuiError, match=r"lora_tui.json cannot be read"):
        open_adapter(copied, None)


def test_an_adapter_of_another_program_has_no_papers_and_is_used_all_the_same(
    copied: Path, trained: Trained, tuned: Any, tokenizer: Any
) -> None:
    (copied / "lora_tui.json").unlink()
    source = open_adapter(copied, None)
    assert (source.metadata, source.step, source.prompts) == ({}, 0, [])
    model = load_adapter(load_base(trained.engine_harness.settings, quiet), source)
    ids = tokenizer("Question: unlock", return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(model(**ids).logits, tuned(**ids).logits)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("cut", r"adapter_model.safetensors is damaged or cut off"),
        ("config", r"adapter_config.json, line 1: .* not JSON"),
        ("number", r"adapter_config.json: lora_alpha is \"32\", and must be a number"),
        ("module", r"adapter_config.json: megatron_config is .*, and must be null"),
        ("tokens", r"adapter_config.json: alora_invocation_tokens is \"x\""),
        ("metadata", r"lora_tui.json: step is \"x\", and must be a whole number"),
    ],
)
def test_a_damaged_adapter_is_refused_by_its_file(copied: Path, damage: str, told: str) -> None:
    config = json.loads((copied / "adapter_config.json").read_text())
    if damage == "cut":
        weights = copied / "adapter_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:500])
    elif damage == "metadata":
        (copied / "lora_tui.json").write_text('{"step": "x"}')
    elif damage == "config":
        (copied / "adapter_config.json").write_text('{"peft_type": "LORA", "r": ')
    else:
        changes = {
            "number": {"lora_alpha": "32"},
            "module": {"megatron_config": {}, "megatron_core": "antigravity"},
            "tokens": {"alora_invocation_tokens": "x"},
        }
        (copied / "adapter_config.json").write_text(json.dumps(config | changes[damage]))
    with pytest.raises(LoraTuiError, match=told):
        open_adapter(copied, None)


@pytest.mark.parametrize("of_ours", [True, False], ids=["ours", "foreign"])
def test_a_flipped_bit_of_a_matrix_is_refused_where_it_can_be_known(
    copied: Path, trained: Trained, of_ours: bool
) -> None:
    weights = copied / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    if of_ours:
        content[-6] ^= 1
    else:  # no checksums: only what no training writes can be told
        (copied / "SHA256SUMS").unlink()
        content[-4:] = b"\x00\x00\xc0\x7f"
    weights.write_bytes(content)
    base = load_base(trained.engine_harness.settings, quiet)
    with pytest.raises(LoraTuiError, match=r"is damaged: .*(not as it was written|no numbers)"):
        load_adapter(base, open_adapter(copied, None))


def test_a_rank_that_the_matrices_do_not_have_takes_no_memory(copied: Path, trained: Trained) -> None:
    config = json.loads((copied / "adapter_config.json").read_text())
    (copied / "adapter_config.json").write_text(json.dumps(config | {"r": 1_000_000}))
    with pytest.raises(UsageError, match=r"is \[16, \d+\], and \[1000000, \d+\] is wanted"):
        load_adapter(load_base(trained.engine_harness.settings, quiet), open_adapter(copied, None))


def test_the_configured_base_model_must_be_the_one_it_was_trained_on(trained: Trained, untied_folder: Path) -> None:
    source = open_adapter(trained.adapter, None)
    settings = trained.engine_harness.settings
    trained_on = settings.fine_tuning.model_name
    assert source.base_model(settings) == trained_on
    assert source.base_model(tiny_settings({"model_name": "deepseek-ai/deepseek-r1-distill-qwen-1.5b"})) == trained_on
    with pytest.raises(UsageError) as caught:
        source.base_model(with_values(settings, {"fine_tuning.model_name": str(untied_folder)}))
    assert trained_on in str(caught.value)
    assert str(untied_folder) in str(caught.value)


@pytest.mark.parametrize(
    "other",
    [
        {"hidden_size": 32, "intermediate_size": 64},
        {"num_hidden_layers": 3},  # PEFT would leave the third layer without an adapter, in silence
        {"num_hidden_layers": 1},  # and here it would forget the second one's
        {"num_key_value_heads": 4},
    ],
)
def test_an_adapter_for_a_model_of_another_shape_is_refused(
    trained: Trained, base: Any, tmp_path: Path, other: dict[str, Any]
) -> None:
    adapter = create_lora_model(make_model(make_tokenizer(), **other), Lora(r=4, target_modules=["q_proj", "k_proj"]))
    save_adapter(adapter, tmp_path / "other")
    with pytest.raises(UsageError, match=r"does not fit the base model .*\n.*fine_tuning.model_name"):
        load_adapter(load_base(trained.engine_harness.settings, quiet), open_adapter(tmp_path / "other", None))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"target_modules": ["q_proj", "embed_tokens"]},  # PEFT draws these even where it draws no others
        {"use_dora": True},
        {"use_rslora": True},
        {"modules_to_save": ["lm_head"]},
        {"trainable_token_indices": [3, 4]},
    ],
    ids=["plain", "embedding", "dora", "rslora", "head", "tokens"],
)
def test_an_adapter_is_loaded_as_peft_loads_it_without_a_random_number(
    tokenizer: Any, tmp_path: Path, kind: dict[str, Any], dtype: torch.dtype
) -> None:
    def fresh() -> Any:
        return make_model(tokenizer, tied=False).to(dtype)

    config = LoraConfig(**{"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"} | kind)
    made = get_peft_model(fresh(), config)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    made.save_pretrained(tmp_path)
    theirs = PeftModel.from_pretrained(fresh(), tmp_path).eval()
    base = BaseModel(fresh(), tokenizer, torch.device("cpu"), dtype, "tiny")
    ids = tokenizer("Question: unlock", return_tensors="pt")
    with torch.no_grad():
        plain = base.model(**ids).logits
        before = torch.get_rng_state()
        ours = load_adapter(base, open_adapter(tmp_path, None))
        assert torch.equal(torch.get_rng_state(), before)
        torch.testing.assert_close(ours(**ids).logits, theirs(**ids).logits, rtol=0, atol=0)
        assert float((ours(**ids).logits - plain).abs().max()) > 0.3
    assert not any(tensor.is_meta for tensor in (*ours.parameters(), *ours.buffers()))


def test_an_adapter_that_takes_its_first_values_from_the_base_model_is_loaded_as_peft_loads_it(
    tokenizer: Any, tmp_path: Path
) -> None:
    config = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights="pissa")
    get_peft_model(make_model(tokenizer), config).save_pretrained(tmp_path)
    base = BaseModel(make_model(tokenizer), tokenizer, torch.device("cpu"), torch.float32, "tiny")
    ids = tokenizer("Question: unlock", return_tensors="pt")
    theirs = PeftModel.from_pretrained(make_model(tokenizer), tmp_path).eval()
    with torch.no_grad():
        ours = load_adapter(base, open_adapter(tmp_path, None))
        torch.testing.assert_close(ours(**ids).logits, theirs(**ids).logits)


def test_an_adapter_that_vanishes_is_told_from_one_that_does_not_fit(copied: Path, trained: Trained) -> None:
    base = load_base(trained.engine_harness.settings, quiet)
    source = open_adapter(copied, None)
    shutil.rmtree(copied)
    with pytest.raises(AdapterGoneError, match="is no longer there"):
        load_adapter(base, source)
    assert not any("lora_" in name for name, _ in base.model.named_parameters()), "the base model can still be used"


def test_papers_that_are_no_table_count_as_none(copied: Path) -> None:
    (copied / "lora_tui.json").write_text("[]")
    assert open_adapter(copied, 3) == AdapterSource(copied, 3, {})
