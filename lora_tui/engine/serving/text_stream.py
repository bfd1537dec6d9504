"""Tokens of an answer as text, while they come: whole characters alone, and nothing from a stop string on.

A stop string may begin in the middle of one token and end in another, so what may be the beginning of one is held back
until the next token tells. The same goes for the first bytes of a character. What is sent, put together, is the same
however the tokens came.
"""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

_HALF_CHARACTER = "\N{REPLACEMENT CHARACTER}"
_MOST_PENDING = 8
"""Tokens that a character may take; a model that writes bytes which are none is not waited for any longer."""


class TextStream:
    """The text of one answer.

    `stops` end it before they begin. With `strips`, white space before the first word is left out, as in a chat.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str] = (), *, strips: bool = False) -> None:
        self._tokenizer = tokenizer
        self._stops = tuple(stops)
        self._strips = strips
        self._ids: list[int] = []
        self._window = 0
        """The token from which the newest ones are decoded: a few before them, for spaces depend on what is before."""
        self._decoded = 0
        self._held = ""
        self.is_stopped = False
        """Whether a stop string has come; nothing is added any more."""

    def add(self, token: int) -> str:
        """Take the next token; returns the text that may be sent now."""
        self._ids.append(token)
        is_late = len(self._ids) - self._decoded > _MOST_PENDING
        return self._passed(self._new_text(even_halves=is_late))

    def finish(self) -> str:
        """Return what was held back: the answer has ended."""
        text = self._passed(self._new_text(even_halves=True))
        rest, self._held = ("" if self.is_stopped else self._held), ""
        return text + self._stripped(rest)

    def _new_text(self, *, even_halves: bool) -> str:
        """The text of the tokens that were not decoded yet; empty while the last one ends within a character."""
        before = self._text(self._ids[self._window : self._decoded])
        text = self._text(self._ids[self._window :])
        if len(text) <= len(before) or (text.endswith(_HALF_CHARACTER) and not even_halves):
            return ""
        self._window, self._decoded = self._decoded, len(self._ids)
        return text[len(before) :]

    def _text(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True)) if ids else ""

    def _passed(self, text: str) -> str:
        """Return what of the held text and `text` cannot belong to a stop string."""
        if self.is_stopped or not text:
            return ""
        text = self._held + text
        found = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            self.is_stopped, self._held = True, ""
            return self._stripped(text[: min(found)])
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return self._stripped(text[: len(text) - keep])

    def _stripped(self, text: str) -> str:
        if not self._strips:
            return text
        text = text.lstrip()
        self._strips = not text
        return text


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` are the beginning of `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


def token_text(tokenizer: PreTrainedTokenizerBase, token: int) -> tuple[str, list[int] | None]:
    """Return a single token as text, and its bytes; None where the tokenizer does not tell them of half a character."""
    text = str(tokenizer.decode([token]))
    if _HALF_CHARACTER not in text:
        return text, list(text.encode())
    piece = str(tokenizer.convert_ids_to_tokens(token))
    if piece.startswith("<0x") and len(piece) == 6:  # sentencepiece's name of a byte
        return text, [int(piece[1:-1], 16)]
    if all(letter in _BYTES for letter in piece):
        return text, [_BYTES[letter] for letter in piece]
    return text, None


def _byte_letters() -> dict[str, int]:
    """The letters that byte-level tokenizers write for bytes (Radford et al., 2019: ``bytes_to_unicode``)."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + place): byte for place, byte in enumerate(hidden)}


_BYTES = _byte_letters()
