"""What the process has to do with its terminal, the same for the command line and for the app.

`streams` are stdin, stdout and stderr, and what becomes of them when the line breaks; `signals` says what ctrl+c,
SIGTERM and SIGHUP mean; `report` writes messages, JSON lines and failures. Light: all of it is imported before the
app's first paint.
"""
