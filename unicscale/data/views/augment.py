"""Colour: jitter, grey, blur, solarise, on the device, batched, from the samples' keys.

All draws are made on the host, so the images that need an operation are known there and no mask has to be read back
from the device. Each operation equals torchvision v2's on float images; pixels are rounded to uint8 once, at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unicscale import rng
from unicscale.data.device import sent
from unicscale.recipe.sections import Augment

GREY = (0.2989, 0.587, 0.114)  # torchvision's luma weights
CACHE_BYTES = 1 << 20  # of floats that a core works on at a time
OPERATIONS = 4  # brightness, contrast, saturation, hue, in a random order per image


class Draws(NamedTuple):
    """What happens to each image of a batch, decided on the host."""

    jitter: np.ndarray  # (B,) bool
    order: np.ndarray  # (B, 4) int, the operation in each place
    factors: np.ndarray  # (B, 4) float, of brightness, contrast, saturation, hue
    grey: np.ndarray  # (B,) bool
    blur: np.ndarray  # (B,) bool
    sigma: np.ndarray  # (B,) float
    solarize: np.ndarray  # (B,) bool


def draw(keys: np.ndarray, section: Augment) -> Draws:
    """The augmentation of the samples with these keys."""
    u = rng.uniforms_numpy(keys, 13)  # (B, 13)
    spread = np.array([section.brightness, section.contrast, section.saturation, section.hue])
    centre = np.array([1.0, 1.0, 1.0, 0.0])
    low, high = np.maximum(centre - spread, [0, 0, 0, -0.5]), centre + spread
    return Draws(
        jitter=u[:, 0] < section.jitter,
        order=np.argsort(u[:, 1:5], axis=1, kind="stable"),
        factors=low + (high - low) * u[:, 5:9],
        grey=u[:, 9] < section.grey,
        blur=u[:, 10] < section.blur,
        sigma=section.blur_sigma[0] + (section.blur_sigma[1] - section.blur_sigma[0]) * u[:, 11],
        solarize=u[:, 12] < section.solarize,
    )


def augment(images: Tensor, keys: np.ndarray, section: Augment) -> Tensor:
    """uint8 (B, C, H, W) -> the same, coloured; on a CPU in place. Jitter and grey are of three channels."""
    return colour(images, draw(keys, section), section)


def colour(images: Tensor, draws: Draws, section: Augment) -> Tensor:
    """uint8 (B, 3, H, W) -> the same, with these draws carried out; on a CPU in place."""
    if images.device.type == "cpu":  # a few images at a time, so that the dozens of passes stay in the cache
        few = max(1, CACHE_BYTES // max(1, 4 * images[0].numel()))
        for first in range(0, len(images), few):
            part = slice(first, first + few)
            images[part] = _colour(images[part], Draws(*(column[part] for column in draws)), section)
        return images
    return _colour(images, draws, section)


def _colour(images: Tensor, draws: Draws, section: Augment) -> Tensor:
    x = images.float().div_(255)  # (B, 3, H, W)
    for place in range(OPERATIONS):
        for operation, apply in enumerate((brightness_, contrast_, saturation_, hue_)):
            chosen = draws.jitter & (draws.order[:, place] == operation)
            _where(x, chosen, apply, draws.factors[:, operation])
    _where(x, draws.grey, lambda part, _: grey_(part), draws.sigma)
    _where(x, draws.blur, blur_, gaussian(draws.sigma, section.blur_kernel))
    _where(x, draws.solarize, lambda part, _: solarize_(part, section.solarize_threshold), draws.sigma)
    return x.mul_(255).round_().to(torch.uint8)


def _where(x: Tensor, chosen: np.ndarray, apply_: Callable[[Tensor, Tensor], object], parameter: np.ndarray) -> None:
    """Rewrite the chosen images; the host knows which, so nothing waits for the device."""
    if not chosen.any():
        return
    rows = chosen.nonzero()[0]
    values = sent(torch.from_numpy(parameter[rows].astype(np.float32)), x.device).view(len(rows), -1, 1, 1)
    if rows[-1] - rows[0] + 1 == len(rows):  # neighbours: in place
        apply_(x[rows[0] : rows[-1] + 1], values)
        return
    index = sent(torch.from_numpy(rows), x.device)
    part = x.index_select(0, index)
    apply_(part, values)
    x.index_copy_(0, index, part)


# --- in place, on (B, 3, H, W) floats in [0, 1] with one parameter (B, 1, 1, 1) per image ---------------
# A sample must come out the same to the bit in any batch, so nothing here rounds differently at the end of a vector
# than within it: products and sums are separate steps (no `alpha`, no `addcmul`), sums over pixels are of integers,
# exponentials stay on the host. Choices are `lerp` with a mask of floats 0 and 1, which is exact; on a CPU
# `torch.where` is 20 times slower.


def luma(x: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, 1, H, W)."""
    return (x[:, 0:1] * GREY[0]).add_(x[:, 1:2] * GREY[1]).add_(x[:, 2:3] * GREY[2])


