"""timm: a folder for `timm.create_model("local-dir:...")`, laid out as on the hub ("hf-hub:ORG/NAME")."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from unicscale.errors import CheckpointError
from unicscale.interop.exports.plain import Plain, plain
from unicscale.interop.exports.target import Target, Wishes, resized_by_size, stored
from unicscale.interop.opened import Opened
from unicscale.student.trunk import Grid
from unicscale.student.trunk.maps import MapTrunk
from unicscale.student.trunk.rope import RopeViT


class Timm(Target):
    """Read by plain timm, whose positions are resized by its own rule where images have another size."""

    name, library, needs = "timm", "timm", ("timm",)

    def write(self, opened: Opened, folder: Path, wishes: Wishes) -> None:
        """config.json and model.safetensors."""
        said, _ = self._form(opened)
        state = stored(opened.student.trunk.state_dict(), wishes.half)
        save_file(state, folder / "model.safetensors", {"format": "pt"})
        of = said | {"pretrained_cfg": pretrained_cfg(opened, wishes.licence) | said["pretrained_cfg"]}
        (folder / "config.json").write_text(json.dumps(of, indent=2) + "\n")

    def use(self, opened: Opened, wishes: Wishes) -> str:
        """`create_model`, from the folder."""
        _, lines = self._form(opened)
        return f'import timm\n\nmodel = timm.create_model("local-dir:DIR", pretrained=True).eval()\n{lines}'

    def _form(self, opened: Opened) -> tuple[dict[str, Any], str]:
        """The architecture with its arguments, and lines that make tokens of what it answers."""
        trunk = opened.student.trunk
        if isinstance(trunk, MapTrunk):
            return as_it_is(trunk), _map_lines(trunk, opened)
        said = as_it_is(trunk) if isinstance(trunk, RopeViT) else config(plain(opened, self.name), len(opened.mean))
        lines = (
            f"tokens = model.forward_features(images)  # (B, {trunk.prefix} + N, {trunk.width})\n"
            f"summary, patches = tokens[:, 0], tokens[:, {trunk.prefix}:]\n"
        )
        return said, lines

    def positions(self, opened: Opened, table: Tensor, old: Grid, new: Grid) -> Tensor:
        """With antialias, by size."""
        return resized_by_size(table, old, new, antialias=True)


def as_it_is(trunk: RopeViT | MapTrunk) -> dict[str, Any]:
    """An architecture of timm's own, with the arguments that it was built with."""
    size = trunk.grid[0] * trunk.patch
    arguments = trunk.wish.arguments | ({"img_size": size} if "img_size" in trunk.wish.arguments else {})
    return {
        "architecture": trunk.wish.arch,
        "num_classes": 0,
        "num_features": trunk.width,
        "model_args": arguments | {"num_classes": 0},
        "pretrained_cfg": {},
    }


@torch.no_grad()
def _map_lines(trunk: MapTrunk, opened: Opened) -> str:
    """Of a model that ends in maps of the student's own grid; CheckpointError for any other."""
    images = torch.zeros(1, len(opened.mean), opened.size, opened.size)
    final: Any = trunk.model.forward_features(images) if not trunk.form.with_prefix else None  # type: ignore[operator]
    shape = tuple(final.shape) if isinstance(final, Tensor) else ()
    first, last = (1, trunk.width, *trunk.grid), (1, *trunk.grid, trunk.width)
    if not trunk.form.pools or shape not in (first, last):
        raise CheckpointError(
            f"--to timm: '{trunk.wish.arch}' ends in no map of {trunk.grid[0]}×{trunk.grid[1]} cells with a pooling of "
            "its own, so that no line of timm's gives the student's tokens.\n"
            "  These hold every student: --to onnx, --to torch, --to safetensors."
        )
    flat = "final.flatten(2).mT" if shape == first else "final.flatten(1, 2)"
    return (
        "final = model.forward_features(images)\n"
        f"summary, patches = model.forward_head(final, pre_logits=True), {flat}\n"
    )


def config(told: Plain, channels: int = 3) -> dict[str, Any]:
    """timm's config.json; every number is said, so that no default of timm's may change the model."""
    # timm takes int(width * ratio), of both halves of SwiGLU together
    ratio = (told.hidden * (2 if told.swiglu else 1) + 0.5) / told.width
    arguments: dict[str, Any] = {
        "img_size": told.size, "patch_size": told.patch, "embed_dim": told.width, "depth": told.depth,
        "num_heads": told.heads, "mlp_ratio": ratio, "qkv_bias": told.qkv_bias, "num_classes": 0,
        "global_pool": "token", "init_values": 1.0 if told.layer_scale else None, "reg_tokens": told.registers,
        "no_embed_class": told.registers > 0, "dynamic_img_size": True,
    }  # fmt: skip
    arguments |= {} if channels == 3 else {"in_chans": channels}
    return {
        "architecture": "vit_giant_patch14_dinov2" if told.swiglu else "vit_base_patch16_224",
        "num_classes": 0,
        "num_features": told.width,
        "global_pool": "token",
        "model_args": arguments,
        "pretrained_cfg": {"pool_size": None, "first_conv": "patch_embed.proj", "classifier": "head"},
    }


def pretrained_cfg(opened: Opened, licence: str) -> dict[str, Any]:
    """What timm's transforms and the hub read."""
    return {
        "input_size": [len(opened.mean), opened.size, opened.size],
        "fixed_input_size": False,
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "crop_mode": "center",
        "mean": list(opened.mean),
        "std": list(opened.std),
        "num_classes": 0,
        "license": licence,
    }
