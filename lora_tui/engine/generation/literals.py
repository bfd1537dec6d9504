"""Literals that a text must hold for a regular expression to match: the cheap question before the dear one.

A passage is held against seventy expressions that nearly never match, and looking for their words takes a tenth of the
time. What must occur is derived from the parsed expression, as RE2 does it, so that an expression can be changed
without thinking of this: `PrefilteredPatterns.search` finds what a plain loop over the expressions finds.
"""

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from re import _constants, _parser  # type: ignore[attr-defined]  # the parser of `re`, which typeshed leaves out
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MOST_ALTERNATIVES = 60
_GRAM = 4
_FEW = 800
"""Characters of a text whose runs of four a set holds sooner than a table."""

_FACTORS = (2654435761, 2246822519, 3266489917, 668265263)


class PrefilteredPatterns:
    """Expressions in their order, each tried only on a text that holds the literals it needs.

    Of the sets of literals that an expression needs the rarest is looked for first. Most of those are absent: of four
    letters and more, the runs of four in the text tell.
    """

    def __init__(self, patterns: Iterable[re.Pattern[str]]) -> None:
        self.patterns = tuple(patterns)
        self._needed = [required_literals(pattern) for pattern in self.patterns]
        self._always = [number for number, needed in enumerate(self._needed) if not needed]
        self._who_needs: dict[str, list[int]] = {}  # expressions by a literal of the set that is looked for first
        for number, needed in enumerate(self._needed):
            for literal in sorted(_best(needed) or ()):
                self._who_needs.setdefault(literal, []).append(number)
        self._short = [literal for literal in self._who_needs if len(literal) < _GRAM]
        self._long = [literal for literal in self._who_needs if len(literal) >= _GRAM]
        self._by_start: dict[str, list[str]] = {}
        for literal in self._long:
            self._by_start.setdefault(literal[:_GRAM], []).append(literal)
        self._beginnings = frozenset(self._by_start)

    @cached_property
    def _starts(self) -> "NDArray[np.int64]":
        """Where the first four letters of each long literal are in a `_table`."""
        import numpy as np

        return np.array([_grams(literal[:_GRAM])[0] for literal in self._long], np.int64)

    def candidates(self, text: str) -> Iterator[re.Pattern[str]]:
        """Yield the expressions that may match a text."""
        maybe = set(self._always)
        for literal in (*self._short, *self._perhaps_in(text)):
            if literal in text:
                maybe.update(self._who_needs[literal])
        for number in sorted(maybe):
            if all(any(literal in text for literal in choice) for choice in self._needed[number]):
                yield self.patterns[number]

    def _perhaps_in(self, text: str) -> Sequence[str]:
        """Return the long literals of which a text may hold the first four letters."""
        if len(text) <= _FEW:
            runs = {text[place : place + _GRAM] for place in range(len(text) - _GRAM + 1)}
            return [literal for run in runs & self._beginnings for literal in self._by_start[run]]
        if "numpy" not in sys.modules:  # it is while pairs are written; a forecast looks at few texts and does without
            return self._long
        return [self._long[place] for place in _table(text)[self._starts].nonzero()[0].tolist()]

    def search(self, text: str) -> re.Match[str] | None:
        """Return the match of the first expression that is found in a text, or None."""
        found = (pattern.search(text) for pattern in self.candidates(text))
        return next((match for match in found if match is not None), None)


def _grams(text: str) -> "NDArray[np.uint32]":
    """Return a hash in 0-65535 of each run of four characters of a text, shape ``(characters - 3,)``."""
    import numpy as np

    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    runs = len(codes) - _GRAM + 1
    mixed = np.zeros(max(0, runs), np.uint32)
    for place in range(_GRAM if runs > 0 else 0):
        mixed += codes[place : place + runs] * np.uint32(_FACTORS[place])
    return mixed >> np.uint32(16)


@lru_cache(maxsize=2)  # several sets of patterns may be held against a text
def _table(text: str) -> "NDArray[np.bool_]":
    """Return for each hash of a run of four characters whether a text may hold it, shape ``(65536,)``."""
    import numpy as np

    table = np.zeros(1 << 16, np.bool_)
    table[_grams(text)] = True
    return table


def required_literals(pattern: re.Pattern[str]) -> list[frozenset[str]]:
    """Return sets of strings: every text that matches holds one string of each set.

    Expressions that ignore case need nothing: a literal then has several forms.
    """
    if pattern.flags & re.IGNORECASE:
        return []
    return _of_sequence(_parser.parse(pattern.pattern, pattern.flags & ~re.UNICODE))


def _of_sequence(parsed: Any) -> list[frozenset[str]]:
    found: list[frozenset[str]] = []
    run = ""
    for operation, argument in parsed:
        if operation is _constants.LITERAL:
            run += chr(argument)
        elif operation is not _constants.AT:  # a place, which ends no run of letters
            if run:
                found.append(frozenset((run,)))
            run = ""
            found += [choice for choice in _of_part(operation, argument) if len(choice) <= _MOST_ALTERNATIVES]
    return [*found, frozenset((run,))] if run else found


def _of_part(operation: Any, argument: Any) -> list[frozenset[str]]:
    if operation is _constants.SUBPATTERN:
        return [] if argument[1] else _of_sequence(argument[3])  # flags of its own: case may not count
    if operation is _constants.BRANCH:
        choices = [_best(_of_sequence(branch)) for branch in argument[1]]
        return [] if None in choices else [frozenset().union(*(choice for choice in choices if choice))]
    if operation in (_constants.MAX_REPEAT, _constants.MIN_REPEAT) and argument[0] >= 1:
        return _of_sequence(argument[2])
    return _of_sequence(argument[1]) if operation is _constants.ASSERT else []


def _best(needed: Sequence[frozenset[str]]) -> frozenset[str] | None:
    """Return the set with the longest strings, then the fewest."""
    return max(needed, key=lambda choice: (min(map(len, choice)), -len(choice)), default=None)
