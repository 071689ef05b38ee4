"""The towers of any CLIP, giving the pooled token and the patches of open_clip's three kinds of image tower."""

from __future__ import annotations

from typing import Any

from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from unicscale_teachers.clip_towers import plain_attention
from unicscale_teachers.timm_tokens import Wanted, features

from unicscale.contracts import Features

WANTED = Wanted()


class Towers(nn.Module):
    """`proj` stands apart from its tower: the summary is the token before it, as with our other CLIPs."""

    def __init__(self, visual: Any, text: Any | None) -> None:
        super().__init__()
        self.visual, self.text = visual, text
        self.proj: nn.Parameter | None = None
        if isinstance(visual, VisionTransformer) and visual.proj is not None:
            self.proj, visual.proj = visual.proj, None
        if isinstance(visual, VisionTransformer):
            visual.output_tokens = False
            plain_attention(visual)

    def forward(self, images: Tensor) -> Features:
        visual = self.visual
        if isinstance(visual, TimmModel):
            trunk: Any = visual.trunk
            final, patches, _ = features(trunk, WANTED, images)
            return Features(visual.head(trunk.forward_head(final)), patches)
        # a norm that belongs to the pooled token has another width, or was never trained on patches
        own_norm = getattr(visual, "attn_pool", None) is not None or getattr(visual, "final_ln_after_pool", False)
        said = visual.forward_intermediates(images, indices=1, normalize_intermediates=not own_norm)
        patches = said["image_intermediates"][-1]  # (B, D, h, w)
        return Features(said["image_features"], patches.flatten(2).transpose(1, 2))
