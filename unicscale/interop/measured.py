"""A plain ViT whose sizes are read off its tensors: files seldom say them, and what they say may be wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from unicscale.recipe import sections
from unicscale.student.trunk import Trunk, build_trunk

HEAD_WIDTH = 64  # per attention head, in every released model
# DINOv2's names and timm's, where they differ
DINOV2 = (("mlp.w12.", "mlp.fc1."), ("mlp.w3.", "mlp.fc2."), ("register_tokens", "reg_token"))
SWIGLU = "vit_giant_patch14_dinov2"  # timm's only plain ViT with such layers


def trunk_of(
    weights: Mapping[str, Tensor], heads: int | None = None, channels: sections.Channels = sections.COLOURS
) -> tuple[Trunk, sections.Student, int]:
    """The trunk that `trunk.*` fits, on meta, the section that asks for it, and its size in pixels.

    With registers, positions are for patches only, as in timm. KeyError where it is no plain ViT.
    """
    width, _, patch, _ = weights["trunk.patch_embed.proj.weight"].shape
    registers = weights["trunk.reg_token"].shape[1] if "trunk.reg_token" in weights else 0
    positions = weights["trunk.pos_embed"].shape[1] - (0 if registers else 1)
    grid = math.isqrt(positions)
    depth = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("trunk.blocks."))
    if depth > len(weights):  # a name of nine digits must not cost an hour
        raise KeyError(f"it names block {depth - 1}, and holds {len(weights)} tensors")
    hidden, inner = len(weights["trunk.blocks.0.mlp.fc1.weight"]), weights["trunk.blocks.0.mlp.fc2.weight"].shape[1]
    ratio = hidden / width
    options = {
        "embed_dim": width,
        "depth": depth,
        "num_heads": heads or max(width // HEAD_WIDTH, 1),
        # timm takes int(width * ratio): the half keeps 1022.999... from losing a channel
        "mlp_ratio": ratio if int(width * ratio) == hidden else (hidden + 0.5) / width,
        "qkv_bias": "trunk.blocks.0.attn.qkv.bias" in weights,
    }
    scaled = float("trunk.blocks.0.ls1.gamma" in weights)
    if hidden == 2 * inner:
        arch, options["init_values"] = SWIGLU, scaled or None
    else:
        arch = "vit_base"
    section = sections.Student(
        arch=arch, patch=patch, drop_path=0.0, registers=registers, layer_scale=scaled, options=options
    )
    return build_trunk(section, grid * patch, channels), section, grid * patch


def without_first_position(weights: dict[str, Tensor]) -> None:
    """A table that covers CLS but no registers, as DINOv2's: its first row moves into the CLS token."""
    first, rest = weights["trunk.pos_embed"].split([1, weights["trunk.pos_embed"].shape[1] - 1], dim=1)
    weights["trunk.pos_embed"] = rest
    weights["trunk.cls_token"] = weights["trunk.cls_token"] + first
