"""Maps of one grid on another: area down, bilinear up, as two small products with the same bits every time."""

from __future__ import annotations

import torch
from torch import Tensor


def onto(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, C, h, w) -> (B, C, *grid)."""
    height, width = maps.shape[-2:]
    if height != grid[0]:
        maps = _weights(height, grid[0], maps) @ maps
    return maps if width == grid[1] else maps @ _weights(width, grid[1], maps).mT


def tokens_of(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, C, h, w) -> (B, 1 + N, C): the mean of its cells, and the cells of `grid`."""
    return torch.cat([maps.mean((2, 3))[:, None], onto(maps, grid).flatten(2).mT], dim=1)


def _weights(old: int, new: int, like: Tensor) -> Tensor:
    """(new, old): how much of each old cell a new one takes."""
    cells = torch.arange(old, device=like.device, dtype=torch.float32)
    places = torch.arange(new, device=like.device, dtype=torch.float32)[:, None]
    if new > old:  # a hat around the new cell's centre
        centres = ((places + 0.5) * (old / new) - 0.5).clamp(0, old - 1)
        shares = (1 - (centres - cells).abs()).clamp(min=0)
    else:  # the part of each old cell that lies within the new one
        low, high = places * (old / new), (places + 1) * (old / new)
        shares = (torch.minimum(high, cells + 1) - torch.maximum(low, cells)).clamp(min=0) * (new / old)
    return shares.to(like.dtype)
