"""The full-screen app: reads the store, asks the engine through `jobs`, draws.

Nothing here imports torch, transformers, peft, openai or the engine; what the app asks for is done by whoever the
command line hands in as `Backend`. Screens keep no state that a run depends on: closing the app loses nothing.
"""
