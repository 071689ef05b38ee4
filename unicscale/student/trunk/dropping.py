"""Paths that are dropped as a pure function of the sample: no generator to save, none to advance twice."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from unicscale import rng
from unicscale.errors import RecipeError

# torch's generator would draw these: neither keyed nor saved, so a resumed run would not be the run
UNKEYED = re.compile(r"drop|_(shift|jitter|rescale)_coords$")


class KeyedDropPath(nn.Module):
    """Drops a residual branch per sample, as drawn beforehand: the same for every world size and after every resume."""

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.rate = rate
        self.factor: Tensor | None = None  # (B,): 0 or 1 / (1 - p)

    def forward(self, x: Tensor) -> Tensor:
        # eager, a path that is never dropped costs nothing; compiled, its factor of 1 is free, and a block that has it
        # is of the same graph as the others: whether it drops is not asked there
        if not self.training or not (torch.compiler.is_compiling() or self.rate):
            return x
        assert self.factor is not None, "Student.set_draws comes before a training forward"
        return x * self.factor.to(x.dtype).view(-1, *[1] * (x.ndim - 1))


def draw(paths: Sequence[nn.Module], rates: Tensor, key: tuple[int, int], index: Tensor) -> None:
    """What the next training forward drops: a function of (seed, step), sample (B,) and the path's place."""
    seed, step = key
    keys = rng.keys_torch(rng.key(seed, rng.Purpose.DROP_PATH, step), index)
    draws = rng.uniforms_torch(keys, len(paths))  # (paths, B)
    factors = ((draws >= rates[:, None]) / (1 - rates[:, None])).float()  # all paths in a handful of kernels
    for path, factor in zip(paths, factors, strict=True):
        if isinstance(path, KeyedDropPath):
            path.factor = factor


def key_paths(model: nn.Module) -> list[KeyedDropPath]:
    """Every drop path of a model of timm's becomes a keyed one; in the order of the module."""
    found = []
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, DropPath):
                rate = float(child.drop_prob or 0.0)
                setattr(parent, name, KeyedDropPath(rate) if rate else nn.Identity())
    for module in model.modules():
        if isinstance(module, KeyedDropPath):
            found.append(module)
    return found


def refuse_unkeyed(options: Mapping[str, Any]) -> None:
    """What a recipe asks of timm that would be drawn from torch's generator."""
    for name, value in options.items():
        if UNKEYED.search(name) and value:
            raise RecipeError(
                f"student.options.{name}: {value!r} is drawn from torch's generator, which no checkpoint holds, "
                "so a resumed run would not be the same run.\n"
                "  `student.drop_path` is drawn from the run's own numbers; leave the other one out."
            )


def silence(model: nn.Module) -> list[str]:
    """Rates that the architecture brings along become 0; the kinds of modules that had one."""
    found = set()
    for module in model.modules():
        if isinstance(module, KeyedDropPath) or "drop" not in type(module).__name__.lower():
            continue
        for name in ("p", "drop_prob", "drop", "prob"):
            rate = vars(module).get(name)
            if isinstance(rate, int | float) and rate:
                setattr(module, name, 0.0)
                found.add(type(module).__name__)
    return sorted(found)
