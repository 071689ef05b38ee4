"""What every section shares: strictness, and the kinds of numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import CoreSchema, core_schema


class Section(BaseModel):
    """The base of every section: frozen, strict about keys, lenient about `3e-4` (which YAML reads as text)."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


DURATION = re.compile(r"\s*(\d{1,15}(?:\.\d{0,15})?(?:e[+-]?\d{1,2})?)\s*(steps?|epochs?|images?|%)?\s*", re.IGNORECASE)
DURATIONS = "say '500 steps', '2 epochs', '1e6 images' or '5%'"

MOST = 10**12  # of anything that is counted or weighed: beyond it arithmetic overflows somewhere, far from the recipe
SIDE = 16_384  # pixels

Unit = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
BelowOne = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, le=MOST, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, le=MOST, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=MOST)]
Pixels = Annotated[int, Field(ge=1, le=SIDE)]


def unless(default: Any) -> Any:
    """A key that a resolved recipe leaves out where it says nothing new: those of older runs stay what they are."""
    return Field(exclude_if=lambda value: value == default)


class OneOf:
    """`Annotated[str, OneOf(TABLE)]`: one of the table's names, refused and completed as a Literal's are."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(names)

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return core_schema.literal_schema([*self.names])


def one_line(text: str) -> str:
    """The text, which goes into a batch script: what follows a line break would be a command there."""
    if not text.isprintable():
        raise ValueError(f"{text!r} holds a line break or another character that cannot be printed")
    return text
