"""Points that belong together: for each in one image the most similar place in another, by patch tokens alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unicscale.evaluate.metrics.probe import as_map

FINER = 4  # than the patches is what is searched: their cosines, bilinear


@torch.no_grad()
def most_similar(source: Tensor, target: Tensor, points: Tensor) -> Tensor:
    """Tokens (N, D) of two images, places (K, 2) as (x, y) shares of the first -> such places of the second."""
    ours, theirs = (F.normalize(as_map(tokens[None].float()), dim=1) for tokens in (source, target))
    at = (2 * points.to(ours) - 1)[None, None]  # -1 and 1 are the outer edges of the outer patches
    asked = F.grid_sample(ours, at, mode="bilinear", padding_mode="border", align_corners=False)  # (1, D, 1, K)
    asked = F.normalize(asked[0, :, 0], dim=0)
    cosines = torch.einsum("dk,dhw->khw", asked, theirs[0])
    finer = F.interpolate(cosines[None], scale_factor=FINER, mode="bilinear", align_corners=False)[0]
    best, side = finer.flatten(1).argmax(1), finer.shape[-1]
    return torch.stack([best % side + 0.5, best // side + 0.5], dim=1) / side
