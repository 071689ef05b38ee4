"""A model of timm without its weights, and the values that timm would start them from."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import timm
import torch
from torch import nn

from unicscale import rng
from unicscale.student.trunk.base import First
from unicscale.student.trunk.weightless import weightless


@dataclass(frozen=True)
class Wish:
    """What timm is asked for."""

    arch: str
    arguments: dict[str, Any]

    def create(self) -> nn.Module:
        """The model, with timm's own initial values."""
        return timm.create_model(self.arch, pretrained=False, num_classes=0, **self.arguments)

    def weightless(self) -> nn.Module:
        """Parameters on meta, where they weigh nothing; masks and rotary tables as they are, for no file holds them."""
        return weightless(self.create)

    def first(self, seed: int) -> First:
        """timm's own initial values: of (seed, architecture), whatever the world or engine; held while asked for."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(rng.key(seed, rng.Purpose.INIT, crc32(self.arch.encode())) >> 1)
            model = self.create()
        values = dict(model.named_parameters()) | dict(model.named_buffers())
        return lambda name, shape: values[name].detach().float()


def wholly_on_meta(model: nn.Module) -> nn.Module:
    """A copy whose buffers are there too: shapes can be asked of it, numbers cannot."""
    return copy.deepcopy(model)._apply(lambda t: t if t.is_meta else t.to("meta"))
