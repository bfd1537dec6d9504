"""What the training tests share: the pairs as tokens, and models with adapters that do something."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from lora_tui.config.models import Lora
from lora_tui.engine.data.examples import QuestionAnswer
from lora_tui.engine.training.dataset import TextDataset
from lora_tui.engine.training.fast.dropout import DropoutRng
from lora_tui.engine.training.lora import create_lora_model
from lora_tui.engine.training.packing import EncodedExample, Row, lay_out
from lora_tui.engine.training.step import GradientStep
from tests.engine.tiny import PAIRS, make_model

torch.set_num_threads(1)  # the models are tiny: a second thread only waits


@pytest.fixture(scope="session")
def dataset(tokenizer: Any) -> TextDataset:
    """The pairs, tokenised."""
    return TextDataset([QuestionAnswer(q, a, f"pairs:{n}") for n, (q, a) in enumerate(PAIRS)], tokenizer)


@pytest.fixture(scope="session")
def examples(dataset: TextDataset) -> list[EncodedExample]:
    return list(dataset)


@pytest.fixture(scope="session")
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


def kept_of_ones(rng: DropoutRng, layer: int = 0, rate: float = 0.1) -> torch.Tensor:
    """A tensor of ones, 32 wide, without what is dropped."""
    return rng.mask(layer, 32, rate, torch.device("cpu")).apply(torch.ones(rng.spans[-1][1], 32))


def draws_follow_seed_step_example_and_layer_alone() -> None:
    """Assert it of whichever way draws on this device."""
    one = kept_of_ones(DropoutRng(42, 3, (5, 2), ((0, 10), (10, 30))))
    packed_anew = kept_of_ones(DropoutRng(42, 3, (2, 5), ((0, 20), (20, 30))))
    assert torch.equal(one[10:], packed_anew[:20])
    assert torch.equal(one[:10], packed_anew[20:])
    for other in (
        kept_of_ones(DropoutRng(43, 3, (5, 2), ((0, 10), (10, 30)))),
        kept_of_ones(DropoutRng(42, 4, (5, 2), ((0, 10), (10, 30)))),
        kept_of_ones(DropoutRng(42, 3, (6, 2), ((0, 10), (10, 30))))[:10],
        *(kept_of_ones(DropoutRng(42, 3, (5, 2), ((0, 10), (10, 30))), layer) for layer in (1, 63, 64, 65, 128)),
    ):
        assert not torch.equal(one[: len(other)], other)


def rows_of(gradient_step: GradientStep, examples: Sequence[EncodedExample]) -> list[Row]:
    """The packed rows of one step."""
    return [lay_out(examples, items, gradient_step.device) for items in gradient_step.assign_rows(examples)]
