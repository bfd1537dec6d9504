"""The command line: flags to one call each, what happens told on the standard streams, exit statuses.

The only package that prints. `main` reads the flags, `request` holds and checks them, `plan` decides which run they
mean, `run` starts it and waits, `follow` reads its events from the store, `narrate` and `live` tell them, `tables`
shows results, `looking` and `doctor` answer questions. Nothing here computes: work belongs to the engine.
"""
