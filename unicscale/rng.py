"""Stateless draws keyed by (seed, epoch, sample, purpose): numpy, numba and torch agree to the bit.

splitmix64 is a bijection of 64-bit integers with good avalanche; chaining it over the parts of a key gives every
sample its own stream without any generator that could be advanced twice or not at all.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15
MIX_A, MIX_B = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
MASK = (1 << 64) - 1


class Purpose(IntEnum):
    """Every independent use of randomness has its own number: adding one never moves another."""

    ORDER = 1
    CROP = 2
    COLOUR = 3
    DROP_TEACHER = 4
    DROP_PATH = 5
    INIT = 6
    SIZE = 7
    SYNTHETIC = 8
    MIXTURE = 9
    TEACHER_SIZE = 10
    SHIFT = 11


def mix(z: int) -> int:
    """The finaliser of splitmix64."""
    z = ((z ^ (z >> 30)) * MIX_A) & MASK
    z = ((z ^ (z >> 27)) * MIX_B) & MASK
    return z ^ (z >> 31)


def key(*parts: int) -> int:
    """One 64-bit key from any number of integers; order matters."""
    state = 0
    for part in parts:
        state = mix((state + GOLDEN + (part & MASK)) & MASK)
    return state


def keys_numpy(base: int, index: np.ndarray) -> np.ndarray:
    """One key per sample: `key(..., i)` for every i of `index`, given `base = key(...)`."""
    with np.errstate(over="ignore"):
        return _mix_numpy(np.uint64((base + GOLDEN) & MASK) + index.astype(np.uint64))


def uniform_numpy(keys: np.ndarray, draw: int) -> np.ndarray:
    """The draw-th number of each key in [0, 1): 53 bits, so float64 holds it exactly."""
    with np.errstate(over="ignore"):
        bits = _mix_numpy(keys + np.uint64(((draw + 1) * GOLDEN) & MASK))
    return (bits >> np.uint64(11)).astype(np.float64) * (1.0 / (1 << 53))


def uniforms_numpy(keys: np.ndarray, draws: int) -> np.ndarray:
    """The first `draws` numbers of every key, (n, draws)."""
    steps = np.arange(1, draws + 1, dtype=np.uint64) * np.uint64(GOLDEN)
    return (_mix_numpy(keys[:, None] + steps) >> np.uint64(11)).astype(np.float64) * (1.0 / (1 << 53))


def _mix_numpy(z: np.ndarray) -> np.ndarray:
    # also compiled for scalars by numba (data/ffcv.py), so: typed constants, no context manager
    z = (z ^ (z >> np.uint64(30))) * np.uint64(MIX_A)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(MIX_B)
    return z ^ (z >> np.uint64(31))


def keys_torch(base: int, index: Tensor) -> Tensor:
    """As `keys_numpy`, on the device; int64 carries the same 64 bits."""
    return _mix_torch(index.long() + _signed((base + GOLDEN) & MASK))


def uniform_torch(keys: Tensor, draw: int) -> Tensor:
    """As `uniform_numpy`; float64, because float32 would round 53 bits up to 1.0 now and then."""
    bits = _mix_torch(keys + _signed(((draw + 1) * GOLDEN) & MASK))
    return _shift_right(bits, 11).double() * (1.0 / (1 << 53))


def uniforms_torch(keys: Tensor, draws: int) -> Tensor:
    """The first `draws` numbers of each key at once, (draws, *keys.shape); row n is `uniform_torch(keys, n)`."""
    import torch

    offsets = torch.arange(1, draws + 1, device=keys.device) * _signed(GOLDEN)  # wraps, as 64-bit integers should
    bits = _mix_torch(keys + offsets.view(-1, *[1] * keys.dim()))
    return _shift_right(bits, 11).double() * (1.0 / (1 << 53))


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _shift_right(z: Tensor, by: int) -> Tensor:
    # torch has no unsigned 64-bit shift: shift arithmetically and clear the copied sign bits
    return (z >> by) & ((1 << (64 - by)) - 1)


def _mix_torch(z: Tensor) -> Tensor:
    z = (z ^ _shift_right(z, 30)) * _signed(MIX_A)
    z = (z ^ _shift_right(z, 27)) * _signed(MIX_B)
    return z ^ _shift_right(z, 31)
