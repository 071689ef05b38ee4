"""FLOPs of one image by closed formulas over the shapes of modules on meta; a multiply-add is two."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from unicscale.cost.meta import measured
from unicscale.cost.shapes import Shapes
from unicscale.engine.units import LADDER, stacks
from unicscale.recipe.sections import TeacherSection
from unicscale.student.trunk import Trunk
from unicscale.student.trunk.plain import PlainViT


def of_student(shapes: Shapes, size: int) -> dict[str, int]:
    """What is trained, forward and backward."""
    tokens = shapes.tokens(size)
    blocks = [torch.empty(1, tokens, width, device="meta") for width in shapes.trunk.widths]
    return {"student": trained(shapes.trunk, size), "projector": 3 * counted(shapes.projector, blocks)}


def of_teacher(shapes: Shapes, section: TeacherSection, name: str, size: int, side: int) -> int:
    """One forward at `side` pixels, where the student sees `size`."""
    from unicscale.teacher.mosaic import mosaic_of

    one = shapes.teachers[name]
    mosaic = mosaic_of(one.spec, size // shapes.trunk.patch) if section.mosaic else None
    return teacher(one, side) // (mosaic.per_row**2 if mosaic else 1)  # images on one canvas


def encoder(module: nn.Module, patches: int, tokens: int) -> int:
    """A ViT's forward: every matrix of its blocks once per token, attention, and the patch embedding."""
    blocks = [block for path, stack in stacks(module) if path.split(".")[0] != LADDER for block in stack]
    width = width_of(blocks[0])
    matrices = sum(p.numel() for block in blocks for p in block.parameters() if p.ndim > 1)
    return 2 * tokens * matrices + 4 * len(blocks) * tokens**2 * width + stem(module, patches)


def stem(module: nn.Module, patches: int) -> int:
    """The forward of the patch embedding: one convolution, or several that end on the grid of patches."""
    flops, places = 0, patches
    for one in reversed(convolutions(module)):
        flops += 2 * places * one.weight.numel()
        places *= math.prod(one.stride)  # what it reads
    return flops


def convolutions(module: nn.Module) -> list[nn.Conv2d]:
    """In the order in which pixels meet them."""
    return [one for one in module.modules() if isinstance(one, nn.Conv2d)]


def trained(trunk: Trunk, size: int) -> int:
    """Forward and backward, which is twice the forward, except that no pixel wants a gradient.

    Flash attention computes its scores again in backward; that is its own affair, and not counted.
    """
    if type(trunk) is not PlainViT:
        return measured(trunk, size).flops
    patches = (size // trunk.patch) ** 2
    tokens = trunk.prefix + patches
    first, *rest = convolutions(trunk)
    pixels = 2 * patches * first.weight.numel() * math.prod(math.prod(one.stride) for one in rest)
    return 3 * encoder(trunk, patches, tokens) - pixels


def width_of(block: nn.Module) -> int:
    """Of the residual stream: what the block's first norm scales."""
    return next(m.weight.numel() for m in block.modules() if isinstance(m, nn.LayerNorm))


def registers_of(module: nn.Module) -> int:
    """Extra tokens beside CLS and patches."""
    return sum(p.shape[-2] for name, p in module.named_parameters() if name.split(".")[-1].startswith("reg"))


def counted(module: Any, *inputs: Tensor | list[Tensor]) -> int:
    """What torch counts in one forward; for modules that no formula here knows."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*inputs)
    return counter.get_total_flops()


def teacher(frozen: Any, size: int) -> int:
    """One forward at `size` pixels: by formula for a plain ViT, else counted on meta."""
    found = list(stacks(frozen))
    plain = len(found) == 1 and not any(isinstance(m, nn.Conv1d | nn.Conv3d) for m in frozen.modules())
    if plain and len([p for p in frozen.parameters() if p.ndim == 4]) == 1:
        patches = (size // frozen.spec.patch) ** 2
        return encoder(frozen, patches, patches + 1 + registers_of(frozen))
    return counted(frozen, torch.empty(1, 3, size, size, device="meta"))
