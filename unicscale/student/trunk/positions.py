"""Grids of patches, and position tables for another one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from unicscale.errors import RecipeError

Grid = tuple[int, int]


def check_size(size: int, patch: int) -> None:
    """Refuse pixels that the patch does not divide, and name the nearest that it does."""
    if size % patch:
        below = size // patch * patch
        near = f"{below} or {below + patch}" if below else f"{patch}"
        raise RecipeError(f"size {size} is not a multiple of the patch, {patch}. The nearest sizes are {near}.")


def resize_positions(table: Tensor, old: Grid, new: Grid) -> Tensor:
    """Positions (1, P + h w, d) of one grid for another: bicubic, no antialias, offset 0.1, as DINOv2 does it."""
    prefix = table.shape[1] - old[0] * old[1]
    lead, rest = table.float().split([prefix, old[0] * old[1]], dim=1)
    rest = rest.unflatten(1, old).permute(0, 3, 1, 2)  # (1, d, h, w)
    scale = [(n + 0.1) / o for n, o in zip(new, old, strict=True)]
    rest = F.interpolate(rest, scale_factor=scale, mode="bicubic", antialias=False)
    return torch.cat([lead, rest.flatten(2).mT], dim=1)


def fitted(table: Tensor, shape: Sequence[int], prefix: int) -> Tensor | None:
    """A table of square grids, `prefix` of whose entries belong to no patch, in another shape; None: it is no table."""
    if tuple(table.shape) == tuple(shape):
        return table
    if table.ndim == 4 and len(shape) == 4 and table.shape[:2] == tuple(shape[:2]):  # (1, d, h, w)
        return F.interpolate(table.float(), tuple(shape[2:]), mode="bicubic", antialias=False)
    if table.ndim == 2 and len(shape) == 2 and table.shape[1] == shape[1]:
        return _between_windows(table, shape[0])
    if table.ndim != 3 or len(shape) != 3 or table.shape[2] != shape[2]:
        return None
    old, new = (math.isqrt(max(tokens - prefix, 0)) for tokens in (table.shape[1], shape[1]))
    if (prefix + old * old, prefix + new * new) != (table.shape[1], shape[1]) or not old:
        return None
    return resize_positions(table, (old, old), (new, new))


def _between_windows(table: Tensor, entries: int) -> Tensor | None:
    """Biases by relative position ((2w - 1)^2, heads) for other windows; some tables end in three that are CLS's."""
    for others in (0, 3):
        old, new = (math.isqrt(max(count - others, 0)) for count in (len(table), entries))
        if old and new and (old * old + others, new * new + others) == (len(table), entries):
            biases, rest = table.float().split([old * old, others])
            biases = biases.T.unflatten(1, (old, old))[None]
            biases = F.interpolate(biases, (new, new), mode="bicubic", antialias=False)
            return torch.cat([biases[0].flatten(1).T, rest])
    return None
