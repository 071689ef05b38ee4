"""open_clip's towers, giving Features after ln_post and before the projection."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU, ResidualAttentionBlock, TextTransformer, VisionTransformer
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


class Block(ResidualAttentionBlock):
    """Attention as two linear layers around torch's own, over the same parameters.

    Compiled, nn.MultiheadAttention takes its slow path: a batched product per token, and copies around it.
    """

    def attention(
        self, q_x: Tensor, k_x: Tensor | None = None, v_x: Tensor | None = None, attn_mask: Tensor | None = None
    ) -> Tensor:
        assert k_x is None and v_x is None, "the vision tower looks at itself"
        own, (count, tokens, width) = self.attn, q_x.shape
        joint = F.linear(q_x, own.in_proj_weight, own.in_proj_bias)
        q, k, v = joint.view(count, tokens, 3, own.num_heads, -1).permute(2, 0, 3, 1, 4).unbind()
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask)
        return F.linear(seen.transpose(1, 2).reshape(count, tokens, width), own.out_proj.weight, own.out_proj.bias)


def plain_attention(tower: VisionTransformer) -> None:
    """Its blocks attend as ours do; those of another kind are left alone."""
    for block in tower.transformer.resblocks:
        if type(block) is ResidualAttentionBlock:
            block.__class__ = Block


class Clip(nn.Module):
    """The vision tower, and the text tower where zero-shot evaluation asks for it."""

    def __init__(self, shape: ClipShape, quick_gelu: bool, text: bool) -> None:
        super().__init__()
        activation: Any = QuickGELU if quick_gelu else nn.GELU
        self.visual = Vision(
            shape.img_size, shape.patch_size, shape.embed_dim, shape.depth, shape.num_heads, mlp_ratio=4.0,
            output_dim=shape.clip_embed_dim, act_layer=activation,
        )  # fmt: skip
        plain_attention(self.visual)
        self.text = None
        if text:
            of = shape.text
            self.text = TextTransformer(
                of.context_length, of.vocab_size, of.width, of.heads, of.layers,
                output_dim=shape.clip_embed_dim, act_layer=activation,
            )  # fmt: skip

    def forward(self, images: Tensor) -> Features:
        return self.visual(images)
