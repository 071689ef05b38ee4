"""Modules whose parameters weigh nothing, and whose buffers keep numbers: masks and rotary tables are in no file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def weightless(create: Callable[[], M]) -> M:
    """What `create` makes, its parameters on meta as soon as they are registered.

    `torch.device("meta")` would take the buffers too. A module that computes tables where its parameters lie, or shows
    itself an image, is made whole first: that costs its memory once.
    """
    try:
        with _parameters_on_meta():
            module = create()
        if not any(buffer.is_meta for buffer in module.buffers()):
            return module
    except Exception:  # whatever a foreign constructor meets: made whole, it either succeeds or says the same again
        pass
    module = create()
    moved: dict[nn.Parameter, nn.Parameter] = {}  # one that has two names stays one
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and not parameter.is_meta:
                part._parameters[name] = moved.setdefault(parameter, _on_meta(parameter))
    return module


def _on_meta(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    register = nn.Module.register_parameter

    def on_meta(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        register(self, name, param)
        if param is not None and not param.is_meta:
            self._parameters[name] = _on_meta(param)

    nn.Module.register_parameter = on_meta  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
