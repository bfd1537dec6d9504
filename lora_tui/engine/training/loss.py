"""Cross-entropy straight from hidden states, without keeping the logits; a kernel by itself, which knows no model.

The head of a small model is a fifth of its work and its logits are the largest tensor of the step. This function visits
only the positions that have a label, in chunks, computes each chunk's gradient while its logits are at hand, and keeps
nothing but that gradient: two head products instead of the three of a recomputing loss. The loss is summed in float32.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from lora_tui.engine.training.fast import compiled_ops, gpu_ops

_CHUNK_BYTES = 32 << 20
"""Size of one chunk of logits, float32 or as compiled code keeps them: large enough for the product, small enough for
the memory."""

_CHUNK_BYTES_ON_GPU = 512 << 20
"""The same where hundreds of processors share the product."""


class _SummedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        gradient = torch.empty_like(hidden)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for _, losses in _chunks(hidden, weight, targets, gradient):
            total += losses.sum()
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_output: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors  # type: ignore[attr-defined]  # torch types the context without it
        return gradient * grad_output.to(gradient.dtype), None, None


class _LabelCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        gradient = torch.empty_like(hidden)
        found = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        for part, losses in _chunks(hidden, weight, targets, gradient):
            found[part] = losses
        ctx.save_for_backward(gradient)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_output: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors  # type: ignore[attr-defined]  # torch types the context without it
        return (gradient * grad_output.unsqueeze(-1)).to(gradient.dtype), None, None


def _chunks(hidden: Tensor, weight: Tensor, targets: Tensor, gradient: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield each chunk of labels and its losses ``(labels,)`` in float32; fills `gradient`, that of their sum."""
    in_one_pass = gpu_ops.unusable_reason(hidden.device, weight.dtype) is None
    compiled = not in_one_pass and compiled_ops.usable(hidden, weight) and weight.shape[0] % compiled_ops.LANES == 0
    width = weight.itemsize if compiled else 4  # of what is at hand of each logit
    rows = max(1, (_CHUNK_BYTES_ON_GPU if in_one_pass else _CHUNK_BYTES) // (width * weight.shape[0]))
    for start in range(0, hidden.shape[0], rows):
        part = slice(start, start + rows)
        if in_one_pass:
            logits = hidden[part] @ weight.T
            losses = gpu_ops.kernels().cross_entropy_(logits, targets[part])
            gradient[part] = logits @ weight
            yield part, losses
            continue
        logits = _logits(hidden[part], weight, targets[part])
        if compiled:
            losses = compiled_ops.cross_entropy_(logits, targets[part])
            gradient[part] = logits @ weight
            yield part, losses
            continue
        chosen = targets[part, None]
        # Not softmax: torch sums its 50,000 numbers with an error of 1e-5, of which a sure answer's gradient has 1e-4.
        probabilities = (logits.float() - logits.amax(-1, keepdim=True)).exp_()
        probabilities /= probabilities.sum(-1, keepdim=True)
        of_target = probabilities.gather(-1, chosen)
        losses = _surprise(of_target, logits, chosen)
        probabilities.scatter_(-1, chosen, of_target - 1.0)
        gradient[part] = probabilities.to(weight.dtype) @ weight
        yield part, losses


def _logits(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The logits ``(labels, vocabulary)``; in half precision their distance from the target's, which serves as well.

    A logit of 20 is off by up to 0.06 in bfloat16. Those that share the probability mostly lie near the target's:
    subtracted inside the product, before it is rounded, it leaves them the more digits the nearer they are.
    """
    if weight.dtype.itemsize >= 4:
        return hidden @ weight.T
    of_target = torch.linalg.vecdot(hidden.float(), weight[targets].float()).to(weight.dtype)
    return torch.addmm(-of_target.unsqueeze(-1), hidden, weight.T)


def _surprise(probability: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
    """The negative logarithms of the targets' probabilities ``(labels, 1)``, as ``(labels,)`` in float32.

    Where a probability is too small for float32 its logarithm comes from the logits.
    """
    surprise = probability.log().neg_()
    vanishing = (probability < 1e-30).squeeze(-1)
    if vanishing.any():
        rows = logits[vanishing].float()
        exact = rows.logsumexp(-1, keepdim=True) - rows.gather(-1, targets[vanishing])
        surprise[vanishing] = exact
    return surprise.squeeze(-1)


def summed_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Sum of the cross-entropies of `targets` under the head `weight`, in float32.

    `hidden` is ``(labels, hidden)``, `weight` ``(vocabulary, hidden)`` and frozen, `targets` ``(labels,)``. No gradient
    flows into `weight`.
    """
    loss: Tensor = _SummedCrossEntropy.apply(hidden, weight, targets)  # type: ignore[no-untyped-call]
    return loss


def label_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The cross-entropy of each of `targets`, float32 ``(labels,)``; otherwise as `summed_cross_entropy`.

    For losses that are a function of whole answers: their sums may be weighted, since the gradient is kept by label.
    """
    losses: Tensor = _LabelCrossEntropy.apply(hidden, weight, targets)  # type: ignore[no-untyped-call]
    return losses
