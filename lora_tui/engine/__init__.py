"""The engine: everything that does work. It writes what happens to the store and never knows who is watching.

`runtime` runs jobs on a thread; `jobs` has one module a mode. They join `data` (what is trained on), `generation`
(pairs by a model), `training`, `evaluation`, `chat`, `export`, `forecast` and `review`, over `models` and `inference`.

It imports neither textual nor rich. Modules that need torch, transformers, peft or openai are imported by the jobs
alone, so that importing `lora_tui.engine.runtime.engine` stays cheap.
"""
