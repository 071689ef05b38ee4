"""What every projector is made of: units that engines shard, recompute and compile one by one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from unicscale.contracts import Features, Widths
from unicscale.errors import RecipeError


class Rung(nn.Module):
    """One unit: a block's raw tokens (B, prefix + N, d) -> its part of each teacher's answer."""


class Projector(nn.Module):
    """Raw outputs of all blocks [(B, prefix + N, d)] -> one answer per teacher, in fp32."""

    blocks: list[int]  # those that it reads
    rungs: nn.ModuleDict


def perceptron(
    widths: list[int], *, pre_norm: bool = False, mid_norm: bool = False, bias: bool = True
) -> nn.Sequential:
    """Linear layers fc1, fc2, ... with GELU between them; norms in front, or after every hidden layer."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if pre_norm:
        layers["norm"] = nn.LayerNorm(widths[0])
    last = len(widths) - 1
    for i in range(1, last + 1):
        layers[f"fc{i}"] = nn.Linear(widths[i - 1], widths[i], bias=bias)
        if i < last:
            if mid_norm:
                layers[f"norm{i}"] = nn.LayerNorm(widths[i])
            layers[f"act{i}"] = nn.GELU()
    return nn.Sequential(layers)


class Heads(Rung):
    """Perceptrons on one block: one per teacher and token type, or one per teacher where they are shared."""

    def __init__(
        self, inner: list[int], teachers: Mapping[str, Widths], *, prefix: int, shared: bool, **form: bool
    ) -> None:
        """`inner`: the block's width and the hidden layers'; the teachers' own widths follow."""
        super().__init__()
        self.prefix = prefix
        self.heads = nn.ModuleDict(
            {
                name: nn.ModuleDict(
                    {kind: perceptron([*inner, wide], **form) for kind, wide in kinds_of(name, widths, shared).items()}
                )
                for name, widths in teachers.items()
            }
        )
        self.kinds = {kind for kinds in self.heads.values() for kind, _ in kinds.named_children()}

    def forward(self, tokens: Tensor) -> dict[str, Features]:
        """(B, prefix + N, d) -> per teacher (B, D_s) and (B, N, D_p), where it has them."""
        inputs = streams(tokens, self.prefix, self.kinds)
        return {
            name: joined({kind: head(inputs[kind]) for kind, head in heads.named_children()})
            for name, heads in self.heads.items()
        }


def kinds_of(name: str, widths: Widths, shared: bool) -> dict[str, int]:
    """The perceptrons of one teacher, by what they read, and how wide each answers."""
    if shared and None not in widths:
        if widths.summary != widths.patches:
            raise RecipeError(
                f"projector.shared: one perceptron cannot answer both tokens of teacher '{name}', whose summary is "
                f"{widths.summary} wide and whose patches are {widths.patches}. Leave `shared` out."
            )
        return {"tokens": widths.summary or 0}
    return {kind: wide for kind, wide in zip(("cls", "patch"), widths, strict=True) if wide is not None}


def streams(tokens: Tensor, prefix: int, kinds: Iterable[str]) -> dict[str, Tensor]:
    """What the perceptrons of one block read; registers are left out."""
    # one split, whose gradient is one concatenation: slices would each fill a gradient of full size with zeros
    cls, _registers, patches = tokens.split([1, prefix - 1, tokens.shape[1] - prefix], dim=1)
    read: dict[str, Tensor] = {}
    if "tokens" in kinds:
        read["tokens"] = torch.cat([cls, patches], dim=1) if prefix > 1 else tokens
    if "cls" in kinds:
        read["cls"] = cls[:, 0]
    if "patch" in kinds:
        read["patch"] = patches.contiguous()  # contiguous once, not once per teacher
    return read


def joined(outputs: dict[str, Tensor]) -> Features:
    """The perceptrons' outputs of one teacher as its answer."""
    if "tokens" in outputs:
        tokens = outputs["tokens"]
        return Features(tokens[:, 0], tokens[:, 1:])
    return Features(outputs.get("cls"), outputs.get("patch"))


def exact(tokens: Tensor) -> Tensor:
    """At least in fp32, as answers are summed and handed over."""
    return tokens if tokens.dtype == torch.float64 else tokens.float()