def brightness_(x: Tensor, factor: Tensor) -> None:
    """Scaled towards black."""
    x.mul_(factor).clamp_(0, 1)


def contrast_(x: Tensor, factor: Tensor) -> None:
    """Blended with the image's mean luma."""
    fixed = luma(x).mul_(1 << 24).to(torch.int32)  # (B, 1, H, W)
    mean = (fixed.sum(dim=(1, 2, 3), keepdim=True).double() / ((1 << 24) * fixed[0].numel())).float()
    x.mul_(factor).add_(mean * (1 - factor)).clamp_(0, 1)


def saturation_(x: Tensor, factor: Tensor) -> None:
    """Blended with each pixel's luma."""
    pixel = luma(x).mul_(1 - factor)
    x.mul_(factor).add_(pixel).clamp_(0, 1)


def hue_(x: Tensor, shift: Tensor) -> None:
    """Turned by `shift` of a circle in HSV: value and chroma stay, so only the hue is ever formed."""
    r, g, b = x.unbind(1)  # (B, H, W) each
    value = torch.maximum(torch.maximum(r, g), b)
    low = torch.minimum(torch.minimum(r, g), b)
    chroma = value - low
    red, green = torch.eq(value, r, out=torch.empty_like(r)), torch.eq(value, g, out=torch.empty_like(g))
    turn = torch.lerp((r - g).add_(chroma * 4), (b - r).add_(chroma * 2), green).lerp_(g - b, red)
    turn.div_(chroma.clamp(min=1e-12))  # where it is 0, so is the numerator, and what follows is multiplied by it
    turn.add_(shift.squeeze(1) * 6)
    turn.sub_(torch.floor(turn * (1 / 6)).mul_(6))  # in sixths of a circle, [0, 6)
    torch.add((turn - 3).abs_().sub_(1).clamp_(0, 1).mul_(chroma), low, out=r)
    torch.add((turn - 2).abs_().neg_().add_(2).clamp_(0, 1).mul_(chroma), low, out=g)
    torch.add((turn - 4).abs_().neg_().add_(2).clamp_(0, 1).mul_(chroma), low, out=b)


def grey_(x: Tensor) -> None:
    """Three times the luma."""
    x.copy_(luma(x).expand_as(x))


def blur_(x: Tensor, weight: Tensor) -> None:
    """Rows, then columns, reflected at the border; the weights run from the centre outwards."""
    pad = weight.shape[1] - 1  # weight: (B, 1 + pad, 1, 1)
    y = F.pad(x, [pad, pad, pad, pad], mode="reflect")
    for dim, size in ((2, x.shape[2]), (3, x.shape[3])):
        out = y.narrow(dim, pad, size) * weight[:, 0:1]
        for d in range(1, pad + 1):
            out.add_((y.narrow(dim, pad - d, size) + y.narrow(dim, pad + d, size)).mul_(weight[:, d : d + 1]))
        y = out
    x.copy_(y)


def gaussian(sigma: np.ndarray, kernel: int) -> np.ndarray:
    """(B,) -> (B, 1 + kernel // 2): the weights of a symmetric kernel from its centre outwards."""
    weight = np.exp(-0.5 * (np.arange(kernel // 2 + 1) / sigma[:, None]) ** 2)
    return weight / (2 * weight.sum(1, keepdims=True) - 1)


def solarize_(x: Tensor, threshold: float) -> None:
    """Values from the threshold on are inverted."""
    x.lerp_(1 - x, torch.ge(x, threshold, out=torch.empty_like(x)))
