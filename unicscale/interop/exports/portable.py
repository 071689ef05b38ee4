"""The student as one graph of any batch and any size: no branch on a size, positions resized by two products."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unicscale.contracts import Features
from unicscale.interop.opened import Opened
from unicscale.objective.standardize import Standardizer
from unicscale.student.trunk import Trunk

CUBIC = -0.75  # torch's bicubic kernel


class Portable(nn.Module):
    """Normalised images (B, 3, H, W) -> summary, patches and, per teacher, what its own tokens would be."""

    def __init__(self, opened: Opened, *, projectors: bool) -> None:
        super().__init__()
        self.trunk: Trunk = opened.student.trunk
        self.projector = opened.student.projector if projectors else None
        self.scales = nn.ModuleDict()
        if projectors:
            self.scales.update({name: nn.ModuleList(pair) for name, pair in opened.statistics.items()})

    @property
    def names(self) -> list[str]:
        """Of the outputs, in order."""
        teachers = self.projector.teachers if self.projector is not None else []  # type: ignore[union-attr]
        return [*Features._fields, *(f"{name}.{kind}" for name in teachers for kind in Features._fields)]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """As the trunk does it, at any size."""
        trunk = self.trunk
        x = trunk.patch_embed(images)
        x = trunk.norm_pre(self._embed(x, images))
        blocks = []
        for block in trunk.blocks:
            x = block(x)
            blocks.append(x)
        x = trunk.norm(x)
        found = [x[:, 0], x[:, trunk.prefix :]]
        if self.projector is not None:
            for name, answer in self.projector(blocks).items():
                for kind, tokens in enumerate(answer):
                    scale: Standardizer | None = self.scales[name][kind] if name in self.scales else None  # type: ignore
                    found.append(tokens if scale is None else scale.invert(tokens))
        return tuple(found)

    def _embed(self, x: Tensor, images: Tensor) -> Tensor:
        trunk = self.trunk
        old = trunk.grid
        rows, columns = (images.shape[side] // trunk.patch for side in (2, 3))
        count = trunk.pos_embed.shape[1] - old[0] * old[1]
        lead, rest = trunk.pos_embed.float().split([count, old[0] * old[1]], dim=1)
        down, across = torch.arange(rows, device=x.device), torch.arange(columns, device=x.device)
        same = (down[-1] + 1 == old[0]) & (across[-1] + 1 == old[1])  # its own grid: nothing is resized
        maps = rest.unflatten(1, old)[0]  # (h, w, d)
        maps = torch.einsum("ih,hwd->iwd", bicubic(down, old[0], same), maps)
        maps = torch.einsum("jw,iwd->ijd", bicubic(across, old[1], same), maps)
        positions = maps.flatten(0, 1)[None].to(x.dtype)
        batch = x.shape[0]  # len() would make a constant of it
        prefix = [t.expand(batch, -1, -1).to(x.dtype) for t in (trunk.cls_token, trunk.reg_token) if t is not None]
        if trunk.positions_cover_prefix:
            return torch.cat([*prefix, x], dim=1) + torch.cat([lead.to(x.dtype), positions], dim=1)
        return torch.cat([*prefix, x + positions], dim=1)


def bicubic(places: Tensor, old: int, same: Tensor) -> Tensor:
    """Rows (n, old) that make n values of `old` ones, as torch's interpolation does with a scale of (n + 0.1) / old."""
    count = places[-1].double() + 1  # a tensor, so that the number may change
    scale = torch.where(same, torch.ones_like(count), (count + 0.1) / old)
    at = (places.double() + 0.5) / scale - 0.5
    first = at.floor()
    near = first[:, None] + torch.arange(-1, 3, device=places.device)  # (n, 4) the values that each is made of
    weight = _kernel((at[:, None] - near).abs())
    hit = near.clamp(0, old - 1)[..., None] == torch.arange(old, device=places.device)  # edges repeat
    return (weight[..., None] * hit).sum(1).float()


def _kernel(distance: Tensor) -> Tensor:
    a = CUBIC
    inner = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    outer = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return torch.where(distance <= 1, inner, torch.where(distance < 2, outer, torch.zeros_like(outer)))


def probe(opened: Opened) -> tuple[Tensor, dict[int, object]]:
    """Images to trace with, and which of their sides may change: the batch, and multiples of the patch."""
    patch, size = opened.student.trunk.patch, opened.size
    dimension = torch.export.Dim
    sides = {
        0: dimension("batch", min=1),
        2: patch * dimension("rows", min=1),
        3: patch * dimension("columns", min=1),
    }
    # other numbers than the own grid's and each other's: what is equal while tracing may be taken for always equal
    dtype = opened.student.trunk.cls_token.dtype
    return torch.rand(2, 3, size + patch, size + 2 * patch).to(dtype), sides
