"""Training of the dense heads: linear maps on frozen patch tokens, fed by any stream of batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from unicscale.contracts import Features


class Schedule(NamedTuple):
    """How long and how fast a dense head learns."""

    steps: int
    batch: int
    lr: float
    weight_decay: float = 1e-4
    warmup: float = 0.04  # share of the steps
    power: float = 1.0  # polynomial decay to 0


PAPER = Schedule(steps=40_000, batch=16, lr=1e-3)  # DINOv2's linear protocol, which the paper follows
QUICK = Schedule(steps=300, batch=16, lr=1e-2)  # small tensors in memory: seconds on two cores


def draws(count: int, schedule: Schedule, seed: int) -> Iterator[Tensor]:  # each (batch,)
    """Rows for every step: reshuffled passes over `count` samples."""
    generator = np.random.Generator(np.random.Philox(seed))
    waiting = np.empty(0, dtype=np.int64)
    for _ in range(schedule.steps):
        while len(waiting) < schedule.batch:
            waiting = np.concatenate([waiting, generator.permutation(count)])
        yield torch.from_numpy(waiting[: schedule.batch])
        waiting = waiting[schedule.batch :]


def fit(
    head: nn.Module,
    batches: Iterator[tuple[Features, Tensor]],
    loss: Callable[[Tensor, Tensor], Tensor],
    schedule: Schedule,
) -> nn.Module:
    """AdamW with linear warm-up and polynomial decay; returns the head in eval mode."""
    optimizer = torch.optim.AdamW(head.parameters(), lr=schedule.lr, weight_decay=schedule.weight_decay)
    warm = max(round(schedule.warmup * schedule.steps), 1)
    head.train()
    for step, (features, target) in enumerate(batches):
        share = min((step + 1) / warm, (1 - step / schedule.steps) ** schedule.power)
        for group in optimizer.param_groups:
            group["lr"] = schedule.lr * share
        with torch.enable_grad():
            loss(head(features), target).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return head.eval()


def as_map(patches: Tensor) -> Tensor:  # (B, N, D) -> (B, D, h, w)
    """Patch tokens as the square image they came from."""
    side = round(patches.shape[1] ** 0.5)
    assert side * side == patches.shape[1], "patch tokens of a square image"
    return patches.transpose(1, 2).unflatten(2, (side, side))


class DenseLinear(nn.Module):
    """Batch normalisation and one linear layer on every token.

    It starts at zero, for the problem is convex, and so draws from no generator. (B, D, h, w) -> (B, out, h, w)
    """

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width)
        self.weight = nn.Parameter(torch.zeros(out, width))
        self.bias = nn.Parameter(torch.zeros(out))

    def forward(self, maps: Tensor) -> Tensor:
        return torch.einsum("bdhw,od->bohw", self.norm(maps), self.weight) + self.bias[:, None, None]
