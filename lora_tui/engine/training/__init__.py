"""LoRA fine-tuning: what is trained on, in which order, by which step, and what is kept.

`dataset` tokenises and masks, `schedule` orders and cuts, `packing` lays examples into rows, `attention` and `loss` are
the two kernels, `lora` builds the model, `loop` joins them, `checkpoint` keeps what a resumed run needs.
"""
