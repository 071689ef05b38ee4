"""No projector: the last block's tokens are the answer (arXiv:2408.05088, first row of Table H)."""

from __future__ import annotations

from torch import Tensor, nn

from unicscale.contracts import Features
from unicscale.errors import RecipeError
from unicscale.recipe import sections
from unicscale.student.projector.rung import Projector


class NoProjector(Projector):
    """Reads the last block only, and has no parameters: the student must be as wide as each teacher."""

    def __init__(
        self, section: sections.NoProjector, *, width: int, depth: int, prefix: int, dims: dict[str, int]
    ) -> None:
        super().__init__()
        if unlike := [f"{name} {dim}" for name, dim in dims.items() if dim != width]:
            raise RecipeError(
                f"projector.kind: none, and the student is {width} wide where its teachers are not: "
                f"{', '.join(unlike)}.\n"
                "  Choose a student of their width, or the least that joins two widths: {kind: mlp, layers: 0}."
            )
        self.blocks, self.prefix, self.teachers = [depth - 1], prefix, list(dims)
        self.rungs = nn.ModuleDict()

    def forward(self, blocks: list[Tensor]) -> dict[str, Features]:
        """Raw outputs of all blocks -> the same answer for every teacher, in fp32."""
        tokens = blocks[-1].float()
        return {name: Features(tokens[:, 0], tokens[:, self.prefix :]) for name in self.teachers}
