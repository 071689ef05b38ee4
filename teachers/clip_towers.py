"""open_clip's towers, giving Features after ln_post and before the projection."""

from __future__ import annotations

from typing import Any

import torch
from open_clip.transformer import QuickGELU, TextTransformer, VisionTransformer
from torch import Tensor, nn
from unicscale_teachers.family import ClipShape
from unicscale_teachers.vit import resize_positions

from unicscale.contracts import Features


class Vision(VisionTransformer):
    """Positions by size, bicubic with antialias, as open_clip does when it loads at another size."""

    def forward(self, images: Tensor) -> Features:  # type: ignore[override]
        x = self.conv1(images)  # (B, D, h, w)
        table = resize_positions(
            self.positional_embedding[None, 1:], (x.shape[2], x.shape[3]), offset=None, antialias=True
        )
        first = (self.class_embedding + self.positional_embedding[0]).expand(len(x), 1, -1)
        x = torch.cat([first, x.flatten(2).transpose(1, 2) + table], dim=1)
        x = self.ln_post(self.transformer(self.ln_pre(x)))
        return Features(x[:, 0], x[:, 1:])


class Clip(nn.Module):
    """The vision tower, and the text tower where zero-shot evaluation asks for it."""

    def __init__(self, shape: ClipShape, quick_gelu: bool, text: bool) -> None:
        super().__init__()
        activation: Any = QuickGELU if quick_gelu else nn.GELU
        self.visual = Vision(
            shape.img_size, shape.patch_size, shape.embed_dim, shape.depth, shape.num_heads, mlp_ratio=4.0,
            output_dim=shape.clip_embed_dim, act_layer=activation,
        )  # fmt: skip
        self.text = None
        if text:
            of = shape.text
            self.text = TextTransformer(
                of.context_length, of.vocab_size, of.width, of.heads, of.layers,
                output_dim=shape.clip_embed_dim, act_layer=activation,
            )  # fmt: skip

    def forward(self, images: Tensor) -> Features:
        return self.visual(images)
