"""Training data: read in every form that people keep it in, written in one. No torch, no tokenizer."""
