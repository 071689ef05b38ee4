"""The units that engines gather, recompute and compile: a transformer's blocks, a ladder's rungs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from unicscale.ranks.device import one_graph
from unicscale.recipe.sections import EngineSection

LADDER = "projector"  # rungs live below this child of the student; every other stack is made of blocks


def stacks(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, list[nn.Module]]]:
    """The outermost containers whose children are all of one kind: blocks, wherever an architecture keeps them."""
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        inside = [m for m in child.children() if any(True for _ in m.parameters())]
        alike = len({type(m) for m in inside}) == 1 and len(inside) == len(list(child.children()))
        many = isinstance(child, nn.ModuleList | nn.ModuleDict) or (
            isinstance(child, nn.Sequential) and len(inside) > 1
        )
        if many and inside and alike and any(True for _ in inside[0].children()):
            yield path, inside
        else:
            yield from stacks(child, f"{path}.")


def units(module: nn.Module) -> list[nn.Module]:
    """All blocks and rungs, in the order of the module."""
    return [unit for _, stack in stacks(module) for unit in stack]


def prepare(student: nn.Module, section: EngineSection, *, compile_ladder: bool = True) -> None:
    """Recompute and compile what the recipe says, before anything is sharded.

    Both replace `forward` on the instance: names stay as they are, and the engines' own hooks stay outside.
    """
    recomputed = {"none": (), "ladder": (True,), "blocks": (False,), "full": (True, False)}[section.checkpointing]
    for path, stack in stacks(student):
        of_ladder = path.split(".")[0] == LADDER
        for unit in stack:
            if of_ladder in recomputed:
                unit.forward = partial(checkpoint, unit.forward, use_reentrant=False)
            if section.compile is True and (compile_ladder or not of_ladder):
                compile_unit(unit)


def compile_units(module: nn.Module) -> None:
    """Every block of a frozen module."""
    for unit in units(module):
        compile_unit(unit)


def compile_unit(unit: nn.Module) -> None:
    """One graph per unit; units of one shape share it."""
    unit.forward = one_graph(unit.forward)
