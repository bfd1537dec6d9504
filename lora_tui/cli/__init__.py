"""The command line: one call for each set of flags, a run's events on the standard streams, exit statuses.

`console_script` chooses between the full-screen app (`lora_tui.backend.session`) and everything else. For everything
else `main` reads the flags, `request` holds and checks them, `run` plans a run, starts it and waits, `follow` reads its
events from the store, `event_text` puts them into lines, `narration` writes those, `tables` writes results, `chat` is a
conversation in lines and `chat_output` how it is written, `runs` and `doctor` answer questions. Nothing here computes:
work belongs to the engine.
"""
