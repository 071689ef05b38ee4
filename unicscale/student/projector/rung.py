"""What every projector is made of: units that engines shard, recompute and compile one by one."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from unicscale.contracts import Features


class Rung(nn.Module):
    """One unit: a block's raw tokens (B, prefix + N, d) -> its part of each teacher's answer."""


class Projector(nn.Module):
    """Raw outputs of all blocks [(B, prefix + N, d)] -> one answer per teacher, in fp32."""

    blocks: list[int]  # those that it reads
    rungs: nn.ModuleDict


def perceptron(widths: list[int], *, pre_norm: bool = False, mid_norm: bool = False) -> nn.Sequential:
    """Linear layers fc1, fc2, ... with GELU between them; norms in front, or after every hidden layer."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if pre_norm:
        layers["norm"] = nn.LayerNorm(widths[0])
    last = len(widths) - 1
    for i in range(1, last + 1):
        layers[f"fc{i}"] = nn.Linear(widths[i - 1], widths[i])
        if i < last:
            if mid_norm:
                layers[f"norm{i}"] = nn.LayerNorm(widths[i])
            layers[f"act{i}"] = nn.GELU()
    return nn.Sequential(layers)


class Heads(Rung):
    """Perceptrons on one block: one per teacher and token type, or one per teacher where they are shared."""

    def __init__(self, widths: dict[str, list[int]], *, prefix: int, shared: bool, **norms: bool) -> None:
        super().__init__()
        self.prefix, self.shared = prefix, shared
        kinds = ["tokens"] if shared else ["cls", "patch"]
        self.heads = nn.ModuleDict(
            {name: nn.ModuleDict({kind: perceptron(w, **norms) for kind in kinds}) for name, w in widths.items()}
        )

    def forward(self, tokens: Tensor) -> dict[str, Features]:
        """(B, prefix + N, d) -> per teacher (B, D_t) and (B, N, D_t)."""
        inputs = streams(tokens, self.prefix, self.shared)
        return {
            name: joined({kind: heads.get_submodule(kind)(x) for kind, x in inputs.items()})
            for name, heads in self.heads.items()
        }


def streams(tokens: Tensor, prefix: int, shared: bool) -> dict[str, Tensor]:
    """What the perceptrons of one block read; registers are left out."""
    # one split, whose gradient is one concatenation: slices would each fill a gradient of full size with zeros
    cls, _registers, patches = tokens.split([1, prefix - 1, tokens.shape[1] - prefix], dim=1)
    if shared:
        return {"tokens": torch.cat([cls, patches], dim=1) if prefix > 1 else tokens}
    return {"cls": cls[:, 0], "patch": patches.contiguous()}  # contiguous once, not once per teacher


def joined(outputs: dict[str, Tensor]) -> Features:
    """The perceptrons' outputs of one teacher as its answer."""
    if "tokens" in outputs:
        tokens = outputs["tokens"]
        return Features(tokens[:, 0], tokens[:, 1:])
    return Features(outputs["cls"], outputs["patch"])
