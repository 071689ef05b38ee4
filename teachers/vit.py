"""timm's VisionTransformer, giving Features, with positions interpolated the way a family's authors do it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import SwiGLUPacked
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from unicscale_teachers.family import Shape

from unicscale.contracts import Features


class ViT(VisionTransformer):
    """`offset` and `antialias` say how the position table is brought to another grid; None: by size alone."""

    def __init__(self, *, offset: float | None = None, antialias: bool = False, **settings: Any) -> None:
        super().__init__(dynamic_img_size=True, weight_init="skip", **settings)
        self.offset, self.antialias = offset, antialias

    def forward(self, images: Tensor) -> Features:  # type: ignore[override]
        tokens = self.forward_features(images)  # (B, prefix + N, D)
        patches = tokens[:, self.num_prefix_tokens :]
        # with fc_norm (dBOT fine-tuned) there is no final norm, and the mean of the patches stands for the CLS
        summary = tokens[:, 0] if isinstance(self.fc_norm, nn.Identity) else self.fc_norm(patches.mean(1))
        return Features(summary, patches)

    def _pos_embed(self, x: Tensor) -> Tensor:
        """timm resizes by size with antialias only: 9 % off on DINOv2's table."""
        height, width = x.shape[1:3]
        prefix = 0 if self.no_embed_class else self.num_prefix_tokens
        assert self.pos_embed is not None and self.cls_token is not None
        table = self.pos_embed[:, prefix:]
        table = resize_positions(table, (height, width), offset=self.offset, antialias=self.antialias)
        first, patches = self.cls_token, x.flatten(1, 2) + table
        if not self.no_embed_class:
            first = first + self.pos_embed[:, :prefix]
        if self.reg_token is not None:
            first = torch.cat([first, self.reg_token], dim=1)
        return torch.cat([first.expand(len(x), -1, -1), patches], dim=1)


def resize_positions(table: Tensor, grid: tuple[int, int], *, offset: float | None, antialias: bool) -> Tensor:
    """A square position table (1, N, D), bicubic in fp32 on another grid: (1, h·w, D)."""
    side = int(table.shape[1] ** 0.5)
    if grid == (side, side):
        return table
    maps = table.float().transpose(1, 2).unflatten(2, (side, side))
    if offset is None:
        maps = F.interpolate(maps, grid, mode="bicubic", antialias=antialias)
    else:  # DINO and DINOv2 scale by (grid + 0.1) / side, which is not the same as asking for the size
        scale = ((grid[0] + offset) / side, (grid[1] + offset) / side)
        maps = F.interpolate(maps, scale_factor=scale, mode="bicubic", antialias=antialias)
    return maps.flatten(2).transpose(1, 2).to(table.dtype)


def build_vit(shape: Shape, **settings: Any) -> ViT:
    """A ViT of this shape; `settings` are timm's and this module's own."""
    if shape.ffn == "swiglu":
        hidden = (int(shape.embed_dim * 4 * 2 / 3) + 7) // 8 * 8  # as DINOv2 rounds it
        # timm takes int(dim · ratio): the half keeps 8191.999… from losing a channel
        settings |= {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU, "mlp_ratio": (2 * hidden + 0.5) / shape.embed_dim}
    arguments = shape.model_dump(include={"embed_dim", "depth", "num_heads", "patch_size", "img_size", "num_classes"})
    return ViT(**arguments, reg_tokens=shape.reg_tokens, **settings)
