"""LoRA's variants: trained, stopped and resumed, loaded by PEFT on the original base, merged: always the same model."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import PeftModel
from peft.optimizers import create_loraplus_optimizer
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from lora_tui.config.models import FineTuning, Lora
from lora_tui.engine.models.adapter_source import open_adapter
from lora_tui.engine.models.adapters import adapter_weights, load_adapter
from lora_tui.engine.models.base_model import BaseModel
from lora_tui.engine.training import checkpoint
from lora_tui.engine.training.checkpoint import run_identity
from lora_tui.engine.training.dataset import TextDataset
from lora_tui.engine.training.hooks import Hooks
from lora_tui.engine.training.loop import train_model
from lora_tui.engine.training.lora import create_lora_model, trainable_parameters
from lora_tui.engine.training.optimizer import make_optimizer
from lora_tui.engine.training.pissa import initial_matrices
from lora_tui.engine.training.step import GradientStep
from lora_tui.errors import ConfigError, UsageError
from tests.engine.tiny import make_model, tiny_settings
from tests.engine.training.conftest import rows_of, stir

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "pissa": {"init_lora_weights": "pissa"},
    "pissa, fast": {"init_lora_weights": "pissa_niter_4"},
    "olora": {"init_lora_weights": "olora"},
    "pissa and dora": {"init_lora_weights": "pissa", "use_dora": True},
    "ranks": {"rank_pattern": {"q_proj": 2, "layers.0.self_attn.v_proj": 8}, "alpha_pattern": {"v_proj": 3}},
    "olora, rslora, ranks": {
        "init_lora_weights": "olora",
        "use_rslora": True,
        "rank_pattern": {"q_proj": 2},
        "alpha_pattern": {"v_proj": 3},
    },
    "head": {"modules_to_save": ["lm_head"]},
    "embedding": {"modules_to_save": ["embed_tokens"]},
    "norms and dora": {"modules_to_save": ["norm"], "use_dora": True},
    "pissa and head": {"modules_to_save": ["lm_head"], "init_lora_weights": "pissa"},
}
options = pytest.mark.parametrize("option", OPTIONS.values(), ids=OPTIONS.keys())


def lora(option: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"r": 4, "alpha": 8, "dropout": 0.1, "target_modules": ["q_proj", "v_proj", "down_proj"], **option, **more}


def tuning(option: dict[str, Any], **more: Any) -> FineTuning:
    changes = {f"lora.{name}": value for name, value in lora(option).items()}
    return tiny_settings({**changes, "training.max_epochs": 1, "optimizer.base_lr": 1e-2, **more}).fine_tuning


def train(base: Any, settings: FineTuning, dataset: TextDataset, folder: Path, **how: Any) -> Any:
    """A model that was trained on `base` until the end, or until the step that ``stop`` names."""
    resume, stop, first = how.get("resume", False), how.get("stop", 10**9), how.get("first")
    model = create_lora_model(base, settings.lora, seed=7, first=first)
    taken = 0

    def count(_: Any) -> None:
        nonlocal taken
        taken += 1

    train_model(
        model, dataset, settings, folder, Hooks(on_step=count, should_stop=lambda: taken >= stop), resume=resume
    )
    return model.eval()


def logits(model: Any, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(torch.arange(3, 40)[None]).logits
    return found.to(dtype)


@options
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_peft_loads_the_adapter_on_the_original_base_and_merges_it(
    tokenizer: Any, dataset: TextDataset, tmp_path: Path, option: dict[str, Any], tied: bool
) -> None:
    def base() -> Any:
        return make_model(tokenizer, tied=tied)

    ours = train(base(), tuning(option), dataset, tmp_path)
    wanted, untrained = logits(ours), logits(base())
    assert float((wanted - untrained).abs().max()) > 0.1, "training has changed the model"
    for folder in (tmp_path / "step-3", tmp_path / "best"):
        if folder.name == "best":
            checkpoint.save_adapter(ours, folder)
        theirs = PeftModel.from_pretrained(base(), folder).eval()
        torch.testing.assert_close(logits(theirs), wanted, rtol=0, atol=2e-5)
    read = BaseModel(base(), tokenizer, torch.device("cpu"), torch.float32, "tiny")
    torch.testing.assert_close(logits(load_adapter(read, open_adapter(folder, None))), wanted, rtol=0, atol=2e-5)
    theirs.merge_and_unload(safe_merge=True).save_pretrained(tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(merged), wanted, rtol=0, atol=5e-5)
    head, embedding = merged.get_output_embeddings().weight, merged.get_input_embeddings().weight
    assert (head is embedding) == tied


@options
def test_a_stopped_run_goes_on_bit_for_bit(
    tokenizer: Any, dataset: TextDataset, tmp_path: Path, option: dict[str, Any]
) -> None:
    whole = train(make_model(tokenizer), tuning(option), dataset, tmp_path / "whole")
    train(make_model(tokenizer), tuning(option), dataset, tmp_path / "half", stop=1)
    torch.manual_seed(99)
    rest = train(make_model(tokenizer), tuning(option), dataset, tmp_path / "half", resume=True)
    one, other = adapter_weights(whole), adapter_weights(rest)
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert torch.equal(logits(whole), logits(rest))


def test_a_resumed_run_begins_with_the_first_matrices_of_the_run_and_not_with_new_ones(
    tokenizer: Any, dataset: TextDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tuning({"init_lora_weights": "pissa_niter_4"})
    whole = train(make_model(tokenizer), settings, dataset, tmp_path / "whole")
    train(make_model(tokenizer), settings, dataset, tmp_path / "half", stop=1)

    def elsewhere(*args: Any, **more: Any) -> Any:
        """Another machine's factorisation, as right and with other signs."""
        u, s, v = torch.svd_lowrank(*args, **more)
        return -u, s, -v

    monkeypatch.setattr(peft.tuners.lora.layer, "svd_lowrank", elsewhere)
    with pytest.raises(UsageError, match="other first matrices"):
        train(make_model(tokenizer), settings, dataset, tmp_path / "half", resume=True)
    first = checkpoint.newest_initial_matrices(tmp_path / "half")
    rest = train(make_model(tokenizer), settings, dataset, tmp_path / "half", resume=True, first=first)
    assert torch.equal(logits(whole), logits(rest))


