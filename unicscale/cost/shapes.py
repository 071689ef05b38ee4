"""The models of a recipe on meta: shapes without a byte behind them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from unicscale.recipe import Recipe
from unicscale.student.projector import Projector, build_projector
from unicscale.student.trunk import Trunk, build_trunk
from unicscale.teacher.frozen import frozen_of

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 1}


@dataclass(frozen=True, slots=True)
class Shapes:
    """What is trained and who teaches."""

    trunk: Trunk
    projector: Projector
    teachers: dict[str, Any]  # name -> Frozen
    teacher_bytes: dict[str, int]  # of its weights, in the precision it runs in
    small: int  # bytes per number of what the engine computes in

    @classmethod
    def of(cls, recipe: Recipe) -> Shapes:
        """Built, not filled: a second or two for UNIC-L."""
        teachers = {name: frozen_of(name, section) for name, section in recipe.teachers.items()}
        trunk = build_trunk(recipe.student, recipe.sizes[0], recipe.data.channels)
        widths = {name: one.widths for name, one in teachers.items()}
        with torch.device("meta"):
            projector = build_projector(recipe.projector, widths=trunk.widths, prefix=trunk.prefix, teachers=widths)
        own = on_gpus(recipe).engine.dtype
        held = {
            name: numbers(one) * BYTES[own if section.dtype == "auto" else section.dtype]
            for (name, section), one in zip(recipe.teachers.items(), teachers.values(), strict=True)
        }
        return cls(trunk, projector, teachers, held, BYTES[own])

    def tokens(self, size: int) -> int:
        """What the student's blocks read at `size` pixels."""
        return self.trunk.prefix + (size // self.trunk.patch) ** 2


def on_gpus(recipe: Recipe) -> Recipe:
    """The recipe with `auto` as it comes out where plans are for; a recipe for CPUs stays what CPUs compute."""
    can = recipe.engine.device != "cpu"
    return recipe.model_copy(update={"engine": recipe.engine.settled(bf16=can, compiles=can)})


def numbers(module: nn.Module) -> int:
    """How many parameters."""
    return sum(p.numel() for p in module.parameters())


def largest(modules: list[nn.Module]) -> int:
    """Parameters of the largest of some units; 0 of none."""
    return max((numbers(module) for module in modules), default=0)
