"""ViTs whose attention turns by position (timm's Eva: DINOv3, EVA-02); some have a table beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from unicscale.student.trunk.base import First
from unicscale.student.trunk.plain import PlainViT
from unicscale.student.trunk.positions import Grid
from unicscale.student.trunk.timm_model import Wish


class RopeViT(PlainViT):
    """timm's parts under timm's parameter names; the angles are computed for each image's own grid."""

    def __init__(self, eva: Any, wish: Wish, drop_path: float) -> None:
        super().__init__(eva, drop_path)
        self.rope, self.turns_by_block, self.wish = eva.rope, eva.rope_mixed, wish

    def _embed(self, x: Tensor, grid: Grid) -> Tensor:
        return super()._embed(x.flatten(1, 2), grid)  # timm leaves the grid as it is where sizes may change

    def _blocks(self, x: Tensor, grid: Grid) -> list[Tensor]:
        angles = None if self.rope is None else self.rope.get_embed(shape=list(grid))
        outputs = []
        for number, block in enumerate(self.blocks):
            x = block(x, rope=angles[number] if self.turns_by_block and angles is not None else angles)
            outputs.append(x)
        return outputs

    def at(self, size: int) -> PlainViT:
        """As a plain ViT; timm starts a table of that size."""
        twin: Any = super().at(size)
        twin.wish = replace(self.wish, arguments=self.wish.arguments | {"img_size": size})
        return twin

    def first(self, seed: int) -> First:
        """timm's own."""
        return self.wish.first(seed)
