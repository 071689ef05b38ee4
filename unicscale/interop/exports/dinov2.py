"""DINOv2: a state dict in the layout of its own ViT, which takes it strictly."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from unicscale.interop.exports.plain import dinov2_layout, plain
from unicscale.interop.exports.target import Target, Wishes, resized_by_size, save_through, stored
from unicscale.interop.opened import Opened
from unicscale.student.trunk import Grid, resize_positions

FILE = "dinov2.pth"


class DinoV2(Target):
    """Verified by the reader of DINOv2's official files; without registers its positions are resized as ours are."""

    name, library, of_three = "dinov2", "dinov2", True

    def write(self, opened: Opened, folder: Path, wishes: Wishes) -> None:
        """One .pth of tensors."""
        plain(opened, self.name)
        state = stored(dinov2_layout(opened), wishes.half)
        save_through(folder / FILE, lambda stream: torch.save(state, stream))

    def use(self, opened: Opened, wishes: Wishes) -> str:
        """The teacher plug-in's reader, to which DINOv2's files are official."""
        told = plain(opened, self.name)
        shape = {
            "embed_dim": told.width, "depth": told.depth, "num_heads": told.heads, "patch_size": told.patch,
            "img_size": told.size, "reg_tokens": told.registers, "ffn": "swiglu" if told.swiglu else "mlp",
        }  # fmt: skip
        return (
            "import unicscale\n\n"
            f"shape = {shape}\n"
            f'model = unicscale.load("teacher:dinov2", weights="DIR/{FILE}", options={{"size": shape}})\n'
            "summary, patches = model(images)\n"
        )

    def positions(self, opened: Opened, table: Tensor, old: Grid, new: Grid) -> Tensor:
        """With registers by size and with antialias; without them as ours."""
        if opened.student.trunk.prefix > 1:
            return resized_by_size(table, old, new, antialias=True)
        return resize_positions(table, old, new)

    def note(self, opened: Opened) -> str:
        """What to call DINOv2's own constructor with."""
        told = plain(opened, self.name)
        ffn = "swiglufused" if told.swiglu else "mlp"
        registers = ", interpolate_antialias=True, interpolate_offset=0.0" if told.registers else ""
        return (
            f"In DINOv2's own code: `DinoVisionTransformer(img_size={told.size}, patch_size={told.patch}, "
            f"embed_dim={told.width}, depth={told.depth}, num_heads={told.heads}, init_values=1.0, "
            f'ffn_layer="{ffn}", block_chunks=0, num_register_tokens={told.registers}{registers})`, then '
            "`load_state_dict(torch.load(...), strict=True)`."
        )
