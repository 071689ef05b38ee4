"""Pixels as a model wants them."""

from __future__ import annotations

import torch
from torch import Tensor


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 or [0, 255] pixels (B, 3, H, W) -> float32 in a model's own normalisation."""

    def per_channel(values: list[float]) -> Tensor:
        # filled on the device: a copy from the host in every step would make the host wait
        return torch.stack([torch.full((), value, device=images.device) for value in values]).view(3, 1, 1)

    scale = per_channel([1 / (255 * s) for s in std])
    shift = per_channel([-m / s for m, s in zip(mean, std, strict=True)])
    return images.float() * scale + shift
