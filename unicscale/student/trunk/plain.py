"""Plain ViTs: a timm VisionTransformer whose every block can be read, wrapped and resumed."""

from __future__ import annotations

import copy
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from unicscale.contracts import Features
from unicscale.student.trunk.base import Trunk
from unicscale.student.trunk.dropping import KeyedDropPath, draw
from unicscale.student.trunk.positions import Grid, check_size, resize_positions


class PlainViT(Trunk):
    """timm's parts under timm's parameter names; forward gives every block's raw output."""

    def __init__(self, vit: VisionTransformer | Any, drop_path: float) -> None:
        super().__init__()
        self.patch_embed = vit.patch_embed
        self.patch_embed.strict_img_size = False  # any multiple of the patch: positions are resized below
        self.cls_token = vit.cls_token
        self.reg_token = vit.reg_token
        self.pos_embed = vit.pos_embed
        self.norm_pre = vit.norm_pre
        self.blocks = nn.ModuleList(vit.blocks)
        self.norm = vit.norm
        self.grid: Grid = vit.patch_embed.grid_size  # the one `pos_embed` is for
        self.tables = ("pos_embed",) if vit.pos_embed is not None else ()
        self.positions_cover_prefix = not vit.no_embed_class
        self.widths, self.patch = [vit.embed_dim] * len(self.blocks), vit.patch_embed.patch_size[0]
        self.prefix = vit.num_prefix_tokens  # CLS and registers
        self.uncovered = self.prefix if self.positions_cover_prefix else 0
        self.drop_path_step = drop_path / max(self.depth - 1, 1)  # the rate grows linearly from 0
        for i, block in enumerate(self.blocks):
            for name in ("drop_path1", "drop_path2"):
                setattr(block, name, KeyedDropPath(i * self.drop_path_step) if drop_path else nn.Identity())
        # some of timm's architectures have it without being asked
        self.layer_scale = float(getattr(getattr(self.blocks[0], "ls1", None), "init_values", 0.0))

    def forward(self, images: Tensor) -> tuple[list[Tensor], Features]:
        """Normalised images (B, C, H, W) -> raw blocks [(B, prefix + N, d)], tokens after the final norm."""
        height, width = images.shape[-2:]
        for side in (height, width):
            check_size(side, self.patch)
        grid = (height // self.patch, width // self.patch)
        # an engine may hold the weights in bf16 without autocast
        x = self.patch_embed(images.to(next(self.patch_embed.parameters()).dtype))  # (B, N, d)
        x = self.norm_pre(self._embed(x, grid))
        outputs = self._blocks(x, grid)
        x = self.norm(outputs[-1])
        return outputs, Features(x[:, 0], x[:, self.prefix :])

    def _blocks(self, x: Tensor, grid: Grid) -> list[Tensor]:
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        return outputs

    def _embed(self, x: Tensor, grid: Grid) -> Tensor:
        prefix = [t.expand(len(x), -1, -1).to(x.dtype) for t in (self.cls_token, self.reg_token) if t is not None]
        if self.pos_embed is None:
            return torch.cat([*prefix, x], dim=1)
        positions = self.pos_embed if grid == self.grid else resize_positions(self.pos_embed, self.grid, grid)
        positions = positions.to(x.dtype)
        if self.positions_cover_prefix:
            return torch.cat([*prefix, x], dim=1) + positions
        return torch.cat([*prefix, x + positions], dim=1)

    def at(self, size: int) -> PlainViT:
        """The same ViT with a table for another grid, on meta."""
        check_size(size, self.patch)
        twin = copy.deepcopy(self)
        old, new = self.grid, (size // self.patch, size // self.patch)
        if self.pos_embed is not None:
            tokens = self.pos_embed.shape[1] - old[0] * old[1] + new[0] * new[1]
            twin.pos_embed = nn.Parameter(torch.empty(1, tokens, self.width, device="meta"))
        twin.grid = new
        return twin

    @torch.no_grad()
    def resize_positions(self, size: int) -> None:
        """Positions for `size` pixels replace those in place; the parameter stays the same object."""
        check_size(size, self.patch)
        grid = (size // self.patch, size // self.patch)
        if grid != self.grid and self.pos_embed is not None:
            self.pos_embed.data = resize_positions(self.pos_embed, self.grid, grid).to(self.pos_embed.dtype)
        self.grid = grid

    def set_draws(self, key: tuple[int, int], index: Tensor) -> None:
        """What the next training forward drops: a function of (seed, step), sample (B,) and block."""
        paths: list[Any] = [path for block in self.blocks for path in (block.drop_path1, block.drop_path2)]
        rates = torch.arange(self.depth, device=index.device).double() * self.drop_path_step
        draw(paths, rates.repeat_interleave(2), key, index)
