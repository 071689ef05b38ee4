"""What turns the student's tokens into a guess per teacher; a new one is a file, and a section that names it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from unicscale.errors import RecipeError
from unicscale.recipe import sections
from unicscale.recipe.building import build
from unicscale.student.projector.rung import Projector, Rung

__all__ = ["Projector", "Rung", "build_projector", "dims_of", "refuse_idle_blocks"]

# of several linear layers in a row, the last one's rows are the teacher's width
LINEAR = re.compile(
    r"projector\.rungs\.(?:\d+\.heads\.(?P<teacher>[^.]+)\.\w+\.fc(?P<number>\d+)|(?P<reader>[^.]+)\.fc)\.weight"
)


def build_projector(
    section: sections.Projector, *, width: int, depth: int, prefix: int, dims: dict[str, int]
) -> Projector:
    """The projector for teachers of `dims`; forward: all blocks' raw outputs -> dict[str, Features]."""
    return build(section, width=width, depth=depth, prefix=prefix, dims=dims)


def dims_of(weights: Mapping[str, Tensor]) -> dict[str, int]:
    """The teachers that a student's weights answer, in order, and how wide each answer is."""
    found: dict[str, tuple[int, int]] = {}
    for name, tensor in weights.items():
        match = LINEAR.fullmatch(name)
        if match and tensor.dim() == 2:
            teacher, number = match["teacher"] or match["reader"], int(match["number"] or 0)
            found[teacher] = max(found.get(teacher, (-1, 0)), (number, len(tensor)))
    return {teacher: dim for teacher, (_, dim) in found.items()}


def refuse_idle_blocks(head: Projector, depth: int) -> None:
    """What is to be trained must be read to its last block."""
    last = head.blocks[-1]
    if last != depth - 1:
        raise RecipeError(
            f"projector.blocks stops at block {last}: those after it would never be trained. "
            f"Add the last one, {depth - 1} or -1."
        )
