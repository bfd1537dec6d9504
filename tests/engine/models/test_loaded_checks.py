"""Models whose positions are a table, and layers that are no `nn.Linear`: GPT-2's, by name."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from lora_tui.config.models import Lora
from lora_tui.engine.inference.decode import answers, mean_log_probabilities
from lora_tui.engine.models.loaded_checks import position_limit
from lora_tui.engine.training.dataset import TextDataset
from lora_tui.engine.training.loop import train_model
from lora_tui.engine.training.lora import create_lora_model
from lora_tui.errors import ConfigError
from lora_tui.protocol.reply import Decoding
from tests.engine.tiny import make_model, tiny_settings


@pytest.fixture
def gpt2(tokenizer: Any) -> Any:
    """A tiny GPT-2 that holds 24 tokens."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=2, n_positions=24)
        model = GPT2LMHeadModel(config).eval().requires_grad_(False)
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def test_only_a_table_of_positions_has_an_end(gpt2: Any, tokenizer: Any) -> None:
    assert position_limit(gpt2) == 24
    assert position_limit(make_model(tokenizer)) is None


@pytest.mark.parametrize("beams", [1, 2])
def test_a_prompt_longer_than_the_table_is_answered_from_its_end(gpt2: Any, tokenizer: Any, beams: int) -> None:
    decoding = Decoding(max_new_tokens=50, num_beams=beams)
    long = "what is the weather today? " * 20
    assert answers(gpt2, tokenizer, [long, "b"], decoding)[0] is not None
    assert len(mean_log_probabilities(gpt2, tokenizer, [(long, "water"), ("a", long)])) == 2


def test_layers_of_gpt2_are_trained_by_name(gpt2: Any, tokenizer: Any, dataset: TextDataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'no linear layer "q_proj". It has c_attn, c_fc, c_proj; or'):
        create_lora_model(gpt2, Lora(target_modules=["q_proj"]))
    model = create_lora_model(gpt2, Lora(r=2, target_modules=["c_attn"]))
    before = {name: value.clone() for name, value in model.named_parameters() if value.requires_grad}
    assert before
    short = TextDataset(dataset.texts, tokenizer, max_length=24)
    train_model(model, short, tiny_settings({"training.max_steps": 2}).fine_tuning, tmp_path)
    assert any(not torch.equal(value, before[name]) for name, value in model.named_parameters() if name in before)
