"""No projector: the last block's tokens are the answer (arXiv:2408.05088, first row of Table H)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from unicscale.contracts import Features, Widths
from unicscale.errors import RecipeError
from unicscale.recipe import sections
from unicscale.student.projector.rung import Projector


class NoProjector(Projector):
    """Reads the last block only, and has no parameters: the student must be as wide as each teacher."""

    def __init__(
        self, section: sections.NoProjector, *, widths: Sequence[int], prefix: int, teachers: Mapping[str, Widths]
    ) -> None:
        super().__init__()
        width = widths[-1]
        others = {name: {w for w in wide if w is not None} - {width} for name, wide in teachers.items()}
        if unlike := [f"{name} {w}" for name, wide in others.items() for w in sorted(wide)]:
            raise RecipeError(
                f"projector.kind: none, and the student is {width} wide where its teachers are not: "
                f"{', '.join(unlike)}.\n"
                "  Choose a student of their width, or the least that joins two widths: {kind: mlp, layers: 0}."
            )
        self.blocks, self.prefix, self.teachers = [len(widths) - 1], prefix, dict(teachers)
        self.rungs = nn.ModuleDict()

    def forward(self, blocks: list[Tensor]) -> dict[str, Features]:
        """Raw outputs of all blocks -> the same answer for every teacher, in fp32."""
        tokens = blocks[-1].float()
        summary, patches = tokens[:, 0], tokens[:, self.prefix :]
        return {
            name: Features(summary if wide.summary else None, patches if wide.patches else None)
            for name, wide in self.teachers.items()
        }
