"""Where each view of an image is cut: integers drawn from the sample's key, the same in every reader."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

TRIES = 10  # as torchvision: after ten misses the largest centred crop of an allowed shape
DRAWS = 4 * TRIES + 1


class Box(NamedTuple):
    """Rows [top, top + height), columns [left, left + width) of the stored image, mirrored or not."""

    top: int
    left: int
    height: int
    width: int
    flip: bool


class Crop(Protocol):
    """A rule that cuts an image of a given size."""

    def box(self, draws: Sequence[float], height: int, width: int) -> Box:
        """The view that these numbers in [0, 1) choose."""
        ...


class RandomCrop(NamedTuple):
    """Random area and aspect ratio, and a flip."""

    scale: tuple[float, float]
    ratio: tuple[float, float]
    flip: float

    def box(self, draws: Sequence[float], height: int, width: int) -> Box:
        """The view that these numbers in [0, 1) choose."""
        return Box(*random_box(draws, height, width, self.scale, self.ratio, self.flip))


def random_box(
    draws: Sequence[float],
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    flip: float,
) -> tuple[int, int, int, int, bool]:
    """RandomResizedCrop from DRAWS numbers; plain scalar code, because numba compiles the same lines."""
    mirrored = draws[4 * TRIES] < flip
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for i in range(0, 4 * TRIES, 4):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * draws[i])
        aspect = math.exp(low + (high - low) * draws[i + 1])
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(draws[i + 2] * (height - h + 1)), int(draws[i + 3] * (width - w + 1)), h, w, mirrored
    h, w = height, width
    if width / height < ratio[0]:
        h = max(1, round(width / ratio[0]))
    elif width / height > ratio[1]:
        w = max(1, round(height * ratio[1]))
    return (height - h) // 2, (width - w) // 2, h, w, mirrored
