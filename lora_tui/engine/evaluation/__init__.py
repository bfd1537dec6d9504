"""Evaluation by generation: `prompts` resolves the test prompts, `scoring` has a model answer them and scores it.

`lora_tui.engine.jobs.evaluate` compares an adapter with its base model; the training job scores the model as it trains.
"""
