"""Patch maps from one grid onto another."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def on_grid(patches: Tensor, grid: int, mode: str = "bilinear") -> Tensor:
    """A square patch map (B, N, D), interpolated onto another grid: (B, grid², D)."""
    own = side(patches)
    if own == grid:
        return patches
    maps = patches.transpose(1, 2).unflatten(2, (own, own))
    return F.interpolate(maps, (grid, grid), mode=mode).flatten(2).transpose(1, 2)


def on_larger(answer: Tensor, target: Tensor, mode: str) -> tuple[Tensor, Tensor]:
    """Both on the larger grid of the two (EUPE, arXiv:2603.22387; AM-RADIO)."""
    grid = max(side(answer), side(target))
    return on_grid(answer, grid, mode), on_grid(target, grid, mode)


def side(patches: Tensor) -> int:
    """Cells a side of (B, N, D)."""
    return int(patches.shape[1] ** 0.5)
