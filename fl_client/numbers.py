"""Numbers of a study: true is none, and whole ones have an end, so that what is made of them fits in 64 bits."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

MOST = 10**9  # of steps, silos, characters, ...
LAST = 2**53 - 1  # the largest seed: JSON holds it exactly, whoever reads it


def _number(value: Any) -> Any:
    """Return the value unless it is true or false, which Python takes for 1 and 0."""
    if isinstance(value, bool):
        raise PydanticCustomError("number", "Input should be a number, not true or false")
    return value


Whole = Annotated[int, BeforeValidator(_number), Field(le=MOST)]
Seed = Annotated[int, BeforeValidator(_number), Field(le=LAST)]
Real = Annotated[float, BeforeValidator(_number)]


def parted(text: str) -> list[float]:
    """Return the numbers between the commas of a text, none where one of them is no number."""
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        return []
