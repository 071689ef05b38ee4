"""What turns the student's tokens into a guess per teacher; a new one is a file, and a section that names it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from unicscale.contracts import Widths
from unicscale.errors import RecipeError
from unicscale.recipe import sections
from unicscale.recipe.building import build
from unicscale.student.projector.rung import Projector, Rung

__all__ = ["Projector", "Rung", "build_projector", "refuse_idle_blocks", "widths_of"]

# of several linear layers in a row, the last one's rows are the width of the teacher's tokens
LINEAR = re.compile(
    r"projector\.rungs\.(?:\d+\.heads\.(?P<teacher>[^.]+)\.(?P<kind>\w+)\.fc(?P<number>\d+)"
    r"|(?P<reader>[^.]+)\.fc(?:_(?P<reads>\w+))?)\.weight"
)


def build_projector(
    section: sections.Projector, *, widths: Sequence[int], prefix: int, teachers: Mapping[str, Widths]
) -> Projector:
    """The projector for a student of these blocks; forward: all blocks' raw outputs -> dict[str, Features]."""
    return build(section, widths=widths, prefix=prefix, teachers=teachers)


def widths_of(weights: Mapping[str, Tensor]) -> dict[str, Widths]:
    """The teachers that a student's weights answer, in order, and how wide: for files that do not say it."""
    found: dict[str, dict[str, tuple[int, int]]] = {}
    for name, tensor in weights.items():
        match = LINEAR.fullmatch(name)
        if match and tensor.dim() == 2:
            kinds = found.setdefault(match["teacher"] or match["reader"], {})
            kind, layer = match["kind"] or match["reads"] or "tokens", (int(match["number"] or 0), len(tensor))
            kinds[kind] = max(kinds.get(kind, layer), layer)
    rows = {teacher: {kind: wide for kind, (_, wide) in kinds.items()} for teacher, kinds in found.items()}
    return {
        teacher: Widths(*(kinds.get(kind, kinds.get("tokens")) for kind in ("cls", "patch")))
        for teacher, kinds in rows.items()
    }


def refuse_idle_blocks(head: Projector, depth: int) -> None:
    """What is to be trained must be read to its last block."""
    last = head.blocks[-1]
    if last != depth - 1:
        raise RecipeError(
            f"projector.blocks stops at block {last}: those after it would never be trained. "
            f"Add the last one, {depth - 1} or -1."
        )