@pytest.mark.parametrize("option", [OPTIONS["pissa"], OPTIONS["olora"]], ids=["pissa", "olora"])
def test_what_is_taken_out_of_a_bfloat16_base_is_put_back_in_the_adapter(
    tokenizer: Any, dataset: TextDataset, tmp_path: Path, option: dict[str, Any]
) -> None:
    def base() -> Any:
        return make_model(tokenizer).to(torch.bfloat16)

    ours = create_lora_model(base(), Lora(**lora(option)), seed=7)
    assert all(matrix.dtype == torch.float32 for matrix in initial_matrices(ours).values())
    layer = ours.base_model.model.model.layers[0].self_attn.q_proj
    whole = (
        layer.weight.float()
        + layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    )
    weight = base().model.layers[0].self_attn.q_proj.weight.float()
    # What is left is rounded once more; were A and B rounded as well, as PEFT does, this would be 1e-2.
    assert float((whole - weight).abs().max() / weight.abs().max()) < 3e-3
    checkpoint.save_adapter(ours.eval(), tmp_path)
    theirs = PeftModel.from_pretrained(base(), tmp_path).eval()
    assert float((logits(theirs) - logits(base())).abs().max()) == 0, "before training it changes nothing"


@pytest.mark.parametrize("names", [["lm_head"], ["embed_tokens"], ["embed_tokens", "lm_head"]], ids=str)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_modules_that_are_trained_whole_get_the_gradient_of_the_plain_mathematics(
    tokenizer: Any, dataset: TextDataset, names: list[str], tied: bool
) -> None:
    examples = list(dataset)[:4]
    settings = Lora(**lora({}, dropout=0.0, modules_to_save=names))

    def model() -> Any:
        return stir(create_lora_model(make_model(tokenizer, tied=tied), settings, seed=7)).train()

    ours, plain = model(), model()
    loss = GradientStep.of(ours, 64).accumulate(examples)
    total = torch.zeros(())
    for example in examples:
        ids = torch.as_tensor(example.input_ids)[None]
        row = rows_of(GradientStep.of(plain, 64), [example])[0]
        found = plain(ids).logits[0].index_select(0, row.label_positions)
        total = total + torch.nn.functional.cross_entropy(found, row.targets, reduction="sum")
    total = total / sum(example.labels for example in examples)
    total.backward()
    torch.testing.assert_close(loss, total.detach())
    wanted = dict(plain.named_parameters())
    trained = [(name, parameter) for name, parameter in ours.named_parameters() if parameter.requires_grad]
    assert any("modules_to_save" in name for name, _ in trained)
    for name, parameter in trained:
        torch.testing.assert_close(parameter.grad, wanted[name].grad, rtol=1e-4, atol=1e-6)
        assert float(parameter.grad.abs().max()) > 0


def test_modules_that_are_trained_whole_are_float32_on_a_bfloat16_base(
    tokenizer: Any, dataset: TextDataset, tmp_path: Path
) -> None:
    settings = tuning({"modules_to_save": ["embed_tokens", "lm_head", "norm"]}, dtype="bfloat16")

    def base() -> Any:
        return make_model(tokenizer, tied=False).to(torch.bfloat16)

    ours = train(base(), settings, dataset, tmp_path)
    trained = [parameter for parameter in ours.parameters() if parameter.requires_grad]
    assert {parameter.dtype for parameter in trained} == {torch.float32}
    assert ours(torch.arange(3, 40)[None]).logits.dtype == torch.bfloat16
    theirs = PeftModel.from_pretrained(base(), tmp_path / "step-3").eval()
    wanted = logits(ours)
    assert float((logits(theirs) - wanted).norm() / wanted.norm()) < 0.02
    assert float((logits(base()) - wanted).norm() / wanted.norm()) > 0.1


