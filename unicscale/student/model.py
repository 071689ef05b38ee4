"""Trunk and projector -> what the student has seen; and what each of its parameters starts from."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from unicscale import rng
from unicscale.contracts import IMAGENET_MEAN, IMAGENET_STD, Seen, Widths, normalise
from unicscale.recipe import sections
from unicscale.student.projector import Projector, build_projector, refuse_idle_blocks
from unicscale.student.trunk import Trunk, build_trunk


class Student(nn.Module):
    """Images in, `Seen` out; without a projector the answers are empty."""

    def __init__(self, trunk: Trunk, projector: Projector | None = None) -> None:
        super().__init__()
        self.trunk, self.projector = trunk, projector
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(not frozen(name))

    def forward(self, images: Tensor) -> Seen:
        """uint8 (B, 3, H, W), or floats that are already normalised."""
        if not images.is_floating_point():
            images = normalise(images, IMAGENET_MEAN, IMAGENET_STD)
        blocks, features = self.trunk(images)
        return Seen(features, self.projector(blocks) if self.projector is not None else {})

    def set_draws(self, key: tuple[int, int], index: Tensor) -> None:
        """Before each training forward: (seed, step) and the samples' numbers (B,) say which paths are dropped."""
        self.trunk.set_draws(key, index)

    def resize_positions(self, size: int) -> None:
        """At a stage change: the position parameter becomes that of `size` pixels, so exports need no interpolation."""
        self.trunk.resize_positions(size)

    def initial(self, name: str, shape: Sequence[int], seed: int) -> Tensor:
        """The initial value of one parameter of this student."""
        return initial(name, shape, seed, patch=self.trunk.patch, layer_scale=self.trunk.layer_scale)


def build_student(
    section: sections.Student, projector: sections.Projector, dims: Mapping[str, Widths | int], size: int
) -> Student:
    """The whole student on meta: no memory, no values. `dims`: how wide each teacher's tokens are."""
    trunk = build_trunk(section, size)
    teachers = {name: Widths.of(wide) for name, wide in dims.items()}
    with torch.device("meta"):
        head = build_projector(projector, widths=trunk.widths, prefix=trunk.prefix, teachers=teachers)
    refuse_idle_blocks(head, trunk.depth)
    return Student(trunk, head)


def frozen(name: str) -> bool:
    """The final norm, because the ladder reads raw blocks; and a mask token, which nothing uses."""
    return name.startswith("trunk.norm.") or name.endswith("mask_token")


def initial(name: str, shape: Sequence[int], seed: int, *, patch: int = 16, layer_scale: float = 0.0) -> Tensor:
    """One parameter's initial value in fp32 on the CPU: a function of (seed, name), whatever the world or engine."""
    value = torch.empty(tuple(shape))
    generator = torch.Generator().manual_seed(rng.key(seed, rng.Purpose.INIT, _number(name)))
    parent, _, leaf = name.rpartition(".")
    if "patch_embed.proj" in parent:
        # torch's default for convolutions, of which the bias's depends on the weight's fan-in
        bound = 1 / math.sqrt(3 * patch * patch if leaf == "bias" else math.prod(shape[1:]))
        return value.uniform_(-bound, bound, generator=generator)
    if len(shape) == 4:  # a convolution of the stem, as torch fills it
        bound = 1 / math.sqrt(math.prod(shape[1:]))
        return value.uniform_(-bound, bound, generator=generator)
    if leaf in ("cls_token", "reg_token"):
        return value.normal_(std=1e-6, generator=generator)
    if leaf == "gamma":
        return value.fill_(layer_scale)
    if leaf in ("bias", "mask_token"):
        return value.zero_()
    if len(shape) == 1:  # the weight of a norm
        return value.fill_(1.0)
    return nn.init.trunc_normal_(value, std=0.02, generator=generator)


def _number(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
