"""Memory plan, made before the first step: the activations' bytes, what is free, and which of them are recomputed.

Computing every layer again makes a step half as long again (6N instead of 4N FLOPs a token), so with
``gradient_checkpointing = "auto"`` no more is recomputed than the memory asks for. The estimate comes from the model's
architecture; where it is near the limit, one row's forward pass shows what is really kept. What happens when memory
runs out all the same is in `fallback`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import psutil
import torch
from torch import Tensor
from transformers import PreTrainedModel

from lora_tui import machine
from lora_tui.engine.models import activation_memory
from lora_tui.engine.models.activation_memory import Recomputation, Sizes
from lora_tui.engine.training.fallback import Rung, out_of_memory
from lora_tui.engine.training.packing import PackableExample
from lora_tui.engine.training.step import GradientStep, tokens_in
from lora_tui.text import memory_size

_WORTH_MEASURING = 0.25
"""Share of the free memory from which on the estimate is checked by a forward pass."""

_SHARE_FOR_MORE_ROWS = 0.5
"""Share of the free memory for rows side by side. They only save time, and each has workspaces of its own: a third of
its activations at 4096 tokens."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes of the activations of a row of `tokens` as they will be kept, bytes that are free, and what is recomputed.

    `measured` says that the bytes come from a forward pass and not from the estimate. `whole_bytes` is what the row
    would take with nothing recomputed, by which rows beside each other are counted whatever is: a layer that is
    computed again has workspaces, too (None: it did not fit).
    """

    recomputation: Recomputation
    activation_bytes: int
    free_bytes: int
    tokens: int
    measured: bool
    whole_bytes: int | None = None

    @property
    def has_room_for_graphs(self) -> bool:
        """Tell whether a row fits twice: a CUDA graph keeps its memory while the row of another size is recorded."""
        fits_twice = 2 * self.activation_bytes <= activation_memory.SHARE_TO_USE * self.free_bytes
        return fits_twice and self.recomputation.every == 0

    def rows_that_fit(self, share: float = _SHARE_FOR_MORE_ROWS) -> int:
        """How many rows of this size fit into `share` of the free memory; at least one, which is tried in any case."""
        return max(1, int(share * self.free_bytes / self.whole_bytes)) if self.whole_bytes else 1

    def summary(self) -> str:
        """One sentence for people."""
        source = "measured" if self.measured else "estimated"
        return (
            f"Activations are {self.recomputation.name}: a row of {self.tokens:,} tokens takes "
            f"{memory_size(self.activation_bytes)} ({source}), {memory_size(self.free_bytes)} are free."
        )


def plan_memory(setting: bool | str, gradient_step: GradientStep, examples: Sequence[PackableExample]) -> MemoryPlan:
    """Decide what is recomputed, as ``fine_tuning.gradient_checkpointing`` asks; `examples` are a step's longest."""
    sizes, device = sizes_of(gradient_step.base, by_hand="mlp" in gradient_step.fast.replaced), gradient_step.device
    longest = max(gradient_step.assign_rows(examples), key=lambda row: tokens_in(examples, row))
    tokens = max(tokens_in(examples, longest), gradient_step.fallback.current.tokens_per_row)
    free, scale, measured = free_bytes(device) // gradient_step.ranks.beside, 1.0, False
    if setting == "auto":
        estimate = activation_memory.NONE.bytes_per_token(sizes)
        if estimate * tokens > _WORTH_MEASURING * free:
            kept = kept_bytes(gradient_step, longest, examples)
            scale, measured = kept / (estimate * tokens_in(examples, longest)), True
        way = activation_memory.cheapest(sizes, tokens, free, scale=scale, offload=device.type == "cuda")
    else:
        way = activation_memory.ALL if setting else activation_memory.NONE
    fitted = scale != float("inf")
    if not fitted:  # not even one forward pass: how much it would take is not known
        scale, measured = 1.0, False
    needed, whole = (int(one.bytes_per_token(sizes) * tokens * scale) for one in (way, activation_memory.NONE))
    return MemoryPlan(way, needed, free, tokens, measured, whole if fitted else None)


