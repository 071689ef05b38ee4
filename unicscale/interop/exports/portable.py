"""The student as one graph of any batch and any size: no branch on a size, positions resized by two products."""

from __future__ import annotations

import torch
from timm.layers.pos_embed_sincos import RotaryEmbeddingDinoV3
from torch import Tensor, nn

from unicscale.contracts import Features, Seen
from unicscale.interop.opened import Opened
from unicscale.objective.standardize import Standardizer
from unicscale.student.trunk.plain import PlainViT

CUBIC = -0.75  # torch's bicubic kernel


class Portable(nn.Module):
    """Normalised images (B, C, H, W) -> summary, patches and, per teacher, what its own tokens would be."""

    def __init__(self, opened: Opened, *, projectors: bool) -> None:
        super().__init__()
        self.trunk = opened.student.trunk
        self.projector = opened.student.projector if projectors else None
        self.scales = nn.ModuleDict()
        if projectors:
            pairs = {name: [s or nn.Identity() for s in pair] for name, pair in opened.statistics.items()}
            self.scales.update({name: nn.ModuleList(pair) for name, pair in pairs.items()})
        self.names = list(named(Seen(*_plainly(self, opened)))) if projectors else list(Features._fields)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """As the student does it, at any size where it is a ViT."""
        blocks, features = self._seen(images)
        answers = self.projector(blocks) if self.projector is not None else {}
        for name, answer in answers.items():
            if name in self.scales:
                answers[name] = Features(*map(_inverted, self.scales[name], answer))  # type: ignore[call-overload]
        return tuple(named(Seen(features, answers)).values())

    def _seen(self, images: Tensor) -> tuple[list[Tensor], Features]:
        trunk = self.trunk
        if not isinstance(trunk, PlainViT):
            return trunk(images)
        rows, columns = (images.shape[side] // trunk.patch for side in (2, 3))
        x = trunk.norm_pre(embedded(trunk, trunk.patch_embed(images), rows, columns))
        blocks = trunk._blocks(x, (rows, columns))
        x = trunk.norm(blocks[-1])
        return blocks, Features(x[:, 0], x[:, trunk.prefix :])


def any_size(trunk: nn.Module) -> bool:
    """Of ViTs; but timm computes DINOv3's angles in Python's numbers, which a graph takes for constants."""
    return isinstance(trunk, PlainViT) and not isinstance(getattr(trunk, "rope", None), RotaryEmbeddingDinoV3)


def named(seen: Seen) -> dict[str, Tensor]:
    """Everything a student says, by its name in a graph; kinds that a teacher does not have are left out."""
    found = {**seen.features._asdict()}
    found |= {f"{name}.{kind}": t for name, answer in seen.answers.items() for kind, t in answer._asdict().items()}
    return {name: tokens for name, tokens in found.items() if tokens is not None}


def answer_names(opened: Opened) -> list[str]:
    """Of the outputs behind summary and patches."""
    return Portable(opened, projectors=True).names[2:]


def _plainly(module: Portable, opened: Opened) -> Seen:
    with torch.no_grad():
        blocks, features = module.trunk(torch.zeros(1, len(opened.mean), opened.size, opened.size))
        return Seen(features, module.projector(blocks) if module.projector is not None else {})


def _inverted(scale: nn.Module, tokens: Tensor | None) -> Tensor | None:
    return scale.invert(tokens) if isinstance(scale, Standardizer) and tokens is not None else tokens


def embedded(trunk: PlainViT, x: Tensor, rows: int, columns: int) -> Tensor:
    """Patches with their positions, behind CLS and registers."""
    batch = x.shape[0]  # len() would make a constant of it
    x = x if x.dim() == 3 else x.flatten(1, 2)  # timm leaves the grid as it is where sizes may change
    prefix = [t.expand(batch, -1, -1).to(x.dtype) for t in (trunk.cls_token, trunk.reg_token) if t is not None]
    if trunk.pos_embed is None:
        return torch.cat([*prefix, x], dim=1)
    old = trunk.grid
    lead, rest = trunk.pos_embed.float().split([trunk.uncovered, old[0] * old[1]], dim=1)
    down, across = torch.arange(rows, device=x.device), torch.arange(columns, device=x.device)
    same = (down[-1] + 1 == old[0]) & (across[-1] + 1 == old[1])  # its own grid: nothing is resized
    maps = rest.unflatten(1, old)[0]  # (h, w, d)
    maps = torch.einsum("ih,hwd->iwd", bicubic(down, old[0], same), maps)
    maps = torch.einsum("jw,iwd->ijd", bicubic(across, old[1], same), maps)
    positions = maps.flatten(0, 1)[None].to(x.dtype)
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
    """Images to trace with, and which of their sides may change: the batch and, of ViTs, multiples of the patch."""
    patch, size, channels = opened.student.trunk.patch, opened.size, len(opened.mean)
    dtype = next(opened.student.trunk.parameters()).dtype
    batch = torch.export.Dim("batch", min=1)
    if not any_size(opened.student.trunk):
        return torch.rand(2, channels, size, size).to(dtype), {0: batch}
    rows, columns = torch.export.Dim("rows", min=1), torch.export.Dim("columns", min=1)
    # other numbers than the own grid's and each other's: what is equal while tracing may be taken for always equal
    images = torch.rand(2, channels, size + patch, size + 2 * patch).to(dtype)
    return images, {0: batch, 2: patch * rows, 3: patch * columns}
