"""What every section shares: strictness, and the kinds of numbers."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """The base of every section: frozen, strict about keys, lenient about `3e-4` (which YAML reads as text)."""

    model_config = ConfigDict(frozen=True, extra="forbid")


DURATION = re.compile(r"\s*(\d+(?:\.\d*)?(?:e[+-]?\d+)?)\s*(steps?|epochs?|images?|%)?\s*", re.IGNORECASE)
DURATIONS = "say '500 steps', '2 epochs', '1e6 images' or '5%'"

Unit = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


def unless(default: Any) -> Any:
    """A key that a resolved recipe leaves out where it says nothing new: those of older runs stay what they are."""
    return Field(exclude_if=lambda value: value == default)


def one_line(text: str) -> str:
    """The text, which goes into a batch script: what follows a line break would be a command there."""
    if not text.isprintable():
        raise ValueError(f"{text!r} holds a line break or another character that cannot be printed")
    return text
