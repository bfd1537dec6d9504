"""Sharded base weights: every rank keeps a part of each layer, and has a whole one only while it computes with it.

torch's FSDP2 (`torch.distributed.fsdp.fully_shard`) on the frozen weights of the decoder layers. What is trained stays
whole on every rank, and so do embedding, last norm and head: their gradients, the adapter's file and the loss are those
of a model in one piece.

Gathering is collective: every rank must compute the same number of rows a step (`rows_to_add`), and take part in the
forward passes that rank 0 makes of its own, when it evaluates. It does so with a single token (`follow`).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from peft import PeftModel
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from lora_tui.engine.training.ranks import RankGroup
from lora_tui.errors import ConfigError

_LOOPBACK = "GLOO_SOCKET_IFNAME"


def shard(model: PeftModel, group: RankGroup, store: Any, device: torch.device, *, one_machine: bool) -> None:
    """Divide the frozen weights of the layers of `model` among all ranks; every rank calls it, with its own model.

    The model may be in the CPU's memory: layers come to `device` one by one, and their parts stay there. Raises
    `ConfigError` for a model whose layers are not found.
    """
    layers = _decoder_layers(model)
    with _on_loopback(one_machine and device.type == "cpu"):
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo", store=store, rank=group.rank, world_size=group.world
        )
    mesh = init_device_mesh(device.type, (group.world,))
    trained = {parameter for parameter in model.parameters() if parameter.requires_grad}
    for layer in layers:
        fully_shard(layer, mesh=mesh, ignored_params=trained & set(layer.parameters()))
    backbone = _backbone(model)
    # The root of all layers, so that the next one is gathered while one computes. It shares no weights of its own.
    own = {parameter for parameter in backbone.parameters() if not hasattr(parameter, "placements")}
    fully_shard(backbone, mesh=mesh, ignored_params=own, reshard_after_forward=True)
    model.to(device)
    assert not any(hasattr(parameter, "placements") for parameter in trained), "an adapter in parts would be saved so"
    group.sharded = True
    if group.rank == 0:
        backbone.register_forward_pre_hook(lambda *_: group.follow(), prepend=True)
    follow(model, group)


@torch.no_grad()
def follow(model: PeftModel, group: RankGroup) -> None:
    """Take part in a forward pass: with one token, of which nothing is kept."""
    backbone = _backbone(model)
    with group.following():
        token = torch.zeros(1, 1, dtype=torch.int64, device=group.device)
        backbone(input_ids=token, use_cache=False)


def _backbone(model: PeftModel) -> nn.Module:
    base: nn.Module = model.get_base_model().base_model
    return base


def _decoder_layers(model: PeftModel) -> nn.ModuleList:
    """The layers of a model, one after the other. Raises `ConfigError` where they are not found."""
    layers = getattr(_backbone(model), "layers", None)
    if not isinstance(layers, nn.ModuleList) or any(p.dtype.itemsize == 1 for p in layers.parameters()):
        raise ConfigError(
            'fine_tuning.parallel = "fsdp" does not know how to divide this model. Set "ddp", and fine_tuning.qlora = '
            "true where it does not fit."
        )
    return layers


@contextmanager
def _on_loopback(wanted: bool) -> Iterator[None]:
    """Have gloo use the loopback device alone, which it reads from the environment."""
    if not wanted or _LOOPBACK in os.environ:
        yield
        return
    os.environ[_LOOPBACK] = "lo0" if os.uname().sysname == "Darwin" else "lo"
    try:
        yield
    finally:
        del os.environ[_LOOPBACK]
