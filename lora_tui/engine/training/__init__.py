"""LoRA fine-tuning: what is trained on, in which order, by which step, and what is kept.

`loop` runs it: `schedule` orders the examples and sets the rate, `step` computes a gradient over the rows of `packing`
with `loss` and the layers of `fast`, `fallback` says how where memory runs out, `checkpoint` keeps what a resumed run
needs. Before the first step `dataset` tokenises, `lora` and `pissa` build the model, and `memory` plans. `validation`
measures the held-out examples, `model_card` and `data_plan` say of a run what was trained on what.
"""
