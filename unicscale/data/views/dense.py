"""Colour as one graph of six kernels: the operations of `augment`, each worked out for all images of a batch.

`augment` rewrites the images that drew an operation, which on a GPU is hundreds of small kernels. Here an image's
draws are a row of one table, every operation is computed for everybody, and each image keeps what its row chose. Only
contrast looks at a whole image: the places before its own come first, then the sum of luma, then the rest. Eagerly on a
CPU the pixels are those of `augment` to the bit; a GPU divides otherwise, which moves some by one level.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unicscale.data.device import planes, sent
from unicscale.data.views.augment import GREY, OPERATIONS, Draws, augment, draw, gaussian
from unicscale.recipe.sections import Augment

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(OPERATIONS)
NONE = -1  # in the place of an operation
# columns of the table: a factor per operation, what comes before contrast, what after it, three choices, blur's weights
BEFORE, AFTER, WEIGHTS = 4, 7, 13
CONTRASTED, GREYED, SOLARIZED = 10, 11, 12
FIXED = 1 << 24  # luma is summed as integers, exact in any order

Planes = tuple[Tensor, Tensor, Tensor]  # red, green and blue, (B, H, W) floats in [0, 1]
Colour = Callable[[Tensor, np.ndarray], Tensor]  # decoded pixels (B, S, S, C) and keys -> (B, C, S, S) on the device


# a product and a sum in one rounding or in two: which one, a compiler would choose anew for another size of batch
AS_WRITTEN: dict[str, str | int | bool | Callable] = {"emulate_precision_casts": True}


class Asked(NamedTuple):
    """What a recipe may draw; the graph has nothing else."""

    jitter: bool
    grey: bool
    blur: bool
    solarize: float | None  # the threshold

    @classmethod
    def of(cls, section: Augment) -> Asked:
        """By a recipe's probabilities."""
        threshold = section.solarize_threshold if section.solarize else None
        return cls(section.jitter > 0, section.grey > 0, section.blur > 0, threshold)


def colour_on(device: torch.device, section: Augment, *, channels: int, compiled: bool) -> Colour:
    """What makes batches of decoded pixels there: the graph on a GPU that compiles, else row by row."""
    nothing = Asked(jitter=False, grey=False, blur=False, solarize=None)
    if device.type == "cuda" and compiled and channels == len(GREY) and Asked.of(section) != nothing:
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)  # stages' sizes
        return in_one(torch.compile(paint, fullgraph=True, dynamic=False, options=AS_WRITTEN), section, device)
    return lambda pixels, keys: augment(planes(pixels, device), keys, section)


def in_one(paint: Callable[[Tensor, Tensor, Asked], Tensor], section: Augment, device: torch.device) -> Colour:
    """Two copies and one call per batch: pixels, all draws, the graph."""
    asked = Asked.of(section)

    def colour(pixels: Tensor, keys: np.ndarray) -> Tensor:
        drawn = torch.from_numpy(table(draw(keys, section), section))
        return paint(pixels.to(device, non_blocking=True), sent(drawn, device), asked)

    return colour


def table(draws: Draws, section: Augment) -> np.ndarray:
    """A batch's draws as (B, WEIGHTS + taps) float32."""
    place = (draws.order == CONTRAST).argmax(1)[:, None]  # (B, 1)
    others = draws.order[draws.order != CONTRAST].reshape(-1, OPERATIONS - 1)  # (B, 3), in their order
    first = np.arange(OPERATIONS - 1) < place
    jitter = draws.jitter[:, None]
    weights = gaussian(draws.sigma, section.blur_kernel)
    unblurred = np.eye(1, weights.shape[1])  # the pixel itself
    columns = [
        draws.factors,
        np.where(jitter & first, others, NONE),
        np.where(jitter & ~first, others, NONE),
        np.stack([draws.jitter, draws.grey, draws.solarize], axis=1),
        np.where(draws.blur[:, None], weights, unblurred),
    ]
    return np.concatenate(columns, axis=1, dtype=np.float32)


