"""Which precision the frozen weights get where nobody chose one."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from lora_tui.engine.models import base_model


@pytest.mark.parametrize(
    ("in_float32", "in_bfloat16", "chosen"),
    [
        ([3.0] * 8, [9.0, 8.0, 9.0, 7.0, 1.0, 9.0, 8.0, 9.0], torch.bfloat16),  # disturbed all the time but once
        ([9.0, 9.0, 3.0, 9.0, 9.0, 9.0, 9.0, 9.0], [3.0] * 8, torch.float32),
    ],
)
def test_bfloat16_is_chosen_by_the_fastest_product_of_each_precision(
    in_float32: list[float], in_bfloat16: list[float], chosen: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    times: dict[torch.dtype, Iterator[float]] = {
        torch.float32: iter(in_float32),
        torch.bfloat16: iter(in_bfloat16),
    }

    def seconds(left: Tensor, right: Tensor) -> float:
        return next(times[left.dtype])

    monkeypatch.setattr(base_model, "_product_seconds", seconds)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    assert base_model.choose_dtype("auto", torch.device("cpu")) is chosen
