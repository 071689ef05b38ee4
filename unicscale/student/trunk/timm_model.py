"""A model of timm without its weights, and the values that timm would start them from."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import timm
import torch
from torch import nn

from unicscale import rng
from unicscale.student.trunk.base import First


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
        with parameters_on_meta():
            return self.create()

    def first(self, seed: int) -> First:
        """timm's own initial values: of (seed, architecture), whatever the world or engine; held while asked for."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(rng.key(seed, rng.Purpose.INIT, crc32(self.arch.encode())) >> 1)
            model = self.create()
        values = dict(model.named_parameters()) | dict(model.named_buffers())
        return lambda name, shape: values[name].detach().float()


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Inside, a module's parameters lose their memory as soon as they are registered; buffers keep theirs.

    `torch.device("meta")` would take the buffers too, and with them the tables that only a constructor computes.
    """
    register = nn.Module.register_parameter

    def on_meta(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        register(self, name, param)
        if param is not None and not param.is_meta:
            self._parameters[name] = nn.Parameter(param.detach().to("meta"), requires_grad=param.requires_grad)

    nn.Module.register_parameter = on_meta  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def wholly_on_meta(model: nn.Module) -> nn.Module:
    """A copy whose buffers are there too: shapes can be asked of it, numbers cannot."""
    return copy.deepcopy(model)._apply(lambda t: t if t.is_meta else t.to("meta"))
