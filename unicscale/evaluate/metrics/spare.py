"""Less of a model: its smallest weights zeroed, or only its leading principal components."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

MATRICES = (nn.Linear, nn.Conv2d, nn.MultiheadAttention)  # not positions, CLS, registers, norms, biases
BESIDE = {"head", "heads", "head_dist", "classifier", "text", "projector"}  # parts of a model that are no encoder
SAMPLE = 2_000_000  # weights among which the threshold is found
LEAST = 8  # components


def matrices(module: nn.Module) -> list[nn.Parameter]:
    """The encoder's weight matrices, its patch embedding among them."""
    found = []
    for name, part in module.named_modules():
        if isinstance(part, MATRICES) and not BESIDE & set(name.split(".")):
            found += [p for p in part.parameters(recurse=False) if p.ndim > 1]
    return found


@torch.no_grad()
def prune(module: nn.Module, amount: float) -> nn.Module:
    """A copy whose smallest weights, of all matrices together, are zero (L1, unstructured)."""
    pruned = copy.deepcopy(module)
    held = matrices(pruned)
    step = max(1, sum(p.numel() for p in held) // SAMPLE)
    sample = torch.cat([p.abs().flatten()[::step].float() for p in held])
    if amount:
        cut = sample.kthvalue(max(1, round(amount * len(sample))))[0]
        for p in held:
            p.masked_fill_(p.abs() <= cut, 0.0)
    return pruned


class Whitening:
    """Mean and covariance of tokens, batch by batch in fp64, and what projects on their principal components."""

    def __init__(self, width: int) -> None:
        self.width, self.count = width, 0
        self.total = torch.zeros(width, dtype=torch.float64)
        self.products = torch.zeros(width, width, dtype=torch.float64)

    def add(self, tokens: Tensor) -> None:  # (N, D)
        """Those of a batch."""
        x = tokens.detach().double()
        self.total = self.total.to(x.device) + x.sum(0)
        self.products = self.products.to(x.device) + x.T @ x
        self.count += len(x)

    def projections(self) -> Iterator[tuple[int, Callable[[Tensor], Tensor]]]:
        """8, 16, ... and all components: how many, and (..., D) -> (..., components) of unit deviation each."""
        mean = self.total / self.count
        values, vectors = torch.linalg.eigh(self.products / self.count - mean.outer(mean))
        counts = [2**n for n in range(3, self.width.bit_length()) if LEAST <= 2**n < self.width]
        for count in [*counts, self.width]:
            kept = vectors[:, -count:] / values[-count:].clamp_min(1e-12).sqrt()

            def project(tokens: Tensor, kept: Tensor = kept) -> Tensor:
                return ((tokens.double() - mean.to(tokens.device)) @ kept.to(tokens.device)).float()

            yield count, project
