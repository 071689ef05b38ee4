"""Several images on one canvas for a teacher that knows one size only; its map is cut apart (RADIOv2.5)."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from unicscale.contracts import TeacherSpec
from unicscale.errors import RecipeError


class Mosaic(NamedTuple):
    """How views lie on a canvas; all in tokens, so that each begins on one. Image i is on canvas i // per_row²."""

    per_row: int
    view: int  # a side
    canvas: int

    @property
    def pitch(self) -> int:
        """From one view to the next."""
        return self.canvas // self.per_row

    def packed(self, views: Tensor, patch: int) -> Tensor:
        """Normalised pixels (B, 3, v, v) -> canvases (C, 3, S, S); what is over is 0, the mean colour."""
        k, side, gap = self.per_row, self.pitch * patch, self.pitch * patch - views.shape[-1]
        views = F.pad(views, (0, gap, 0, gap, 0, 0, 0, -len(views) % k**2))
        rows = views.unflatten(0, (-1, k, k)).permute(0, 3, 1, 4, 2, 5)  # (C, 3, k, side, k, side)
        over = self.canvas * patch - k * side
        return F.pad(rows.reshape(-1, views.shape[1], k * side, k * side), (0, over, 0, over))

    def cut(self, maps: Tensor, images: int) -> Tensor:
        """A canvas's tokens (C, N, D) -> each view's (B, n, D)."""
        k, p = self.per_row, self.pitch
        grid = maps.unflatten(1, (self.canvas, self.canvas))[:, : k * p, : k * p]
        parts = grid.unflatten(2, (k, p)).unflatten(1, (k, p)).transpose(2, 3)[:, :, :, : self.view, : self.view]
        return parts.flatten(3, 4).flatten(0, 2)[:images]


def mosaic_of(spec: TeacherSpec, grid: int) -> Mosaic | None:
    """Of views as large as the student's grid; None where no two fit beside each other."""
    canvas = spec.size // spec.patch
    return Mosaic(canvas // grid, grid, canvas) if canvas // grid > 1 else None


def refuse_resizable(spec: TeacherSpec, name: str) -> None:
    """What takes any size needs no canvas."""
    if not spec.fixed_size:
        raise RecipeError(
            f"'teachers.{name}.mosaic': this teacher takes images of other sizes than {spec.size} pixels. Leave it out."
        )
