"""A box of an image, resized to a square: by area (what FFCV does) or by antialiased bicubic (what the paper does)."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from PIL import Image

from unicscale.data.views.crops import Box

Filter = Literal["area", "bicubic"]


def view(image: np.ndarray, box: Box, size: int, how: Filter) -> np.ndarray:
    """The boxed part of a (H, W, C) uint8 image as (size, size, C)."""
    part = image[box.top : box.top + box.height, box.left : box.left + box.width]
    if part.shape[:2] == (size, size):
        out = part
    elif how == "area":
        out = _area(part, size)
    elif part.shape[2] == 3:
        out = _bicubic(part, size)
    else:  # Pillow takes four channels for colours behind an alpha, and five for no image
        out = np.stack([_bicubic(band, size) for band in np.moveaxis(part, 2, 0)], axis=2)
    return out[:, ::-1] if box.flip else out


def _bicubic(part: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(part).resize((size, size), Image.Resampling.BICUBIC))


def _area(part: np.ndarray, size: int) -> np.ndarray:
    """OpenCV's INTER_AREA: exact box averages to shrink; if either side grows, its area-aligned linear weights."""
    along = _average if part.shape[0] >= size and part.shape[1] >= size else _linear
    return np.rint(along(along(part, size, 0), size, 1)).clip(0, 255).astype(np.uint8)


def _average(x: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Means over `size` equal stretches of an axis, each a weighted sum of the few entries that it touches."""
    scale = x.shape[axis] / size
    edges = np.arange(size + 1) * scale
    first = edges[:-1].astype(np.int64)
    taps = []
    for k in range(math.ceil(scale) + 1):
        covered = np.minimum(first + k + 1, edges[1:]) - np.maximum(first + k, edges[:-1])
        taps.append((np.minimum(first + k, x.shape[axis] - 1), covered.clip(0) / scale))
    return _weighted(x, taps, axis)


def _linear(x: np.ndarray, size: int, axis: int) -> np.ndarray:
    n = x.shape[axis]
    grown = size / n  # the stretch is 1 / grown and not n / size: as in OpenCV, whose floor sees the rounding
    place = np.arange(size)
    first = np.floor(place * (1.0 / grown)).astype(np.int64)
    share = ((place + 1) - (first + 1) * grown).astype(np.float32)
    share = np.where(share <= 0, np.float32(0), share - np.floor(share))
    return _weighted(x, [(first, 1 - share), (np.minimum(first + 1, n - 1), share)], axis)


def _weighted(x: np.ndarray, taps: list[tuple[np.ndarray, np.ndarray]], axis: int) -> np.ndarray:
    """The sum of the taps' entries along an axis of (H, W, C), each times its weight."""
    channels = x.shape[2]
    shape = (
        (-1, 1, 1) if axis == 0 else (1, -1, channels)
    )  # whole pixels, so that numpy's inner loop is a row and not a pixel
    size = len(taps[0][0])
    total = np.zeros((size, *x.shape[1:]) if axis == 0 else (x.shape[0], size, channels), np.float32)
    term = np.empty_like(total)  # one for all taps: fresh memory costs more than the arithmetic
    for index, weight in taps:
        each = weight.astype(np.float32) if axis == 0 else np.repeat(weight.astype(np.float32), channels)
        total += np.multiply(x.take(index, axis), each.reshape(shape), out=term)
    return total
