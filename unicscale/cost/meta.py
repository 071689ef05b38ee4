"""What a trunk without a formula costs: one image through it on meta, counted and weighed by torch."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from unicscale.engine.units import units
from unicscale.student.trunk import Trunk
from unicscale.student.trunk.timm_model import wholly_on_meta

ROOT = -1  # what lies in no unit


class Measured(NamedTuple):
    """Of one image, forward and backward."""

    flops: int
    kept: dict[int, int]  # numbers that autograd keeps, by unit
    inputs: int  # numbers that enter units: all that is kept where units are recomputed


def measured(trunk: Trunk, size: int) -> Measured:
    """On a copy, so that nothing of the trunk changes."""
    twin: Any = wholly_on_meta(trunk.at(size)).train()
    own = {parameter.untyped_storage()._cdata for parameter in twin.parameters()}
    inside, inputs, held = [ROOT], [0], dict[int, tuple[int, Tensor]]()

    def enter(number: int, module: nn.Module, given: tuple[Any, ...]) -> None:
        inside[0] = number
        inputs[0] += sum(x.numel() for x in given if isinstance(x, Tensor))

    def leave(module: nn.Module, given: tuple[Any, ...], answer: Any) -> None:
        inside[0] = ROOT

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in own:
            held.setdefault(storage, (inside[0], tensor))
        return tensor

    for number, unit in enumerate(units(twin)):
        unit.register_forward_pre_hook(partial(enter, number))
        unit.register_forward_hook(leave)
    twin.set_draws((0, 0), torch.zeros(1, dtype=torch.int64, device="meta"))
    with FlopCounterMode(display=False) as counter, torch.enable_grad():
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            blocks, _ = twin(torch.empty(1, trunk.channels.count, size, size, device="meta"))
        torch.stack([block.sum() for block in blocks]).sum().backward()
    kept: dict[int, int] = defaultdict(int)
    for number, tensor in held.values():
        kept[number] += tensor.untyped_storage().nbytes() // 4
    return Measured(counter.get_total_flops(), dict(kept), inputs[0])
