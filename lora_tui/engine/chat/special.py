"""Special commands of a conversation: words whose reply is known beforehand. Light: it loads no model."""

from collections.abc import Mapping


def predefined_reply(commands: Mapping[str, str], text: str) -> str | None:
    """Return the predefined answer when `text` is a special command, however it is written; else None."""
    wanted = " ".join(text.casefold().split()).rstrip("!.?")
    return next((answer for word, answer in commands.items() if word.casefold() == wanted), None)
