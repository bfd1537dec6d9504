"""What every section of the configuration is: a strict, closed table, and how keys of one contradict each other."""

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError


class Section(BaseModel):
    """What all sections share: strict, closed, unchangeable, and silent about their input in error texts."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        protected_namespaces=(),
    )


def conflict(keys: list[str], why: str) -> PydanticCustomError:
    """Return the error for keys of one section that contradict each other; `why` follows the first key's name."""
    return PydanticCustomError("conflict", "{why}", {"why": why, "keys": keys})
