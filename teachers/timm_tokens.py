"""Summary and patches of any timm model, through the feature interfaces that timm gives all of them."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unicscale.contracts import Features

# two refuse to be asked for the final norm; the third has norms of its hidden states, and of no stage's map
UNNORMED = {"Hiera", "HieraDet", "EfficientViM"}


class Wanted(NamedTuple):
    """Which of a model's tokens are wanted."""

    layers: tuple[int, ...] = (-1,)
    combine: str = "concat"
    pooled: bool = False  # the summary is the head's pooled vector even where there is a CLS
    norm: bool = True  # the final norm, where a model has one before its head
    summary: bool = True
    head_norm: bool = False  # patches go through the norm of the head, as the pooled vector does


def tokens(module: Any, wanted: Wanted, images: Tensor) -> Features:
    """What stands before the classifier: CLS or the pooled vector, and the last map."""
    final, patches, prefixes = features(module, wanted, images)
    if prefixes and not wanted.pooled:
        return Features(_combined([prefix[:, 0] for prefix in prefixes], wanted.combine), patches)
    return Features(_summary(module, wanted, final), patches)


def features(module: Any, wanted: Wanted, images: Tensor) -> tuple[Any, Tensor, list[Tensor]]:
    """What the head is given, the patches (B, N, D), and the prefix tokens of each layer where there is a CLS."""
    if wanted.layers == (-1,) and wanted.norm and hasattr(module, "num_prefix_tokens"):
        said = module.forward_features(images)  # after the final norm
        if isinstance(said, Tensor) and said.ndim == 3:  # (B, prefix + N, D), as ViTs have them
            return said, said[:, module.num_prefix_tokens :], []
    final, maps, prefixes = _intermediates(module, wanted, images)
    if wanted.head_norm and hasattr(module.head, "norm"):
        maps = [module.head.norm(each) for each in maps]
    return final, _combined(maps, wanted.combine).flatten(2).transpose(1, 2), prefixes


def has_cls(module: Any) -> bool:
    """Whether the first token is a CLS: with registers alone it is not."""
    return getattr(module, "cls_token", None) is not None and getattr(module, "num_prefix_tokens", 0) > 0


def _summary(module: Any, wanted: Wanted, final: Any) -> Tensor | None:
    if not wanted.summary:
        return None
    if has_cls(module) and final.ndim == 3 and not wanted.pooled:
        return final[:, 0]
    pooled = module.forward_head(final, pre_logits=True)
    # a head that does not pool leaves its map, or one pixel of it
    return pooled.flatten(1) if pooled.ndim == 4 and pooled.shape[2:] == (1, 1) else pooled


def _intermediates(module: Any, wanted: Wanted, images: Tensor) -> tuple[Any, list[Tensor], list[Tensor]]:
    """The final features, the maps of the layers asked for, and the prefix tokens of each where there is a CLS."""
    takes = inspect.signature(module.forward_intermediates).parameters
    asked = {"indices": list(wanted.layers), "output_fmt": "NCHW"}
    asked |= {"norm": wanted.norm} if "norm" in takes and type(module).__name__ not in UNNORMED else {}
    if has_cls(module) and "return_prefix_tokens" in takes:
        final, pairs = module.forward_intermediates(images, return_prefix_tokens=True, **asked)
        return final, [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    final, maps = module.forward_intermediates(images, **asked)
    return final, list(maps), []


def _combined(parts: list[Tensor], how: str) -> Tensor:
    """Side by side or averaged; maps of several stages on the finest grid among them."""
    if parts[0].ndim == 4:
        finest = max((part.shape[-2:] for part in parts), key=lambda shape: shape[0])
        parts = [p if p.shape[-2:] == finest else F.interpolate(p, finest, mode="bilinear") for p in parts]
    if len(parts) == 1:
        return parts[0]
    if how == "mean" and len({part.shape[1] for part in parts}) > 1:
        raise ValueError(f"layers {', '.join(str(part.shape[1]) for part in parts)} wide cannot be averaged")
    return torch.stack(parts).mean(0) if how == "mean" else torch.cat(parts, dim=1)
