"""Teacher tokens to zero mean and unit deviation, with statistics merged exactly over micro-batches and ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from unicscale.contracts import Moments
from unicscale.ranks.world import World

EPS = 1e-6


class Standardizer(nn.Module):
    """One teacher's and token type's running mean and deviation; normalises with those from before this step."""

    running_mean: Tensor  # (D,) fp32
    running_deviation: Tensor  # (D,) fp32

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("running_mean", torch.zeros(dim))
        self.register_buffer("running_deviation", torch.ones(dim))
        self._seen: Moments | None = None  # of this step, this rank
        self._arriving: Callable[[], None] | None = None  # other ranks' moments of the last step
        self.register_state_dict_pre_hook(_settle)

    @property
    def mean(self) -> Tensor:
        """(D,)"""
        self.settle()
        return self.running_mean

    @property
    def deviation(self) -> Tensor:
        """(D,)"""
        self.settle()
        return self.running_deviation

    def forward(self, tokens: Tensor, momentum: float) -> Tensor:
        """(..., D) with the old statistics, which then move by `momentum`; alone, without other ranks."""
        standardised = self.normalise(tokens)
        self.observe(tokens)
        self.update(momentum)
        return standardised

    def normalise(self, tokens: Tensor) -> Tensor:
        """(..., D) in any dtype -> (..., D) fp32."""
        return (tokens.float() - self.mean) / (self.deviation + EPS)

    def invert(self, standardised: Tensor) -> Tensor:
        """The tokens that `normalise` made these of."""
        return standardised.float() * (self.deviation + EPS) + self.mean

    @torch.no_grad()
    def observe(self, tokens: Tensor) -> None:
        """Add a micro-batch to this step's moments."""
        here = self._moments(tokens.detach().reshape(-1, self.dim).float())
        self._seen = here if self._seen is None else merge([self._seen, here])

    def update(self, momentum: float, world: World | None = None) -> None:
        """Once a step: statistics move towards those of the global batch."""
        update([self], momentum, world)

    def settle(self) -> None:
        """Finish an update that is still on its way."""
        if self._arriving is not None:
            finish, self._arriving = self._arriving, None
            finish()

    def _moments(self, x: Tensor) -> Moments:
        variance, mean = torch.var_mean(x, dim=0, correction=0)  # Welford's, so a large mean costs no digits
        count = torch.full((), float(len(x)), dtype=torch.float64, device=x.device)
        return Moments(count, mean.double(), variance.double() * len(x))

    @torch.no_grad()
    def _move(self, batch: Moments, momentum: float) -> None:
        deviation = (batch.m2 / (batch.count - 1)).sqrt() + EPS
        # one bad teacher output, on any rank, must not poison the statistics; one token has no deviation
        good = torch.isfinite(batch.mean).all() & torch.isfinite(deviation).all() & (batch.count > 1)
        for old, new in ((self.running_mean, batch.mean), (self.running_deviation, deviation)):
            old.copy_(torch.where(good, (1 - momentum) * old.double() + momentum * new, old.double()))


def _settle(standardizer: Standardizer, *_: object) -> None:
    """Of whichever copy is asked: a hook that closed over one of them could be neither pickled nor copied."""
    standardizer.settle()


class Unchanged(Standardizer):
    """No standardisation (arXiv:2408.05088, Table 1, row 4)."""

    def normalise(self, tokens: Tensor) -> Tensor:
        """As they are, in fp32."""
        return tokens.float()

    def invert(self, standardised: Tensor) -> Tensor:
        """As they are."""
        return standardised.float()

    def observe(self, tokens: Tensor) -> None:
        """Nothing is remembered."""


def merge(parts: Sequence[Moments]) -> Moments:
    """The moments of everything together (Chan et al.)."""
    counts = torch.stack([p.count for p in parts])  # (K,)
    means = torch.stack([p.mean for p in parts])  # (K, D)
    count = counts.sum()
    mean = (counts[:, None] * means).sum(0) / count
    between = means - mean
    m2 = torch.stack([p.m2 for p in parts]).sum(0)
    if m2.dim() == 2:  # a scatter matrix
        return Moments(count, mean, m2 + (counts[:, None] * between).mT @ between)
    return Moments(count, mean, m2 + (counts[:, None] * between.square()).sum(0))


def update(standardizers: Sequence[Standardizer], momentum: float, world: World | None = None) -> None:
    """Move all of them at once: one small message per rank and step, which may arrive until the next step needs it."""
    seen = [(s, s._seen) for s in standardizers if s._seen is not None]
    for standardizer in standardizers:
        standardizer.settle()
        standardizer._seen = None
    if momentum == 0 or not seen:  # frozen: nothing to send
        return
    if world is None or world.size == 1:
        for standardizer, moments in seen:
            standardizer._move(moments, momentum)
        return
    # fp32 on the wire: 45 KB for UNIC-L
    sizes = [(m.count.numel(), m.mean.numel(), m.m2.numel()) for _, m in seen]
    packed = torch.cat([t.flatten().float() for _, m in seen for t in (m.count, m.mean, m.m2)])
    arrived = world.gather_soon(packed)

    def finish() -> None:
        rows = arrived().double().split([n for size in sizes for n in size], dim=1)  # each (W, n)
        for i, (standardizer, moments) in enumerate(seen):
            standardizer._arriving = None
            count, mean, m2 = (
                t.unflatten(1, like.shape) if like.dim() else t[:, 0]
                for t, like in zip(rows[3 * i : 3 * i + 3], (moments.count, moments.mean, moments.m2), strict=True)
            )
            parts = [Moments(*part) for part in zip(count, mean, m2, strict=True)]
            standardizer._move(merge(parts), momentum)

    for standardizer, _ in seen:
        standardizer._arriving = finish
