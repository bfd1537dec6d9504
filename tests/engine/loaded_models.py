"""Fixtures of loaded models, for the conftest of a folder: a base model, and one whose adapter knows the pairs."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lora_tui.engine.models.adapter_source import open_adapter
from lora_tui.engine.models.adapters import load_adapter
from lora_tui.engine.models.base_model import load_base
from tests.engine.conftest import Trained
from tests.engine.tiny import make_model, tiny_settings

torch.set_num_threads(1)


def quiet(phase: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


@pytest.fixture(scope="session")
def base(base_folder: Path) -> Any:
    """The base model as the program loads it."""
    return load_base(tiny_settings({"model_name": str(base_folder)}), quiet)


@pytest.fixture(scope="session")
def tuned(trained: Trained) -> Any:
    """The adapter of the finished run on a base model of its own."""
    return load_adapter(
        load_base(trained.engine_harness.settings, quiet), open_adapter(trained.adapter, trained.run_id)
    )


@pytest.fixture
def eager_to_end(tokenizer: Any) -> Any:
    """A model whose likeliest first token after ``PROMPT`` is the end of sequence, with a positive logit."""
    model = make_model(tokenizer, tied=False)
    ids = torch.tensor([tokenizer(PROMPT)["input_ids"]])
    state = model.model(input_ids=ids).last_hidden_state[0, -1]
    model.lm_head.weight.data[tokenizer.eos_token_id] = state / state.norm() * 2
    return model


PROMPT = "Question: unlock\nAnswer:"
