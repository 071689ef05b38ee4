"""Trunk and projector -> what the student has seen; and what each of its parameters starts from."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from unicscale import rng
from unicscale.contracts import Seen, Widths, normalise
from unicscale.errors import RecipeError
from unicscale.recipe import sections
from unicscale.student.projector import Projector, build_projector, refuse_idle_blocks
from unicscale.student.trunk import Trunk, build_trunk
from unicscale.student.trunk.batch_norm import RUNNING, SEEN


class Student(nn.Module):
    """Images in, `Seen` out; without a projector the answers are empty."""

    def __init__(self, trunk: Trunk, projector: Projector | None = None, kept: Collection[int] = ()) -> None:
        super().__init__()
        self.trunk, self.projector = trunk, projector
        self.kept = frozenset(kept)  # layers of the trunk that are never trained
        self.source: Callable[[], Mapping[str, Tensor]] | None = None  # reads what some parameters start from
        self._freeze()

    def _freeze(self) -> None:
        unread = {f"trunk.{name}" for name in self.trunk.unread}
        if self.kept:
            unread |= {f"trunk.{n}" for n, _ in self.trunk.named_parameters() if self.trunk.layer_of(n) in self.kept}
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(not (frozen(name) or name in unread))

    def forward(self, images: Tensor) -> Seen:
        """uint8 (B, C, H, W), or floats that are already normalised."""
        if not images.is_floating_point():
            images = normalise(images, self.trunk.channels.mean, self.trunk.channels.std)
        blocks, features = self.trunk(images)
        return Seen(features, self.projector(blocks) if self.projector is not None else {})

    def set_draws(self, key: tuple[int, int], index: Tensor) -> None:
        """Before each training forward: (seed, step) and the samples' numbers (B,) say which paths are dropped."""
        self.trunk.set_draws(key, index)

    def resize_positions(self, size: int) -> None:
        """At a stage change: the position parameter becomes that of `size` pixels, so exports need no interpolation."""
        self.trunk.resize_positions(size)

    def _fitted(self, name: str, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
        fitted = self.trunk.fit(tensor, shape)
        assert fitted is not None, name  # whoever gave it has compared the shapes
        return fitted.float()

    def twin(self) -> Student:
        """A copy that is to be filled: it has no use for what its blueprint starts from."""
        twin = copy.deepcopy(self)
        twin.source = None
        return twin

    def grow(self, size: int) -> None:
        """A student on meta becomes that of `size` pixels."""
        self.trunk = self.trunk.at(size)
        self._freeze()

    def rates(self, section: sections.EngineSection) -> dict[str, float]:
        """Each parameter's share of a step's learning rate."""
        top, shares = self.trunk.depth + 1, section.lr_scale
        rates = dict.fromkeys((name for name, _ in self.named_parameters()), shares.projector)
        for name, _ in self.trunk.named_parameters():
            below = top - self.trunk.layer_of(name) if section.layer_decay != 1 else 0
            rates[f"trunk.{name}"] = shares.trunk * section.layer_decay**below
        return rates

    def initial(self, name: str, shape: Sequence[int], seed: int) -> Tensor:
        """The initial value of one parameter of this student."""
        return self.initial_values(seed)(name, tuple(shape))

    def initial_values(self, seed: int) -> Callable[[str, tuple[int, ...]], Tensor]:
        """What each parameter starts from; the answer may hold a whole model, so let go of it soon."""
        given = {} if self.source is None else self.source()
        trunk, timms = self.trunk, self.trunk.first(seed)
        form = {"patch": trunk.patch, "channels": trunk.channels.count, "layer_scale": trunk.layer_scale}

        def value(name: str, shape: tuple[int, ...]) -> Tensor:
            if name in given:
                return self._fitted(name, given[name], shape)
            if timms is not None and name.startswith("trunk."):
                return timms(name.removeprefix("trunk."), shape)
            return initial(name, shape, seed, **form)

        return value


def build_student(
    section: sections.Student, projector: sections.Projector, dims: Mapping[str, Widths | int], size: int,
    channels: sections.Channels = sections.COLOURS,
) -> Student:  # fmt: skip
    """The whole student on meta: no memory, no values. `dims`: how wide each teacher's tokens are."""
    trunk = build_trunk(section, size, channels)
    teachers = {name: Widths.of(wide) for name, wide in dims.items()}
    with torch.device("meta"):
        head = build_projector(projector, widths=trunk.widths, prefix=trunk.prefix, teachers=teachers)
    refuse_idle_blocks(head, trunk.depth)
    return Student(trunk, head, kept_layers(section.freeze, trunk.depth))


def kept_layers(parts: Sequence[str], depth: int) -> set[int]:
    """`stem` and `blocks.0-5` as numbers of layers."""
    layers: set[int] = set()
    for part in parts:
        if part == "stem":
            layers.add(0)
            continue
        first, _, last = part.removeprefix("blocks.").partition("-")
        low, high = int(first), int(last or first)
        if not low <= high < depth:
            raise RecipeError(f"student.freeze: '{part}', and the student has blocks 0 to {depth - 1}.")
        layers |= set(range(low + 1, high + 2))
    return layers


def in_memory(module: nn.Module, device: torch.device | str) -> nn.Module:
    """Room for what was built on meta; masks and rotary tables, which have their numbers, keep them."""
    return module._apply(lambda t: torch.empty_like(t, device=device) if t.is_meta else t.to(device))


def frozen(name: str) -> bool:
    """The final norm, because the ladder reads raw blocks; and a mask token, which nothing uses."""
    return name.startswith("trunk.norm.") or name.endswith("mask_token")


def exact(name: str) -> bool:
    """Buffers that no engine may round: running statistics, and the angles of rotary positions."""
    return name.rpartition(".")[2] in RUNNING + SEEN or ".rope." in name


def initial(
    name: str, shape: Sequence[int], seed: int, *, patch: int = 16, channels: int = 3, layer_scale: float = 0.0
) -> Tensor:
    """One parameter's initial value in fp32 on the CPU: a function of (seed, name), whatever the world or engine."""
    value = torch.empty(tuple(shape))
    generator = torch.Generator().manual_seed(rng.key(seed, rng.Purpose.INIT, _number(name)))
    parent, _, leaf = name.rpartition(".")
    if "patch_embed.proj" in parent:
        # torch's default for convolutions, of which the bias's depends on the weight's fan-in
        bound = 1 / math.sqrt(channels * patch * patch if leaf == "bias" else math.prod(shape[1:]))
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
