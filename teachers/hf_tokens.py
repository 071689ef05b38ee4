"""Summary and patches of any vision model of transformers, whatever the shape in which it answers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from unicscale.contracts import Features

CLASS_TOKENS = ("cls_token", "class_embedding", "class_token", "cls_register_token")
OTHER_TOKENS = ("distillation_token", "register_tokens", "register_token", "reg_token", "mem_tokens")
LAST = ("sam2", "sam3", "edgetam", "hiera_det")  # model types whose maps keep their channels last


def tokens(module: Any, forward: Callable[..., Any], images: Tensor) -> Features:
    """Of pixels in the model's own normalisation; `forward` is the module's own."""
    said = forward(**_inputs(module.config, inspect.signature(forward).parameters, images))
    dense = getattr(said, "features", None)  # RADIO's names
    if isinstance(dense, Tensor) and isinstance(getattr(said, "summary", None), Tensor):
        return Features(said.summary, dense)
    last = getattr(said, "last_hidden_state", None)
    if last is None:
        last = said.feature_maps[-1]
    pooled = getattr(said, "pooler_output", None)
    if getattr(said, "cls_token_value", None) is not None:  # CvT's, beside its map
        pooled = said.cls_token_value[:, 0]
    if pooled is not None and pooled.ndim > 2:
        pooled = pooled.flatten(1) if pooled.shape[2:].numel() == 1 else None
    if last.ndim == 4:
        channels_last = last.shape[1] == last.shape[2] != last.shape[3] or (
            last.shape[1] == last.shape[2] and str(module.config.model_type).startswith(LAST)
        )
        return Features(pooled, last.flatten(1, 2) if channels_last else last.flatten(2).transpose(1, 2))
    first, others = prefix_of(module)
    return Features(last[:, 0] if first else pooled, last[:, first + others :])


def prefix_of(module: Any) -> tuple[int, int]:
    """How many CLS tokens stand before the patches, and how many registers and the like behind them."""
    counts = [0, 0]
    if module.config.model_type == "dinov3_convnext":  # its pooled vector stands where others have a CLS
        return 1, 0
    for name, parameter in module.named_parameters():
        if "head" in name:  # the query of a pooling head is no token of the image
            continue
        for which, names in enumerate((CLASS_TOKENS, OTHER_TOKENS)):
            if name.rpartition(".")[2] in names:
                counts[which] += parameter.shape[-2] if parameter.ndim > 1 else 1
    return counts[0], counts[1]


def _inputs(config: Any, takes: Any, images: Tensor) -> dict[str, Any]:
    if "spatial_shapes" in takes:
        return _packed(images, config.patch_size)
    asked: dict[str, Any] = {"pixel_values": images}
    own = getattr(config, "image_size", None)
    own = max(own) if isinstance(own, list | tuple) else own
    if "interpolate_pos_encoding" in takes and images.shape[-1] != own:
        asked["interpolate_pos_encoding"] = True
    if "noise" in takes:  # a masked autoencoder sorts its patches by noise: in rising order they stay where they are
        count = (images.shape[-1] // config.patch_size) * (images.shape[-2] // config.patch_size)
        asked["noise"] = torch.arange(count, device=images.device, dtype=torch.float32).expand(len(images), -1)
    return asked


def _packed(images: Tensor, patch: int) -> dict[str, Any]:
    """As NaFlex models want them: patches in a row, their pixels channel by channel last, and the shape of the grid."""
    batch, channels, height, width = images.shape
    rows, columns = height // patch, width // patch
    cut = images.view(batch, channels, rows, patch, columns, patch).permute(0, 2, 4, 3, 5, 1)
    return {
        "pixel_values": cut.reshape(batch, rows * columns, patch * patch * channels),
        "pixel_attention_mask": None,  # nothing is padded
        # on the host: the model reads numbers from it
        "spatial_shapes": torch.tensor([[rows, columns]] * batch, device="cpu"),
    }
