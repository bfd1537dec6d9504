"""The engine: everything that does work. It writes what happens to the store and never knows who is watching.

It imports neither textual nor rich. Modules that need torch, transformers, peft or openai are imported by the jobs
alone, so that importing `lora_tui.engine.runtime.engine` stays cheap.
"""
