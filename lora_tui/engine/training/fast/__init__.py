"""Layers of a training step with forward and backward written by hand: the same mathematics in fewer passes.

Nothing here is needed for the result: the model's own layers give the same loss and gradients.

- `layers`: which of a model's layers are replaced, and what is called in their place
- `linear`, `dropout`: LoRA's linear layers, and what they drop of their input
- `cpu_ops`: norm, gated unit, rotary positions and attention on the CPU
- `compiled_ops`: the same in compiled code, but for attention's products
- `gpu_ops`, `fused_projections`: the same on a GPU, and layers that are computed as one there
- `kernels`, `low_rank_kernels`, `attention_kernels`: what those call, in Triton; `kernel_selftest` tries it before
"""
