"""Generation: from a folder of text to judged question-answer pairs.

- `folder_reader` (with `documents`, `structure` and `chunks`) reads the folder and cuts it into passages: the `corpus`.
- `pipeline` coordinates a run, `planner` chooses what is asked next, `workers` do it, `progress` counts.
- `generation_model` is the protocol of a model: `remote_model` (over `client`, with `prompts`) or `builtin_model`.
- `judging` decides which pairs are kept, `analysis` steers the prompts that follow, `output` writes the file.
- `ledger` accounts for every call and holds the budgets.

The job that runs it all is `lora_tui.engine.jobs.generate`.
"""
