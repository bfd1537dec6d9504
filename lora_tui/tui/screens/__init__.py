"""One screen a file: a mode of the app or a dialogue over it."""
