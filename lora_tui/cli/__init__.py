"""The command line: flags to one call each, what happens told on the standard streams, exit statuses.

The only package that prints. `entry` chooses between the full-screen app and everything else. For the app, `fullscreen`
gives it a terminal and sees to its runs when it has ended, `launcher` lets them go on without the shell, and `jobs`
joins it to the engine. For everything else `main` reads the flags, `request` holds and checks them, `plan` decides
which run they mean, `run` starts it and waits, `follow` reads its events from the store, `narrate` and `live` tell
them, `tables` shows results, `looking` and `doctor` answer questions. Nothing here computes: work belongs to the
engine.
"""