@pytest.mark.parametrize("dora", [False, True])
def test_lora_plus_groups_the_matrices_as_peft_does(tokenizer: Any, dora: bool) -> None:
    settings = tuning({"use_dora": dora}, **{"optimizer.loraplus_lr_ratio": 16.0, "optimizer.lora_lr": 1e-3})
    model = create_lora_model(make_model(tokenizer), settings.lora)
    ours, _ = make_optimizer(model, settings)
    theirs = create_loraplus_optimizer(model, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16.0)

    def rates(optimizer: torch.optim.Optimizer) -> dict[int, float]:
        return {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}

    assert rates(ours) == rates(theirs)
    assert set(rates(ours).values()) == {1e-3, 16e-3}
    assert ours.param_groups[0]["lr"] == 1e-3, "the rate that is shown is that of lora_lr"
    assert [group["peak_lr"] for group in ours.param_groups] == [1e-3, 16e-3]


def test_without_lora_plus_all_matrices_are_one_group(tokenizer: Any) -> None:
    settings = tuning({})
    optimizer, _ = make_optimizer(create_lora_model(make_model(tokenizer), settings.lora), settings)
    assert [group["lr"] for group in optimizer.param_groups] == [settings.optimizer.lora_lr]


def test_modules_that_are_trained_whole_learn_at_the_base_rate(tokenizer: Any) -> None:
    settings = tuning({"modules_to_save": ["lm_head"]}, **{"optimizer.base_lr": 5e-4})
    model = create_lora_model(make_model(tokenizer, tied=False), settings.lora)
    optimizer, names = make_optimizer(model, settings)
    group = optimizer.param_groups[1]
    assert [names[id(parameter)] for parameter in group["params"]] == [
        "base_model.model.lm_head.modules_to_save.default.weight"
    ]
    assert (group["lr"], group["weight_decay"]) == (5e-4, settings.optimizer.base_weight_decay)


def test_every_option_makes_another_run(dataset: TextDataset) -> None:
    runs = [tuning(option) for option in OPTIONS.values()]
    runs += [tuning({}, qlora=True), tuning({}, **{"optimizer.loraplus_lr_ratio": 4.0})]
    assert len({run_identity(dataset, run, "float32") for run in runs}) == len(runs)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"modules_to_save": ["score"]}, r'modules_to_save: this model has no module "score". It has .*embed_tokens'),
        ({"rank_pattern": {"c_attn": 4}}, r'rank_pattern: this model has no linear layer "c_attn". It has down_proj'),
        ({"alpha_pattern": {"layers.7.q_proj": 4}}, r'alpha_pattern: this model has no linear layer "layers.7.q_proj"'),
        ({"init_lora_weights": "pissa", "r": 64}, r"lora.r = 64: .* v_proj has 32 directions. Set at most 32."),
        ({"init_lora_weights": "olora", "rank_pattern": {"v_proj": 33}}, r"lora.r = 33"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(tokenizer: Any, option: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_lora_model(make_model(tokenizer), Lora(**lora(option)))


def test_the_defaults_are_peft_s_own(tokenizer: Any, tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        config = peft.LoraConfig(r=4, lora_alpha=8, lora_dropout=0.1, target_modules=["q_proj"], task_type="CAUSAL_LM")
        theirs = peft.get_peft_model(make_model(tokenizer), config)
    ours = create_lora_model(make_model(tokenizer), Lora(**lora({}, target_modules=["q_proj"])), seed=5)
    theirs.save_pretrained(tmp_path / "theirs", save_embedding_layers=False)
    checkpoint.save_adapter(ours, tmp_path / "ours")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()


def test_trained_and_frozen_numbers_are_counted_with_the_copies(tokenizer: Any) -> None:
    base = make_model(tokenizer, tied=False)
    before = sum(parameter.numel() for parameter in base.parameters())
    trained, total = trainable_parameters(create_lora_model(base, Lora(**lora({}, modules_to_save=["lm_head"]))))
    assert total == before + trained


def gpt2() -> Any:
    """A model whose linear layers are transposed ones."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GPT2LMHeadModel(GPT2Config(vocab_size=500, n_embd=32, n_layer=1, n_head=2, n_positions=128)).eval()


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
def test_transposed_layers_are_split_saved_and_put_together_too(tmp_path: Path) -> None:
    lora = Lora(r=4, target_modules="all-linear", init_lora_weights="pissa")
    ours = create_lora_model(gpt2(), lora).eval()
    torch.testing.assert_close(logits(ours), logits(gpt2()), rtol=0, atol=1e-4)
    again = create_lora_model(gpt2(), lora, first=initial_matrices(ours)).eval()
    assert torch.equal(logits(again), logits(ours))
    stir(ours)
    checkpoint.save_adapter(ours, tmp_path)
    theirs = PeftModel.from_pretrained(gpt2(), tmp_path).eval()
    torch.testing.assert_close(logits(theirs), logits(ours), rtol=0, atol=1e-4)
    with pytest.raises(ConfigError, match="PEFT does not know it for the layers of this model"):
        create_lora_model(gpt2(), Lora(r=4, target_modules="all-linear", init_lora_weights="olora"))
