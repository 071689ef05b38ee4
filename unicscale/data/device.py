"""From the host to the device without waiting."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor there; a copy out of pinned memory is one that the host need not wait for."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def numbers(values: np.ndarray, device: torch.device) -> Tensor:
    """Host numbers on the device."""
    return sent(torch.from_numpy(np.ascontiguousarray(values)), device)


def square_pixels(count: int, side: int, device: torch.device, channels: int = 3) -> Tensor:
    """(count, side, side, channels) uint8 on the host, to be decoded into: pinned where it will be sent to a GPU."""
    return torch.empty(count, side, side, channels, dtype=torch.uint8, pin_memory=device.type == "cuda")


def planes(pixels: Tensor, device: torch.device) -> Tensor:
    """Decoded pixels (B, S, S, C) as models want them: (B, C, S, S) on the device."""
    return pixels.to(device, non_blocking=True).permute(0, 3, 1, 2).contiguous()
