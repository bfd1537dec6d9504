"""``fine_tuning.qlora``: refused where it cannot work; else its adapter also fits the base in full precision."""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from lora_tui.config.load import with_values
from lora_tui.config.models import Lora, Settings
from lora_tui.engine.models import activation_memory
from lora_tui.engine.models.adapter_source import open_adapter
from lora_tui.engine.models.adapters import load_adapter
from lora_tui.engine.models.base_model import BaseModel, check_qlora, load_base
from lora_tui.engine.training.dataset import TextDataset
from lora_tui.engine.training.lora import create_lora_model, trainable_parameters
from lora_tui.engine.training.step import GradientStep
from lora_tui.errors import ConfigError
from tests.engine.conftest import EngineHarness
from tests.engine.tiny import tiny_settings, training_text
from tests.engine.training.conftest import rows_of, stir

# The test extra brings it: in CI a missing one is a failure.
missing = importlib.util.find_spec("bitsandbytes") is None and not os.environ.get("CI")
installed = pytest.mark.skipif(missing, reason="needs bitsandbytes")


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(torch.arange(3, 40)[None]).logits.float()
    return found


def four_bits(base_folder: Path, **more: Any) -> BaseModel:
    return load_base(tiny_settings({"model_name": str(base_folder), "qlora": True, **more}), lambda *_: None)


def test_without_bitsandbytes_it_is_refused_before_anything_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    settings = tiny_settings({"model_name": "nobody/has-this", "qlora": True})
    with pytest.raises(
        ConfigError, match=r"needs bitsandbytes, which is not installed: pip install 'lora-tui\[qlora\]'"
    ):
        load_base(settings, lambda *_: pytest.fail("nothing may be loaded"))


def test_on_apples_gpu_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    with pytest.raises(ConfigError, match=r'NVIDIA cards .* or fine_tuning.device = "cpu"'):
        check_qlora(torch.device("mps"))
    check_qlora(torch.device("cuda", 0))
    check_qlora(torch.device("cpu"))


@installed
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_linear_layers_are_kept_in_four_bits_and_the_head_is_not(base_folder: Path, dtype: str) -> None:
    base = four_bits(base_folder, dtype=dtype)
    layer = base.model.model.layers[0].mlp.down_proj
    assert (type(layer).__name__, layer.weight.dtype, layer.weight.quant_type) == ("Linear4bit", torch.uint8, "nf4")
    assert layer.weight.quant_state.nested, "the scales are quantised as well"
    assert base.model.lm_head.weight.dtype == base.dtype == getattr(torch, dtype)
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    whole = AutoModelForCausalLM.from_pretrained(base_folder)
    wanted = logits(whole)
    assert 0 < float((logits(base.model) - wanted).norm() / wanted.norm()) < 0.3
    tuned = create_lora_model(base.model, Lora(r=4, target_modules="all-linear"))
    trained, total = trainable_parameters(tuned)
    assert total - trained == sum(parameter.numel() for parameter in whole.parameters())


@installed
def test_the_bytes_of_four_bits_are_those_of_the_forecast(base_folder: Path) -> None:
    found = 0
    for module in four_bits(base_folder).model.modules():
        if type(module).__name__ == "Linear4bit":
            state = module.weight.quant_state
            found += module.weight.nbytes + state.absmax.nbytes + state.state2.absmax.nbytes
    numbers = 2 * (64 * (64 + 32 + 32 + 64) + 3 * 64 * 128)
    assert found == pytest.approx(numbers * activation_memory.FOUR_BIT_BYTES, rel=0.01)


@installed
@pytest.mark.parametrize("dora", [False, True])
def test_the_gradient_is_that_of_the_plain_forward_pass(base_folder: Path, dataset: TextDataset, dora: bool) -> None:
    def model() -> Any:
        lora = Lora(r=4, alpha=8, dropout=0.0, target_modules="all-linear", use_dora=dora)
        return stir(create_lora_model(four_bits(base_folder).model, lora, seed=7)).train()

    examples, ours, plain = list(dataset)[:3], model(), model()
    GradientStep.of(ours, 64).accumulate(examples)
    total = torch.zeros(())
    for example in examples:
        row = rows_of(GradientStep.of(plain, 64), [example])[0]
        found = plain(torch.as_tensor(example.input_ids)[None]).logits[0].index_select(0, row.label_positions)
        total = total + torch.nn.functional.cross_entropy(found, row.targets, reduction="sum")
    (total / sum(example.labels for example in examples)).backward()
    wanted = dict(plain.named_parameters())
    for name, parameter in ours.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, wanted[name].grad, rtol=1e-3, atol=1e-6)


@installed
def test_an_evaluation_changes_neither_the_weights_nor_the_next_gradient(
    base_folder: Path, dataset: TextDataset
) -> None:
    """On CPUs with AVX512-BF16 bitsandbytes would repack its weights and leave autograd out from then on."""
    lora = Lora(r=4, alpha=8, dropout=0.0, target_modules="all-linear")
    model = stir(create_lora_model(four_bits(base_folder).model, lora, seed=7)).train()
    examples = list(dataset)[:3]

    def gradients() -> list[torch.Tensor]:
        model.train().zero_grad()
        GradientStep.of(model, 64).accumulate(examples)
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.requires_grad]

    before = gradients()
    first = logits(model.eval())
    assert torch.equal(logits(model), first)
    assert all(torch.equal(one, other) for one, other in zip(before, gradients(), strict=True))


@installed
def test_modules_in_four_bits_cannot_be_trained_whole(base_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r'"down_proj" is kept in 4 bits.*set fine_tuning.qlora = false'):
        create_lora_model(four_bits(base_folder).model, Lora(target_modules=["q_proj"], modules_to_save=["down_proj"]))


@installed
def test_a_run_in_four_bits_ends_in_an_adapter_that_fits_both_bases_and_merges_into_the_full_one(
    tmp_path: Path, base_folder: Path, new_engine_harness: Callable[[Path, Settings], EngineHarness]
) -> None:
    (tmp_path / "pairs.txt").write_text(training_text())
    values = {
        "model_name": str(base_folder),
        "train_data_file": str(tmp_path / "pairs.txt"),
        "training.save_dir": str(tmp_path / "checkpoints"),
        "qlora": True,
        "lora.target_modules": "all-linear",
        "lora.modules_to_save": ["lm_head"],
        "training.max_epochs": 4,
    }
    place = new_engine_harness(tmp_path, tiny_settings(values))
    outcome = place.run("train")
    assert outcome.state == "finished", outcome.error
    adapter = Path(outcome.result["adapter"])
    ours = load_adapter(four_bits(base_folder), open_adapter(adapter, None))
    theirs = PeftModel.from_pretrained(four_bits(base_folder).model, adapter).eval()
    torch.testing.assert_close(logits(ours), logits(theirs), rtol=0, atol=1e-5)

    exported = place.run("export", {"format": "merged", "output": str(tmp_path / "merged")})
    assert exported.state == "finished", exported.error
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert not hasattr(merged.config, "quantization_config")
    full = load_base(with_values(place.settings, {"fine_tuning.qlora": False}), lambda *_: None)
    wanted = logits(load_adapter(full, open_adapter(adapter, None)))
    torch.testing.assert_close(logits(merged), wanted, rtol=0, atol=1e-4)
