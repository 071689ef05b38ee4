"""Windows that each model sees for itself, whole patches apart, and where their tokens meet (C-RADIOv4)."""

from __future__ import annotations

import math
import zlib
from typing import Any

import torch
from torch import Tensor

from unicscale import rng

MARGIN = 1  # patches on every side: at a deviation of 0.5 three draws in a thousand would go further
STUDENT = ""  # no teacher has this name


def room(deviation: float, patch: int) -> int:
    """Pixels that images must have beyond what a model sees, for windows to move in."""
    return 2 * MARGIN * patch if deviation else 0


def shown(images: Tensor, deviation: float, patch: int, draws: dict[str, Any]) -> tuple[Tensor | Windows, Tensor]:
    """What teachers and student see: the same, or windows that move for each of them; `draws` hears where they meet."""
    if not deviation:
        return images, images
    windows = Windows(images, deviation, patch, draws["key"], draws["index"])
    draws["both"] = windows.both  # filled as the teachers' maps are brought to the student's
    return windows, windows.of(STUDENT)


class Windows:
    """Of one batch: what each model is shown of it."""

    def __init__(self, images: Tensor, deviation: float, patch: int, key: tuple[int, int], index: Tensor) -> None:
        self.images, self.deviation, self.patch, self.key, self.index = images, deviation, patch, key, index
        self.size = images.shape[-1] - 2 * MARGIN * patch
        self.both: dict[str, Tensor] = {}  # by teacher (B, N): which of the student's tokens it sees too
        self._shown: dict[str, Tensor] = {}

    def at(self, name: str) -> Tensor:
        """(B, 2): the first row and column of a model's window, in patches; a function of seed, step, sample, model."""
        keys = rng.keys_torch(
            rng.key(self.key[0], rng.Purpose.SHIFT, self.key[1], zlib.crc32(name.encode())), self.index
        )
        draws = rng.uniforms_torch(keys, 2).mT  # (B, 2)
        tail = math.erfc(MARGIN / 2 / self.deviation / math.sqrt(2)) / 2  # of a normal draw that rounds to 1 or more
        return MARGIN + (draws >= 1 - tail).long() - (draws < tail).long()

    def of(self, name: str) -> Tensor:
        """(B, 3, S, S): its window."""
        if name not in self._shown:
            pixels = torch.arange(self.size, device=self.images.device)
            rows, columns = (self.patch * self.at(name)[:, :, None] + pixels).unbind(1)  # (B, S) each
            count, colours, height, _ = self.images.shape
            part = self.images.gather(3, columns[:, None, None].expand(count, colours, height, self.size))
            self._shown[name] = part.gather(2, rows[:, None, :, None].expand(count, colours, self.size, self.size))
        return self._shown[name]

    def meet(self, name: str, patches: Tensor) -> Tensor:
        """A teacher's tokens (B, N, D) where the student has the same patch; `both` says where that is."""
        index, self.both[name] = meeting(self.at(STUDENT), self.at(name), self.size // self.patch)
        return patches.gather(1, index[..., None].expand_as(patches))


def meeting(student: Tensor, teacher: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """Windows at (B, 2) -> of each of the student's tokens the teacher's of the same patch (B, N), and if there is one.

    Static shapes: where there is none, the nearest.
    """
    cells = torch.arange(grid, device=student.device)
    rows, columns = ((student - teacher)[:, :, None] + cells).unbind(1)  # (B, grid) each
    there = [(place >= 0) & (place < grid) for place in (rows, columns)]
    rows, columns = rows.clamp(0, grid - 1), columns.clamp(0, grid - 1)
    index = rows[:, :, None] * grid + columns[:, None, :]
    return index.flatten(1), (there[0][:, :, None] & there[1][:, None, :]).flatten(1)
