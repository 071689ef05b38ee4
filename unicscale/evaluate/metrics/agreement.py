"""How alike two encoders see the same images, and how much one of them has to say."""

from __future__ import annotations

import torch
from torch import Tensor

NEIGHBOURS = 10


def cka(first: Tensor, second: Tensor) -> float:
    """Linear centred kernel alignment of (N, D1) and (N, D2), without the bias of few images (arXiv:1905.00414).

    1: the same up to rotation and scale; 0: nothing in common. Few images of wide features would seem alike by chance,
    so the estimate of HSIC is the unbiased one, which may fall a little below 0.
    """
    grams = [_gram(features) for features in (first, second)]
    across = _hsic(*grams)
    scale = _hsic(grams[0], grams[0]) * _hsic(grams[1], grams[1])
    return float(across / scale.clamp(min=1e-300).sqrt())


def _gram(features: Tensor) -> Tensor:
    centred = features.double() - features.double().mean(0)
    gram = centred @ centred.T
    return gram.fill_diagonal_(0) / gram.abs().max().clamp(min=1e-300)


def _hsic(one: Tensor, two: Tensor) -> Tensor:
    """The unbiased estimate, of kernels without their diagonals."""
    n = len(one)
    whole = one.sum() * two.sum() / ((n - 1) * (n - 2))
    return ((one * two).sum() + whole - 2 * (one.sum(0) @ two.sum(0)) / (n - 2)) / (n * (n - 3))


def mutual_neighbours(first: Tensor, second: Tensor, k: int = NEIGHBOURS) -> float:
    """The share of an image's k nearest, by cosine, that are the same in both; k / (N - 1) by chance."""
    near = [_nearest(features, k) for features in (first, second)]
    return float((near[0][:, :, None] == near[1][:, None, :]).any(-1).float().mean())


def _nearest(features: Tensor, k: int) -> Tensor:  # (N, k)
    normal = torch.nn.functional.normalize(features.float() - features.float().mean(0), dim=-1)
    return (normal @ normal.T).fill_diagonal_(-2).topk(min(k, len(normal) - 1)).indices


def effective_rank(features: Tensor) -> float:
    """In how many directions (N, D) spreads: e to the entropy of its singular values (Roy and Vetterli, 2007)."""
    values = torch.linalg.svdvals(features.double() - features.double().mean(0))
    share = values / values.sum().clamp(min=1e-300)
    return float(torch.special.entr(share).sum().exp())
