"""Numbers that launchers leave in the environment, refused in words where they are none."""

from __future__ import annotations

import os
from collections.abc import Mapping

from unicscale.errors import RecipeError


def whole(name: str, default: int, *, least: int = 0, environment: Mapping[str, str] | None = None) -> int:
    """The variable as a whole number; what is unset or empty is the default."""
    said = (os.environ if environment is None else environment).get(name, "").strip()
    try:
        number = int(said) if said else default
    except ValueError:
        number = least - 1
    if number < least:
        raise RecipeError(
            f"${name} is '{said}', and must be a whole number of at least {least}.\n"
            "  A launcher sets it. Unset it to start one rank by hand."
        )
    return number


def place() -> tuple[int, int]:
    """This rank and how many there are; alone where no launcher says otherwise."""
    size, rank = whole("WORLD_SIZE", 1, least=1), whole("RANK", 0)
    if rank >= size:
        raise RecipeError(
            f"$RANK is {rank}, and of $WORLD_SIZE={size} ranks the last is {size - 1}.\n"
            "  A launcher sets both. Unset them to start one rank by hand."
        )
    return rank, size


def seconds(name: str) -> float | None:
    """The variable as a number of seconds; None where it is unset."""
    said = os.environ.get(name, "").strip()
    try:
        return float(said) if said else None
    except ValueError:
        raise RecipeError(f"${name} is '{said}', and must be a number of seconds. Unset it or correct it.") from None
