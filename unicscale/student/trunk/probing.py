"""What a model of timm gives: asked on meta, where shapes and gradients exist and numbers do not."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unicscale.errors import RecipeError
from unicscale.student.trunk.dropping import KeyedDropPath
from unicscale.student.trunk.timm_model import wholly_on_meta

IMAGES = 3  # of a probe: no axis of anything else has this length by chance
SAID = 160  # letters of somebody else's message


@dataclass(frozen=True)
class Form:
    """How its outputs become blocks."""

    with_prefix: bool  # tokens with a CLS in front; else maps
    prefix: int  # tokens in front of the patches of every block
    prefix_tokens: int  # tokens in front of the patches inside the model
    channels: int  # of what it ends in
    widths: list[int]
    sides: list[int]  # of each stage's map
    ends_in_final: bool  # matrices stand behind the last stage: what they give is the last block
    pools: bool  # its own pooling gives the summary; else the mean
    unread: frozenset[str]  # parameters that no block depends on


def outputs_of(model: Any, images: Tensor, with_prefix: bool) -> tuple[Any, list[Any]]:
    """What it ends in, and every stage: maps (B, C, h, w), or pairs of patches (B, N, C) and prefix (B, P, C)."""
    if with_prefix:
        return model.forward_intermediates(images, return_prefix_tokens=True, output_fmt="NLC")
    return model.forward_intermediates(images, output_fmt="NCHW")


def as_maps(final: Any, last: Tensor, channels: int) -> Tensor | None:
    """What a model ends in as (B, C, h, w), however timm lays it out; None where it is no map."""
    if not isinstance(final, Tensor):
        return None
    height, width = last.shape[-2:]
    if final.ndim == 4:
        if final.shape[1] == channels:
            return final
        return final.permute(0, 3, 1, 2) if final.shape[3] == channels else None
    if final.ndim == 3 and final.shape[2] == channels and final.shape[1] >= height * width:
        return final[:, final.shape[1] - height * width :].mT.unflatten(2, (height, width))
    return None


def probe(model: nn.Module, height: int, width: int, channels: int, training: bool = True) -> Form:
    """One forward and backward; RecipeError with the model's own words where it cannot."""
    model = wholly_on_meta(model).train(training).requires_grad_(True)
    for module in model.modules():
        if isinstance(module, KeyedDropPath):
            module.factor = torch.empty(IMAGES, device="meta")
    images = torch.empty(IMAGES, channels, height, width, device="meta")
    try:
        with torch.enable_grad():  # engines ask in the middle of a change of size
            return _form(model, images)
    except RecipeError:
        raise
    except Exception as problem:  # whatever a library of a hundred architectures trips over
        said = f"{type(problem).__name__}: {str(problem).strip() or 'no reason given'}"
        raise RecipeError(said.splitlines()[0][:SAID]) from problem


def layers_of(model: nn.Module, size: int, channels: int) -> dict[str, int]:
    """For each parameter the first stage, from 1, that depends on it."""
    model, found = wholly_on_meta(model).eval().requires_grad_(True), dict[str, int]()
    with torch.enable_grad():
        _, stages = outputs_of(model, torch.empty(IMAGES, channels, size, size, device="meta"), _prefix_of(model) > 0)
        for number, stage in enumerate(stages, start=1):
            for name in _reached(model, list(stage) if isinstance(stage, tuple) else [stage]):
                found.setdefault(name, number)
    return found


def _form(model: Any, images: Tensor) -> Form:
    prefix, channels = _prefix_of(model), getattr(model, "num_features", 0)
    final, stages = outputs_of(model, images, prefix > 0)
    if not stages:
        raise RecipeError("it gives no stages")
    names = {name for name, _ in model.named_parameters()}
    if prefix:
        blocks = [torch.cat([first, patches], dim=1) for patches, first in stages]
        sides = [math.isqrt(patches.shape[1]) for patches, _ in stages]
        widths = [block.shape[2] for block in blocks]
        unread = frozenset(names - _reached(model, blocks))
        return Form(True, prefix, prefix, channels, widths, sides, False, False, unread)
    maps = as_maps(final, stages[-1], channels)
    read, ends_in_final = _reached(model, stages), False
    if maps is not None:
        with_final = _reached(model, [final])
        ends_in_final = maps.shape[1] != stages[-1].shape[1] or _matrices(model, with_final - read)
        if ends_in_final:
            stages, read = [*stages[:-1], maps], read | with_final
    return Form(
        False,
        1,
        getattr(model, "num_prefix_tokens", 0),
        channels,
        [stage.shape[1] for stage in stages],
        [stage.shape[3] for stage in stages],
        ends_in_final,
        maps is not None and _pools(model, final, maps.shape[1], names - read),
        frozenset(names - read),
    )


def _prefix_of(model: Any) -> int:
    """Tokens in front of the patches, where the model can give them; 0 where it only gives maps."""
    takes = inspect.signature(model.forward_intermediates).parameters
    return getattr(model, "num_prefix_tokens", 0) if "return_prefix_tokens" in takes else 0


def _reached(model: nn.Module, outputs: list[Tensor]) -> set[str]:
    """Parameters that these depend on."""
    named = dict(model.named_parameters())
    total = torch.stack([output.sum() for output in outputs]).sum()
    gradients = torch.autograd.grad(total, list(named.values()), retain_graph=True, allow_unused=True)
    return {name for name, gradient in zip(named, gradients, strict=True) if gradient is not None}


def _matrices(model: nn.Module, names: set[str]) -> bool:
    return any(model.get_parameter(name).ndim > 1 for name in names)


def _pools(model: Any, final: Any, channels: int, unread: set[str]) -> bool:
    """Whether the model's own pooling is a mean and at most a norm: then it is what timm calls the image's features."""
    if _matrices(model, unread):
        return False
    try:
        pooled = model.forward_head(final, pre_logits=True)
    except Exception:  # some heads only classify
        return False
    return isinstance(pooled, Tensor) and pooled.shape == (IMAGES, channels)
