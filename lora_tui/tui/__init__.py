"""The full-screen app: reads the store, asks the engine through `Backend`, draws.

`app` has the modes and the keys that work everywhere; `screens` one module for each mode and each dialog over it;
`services` and `actions` are what screens are handed: the backend, the store, the shared `state`, and what begins or
changes runs and pairs. `poller` polls the store (`store_reader`) and has the mode in view refresh. `views` gather what
a screen shows and put it into words, `widgets` draw it, `text`, `theme` and `curve` serve both; `driver` writes to the
terminal.

Nothing here imports torch, transformers, peft, openai or the engine; what the app asks for is done by whoever the
command line hands in as `Backend`. Screens keep no state that a run depends on: closing the app loses nothing.
"""
