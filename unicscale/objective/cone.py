"""A teacher's summaries as a cone: their mean direction, and how far they lie from it (C-RADIOv4)."""

from __future__ import annotations

import torch
from torch import Tensor

from unicscale.contracts import Moments
from unicscale.objective.standardize import Standardizer
from unicscale.objective.terms import angles, precise


class Cone(Standardizer):
    """Hands summaries through as they are; its dispersion is what the angle of an answer is measured against."""

    running_dispersion: Tensor  # () fp32: the mean squared angle to the mean direction; 0 where nothing is known

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.register_buffer("running_dispersion", torch.zeros(()))

    @property
    def dispersion(self) -> Tensor:
        """()"""
        self.settle()
        return self.running_dispersion

    def normalise(self, tokens: Tensor) -> Tensor:
        """As they are."""
        return precise(tokens)

    def invert(self, standardised: Tensor) -> Tensor:
        """As they are."""
        return precise(standardised)

    def see(self, tokens: Tensor) -> Tensor:
        """The last channel is the squared angle, so that it travels and merges with the rest."""
        x = precise(tokens)
        # while no direction is known there is none to measure against
        known = self.mean.square().sum() > 0
        squared = torch.where(known, angles(x, self.mean.expand_as(x)).square(), 0.0).to(x.dtype)
        return torch.cat([x, squared[..., None]], dim=-1)

    @torch.no_grad()
    def _move(self, batch: Moments, momentum: float) -> None:
        *_, last = batch.mean.split([self.dim, 1])
        known = self.running_mean.square().sum() > 0
        super()._move(Moments(batch.count, batch.mean[:-1], batch.m2[:-1]), momentum)
        old = self.running_dispersion.double()
        # the first that is known counts alone: what was there before was nothing
        moved = torch.where(old > 0, (1 - momentum) * old + momentum * last[0], last[0])
        self.running_dispersion.copy_(torch.where(known & torch.isfinite(last[0]), moved, old))