def apply_plan(plan: MemoryPlan, gradient_step: GradientStep) -> str | None:
    """Have the model compute its steps as the plan says; returns why a GPU does not replay CUDA graphs, if it does not.

    None where it does, and on devices that have none.
    """
    recomputation, ladder = plan.recomputation, gradient_step.fallback
    gradient_step.recompute(recomputation)
    ladder.begin_at(replace(ladder.current, graphs=False, recompute_all=recomputation.every == 1))
    if not gradient_step.fast.uses_kernels or gradient_step.device.type != "cuda":
        return None
    if gradient_step.objective is not None:
        return "CUDA graphs are not used: they add up label losses, and a preference's loss takes whole answers."
    if recomputation.every:
        return (
            "CUDA graphs are not used, which make a small model's steps more than twice as fast: layers are computed "
            'again. With fine_tuning.gradient_checkpointing = "auto" they are only where memory asks for it.'
        )
    if ladder.current.one_at_a_time or not plan.has_room_for_graphs:
        return "CUDA graphs are not used: a row's activations do not fit into the memory twice."
    gradient_step.record_graphs()
    return None


def announced(plan: MemoryPlan, gradient_step: GradientStep, ladders: Sequence[Sequence[int]]) -> dict[str, Any]:
    """What the other ranks are told of a plan that has been applied, as JSON holds it.

    `ladders` are the states of every rank's fallback ladder where a checkpoint has them.
    """
    rung = asdict(replace(gradient_step.fallback.current, graphs=False))
    return {"plan": asdict(plan), "rung": rung, "ladders": ladders}


def apply_announced(content: Mapping[str, Any], gradient_step: GradientStep, rank: int) -> None:
    """Have the model of this rank compute as rank 0's does, or as its own did when a checkpoint was saved."""
    entries = content["plan"]
    apply_plan(MemoryPlan(**{**entries, "recomputation": Recomputation(**entries["recomputation"])}), gradient_step)
    graphs = gradient_step.fallback.current.graphs
    gradient_step.fallback.begin_at(replace(Rung(**content["rung"]), graphs=graphs))
    if content["ladders"]:
        tokens, long_rows = content["ladders"][rank]
        gradient_step.fallback.resume(tokens or None, long_rows)


def kept_bytes(gradient_step: GradientStep, items: Sequence[int], examples: Sequence[PackableExample]) -> float:
    """Bytes that the forward pass of one row keeps for its backward pass; infinite where it does not fit at all.

    Counts each tensor's memory once, and none of the model's own.
    """
    own = {parameter.untyped_storage().data_ptr() for parameter in gradient_step.model.parameters()}
    seen: dict[int, int] = {}

    def count(kept: Tensor) -> Tensor:
        storage = kept.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return kept

    devices = [gradient_step.device] if gradient_step.device.type == "cuda" else []
    try:
        # PEFT's own dropout draws: a run must not depend on whether its memory was measured.
        with torch.random.fork_rng(devices), torch.autograd.graph.saved_tensors_hooks(count, lambda kept: kept):
            gradient_step.summed_loss_of([examples[item] for item in items])
    except RuntimeError as problem:
        if not out_of_memory(problem):
            raise
        return float("inf")
    return float(sum(seen.values()))


def sizes_of(model: PreTrainedModel, *, by_hand: bool) -> Sizes:
    """Sizes of a loaded model that its activations depend on; `by_hand`: `training.fast` computes its layers."""
    config = model.config.get_text_config()
    width = torch.empty(0, dtype=model.dtype).element_size()
    intermediate = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    attention_width = 4 if model.device.type == "cpu" else width
    return Sizes(config.hidden_size, intermediate, config.num_hidden_layers, width, by_hand, attention_width)


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be allocated on `device`."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return machine.free_memory()


def used_megabytes(device: torch.device) -> float:
    """Memory of this process on `device` in MB: allocated on CUDA, resident elsewhere."""
    if device.type == "cuda":
        return float(torch.cuda.memory_allocated(device) / 1e6)
    return float(psutil.Process().memory_info().rss / 1e6)
