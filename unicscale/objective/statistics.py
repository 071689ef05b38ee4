"""What a teacher's tokens look like on a data set (arXiv:2408.05088, Table G), and the file that standardises by it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from unicscale.contracts import Features, Moments
from unicscale.errors import DataError
from unicscale.objective.standardize import EPS, floored, merge

NAMES = {"summary": "CLS", "patches": "pooled patches"}  # as Table G calls a token per image


class Look(NamedTuple):
    """A row of Table G: of one token per image, over all images."""

    norm_per_sample: float  # mean over images of a token's Euclidean norm
    deviation_per_sample: float  # mean over images of the deviation over a token's dimensions
    deviation_per_dimension: float  # mean over dimensions of the deviation over images


class Sums:
    """Moments of tokens of one kind, batch by batch, in fp64."""

    def __init__(self) -> None:
        self.moments: list[Moments] = []
        self.rows = torch.zeros(2, dtype=torch.float64)  # of norms and of deviations

    def add(self, tokens: Tensor) -> None:  # (..., D)
        """Those of a batch."""
        flat = tokens.reshape(-1, tokens.shape[-1]).float()
        variance, mean = torch.var_mean(flat, dim=0, correction=0)
        count = torch.tensor(float(len(flat)), dtype=torch.float64, device=flat.device)
        one = Moments(count, mean.double(), variance.double() * len(flat))
        self.moments = [merge([*self.moments, one])]
        rows = torch.stack([flat.norm(dim=-1).double().sum(), flat.std(dim=-1).double().sum()])
        self.rows = self.rows.to(rows.device) + rows

    @property
    def deviation(self) -> Tensor:  # (D,) float64
        """Of each channel, over all tokens."""
        (held,) = self.moments
        return (held.m2 / (held.count - 1).clamp(min=1)).sqrt()

    def look(self) -> Look:
        """What Table G says of them."""
        norm, per_sample = (self.rows / self.moments[0].count).tolist()
        return Look(norm, per_sample, float(self.deviation.mean()))


class Looks:
    """Table G, batch by batch: summaries, and patches after averaging over the image; of a kind that is there."""

    def __init__(self) -> None:
        self.sums: dict[str, Sums] = {}

    def add(self, features: Features) -> None:
        """A batch's raw tokens."""
        pooled = None if features.patches is None else features.patches.float().mean(1)
        for kind, tokens in zip(Features._fields, (features.summary, pooled), strict=True):
            if tokens is not None:
                self.sums.setdefault(kind, Sums()).add(tokens)

    def table(self) -> dict[str, Look]:
        """A row per kind."""
        return {NAMES[kind]: sums.look() for kind, sums in self.sums.items()}


@dataclass(frozen=True, slots=True)
class TokenStatistics:
    """One teacher's and token type's: a row of the table, and the two vectors of all its tokens to standardise by."""

    count: int
    look: Look
    mean: Tensor  # (D,) fp32
    deviation: Tensor  # (D,) fp32


@torch.no_grad()
def estimate(batches: Iterable[Features]) -> dict[str, TokenStatistics]:
    """`summary` and `patches` of a teacher's raw tokens, over as many batches as there are."""
    looks, every = Looks(), dict[str, Sums]()
    for batch in batches:
        looks.add(batch)
        for kind, tokens in zip(Features._fields, batch, strict=True):
            if tokens is not None:
                every.setdefault(kind, Sums()).add(tokens)
    if not every:
        raise DataError("no images: statistics need at least a few.")
    return {
        kind: TokenStatistics(
            count=int(sums.moments[0].count),
            look=looks.sums[kind].look(),
            mean=sums.moments[0].mean.float().cpu(),
            deviation=floored(sums.deviation + EPS).float().cpu(),
        )
        for kind, sums in every.items()
    }


def save(path: str | Path, teachers: Mapping[str, Mapping[str, TokenStatistics]]) -> None:
    """The file that `standardize: {kind: file, path: ...}` reads: `<teacher>.<summary|patches>.<mean|deviation>`."""
    tensors = {
        f"{teacher}.{kind}.{part}": getattr(statistics, part).contiguous()
        for teacher, kinds in teachers.items()
        for kind, statistics in kinds.items()
        for part in ("mean", "deviation")
    }
    save_file(tensors, str(path))


def table(teachers: Mapping[str, Mapping[str, TokenStatistics]]) -> str:
    """Table G as text: of one token per image, patches averaged; the count is of all tokens, which standardise."""
    lines = [f"{'teacher':<20}{'tokens':<10}{'norm':>10}{'σ sample':>12}{'σ dimension':>13}{'count':>12}"]
    for teacher, kinds in teachers.items():
        for kind, s in kinds.items():
            norm, sample, dimension = s.look
            lines.append(f"{teacher:<20}{kind:<10}{norm:>10.3f}{sample:>12.4f}{dimension:>13.4f}{s.count:>12}")
    return "\n".join(lines)
