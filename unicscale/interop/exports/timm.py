"""timm: a folder for `timm.create_model("local-dir:...")`, laid out as on the hub ("hf-hub:ORG/NAME")."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from unicscale.interop.exports.plain import Plain, plain
from unicscale.interop.exports.target import Target, Wishes, resized_by_size, stored
from unicscale.interop.opened import Opened
from unicscale.student.trunk import Grid


class Timm(Target):
    """Read by plain timm, whose positions are resized by its own rule where images have another size."""

    name, library, needs = "timm", "timm", ("timm",)

    def write(self, opened: Opened, folder: Path, wishes: Wishes) -> None:
        """config.json and model.safetensors."""
        told = plain(opened, self.name)
        state = stored(opened.student.trunk.state_dict(), wishes.half)
        save_file(state, folder / "model.safetensors", {"format": "pt"})
        (folder / "config.json").write_text(json.dumps(config(opened, told, wishes.licence), indent=2) + "\n")

    def use(self, opened: Opened, wishes: Wishes) -> str:
        """`create_model`, from the folder."""
        prefix = opened.student.trunk.prefix
        return (
            "import timm\n\n"
            'model = timm.create_model("local-dir:DIR", pretrained=True).eval()\n'
            f"tokens = model.forward_features(images)  # (B, {prefix} + N, {opened.student.trunk.width})\n"
            f"summary, patches = tokens[:, 0], tokens[:, {prefix}:]\n"
        )

    def positions(self, opened: Opened, table: Tensor, old: Grid, new: Grid) -> Tensor:
        """With antialias, by size."""
        return resized_by_size(table, old, new, antialias=True)


def config(opened: Opened, told: Plain, licence: str) -> dict[str, Any]:
    """timm's config.json; every number is said, so that no default of timm's may change the model."""
    # timm takes int(width * ratio), of both halves of SwiGLU together
    ratio = (told.hidden * (2 if told.swiglu else 1) + 0.5) / told.width
    arguments: dict[str, Any] = {
        "img_size": told.size, "patch_size": told.patch, "embed_dim": told.width, "depth": told.depth,
        "num_heads": told.heads, "mlp_ratio": ratio, "qkv_bias": told.qkv_bias, "num_classes": 0,
        "global_pool": "token", "init_values": 1.0 if told.layer_scale else None, "reg_tokens": told.registers,
        "no_embed_class": told.registers > 0, "dynamic_img_size": True,
    }  # fmt: skip
    return {
        "architecture": "vit_giant_patch14_dinov2" if told.swiglu else "vit_base_patch16_224",
        "num_classes": 0,
        "num_features": told.width,
        "global_pool": "token",
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [3, told.size, told.size],
            "fixed_input_size": False,
            "interpolation": "bicubic",
            "crop_pct": 0.875,
            "crop_mode": "center",
            "mean": list(opened.mean),
            "std": list(opened.std),
            "num_classes": 0,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
            "license": licence,
        },
    }
