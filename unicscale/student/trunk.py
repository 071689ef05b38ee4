"""The trunk: a timm VisionTransformer whose every block can be read, wrapped and resumed."""

from __future__ import annotations

from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from unicscale import rng
from unicscale.contracts import Features
from unicscale.errors import RecipeError, nearest
from unicscale.recipe.sections import SHORT_NAMES, Student
from unicscale.student.stem import ConvolutionStem

Grid = tuple[int, int]


class KeyedDropPath(nn.Module):
    """Drops a residual branch per sample, as drawn beforehand: the same for every world size and after every resume."""

    def __init__(self) -> None:
        super().__init__()
        self.factor: Tensor | None = None  # (B, 1, 1): 0 or 1 / (1 - p)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        assert self.factor is not None, "Student.set_draws comes before a training forward"
        return x * self.factor.to(x.dtype)


class Trunk(nn.Module):
    """timm's parts under timm's parameter names; forward gives every block's raw output."""

    def __init__(self, vit: VisionTransformer, drop_path: float) -> None:
        super().__init__()
        self.patch_embed = vit.patch_embed
        self.patch_embed.strict_img_size = False  # any multiple of the patch: positions are resized below
        self.cls_token = vit.cls_token
        self.reg_token = vit.reg_token
        assert vit.pos_embed is not None
        self.pos_embed = vit.pos_embed
        self.norm_pre = vit.norm_pre
        self.blocks = nn.ModuleList(vit.blocks)
        self.norm = vit.norm
        self.grid: Grid = vit.patch_embed.grid_size  # the one `pos_embed` is for
        self.positions_cover_prefix = not vit.no_embed_class
        self.width, self.depth, self.patch = vit.embed_dim, len(self.blocks), vit.patch_embed.patch_size[0]
        self.prefix = vit.num_prefix_tokens  # CLS and registers
        # some of timm's architectures have it without being asked
        self.layer_scale = float(getattr(self.blocks[0].ls1, "init_values", 0.0))
        self.drop_path_step = drop_path / max(self.depth - 1, 1)  # the rate grows linearly from 0
        for i, block in enumerate(self.blocks):
            dropping = i * self.drop_path_step > 0
            block.drop_path1 = KeyedDropPath() if dropping else nn.Identity()
            block.drop_path2 = KeyedDropPath() if dropping else nn.Identity()

    def forward(self, images: Tensor) -> tuple[list[Tensor], Features]:
        """Normalised images (B, 3, H, W) -> raw blocks [(B, prefix + N, d)], tokens after the final norm."""
        height, width = images.shape[-2:]
        for side in (height, width):
            check_size(side, self.patch)
        # an engine may hold the weights in bf16 without autocast
        x = self.patch_embed(images.to(next(self.patch_embed.parameters()).dtype))  # (B, N, d)
        x = self.norm_pre(self._embed(x, (height // self.patch, width // self.patch)))
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        x = self.norm(x)
        return outputs, Features(x[:, 0], x[:, self.prefix :])

    @property
    def widths(self) -> list[int]:
        """Of each block's output."""
        return [self.width] * self.depth

    def _embed(self, x: Tensor, grid: Grid) -> Tensor:
        positions = self.pos_embed if grid == self.grid else resize_positions(self.pos_embed, self.grid, grid)
        positions = positions.to(x.dtype)
        prefix = [t.expand(len(x), -1, -1).to(x.dtype) for t in (self.cls_token, self.reg_token) if t is not None]
        if self.positions_cover_prefix:
            return torch.cat([*prefix, x], dim=1) + positions
        return torch.cat([*prefix, x + positions], dim=1)

    @torch.no_grad()
    def resize_positions(self, size: int) -> None:
        """Positions for `size` pixels replace those in place; the parameter stays the same object."""
        check_size(size, self.patch)
        grid = (size // self.patch, size // self.patch)
        if grid != self.grid:
            self.pos_embed.data = resize_positions(self.pos_embed, self.grid, grid).to(self.pos_embed.dtype)
            self.grid = grid

    def set_draws(self, key: tuple[int, int], index: Tensor) -> None:
        """What the next training forward drops: a function of (seed, step), sample (B,) and block."""
        seed, step = key
        keys = rng.keys_torch(rng.key(seed, rng.Purpose.DROP_PATH, step), index)
        draws = rng.uniforms_torch(keys, 2 * self.depth).unflatten(0, (self.depth, 2))  # (L, 2, B)
        rates = torch.arange(self.depth, device=index.device).double() * self.drop_path_step
        rates = rates[:, None, None]
        factors = ((draws >= rates) / (1 - rates)).float()[..., None, None]  # all blocks in a handful of kernels
        for i, block in enumerate(self.blocks):
            for half, path in enumerate((block.drop_path1, block.drop_path2)):
                if isinstance(path, KeyedDropPath):
                    path.factor = factors[i, half]


def build_trunk(section: Student, size: int) -> Trunk:
    """The student's trunk for `size` pixels, on meta; `student.initial` says what fills it."""
    arguments: dict[str, Any] = dict(img_size=size, num_classes=0, global_pool="token", drop_path_rate=0.0)
    if section.patch:
        arguments["patch_size"] = section.patch
    if section.registers:
        # as DINOv2's register models in timm: positions are for patches only
        arguments |= dict(reg_tokens=section.registers, no_embed_class=True)
    if section.layer_scale:
        arguments["init_values"] = section.layer_scale
    if section.stem == "convolutions":
        arguments["embed_layer"] = ConvolutionStem
    if section.patch:
        check_size(size, section.patch)
    try:
        with torch.device("meta"):
            vit = _create(section.arch, arguments | section.options)
    except (TypeError, AssertionError, ValueError, RuntimeError) as problem:
        raise RecipeError(f"student: timm cannot build '{section.arch}' with {section.options}: {problem}") from problem
    if not isinstance(vit, VisionTransformer) or vit.cls_token is None or vit.pos_embed is None:
        raise RecipeError(f"student.arch: '{section.arch}' is no plain ViT with a CLS token and learned positions")
    check_size(size, vit.patch_embed.patch_size[0])
    return Trunk(vit, section.drop_path)


def _create(arch: str, arguments: dict[str, Any]) -> nn.Module:
    if arch in SHORT_NAMES:
        width, depth, heads = SHORT_NAMES[arch]
        shape: dict[str, Any] = dict(embed_dim=width, depth=depth, num_heads=heads)
        return VisionTransformer(**shape | arguments)
    if not timm.is_model(arch):
        hint = nearest(arch, [*SHORT_NAMES, *timm.list_models("*vit*")])
        raise RecipeError(f"student.arch: '{arch}' is neither {', '.join(SHORT_NAMES)} nor a model of timm.{hint}")
    return timm.create_model(arch, pretrained=False, **arguments)


def check_size(size: int, patch: int) -> None:
    """Refuse pixels that the patch does not divide, and name the nearest that it does."""
    if size % patch:
        below = size // patch * patch
        near = f"{below} or {below + patch}" if below else f"{patch}"
        raise RecipeError(f"size {size} is not a multiple of the patch, {patch}. The nearest sizes are {near}.")


def resize_positions(table: Tensor, old: Grid, new: Grid) -> Tensor:
    """Positions (1, P + h w, d) of one grid for another: bicubic, no antialias, offset 0.1, as DINOv2 does it."""
    prefix = table.shape[1] - old[0] * old[1]
    lead, rest = table.float().split([prefix, old[0] * old[1]], dim=1)
    rest = rest.unflatten(1, old).permute(0, 3, 1, 2)  # (1, d, h, w)
    scale = [(n + 0.1) / o for n, o in zip(new, old, strict=True)]
    rest = F.interpolate(rest, scale_factor=scale, mode="bicubic", antialias=False)
    return torch.cat([lead, rest.flatten(2).mT], dim=1)
