"""What a teacher's tokens look like on a data set (arXiv:2408.05088, Table G), and the file that standardises by it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from unicscale.contracts import Features, Moments
from unicscale.errors import DataError
from unicscale.objective.standardize import EPS, Standardizer, floored, merge


@dataclass(frozen=True, slots=True)
class TokenStatistics:
    """One teacher's and token type's: three numbers for the table, two vectors for standardisation."""

    count: int
    norm: float  # mean over tokens of their Euclidean norm
    deviation_per_sample: float  # mean over tokens of the deviation over their channels
    deviation_per_channel: float  # mean over channels of the deviation over tokens
    mean: Tensor  # (D,) fp32
    deviation: Tensor  # (D,) fp32

    def standardizer(self) -> Standardizer:
        """One that is frozen at these."""
        made = Standardizer(len(self.mean))
        made.running_mean.copy_(self.mean)
        made.running_deviation.copy_(self.deviation)
        return made


@torch.no_grad()
def estimate(batches: Iterable[Features]) -> dict[str, TokenStatistics]:
    """`summary` and `patches` of a teacher's raw tokens, over as many batches as there are."""
    moments: dict[str, list[Moments]] = {kind: [] for kind in Features._fields}
    rows: dict[str, Tensor] = {}
    for batch in batches:
        for kind, tokens in zip(Features._fields, batch, strict=True):
            if tokens is None:
                continue
            flat = tokens.reshape(-1, tokens.shape[-1]).float()
            variance, mean = torch.var_mean(flat, dim=0, correction=0)
            count = torch.tensor(float(len(flat)), dtype=torch.float64, device=flat.device)
            one = Moments(count, mean.double(), variance.double() * len(flat))
            moments[kind] = [merge([*moments[kind], one])]
            sums = torch.stack([flat.norm(dim=-1).double().sum(), flat.std(dim=-1).double().sum()])
            rows[kind] = rows.get(kind, torch.zeros_like(sums)) + sums
    if not rows:
        raise DataError("no images: statistics need at least a few.")
    return {kind: _summarise(moments[kind][0], rows[kind]) for kind in rows}


def _summarise(moments: Moments, sums: Tensor) -> TokenStatistics:
    deviation = (moments.m2 / (moments.count - 1).clamp(min=1)).sqrt()
    norm, per_sample = (sums / moments.count).tolist()
    return TokenStatistics(
        count=int(moments.count),
        norm=norm,
        deviation_per_sample=per_sample,
        deviation_per_channel=float(deviation.mean()),
        mean=moments.mean.float().cpu(),
        deviation=floored(deviation + EPS).float().cpu(),
    )


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
    """Table G as text."""
    lines = [f"{'teacher':<20}{'tokens':<10}{'norm':>10}{'σ sample':>12}{'σ channel':>12}{'count':>12}"]
    for teacher, kinds in teachers.items():
        for kind, s in kinds.items():
            numbers = f"{s.norm:>10.3f}{s.deviation_per_sample:>12.4f}{s.deviation_per_channel:>12.4f}{s.count:>12}"
            lines.append(f"{teacher:<20}{kind:<10}{numbers}")
    return "\n".join(lines)
