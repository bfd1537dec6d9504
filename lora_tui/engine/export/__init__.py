"""Export: `merge` adds an adapter to its base model's weights, `datasets` writes training data for other tools.

The job that calls them is `lora_tui.engine.jobs.export`.
"""
