"""A number that may not be known."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and where it comes from, or None and why it is not known: never a number that was made up.

    `estimated` marks what is near enough to plan with and will turn out a little different.
    """

    value: float | None
    note: str = ""
    estimated: bool = False
