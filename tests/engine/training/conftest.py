"""What the training tests share: the pairs as tokens, and models with adapters that do something."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lora_tui.config.models import Lora
from lora_tui.engine.data.examples import QuestionAnswer
from lora_tui.engine.training.dataset import Encoded, TextDataset
from lora_tui.engine.training.lora import create_lora_model
from tests.engine.tiny import PAIRS, make_model

torch.set_num_threads(1)  # the models are tiny: a second thread only waits


@pytest.fixture(scope="session")
def dataset(tokenizer: Any) -> TextDataset:
    """The pairs, tokenised."""
    return TextDataset([QuestionAnswer(q, a, f"pairs:{n}") for n, (q, a) in enumerate(PAIRS)], tokenizer)


@pytest.fixture(scope="session")
def examples(dataset: TextDataset) -> list[Encoded]:
    return list(dataset)


@pytest.fixture
def new_model(tokenizer: Any) -> Callable[..., Any]:
    """Make a tiny model with adapters; `stirred` ones differ from the base from the start."""

    def new(
        stirred: bool = True, dropout: float = 0.0, targets: Any = "all-linear", base: Any = None, **more: Any
    ) -> Any:
        base = make_model(tokenizer, **more) if base is None else base
        model = create_lora_model(base, Lora(r=4, alpha=8, dropout=dropout, target_modules=targets), seed=7)
        return stir(model) if stirred else model

    return new


def stir(model: Any, seed: int = 3) -> Any:
    """Give the adapters' second matrices, which begin at zero, values; every gradient is then alive."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return model
