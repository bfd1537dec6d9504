"""The app's screens: a mode each (`generate`, `train`, `chat`, `runs`, `learn`, `configure`), and dialogs over them.

`base` has the base classes of modes. Over Generate lies `pair`, over Train `answer`, over Chat `chat_dialogs`, over
Runs `compare`; `help` and `welcome` lie over any mode. Modes and dialogs are imported when they are first shown.
"""
