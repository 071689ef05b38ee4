"""The frozen teachers at work: pixels in each one's own terms, tokens on the student's grid, standardised."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unicscale.contracts import Features, TeacherSpec, normalise
from unicscale.engine import Engine, fill, is_sharded
from unicscale.engine.units import compile_units
from unicscale.errors import RecipeError, TeacherError
from unicscale.objective.standardize import update
from unicscale.objective.standardizers import make_standardizer
from unicscale.ranks.voice import say
from unicscale.ranks.world import World
from unicscale.recipe.sections import EngineSection, Standardize, TeacherSection
from unicscale.teacher import fp8
from unicscale.teacher.described import describe
from unicscale.teacher.frozen import DTYPES, Frozen, cast, frozen_of, state_of


class Teachers:
    """All of a run's teachers; holds no weights that a checkpoint would want, only running statistics."""

    def __init__(
        self, frozen: dict[str, Frozen], placed: Mapping[str, nn.Module], policies: Mapping[str, str | int],
        standardize: Standardize, student_patch: int, device: torch.device, world: World | None,
    ) -> None:  # fmt: skip
        self.frozen, self.placed, self.policies, self.world = frozen, placed, policies, world
        self.student_patch = student_patch
        self.dims = {name: f.spec.dim for name, f in frozen.items()}
        self.statistics = nn.ModuleDict(
            {
                f"{name}/{kind}": make_standardizer(standardize, dim, (name, kind))
                for name, dim in self.dims.items()
                for kind in Features._fields
            }
        ).to(device)
        self._broken = {name: torch.zeros((), dtype=torch.bool, device=device) for name in frozen}
        sharded = any(is_sharded(p) for f in frozen.values() for p in f.parameters())
        # sharded parameters are rebuilt in place around each forward, which inference tensors do not allow
        self._without_graph = torch.no_grad if sharded else torch.inference_mode

    @classmethod
    def build(
        cls, sections: Mapping[str, TeacherSection], standardize: Standardize, *,
        student_patch: int, engine: Engine, engine_section: EngineSection, world: World,
    ) -> Teachers:  # fmt: skip
        """Find, build, place and fill every teacher; rank 0 reads, the others receive."""
        frozen, placed = {}, {}
        for name, section in sections.items():
            one = frozen[name] = frozen_of(name, section)
            placed[name] = _place(one, section, engine, engine_section, world)
        policies = {name: section.resolution for name, section in sections.items()}
        return cls(frozen, placed, policies, standardize, student_patch, world.device, world)

    @staticmethod
    def survey(
        sections: Mapping[str, TeacherSection], *, student_patch: int, sizes: Iterable[int], world: World
    ) -> None:
        """Refuse what can be refused before anything is built: options, sizes, and files that do not fit."""
        for name, section in sections.items():
            one = frozen_of(name, section)
            for size in sizes:
                input_size(one.spec, section.resolution, size, student_patch, name)
            _together(world, lambda one=one, section=section: state_of(one, section))

    @staticmethod
    def dims_of(sections: Mapping[str, TeacherSection]) -> dict[str, int]:
        """Each teacher's width, without building it."""
        return {name: describe(name, section).spec.dim for name, section in sections.items()}

    def __call__(self, images: Tensor, *, observe: bool = True) -> dict[str, Features]:
        """Standardised targets on the student's grid of uint8 images (B, 3, H, W); the statistics see them.

        With `observe=False`, for validation, they do not.
        """
        size = images.shape[-1]
        grid = size // self.student_patch
        prepared: dict[Any, Tensor] = {}
        targets: dict[str, Features] = {}
        for name, one in self.frozen.items():
            side = input_size(one.spec, self.policies[name], size, self.student_patch, name)
            with self._without_graph():
                raw = self.placed[name](_pixels(images, one.spec, side, prepared))
            # copied outside of inference mode: the loss saves its targets for backward
            summary = raw.summary.to(torch.float32, copy=True)
            patches = on_grid(raw.patches.to(torch.float32, copy=True), grid)
            finite = torch.isfinite(summary).all() & torch.isfinite(patches).all()
            self._broken[name] |= ~finite
            targets[name] = Features(
                self._standardise(name, "summary", summary, observe),
                self._standardise(name, "patches", patches, observe),
            )
        return targets

    def _standardise(self, name: str, kind: str, tokens: Tensor, observe: bool) -> Tensor:
        statistics: Any = self.statistics[f"{name}/{kind}"]
        if observe:
            statistics.observe(tokens)
        return statistics.normalise(tokens)  # with what was known before this batch

    def update(self, momentum: float) -> None:
        """Once per optimiser step: merge what all ranks observed into the running statistics."""
        standardizers: list[Any] = list(self.statistics.values())
        update(standardizers, momentum, self.world)

    def broken(self) -> dict[str, Tensor]:
        """Which teachers gave non-finite tokens since the run began; still on the device."""
        return dict(self._broken)

    def state_dict(self) -> dict[str, Tensor]:
        """The running statistics; never the frozen weights."""
        return self.statistics.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Strict."""
        self.statistics.load_state_dict(state)


def _place(one: Frozen, section: TeacherSection, engine: Engine, defaults: EngineSection, world: World) -> nn.Module:
    """Cast, shard and fill one teacher; rank 0 reads, the others receive."""
    started = time.monotonic()
    dtype = defaults.dtype if section.dtype == "auto" else section.dtype
    cast(one.module, DTYPES["bf16" if dtype == "fp8" else dtype])
    count = sum(p.numel() for p in one.parameters())
    state = _together(world, lambda: state_of(one, section))
    if defaults.compile if section.compile is None else section.compile:
        compile_units(one)
    placed = engine.shard_teacher(one, section.shard)
    fill(one.module, state, world)
    if dtype == "fp8":
        fp8.quantise(one, world.device)
    took = time.monotonic() - started
    source = "random weights" if section.weights == "random" else section.weights
    say.info(
        "teacher %s: %d wide, %.0f M parameters in %s, %s, from %s, %.1f s",
        one.name, one.spec.dim, count / 1e6, dtype, one.spec.licence, source, took,
    )  # fmt: skip
    return placed


# --- pixels and tokens ----------------------------------------------------------------------------


def _pixels(images: Tensor, spec: TeacherSpec, side: int, prepared: dict[Any, Tensor]) -> Tensor:
    """Normalised once per distinct mean and deviation, resized once per size of it."""
    colours = (spec.mean, spec.std)
    if colours not in prepared:
        prepared[colours] = normalise(images, *colours)
    if side == images.shape[-1]:
        return prepared[colours]
    if (colours, side) not in prepared:
        prepared[colours, side] = F.interpolate(prepared[colours], (side, side), mode="bicubic", antialias=True)
    return prepared[colours, side]


def input_size(spec: TeacherSpec, policy: str | int, size: int, student_patch: int, name: str) -> int:
    """How many pixels this teacher is shown when the student sees `size`."""
    if policy == "native":
        return spec.size
    wanted = {"same_grid": size // student_patch * spec.patch, "student": size}.get(str(policy), policy)
    wanted = int(wanted)
    if spec.fixed_size and wanted != spec.size:
        if policy == "same_grid":
            return spec.size  # its patch map is resized instead
        raise RecipeError(
            f"'teachers.{name}.resolution': this teacher understands {spec.size} pixels only, not {wanted}."
        )
    if wanted % spec.patch:
        raise RecipeError(
            f"'teachers.{name}.resolution': {wanted} pixels are no multiple of its patch of {spec.patch}.\n"
            "  `same_grid` shows it the size that gives the student's grid."
        )
    return wanted


def on_grid(patches: Tensor, grid: int) -> Tensor:
    """A square patch map (B, N, D), bilinearly on the student's grid: (B, grid², D)."""
    own = int(patches.shape[1] ** 0.5)
    if own == grid:
        return patches
    maps = patches.transpose(1, 2).unflatten(2, (own, own))
    return F.interpolate(maps, (grid, grid), mode="bilinear").flatten(2).transpose(1, 2)


def _together(world: World, read: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    """Read on rank 0; a refusal there is a refusal everywhere, or the others would wait for ever."""
    state: Mapping[str, Tensor] = {}
    refusal = None
    if world.main:
        try:
            state = read()
        except (TeacherError, RecipeError) as problem:
            refusal = problem
    refusal = world.broadcast_object(refusal)
    if refusal is not None:
        raise refusal
    return state
