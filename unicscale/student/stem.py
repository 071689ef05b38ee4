"""Convolutions before the blocks: the small ViTs of a laptop learn far sooner behind them than behind one patch matrix.

After Xiao et al., "Early convolutions help transformers see better" (arXiv:2106.14881).
"""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor, nn


class ConvolutionStem(nn.Module):
    """3x3 convolutions that halve the image until it is the grid of patches; an `embed_layer` for timm."""

    def __init__(
        self, *, img_size: int, patch_size: int, in_chans: int, embed_dim: int, output_fmt: str = "", **unused: object
    ) -> None:
        super().__init__()
        self.as_grid = output_fmt == "NHWC"  # timm's wish where it resizes positions to each image
        halvings = int(math.log2(patch_size))
        if 2**halvings != patch_size:
            raise ValueError(f"a stem of convolutions halves the image: patch {patch_size} is not a power of two")
        widths = [in_chans, *(embed_dim >> i for i in reversed(range(halvings)))]
        steps = [
            layer
            for before, after in pairwise(widths)
            for layer in (nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GELU())
        ]
        self.layers = nn.Sequential(*steps, nn.Conv2d(embed_dim, embed_dim, 1))
        self.patch_size, self.grid_size = (patch_size, patch_size), (img_size // patch_size,) * 2
        self.num_patches = self.grid_size[0] * self.grid_size[1]

    def feat_ratio(self) -> tuple[int, int]:
        """Pixels per patch, as timm asks."""
        return self.patch_size

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, N, D), or (B, h, w, D) where a grid was asked for."""
        x = self.layers(images)
        return x.permute(0, 2, 3, 1) if self.as_grid else x.flatten(2).mT
