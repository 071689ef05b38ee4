"""The validation loss: as in training, but without dropping, and over images that may be padding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unicscale.contracts import Features, Seen
from unicscale.objective.loss import distil
from unicscale.ranks.world import World


def losses_of(seen: Seen, targets: Mapping[str, Features], loss: Mapping[str, Any], real: Tensor) -> dict[str, Tensor]:
    """Every term of a batch of which only some images are real."""
    shown = real if real.any() else ~real  # of padding alone the numbers count for nothing, but there must be some
    answers, targets = (
        {n: features.each(lambda t: t[shown]) for n, features in given.items()} for given in (seen.answers, targets)
    )
    terms = distil(answers, targets, balance="none", **loss).terms
    kept = {name: value for name, value in terms.items() if name.startswith("loss")}
    return {name: value * real.any() for name, value in kept.items()}


class Mean:
    """Numbers by name, each the mean over all images of all ranks."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def add(self, terms: Mapping[str, Tensor | float], count: int) -> None:
        """Means over `count` images."""
        for name, value in ({"images": 1.0} | dict(terms)).items():
            weighted = torch.as_tensor(value).detach().double().cpu() * count
            self.sums[name] = self.sums[name] + weighted if name in self.sums else weighted

    def over(self, world: World) -> dict[str, float]:
        """Of all ranks together, which must have added the same names."""
        if not self.sums:
            return {}
        names = sorted(self.sums)
        sums = world.all_sum(torch.stack([self.sums[name] for name in names]))
        mean = dict(zip(names, (sums / sums[names.index("images")]).tolist(), strict=True))
        return {name: value for name, value in mean.items() if name != "images"}
