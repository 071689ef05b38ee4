"""Patch tokens as colours: one colour space for models whose tokens have nothing else in common."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

RANK = 8  # principal components that a model may say its part with: with many of them any two models agree
COLOURS = 3
TAIL = 0.02  # of the tokens, at either end of a colour, are cut off: a few would take all the contrast


def shared(models: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, float]]:
    """(T, D) tokens of the same places by each model -> (T, 3) uint8 colours, and how much of them each can say.

    Generalised canonical correlation (MAXVAR): the three directions that all models together say best are the
    colours; each model then paints what a linear map of its own tokens knows of them. Where two pictures have the same
    colour, the two models say the same. The share is 1 for a model whose tokens determine the shared colours.
    """
    bases = {name: _basis(tokens) for name, tokens in models.items()}
    common = torch.linalg.svd(torch.cat(list(bases.values()), dim=1), full_matrices=False).U[:, :COLOURS]
    common = common * torch.where(common.sum(0) < 0, -1.0, 1.0)  # a sign is nobody's: the same at every call
    painted = {name: basis @ (basis.T @ common) for name, basis in bases.items()}
    low, high = (torch.quantile(common, q, dim=0) for q in (TAIL, 1 - TAIL))
    scaled = {n: ((one - low) / (high - low).clamp_min(1e-9)).clamp(0, 1) for n, one in painted.items()}
    share = {name: float(one.square().sum() / common.square().sum()) for name, one in painted.items()}
    return {name: (255 * one).round().to(torch.uint8) for name, one in scaled.items()}, share


def _basis(tokens: Tensor) -> Tensor:  # (T, D) -> (T, at most RANK), orthonormal
    """Where a model's tokens vary most, every direction counted alike."""
    centred = tokens.double() - tokens.double().mean(0)
    left, values, _ = torch.linalg.svd(centred, full_matrices=False)
    held = min(RANK, int((values > 1e-6 * values[0].clamp_min(1e-12)).sum()))
    return left[:, :held].float()


def palette(classes: int) -> np.ndarray:  # (256, 3) uint8
    """A colour for each class, far apart for neighbours; 255, what does not count, is grey."""
    hue = np.arange(256) * 0.618034 % 1.0
    light = np.where(np.arange(256) % 2, 0.45, 0.68)
    colours = _from_hsl(hue, light)
    colours[0] = (38, 46, 56)  # usually the ground
    colours[classes:] = 128
    return colours


def _from_hsl(hue: np.ndarray, light: np.ndarray, saturation: float = 0.62) -> np.ndarray:
    turn = (hue[:, None] * 12 + np.array([0, 8, 4])) % 12
    reach = saturation * np.minimum(light, 1 - light)[:, None]
    return np.round(255 * (light[:, None] - reach * np.clip(np.minimum(turn - 3, 9 - turn), -1, 1))).astype(np.uint8)


def heat(depth: np.ndarray, far: float) -> np.ndarray:  # (H, W) -> (H, W, 3) uint8
    """Near is bright, far is dark; black where nothing was measured. The same scale for truth and guesses."""
    from matplotlib import colormaps

    scaled = np.clip(depth / far, 0, 1)
    coloured = (255 * colormaps["viridis_r"](scaled)[..., :3]).astype(np.uint8)
    return np.where((depth > 0)[..., None], coloured, np.uint8(0))