def paint(pixels: Tensor, drawn: Tensor, asked: Asked) -> Tensor:
    """uint8 (B, S, S, 3) as decoded, and its table -> uint8 (B, 3, S, S), coloured."""
    red, green, blue = pixels.unbind(3)
    rgb = red.float() / 255, green.float() / 255, blue.float() / 255
    if asked.jitter:
        rgb = _jittered(rgb, drawn)
    if asked.grey:
        grey = _luma(rgb)
        rgb = _either(_chosen(drawn, GREYED), (grey, grey, grey), rgb)
    x = torch.stack(rgb, dim=1)
    if asked.blur:
        x = _blurred(x, drawn[:, WEIGHTS:, None, None, None])
    if asked.solarize is not None:
        inverted = _chosen(drawn, SOLARIZED)[:, None] & (x >= asked.solarize)
        x = torch.where(inverted, 1 - x, x)
    return (x * 255).round().to(torch.uint8)


def _jittered(rgb: Planes, drawn: Tensor) -> Planes:
    factors = drawn[:, :OPERATIONS, None, None].unbind(1)  # (B, 1, 1) each
    for place in range(BEFORE, AFTER):
        rgb = _turn(rgb, drawn[:, place, None, None], factors)
    rgb = _either(_chosen(drawn, CONTRASTED), _contrast(rgb, factors[CONTRAST]), rgb)
    for place in range(AFTER, CONTRASTED):
        rgb = _turn(rgb, drawn[:, place, None, None], factors)
    return rgb


def _turn(rgb: Planes, operation: Tensor, factors: tuple[Tensor, ...]) -> Planes:
    """Each image after the operation in one of its places."""
    turned = rgb
    for number, apply in ((BRIGHTNESS, _brightness), (SATURATION, _saturation), (HUE, _hue)):
        turned = _either(operation == number, apply(rgb, factors[number]), turned)
    return turned


def _chosen(drawn: Tensor, column: int) -> Tensor:
    return drawn[:, column, None, None] > 0  # (B, 1, 1)


def _either(chosen: Tensor, one: Planes, other: Planes) -> Planes:
    red, green, blue = (torch.where(chosen, a, b) for a, b in zip(one, other, strict=True))
    return red, green, blue


def _blend(rgb: Planes, factor: Tensor, towards: Tensor | float) -> Planes:
    red, green, blue = ((plane * factor + towards).clamp(0, 1) for plane in rgb)
    return red, green, blue


# --- as in `augment`, step for step, on planes: a graph that mixes channels within one tensor does not fuse -----------


def _luma(rgb: Planes) -> Tensor:
    return rgb[0] * GREY[0] + rgb[1] * GREY[1] + rgb[2] * GREY[2]


def _brightness(rgb: Planes, factor: Tensor) -> Planes:
    return _blend(rgb, factor, 0.0)


def _contrast(rgb: Planes, factor: Tensor) -> Planes:
    fixed = (_luma(rgb) * FIXED).to(torch.int32)  # (B, H, W)
    total = fixed.sum(dim=2).sum(dim=1)[:, None, None]  # rows first: enough sums for a whole device
    mean = (total.double() / (FIXED * fixed[0].numel())).float()
    return _blend(rgb, factor, mean * (1 - factor))


def _saturation(rgb: Planes, factor: Tensor) -> Planes:
    return _blend(rgb, factor, _luma(rgb) * (1 - factor))


def _hue(rgb: Planes, shift: Tensor) -> Planes:
    red, green, blue = rgb
    value = torch.maximum(torch.maximum(red, green), blue)
    low = torch.minimum(torch.minimum(red, green), blue)
    chroma = value - low
    turn = torch.where(value == green, (blue - red) + chroma * 2, (red - green) + chroma * 4)
    turn = torch.where(value == red, green - blue, turn)
    turn = turn / chroma.clamp(min=1e-12) + shift * 6
    turn = turn - torch.floor(turn * (1 / 6)) * 6
    return (
        ((turn - 3).abs() - 1).clamp(0, 1) * chroma + low,
        (2 - (turn - 2).abs()).clamp(0, 1) * chroma + low,
        (2 - (turn - 4).abs()).clamp(0, 1) * chroma + low,
    )


def _blurred(x: Tensor, weight: Tensor) -> Tensor:
    """(B, 3, H, W) and weights (B, 1 + pad, 1, 1, 1): rows, then columns."""
    pad = weight.shape[1] - 1
    for dim, around in ((2, [0, 0, pad, pad]), (3, [pad, pad, 0, 0])):
        size, y = x.shape[dim], F.pad(x, around, mode="reflect")
        x = y.narrow(dim, pad, size) * weight[:, 0]
        for d in range(1, pad + 1):
            x = x + (y.narrow(dim, pad - d, size) + y.narrow(dim, pad + d, size)) * weight[:, d]
    return x
